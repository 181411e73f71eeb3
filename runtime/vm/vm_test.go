package vm

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newVM gives a state and its output.
func newVM(t *testing.T, o Options) (*VM, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	o.Stdout = &out
	v := New(t.Context(), o)
	t.Cleanup(v.Close)
	return v, &out
}

// eval runs an expression and gives its values as tostring prints them.
func eval(t *testing.T, v *VM, expr string) string {
	t.Helper()
	fn, err := v.Load("test", "return "+expr)
	require.NoError(t, err, expr)
	vals, err := v.Call(fn)
	require.NoError(t, err, expr)
	parts := make([]string, len(vals))
	for i, val := range vals {
		parts[i] = v.Text(val)
	}
	return strings.Join(parts, " ")
}

func TestSafeLibraries(t *testing.T) {
	v, out := newVM(t, Options{Args: []string{"x", "y"}, Preset: map[string]lua.LValue{"True": lua.LTrue, "False": lua.LFalse}})
	for _, gone := range []string{
		"os.execute", "os.setenv", "os.setlocale", "io.popen", "io.read", "io.stdin", "io.tmpfile", "io.output", "io.close",
		"debug.getmetatable", "debug.setmetatable", "debug.setupvalue", "debug.sethook", "package.loadlib", "string.dump",
		"newproxy", "_printregs", "channel", "package.loaded.io.popen", "package.loaded._G.newproxy",
	} {
		assert.Equal(t, "nil", eval(t, v, gone), gone)
	}
	assert.Equal(t, "true false nil", eval(t, v, "True, False, None"))
	assert.Equal(t, "x y 2", eval(t, v, "arg[1], arg[2], #arg"))
	require.NoError(t, v.Run("test", `
		print("a", nil, 1, true)
		io.write("b", 2, "\n")
		io.stdout:write("c"):write("d\n")
		assert(debug.traceback("x"):find("stack traceback"))
		assert(os.time() > 0 and os.date("%Y"))
		goto done
		error("not reached")
		::done::`))
	assert.Equal(t, "a\tnil\t1\ttrue\nb2\ncd\n", out.String())
}

func TestFilesAreRegularOnly(t *testing.T) {
	v, _ := newVM(t, Options{})
	dir := t.TempDir()
	v.SetGlobal("dir", lua.LString(dir))
	require.NoError(t, v.Run("test", `
		local f = assert(io.open(dir .. "/f", "w")); f:write("one\ntwo\n"); f:close()
		local got = {}
		for l in io.lines(dir .. "/f") do got[#got + 1] = l end
		assert(table.concat(got, ",") == "one,two")
		local f, why = io.open("/dev/zero")
		assert(f == nil and why == "/dev/zero: not a regular file", why)
		assert(not pcall(io.lines, "/dev/zero"))
		assert(not pcall(dofile, "/dev/zero"))
		local fn, why = loadfile("/dev/zero")
		assert(fn == nil and why:find("not a regular file"))
		assert(getmetatable(io.open(dir .. "/f")) == "locked")`))
}

func TestRequire(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub", "pack"), 0o755))
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	write("one.lua", `return {n = 1, name = ...}`)
	write("sub/two.lua", `return require("one").n + 1`)
	write("sub/pack/init.lua", `return "pack"`)
	write("bad.lua", "x = = 1")
	write("script.lua", "#!/usr/bin/env walbsh\nlocal x = nil\nreturn x.y")
	v, _ := newVM(t, Options{Path: []string{dir}})
	assert.Equal(t, "2 pack one true", eval(t, v, `require("sub.two"), require("sub.pack"), require("one").name, require("one") == require("one")`))
	for module, want := range map[string]string{
		"nosuch":        "module nosuch not found",
		"../one":        `"../one" is not a module name`,
		"/etc/passwd":   `"/etc/passwd" is not a module name`,
		"bad":           "bad.lua:1: syntax error near '='",
		"..":            "is not a module name",
		"sub.pack.init": "",
	} {
		err := v.Run("test", `require("`+module+`")`)
		if want == "" {
			require.NoError(t, err, module)
			continue
		}
		require.ErrorContains(t, err, want)
	}
	// A position counts the line that begins with "#".
	err := v.RunFile(filepath.Join(dir, "script.lua"))
	require.ErrorContains(t, err, "script.lua:3:")
	require.ErrorIs(t, v.RunFile(filepath.Join(dir, "nosuch.lua")), fs.ErrNotExist)
	require.ErrorContains(t, v.RunFile(dir), "not a regular file")
}

