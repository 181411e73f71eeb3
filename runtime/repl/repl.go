// Package repl is the interactive prompt: it reads statements, runs them in a
// Lua state, prints their values, and goes on after errors.
//
// What may come in: lines from a [LineReader]. A statement that ends too early
// is continued on the next line. An expression is evaluated and its values are
// printed (see [Format]); so is what follows a leading "=". The bare words exit
// and quit, and the end of input, end the loop, as os.exit does.
//
// An interrupt clears the line at the prompt. While a statement runs, the
// first ends it (see package vm). If it does not end, as a Go function that
// does not look at its context would not, the user is told so after a second,
// and from then on an interrupt calls [Options].Leave; one that comes sooner,
// of an impatient finger, means nothing.
//
// Scripts do not come here: the vm runs them whole and stops at their first
// error.
package repl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

// ErrInterrupted is what [LineReader].ReadLine gives for Ctrl-C, and the cause
// with which Ctrl-C interrupts a running statement.
var ErrInterrupted = errors.New("interrupted")

// LineReader is a source of lines and the place where everything is printed.
type LineReader interface {
	// Write prints output. It may be called from any goroutine.
	io.Writer
	// ReadLine shows the prompt and gives one line without its end: io.EOF at
	// the end of input, ErrInterrupted for Ctrl-C, ctx's cause once it is
	// cancelled (the reader is then of no further use).
	ReadLine(ctx context.Context, prompt string) (string, error)
	// Reading reports whether a ReadLine waits for keys, so that an interrupt is
	// its own business. It may be called from any goroutine.
	Reading() bool
	// Remember adds a line to the history.
	Remember(line string)
	// Notice prints a line of its own, above the prompt if one is shown. It may
	// be called from any goroutine, at any time.
	Notice(line string)
	// Close ends the reader. No ReadLine may be running.
	Close() error
}

// Options describe one loop.
type Options struct {
	VM     *vm.VM
	Lines  LineReader
	Prompt string // "walbsh> "
	// Interrupts delivers Ctrl-C as a signal, which is how it arrives while a
	// statement runs. nil if there is none.
	Interrupts <-chan os.Signal
	// Leave is called, on another goroutine than Run's, for each interrupt of a
	// statement that the user knows not to end. It is to end the process and must
	// not wait. May be nil.
	Leave func()
	// Describe prints a value in a way of its own, or reports false. May be nil.
	Describe func(lua.LValue) (string, bool)
}

// chunkName is the name of a statement in positions; they are not shown.
const chunkName = "prompt"

// patience is how long an interrupted statement may go on before the user is
// told that it has not ended.
const patience = time.Second

type loop struct {
	Options

	mu      sync.Mutex
	running bool // a statement runs
	early   bool // an interrupt came for a statement that was entered but does not run yet
	told    bool // the user was told that the running statement has not ended
}

// Run reads and runs statements until the input ends (nil), os.exit is called
// (a [*vm.ExitError]), ctx is cancelled (its cause) or nothing can be printed
// any more (the writer's error).
func Run(ctx context.Context, o Options) error {
	l := &loop{Options: o}
	stop := make(chan struct{})
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		l.watch(stop)
	}()
	err := l.loop(ctx)
	close(stop)
	<-watcher
	return err
}

// watch turns interrupts into ends of the running statement.
func (l *loop) watch(stop <-chan struct{}) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-l.Interrupts:
			if l.interrupt() {
				timer.Reset(patience)
			}
		case <-timer.C:
			if l.stubborn() {
				l.Lines.Notice("still waiting for the statement to end; Ctrl-C again leaves walbsh")
			}
		}
	}
}

// interrupt handles one interrupt and reports whether it was the first of the
// running statement.
func (l *loop) interrupt() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.running && l.VM.Interrupted() == nil:
		l.VM.Interrupt(ErrInterrupted)
		return true
	case l.running && l.told && l.Leave != nil:
		l.Leave()
	case !l.running && !l.Lines.Reading():
		l.early = true
	}
	return false
}

// stubborn reports whether a statement still runs that was interrupted. The
// user is then to be told.
func (l *loop) stubborn() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = l.running && l.VM.Interrupted() != nil
	return l.told
}

