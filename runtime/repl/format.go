package repl

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

const (
	maxWidth   = 78  // columns up to which a table stays in one line
	maxNesting = 8   // tables in tables that are shown
	maxEntries = 500 // entries of one table that are shown
)

// Format prints a value as the prompt shows it: strings in quotes, tables with
// their contents, the list first and then the keys in order, everything else as
// tostring has it. describe, if not nil, may print a value in its own way.
func Format(v *vm.VM, value lua.LValue, describe func(lua.LValue) (string, bool)) string {
	p := &printer{vm: v, describe: describe, inside: map[*lua.LTable]bool{}}
	return p.value(value, 0)
}

type printer struct {
	vm       *vm.VM
	describe func(lua.LValue) (string, bool)
	inside   map[*lua.LTable]bool // the tables that are being printed
}

// value prints v, whose first line begins in a column of its own; further
// lines are indented by the nesting.
func (p *printer) value(v lua.LValue, nesting int) string {
	if p.describe != nil {
		if text, ok := p.describe(v); ok {
			return text
		}
	}
	switch v := v.(type) {
	case lua.LString:
		return strconv.Quote(string(v))
	case *lua.LTable:
		if mt, ok := v.Metatable.(*lua.LTable); !ok || mt.RawGetString("__tostring") == lua.LNil {
			return p.table(v, nesting)
		}
	}
	return p.vm.Text(v)
}

func (p *printer) table(t *lua.LTable, nesting int) string {
	switch {
	case p.inside[t]:
		return "{...}"
	case nesting == maxNesting:
		return "{...}"
	}
	p.inside[t] = true
	defer delete(p.inside, t)

	entries := p.entries(t, nesting+1)
	width := len("{}") + 2*nesting
	flat := true
	for _, e := range entries {
		width += len(e) + len(", ")
		flat = flat && !strings.Contains(e, "\n")
	}
	switch {
	case len(entries) == 0:
		return "{}"
	case flat && width <= maxWidth:
		return "{" + strings.Join(entries, ", ") + "}"
	}
	indent := "\n" + strings.Repeat("  ", nesting)
	return "{" + indent + "  " + strings.Join(entries, ","+indent+"  ") + indent + "}"
}

// entries prints the elements of t.
func (p *printer) entries(t *lua.LTable, nesting int) []string {
	var out []string
	length := 0
	for t.RawGetInt(length+1) != lua.LNil {
		length++
	}
	for i := 1; i <= min(length, maxEntries); i++ {
		out = append(out, p.value(t.RawGetInt(i), nesting))
	}
	var keys []lua.LValue
	t.ForEach(func(k, _ lua.LValue) {
		if n, ok := k.(lua.LNumber); !ok || n < 1 || int(n) > length || n != lua.LNumber(int(n)) {
			keys = append(keys, k)
		}
	})
	sort.SliceStable(keys, func(i, j int) bool { return p.before(keys[i], keys[j]) })
	for _, k := range keys {
		if len(out) >= maxEntries {
			break
		}
		out = append(out, p.key(k)+" = "+p.value(t.RawGet(k), nesting))
	}
	if left := length + len(keys) - len(out); left > 0 {
		out = append(out, fmt.Sprintf("... %d more", left))
	}
	return out
}

// before orders keys: strings, numbers, then the rest by their text.
func (p *printer) before(a, b lua.LValue) bool {
	if ra, rb := rank(a), rank(b); ra != rb {
		return ra < rb
	}
	if na, ok := a.(lua.LNumber); ok {
		return na < b.(lua.LNumber)
	}
	return p.vm.Text(a) < p.vm.Text(b)
}

func rank(k lua.LValue) int {
	switch k.Type() {
	case lua.LTString:
		return 0
	case lua.LTNumber:
		return 1
	}
	return 2
}

func (p *printer) key(k lua.LValue) string {
	if s, ok := k.(lua.LString); ok {
		if isName(string(s)) {
			return string(s)
		}
		return "[" + strconv.Quote(string(s)) + "]"
	}
	return "[" + p.vm.Text(k) + "]"
}

// isName reports whether s can be written as a bare key.
func isName(s string) bool {
	for i := range len(s) {
		if !isNameByte(s[i]) || i == 0 && s[i] <= '9' {
			return false
		}
	}
	return s != "" && !keywords[s]
}

func isNameByte(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

var keywords = map[string]bool{
	"and": true, "break": true, "do": true, "else": true, "elseif": true, "end": true, "false": true,
	"for": true, "function": true, "goto": true, "if": true, "in": true, "local": true, "nil": true,
	"not": true, "or": true, "repeat": true, "return": true, "then": true, "true": true, "until": true,
	"while": true,
}
