package bindings

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
	"go.uber.org/goleak"

	"walbsh/bindings/kit"
	"walbsh/runtime/repl"
	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a module with a verb of each kind. release lets wait_here go on.
func sample(release <-chan struct{}) kit.Module {
	vol := kit.Param{Name: "vol", PyName: "vol", Type: kit.String, Required: true, Doc: "the volume"}
	return kit.Module{
		Name: "walbc", Summary: "operate a backup group",
		Constants: []kit.Constant{{Name: "GID_MAX", Doc: "the all-ones gid", Value: uint64(math.MaxUint64)}},
		Verbs: []kit.Verb{
			{
				Name: "replicate_once", Summary: "replicate a volume once",
				Doc: "Copies what the source has at the time of the call, and all the snapshots in it, to the destination.\n\nFails where it cannot.", Tier: kit.Safe, Result: "the gid that was replicated",
				Params: []kit.Param{
					{Name: "a_src", PyName: "aSrc", Type: kit.String, Required: true, Doc: "the source"},
					vol,
					{Name: "timeout_s", PyName: "timeoutS", Type: kit.Seconds, Default: 24 * time.Hour, Doc: "how long it may take"},
				},
				Run: func(_ context.Context, a kit.Args) (any, error) {
					if v := kit.Get[string](a, "vol"); v != "vol" {
						return nil, &walberr.Error{Op: "replicate_once", Server: "a0", Volume: v, Code: walberr.NotFound, Found: "no such volume"}
					}
					return uint64(math.MaxUint64), nil
				},
			},
			{
				Name: "wait_here", Summary: "wait until let go", Doc: "Waits.", Tier: kit.Query, Result: "nothing",
				Run: func(ctx context.Context, _ kit.Args) (any, error) {
					select {
					case <-release:
						return "let go", nil
					case <-ctx.Done():
						return nil, context.Cause(ctx)
					}
				},
			},
			{
				Name: "clear_vol", Summary: "forget a volume", Doc: "All its data is lost.", Tier: kit.Destructive, Result: "nothing",
				Params: []kit.Param{vol},
				Run:    func(_ context.Context, a kit.Args) (any, error) { return "cleared " + kit.Get[string](a, "vol"), nil },
			},
		},
	}
}

// shell is an installed sample.
type shell struct {
	*Session
	vm       *vm.VM
	out      *bytes.Buffer
	futures  *kit.Futures
	release  chan struct{}
	answer   string // what Confirm gives, if asked is not nil
	question string
}

func newShell(t *testing.T, prompt bool) *shell {
	t.Helper()
	s := &shell{out: &bytes.Buffer{}, release: make(chan struct{}), futures: kit.NewFutures(t.Context(), nil)}
	registry, err := New(sample(s.release))
	require.NoError(t, err)
	s.vm = vm.New(t.Context(), vm.Options{Stdout: s.out, Hint: kit.Hint})
	host := Host{VM: s.vm, Futures: s.futures, Out: s.out}
	if prompt {
		host.Confirm = func(_ context.Context, question string) (string, error) {
			s.question = question
			if s.answer == "" {
				return "", repl.ErrInterrupted
			}
			return s.answer, nil
		}
	}
	s.Session, err = registry.Install(host)
	require.NoError(t, err)
	t.Cleanup(func() {
		s.futures.Close()
		s.vm.Close()
	})
	return s
}

// eval gives the first value of an expression as the prompt prints it, or the
// error.
func (s *shell) eval(t *testing.T, expr string) string {
	t.Helper()
	fn, err := s.vm.Load("test", "return "+expr)
	require.NoError(t, err, expr)
	vals, err := s.vm.Call(fn)
	switch {
	case err != nil:
		return err.Error()
	case len(vals) == 0:
		return ""
	}
	return repl.Format(s.vm, vals[0], s.Describe)
}

