package kit

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/walbcore/walberr"
)

type server struct{ name, kind string }

func serverClass() *Class[*server] {
	return &Class[*server]{
		Name: "server",
		Text: func(s *server) string { return s.name },
		Fields: map[string]func(*server) any{
			"name": func(s *server) any { return s.name },
			"kind": func(s *server) any { return s.kind },
			"big":  func(*server) any { return uint64(math.MaxUint64) },
			"bad":  func(*server) any { return make(chan int) },
		},
		Methods: map[string]Method[*server]{
			"say": {
				Params: []Param{{Name: "what_to", PyName: "whatTo", Type: String, Required: true, Doc: "text"}},
				Run: func(_ context.Context, s *server, a Args) (any, error) {
					if Get[string](a, "what_to") == "fail" {
						return nil, &walberr.Error{Op: "say", Server: s.name, Code: walberr.BadState}
					}
					return Values{s.name + " says " + Get[string](a, "what_to"), 2}, nil
				},
			},
		},
	}
}

func TestClass(t *testing.T) {
	v, _ := newVM(t)
	L := v.State()
	class := serverClass()
	v.SetGlobal("a0", class.New(L, &server{"a0", "archive"}))
	v.SetGlobal("s0", class.New(L, &server{"s0", "storage"}))
	for expr, want := range map[string]string{
		`a0`:                        "a0",
		`a0.name .. a0.kind`:        "a0archive",
		`a0.big`:                    "18446744073709551615",
		`a0:say("hi")`:              "a0 says hi",
		`select("#", a0:say("hi"))`: "2",
		`a0:say{what_to = "hi"}`:    "a0 says hi",
		`a0:say{whatTo = "hi"}`:     "a0 says hi",
		`a0 == s0`:                  "false",
		`getmetatable(a0)`:          "locked",
		`({[a0] = 1})[a0]`:          "1",
		`select(2, pcall(a0.say, a0, "fail")).server`: "a0",
	} {
		assert.Equal(t, want, eval(t, v, expr), expr)
	}
	for expr, want := range map[string]string{
		`a0.kidn`:        `a server: has no "kidn" (hint: did you mean kind?)`,
		`a0.zzzzzz`:      `a server: has no "zzzzzz"`,
		`a0[1]`:          `a server: has no "1"`,
		`a0.bad`:         "has no Lua form",
		`a0:say()`:       "server:say: argument 1 (whatTo) is missing (hint: usage: say(whatTo))",
		`a0.say("hi")`:   `server:say: wants a server, got the string "hi" (hint: call it with a colon: v:say(whatTo))`,
		`a0.say(5)`:      "wants a server, got the number 5",
		`a0:say(s0)`:     "argument 1 (whatTo) wants a string, got a server s0",
		`a0:say("fail")`: "say at a0: bad_state",
	} {
		require.ErrorContains(t, fails(t, v, "return "+expr), want, expr)
	}
	require.ErrorContains(t, fails(t, v, "a0.name = 'x'"), "name cannot be set: it is read-only")

	typ := class.Type()
	got, err := typ.From(L.GetGlobal("s0"))
	require.NoError(t, err)
	assert.Equal(t, "s0", got.(*server).name)
	_, err = typ.From(lua.LNumber(5))
	require.EqualError(t, err, "wants a server, got the number 5")
	assert.Equal(t, "s0", typ.text(got))

	// Another state has its own metatable of the same class.
	other, _ := newVM(t)
	other.SetGlobal("a0", class.New(other.State(), &server{"a9", "archive"}))
	assert.Equal(t, "a9 says x", eval(t, other, `a0:say("x")`))
}

func TestAdapt(t *testing.T) {
	inner := &walberr.Error{Op: "dial", Server: "a0", Code: walberr.Unreachable, Hint: "start it", Err: errors.New("refused")}
	outer := &walberr.Error{Op: "replicate_once", Volume: "vol", Found: "Stopped", Expected: "Archived", Err: inner}
	v, _ := newVM(t)
	v.SetGlobal("fail", v.State().NewFunction(Func("fail", func(*lua.LState) (int, error) { return 0, outer })))
	for field, want := range map[string]string{
		"op": "replicate_once", "vol": "vol", "volume": "vol", "state": "Stopped", "found": "Stopped", "expected": "Archived",
		"code": "unreachable", "hint": "start it", "server": "nil", "where": "test:1", "cause": "dial at a0: refused (hint: start it)",
		"message": "replicate_once volume vol: Stopped; expected Archived; dial at a0: refused (hint: start it)",
	} {
		assert.Equal(t, want, eval(t, v, "select(2, pcall(fail))."+field), field)
	}
	err := fails(t, v, "fail()")
	var we *walberr.Error
	require.ErrorAs(t, err, &we)
	assert.Same(t, outer, we)

	plain := errors.New("plain")
	assert.Same(t, plain, Adapt(plain))
	adapted := Adapt(outer)
	assert.Same(t, adapted, Adapt(adapted))
	var bare *scriptError
	require.ErrorAs(t, Adapt(&walberr.Error{Op: "x"}), &bare)
	assert.Empty(t, bare.Hint())
}

func TestTry(t *testing.T) {
	v, _ := newVM(t)
	v.SetGlobal("try", v.State().NewFunction(Try))
	v.SetGlobal("fail", v.State().NewFunction(func(L *lua.LState) int {
		Raise(L, &walberr.Error{Op: "restore", Code: walberr.NotFound})
		return 0
	}))
	for expr, want := range map[string]string{
		`try(function(a, b) return a + b end, 1, 2)`:     "3",
		`select("#", try(function() return 1, nil end))`: "2",
		`select("#", try(function() end))`:               "0",
		`try(fail)`:                                      "nil",
		`select(2, try(fail)).code`:                      "not_found",
		`select(2, try(error, "text", 0))`:               "text",
		`select(2, try(error, {5}))[1]`:                  "5",
	} {
		assert.Equal(t, want, eval(t, v, expr), expr)
	}
	require.ErrorContains(t, fails(t, v, "try(5)"), "function expected")
	assert.True(t, strings.HasPrefix(eval(t, v, `select(2, try(function() local x = nil; return x.y end))`), "test:1: attempt to index"))
}
