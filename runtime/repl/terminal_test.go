package repl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// screen is the user's side of a pseudo terminal: it types, and reads what is
// printed.
type screen struct {
	t   *testing.T
	pty *os.File

	mu      sync.Mutex
	text    string
	seen    int // up to where expect has looked
	changed chan struct{}
	ended   chan struct{}
}

func newScreen(t *testing.T, f *os.File) *screen {
	t.Helper()
	s := &screen{t: t, pty: f, changed: make(chan struct{}, 1), ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			s.mu.Lock()
			s.text += string(buf[:n])
			s.mu.Unlock()
			select {
			case s.changed <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

// expect waits until text is printed behind everything expected so far.
func (s *screen) expect(text string) {
	s.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		rest := s.text[s.seen:]
		at := strings.Index(rest, text)
		if at >= 0 {
			s.seen += at + len(text)
		}
		s.mu.Unlock()
		if at >= 0 {
			return
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.Failf(s.t, "not printed", "%q in %q", text, rest)
		}
	}
}

func (s *screen) keys(text string) {
	s.t.Helper()
	_, err := io.WriteString(s.pty, text)
	require.NoError(s.t, err)
}

// startShell runs this test binary as a shell on a terminal of its own.
func startShell(t *testing.T, history string) (*screen, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childHistory+"="+history)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	require.NoError(t, err)
	s := newScreen(t, f)
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended unless the test failed
		_ = cmd.Wait()
		require.NoError(t, f.Close())
		<-s.ended
	})
	s.expect("sh> ")
	return s, cmd
}

func exitStatus(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	require.NoError(t, err)
	return 0
}

func TestLineEditingAndHistory(t *testing.T) {
	history := filepath.Join(t.TempDir(), "state", "history")
	s, cmd := startShell(t, history)

	s.keys("print('helo')")
	s.keys("\x1b[D\x1b[D\x1b[Dl\r") // three times left: the missing l
	s.expect("hello\r\n")
	s.expect("sh> ")
	s.keys("junk\x15" + "6 * 7\r") // Ctrl-U drops what was typed
	s.expect("42\r\n")
	s.keys("\x1b[A\x1b[A\r") // up twice: the first line again
	s.expect("hello\r\n")
	s.expect("sh> ")

	s.keys("for i = 1, 2 do\r")
	s.expect(" >> ")
	s.keys("print('n' .. i)\r")
	s.expect(" >> ")
	s.keys("end\r")
	s.expect("n1\r\nn2\r\n")
	s.expect("sh> ")

	s.keys("while true do\r")
	s.expect(" >> ")
	s.keys("half a line\x03") // Ctrl-C gives the whole statement up
	s.expect("^C")
	s.expect("sh> ")
	s.keys("\x1a") // Ctrl-Z is not a character
	s.keys("os.exit(5)\r")
	s.expect("bye")
	assert.Equal(t, 5, exitStatus(t, cmd))

	text, err := os.ReadFile(history)
	require.NoError(t, err)
	assert.Equal(t, "print('hello')\n6 * 7\nprint('hello')\nfor i = 1, 2 do\nprint('n' .. i)\nend\nwhile true do\nos.exit(5)\n", string(text))
	st, err := os.Stat(history)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())

	// The next session has them; Ctrl-D leaves.
	s, cmd = startShell(t, history)
	s.keys("\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r")
	s.expect("42\r\n")
	s.expect("sh> ")
	s.keys("\x04")
	s.expect("bye")
	assert.Zero(t, exitStatus(t, cmd))
}

func TestCtrlCInALongRunningCall(t *testing.T) {
	s, cmd := startShell(t, "")
	s.keys("pcall(block)\r")
	s.expect("blocking")
	s.keys("\x03")
	s.expect("interrupted")
	s.expect("sh> ")
	s.keys("block()\r")
	s.expect("blocking")
	s.keys("\x03")
	s.expect("interrupted: gave up at step 3")
	s.expect("sh> ")
	s.keys("print('go' .. 1) while true do pcall(function() while true do end end) end\r")
	s.expect("go1\r\n")
	s.keys("\x03")
	s.expect("interrupted")
	s.expect("sh> ")
	s.keys("20 + 2\r")
	s.expect("22\r\n")
	s.expect("sh> ")
	s.keys("\x00\x04") // Ctrl-Space means nothing
	s.expect("bye")
	assert.Zero(t, exitStatus(t, cmd))
}

