// Package session proves the operators' session as a user meets it: the real
// binary, scripts and prompt, on an embedded group and on one of four processes
// of which each is killed. What archives restore is compared with the test's
// own model of what was written.
package session

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
	dir, err := os.MkdirTemp("", "walbsh-session-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Without it the race detector lets every process sleep for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
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
