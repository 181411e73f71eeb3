package kit

import (
	"encoding/hex"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"time"
	"unicode"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

// Values are several results of one verb.
type Values []any

// Converter is a Go value that knows its Lua form.
type Converter interface {
	// LuaValue is called on the goroutine that owns L.
	LuaValue(L *lua.LState) (lua.LValue, error)
}

// maxNesting bounds how deeply values may nest, so that a cycle is an error.
const maxNesting = 32

// ToLua gives v as a Lua value, copied, so that Lua and Go share nothing:
//
//	nil, nil pointer, zero time.Time     nil
//	bool, string, floats                 the same
//	integers                             a number, or a u64 beyond 2^53-1
//	... smaller than 64 bits or int,     its text: such a type is an enum
//	    with a String method
//	time.Duration                        seconds
//	time.Time                            "2006-01-02T15:04:05", in UTC
//	[]byte and byte arrays               a string; in hexadecimal or as String prints it
//	slice                                a table from 1
//	map                                  a table, its keys sorted
//	struct                               a table; GidE becomes gid_e, unless `lua:"name"`
//	                                     names it or `lua:"-"` leaves it out
//	error                                an error value
//	lua.LValue, [Converter]              what it is
func ToLua(L *lua.LState, v any) (lua.LValue, error) {
	return convert(L, v, 0)
}

// Push pushes the results of a verb and gives their number: one for each of
// [Values], none for nil, else one.
func Push(L *lua.LState, v any) (int, error) {
	list, ok := v.(Values)
	switch {
	case v == nil:
		return 0, nil
	case !ok:
		list = Values{v}
	}
	for _, item := range list {
		value, err := ToLua(L, item)
		if err != nil {
			return 0, err
		}
		L.Push(value)
	}
	return len(list), nil
}

func convert(L *lua.LState, v any, nesting int) (lua.LValue, error) {
	if nesting > maxNesting {
		return nil, fmt.Errorf("a result nests more than %d deep", maxNesting)
	}
	switch v := v.(type) {
	case nil:
		return lua.LNil, nil
	case lua.LValue:
		return v, nil
	case Converter:
		return v.LuaValue(L)
	case error:
		return vm.ErrorValue(L, Adapt(v)), nil
	case time.Duration:
		return lua.LNumber(v.Seconds()), nil
	case time.Time:
		if v.IsZero() {
			return lua.LNil, nil
		}
		return lua.LString(v.UTC().Format("2006-01-02T15:04:05")), nil
	}
	return convertKind(L, reflect.ValueOf(v), nesting)
}

func convertKind(L *lua.LState, v reflect.Value, nesting int) (lua.LValue, error) {
	switch v.Kind() {
	case reflect.Bool:
		return lua.LBool(v.Bool()), nil
	case reflect.String:
		return lua.LString(v.String()), nil
	case reflect.Float32, reflect.Float64:
		return lua.LNumber(v.Float()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if s, ok := reflect.TypeAssert[fmt.Stringer](v); ok && v.Kind() != reflect.Int64 {
			return lua.LString(s.String()), nil
		}
		if n := v.Int(); n < -MaxPlain {
			return nil, fmt.Errorf("the result %d is below -(2^53-1)", n)
		} else if n < 0 {
			return lua.LNumber(n), nil
		}
		return U64(L, uint64(v.Int())), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if s, ok := reflect.TypeAssert[fmt.Stringer](v); ok && v.Kind() != reflect.Uint64 {
			return lua.LString(s.String()), nil
		}
		return U64(L, v.Uint()), nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return lua.LNil, nil
		}
		return convert(L, v.Elem().Interface(), nesting+1)
	case reflect.Slice, reflect.Array:
		return convertList(L, v, nesting)
	case reflect.Map:
		return convertMap(L, v, nesting)
	case reflect.Struct:
		t := L.NewTable()
		return t, convertFields(L, t, v, nesting)
	}
	return nil, fmt.Errorf("a %s has no Lua form", v.Type())
}

func convertList(L *lua.LState, v reflect.Value, nesting int) (lua.LValue, error) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		if s, ok := reflect.TypeAssert[fmt.Stringer](v); ok {
			return lua.LString(s.String()), nil
		}
		if v.Kind() == reflect.Slice {
			return lua.LString(v.Bytes()), nil
		}
		b := make([]byte, v.Len())
		reflect.Copy(reflect.ValueOf(b), v)
		return lua.LString(hex.EncodeToString(b)), nil
	}
	t := L.CreateTable(v.Len(), 0)
	for i := range v.Len() {
		item, err := convert(L, v.Index(i).Interface(), nesting+1)
		if err != nil {
			return nil, err
		}
		t.RawSetInt(i+1, item)
	}
	return t, nil
}

func convertMap(L *lua.LState, v reflect.Value, nesting int) (lua.LValue, error) {
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool {
		a, b := keys[i], keys[j]
		switch {
		case a.CanUint():
			return a.Uint() < b.Uint()
		case a.CanInt():
			return a.Int() < b.Int()
		}
		return a.String() < b.String()
	})
	t := L.CreateTable(0, len(keys))
	for _, k := range keys {
		key, err := convert(L, k.Interface(), nesting+1)
		if err != nil {
			return nil, err
		}
		item, err := convert(L, v.MapIndex(k).Interface(), nesting+1)
		if err != nil {
			return nil, err
		}
		t.RawSet(key, item)
	}
	return t, nil
}

// convertFields puts the exported fields of a struct into t; those of an
// embedded struct as if they were its own.
func convertFields(L *lua.LState, t *lua.LTable, v reflect.Value, nesting int) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := fieldName(f)
		switch {
		case name == "":
		case f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag.Get("lua") == "":
			if err := convertFields(L, t, v.Field(i), nesting+1); err != nil {
				return err
			}
		default:
			item, err := convert(L, v.Field(i).Interface(), nesting+1)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			t.RawSetString(name, item)
		}
	}
	return nil
}

// fieldName is the Lua name of a struct field, "" if scripts do not see it.
func fieldName(f reflect.StructField) string {
	switch tag := f.Tag.Get("lua"); {
	case !f.IsExported() || tag == "-":
		return ""
	case tag != "":
		return tag
	}
	return snakeCase(f.Name)
}

// snakeCase is the one mapping of Go names to Lua names: GidE to gid_e,
// BytesSent to bytes_sent, UUID to uuid, LBDone to lb_done.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 {
			behindLower := !unicode.IsUpper(runes[i-1])
			beforeLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if behindLower || beforeLower {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
