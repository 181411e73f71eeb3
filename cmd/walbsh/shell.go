package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings"
	"walbsh/bindings/formats"
	"walbsh/bindings/kit"
	"walbsh/bindings/layout"
	"walbsh/bindings/walbc"
	"walbsh/runtime/repl"
	"walbsh/runtime/vm"
	"walbsh/scripts"
	"walbsh/walbcore/embed"
	"walbsh/walbcore/group"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

// shell is the face that runs Lua on a group: the prompt, a script file, a
// script from stdin, or code from the command line.
func shell(ctx context.Context, e env) int {
	a, err := parseShellArgs(e)
	if errors.Is(err, errHelp) {
		return printed(e.stdout, mainHelp)
	}
	if err != nil {
		return fail(e.stderr, err)
	}
	s := &session{env: e, shellArgs: a}
	signals, work, patience := catchSignals(ctx, e, s.abandon)
	defer signals.end()
	err = s.work(work, patience, signals)
	signals.closing()
	closing := s.close(patience)
	status := fail(e.stderr, err)
	if closing != nil {
		if failed := fail(e.stderr, closing); status == statusOK {
			status = failed
		}
	}
	return status
}

// session is one run of the shell face. Its fields are set as far as work came.
type session struct {
	env
	shellArgs

	lines    repl.LineReader // nil where there is no prompt
	complete func(line string) (candidates []string, replace int)
	vm       *vm.VM
	bars     *bars // nil where stderr is no terminal
	embedded atomic.Pointer[embed.Group]
	group    *group.Group
	volume   string // "" where the layout names none
	futures  *kit.Futures

	leaving  atomic.Bool // leave was called
	noticeMu sync.Mutex
}

// work does everything up to the end of the script or of the prompt. What it
// opened is closed by close. patience limits the bringing back where a statement
// does not end.
func (s *session) work(ctx, patience context.Context, signals *interrupts) error {
	interactive := s.keys != nil && s.file == "" && len(s.code) == 0
	if interactive {
		if err := s.openLines(ctx); err != nil {
			return err
		}
	}
	s.makeVM(ctx)
	var chunks []*lua.LFunction
	if !interactive {
		var err error
		if chunks, err = s.chunks(ctx); err != nil {
			return err
		}
	}
	if err := s.openGroup(ctx); err != nil {
		return err
	}
	describe, err := s.install(ctx)
	if err != nil {
		return err
	}
	if interactive {
		s.banner()
		signals.givePrompt()
		return repl.Run(ctx, repl.Options{
			VM: s.vm, Lines: s.lines, Prompt: "walbsh> ", Interrupts: signals.keyboard, Describe: describe,
			Leave: func() { s.leave(patience) },
		})
	}
	for _, fn := range chunks {
		if _, err := s.vm.Call(fn); err != nil {
			return err
		}
	}
	return s.futures.Wait(ctx)
}

// close ends what runs in the background, brings back what it changed, and
// closes everything. ctx limits the bringing back only.
func (s *session) close(ctx context.Context) error {
	var errs []error
	if s.futures != nil {
		s.futures.Close()
	}
	if s.group != nil {
		errs = append(errs, s.closeGroup(ctx))
	}
	s.bars.clear()
	if g := s.embedded.Load(); g != nil {
		errs = append(errs, g.Close())
	}
	if s.vm != nil {
		s.vm.Close()
	}
	if s.lines != nil {
		errs = append(errs, s.lines.Close())
	}
	return errors.Join(errs...)
}

// closeGroup ends what runs on the group and brings back what it changed.
func (s *session) closeGroup(ctx context.Context) error {
	for _, j := range s.group.Jobs().List() {
		if j.Ended.IsZero() {
			s.notice(fmt.Sprintf("job %d (%s %s) is bringing back what it changed; Ctrl-C cuts it short", j.ID, j.Op, j.Volume))
		}
	}
	return s.group.Close(ctx)
}

