package kit

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

// argsVM has the global f, a call of the sample verb that prints what it got,
// also as m.f and m:f.
func argsVM(t *testing.T) *vm.VM {
	t.Helper()
	v, _ := newVM(t)
	L := v.State()
	verb := sampleVerb()
	verb.Params[3].Default = 24 * time.Hour
	module := L.NewTable()
	fn := L.NewFunction(Func("walbc.replicate_once", func(L *lua.LState) (int, error) {
		a, err := ParseArgs(L, "walbc.replicate_once", &verb, module)
		if err != nil {
			return 0, err
		}
		text := fmt.Sprint(Get[string](a, "a_src"), " ", Get[string](a, "vol"), " ", Get[string](a, "a_dst"),
			" ", Get[time.Duration](a, "timeout_s"), " ", Get[uint64](a, "gid"), " ", Get[[]any](a, "names"))
		if a.Given("gid") {
			text += " given"
		}
		L.Push(lua.LString(text))
		return 1, nil
	}))
	module.RawSetString("f", fn)
	L.SetGlobal("m", module)
	L.SetGlobal("f", fn)
	return v
}

func TestParseArgs(t *testing.T) {
	v := argsVM(t)
	const byDefault = "a0 v a1 24h0m0s 0 []"
	for call, want := range map[string]string{
		`f("a0", "v", "a1")`:                                   byDefault,
		`m.f("a0", "v", "a1")`:                                 byDefault,
		`m:f("a0", "v", "a1")`:                                 byDefault,
		`f("a0", "v", "a1", nil, nil)`:                         byDefault,
		`f("a0", "v", "a1", nil, nil, nil, nil, nil)`:          byDefault,
		`f("a0", "v", "a1", {})`:                               byDefault,
		`f("a0", "v", "a1", 60)`:                               "a0 v a1 1m0s 0 []",
		`f("a0", "v", "a1", 0.25)`:                             "a0 v a1 250ms 0 []",
		`f("a0", "v", "a1", "1h30m")`:                          "a0 v a1 1h30m0s 0 []",
		`f("a0", "v", "a1", {timeout_s = 5})`:                  "a0 v a1 5s 0 []",
		`f("a0", "v", "a1", {timeoutS = 5})`:                   "a0 v a1 5s 0 []",
		`f("a0", "v", {a_dst = "a1", gid = 7})`:                "a0 v a1 24h0m0s 7 [] given",
		`f{aSrc = "a0", vol = "v", aDst = "a1"}`:               byDefault,
		`m:f{a_src = "a0", vol = "v", a_dst = "a1", gid = 0}`:  byDefault + " given",
		`f("a0", "v", "a1", nil, u64("18446744073709551615"))`: "a0 v a1 24h0m0s 18446744073709551615 [] given",
		`f("a0", "v", "a1", nil, "0xff")`:                      "a0 v a1 24h0m0s 255 [] given",
		`f("a0", "v", "a1", nil, nil, {"x", "y"})`:             "a0 v a1 24h0m0s 0 [x y]",
		`f("a0", "v", "a1", nil, nil, {})`:                     byDefault,
		`f("a0", "v", "a1", nil, nil, {gid = 3})`:              "a0 v a1 24h0m0s 3 [] given",
		`f("a0", "v", "a1", nil, nil, {"x"}, {gid = 3})`:       "a0 v a1 24h0m0s 3 [x] given",
		`f("a0", "v", "a1", {names = {"x"}})`:                  "a0 v a1 24h0m0s 0 [x]",
	} {
		assert.Equal(t, want, eval(t, v, call), call)
	}
}

