package bindings

import (
	"fmt"
	"io"
	"sort"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/walberr"
)

const helpHint = "help() lists the verbs, help(walbc.restore) or help(\"restore\") tells about one"

// helpTable makes the global help: callable, and with the function
// help.verbs, which gives a list of records.
func (s *Session) helpTable(L *lua.LState) *lua.LTable {
	t := L.NewTable()
	t.RawSetString("verbs", L.NewFunction(kit.Func("help.verbs", s.verbRecords)))
	mt := L.NewTable()
	mt.RawSetString("__call", L.NewFunction(kit.Func("help", func(L *lua.LState) (int, error) {
		text, err := s.help(L.Get(2))
		if err != nil {
			return 0, err
		}
		_, err = io.WriteString(s.host.Out, text)
		return 0, err
	})))
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString(helpHint))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LString("locked"))
	t.Metatable = mt
	return t
}

// help gives the text about a verb, a module, a name, or for nil about all.
func (s *Session) help(about lua.LValue) (string, error) {
	switch about := about.(type) {
	case *lua.LNilType:
		return s.overview(s.registry.modules), nil
	case *lua.LFunction:
		if e, ok := s.functions[about]; ok {
			return verbHelp(e), nil
		}
	case *lua.LTable:
		if m, ok := s.tables[about]; ok {
			return s.overview([]kit.Module{*m}), nil
		}
	case lua.LString:
		return s.helpByName(string(about))
	}
	return "", &walberr.Error{Op: "help", Code: walberr.NotFound, Found: "there is no help about a " + about.Type().String(), Hint: helpHint}
}

func (s *Session) helpByName(name string) (string, error) {
	var names []string
	for i := range s.registry.modules {
		m := &s.registry.modules[i]
		names = append(names, m.Name)
		if name == m.Name {
			return s.overview([]kit.Module{*m}), nil
		}
		for j := range m.Verbs {
			e := entry{module: m, verb: &m.Verbs[j]}
			names = append(names, e.verb.Name)
			if name == e.verb.Name || name == e.name() || name == m.Name+":"+e.verb.Name {
				return verbHelp(e), nil
			}
		}
	}
	err := &walberr.Error{Op: "help", Code: walberr.NotFound, Found: fmt.Sprintf("there is no help about %q", name), Hint: helpHint}
	if near := kit.Nearest(name[strings.LastIndexAny(name, ".:")+1:], names); near != "" {
		err.Hint = "did you mean " + near + "?"
	}
	return "", err
}

func (s *Session) overview(modules []kit.Module) string {
	var b strings.Builder
	for _, m := range modules {
		fmt.Fprintf(&b, "%s: %s\n", m.Name, m.Summary)
		verbs := append([]kit.Verb(nil), m.Verbs...)
		sort.Slice(verbs, func(i, j int) bool { return verbs[i].Name < verbs[j].Name })
		width := 0
		for _, v := range verbs {
			width = max(width, len(v.Name))
		}
		for _, c := range m.Constants {
			width = max(width, len(c.Name))
		}
		for _, v := range verbs {
			fmt.Fprintf(&b, "  %-*s  %s\n", width, v.Name, v.Summary)
		}
		for _, c := range m.Constants {
			fmt.Fprintf(&b, "  %-*s  %s\n", width, c.Name, c.Doc)
		}
	}
	fmt.Fprintln(&b, helpHint)
	return b.String()
}

func verbHelp(e entry) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s\n", strings.TrimSuffix(e.name(), e.verb.Name), e.verb.Usage())
	fmt.Fprintf(&b, "  %s (%s)\n\n", e.verb.Summary, e.verb.Tier)
	for line := range strings.SplitSeq(strings.TrimSpace(e.verb.Doc), "\n") {
		fmt.Fprintln(&b, wrap(line, "  ", "  "))
	}
	if len(e.verb.Params) > 0 {
		fmt.Fprintln(&b)
		width := 0
		for _, p := range e.verb.Params {
			width = max(width, len(paramNames(p)))
		}
		for _, p := range e.verb.Params {
			first := fmt.Sprintf("  %-*s  ", width, paramNames(p))
			fmt.Fprintln(&b, wrap(p.Doc+"; "+p.Type.Name, first, strings.Repeat(" ", len(first))))
		}
	}
	result := e.verb.Result
	if e.async {
		result = "at once a future, whose :wait() gives " + result
	}
	fmt.Fprintf(&b, "\n%s\n", wrap("gives "+result, "  ", "  "))
	return b.String()
}

