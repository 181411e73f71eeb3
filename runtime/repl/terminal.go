package repl

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/chzyer/readline"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// TerminalOptions describe a [Terminal].
type TerminalOptions struct {
	In, Out *os.File // the same terminal
	// History is the file that keeps the lines between sessions, "" for none. It
	// and its directory are made, readable by the user only.
	History string
	// Complete gives candidates for a line up to the cursor; see Completer. May
	// be nil.
	Complete func(line string) (candidates []string, replace int)
}

// Terminal is a [LineReader] with line editing, history and completion. The
// terminal is in raw mode only during ReadLine; at other times its keys, Ctrl-C
// included, work as usual.
type Terminal struct {
	rl       *readline.Instance
	in       *pollReader
	out      *os.File
	complete func(line string) ([]string, int)

	raw    atomic.Bool // keys come to readline, Ctrl-C included
	closed atomic.Bool // readline may print no more
	ended  bool        // readline has seen the end of input and its goroutines have ended

	resize func() // tells readline of a new width
	width  int    // the width that readline knows

	mu      sync.Mutex
	phase   phase
	mid     bool     // the last byte printed was no line's end
	notices []string // held back until they can be printed
}

// phase says what the terminal shows, and with it how a notice is printed.
type phase int

const (
	idle    phase = iota // no prompt: a notice is printed as it is
	busy                 // the prompt is being drawn or taken away: a notice waits
	waiting              // the prompt waits for a key: a notice goes above it
)

// NewTerminal makes a Terminal. Where the history file cannot be used, the
// history lives for the session only.
func NewTerminal(o TerminalOptions) (*Terminal, error) {
	in, err := newPollReader(int(o.In.Fd()))
	if err != nil {
		return nil, err
	}
	t := &Terminal{in: in, out: o.Out, complete: o.Complete}
	in.beforeRead, in.afterRead = t.promptShown, t.keysCame
	var saved *term.State
	screen := gate{to: o.Out, closed: &t.closed}
	t.rl, err = readline.NewEx(&readline.Config{
		HistoryFile:            usableHistory(o.History),
		HistoryLimit:           2000,
		DisableAutoSaveHistory: true,
		AutoComplete:           completer{t},
		Listener:               readline.FuncListener(t.beforeKey),
		Stdin:                  in,
		Stdout:                 screen,
		Stderr:                 screen,
		FuncGetWidth:           t.currentWidth,
		FuncOnWidthChanged:     func(f func()) { t.resize = f },
		FuncIsTerminal:         func() bool { return true },
		FuncMakeRaw: func() (err error) {
			if t.closed.Load() {
				return nil
			}
			saved, err = rawMode(int(o.In.Fd()))
			t.raw.Store(true)
			return err
		},
		FuncExitRaw: func() error {
			if saved == nil || t.closed.Load() {
				return nil
			}
			t.raw.Store(false)
			return term.Restore(int(o.In.Fd()), saved)
		},
		FuncFilterInputRune: func(r rune) (rune, bool) {
			// The library would stop the parent process too.
			return r, r != readline.CharCtrlZ
		},
	})
	if err != nil {
		return nil, errors.Join(err, in.release())
	}
	t.width = t.currentWidth()
	return t, nil
}

// usableHistory makes the history file, for the user only, and gives its path,
// or "" if that fails.
func usableHistory(path string) string {
	if path == "" {
		return ""
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return ""
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ""
	}
	if err := f.Close(); err != nil {
		return ""
	}
	return path
}

// rawMode lets keys come one by one and unseen, and keeps the processing of
// output, so that "\n" begins a line.
func rawMode(fd int) (*term.State, error) {
	saved, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	tio.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	tio.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	tio.Cc[unix.VMIN], tio.Cc[unix.VTIME] = 1, 0
	return saved, unix.IoctlSetTermios(fd, unix.TCSETS, tio)
}

// currentWidth is the terminal's width in columns; a sane one where it is not
// known.
func (t *Terminal) currentWidth() int {
	w, _, err := term.GetSize(int(t.out.Fd()))
	if err != nil || w < 2 {
		return 80
	}
	return w
}

// beforeKey runs before the prompt is drawn and behind every key.
func (t *Terminal) beforeKey([]rune, int, rune) ([]rune, int, bool) {
	if w := t.currentWidth(); w != t.width && t.resize != nil {
		t.width = w
		t.resize()
	}
	return nil, 0, false
}

