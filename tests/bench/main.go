// Command bench measures walbsh as a user meets it: processes, sockets, files.
//
// Everything is compared inside one run: each measurement alternates with its
// baseline, dirty pages are flushed before each, and medians are printed with
// their spread. Absolute numbers say something about this machine only.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// options say what is measured.
type options struct {
	walbsh string // path of the binary
	dir    string // where files go
	rounds int    // pairs of each measurement
	size   int64  // of the volume that is replicated [bytes]
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.walbsh, "walbsh", "./walbsh", "binary to measure")
	flags.StringVar(&o.dir, "dir", "", "directory for files; default a temporary one")
	flags.IntVar(&o.rounds, "rounds", 7, "pairs of each measurement")
	mib := flags.Int64("mib", 1024, "size of the replicated volume in MiB")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.size = *mib << 20
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "walbsh-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	defer table.Flush()
	fmt.Fprintf(table, "what\tmedian\tlowest\thighest\tn\taim\n")
	for _, measure := range []func(context.Context, options, io.Writer) error{measureStart, measureReplication} {
		if err := measure(ctx, o, table); err != nil {
			return err
		}
	}
	return nil
}

// row prints the median of samples with its spread.
func row(w io.Writer, what, aim, format string, samples []float64) {
	s := slices.Clone(samples)
	slices.Sort(s)
	value := func(v float64) string { return fmt.Sprintf(format, v) }
	fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", what, value(s[len(s)/2]), value(s[0]), value(s[len(s)-1]), len(s), aim)
}

// timed flushes dirty pages, and gives how long do takes in seconds.
func timed(do func() error) (float64, error) {
	unix.Sync()
	begin := time.Now()
	err := do()
	return time.Since(begin).Seconds(), err
}