func TestAStubbornCallIsReported(t *testing.T) {
	s, cmd := startShell(t, "")
	s.keys("deaf()\r")
	s.expect("not listening")
	s.keys("\x03")
	s.expect("Ctrl-C again leaves")
	s.keys("\x03")
	assert.Equal(t, 130, exitStatus(t, cmd))
}

func TestCompletionKey(t *testing.T) {
	s, _ := startShell(t, "")
	s.keys("tostr\t(1 + 1)\r")
	s.expect("\"2\"\r\n")
	s.keys("string.up\t('x')\r")
	s.expect("\"X\"\r\n")
	s.keys("extraord\t")
	s.expect("extraordinary")
	s.keys("\x15\t5\r") // Tab at the start of a line is white space
	s.expect("5\r\n")
	s.keys("string.\t") // several: a list
	s.expect("byte")
	s.expect("upper")
	s.keys("\x03")
	s.keys("\x03")
	s.expect("sh> ")
	s.keys("7\r")
	s.expect("7\r\n")
}

func TestNoticeAboveThePrompt(t *testing.T) {
	s, _ := startShell(t, "")
	gate := filepath.Join(t.TempDir(), "gate")
	s.keys("notice('job 1 is done', '" + gate + "')\r")
	s.expect("sh> ")
	s.keys("1 + ")
	s.expect("1 + ")
	require.NoError(t, os.WriteFile(gate, nil, 0o600))
	s.expect("job 1 is done\r\n")
	s.expect("1 + ") // the unfinished line is shown again
	s.keys("1\r")
	s.expect("2\r\n")
	s.expect("sh> ")

	// Output that did not end its line is not overwritten by the prompt.
	s.keys("io.write('half') return nil\r")
	s.expect("half")
	s.expect("sh> ")
	s.keys("io.stdout:write('a') and nil\r")
	s.expect("sh> ")
}

// inProcess runs a Terminal of this process on one end of a pseudo terminal.
func inProcess(t *testing.T, complete func(string) ([]string, int)) (*Terminal, *screen) {
	t.Helper()
	master, slave, err := pty.Open()
	require.NoError(t, err)
	term, err := NewTerminal(TerminalOptions{In: slave, Out: slave, Complete: complete})
	require.NoError(t, err)
	s := newScreen(t, master)
	t.Cleanup(func() {
		require.NoError(t, term.Close())
		require.NoError(t, slave.Close())
		require.NoError(t, master.Close())
		<-s.ended
	})
	return term, s
}

// TestTerminalEndsWithTheContext checks that a half typed line is dropped, not
// entered.
func TestTerminalEndsWithTheContext(t *testing.T) {
	term, s := inProcess(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	terminated := errors.New("terminated")
	type result struct {
		line string
		err  error
	}
	got := make(chan result)
	go func() {
		line, err := term.ReadLine(ctx, "> ")
		got <- result{line, err}
	}()
	s.expect("> ")
	s.keys("walbc.clear_vol")
	s.expect("clear_vol")
	cancel(terminated)
	r := <-got
	assert.Empty(t, r.line)
	require.ErrorIs(t, r.err, terminated)
	_, err := term.ReadLine(ctx, "> ")
	require.ErrorIs(t, err, terminated)
}

// TestTerminalWithoutSize has a terminal of no width, as some programs make
// them, and lines longer than any screen.
func TestTerminalWithoutSize(t *testing.T) {
	term, s := inProcess(t, func(string) ([]string, int) {
		return []string{strings.Repeat("a", 100), strings.Repeat("b", 100)}, 0
	})
	line := strings.Repeat("x", 200)
	got := make(chan string)
	go func() {
		text, err := term.ReadLine(t.Context(), "> ")
		assert.NoError(t, err)
		got <- text
	}()
	s.expect("> ")
	s.keys(line + "\t\t\x01\x05\r") // completions too wide for the screen, then both ends of the line
	assert.Equal(t, line, <-got)
}

// TestNoticesNeverGarble sends notices from several goroutines while lines are
// typed and checks that every one comes whole and every line arrives.
func TestNoticesNeverGarble(t *testing.T) {
	term, s := inProcess(t, nil)
	const lines, notices = 20, 50
	got := make(chan string, lines)
	go func() {
		for range lines {
			text, err := term.ReadLine(t.Context(), "> ")
			assert.NoError(t, err)
			got <- text
		}
	}()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range notices {
				term.Notice("[job done]")
			}
		})
	}
	for range lines {
		s.keys("ab")
		s.keys("cd\r")
		assert.Equal(t, "abcd", <-got)
	}
	wg.Wait()
	for range 2 * notices {
		s.expect("[job done]\r\n")
	}
}
