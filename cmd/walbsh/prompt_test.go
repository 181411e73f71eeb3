package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// prompt is a shell whose stdin and stdout are a terminal.
type prompt struct {
	*process
	keys   *os.File // what the test types
	screen buffer   // what it sees
	seen   int      // how much of that it has looked at
	status chan int
}

func newPrompt(t *testing.T, args ...string) *prompt {
	t.Helper()
	master, slave, err := pty.Open()
	require.NoError(t, err)
	require.NoError(t, pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 200}))
	p := &prompt{process: newProcess(t, args...), keys: master, status: make(chan int, 1)}
	p.environ["HOME"] = t.TempDir()
	p.stdin, p.stdout = slave, slave
	p.env.keys, p.env.screen = slave, slave
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(&p.screen, master) // ends with an error when the terminal does
	}()
	t.Cleanup(func() {
		assert.NoError(t, slave.Close())
		<-ended
		assert.NoError(t, master.Close())
	})
	return p
}

func (p *prompt) start(t *testing.T) *prompt {
	t.Helper()
	go func() { p.status <- p.run(t) }()
	return p
}

// see waits until the screen shows text, behind everything seen before.
func (p *prompt) see(t *testing.T, text string) {
	t.Helper()
	at, err := p.screen.awaitFrom(t.Context(), p.seen, text)
	require.NoError(t, err)
	p.seen = at
}

func (p *prompt) enter(t *testing.T, line string) {
	t.Helper()
	_, err := p.keys.WriteString(line + "\r")
	require.NoError(t, err)
}

func TestThePromptOnAnEmbeddedGroup(t *testing.T) {
	dir := tempDir(t)
	p := newPrompt(t, "--size", "4m", "--log-size", "1m").start(t)
	p.see(t, "walbsh 0.1  embedded group: s0 → p0 → a0, a1   volume vol   data kept in "+dir+"/walbsh-")
	p.see(t, "help() lists")
	p.see(t, "walbsh> ")
	p.enter(t, "walbc.is_synchronizing(a0, vol)")
	p.see(t, "\ntrue\r\n")
	p.enter(t, "a1")
	p.see(t, "\na1 (archive 127.0.0.1:")
	p.enter(t, "walbc.replicate_once")
	p.see(t, "\nwalbc.replicate_once(aSrc, vol, aDst")
	p.enter(t, "walbc.async.replicate_once(a0, vol, a1)")
	p.see(t, "background replicate_once is done")
	p.enter(t, "walbc.replicate_once(s0, vol, a1)")
	p.see(t, "\nerror: walbc.replicate_once: argument 1 (aSrc) wants an archive server")
	_, err := p.keys.WriteString("\x04")
	require.NoError(t, err)
	assert.Equal(t, 0, <-p.status)
	assert.Empty(t, p.err.String())
	requireEmpty(t, dir)
	history, err := os.ReadFile(filepath.Join(p.environ["HOME"], ".local/state/walbsh/history"))
	require.NoError(t, err)
	assert.Contains(t, string(history), "walbc.replicate_once(s0, vol, a1)\n")
}

func TestThePromptOnAnotherGroup(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	p := newPrompt(t, "-c", layout).start(t)
	p.see(t, "walbsh 0.1  group of "+layout+": s0 → p0 → a0, a1   volume vol\r\n")
	p.enter(t, "print('on') while true do end")
	p.see(t, "\non\r\n")
	p.enter(t, "print('typed ahead')")
	p.signals <- os.Interrupt
	p.see(t, "interrupted\r\n")
	p.see(t, "\ntyped ahead\r\n")
	p.enter(t, "walbc.shutdown(a1)")
	p.enter(t, "os.exit(5)")
	assert.Equal(t, 5, <-p.status)
}

// TestCtrlCAtAQuestionEndsTheStatement: a pcall does not swallow it.
func TestCtrlCAtAQuestionEndsTheStatement(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	p := newPrompt(t, "-c", layout).start(t)
	p.see(t, "walbsh> ")
	p.enter(t, "print(pcall(walbc.clear, a0, vol)) print('swallowed')")
	p.see(t, "Type the volume's name to go on: ")
	_, err := p.keys.WriteString("\x03")
	require.NoError(t, err)
	p.see(t, "interrupted\r\n")
	p.see(t, "walbsh> ")
	assert.NotContains(t, p.screen.String(), "\nswallowed")

	// As a signal it ends what runs, and the terminal is still of use.
	p.enter(t, "walbc.clear(a0, vol)")
	p.see(t, "Type the volume's name to go on: ")
	p.signals <- os.Interrupt
	p.see(t, "still waiting for the statement to end")
	p.enter(t, "vol")
	p.see(t, "interrupted\r\n")
	p.enter(t, "1 + 1")
	p.see(t, "\n2\r\n")
	p.enter(t, "os.exit(5)")
	assert.Equal(t, 5, <-p.status)
}

func TestSignalsEndThePrompt(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	for sig, want := range map[os.Signal]int{syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		p := newPrompt(t, "-c", layout).start(t)
		p.see(t, "walbsh> ")
		p.signals <- sig
		assert.Equal(t, want, <-p.status)
	}
}

func TestADumbTerminalHasAPlainPrompt(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	p := newPrompt(t, "-c", layout)
	p.environ["TERM"] = "dumb"
	p.start(t)
	p.see(t, "walbsh> ")
	p.enter(t, "1 + 1")
	p.see(t, "\n2\r\n")
	assert.NotContains(t, p.screen.String(), "\x1b")
	p.signals <- syscall.SIGTERM
	assert.Equal(t, 143, <-p.status)
	assert.True(t, strings.HasPrefix(p.err.String(), "walbsh: terminated"))
}
