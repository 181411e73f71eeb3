package kit

import (
	"errors"
	"fmt"
	"sort"

	lua "github.com/yuin/gopher-lua"

	"walbsh/walbcore/walberr"
)

// Args are the converted arguments of one call.
type Args struct {
	values map[string]any
	given  map[string]bool
}

// Given reports whether the caller gave the argument, by its Param.Name. nil
// counts as not given.
func (a Args) Given(name string) bool { return a.given[name] }

// Get gives an argument by its Param.Name: the value its [Type] converts to,
// or the default, which is T's zero value where the default is nil. Asking for
// a parameter that does not exist, or as another Go type, is a defect of the
// verb and panics.
func Get[T any](a Args, name string) T {
	v, ok := a.values[name]
	if !ok {
		panic(fmt.Sprintf("the verb has no parameter %q", name))
	}
	if v == nil {
		var zero T
		return zero
	}
	t, ok := v.(T)
	if !ok {
		panic(fmt.Sprintf("parameter %q is a %T, not a %T", name, v, t))
	}
	return t
}

// NewArgs makes the arguments of a call from Go, by Param.Name; what is left
// out gets its default.
func NewArgs(params []Param, values map[string]any) Args {
	a := Args{values: map[string]any{}, given: map[string]bool{}}
	for _, p := range params {
		a.values[p.Name] = p.Default
		if v := values[p.Name]; v != nil {
			a.values[p.Name], a.given[p.Name] = v, true
		}
	}
	return a
}

// ParseArgs reads the arguments of a call of v from L's stack. op is the
// verb's full name, "walbc.restore". If the first argument is self, the module
// or object that the verb was called on with a colon, it is passed over. The
// error has code usage or range, names the argument, and its hint is the usage.
func ParseArgs(L *lua.LState, op string, v *Verb, self lua.LValue) (Args, error) {
	args := make([]lua.LValue, 0, L.GetTop())
	for i := 1; i <= L.GetTop(); i++ {
		args = append(args, L.Get(i))
	}
	if len(args) > 0 && args[0] == self {
		args = args[1:]
	}
	c := call{op: op, verb: v, values: map[string]lua.LValue{}}
	if err := c.collect(args); err != nil {
		return Args{}, err
	}
	return c.convert(len(args))
}

// call is one call while its arguments are read.
type call struct {
	op     string
	verb   *Verb
	values map[string]lua.LValue // by Param.Name; never nil
}

// fail makes the error of this call.
func (c *call) fail(code walberr.Code, hint, format string, args ...any) error {
	usage := "usage: " + c.verb.Usage()
	if hint != "" {
		usage = hint + "; " + usage
	}
	return &walberr.Error{Op: c.op, Code: code, Found: fmt.Sprintf(format, args...), Hint: usage}
}

// place names an argument in errors: "argument 3 (aDst)".
func (c *call) place(i int) string {
	return fmt.Sprintf("argument %d (%s)", i+1, c.verb.Params[i].PyName)
}

// collect sorts the arguments under the parameters' names.
func (c *call) collect(args []lua.LValue) error {
	params := c.verb.Params
	var named *lua.LTable
	if n := len(args); n > 0 && c.isNamed(args[n-1], n-1) {
		named = args[n-1].(*lua.LTable)
		args = args[:n-1]
	}
	for i, v := range args {
		switch {
		case v == lua.LNil:
		case i >= len(params):
			return c.fail(walberr.Usage, "", "%d arguments, %d at most", len(args), len(params))
		default:
			c.values[params[i].Name] = v
		}
	}
	if named == nil {
		return nil
	}
	for _, key := range sortedKeys(named) {
		i := c.find(key)
		if i < 0 {
			return c.unknown(key)
		}
		if c.values[params[i].Name] != nil {
			return c.fail(walberr.Usage, "", "%s is given twice", c.place(i))
		}
		c.values[params[i].Name] = named.RawGetString(key)
	}
	return nil
}

// isNamed reports whether the last argument, at index i, holds named
// arguments: it is a plain table whose keys are strings. An empty table is one
// too, unless a list is expected there.
func (c *call) isNamed(v lua.LValue, i int) bool {
	t, ok := v.(*lua.LTable)
	if !ok || t.Metatable != lua.LNil {
		return false
	}
	names, others := 0, 0
	t.ForEach(func(k, _ lua.LValue) {
		if k.Type() == lua.LTString {
			names++
		} else {
			others++
		}
	})
	takesList := i < len(c.verb.Params) && c.verb.Params[i].Type.Table
	return others == 0 && (names > 0 || !takesList)
}

// find gives the index of the parameter with this name or Python name, or -1.
func (c *call) find(key string) int {
	for i, p := range c.verb.Params {
		if key == p.Name || key == p.PyName {
			return i
		}
	}
	return -1
}

func (c *call) unknown(key string) error {
	var names []string
	for _, p := range c.verb.Params {
		names = append(names, distinct(p.Name, p.PyName)...)
	}
	hint := ""
	if near := Nearest(key, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return c.fail(walberr.Usage, hint, "there is no argument %q", key)
}

// convert turns the collected values into Go ones. positional is how many
// places the call filled, nil included.
func (c *call) convert(positional int) (Args, error) {
	a := Args{values: map[string]any{}, given: map[string]bool{}}
	for i, p := range c.verb.Params {
		v := c.values[p.Name]
		switch {
		case v != nil:
			value, err := p.Type.From(v)
			if err != nil {
				code, hint := walberr.Usage, ""
				if u, ok := errors.AsType[*unfit](err); ok {
					code, hint = u.code, u.hint
				}
				return Args{}, c.fail(code, hint, "%s %s", c.place(i), err.Error())
			}
			a.values[p.Name], a.given[p.Name] = value, true
		case p.Required && i < positional:
			return Args{}, c.fail(walberr.Usage, "a name that is not set reads as nil", "%s is nil", c.place(i))
		case p.Required:
			return Args{}, c.fail(walberr.Usage, "", "%s is missing", c.place(i))
		default:
			a.values[p.Name] = p.Default
		}
	}
	return a, nil
}

// sortedKeys gives the string keys of a table in order.
func sortedKeys(t *lua.LTable) []string {
	var keys []string
	t.ForEach(func(k, _ lua.LValue) {
		if s, ok := k.(lua.LString); ok {
			keys = append(keys, string(s))
		}
	})
	sort.Strings(keys)
	return keys
}

// Nearest gives the candidate that is most like word, or "" if none is near
// enough to be a slip of the finger. Case and underscores weigh nothing.
func Nearest(word string, candidates []string) string {
	w := folded(word)
	best, bestCost := "", 1+len(w)/3
	for _, c := range candidates {
		if cost := distance(w, folded(c)); cost < bestCost || best == "" && cost == bestCost {
			best, bestCost = c, cost
		}
	}
	return best
}

func folded(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		switch c := s[i]; {
		case c == '_':
		case 'A' <= c && c <= 'Z':
			b = append(b, c|0x20)
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	rows := [3][]int{make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)}
	for j := range rows[1] {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row := rows[0], rows[1], rows[2]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := above[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			row[j] = min(change, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		rows[0], rows[1], rows[2] = above, row, before
	}
	return rows[1][len(b)]
}
