package kit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// Type is what a parameter accepts.
type Type struct {
	Name string // with its article, as in "wants a string": "a string", "an archive server"
	// From converts an argument, never nil, to the Go value that Run gets. Its
	// error is what is wrong with the argument alone: "wants a string, got the
	// number 5" (see Mismatch).
	From func(v lua.LValue) (any, error)
	// Text prints a default in a usage line; fmt.Sprint is used where it is nil.
	Text func(v any) string
	// Table says that a list is accepted, so that a trailing table may be this
	// argument's value rather than the named arguments.
	Table bool
}

func (t Type) text(v any) string {
	switch {
	case v == nil:
		return "nil"
	case t.Text != nil:
		return t.Text(v)
	}
	return fmt.Sprint(v)
}

// unfit is why a value cannot be used.
type unfit struct {
	code       walberr.Code // usage or range
	text, hint string
}

// Error gives the text alone; who was asked for what is added by [refuse].
func (e *unfit) Error() string { return e.text }

// Mismatch is the error of a value of the wrong type. want has its article:
// "a string".
func Mismatch(want string, got lua.LValue) error {
	return &unfit{code: walberr.Usage, text: "wants " + want + ", got " + describe(got)}
}

func outOfRange(text string) error { return &unfit{code: walberr.Range, text: text} }

// refuse makes the error of an operation that could not use a value.
func refuse(op string, err error) *walberr.Error {
	e := &walberr.Error{Op: op, Code: walberr.Usage, Found: err.Error()}
	if u, ok := errors.AsType[*unfit](err); ok {
		e.Code, e.Hint = u.code, u.hint
	}
	return e
}

// describe names a value in an error.
func describe(v lua.LValue) string {
	switch v := v.(type) {
	case *lua.LNilType:
		return "nil"
	case lua.LBool:
		return v.String()
	case lua.LNumber:
		return "the number " + v.String()
	case lua.LString:
		if len(v) > 40 {
			v = v[:37] + "..."
		}
		return "the string " + strconv.Quote(string(v))
	case *lua.LUserData:
		mt, ok := v.Metatable.(*lua.LTable)
		if !ok {
			return "userdata"
		}
		text := ""
		switch value := v.Value.(type) {
		case u64:
			return "the number " + NumberText(v)
		case fmt.Stringer:
			text = value.String()
		}
		if ud, ok := mt.RawGetString(textKey).(*lua.LUserData); ok {
			text = ud.Value.(func(*lua.LUserData) string)(v)
		}
		return strings.TrimSpace(withArticle(lua.LVAsString(mt.RawGetString("__name"))) + " " + text)
	}
	return "a " + v.Type().String()
}

func withArticle(noun string) string {
	if noun == "" {
		return "userdata"
	}
	if strings.ContainsRune("aeio", rune(noun[0])) {
		return "an " + noun
	}
	return "a " + noun
}

// String accepts a string that is not empty. Go type: string.
var String = Type{
	Name: "a string",
	From: func(v lua.LValue) (any, error) {
		s, ok := v.(lua.LString)
		switch {
		case !ok:
			return nil, Mismatch("a string", v)
		case s == "":
			return nil, Mismatch("a string that is not empty", v)
		}
		return string(s), nil
	},
	Text: func(v any) string { return strconv.Quote(v.(string)) },
}

// Bool accepts true and false only. Go type: bool.
var Bool = Type{
	Name: "true or false",
	From: func(v lua.LValue) (any, error) {
		if b, ok := v.(lua.LBool); ok {
			return bool(b), nil
		}
		return nil, Mismatch("true or false", v)
	},
}

// Uint64 accepts an integer from 0 to 2^64-1, as [ToU64] does. Go type: uint64.
var Uint64 = Type{
	Name: "an integer",
	From: func(v lua.LValue) (any, error) {
		n, err := ToU64(v)
		if err != nil {
			return nil, err
		}
		return n, nil
	},
}

