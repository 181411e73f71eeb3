package kit

import (
	"math"
	"math/big"
	"math/rand"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
)

func TestU64(t *testing.T) {
	v, _ := newVM(t)
	for expr, want := range map[string]string{
		`u64.MAX`:                              "18446744073709551615",
		`type(u64.MAX)`:                        "userdata",
		`type(u64(5))`:                         "number",
		`type(u64("9007199254740991"))`:        "number",
		`type(u64("9007199254740992"))`:        "userdata",
		`u64("9007199254740993")`:              "9007199254740993",
		`u64("0xFFFFFFFFFFFFFFFF") == u64.MAX`: "true",
		`u64.MAX - 1`:                          "18446744073709551614",
		`u64.MAX - u64.MAX`:                    "0",
		`type(u64.MAX - u64.MAX)`:              "number",
		`1 + u64("9007199254740992")`:          "9007199254740993",
		`u64("9007199254740993") - 3`:          "9007199254740990",
		`u64("9007199254740993") * 2`:          "18014398509481986",
		`u64.MAX / 5`:                          "3689348814741910323",
		`u64.MAX % 10`:                         "5",
		`u64.div(u64.MAX, 10)`:                 "1844674407370955161",
		`u64.mod(-7, 3)`:                       "2",
		`u64.div(-7, 3)`:                       "-3",
		`u64.MAX ^ 1`:                          "18446744073709551615",
		`u64("9007199254740992") - u64("9007199254740999")`: "-7",
		`u64.MAX .. "!"`:                          "18446744073709551615!",
		`"gid " .. u64.MAX`:                       "gid 18446744073709551615",
		`5 .. u64.MAX`:                            "518446744073709551615",
		`tostring(u64.MAX)`:                       "18446744073709551615",
		`u64.hex(u64.MAX)`:                        "0xffffffffffffffff",
		`u64.hex(255)`:                            "0xff",
		`string.format("%d", u64.MAX)`:            "18446744073709551615",
		`u64.lt(5, u64.MAX)`:                      "true",
		`u64.lt(u64.MAX, 5)`:                      "false",
		`u64.le(u64.MAX, u64.MAX)`:                "true",
		`u64.gt(u64.MAX, -1)`:                     "true",
		`u64.ge(1, 1)`:                            "true",
		`u64.eq(u64.MAX, "18446744073709551615")`: "true",
		`u64("9007199254740992") < u64.MAX`:       "true",
		`u64.MAX <= u64("9007199254740992")`:      "false",
		`u64.MAX == 5`:                            "false",
		`({[u64.MAX] = "found"})[u64("18446744073709551615")]`: "found",
		`getmetatable(u64.MAX)`:                                "locked",
	} {
		assert.Equal(t, want, eval(t, v, expr), expr)
	}
}

func TestU64Refuses(t *testing.T) {
	v, _ := newVM(t)
	for expr, want := range map[string]string{
		`u64.MAX + 1`:               "the result 18446744073709551616 is out of range",
		`-u64.MAX`:                  "the result -18446744073709551615 is out of range",
		`u64.MAX * u64.MAX`:         "is out of range",
		`u64.MAX ^ 1000000000`:      "is out of range: want an integer below 2^64",
		`u64.MAX ^ -1`:              "negative exponent -1",
		`u64.MAX / 2`:               "18446744073709551615 / 2 is not an integer (hint: u64.div(a, b) rounds down)",
		`u64.MAX / 0`:               "division by zero",
		`u64.MAX % 0`:               "division by zero",
		`u64.MAX + 0.5`:             "0.5 is not an integer",
		`u64(2^53)`:                 "the number 9007199254740992 may have been rounded",
		`u64(2^53 + 1)`:             "may have been rounded",
		`u64(18446744073709551615)`: "the number 1.8446744073709552e+19 may have been rounded",
		`u64(-1)`:                   "-1 is out of range",
		`u64(1.5)`:                  "1.5 is not an integer",
		`u64(0/0)`:                  "is not an integer",
		`u64(1/0)`:                  "is not an integer",
		`u64("")`:                   `"" is not an integer`,
		`u64("0x")`:                 `"0x" is not an integer`,
		`u64("1e3")`:                `"1e3" is not an integer`,
		`u64()`:                     "wants an integer, got nil",
		`u64({})`:                   "wants an integer, got a table",
		`u64.hex(-1)`:               "-1 is out of range",
		`u64.lt(1, {})`:             "u64.lt: wants an integer, got a table",
	} {
		err := fails(t, v, "return "+expr)
		assert.Contains(t, err.Error(), want, expr)
	}
	assert.Equal(t, "range", eval(t, v, `select(2, pcall(function() return u64.MAX + 1 end)).code`))
}

// TestU64AgainstBigIntegers does random arithmetic and compares it with
// math/big.
func TestU64AgainstBigIntegers(t *testing.T) {
	v, _ := newVM(t)
	seed := rand.Int63()
	r := rand.New(rand.NewSource(seed))
	number := func() uint64 {
		n := r.Uint64() >> r.Intn(64)
		if r.Intn(4) == 0 {
			n = []uint64{0, 1, MaxPlain - 1, MaxPlain, MaxPlain + 1, MaxPlain + 2, math.MaxUint64 - 1, math.MaxUint64}[r.Intn(8)]
		}
		return n
	}
	ops := map[string]operation{"__add": add, "__sub": sub, "__mul": mul, "__mod": floorMod, "__div": exactDiv}
	L := v.State()
	mt := numbersOf(L).metatable
	for range 3000 {
		a, b := number(), number()
		for name, op := range ops {
			fn := mt.RawGetString(name).(*lua.LFunction)
			vals, err := v.Call(fn, U64(L, a), U64(L, b))
			want, opErr := op(new(big.Int).SetUint64(a), new(big.Int).SetUint64(b))
			fits := opErr == nil && (want.IsUint64() || want.CmpAbs(big.NewInt(MaxPlain)) <= 0)
			require.Equal(t, fits, err == nil, "seed %d: %d %s %d: %v", seed, a, name, b, err)
			if err == nil {
				require.Equal(t, want.String(), v.Text(vals[0]), "seed %d: %d %s %d", seed, a, name, b)
			}
		}
	}
}

func TestU64IsInterned(t *testing.T) {
	v, _ := newVM(t)
	L := v.State()
	a, b := U64(L, math.MaxUint64), U64(L, math.MaxUint64)
	assert.Same(t, a, b)
	// Numbers that nobody holds are forgotten.
	for i := range uint64(10000) {
		U64(L, MaxPlain+1+i)
		if i%1000 == 0 {
			runtime.GC()
		}
	}
	runtime.GC()
	for i := range uint64(200) {
		U64(L, math.MaxUint64-i)
	}
	assert.Less(t, len(numbersOf(L).known), 5000)
	assert.Same(t, a, U64(L, math.MaxUint64))
	runtime.KeepAlive(a)
}

func TestToU64(t *testing.T) {
	n, err := ToU64(lua.LNumber(MaxPlain))
	require.NoError(t, err)
	assert.Equal(t, uint64(MaxPlain), n)
	n, err = ToU64(lua.LString(" 42 "))
	require.NoError(t, err)
	assert.Equal(t, uint64(42), n)
}
