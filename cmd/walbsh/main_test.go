package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"walbsh": main})
}

// leakChecked fails when the tests leave goroutines behind.
type leakChecked struct{ m *testing.M }

func (c leakChecked) Run() int {
	status := c.m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			status = 1
		}
	}
	return status
}

// process is an [env] that a test looks into.
type process struct {
	env
	environ map[string]string
	out     buffer
	err     buffer
	signals chan os.Signal
	exited  chan int
}

// newProcess makes one with the given arguments. Its stdin is empty; temporary
// groups are made in a directory of the test.
func newProcess(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{environ: map[string]string{}, signals: make(chan os.Signal, 4), exited: make(chan int, 1)}
	p.env = env{
		args:     args,
		getenv:   func(name string) string { return p.environ[name] },
		stdin:    strings.NewReader(""),
		stdout:   &p.out,
		stderr:   &p.err,
		hostname: func() (string, error) { return "", errors.New("no name") },
		notify:   func(...os.Signal) (<-chan os.Signal, func()) { return p.signals, func() {} },
		exit:     func(status int) { p.exited <- status },
	}
	return p
}

func (p *process) run(t *testing.T) int {
	t.Helper()
	return run(t.Context(), p.env)
}

// runWalbsh runs a command line to its end.
func runWalbsh(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := newProcess(t, args...)
	status = p.run(t)
	return status, p.out.String(), p.err.String()
}

// tempDir makes a directory that is TMPDIR, too.
func tempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func writeFile(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// buffer is a bytes.Buffer for many goroutines, on whose content a test can
// wait.
type buffer struct {
	mu      sync.Mutex
	data    bytes.Buffer
	changed chan struct{}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// await waits until the buffer holds text.
func (b *buffer) await(ctx context.Context, text string) error {
	_, err := b.awaitFrom(ctx, 0, text)
	return err
}

// awaitFrom waits until the buffer holds text behind the offset from, and gives
// the offset behind text.
func (b *buffer) awaitFrom(ctx context.Context, from int, text string) (int, error) {
	for {
		b.mu.Lock()
		rest := b.data.String()[from:]
		if at := strings.Index(rest, text); at >= 0 {
			b.mu.Unlock()
			return from + at + len(text), nil
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return from, fmt.Errorf("%q was not printed; there is %q", text, rest)
		case <-time.After(20 * time.Second):
			return from, fmt.Errorf("%q was not printed in time; there is %q", text, rest)
		}
	}
}
