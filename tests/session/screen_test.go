package session

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what takes a moment.
const patience = 30 * time.Second

const prompt = "walbsh> "

// redrawn is a prompt that is drawn over by the next key.
var redrawn = regexp.MustCompile(`\x1b\[J\x1b\[2K\r[^\n\x1b]*(\x1b\[J\x1b\[2K)`)

// screen is an operator at a terminal on which walbsh runs.
type screen struct {
	t   *testing.T
	cmd *exec.Cmd
	pty *os.File

	mu      sync.Mutex
	text    string
	seen    int // up to where expect has looked
	changed chan struct{}
	ended   chan struct{}
}

// openPrompt starts walbsh on a terminal and waits for its prompt.
func openPrompt(t *testing.T, home string, args ...string) *screen {
	t.Helper()
	cmd := exec.Command(walbsh, args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_STATE_HOME=", "TERM=xterm")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	require.NoError(t, err)
	s := &screen{t: t, cmd: cmd, pty: f, changed: make(chan struct{}, 1), ended: make(chan struct{})}
	go s.watch()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended unless the test failed
		_ = cmd.Wait()
		require.NoError(t, f.Close())
		<-s.ended
		if t.Failed() {
			t.Logf("the screen:\n%s", redrawn.ReplaceAllString(s.text, ""))
		}
	})
	s.expect(prompt)
	return s
}

// watch takes what is printed.
func (s *screen) watch() {
	defer close(s.ended)
	buf := make([]byte, 4096)
	for {
		n, err := s.pty.Read(buf)
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
}

// expect waits until the pattern is printed behind everything that was expected
// so far, and gives what it matched.
func (s *screen) expect(pattern string) string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		rest := s.text[s.seen:]
		at := re.FindStringIndex(rest)
		if at != nil {
			s.seen += at[1]
		}
		s.mu.Unlock()
		if at != nil {
			return rest[at[0]:at[1]]
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.Failf(s.t, "not printed", "%q in %q", pattern, rest)
		}
	}
}

// line waits for a line that the pattern matches as a whole.
func (s *screen) line(pattern string) string {
	s.t.Helper()
	return s.expect(`(?m)(^|\r)` + pattern + `\r$`) // behind a progress bar, which \r takes away
}

// keys types.
func (s *screen) keys(text string) {
	s.t.Helper()
	_, err := io.WriteString(s.pty, text)
	require.NoError(s.t, err)
}

// enter types a line and waits for the end of its echo.
func (s *screen) enter(line string) {
	s.t.Helper()
	s.keys(line + "\r")
	s.expect(regexp.QuoteMeta(line))
	s.expect("\r\n|\n")
}

// leave waits for the end of walbsh and gives its status.
func (s *screen) leave() int {
	s.t.Helper()
	err := s.cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	require.NoError(s.t, err)
	return 0
}
