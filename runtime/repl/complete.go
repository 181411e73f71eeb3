package repl

import (
	"sort"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

// Completer makes the completion for a prompt on v. It completes global names,
// keywords, and behind a dot or a colon the members of tables, strings and
// userdata; words, if not nil, gives further candidates for the end of an
// unfinished line. Where no word is begun it gives those alone. It runs no Lua code: userdata name their members in the
// list __dir of their metatable.
//
// The result is for a line up to the cursor: whole words, sorted, and how many
// bytes at the end of the line they replace. It must not be called while Lua
// runs.
func Completer(v *vm.VM, words func(line string) []string) func(line string) (candidates []string, replace int) {
	return func(line string) ([]string, int) {
		if inString(line) {
			return nil, 0
		}
		start := len(line)
		for start > 0 && (isNameByte(line[start-1]) || line[start-1] == '.' || line[start-1] == ':') {
			start--
		}
		chain := line[start:]
		cut := strings.LastIndexAny(chain, ".:") + 1
		word := chain[cut:]
		var names []string
		if cut == 0 {
			if word != "" {
				names = globalNames(v.State())
			}
			if words != nil {
				names = append(names, words(line)...)
			}
		} else if owner := resolve(v.State(), chain[:cut-1]); owner != nil {
			names = members(v.State(), owner, chain[cut-1] == ':')
		}
		return matching(names, word), len(word)
	}
}

// inString reports whether a line ends inside a quoted string.
func inString(line string) bool {
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == '\\':
			i++
		case c == quote:
			quote = 0
		}
	}
	return quote != 0
}

// matching gives the names that begin with word, sorted and each once. Names
// that begin with "_" are shown only if asked for.
func matching(names []string, word string) []string {
	seen := map[string]bool{}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, word) && !seen[n] && (word != "" || !strings.HasPrefix(n, "_")) {
			seen[n] = true
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

func globalNames(state *lua.LState) []string {
	var names []string
	for k := range keywords {
		names = append(names, k)
	}
	return append(names, tableNames(state.Get(lua.GlobalsIndex).(*lua.LTable), false)...)
}

// tableNames gives the keys of t that are names, functions only if wanted so.
func tableNames(t *lua.LTable, functions bool) []string {
	var names []string
	t.ForEach(func(k, v lua.LValue) {
		if s, ok := k.(lua.LString); ok && isName(string(s)) && (!functions || v.Type() == lua.LTFunction) {
			names = append(names, string(s))
		}
	})
	return names
}

// resolve finds the value that a chain such as "walbc.async" names, without
// running metamethods, or nil.
func resolve(state *lua.LState, chain string) lua.LValue {
	value := state.Get(lua.GlobalsIndex)
	for _, name := range strings.FieldsFunc(chain, func(r rune) bool { return r == '.' || r == ':' }) {
		if value = member(value, name); value == nil {
			return nil
		}
	}
	return value
}

// maxInherit bounds the chain of __index tables that is followed.
const maxInherit = 10

func member(owner lua.LValue, name string) lua.LValue {
	for range maxInherit {
		t, ok := owner.(*lua.LTable)
		if !ok {
			return nil
		}
		if v := t.RawGetString(name); v != lua.LNil {
			return v
		}
		mt, ok := t.Metatable.(*lua.LTable)
		if !ok {
			return nil
		}
		owner = mt.RawGetString("__index")
	}
	return nil
}

func members(state *lua.LState, owner lua.LValue, functions bool) []string {
	var names []string
	var metatable lua.LValue
	switch owner := owner.(type) {
	case *lua.LTable:
		names, metatable = tableNames(owner, functions), owner.Metatable
	case *lua.LUserData:
		metatable = owner.Metatable
	case lua.LString:
		return members(state, state.GetGlobal(lua.StringLibName), true)
	}
	for range maxInherit {
		mt, ok := metatable.(*lua.LTable)
		if !ok {
			break
		}
		if dir, ok := mt.RawGetString("__dir").(*lua.LTable); ok {
			dir.ForEach(func(_, name lua.LValue) { names = append(names, name.String()) })
		}
		inherited, ok := mt.RawGetString("__index").(*lua.LTable)
		if !ok {
			break
		}
		names = append(names, tableNames(inherited, functions)...)
		metatable = inherited.Metatable
	}
	return names
}