// begin and end enclose the run of a statement.
func (l *loop) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.VM.Interrupted() != nil {
		l.VM.Reset()
	}
	l.running, l.told = true, false
	if l.early {
		l.early = false
		l.VM.Interrupt(ErrInterrupted)
	}
}

func (l *loop) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
}

// forget drops an interrupt that came when nothing ran any more.
func (l *loop) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.early = false
}

func (l *loop) loop(ctx context.Context) error {
	var pending []string // the lines of an unfinished statement
	for {
		prompt := l.Prompt
		if len(pending) > 0 {
			prompt = strings.Repeat(" ", max(0, len(l.Prompt)-3)) + ">> "
		}
		l.forget()
		line, err := l.Lines.ReadLine(ctx, prompt)
		switch {
		case errors.Is(err, ErrInterrupted):
			pending = nil
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if strings.TrimSpace(line) == "" && len(pending) == 0 {
			continue
		}
		l.Lines.Remember(line)
		pending = append(pending, line)
		fn, err := l.compile(strings.Join(pending, "\n"))
		var syntax *vm.SyntaxError
		switch {
		case errors.As(err, &syntax) && syntax.Incomplete:
			continue
		case err != nil:
			err = l.fail(err)
		case fn == nil:
			return nil
		default:
			err = l.run(fn)
		}
		if err != nil {
			return err
		}
		pending = nil
	}
}

// compile makes a function of a statement or an expression; nil asks to leave.
func (l *loop) compile(statement string) (*lua.LFunction, error) {
	switch word := strings.TrimSpace(statement); word {
	case "exit", "quit":
		if l.VM.State().GetGlobal(word) == lua.LNil {
			return nil, nil
		}
	}
	expression, marked := strings.CutPrefix(strings.TrimLeft(statement, " \t"), "=")
	fn, err := l.VM.Load(chunkName, "return "+expression)
	if err == nil || marked {
		return fn, err
	}
	var syntax *vm.SyntaxError
	if errors.As(err, &syntax) && syntax.Incomplete {
		if fn, err := l.VM.Load(chunkName, statement); err == nil {
			return fn, nil
		}
		return nil, err
	}
	return l.VM.Load(chunkName, statement)
}

// run calls a statement and prints its values or its error. It gives an error
// if the loop is to end.
func (l *loop) run(fn *lua.LFunction) error {
	l.begin()
	values, err := l.VM.Call(fn)
	text := ""
	if err == nil && len(values) > 0 {
		text = l.format(values) + "\n" // may run metamethods, so it can be interrupted too
	}
	l.end()
	if err != nil {
		if exit, ok := errors.AsType[*vm.ExitError](err); ok {
			return exit
		}
		return l.fail(err)
	}
	_, err = io.WriteString(l.Lines, text)
	return err
}

func (l *loop) format(values []lua.LValue) string {
	texts := make([]string, len(values))
	separator := "\t"
	for i, v := range values {
		texts[i] = Format(l.VM, v, l.Describe)
		if strings.Contains(texts[i], "\n") {
			separator = "\n"
		}
	}
	return strings.Join(texts, separator)
}

// fail prints an error in one line, without the position in the statement,
// which is on the screen anyway. A defect of the program shows its stack. The
// error it gives is that of printing.
func (l *loop) fail(err error) error {
	var failed *vm.Error
	var interrupt *vm.InterruptError
	var syntax *vm.SyntaxError
	text := err.Error()
	switch {
	case errors.As(err, &interrupt):
		_, err := io.WriteString(l.Lines, text+"\n")
		return err
	case errors.As(err, &syntax):
		text = syntax.Message
		if syntax.Line > 1 {
			text = fmt.Sprintf("line %d: %s", syntax.Line, syntax.Message)
		}
	case errors.As(err, &failed) && strings.HasPrefix(failed.Where, chunkName+":"):
		copied := *failed
		copied.Where = ""
		text = copied.Error()
	}
	text = "error: " + strings.TrimPrefix(text, chunkName+":1: ") + "\n"
	if defect, ok := errors.AsType[*vm.PanicError](err); ok {
		text += strings.TrimSpace(defect.Stack) + "\n"
	}
	_, err = io.WriteString(l.Lines, text)
	return err
}