func TestCalls(t *testing.T) {
	s := newShell(t, false)
	for expr, want := range map[string]string{
		`walbc.replicate_once("a0", "vol")`:                          "18446744073709551615",
		`walbc:replicate_once("a0", "vol", 60)`:                      "18446744073709551615",
		`walbc.replicate_once("a0", "vol") == walbc.GID_MAX`:         "true",
		`walbc.replicate_once("a0", "nosuch")`:                       "test:1: replicate_once at a0 volume nosuch: no such volume",
		`select(2, walbc.try(walbc.replicate_once, "a0", "x")).code`: `"not_found"`,
		`select(2, walbc:try(walbc.replicate_once, "a0", "x")).code`: `"not_found"`,
		`select(2, try(walbc.replicate_once, "a0", "x")).volume`:     `"x"`,
		`walbc.replicate_once("a0")`:                                 "test:1: walbc.replicate_once: argument 2 (vol) is missing (hint: usage: replicate_once(aSrc, vol, timeoutS=86400))",
		`walbc.replicate_onec`:                                       `test:1: walbc: has no "replicate_onec" (hint: did you mean replicate_once?)`,
		`walbc.replicateOnce`:                                        `test:1: walbc: has no "replicateOnce" (hint: did you mean replicate_once?)`,
		`walbc.async.xyz`:                                            `test:1: walbc.async: has no "xyz"`,
		`walbc.replicate_once`:                                       "walbc.replicate_once(aSrc, vol, timeoutS=86400)",
		`walbc`:                                                      "walbc: operate a backup group (help(walbc) lists its 3 verbs)",
		`walbc.async.clear_vol`:                                      "walbc.async.clear_vol(vol, confirm=nil)",
		`rawget(walbc, "nosuch")`:                                    "nil",
		`{walbc.wait_here}`:                                          "{walbc.wait_here()}",
	} {
		assert.Equal(t, want, s.eval(t, expr), expr)
	}
}

func TestAsync(t *testing.T) {
	s := newShell(t, false)
	assert.Equal(t, "future wait_here (running)", s.eval(t, `(function() f = walbc.async.wait_here() return f end)()`))
	assert.Equal(t, "future wait_here (running)", s.eval(t, `(function() g = walbc.async:wait_here() return g end)()`))
	close(s.release)
	assert.Equal(t, `"let go"`, s.eval(t, "f:wait()"))
	assert.Equal(t, `{"let go", "let go"}`, s.eval(t, "walbc:parallel{f, g}"))
	assert.Equal(t, `{"let go", "let go"}`, s.eval(t, "parallel{f, g}"))
	assert.Contains(t, s.eval(t, "walbc.async.replicate_once()"), "walbc.async.replicate_once: argument 1 (aSrc) is missing", "arguments are checked at once")
	assert.Contains(t, s.eval(t, "walbc.async.clear_vol('v')"), "not confirmed")
	require.NoError(t, s.vm.Run("test", `h = walbc.async.replicate_once("a0", "x")`))
	require.ErrorContains(t, s.futures.Wait(t.Context()), "background replicate_once: replicate_once at a0 volume x: no such volume")
}

func TestVerbsHonourTheInterrupt(t *testing.T) {
	s := newShell(t, false)
	gaveUp := errors.New("interrupted")
	L := s.vm.State()
	s.vm.SetGlobal("soon", L.NewFunction(func(*lua.LState) int {
		s.vm.Interrupt(gaveUp)
		return 0
	}))
	require.ErrorIs(t, s.vm.Run("test", "pcall(soon) walbc.wait_here()"), gaveUp)
}

func TestConfirmation(t *testing.T) {
	s := newShell(t, false)
	assert.Equal(t, `test:1: walbc.clear_vol volume v: this loses data and is not confirmed (hint: add {confirm="v"})`, s.eval(t, `walbc.clear_vol("v")`))
	assert.Equal(t, `"cleared v"`, s.eval(t, `walbc.clear_vol("v", {confirm = "v"})`))
	assert.Equal(t, `"cleared v"`, s.eval(t, `walbc.clear_vol("v", "v")`))
	assert.Contains(t, s.eval(t, `walbc.clear_vol("v", {confirm = "w"})`), `the confirmation "w" is not the volume's name`)

	s = newShell(t, true)
	s.answer = "v"
	assert.Equal(t, `"cleared v"`, s.eval(t, `walbc.clear_vol("v")`))
	assert.Equal(t, "walbc.clear_vol loses data. Type the volume's name to go on: ", s.question)
	s.answer = "yes"
	assert.Contains(t, s.eval(t, `walbc.clear_vol("v")`), `the confirmation "yes" is not the volume's name (hint: nothing was changed)`)
	s.answer = ""
	assert.Contains(t, s.eval(t, `walbc.clear_vol("v")`), "interrupted")
	s.question = ""
	assert.Equal(t, `"cleared v"`, s.eval(t, `walbc.clear_vol("v", {confirm = "v"})`))
	assert.Empty(t, s.question)
}

