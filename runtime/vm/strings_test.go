package vm

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
)

// TestStringFunctions holds results of the reference implementation of Lua
// 5.1, as its manual and its usual idioms promise them.
func TestStringFunctions(t *testing.T) {
	v, _ := newVM(t, Options{})
	for expr, want := range map[string]string{
		`("hello world"):find("wor")`:                         "7 9",
		`("hello"):find("l+")`:                                "3 4",
		`("hello"):find("(l)(l)")`:                            "3 4 l l",
		`("hello"):find("xyz")`:                               "nil",
		`("a.b"):find(".", 1, true)`:                          "2 2",
		`("a.b"):find("%.")`:                                  "2 2",
		`("hello"):find("")`:                                  "1 0",
		`("hello"):find("", 10)`:                              "6 5",
		`("hello"):find("l", -2)`:                             "4 4",
		`("hello"):find("h", -100)`:                           "1 1",
		`("key = value"):match("^(%w+)%s*=%s*(%w+)$")`:        "key value",
		`("2024-05-06"):match("(%d+)-(%d+)-(%d+)")`:           "2024 05 06",
		`("hello"):match("()ll()")`:                           "3 5",
		`("hello"):match("z")`:                                "nil",
		`("  trim  "):match("^%s*(.-)%s*$")`:                  "trim",
		`("f(a(b)c)d"):match("%b()")`:                         "(a(b)c)",
		`("THE (quick) fox"):find("%((%a+)%)")`:               "5 11 quick",
		`([["it's"]]):match([[(["'])(.-)%1]])`:                `" it's`,
		`("hello world"):gsub("o", "0")`:                      "hell0 w0rld 2",
		`("hello world"):gsub("(%w+)", "<%1>")`:               "<hello> <world> 2",
		`("hello world"):gsub("%w+", "%0 %0", 1)`:             "hello hello world 1",
		`("abc"):gsub("", "-")`:                               "-a-b-c- 4",
		`("abc"):gsub(".", {a = "1", b = false})`:             "1bc 3",
		`("abc"):gsub("%w", function(c) return c .. c end)`:   "aabbcc 3",
		`("abc"):gsub("b", function() end)`:                   "abc 1",
		`("abc"):gsub("^a", "x")`:                             "xbc 1",
		`("aaa"):gsub("^a", "x")`:                             "xaa 1",
		`("$x $y"):gsub("%$(%w+)", {x = 1})`:                  "1 $y 2",
		`("a%b"):gsub("%%", "%%%%")`:                          "a%%b 1",
		`("abc"):gsub("b", 7)`:                                "a7c 1",
		`("a,b,,c"):gsub(",", ";")`:                           "a;b;;c 3",
		`("THE (quick) fox"):gsub("%f[%a]%a+", "w")`:          "w (w) w 3",
		`("x"):rep(3), ("x"):rep(0), ("x"):rep(-1)`:           "xxx  ",
		`string.format("%d|%5d|%-5d|%05d", 1, 2, 3, 4)`:       "1|    2|3    |00004",
		`string.format("%s %s %s", nil, true, 1)`:             "nil true 1",
		`string.format("%5.1f|%g|%e", 3.14159, 0.1, 1)`:       "  3.1|0.1|1.000000e+00",
		`string.format("%x %X %#x %o", 255, 255, 255, 8)`:     "ff FF 0xff 10",
		`string.format("%x", -1)`:                             "ffffffffffffffff",
		`string.format("%c%c", 76, 117)`:                      "Lu",
		`string.format("%q", 'a "b"\n\\')`:                    `"a \"b\"\` + "\n" + `\\"`,
		`string.format("%5s|%-5s|%.2s", "a", "b", "xyz")`:     "    a|b    |xy",
		`string.format("%d%%", 50)`:                           "50%",
		`string.format("%d", 3.7), string.format("%d", "10")`: "3 10",
		`string.format("%5.1f", 1/0)`:                         "  inf",
		`string.format("%d", -5), string.format("%i", 9)`:     "-5 9",
		`string.format("%d", 2^53)`:                           "9007199254740992",
	} {
		assert.Equal(t, want, eval(t, v, expr), expr)
	}
	assert.Equal(t, "1,2,3", eval(t, v, `(function() local t = {} for a, b in ("a=1, b=2, c=3"):gmatch("(%w+)=(%w+)") do t[#t+1] = b end return table.concat(t, ",") end)()`))
	assert.Equal(t, "|a|b|c", eval(t, v, `(function() local s = "" for w in ("a b c"):gmatch("%a") do s = s .. "|" .. w end return s end)()`))
	assert.Equal(t, "4", eval(t, v, `(function() local n = 0 for _ in ("abc"):gmatch("") do n = n + 1 end return n end)()`))
}

func TestStringFunctionsRefuse(t *testing.T) {
	v, _ := newVM(t, Options{})
	for source, want := range map[string]string{
		`("x"):rep(1e9)`:                              "string.rep: the result exceeds",
		`("x"):find("[a")`:                            "string.find: malformed pattern (missing ']')",
		`("x"):match("%")`:                            "string.match: malformed pattern (ends with '%')",
		`("x"):gsub("(", "")`:                         "string.gsub: unfinished capture",
		`("x"):gsub("x", "%2")`:                       "invalid capture index %2 in the replacement",
		`("x"):gsub("x", function() return {} end)`:   "invalid replacement value (a table)",
		`("x"):gsub("x", function() return true end)`: "invalid replacement value (a boolean)",
		`("x"):gsub("x")`:                             "bad argument #3",
		`string.format("%y", 1)`:                      "invalid conversion '%y'",
		`string.format("%123d", 1)`:                   "invalid format",
		`string.format("%")`:                          "invalid format '%'",
		`string.format("%d")`:                         "bad argument #2",
		`string.format("%d", "x")`:                    "bad argument #2",
		`string.format("%d", 1e300)`:                  "has no 64-bit integer",
		`string.format("%d", 0/0)`:                    "has no 64-bit integer",
		`for x in ("a"):rep(1000):gmatch(("a*"):rep(40).."b") do end`: "pattern too complex",
	} {
		err := v.Run("test", "return "+source)
		if err == nil || source[:3] == "for" {
			err = v.Run("test", source)
		}
		require.Error(t, err, source)
		assert.Contains(t, err.Error(), want, source)
		assert.Contains(t, err.Error(), "test:1:", source)
	}
}

// TestFormatPrintsBigUserdata has a userdata that prints as a decimal number,
// as 64-bit numbers do.
func TestFormatPrintsBigUserdata(t *testing.T) {
	v, _ := newVM(t, Options{})
	L := v.State()
	mt := L.NewTable()
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString("18446744073709551615"))
		return 1
	}))
	v.SetGlobal("big", &lua.LUserData{Value: uint64(math.MaxUint64), Metatable: mt})
	assert.Equal(t, "18446744073709551615 18446744073709551615 ffffffffffffffff", eval(t, v, `string.format("%d %s %x", big, big, big)`))
}

func TestPrintFailureEndsTheScript(t *testing.T) {
	v := New(t.Context(), Options{Stdout: closedWriter{}})
	defer v.Close()
	err := v.Run("test", "while true do print(1) end")
	require.ErrorIs(t, err, errClosed)
}

var errClosed = errors.New("closed")

type closedWriter struct{}

func (closedWriter) Write([]byte) (int, error) { return 0, errClosed }