// leave ends the process though a statement runs that does not end. What was
// changed is brought back first, unless it is called again.
func (s *session) leave(ctx context.Context) {
	status := (&signalError{os.Interrupt}).status()
	if s.leaving.Swap(true) {
		s.abandon(status)
		return
	}
	go func() {
		_ = s.closeGroup(ctx) // what fails is told as the end of its job
		s.abandon(status)
	}()
}

// abandon ends the process at once. Only the files of a temporary group are
// taken away.
func (s *session) abandon(status int) {
	if g := s.embedded.Load(); g != nil && g.Temporary() {
		_ = os.RemoveAll(g.Dir()) // servers may still make files in it
	}
	s.exit(status)
}

// openLines opens the terminal.
func (s *session) openLines(ctx context.Context) error {
	if s.screen == nil || s.getenv("TERM") == "dumb" {
		s.lines = repl.NewPlain(&endable{ctx: ctx, in: s.stdin}, s.stdout)
		return nil
	}
	lines, err := repl.NewTerminal(repl.TerminalOptions{
		In: s.keys, Out: s.screen, History: historyFile(s.env),
		Complete: func(line string) ([]string, int) { return s.complete(line) },
	})
	if err != nil {
		return err
	}
	s.lines = lines
	return nil
}

// makeVM makes the Lua state. Operations that a statement runs report to the
// progress bar; those in the background do not.
func (s *session) makeVM(ctx context.Context) {
	if s.env.bars != nil {
		s.bars = &bars{out: s.env.bars, visible: func() bool { return s.vm.Interrupted() == nil }}
	}
	out := s.stdout
	path := []string{"."}
	if s.lines != nil {
		out = s.lines
	}
	if s.file != "" {
		path = []string{filepath.Dir(s.file), "."}
	}
	s.vm = vm.New(plan.WithObserver(ctx, s.bars.observe), vm.Options{
		Stdout: out, Stderr: s.stderr, Path: path, Args: s.scriptArgs, Hint: kit.Hint,
	})
}

// maxScript bounds a script from stdin [bytes].
const maxScript = 16 << 20

// chunks compiles what there is to run where there is no prompt.
func (s *session) chunks(ctx context.Context) ([]*lua.LFunction, error) {
	if s.file != "" {
		fn, err := s.loadScript()
		return []*lua.LFunction{fn}, err
	}
	if len(s.code) > 0 {
		var list []*lua.LFunction
		for _, code := range s.code {
			fn, err := s.vm.Load("-e", code)
			if err != nil {
				return nil, err
			}
			list = append(list, fn)
		}
		return list, nil
	}
	source, err := io.ReadAll(io.LimitReader(&endable{ctx: ctx, in: s.stdin}, maxScript+1))
	if err != nil {
		return nil, err
	}
	if len(source) > maxScript {
		return nil, usagef("", "the script from stdin has more than %d bytes", maxScript)
	}
	fn, err := s.vm.Load("stdin", string(source))
	return []*lua.LFunction{fn}, err
}

// loadScript compiles the script file, or the runbook of that name where there
// is no such file.
func (s *session) loadScript() (*lua.LFunction, error) {
	fn, err := s.vm.LoadFile(s.file)
	var syntax *vm.SyntaxError
	switch {
	case err == nil, errors.As(err, &syntax):
		return fn, err
	case errors.Is(err, fs.ErrNotExist):
		if text, ok := scripts.Read(s.file); ok {
			return s.vm.Load(s.file, text)
		}
		return nil, usagef("there are also the runbooks "+strings.Join(scripts.Names(), ", "), "%v", err)
	}
	return nil, usagef("", "%v", err)
}