func TestNewRefuses(t *testing.T) {
	m := sample(nil)
	_, err := New(m, m)
	require.EqualError(t, err, "module walbc is there twice")
	m.Verbs[0].Doc = ""
	m.Verbs[1].Result = ""
	_, err = New(m)
	require.EqualError(t, err, "walbc.replicate_once: no doc; walbc.wait_here: no result")

	m = sample(nil)
	m.Constants[0].Value = make(chan int)
	r, err := New(m)
	require.NoError(t, err)
	v := vm.New(t.Context(), vm.Options{})
	defer v.Close()
	_, err = r.Install(Host{VM: v, Futures: kit.NewFutures(t.Context(), nil)})
	require.ErrorContains(t, err, "walbc.GID_MAX: a chan int has no Lua form")
}

// TestHelp runs the lines of testdata/help and compares what help prints.
func TestHelp(t *testing.T) {
	s := newShell(t, false)
	datadriven.RunTest(t, filepath.Join("testdata", "help"), func(t *testing.T, d *datadriven.TestData) string {
		t.Helper()
		s.out.Reset()
		if err := s.vm.Run("test", d.Input); err != nil {
			return err.Error() + "\n"
		}
		return s.out.String()
	})
	assert.Equal(t, helpHint, s.eval(t, "help"))
	assert.Equal(t, `"walbc.clear_vol destructive walbc.clear_vol(vol, confirm=nil) forget a volume"`,
		s.eval(t, `(function() local v = help.verbs()[1] return v.name .. " " .. v.tier .. " " .. v.usage .. " " .. v.summary end)()`))
	assert.Equal(t, `{
  walbc.clear_vol(vol, confirm=nil),
  walbc.replicate_once(aSrc, vol, timeoutS=86400),
  walbc.wait_here()
}`, s.eval(t, "help.verbs()"))
}

func TestHelpThatCannotBePrinted(t *testing.T) {
	s := newShell(t, false)
	s.host.Out = closed{}
	assert.Contains(t, s.eval(t, "help()"), os.ErrClosed.Error())
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWords(t *testing.T) {
	s := newShell(t, false)
	for line, want := range map[string]int{
		"walbc.replicate_once(a0, vol, {":              6,
		"walbc.replicate_once(a0, vol, {timeoutS=5, t": 6,
		"x = walbc:replicate_once{":                    6,
		"walbc.async.replicate_once(a0, {":             6,
		"walbc.clear_vol('v', {c":                      4,
		"walbc.replicate_once(a0, ":                    0,
		"walbc.replicate_once(a0, {}":                  0,
		"walbc.replicate_once(f{":                      0,
		"walbc.replicate_once(a0, '{":                  0,
		"nosuch({":                                     0,
		"{":                                            0,
		"f(walbc.replicate_once(a0, '}', {":            6,
		"":                                             0,
		"}})":                                          0,
	} {
		assert.Len(t, s.Words(line), want, line)
	}
	complete := repl.Completer(s.vm, s.Words)
	got, n := complete("walbc.replicate_once(a0, vol, {time")
	assert.Equal(t, []string{"timeoutS=", "timeout_s="}, got)
	assert.Equal(t, 4, n)
	got, _ = complete("walbc.")
	assert.Equal(t, []string{"GID_MAX", "async", "clear_vol", "parallel", "replicate_once", "try", "wait_here"}, got)
	require.NoError(t, s.vm.Run("test", "f = walbc.async.wait_here() r = help.verbs()[1]"))
	got, _ = complete("f:")
	assert.Equal(t, []string{"cancel", "done", "name", "state", "wait"}, got)
	got, _ = complete("r.")
	assert.Equal(t, []string{"name", "result", "summary", "tier", "usage"}, got)
}
