package kit

import (
	"context"
	"fmt"
	"sort"

	lua "github.com/yuin/gopher-lua"

	"walbsh/walbcore/walberr"
)

// Class describes the userdata of one Go type: read-only fields and methods,
// a text, a locked metatable. An unknown name raises with the nearest one. A
// Class is fixed before its first use and may serve many states.
type Class[T any] struct {
	Name    string         // with which errors name it: "archive server"
	Text    func(T) string // for tostring; required
	Fields  map[string]func(T) any
	Methods map[string]Method[T]
}

// Method is one method of a [Class], called as v:name(...). Of its verb, Name,
// Params and usage count; Run is not used.
type Method[T any] struct {
	Params []Param
	// Run does the work, as [Verb].Run does.
	Run func(ctx context.Context, v T, a Args) (any, error)
}

// New makes a userdata that holds v.
func (c *Class[T]) New(L *lua.LState, v T) *lua.LUserData {
	ud := L.NewUserData()
	ud.Value = v
	ud.Metatable = c.metatable(L)
	return ud
}

// From gives the Go value of a userdata of this class, and whether it is one.
func (c *Class[T]) From(v lua.LValue) (T, bool) {
	var zero T
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return zero, false
	}
	t, ok := ud.Value.(T)
	if !ok {
		return zero, false
	}
	return t, true
}

// Type is the parameter type of this class. Go type: T.
func (c *Class[T]) Type() Type {
	return Type{
		Name: withArticle(c.Name),
		From: func(v lua.LValue) (any, error) {
			if t, ok := c.From(v); ok {
				return t, nil
			}
			return nil, Mismatch(withArticle(c.Name), v)
		},
		Text: func(v any) string { return c.Text(v.(T)) },
	}
}

// textKey is where the metatable of a class keeps the text of its userdata, as
// a func(*lua.LUserData) string.
const textKey = "walbsh.text"

func (c *Class[T]) metatable(L *lua.LState) *lua.LTable {
	mt := L.NewTypeMetatable("walbsh.class." + c.Name)
	if mt.RawGetString("__metatable") != lua.LNil {
		return mt
	}
	names := c.names()
	dir := L.NewTable()
	for _, n := range names {
		dir.Append(lua.LString(n))
	}
	methods := map[string]*lua.LFunction{}
	for name, m := range c.Methods {
		methods[name] = L.NewFunction(Func(c.Name+":"+name, c.call(name, m)))
	}
	text := L.NewUserData()
	text.Value = func(ud *lua.LUserData) string { return c.Text(ud.Value.(T)) }
	mt.RawSetString(textKey, text)
	mt.RawSetString("__metatable", lua.LString("locked"))
	mt.RawSetString("__name", lua.LString(c.Name))
	mt.RawSetString("__dir", dir)
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		if v, ok := c.From(L.Get(1)); ok {
			L.Push(lua.LString(c.Text(v)))
			return 1
		}
		return 0
	}))
	mt.RawSetString("__newindex", L.NewFunction(Func(c.Name, func(L *lua.LState) (int, error) {
		return 0, &walberr.Error{Op: c.Name, Code: walberr.Usage, Found: L.Get(2).String() + " cannot be set: it is read-only"}
	})))
	mt.RawSetString("__index", L.NewFunction(Func(c.Name, func(L *lua.LState) (int, error) {
		v, ok := c.From(L.Get(1))
		if !ok {
			return 0, refuse(c.Name, Mismatch(withArticle(c.Name), L.Get(1)))
		}
		name := L.Get(2).String()
		if fn := methods[name]; fn != nil {
			L.Push(fn)
			return 1, nil
		}
		if field := c.Fields[name]; field != nil {
			value, err := ToLua(L, field(v))
			if err != nil {
				return 0, err
			}
			L.Push(value)
			return 1, nil
		}
		return 0, NoSuchName(withArticle(c.Name), name, names)
	})))
	return mt
}

// call is the Lua function of a method.
func (c *Class[T]) call(name string, m Method[T]) func(L *lua.LState) (int, error) {
	verb := &Verb{Name: name, Params: m.Params}
	op := c.Name + ":" + name
	return func(L *lua.LState) (int, error) {
		self := L.Get(1)
		v, ok := c.From(self)
		if !ok {
			e := refuse(op, Mismatch(withArticle(c.Name), self))
			e.Hint = fmt.Sprintf("call it with a colon: v:%s", verb.Usage())
			return 0, e
		}
		a, err := ParseArgs(L, op, verb, self)
		if err != nil {
			return 0, err
		}
		result, err := m.Run(L.Context(), v, a)
		if err != nil {
			return 0, err
		}
		return Push(L, result)
	}
}

func (c *Class[T]) names() []string {
	var names []string
	for n := range c.Fields {
		names = append(names, n)
	}
	for n := range c.Methods {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// NoSuchName is the error of reading a name that something does not have.
// what has its article: "an archive server".
func NoSuchName(what, name string, names []string) error {
	e := &walberr.Error{Op: what, Code: walberr.Usage, Found: fmt.Sprintf("has no %q", name)}
	if near := Nearest(name, names); near != "" {
		e.Hint = "did you mean " + near + "?"
	}
	return e
}