// openGroup starts the embedded group or reads the layout of another, and makes
// it operable.
func (s *session) openGroup(ctx context.Context) error {
	var l group.Layout
	if s.layout != "" {
		file, err := layout.Load(ctx, s.layout)
		if err != nil {
			return asUsage(err)
		}
		l, s.volume = file.Layout, file.Volume
	} else {
		g, err := embed.Open(ctx, embed.Options{
			Dir: s.data, Size: s.size, LogSize: s.logSize, Bare: s.bare, Version: versionLine(),
		})
		if err != nil {
			return asUsage(err)
		}
		s.embedded.Store(g)
		l, s.volume = g.Layout(), g.Volume()
	}
	var err error
	s.group, err = group.New(l, group.Options{Jobs: plan.Options{OnEnd: s.jobEnded}})
	return asUsage(err)
}

// asUsage makes an error of what was given on the command line one of usage.
func asUsage(err error) error {
	if walberr.Is(err, walberr.Usage) {
		return &usageError{text: err.Error()}
	}
	return err
}

// embeddedTimeout is timeoutS on an embedded group, where nothing takes long. On
// others it is the default of the verbs.
const embeddedTimeout = time.Minute

// install gives the modules and the values that operators know to the Lua
// state.
func (s *session) install(ctx context.Context) (describe func(lua.LValue) (string, bool), err error) {
	verbs := &walbc.Session{Group: s.group, Notice: s.notice}
	registry, err := bindings.New(walbc.Module(verbs), walbc.Disk(verbs, s.volume), formats.Module())
	if err != nil {
		return nil, err
	}
	host := bindings.Host{VM: s.vm, Out: s.stdout}
	var ended func(*kit.Future)
	if s.lines != nil {
		host.Out = s.lines
		host.Confirm = func(_ context.Context, question string) (string, error) { return s.ask(ctx, question) }
		ended = s.futureEnded
	}
	s.futures = kit.NewFutures(ctx, ended)
	host.Futures = s.futures
	installed, err := registry.Install(host)
	if err != nil {
		return nil, err
	}
	s.complete = repl.Completer(s.vm, installed.Words)
	if s.volume != "" {
		s.vm.SetGlobal("vol", lua.LString(s.volume))
	}
	limit := group.DefaultTimeout
	if s.embedded.Load() != nil {
		limit = embeddedTimeout
	}
	s.vm.SetGlobal("timeoutS", lua.LNumber(limit.Seconds()))
	s.vm.SetGlobal("True", lua.LTrue)
	s.vm.SetGlobal("False", lua.LFalse)
	for server, name := range walbc.Servers(s.vm.State(), s.group.Layout()) {
		s.notice(fmt.Sprintf("the server %s is called %s here: %[1]s means something else", server, name))
	}
	return installed.Describe, nil
}

// ask asks the user who runs a statement. Ctrl-C ends the statement, not only
// the question, so that no pcall swallows it. ctx is the session's: a terminal
// is of no further use when that of a read ends.
func (s *session) ask(ctx context.Context, question string) (string, error) {
	answer, err := s.lines.ReadLine(ctx, question)
	if errors.Is(err, repl.ErrInterrupted) {
		s.vm.Interrupt(err)
	}
	return answer, err
}

// notice prints a line beside the results. It may be called from any goroutine.
func (s *session) notice(line string) {
	s.bars.clear()
	if s.lines != nil {
		s.lines.Notice(line)
		return
	}
	s.noticeMu.Lock()
	defer s.noticeMu.Unlock()
	say(s.stderr, "%s\n", line)
}

// jobEnded tells about a job whose end nobody saw.
func (s *session) jobEnded(i plan.Info) {
	if !i.Detached {
		return
	}
	what := fmt.Sprintf("job %d (%s %s) ended", i.ID, i.Op, i.Volume)
	if i.Err != nil {
		s.notice(what + ": " + oneLine(i.Err))
		return
	}
	s.notice(what)
}

// futureEnded tells about background work that ended while nobody waited.
func (s *session) futureEnded(f *kit.Future) {
	if err := f.Err(); err != nil {
		s.notice("background " + f.Name() + " failed: " + oneLine(err))
		return
	}
	s.notice("background " + f.Name() + " is done")
}