func TestSyntaxErrors(t *testing.T) {
	v, _ := newVM(t, Options{})
	for _, c := range []struct {
		source     string
		line       int
		incomplete bool
		message    string
	}{
		{"x = = 1", 1, false, "syntax error near '='"},
		{"\n\nif x then\n", 3, true, "unexpected end"},
		{"for i = 1, 3 do", 1, true, "unexpected end"},
		{"f(", 1, true, "unexpected end"},
		{"x = [[abc\ndef", 2, true, "unexpected end"},
		{"x = 'abc", 1, false, "unterminated string"},
		{"x = 'abc\ny = 2", 1, false, "unterminated string"},
		{"goto nowhere", 0, false, "nowhere"},
		{"break", 0, false, ""},
		{"x = 1 +", 1, true, "unexpected end"},
		{"--[[ a comment", 1, true, "unexpected end"},
		{"x = 3 $ 4", 1, false, "near '$'"},
	} {
		_, err := v.Load("chunk", c.source)
		var se *SyntaxError
		require.ErrorAs(t, err, &se, "%q", c.source)
		assert.Equal(t, c.incomplete, se.Incomplete, "%q: %v", c.source, err)
		assert.Contains(t, se.Message, c.message, "%q", c.source)
		assert.NotContains(t, err.Error(), "\n")
		if c.line > 0 {
			assert.Equal(t, c.line, se.Line, "%q: %v", c.source, err)
		}
	}
	// loadstring gives the same message as a value.
	assert.Equal(t, "nil cfg:1: syntax error near '='", eval(t, v, `loadstring("x = = 1", "cfg")`))
}

func TestCallGivesAllResults(t *testing.T) {
	v, _ := newVM(t, Options{})
	fn, err := v.Load("test", "return ...")
	require.NoError(t, err)
	vals, err := v.Call(fn, lua.LNumber(1), lua.LNil, lua.LString("x"))
	require.NoError(t, err)
	assert.Equal(t, []lua.LValue{lua.LNumber(1), lua.LNil, lua.LString("x")}, vals)
	assert.Zero(t, v.State().GetTop())
}

// TestStateIsRoomy unpacks more values than the library's defaults hold, and
// sees endless recursion end as an ordinary error.
func TestStateIsRoomy(t *testing.T) {
	v, _ := newVM(t, Options{})
	assert.Equal(t, "6000", eval(t, v, `(function() local t = {} for i = 1, 6000 do t[i] = i end return select("#", unpack(t)) end)()`))
	err := v.Run("test", "local function f() return 1 + f() end f()")
	require.ErrorContains(t, err, "stack overflow")
	assert.Equal(t, "2", eval(t, v, "1 + 1"))
}

func TestExitCannotBeSwallowed(t *testing.T) {
	for source, status := range map[string]int{
		"os.exit()":                           0,
		"os.exit(7)":                          7,
		"os.exit(true)":                       0,
		"os.exit(false)":                      1,
		"while true do pcall(os.exit, 9) end": 9,
		"return pcall(os.exit, 3)":            3,
		"xpcall(function() os.exit(4) end, function() while true do end end)":           4,
		"coroutine.wrap(function() os.exit(5) end)()":                                   5,
		"local c = coroutine.create(os.exit) coroutine.resume(c, 6) while true do end":  6,
		"local t = setmetatable({}, {__index = function() os.exit(8) end}) local x=t.x": 8,
	} {
		v, _ := newVM(t, Options{})
		err := v.Run("test", source)
		var exit *ExitError
		require.ErrorAs(t, err, &exit, source)
		assert.Equal(t, status, exit.Status, source)
	}
	v, _ := newVM(t, Options{})
	require.ErrorContains(t, v.Run("test", "os.exit(256)"), "an exit status is 0 to 255")
	require.NoError(t, v.Interrupted())
}

var errCtrlC = errors.New("interrupted")

// interruptAt runs a script that calls ready() and then runs for ever, and
// interrupts it there.
func interruptAt(t *testing.T, v *VM, source string) error {
	t.Helper()
	ready := make(chan struct{})
	var once bool
	v.SetGlobal("ready", v.State().NewFunction(func(*lua.LState) int {
		if !once {
			once = true
			close(ready)
		}
		return 0
	}))
	go func() {
		<-ready
		v.Interrupt(errCtrlC)
	}()
	return v.Run("test", source)
}

