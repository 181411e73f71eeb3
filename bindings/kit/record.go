package kit

import (
	"fmt"
	"reflect"

	lua "github.com/yuin/gopher-lua"
	luar "layeh.com/gopher-luar"
)

// Record wraps a small struct, by value, as read-only userdata: its exported
// fields under their snake_case names, and as methods those of its methods
// that take nothing and give one scalar (r:is_clean()). It prints as its
// String method says, which is required.
//
// Fields may be bool, string, float, an integer up to 2^53-1, or a lua.LValue,
// which is how a field holds a 64-bit number (see [U64]); anything else is an
// error. A list or a map belongs into a table: see [ToLua].
func Record(L *lua.LState, v fmt.Stringer) (lua.LValue, error) {
	value := reflect.ValueOf(v)
	if value.Kind() != reflect.Struct {
		return nil, fmt.Errorf("a record must be a struct, not a %T", v)
	}
	for i := range value.NumField() {
		f := value.Type().Field(i)
		if fieldName(f) == "" {
			continue
		}
		if err := recordField(value.Field(i)); err != nil {
			return nil, fmt.Errorf("%T.%s: %w", v, f.Name, err)
		}
	}
	config := luar.GetConfig(L)
	config.FieldNames = recordFieldNames
	config.MethodNames = recordMethodNames
	ud := luar.New(L, v)
	describeRecord(luar.MT(L, v).LTable, value.Type())
	return ud, nil
}

var valueType = reflect.TypeFor[lua.LValue]()

func recordField(v reflect.Value) error {
	switch {
	case v.Type() == valueType:
		if v.IsNil() {
			return fmt.Errorf("is nil; lua.LNil is wanted")
		}
	case v.CanInt():
		if n := v.Int(); n < -MaxPlain || n > MaxPlain {
			return fmt.Errorf("%d is beyond 2^53-1; make it a lua.LValue", n)
		}
	case v.CanUint():
		if n := v.Uint(); n > MaxPlain {
			return fmt.Errorf("%d is beyond 2^53-1; make it a lua.LValue", n)
		}
	case !scalar(v.Type()):
		return fmt.Errorf("a record has no place for a %s", v.Type())
	}
	return nil
}

func scalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.String, reflect.Float32, reflect.Float64:
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32,
		reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return true
	}
	return t == valueType
}

func recordFieldNames(_ reflect.Type, f reflect.StructField) []string {
	if name := fieldName(f); name != "" {
		return []string{name}
	}
	return nil
}

// recordMethodNames hides every method whose call could fail, block or leak
// something that is not plain.
func recordMethodNames(_ reflect.Type, m reflect.Method) []string {
	if m.Name == "String" { // tostring(r)
		return nil
	}
	if m.Type.NumIn() != 1 || m.Type.NumOut() != 1 || !scalar(m.Type.Out(0)) {
		return nil
	}
	return []string{snakeCase(m.Name)}
}

// describeRecord notes the names of a record type for completion and errors.
func describeRecord(mt *lua.LTable, t reflect.Type) {
	if mt.RawGetString("__dir") != lua.LNil {
		return
	}
	var names lua.LTable
	for f := range t.Fields() {
		if name := fieldName(f); name != "" {
			names.Append(lua.LString(name))
		}
	}
	for m := range t.Methods() {
		for _, name := range recordMethodNames(t, m) {
			names.Append(lua.LString(name))
		}
	}
	mt.RawSetString("__dir", &names)
	mt.RawSetString("__name", lua.LString(snakeCase(t.Name())))
}
