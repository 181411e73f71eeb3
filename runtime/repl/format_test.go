package repl

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

func formatted(t *testing.T, v *vm.VM, expr string) string {
	t.Helper()
	fn, err := v.Load("test", "return "+expr)
	require.NoError(t, err, expr)
	vals, err := v.Call(fn)
	require.NoError(t, err, expr)
	return Format(v, vals[0], nil)
}

func TestFormat(t *testing.T) {
	v := vm.New(t.Context(), vm.Options{})
	defer v.Close()
	for expr, want := range map[string]string{
		`nil`:             "nil",
		`true`:            "true",
		`12`:              "12",
		`1.5`:             "1.5",
		`2^53 - 1`:        "9007199254740991",
		`"a\"b\n"`:        `"a\"b\n"`,
		`{}`:              "{}",
		`{1, "x", false}`: `{1, "x", false}`,
		`{b = 1, a = 2, [3] = 4, [true] = 5, ["x y"] = 6, ["end"] = 7}`: `{a = 2, b = 1, ["end"] = 7, ["x y"] = 6, [3] = 4, [true] = 5}`,
		`{1, 2, nil, 4}`:        "{1, 2, [4] = 4}",
		`{[1.5] = 1, [-1] = 2}`: "{[-1] = 2, [1.5] = 1}",
		`{{1}, {a = {}}}`:       "{{1}, {a = {}}}",
		`(function() local t = {} t.self = t return t end)()`:           "{self = {...}}",
		`setmetatable({}, {__tostring = function() return "T" end})`:    "T",
		`{setmetatable({1}, {__tostring = function() return "T" end})}`: "{T}",
		`{("x"):rep(50), ("y"):rep(50)}`:                                "{\n  \"" + strings.Repeat("x", 50) + "\",\n  \"" + strings.Repeat("y", 50) + "\"\n}",
		`{a = {("x"):rep(50), ("y"):rep(50)}}`:                          "{\n  a = {\n    \"" + strings.Repeat("x", 50) + "\",\n    \"" + strings.Repeat("y", 50) + "\"\n  }\n}",
	} {
		assert.Equal(t, want, formatted(t, v, expr), expr)
	}
	long := formatted(t, v, `(function() local t = {} for i = 1, 700 do t[i] = i end return t end)()`)
	assert.Contains(t, long, "... 200 more")
	deep := formatted(t, v, strings.Repeat("{", 40)+strings.Repeat("}", 40))
	assert.Contains(t, deep, "{...}")

	// The host may print a value in its own way, inside tables too.
	list := v.State().NewTable()
	list.Append(lua.LNumber(7))
	assert.Equal(t, "{#7}", Format(v, list, func(value lua.LValue) (string, bool) {
		n, ok := value.(lua.LNumber)
		return fmt.Sprintf("#%v", n), ok
	}))
}

func TestCompleter(t *testing.T) {
	v := vm.New(t.Context(), vm.Options{})
	defer v.Close()
	L := v.State()
	require.NoError(t, v.Run("test", `
		walbc = setmetatable({replicate = print, replicate_once = print, GID_MAX = 5, async = {replicate = print}},
			{__index = function() error("completion must not run code") end})
		base = {inherited = print}
		derived = setmetatable({own = print, field = 1}, {__index = base})
		name = "s"
		_hidden = 1`))
	mt := L.NewTable()
	dir := L.NewTable()
	dir.Append(lua.LString("wait"))
	dir.Append(lua.LString("done"))
	mt.RawSetString("__dir", dir)
	L.SetGlobal("future", &lua.LUserData{Metatable: mt})
	complete := Completer(v, func(line string) []string {
		if strings.Contains(line, "{") {
			return []string{"timeoutS="}
		}
		return nil
	})
	for _, c := range []struct {
		line    string
		want    []string
		replace int
	}{
		{"walbc.rep", []string{"replicate", "replicate_once"}, 3},
		{"x = walbc.replicate_", []string{"replicate_once"}, 10},
		{"walbc:", []string{"replicate", "replicate_once"}, 0},
		{"walbc.async.r", []string{"replicate"}, 1},
		{"walbc.", []string{"GID_MAX", "async", "replicate", "replicate_once"}, 0},
		{"print(wal", []string{"walbc"}, 3},
		{"fu", []string{"function", "future"}, 2},
		{"future:", []string{"done", "wait"}, 0},
		{"future:w", []string{"wait"}, 1},
		{"derived.", []string{"field", "inherited", "own"}, 0},
		{"derived:", []string{"inherited", "own"}, 0},
		{"name:up", []string{"upper"}, 2},
		{"nosuch.x", nil, 1},
		{"derived.field.x", nil, 1},
		{`print("wal`, nil, 0},
		{`print("x", wal`, []string{"walbc"}, 3},
		{"walbc.replicate({tim", []string{"timeoutS="}, 3},
		{"_hid", []string{"_hidden"}, 4},
		{"1.", nil, 0},
	} {
		got, replace := complete(c.line)
		assert.Equal(t, c.want, got, c.line)
		assert.Equal(t, c.replace, replace, c.line)
	}
	for _, nothing := range []string{"", "f(", "1 + "} {
		got, _ := complete(nothing)
		assert.Empty(t, got, nothing)
	}
	got, _ := complete("walbc.replicate({")
	assert.Equal(t, []string{"timeoutS="}, got)
}
