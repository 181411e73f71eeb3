package kit

import (
	"math"
	"math/big"
	"strconv"
	"strings"
	"weak"

	lua "github.com/yuin/gopher-lua"

	"walbsh/walbcore/walberr"
)

// MaxPlain is the greatest integer that is a plain Lua number, 2^53-1. Every
// integer up to it is a double of its own; 2^53 is not, since 2^53+1 reads as
// the same double.
const MaxPlain = 1<<53 - 1

// u64 is what the userdata of a 64-bit number holds. It is always greater
// than MaxPlain.
type u64 uint64

// U64 gives n as a Lua value: a number up to [MaxPlain], else a u64 userdata.
// Equal numbers are the same userdata within one state, so that they are
// equal to Lua and one table key.
func U64(L *lua.LState, n uint64) lua.LValue {
	if n <= MaxPlain {
		return lua.LNumber(n)
	}
	return numbersOf(L).userdata(L, u64(n))
}

// ToU64 reads an integer from 0 to 2^64-1 out of a Lua value: a whole number up
// to [MaxPlain], a u64 userdata, or a string in decimal or in hexadecimal
// with 0x. The error is fit for [Type].From.
func ToU64(v lua.LValue) (uint64, error) {
	n, err := toInteger(v)
	if err != nil {
		return 0, err
	}
	if !n.IsUint64() {
		return 0, outOfRange(n.String() + " is out of range: want an integer from 0 to 2^64-1")
	}
	return n.Uint64(), nil
}

// toInteger reads any integer that Lua code can hold.
func toInteger(v lua.LValue) (*big.Int, error) {
	switch v := v.(type) {
	case lua.LNumber:
		f := float64(v)
		switch {
		case f != math.Trunc(f) || math.IsInf(f, 0):
			return nil, outOfRange(v.String() + " is not an integer")
		case math.Abs(f) > MaxPlain:
			return nil, &unfit{
				code: walberr.Range, text: "the number " + v.String() + " may have been rounded",
				hint: `beyond 2^53-1 write it as a string: u64("18446744073709551615")`,
			}
		}
		return big.NewInt(int64(f)), nil
	case lua.LString:
		digits, base := strings.TrimSpace(string(v)), 10
		if hex := strings.TrimPrefix(strings.ToLower(digits), "0x"); len(hex) < len(digits) {
			digits, base = hex, 16
		}
		n, err := strconv.ParseUint(digits, base, 64)
		if err != nil {
			return nil, outOfRange(strconv.Quote(string(v)) + " is not an integer from 0 to 2^64-1")
		}
		return new(big.Int).SetUint64(n), nil
	case *lua.LUserData:
		if n, ok := v.Value.(u64); ok {
			return new(big.Int).SetUint64(uint64(n)), nil
		}
	}
	return nil, Mismatch("an integer", v)
}

// fromInteger gives the Lua value of an exact result.
func fromInteger(L *lua.LState, n *big.Int) (lua.LValue, error) {
	switch {
	case n.IsInt64() && n.Int64() >= -MaxPlain && n.Int64() <= MaxPlain:
		return lua.LNumber(n.Int64()), nil
	case n.IsUint64():
		return U64(L, n.Uint64()), nil
	}
	return nil, outOfRange("the result " + n.String() + " is out of range: want an integer from -(2^53-1) to 2^64-1")
}

// numbers holds the userdata of one state, each for as long as somebody uses
// it.
type numbers struct {
	metatable *lua.LTable
	known     map[u64]weak.Pointer[lua.LUserData]
	sweepAt   int // size of known at which dead entries are dropped
}

const numbersKey = "walbsh.u64"

func numbersOf(L *lua.LState) *numbers {
	registry := L.Get(lua.RegistryIndex).(*lua.LTable)
	if ud, ok := registry.RawGetString(numbersKey).(*lua.LUserData); ok {
		return ud.Value.(*numbers)
	}
	n := &numbers{metatable: numberMetatable(L), known: map[u64]weak.Pointer[lua.LUserData]{}, sweepAt: 64}
	ud := L.NewUserData()
	ud.Value = n
	registry.RawSetString(numbersKey, ud)
	return n
}

func (s *numbers) userdata(L *lua.LState, n u64) *lua.LUserData {
	if ud := s.known[n].Value(); ud != nil {
		return ud
	}
	ud := L.NewUserData()
	ud.Value, ud.Metatable = n, s.metatable
	s.known[n] = weak.Make(ud)
	if len(s.known) >= s.sweepAt {
		for k, p := range s.known {
			if p.Value() == nil {
				delete(s.known, k)
			}
		}
		s.sweepAt = 2*len(s.known) + 64
	}
	return ud
}

// operation is exact arithmetic on two integers; it may refuse.
type operation func(a, b *big.Int) (*big.Int, error)

func add(a, b *big.Int) (*big.Int, error) { return new(big.Int).Add(a, b), nil }
func sub(a, b *big.Int) (*big.Int, error) { return new(big.Int).Sub(a, b), nil }
func mul(a, b *big.Int) (*big.Int, error) { return new(big.Int).Mul(a, b), nil }

// floorDiv rounds towards minus infinity, and floorMod has the sign of b, as
// Lua's own operators do.
func floorDiv(a, b *big.Int) (*big.Int, error) {
	q, _, err := divide(a, b)
	return q, err
}

func floorMod(a, b *big.Int) (*big.Int, error) {
	_, m, err := divide(a, b)
	return m, err
}

