// Command walbsh operates and serves WalB backup groups. `walbsh help` shows
// its faces; each is one function here, and [run] picks it.
//
// This package holds what belongs to the process and nothing else: arguments,
// environment, standard streams, signals, exit statuses, and the wiring of
// the other packages. What may come in: everything.
package main

import (
	"context"
	"os"
)

func main() { os.Exit(run(context.Background(), systemEnv(os.Exit))) } //nolint:forbidigo // the one place that ends the process