func TestParseArgsRefuses(t *testing.T) {
	v := argsVM(t)
	const usage = `usage: replicate_once(aSrc, vol, aDst, timeoutS=86400, gid=nil, names=nil)`
	for call, want := range map[string]string{
		`f("a0", "v")`:                                      "walbc.replicate_once: argument 3 (aDst) is missing (hint: " + usage + ")",
		`f()`:                                               "argument 1 (aSrc) is missing",
		`f("a0", "v", a9)`:                                  "argument 3 (aDst) is nil (hint: a name that is not set reads as nil; " + usage + ")",
		`f("a0", nil, "a1")`:                                "argument 2 (vol) is nil",
		`f("a0", 5, "a1")`:                                  "argument 2 (vol) wants a string, got the number 5",
		`f("a0", "", "a1")`:                                 `argument 2 (vol) wants a string that is not empty, got the string ""`,
		`f("a0", true, "a1")`:                               "argument 2 (vol) wants a string, got true",
		`f("a0", {"v"}, "a1")`:                              "argument 2 (vol) wants a string, got a table",
		`f("a0", print, "a1")`:                              "argument 2 (vol) wants a string, got a function",
		`f("a0", u64.MAX, "a1")`:                            "argument 2 (vol) wants a string, got the number 18446744073709551615",
		`f("a0", {"v"})`:                                    "argument 2 (vol) wants a string, got a table",
		`f("a0", "v", "a1", "soon")`:                        `argument 4 (timeoutS) wants seconds or a duration such as "5m", got the string "soon"`,
		`f("a0", "v", "a1", -1)`:                            "argument 4 (timeoutS) wants seconds from 0 to 1e+09, got -1",
		`f("a0", "v", "a1", 0/0)`:                           "argument 4 (timeoutS) wants seconds",
		`f("a0", "v", "a1", 1e300)`:                         "argument 4 (timeoutS) wants seconds",
		`f("a0", "v", "a1", nil, -1)`:                       "argument 5 (gid) -1 is out of range: want an integer from 0 to 2^64-1",
		`f("a0", "v", "a1", nil, 1.5)`:                      "argument 5 (gid) 1.5 is not an integer",
		`f("a0", "v", "a1", nil, 18446744073709551615)`:     `argument 5 (gid) the number 1.8446744073709552e+19 may have been rounded (hint: beyond 2^53-1 write it as a string: u64("18446744073709551615"); ` + usage + ")",
		`f("a0", "v", "a1", nil, nil, nil, 7)`:              "7 arguments, 6 at most",
		`f("a0", "v", "a1", nil, nil, {"x", 5})`:            "argument 6 (names) element 2: wants a string, got the number 5",
		`f("a0", "v", "a1", nil, nil, {[3] = "x"})`:         "argument 6 (names) wants a list, got a table with other keys or gaps",
		`f("a0", "v", "a1", {timeout = 5})`:                 `there is no argument "timeout" (hint: did you mean timeout_s?; ` + usage + ")",
		`f("a0", "v", "a1", {zzz = 5})`:                     `there is no argument "zzz" (hint: ` + usage + ")",
		`f("a0", "v", "a1", {vol = "w"})`:                   "argument 2 (vol) is given twice",
		`f("a0", "v", "a1", {timeout_s = 1, timeoutS = 2})`: "argument 4 (timeoutS) is given twice",
	} {
		err := fails(t, v, call)
		assert.Contains(t, err.Error(), want, call)
		assert.NotContains(t, err.Error(), "\n")
		var we *walberr.Error
		require.ErrorAs(t, err, &we, call)
		assert.Contains(t, []walberr.Code{walberr.Usage, walberr.Range}, we.Code, call)
	}
	assert.Equal(t, "range", eval(t, v, `select(2, pcall(f, "a0", "v", "a1", nil, -1)).code`))
	assert.Equal(t, "usage", eval(t, v, `select(2, pcall(f)).code`))
}

func TestTypes(t *testing.T) {
	v, _ := newVM(t)
	for _, c := range []struct {
		typ  Type
		expr string
		want any // a value, or the text of an error
	}{
		{Bool, "true", true},
		{Bool, "1", "wants true or false, got the number 1"},
		{Int(1, 9), "9", 9},
		{Int(1, 9), "10", "wants an integer from 1 to 9, got 10"},
		{Int(-5, 9), "-5", -5},
		{Int(1, 9), "u64.MAX", "wants an integer from 1 to 9, got 18446744073709551615"},
		{Int(1, 9), "{}", "wants an integer, got a table"},
		{Size, "4096", int64(4096)},
		{Size, "'64m'", int64(64 << 20)},
		{Size, "'1x'", `wants a size in bytes or such as "64M", got the string "1x"`},
		{Size, "-1", "wants a size in bytes, got -1"},
		{Size, "u64.MAX", "wants a size in bytes, got 18446744073709551615"},
		{OneOf("graceful", "force"), "'force'", "force"},
		{OneOf("graceful", "force"), "'now'", `wants one of "graceful", "force", got the string "now"`},
		{Uint64, "'12x'", `"12x" is not an integer from 0 to 2^64-1`},
		{Uint64, "'18446744073709551616'", `"18446744073709551616" is not an integer from 0 to 2^64-1`},
		{String, "('y'):rep(100)", ""},
	} {
		fn, err := v.Load("test", "return "+c.expr)
		require.NoError(t, err)
		vals, err := v.Call(fn)
		require.NoError(t, err)
		got, err := c.typ.From(vals[0])
		if err != nil {
			assert.Equal(t, c.want, err.Error(), c.expr)
		} else if c.want != "" {
			assert.Equal(t, c.want, got, c.expr)
		}
	}
	assert.Equal(t, `{} {"a", "b"}`, List(String).text([]any{})+" "+List(String).text([]any{"a", "b"}))
	assert.Equal(t, `"64m" "force" "x" 1.5`, Size.text(int64(64<<20))+" "+OneOf("force").text("force")+" "+String.text("x")+" "+Seconds.text(1500*time.Millisecond))
}