func TestInterruptCannotBeSwallowed(t *testing.T) {
	for name, source := range map[string]string{
		"loop":            "ready() while true do end",
		"pcall":           "ready() while true do pcall(function() while true do end end) end",
		"nested pcall":    "local function f() while true do pcall(f) end end ready() f()",
		"xpcall":          "ready() while true do xpcall(function() while true do end end, function() while true do end end) end",
		"error in pcall":  "ready() while true do pcall(error, {}) end",
		"coroutine":       "ready() coroutine.wrap(function() while true do pcall(function() while true do end end) end end)()",
		"resume":          "ready() while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
		"gsub callback":   "ready() while true do pcall(string.gsub, ('x'):rep(100), '.', function() while true do end end) end",
		"sort callback":   "ready() pcall(table.sort, {3,2,1,4,5}, function() while true do end end) while true do end",
		"metamethod":      "ready() local t = setmetatable({}, {__add = function() while true do end end}) while true do pcall(function() return t + t end) end",
		"tostring":        "ready() local t = setmetatable({}, {__tostring = function() while true do end end}) while true do pcall(print, t) end",
		"load":            "ready() while true do pcall(load, function() while true do end end) end",
		"pathological":    "ready() while true do pcall(string.find, ('a'):rep(200), ('a*'):rep(100) .. 'b') end",
		"require":         "package.preload.m = function() while true do end end ready() while true do pcall(require, 'm') end",
		"empty iteration": "ready() for _ in function() return 1 end do end",
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := newVM(t, Options{})
			err := interruptAt(t, v, source)
			var ie *InterruptError
			require.ErrorAs(t, err, &ie)
			require.ErrorIs(t, err, errCtrlC)
			assert.Equal(t, "interrupted", err.Error())

			// No Lua runs until the host resets the state.
			require.ErrorIs(t, v.Run("test", "leaked = true"), errCtrlC)
			v.Reset()
			assert.Equal(t, "nil 42", eval(t, v, "leaked, 40 + 2"))
			assert.Equal(t, "1 2", eval(t, v, "coroutine.wrap(function() coroutine.yield(1) end)(), 2"))
		})
	}
}

func TestCoroutinesOfAnOldEpochAreDead(t *testing.T) {
	v, _ := newVM(t, Options{})
	require.NoError(t, v.Run("test", "co = coroutine.create(function() coroutine.yield(1) ran = true end) coroutine.resume(co)"))
	require.NoError(t, v.Run("test", "fresh = coroutine.create(function() ran = true end)"))
	v.Interrupt(errCtrlC)
	v.Reset()
	assert.Contains(t, eval(t, v, "coroutine.resume(co)"), "false")
	assert.Contains(t, eval(t, v, "coroutine.resume(fresh)"), "false")
	assert.Equal(t, "nil", eval(t, v, "ran"))
}

func TestCoroutinesLiveAcrossLines(t *testing.T) {
	v, _ := newVM(t, Options{})
	require.NoError(t, v.Run("1", "co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)"))
	assert.Equal(t, "1", eval(t, v, "co()"))
	assert.Equal(t, "2", eval(t, v, "co()"))
}

func TestBaseContextEndsEverything(t *testing.T) {
	cause := errors.New("terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	v := New(ctx, Options{})
	defer v.Close()
	cancel(cause)
	v.Reset()
	require.ErrorIs(t, v.Run("test", "x = 1"), cause)
}

// TestGoFunctionSeesTheInterrupt blocks in Go, as a long operation does.
func TestGoFunctionSeesTheInterrupt(t *testing.T) {
	v, _ := newVM(t, Options{})
	work := errors.New("replicate_once: gave up at step 3")
	v.SetGlobal("block", v.State().NewFunction(Guard("block", func(L *lua.LState) (int, error) {
		v.Interrupt(errCtrlC)
		select {
		case <-L.Context().Done():
			return 0, work
		case <-time.After(time.Minute):
			return 0, nil
		}
	})))
	err := v.Run("test", "block()")
	require.ErrorIs(t, err, errCtrlC)
	require.ErrorIs(t, err, work)
	assert.Equal(t, "interrupted: replicate_once: gave up at step 3", err.Error())
}
