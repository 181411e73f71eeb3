package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
)

// refusal is an error with everything that scripts can see.
type refusal struct{ err error }

func (e *refusal) Error() string { return "restore at a0 volume vol:\nnot there" }
func (e *refusal) Unwrap() error { return e.err }
func (e *refusal) Code() string  { return "not_found" }
func (e *refusal) Hint() string  { return "list the snapshots" }
func (e *refusal) Fields() map[string]string {
	return map[string]string{"op": "restore", "server": "a0"}
}

func raiser(v *VM, err error) {
	v.SetGlobal("fail", v.State().NewFunction(Guard("fail", func(*lua.LState) (int, error) { return 0, err })))
}

func TestErrorKeepsItsIdentity(t *testing.T) {
	want := &refusal{err: os.ErrNotExist}
	for name, source := range map[string]string{
		"straight":         "fail()",
		"rethrown":         "local ok, e = pcall(fail) error(e)",
		"rethrown level 0": "local ok, e = pcall(fail) error(e, 0)",
		"coroutine.wrap":   "coroutine.wrap(function() fail() end)()",
		"coroutine.resume": "local ok, e = coroutine.resume(coroutine.create(fail)) error(e)",
		"xpcall":           "local ok, e = xpcall(fail, function(e) return e end) error(e)",
		"assert":           "local ok, e = pcall(fail) if not ok then error(e) end",
		"from a callback":  "string.gsub('x', '.', function() fail() end)",
		"from a metamethod": "local t = setmetatable({}, {__index = function() fail() end})" +
			" return t.x",
		"from require": "package.preload.m = function() fail() end require('m')",
	} {
		t.Run(name, func(t *testing.T) {
			v, _ := newVM(t, Options{})
			raiser(v, want)
			err := v.Run("test", source)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Same(t, want, e.Err)
			require.ErrorIs(t, err, os.ErrNotExist)
			assert.Contains(t, e.Traceback, "stack traceback")
			assert.NotContains(t, err.Error(), "\n")
			assert.Contains(t, err.Error(), "restore at a0 volume vol: not there")
		})
	}
}

func TestErrorFieldsInLua(t *testing.T) {
	v, _ := newVM(t, Options{})
	raiser(v, fmt.Errorf("while testing: %w", &refusal{err: os.ErrNotExist}))
	require.NoError(t, v.Run("script.lua", `
		local ok, e = pcall(function()
			fail()
		end)
		assert(not ok and type(e) == "userdata")
		assert(e.code == "not_found", e.code)
		assert(e.op == "restore" and e.server == "a0" and e.volume == nil and e.nosuch == nil)
		assert(e.hint == "list the snapshots")
		assert(e.message == "while testing: restore at a0 volume vol: not there", e.message)
		assert(e.where == "script.lua:3", e.where)
		assert(tostring(e) == e.message)
		assert("error: " .. e == "error: " .. e.message)
		assert(e .. "!" == e.message .. "!")
		assert(getmetatable(e) == "locked")
		assert(not pcall(setmetatable, e, {}))
		assert(not pcall(function() e.code = "ok" end))
		assert(e[1] == nil)`))
}

func TestErrorCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("x"), "internal"},
		{context.Canceled, "canceled"},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), "timeout"},
		{&refusal{}, "not_found"},
		{&PanicError{Value: 1}, "internal"},
	} {
		v, _ := newVM(t, Options{})
		raiser(v, c.err)
		assert.Equal(t, c.want, eval(t, v, "select(2, pcall(fail)).code"), "%v", c.err)
	}
}

func TestLuaErrors(t *testing.T) {
	v, _ := newVM(t, Options{Hint: func(s string) string {
		if strings.Contains(s, "attempt to compare") {
			return "use u64.lt"
		}
		return ""
	}})
	for source, want := range map[string]string{
		"error('plain')":              "test:1: plain",
		"error('plain', 0)":           "plain",
		"\nlocal x = nil\nreturn x.y": "test:3: attempt to index",
		"return 1 < {}":               "attempt to compare number with table (hint: use u64.lt)",
		"error(setmetatable({}, {__tostring = function() return 'T' end}))": "T",
		"error({})": "table: ",
		"error(setmetatable({}, {__tostring = function() error('no') end}))": "table: ",
		"error(nil)":     "nil",
		"error('a\\nb')": "test:1: a b",
	} {
		err := v.Run("test", source)
		var e *Error
		require.ErrorAs(t, err, &e, source)
		assert.Contains(t, err.Error(), want, source)
		assert.NotContains(t, err.Error(), "\n", source)
		assert.NotEmpty(t, e.Traceback)
	}
	assert.Zero(t, v.State().GetTop())
}

func TestGuardTurnsPanicsIntoErrors(t *testing.T) {
	v, _ := newVM(t, Options{})
	v.SetGlobal("boom", v.State().NewFunction(Guard("walbc.boom", func(L *lua.LState) (int, error) {
		list := []int{}
		return list[L.GetTop()], nil
	})))
	err := v.Run("test", "local ok, e = pcall(boom) error(e)")
	var p *PanicError
	require.ErrorAs(t, err, &p)
	assert.Contains(t, p.Stack, "errors_test.go")
	assert.Contains(t, err.Error(), "walbc.boom: internal error: runtime error: index out of range")
	assert.Equal(t, "true", eval(t, v, "select(2, pcall(boom)).hint:find('report') ~= nil"))

	// A Lua error inside a callback passes through a guarded function as it is.
	v.SetGlobal("callback", v.State().NewFunction(Guard("callback", func(L *lua.LState) (int, error) {
		L.Push(L.CheckFunction(1))
		L.Call(0, 0)
		return 0, nil
	})))
	raiser(v, &refusal{})
	var r *refusal
	require.ErrorAs(t, v.Run("test", "callback(fail)"), &r)
	require.ErrorContains(t, v.Run("test", "callback(1)"), "function expected")
}

func TestGuardCountsResults(t *testing.T) {
	v, _ := newVM(t, Options{})
	v.SetGlobal("two", v.State().NewFunction(Guard("two", func(L *lua.LState) (int, error) {
		L.Push(lua.LNumber(1))
		L.Push(lua.LNumber(2))
		return 2, nil
	})))
	assert.Equal(t, "1 2", eval(t, v, "two(5, 6, 7)"))
}

func TestErrorValueIsReturnedToo(t *testing.T) {
	v, _ := newVM(t, Options{})
	v.SetGlobal("try", v.State().NewFunction(func(L *lua.LState) int {
		L.Push(lua.LNil)
		L.Push(ErrorValue(L, &refusal{}))
		return 2
	}))
	assert.Equal(t, "not_found", eval(t, v, "select(2, try()).code"))
}