// columns is the width of help texts.
const columns = 78

// wrap breaks a paragraph into lines, of which the first begins with first and
// the others with indent.
func wrap(text, first, indent string) string {
	var lines []string
	line := first
	for word := range strings.FieldsSeq(text) {
		if len(line)+len(word) > columns && strings.TrimSpace(line) != "" && line != first {
			lines = append(lines, strings.TrimRight(line, " "))
			line = indent
		}
		line += word + " "
	}
	return strings.Join(append(lines, strings.TrimRight(line, " ")), "\n")
}

// paramNames is "aSrc, a_src", or one name where both are the same.
func paramNames(p kit.Param) string {
	if p.Name == p.PyName {
		return p.Name
	}
	return p.PyName + ", " + p.Name
}

// verbRecord is what help.verbs tells about a verb.
type verbRecord struct {
	Name    string // "walbc.restore"
	Usage   string
	Summary string
	Tier    string
	Result  string
}

// String prints the usage.
func (r verbRecord) String() string { return r.Usage }

// verbRecords is the Lua function help.verbs(): the verbs of all modules, in
// the order of their names.
func (s *Session) verbRecords(L *lua.LState) (int, error) {
	var records []verbRecord
	for _, m := range s.registry.modules {
		for _, v := range m.Verbs {
			records = append(records, verbRecord{
				Name: m.Name + "." + v.Name, Usage: m.Name + "." + v.Usage(),
				Summary: v.Summary, Tier: v.Tier.String(), Result: v.Result,
			})
		}
	}
	sort.Slice(records, func(i, j int) bool { return records[i].Name < records[j].Name })
	list := L.NewTable()
	for _, r := range records {
		value, err := kit.Record(L, r)
		if err != nil {
			return 0, err
		}
		list.Append(value)
	}
	L.Push(list)
	return 1, nil
}

// Describe gives the text with which a prompt shows a verb, its usage, or a
// module. ok is false for everything else.
func (s *Session) Describe(v lua.LValue) (text string, ok bool) {
	switch v := v.(type) {
	case *lua.LFunction:
		if e, ok := s.functions[v]; ok {
			return strings.TrimSuffix(e.name(), e.verb.Name) + e.verb.Usage(), true
		}
	case *lua.LTable:
		if m, ok := s.tables[v]; ok {
			return fmt.Sprintf("%s: %s (help(%s) lists its %d verbs)", m.Name, m.Summary, m.Name, len(m.Verbs)), true
		}
	}
	return "", false
}

// Words gives further words that may stand at the end of an unfinished line:
// inside the table of named arguments of a verb's call, its parameters.
func (s *Session) Words(line string) []string {
	name := namedCall(line)
	for i := range s.registry.modules {
		m := &s.registry.modules[i]
		for _, v := range m.Verbs {
			for _, called := range []string{m.Name + "." + v.Name, m.Name + ":" + v.Name, m.Name + ".async." + v.Name} {
				if called != name {
					continue
				}
				var words []string
				for _, p := range v.Params {
					words = append(words, p.PyName+"=", p.Name+"=")
				}
				return words
			}
		}
	}
	return nil
}

// namedCall gives the function that is called where line ends inside the
// table at the end of its arguments, "walbc.restore" for "x = walbc.restore(a0, {g".
func namedCall(line string) string {
	var open []int // offsets of the brackets that are not closed
	quote := byte(0)
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quote != 0 && c == '\\':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.IndexByte("({[", c) >= 0:
			open = append(open, i)
		case strings.IndexByte(")}]", c) >= 0 && len(open) > 0:
			open = open[:len(open)-1]
		}
	}
	if quote != 0 || len(open) == 0 || line[open[len(open)-1]] != '{' {
		return ""
	}
	call := strings.TrimRight(line[:open[len(open)-1]], " ")
	if direct := call != "" && isNameByte(call[len(call)-1]); !direct && len(open) > 1 && line[open[len(open)-2]] == '(' {
		call = line[:open[len(open)-2]]
	}
	start := len(call)
	for start > 0 && isNameByte(call[start-1]) {
		start--
	}
	return call[start:]
}

func isNameByte(c byte) bool {
	return c == '.' || c == ':' || c == '_' || '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}
