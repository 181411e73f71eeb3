// Package fault kills servers at random moments of everything they do, and
// proves that nothing acknowledged is lost and nothing is left behind.
package fault

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"walbsh/tests/daemons"
)

// walbsh is the path of the binary under test.
var walbsh string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "walbsh-fault-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if walbsh, err = daemons.Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	return status
}
