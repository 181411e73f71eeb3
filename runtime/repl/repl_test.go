package repl

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

// scripted is a LineReader that plays given lines and records what is printed.
type scripted struct {
	bytes.Buffer
	lines      []string // "^C" is an interrupt
	prompts    []string
	remembered []string
	noticed    chan string // takes notices; nil prints them
}

func (s *scripted) ReadLine(ctx context.Context, prompt string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	s.prompts = append(s.prompts, prompt)
	if len(s.lines) == 0 {
		return "", io.EOF
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	if line == "^C" {
		return "", ErrInterrupted
	}
	return line, nil
}
func (s *scripted) Remember(line string) { s.remembered = append(s.remembered, line) }
func (s *scripted) Notice(line string) {
	if s.noticed == nil {
		s.WriteString(line + "\n")
		return
	}
	s.noticed <- line
}
func (s *scripted) Close() error  { return nil }
func (s *scripted) Reading() bool { return false }

// session runs lines through the loop and gives what was printed.
func session(t *testing.T, lines ...string) (string, *scripted, error) {
	t.Helper()
	s := &scripted{lines: lines}
	v := vm.New(t.Context(), vm.Options{Stdout: s, Preset: map[string]lua.LValue{"True": lua.LTrue}})
	t.Cleanup(v.Close)
	err := Run(t.Context(), Options{VM: v, Lines: s, Prompt: "walbsh> "})
	return s.String(), s, err
}

func TestExpressionsArePrinted(t *testing.T) {
	for line, want := range map[string]string{
		`1 + 1`:                        "2\n",
		`= 1 + 1`:                      "2\n",
		`=1, nil, "x"`:                 "1\tnil\t\"x\"\n",
		`True`:                         "true\n",
		`x`:                            "nil\n",
		`x = 1`:                        "",
		`print("hi")`:                  "hi\n",
		`(function() end)()`:           "",
		`("x"):rep(3)`:                 "\"xxx\"\n",
		`{1, 2, a = "b"}`:              "{1, 2, a = \"b\"}\n",
		`for i = 1, 2 do print(i) end`: "1\n2\n",
		`isSynchronizing = True`:       "",
		`-- a comment`:                 "",
		`   `:                          "",
		`return 5`:                     "5\n",
		`x = = 1`:                      "error: syntax error near '='\n",
		`= = 1`:                        "error: syntax error near '='\n",
		`error("no")`:                  "error: no\n",
		`error({})`:                    "error: table",
		`nosuch.x = 1`:                 "error: attempt to index",
		`setmetatable({}, {__tostring = function() return "T!" end})`: "T!\n",
		`setmetatable({}, {__tostring = function() error("no") end})`: "table: ",
	} {
		out, _, err := session(t, line)
		require.NoError(t, err)
		if strings.HasSuffix(want, "\n") || want == "" {
			assert.Equal(t, want, out, line)
		} else {
			assert.Contains(t, out, want, line)
		}
	}
}

func TestContinuation(t *testing.T) {
	out, s, err := session(t, "for i = 1, 2 do", "", "print(i)", "end", "{1,", "2}", "f = [[a", "b]]", "f", "1 +", "2")
	require.NoError(t, err)
	assert.Equal(t, "1\n2\n{1, 2}\n\"a\\nb\"\n3\n", out)
	assert.Equal(t, []string{
		"walbsh> ", "     >> ", "     >> ", "     >> ", "walbsh> ", "     >> ", "walbsh> ", "     >> ", "walbsh> ", "walbsh> ", "     >> ", "walbsh> ",
	}, s.prompts)
	assert.Equal(t, []string{"for i = 1, 2 do", "", "print(i)", "end", "{1,", "2}", "f = [[a", "b]]", "f", "1 +", "2"}, s.remembered)

	// A fault further on says in which line.
	out, _, err = session(t, "if true then", "x = = 1")
	require.NoError(t, err)
	assert.Equal(t, "error: line 2: syntax error near '='\n", out)
}

func TestInterruptAtThePromptDropsTheStatement(t *testing.T) {
	out, s, err := session(t, "for i = 1, 2 do", "^C", "1", "^C", "2")
	require.NoError(t, err)
	assert.Equal(t, "1\n2\n", out)
	assert.Equal(t, "walbsh> ", s.prompts[2])
}

func TestLeaving(t *testing.T) {
	for line, status := range map[string]int{"os.exit(3)": 3, "pcall(os.exit, 4)": 4} {
		out, _, err := session(t, line, "print('not reached')")
		var exit *vm.ExitError
		require.ErrorAs(t, err, &exit)
		assert.Equal(t, status, exit.Status)
		assert.Empty(t, out)
	}
	for _, line := range []string{"exit", "quit", " exit "} {
		out, _, err := session(t, line, "print('not reached')")
		require.NoError(t, err)
		assert.Empty(t, out)
	}
	out, _, err := session(t, "exit = 5", "exit")
	require.NoError(t, err)
	assert.Equal(t, "5\n", out)

	ctx, cancel := context.WithCancelCause(t.Context())
	terminated := errors.New("terminated")
	cancel(terminated)
	v := vm.New(t.Context(), vm.Options{})
	defer v.Close()
	require.ErrorIs(t, Run(ctx, Options{VM: v, Lines: &scripted{lines: []string{"1"}}}), terminated)
}

func TestErrorsGoOn(t *testing.T) {
	s := &scripted{lines: []string{"fail()", "local x = nil", "", "boom()", "7"}}
	v := vm.New(t.Context(), vm.Options{Stdout: s})
	defer v.Close()
	v.SetGlobal("fail", v.State().NewFunction(vm.Guard("fail", func(*lua.LState) (int, error) {
		return 0, errors.New("restore at a0: no such snapshot (hint: list them)")
	})))
	v.SetGlobal("boom", v.State().NewFunction(vm.Guard("boom", func(*lua.LState) (int, error) { panic("a defect") })))
	require.NoError(t, Run(t.Context(), Options{VM: v, Lines: s, Prompt: "> "}))
	assert.True(t, strings.HasPrefix(s.String(), "error: restore at a0: no such snapshot (hint: list them)\nerror: boom: internal error: a defect\n"), s.String())
	assert.Contains(t, s.String(), "repl_test.go", "a defect shows its stack")
	assert.True(t, strings.HasSuffix(s.String(), "\n7\n"))
}

// TestInterrupts sends signals by hand, as cmd passes them on.
func TestInterrupts(t *testing.T) {
	interrupts := make(chan os.Signal)
	s := &scripted{lines: []string{"block()", "while true do pcall(spin) end", "co = 8", "co"}}
	v := vm.New(t.Context(), vm.Options{Stdout: s})
	defer v.Close()
	started := make(chan string, 10)
	v.SetGlobal("block", v.State().NewFunction(vm.Guard("block", func(L *lua.LState) (int, error) {
		started <- "block"
		<-L.Context().Done()
		return 0, errors.New("gave up at step 3")
	})))
	spun := false
	v.SetGlobal("spin", v.State().NewFunction(func(L *lua.LState) int {
		if !spun {
			spun = true
			started <- "spin"
		}
		return 0
	}))
	done := make(chan error)
	go func() { done <- Run(t.Context(), Options{VM: v, Lines: s, Prompt: "> ", Interrupts: interrupts}) }()
	for range 2 {
		<-started
		interrupts <- os.Interrupt
	}
	require.NoError(t, <-done)
	assert.Equal(t, "interrupted: gave up at step 3\ninterrupted\n8\n", s.String())
}

// TestInterruptBeforeTheStatementRuns has Ctrl-C come when the line was
// entered and nothing runs yet.
func TestInterruptBeforeTheStatementRuns(t *testing.T) {
	l := &loop{Options: Options{Lines: &scripted{}, VM: vm.New(t.Context(), vm.Options{})}}
	defer l.VM.Close()
	assert.False(t, l.interrupt())
	l.begin()
	require.ErrorIs(t, l.VM.Interrupted(), ErrInterrupted)
	l.end()

	// One that came when the statement had just ended means nothing.
	assert.False(t, l.interrupt())
	l.forget()
	l.begin()
	require.NoError(t, l.VM.Interrupted())
	assert.True(t, l.interrupt())
	assert.True(t, l.stubborn())
	l.end()
	assert.False(t, l.stubborn())
}

// TestInterruptLeavesAStatementThatDoesNotEnd: not by a finger that hits twice,
// but once the user knows.
func TestInterruptLeavesAStatementThatDoesNotEnd(t *testing.T) {
	interrupts := make(chan os.Signal)
	left, started, told := make(chan struct{}), make(chan struct{}), make(chan string, 1)
	s := &scripted{lines: []string{"deaf()"}, noticed: told}
	v := vm.New(t.Context(), vm.Options{Stdout: s})
	defer v.Close()
	v.SetGlobal("deaf", v.State().NewFunction(func(*lua.LState) int {
		close(started)
		<-left // in the real shell the process ends here
		return 0
	}))
	done := make(chan error)
	go func() {
		done <- Run(t.Context(), Options{VM: v, Lines: s, Prompt: "> ", Interrupts: interrupts, Leave: func() { close(left) }})
	}()
	<-started
	for range 3 {
		interrupts <- os.Interrupt
	}
	assert.Contains(t, <-told, "still waiting")
	select {
	case <-left:
		assert.Fail(t, "an impatient finger left")
	default:
	}
	interrupts <- os.Interrupt
	require.NoError(t, <-done)
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	p := NewPlain(strings.NewReader("x = 20\r\nio.write('a')\nx + 1\nx"), &out)
	v := vm.New(t.Context(), vm.Options{Stdout: p})
	defer v.Close()
	require.NoError(t, Run(t.Context(), Options{VM: v, Lines: p, Prompt: "> "}))
	assert.Equal(t, "> > aio.stdout\n> 21\n> 20\n> ", out.String())
	p.Notice("job 1 is done")
	assert.True(t, strings.HasSuffix(out.String(), "> \njob 1 is done\n"), "a notice has a line of its own")
	require.NoError(t, p.Close())
}