// Int accepts an integer from lo to hi. Go type: int.
func Int(lo, hi int) Type {
	name := fmt.Sprintf("an integer from %d to %d", lo, hi)
	return Type{
		Name: name,
		From: func(v lua.LValue) (any, error) {
			n, err := toInteger(v)
			if err != nil {
				return nil, err
			}
			if !n.IsInt64() || n.Int64() < int64(lo) || n.Int64() > int64(hi) {
				return nil, outOfRange("wants " + name + ", got " + n.String())
			}
			return int(n.Int64()), nil
		},
	}
}

// maxSeconds bounds durations at about 31 years.
const maxSeconds = 1e9

// Seconds accepts a number of seconds, fractions allowed, or a duration such
// as "90s", "5m" or "1h30m". Go type: time.Duration, not negative.
var Seconds = Type{
	Name: "seconds",
	From: func(v lua.LValue) (any, error) {
		d := time.Duration(-1)
		switch v := v.(type) {
		case lua.LNumber:
			if f := float64(v); f >= 0 && f <= maxSeconds {
				d = time.Duration(math.Round(f * float64(time.Second)))
			}
		case lua.LString:
			var err error
			if d, err = time.ParseDuration(string(v)); err != nil {
				return nil, Mismatch(`seconds or a duration such as "5m"`, v)
			}
		default:
			return nil, Mismatch(`seconds or a duration such as "5m"`, v)
		}
		if d < 0 || d > maxSeconds*time.Second {
			return nil, outOfRange(fmt.Sprintf("wants seconds from 0 to %g, got %s", float64(maxSeconds), v))
		}
		return d, nil
	},
	Text: func(v any) string { return strconv.FormatFloat(v.(time.Duration).Seconds(), 'f', -1, 64) },
}

// Size accepts a number of bytes, or a size such as "64K" or "1G", as
// [block.ParseSize] reads it. Go type: int64, in bytes.
var Size = Type{
	Name: "a size",
	From: func(v lua.LValue) (any, error) {
		if s, ok := v.(lua.LString); ok {
			n, err := block.ParseSize(string(s))
			if err != nil {
				return nil, Mismatch(`a size in bytes or such as "64M"`, v)
			}
			return n, nil
		}
		n, err := toInteger(v)
		if err != nil {
			return nil, err
		}
		if !n.IsInt64() || n.Sign() < 0 {
			return nil, outOfRange("wants a size in bytes, got " + n.String())
		}
		return n.Int64(), nil
	},
	Text: func(v any) string { return strconv.Quote(block.FormatSize(v.(int64))) },
}

// OneOf accepts one of some words. Go type: string.
func OneOf(words ...string) Type {
	name := `one of "` + strings.Join(words, `", "`) + `"`
	return Type{
		Name: name,
		From: func(v lua.LValue) (any, error) {
			for _, w := range words {
				if v == lua.LString(w) {
					return w, nil
				}
			}
			return nil, Mismatch(name, v)
		},
		Text: func(v any) string { return strconv.Quote(v.(string)) },
	}
}

// List accepts a table with elements of one type, from 1 on, and nothing
// else in it. Go type: []any.
func List(of Type) Type {
	return Type{
		Name:  "a list of which each is " + of.Name,
		Table: true,
		Text: func(v any) string {
			var parts []string
			for _, item := range v.([]any) {
				parts = append(parts, of.text(item))
			}
			return "{" + strings.Join(parts, ", ") + "}"
		},
		From: func(v lua.LValue) (any, error) {
			t, ok := v.(*lua.LTable)
			if !ok {
				return nil, Mismatch("a list", v)
			}
			list := make([]any, 0, t.Len())
			count := 0
			t.ForEach(func(lua.LValue, lua.LValue) { count++ })
			if count != t.Len() {
				return nil, &unfit{code: walberr.Usage, text: "wants a list, got a table with other keys or gaps"}
			}
			for i := 1; i <= t.Len(); i++ {
				item, err := of.From(t.RawGetInt(i))
				if err != nil {
					return nil, fmt.Errorf("element %d: %w", i, err)
				}
				list = append(list, item)
			}
			return list, nil
		},
	}
}