func divide(a, b *big.Int) (q, m *big.Int, err error) {
	if b.Sign() == 0 {
		return nil, nil, outOfRange("division by zero")
	}
	q, m = new(big.Int).QuoRem(a, b, new(big.Int))
	if m.Sign() != 0 && m.Sign() != b.Sign() {
		q.Sub(q, big.NewInt(1))
		m.Add(m, b)
	}
	return q, m, nil
}

func exactDiv(a, b *big.Int) (*big.Int, error) {
	q, m, err := divide(a, b)
	if err == nil && m.Sign() != 0 {
		err = &unfit{
			code: walberr.Range, text: a.String() + " / " + b.String() + " is not an integer",
			hint: "u64.div(a, b) rounds down",
		}
	}
	return q, err
}

func power(a, b *big.Int) (*big.Int, error) {
	if b.Sign() < 0 {
		return nil, outOfRange("negative exponent " + b.String())
	}
	if b.Cmp(big.NewInt(64)) > 0 && a.CmpAbs(big.NewInt(1)) > 0 {
		return nil, outOfRange(a.String() + "^" + b.String() + " is out of range: want an integer below 2^64")
	}
	return new(big.Int).Exp(a, b, nil), nil
}

// twoIntegers reads the two operands of a call.
func twoIntegers(L *lua.LState) (a, b *big.Int, err error) {
	if a, err = toInteger(L.Get(1)); err == nil {
		b, err = toInteger(L.Get(2))
	}
	return a, b, err
}

// arithmetic makes the Lua function of an operation.
func arithmetic(name string, op operation) lua.LGFunction {
	return Func(name, func(L *lua.LState) (int, error) {
		a, b, err := twoIntegers(L)
		var n *big.Int
		if err == nil {
			n, err = op(a, b)
		}
		var v lua.LValue
		if err == nil {
			v, err = fromInteger(L, n)
		}
		if err != nil {
			return 0, refuse(name, err)
		}
		L.Push(v)
		return 1, nil
	})
}

// comparison makes the Lua function of a comparison: holds judges a.Cmp(b).
func comparison(name string, holds func(int) bool) lua.LGFunction {
	return Func(name, func(L *lua.LState) (int, error) {
		a, b, err := twoIntegers(L)
		if err != nil {
			return 0, refuse(name, err)
		}
		L.Push(lua.LBool(holds(a.Cmp(b))))
		return 1, nil
	})
}

func less(c int) bool      { return c < 0 }
func lessEqual(c int) bool { return c <= 0 }

func numberMetatable(L *lua.LState) *lua.LTable {
	mt := L.NewTable()
	for event, op := range map[string]operation{
		"__add": add, "__sub": sub, "__mul": mul, "__div": exactDiv, "__mod": floorMod, "__pow": power,
	} {
		mt.RawSetString(event, L.NewFunction(arithmetic("u64", op)))
	}
	negate := arithmetic("u64", func(a, _ *big.Int) (*big.Int, error) { return new(big.Int).Neg(a), nil })
	mt.RawSetString("__unm", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LNumber(0)) // there is no second operand
		return negate(L)
	}))
	mt.RawSetString("__lt", L.NewFunction(comparison("u64", less)))
	mt.RawSetString("__le", L.NewFunction(comparison("u64", lessEqual)))
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString(NumberText(L.Get(1))))
		return 1
	}))
	mt.RawSetString("__concat", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString(NumberText(L.Get(1)) + NumberText(L.Get(2))))
		return 1
	}))
	mt.RawSetString("__name", lua.LString("u64"))
	mt.RawSetString("__metatable", lua.LString("locked"))
	return mt
}

// NumberText prints a number that may be a 64-bit one, without loss; other
// values as their plain text without metamethods.
func NumberText(v lua.LValue) string {
	if ud, ok := v.(*lua.LUserData); ok {
		if n, ok := ud.Value.(u64); ok {
			return strconv.FormatUint(uint64(n), 10)
		}
	}
	return v.String()
}

// OpenU64 sets the global u64: called, it reads a number; its members compare
// and divide. u64.MAX is 2^64-1.
func OpenU64(L *lua.LState) {
	lib := L.NewTable()
	for name, fn := range map[string]lua.LGFunction{
		"lt":  comparison("u64.lt", less),
		"le":  comparison("u64.le", lessEqual),
		"gt":  comparison("u64.gt", func(c int) bool { return c > 0 }),
		"ge":  comparison("u64.ge", func(c int) bool { return c >= 0 }),
		"eq":  comparison("u64.eq", func(c int) bool { return c == 0 }),
		"div": arithmetic("u64.div", floorDiv),
		"mod": arithmetic("u64.mod", floorMod),
		"hex": Func("u64.hex", func(L *lua.LState) (int, error) {
			n, err := ToU64(L.Get(1))
			if err != nil {
				return 0, refuse("u64.hex", err)
			}
			L.Push(lua.LString("0x" + strconv.FormatUint(n, 16)))
			return 1, nil
		}),
	} {
		lib.RawSetString(name, L.NewFunction(fn))
	}
	lib.RawSetString("MAX", U64(L, math.MaxUint64))
	mt := L.NewTable()
	mt.RawSetString("__call", L.NewFunction(Func("u64", func(L *lua.LState) (int, error) {
		n, err := ToU64(L.Get(2))
		if err != nil {
			return 0, refuse("u64", err)
		}
		L.Push(U64(L, n))
		return 1, nil
	})))
	mt.RawSetString("__metatable", lua.LString("locked"))
	lib.Metatable = mt
	L.SetGlobal("u64", lib)
}