// Write prints.
func (t *Terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(p)
}

func (t *Terminal) write(p []byte) (int, error) {
	if len(p) > 0 {
		t.mid = p[len(p)-1] != '\n'
	}
	return t.out.Write(p)
}

// ReadLine shows the prompt and reads a line. A line that is not finished
// when ctx is cancelled is dropped.
func (t *Terminal) ReadLine(ctx context.Context, prompt string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	t.mu.Lock()
	if t.mid {
		_, _ = t.write([]byte("\n")) // unfinished output stays readable
	}
	t.phase = busy
	t.mu.Unlock()
	defer t.promptGone()

	unhook := context.AfterFunc(ctx, t.in.wake)
	defer unhook()
	t.rl.SetPrompt(prompt)
	line, err := t.rl.Readline()
	t.ended = t.ended || errors.Is(err, io.EOF) && t.in.atEnd.Load()
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, readline.ErrInterrupt):
		return "", ErrInterrupted
	}
	return line, err
}

// promptShown is called when readline waits for keys.
func (t *Terminal) promptShown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == busy {
		t.phase = waiting
	}
	for _, n := range t.notices {
		t.above(n)
	}
	t.notices = nil
}

// keysCame is called when keys were read, of which one may end the line.
func (t *Terminal) keysCame() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == waiting {
		t.phase = busy
	}
}

// promptGone is called when a line was read.
func (t *Terminal) promptGone() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.mid = idle, false
	for _, n := range t.notices {
		_, _ = t.write([]byte(n + "\n"))
	}
	t.notices = nil
}

// above prints a line above the prompt.
func (t *Terminal) above(line string) {
	_, _ = t.rl.Stdout().Write([]byte(line + "\n"))
}

// Notice prints a line, above the prompt if one is shown.
func (t *Terminal) Notice(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.phase {
	case waiting:
		t.above(line)
	case busy:
		t.notices = append(t.notices, line)
	case idle:
		if t.mid {
			line = "\n" + line
		}
		_, _ = t.write([]byte(line + "\n"))
	}
}

// Reading reports whether keys go to ReadLine, and with them Ctrl-C.
func (t *Terminal) Reading() bool { return t.raw.Load() }

// Remember adds a line to the history and its file.
func (t *Terminal) Remember(line string) {
	_ = t.rl.SaveHistory(line) // the file is a convenience; the session keeps the line
}

// Close gives the terminal back as it was.
func (t *Terminal) Close() error {
	// Not Instance.Close: it can leave a goroutine that waits for ever to report
	// the end of input. Here that report is taken, which shows that it ended.
	t.in.wake()
	err := errors.Join(t.rl.Config.Stdin.Close(), t.rl.Terminal.Close())
	t.closed.Store(true)
	for !t.ended {
		_, rerr := t.rl.Readline()
		t.ended = errors.Is(rerr, io.EOF)
	}
	t.rl.Operation.Close() // closes the history file
	return errors.Join(err, t.in.release())
}

// gate is where readline prints, until the terminal is closed.
type gate struct {
	to     io.Writer
	closed *atomic.Bool
}

// Write prints, or pretends to.
func (g gate) Write(p []byte) (int, error) {
	if g.closed.Load() {
		return len(p), nil
	}
	return g.to.Write(p)
}

// completer adapts the completion to readline, which wants the rest of each
// word.
type completer struct{ t *Terminal }

// Do gives what can stand behind the cursor.
func (c completer) Do(line []rune, pos int) (rest [][]rune, length int) {
	head := string(line[:pos])
	if blank(head) {
		return [][]rune{[]rune("    ")}, 0
	}
	if c.t.complete == nil {
		return nil, 0
	}
	words, replace := c.t.complete(head)
	longest := 0
	for _, w := range words {
		longest = max(longest, len(w))
		rest = append(rest, []rune(w[replace:]))
	}
	if len(rest) > 1 && longest+2 > c.t.width {
		// The library cannot show words that are wider than the screen.
		return nil, 0
	}
	return rest, replace
}

func blank(s string) bool {
	for _, r := range s {
		if r != ' ' && r != '\t' {
			return false
		}
	}
	return true
}
