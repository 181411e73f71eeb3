// Package kit is what every Lua module of walbsh is made of: verbs and their
// arguments, 64-bit numbers, userdata of Go types, futures, and the one door
// for values and errors between Go and Lua.
//
// # From Lua to Go
//
// A verb's arguments come by position, in the order of [Verb].Params, or by
// name in one trailing table, in snake_case or in the Python spelling:
//
//	walbc.replicate_once(a0, "vol", a1, 60)
//	walbc.replicate_once(a0, "vol", a1, {timeout_s = 60})
//	walbc:replicate_once(a0, "vol", a1, {timeoutS = "1m"})
//
// Each is converted by its [Type]. What does not fit is refused with the
// verb, the argument's place and name, and the usage. The work itself,
// [Verb].Run, sees Go values only and no Lua state, so that it can run on any
// goroutine.
//
// # From Go to Lua
//
// [ToLua] makes plain Lua values: structs, slices and maps become tables.
// [Record] wraps a small read-only struct as userdata, methods included.
// [Class] makes userdata for things with a life of their own, such as servers.
//
// # Numbers
//
// A Lua number is a double, which holds every integer up to 2^53-1 and some
// beyond. Here an integer up to 2^53-1 is a plain number and a greater one,
// up to 2^64-1, is a u64 userdata, so that nothing is ever rounded. See [U64].
//
// # Errors
//
// Everything that fails raises; nil means "absent" only. [Func] and [Raise]
// show the fields of a [walberr.Error] to scripts and hand the same error back
// to the host.
package kit

import (
	"context"
	"fmt"
	"sort"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
)

// Tier says how much a verb can harm.
type Tier int

// The tiers, from harmless to the one that wants a confirmation.
const (
	Query       Tier = iota + 1 // reads only
	Safe                        // changes something that can be undone or repeated without loss
	Disruptive                  // interrupts a service, or loses what can be had again
	Destructive                 // loses data: asks for the volume's name, or wants confirm=NAME
)

// String gives the tier's name, in lower case.
func (t Tier) String() string {
	switch t {
	case Query:
		return "query"
	case Safe:
		return "safe"
	case Disruptive:
		return "disruptive"
	case Destructive:
		return "destructive"
	}
	return fmt.Sprintf("tier %d", int(t))
}

// Param is one parameter of a verb.
type Param struct {
	Name     string // snake_case: "a_dst"
	PyName   string // as in the Python session: "aDst"
	Type     Type
	Required bool
	Default  any // what Run gets where the argument is absent; nil is allowed. Not for required ones.
	Doc      string
}

// Verb is one function that scripts can call. Every field is required, save
// that Params may be empty; [Verb.Validate] checks it.
type Verb struct {
	Name    string // "replicate_once"
	Summary string // one line, without a full stop
	Doc     string // what it does, what is true afterwards, what can fail
	Params  []Param
	Tier    Tier
	Result  string // what it gives back: "the gid that was replicated"
	// Run does the work. It must honour ctx, must not use a Lua state, and may
	// run on any goroutine. Its result goes through ToLua.
	Run func(ctx context.Context, a Args) (any, error)
}

// Constant is a named value of a module.
type Constant struct {
	Name  string // "GID_MAX"
	Doc   string // one line
	Value any    // goes through ToLua
}

// Module is a Lua table of verbs and constants under one global name.
type Module struct {
	Name      string // "walbc"
	Summary   string // one line
	Verbs     []Verb
	Constants []Constant
}

// Validate reports everything that is missing or contradictory in m, as one
// error, or nil.
func (m *Module) Validate() error {
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if !identifier(m.Name) {
		fault("module name %q is not an identifier", m.Name)
	}
	if m.Summary == "" {
		fault("module %s has no summary", m.Name)
	}
	seen := map[string]bool{"async": true, "try": true, "parallel": true}
	for _, v := range m.Verbs {
		if seen[v.Name] {
			fault("%s.%s is there twice", m.Name, v.Name)
		}
		seen[v.Name] = true
		if err := v.Validate(); err != nil {
			fault("%s.%v", m.Name, err)
		}
	}
	for _, c := range m.Constants {
		if seen[c.Name] {
			fault("%s.%s is there twice", m.Name, c.Name)
		}
		seen[c.Name] = true
		if !identifier(c.Name) || c.Doc == "" {
			fault("constant %s.%s wants a name and a doc", m.Name, c.Name)
		}
	}
	return join(faults)
}

// Validate reports everything that is missing or contradictory in v, as one
// error, or nil.
func (v *Verb) Validate() error {
	var faults []string
	fault := func(format string, args ...any) {
		faults = append(faults, v.Name+": "+fmt.Sprintf(format, args...))
	}
	if !identifier(v.Name) {
		fault("the name is not an identifier")
	}
	for what, text := range map[string]string{"summary": v.Summary, "doc": v.Doc, "result": v.Result} {
		if strings.TrimSpace(text) == "" {
			fault("no %s", what)
		}
	}
	if strings.ContainsAny(v.Summary, "\n") || strings.HasSuffix(v.Summary, ".") {
		fault("the summary is to be one line without a full stop")
	}
	if v.Tier < Query || v.Tier > Destructive {
		fault("no tier")
	}
	if v.Run == nil {
		fault("no Run")
	}
	seen := map[string]bool{}
	optional := false
	for _, p := range v.Params {
		if !identifier(p.Name) || !identifier(p.PyName) || p.Doc == "" || p.Type.Name == "" || p.Type.From == nil {
			fault("parameter %q wants Name, PyName, Type and Doc", p.Name)
		}
		for _, name := range distinct(p.Name, p.PyName) {
			if seen[name] {
				fault("parameter %s is there twice", name)
			}
			seen[name] = true
		}
		switch {
		case p.Required && p.Default != nil:
			fault("parameter %s is required and has a default", p.Name)
		case p.Required && optional:
			fault("parameter %s is required but comes behind an optional one", p.Name)
		}
		optional = optional || !p.Required
	}
	if v.Tier == Destructive && !seen["vol"] {
		fault("a destructive verb needs the parameter vol, whose value is the confirmation")
	}
	sort.Strings(faults)
	return join(faults)
}

func join(faults []string) error {
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%s", strings.Join(faults, "; "))
}

func distinct(a, b string) []string {
	if a == b {
		return []string{a}
	}
	return []string{a, b}
}

func identifier(s string) bool {
	for i, c := range s {
		letter := c == '_' || 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		if !letter && (i == 0 || !digit) {
			return false
		}
	}
	return s != ""
}

// Usage is the verb's call in one line: "snapshot(sLayout, vol, timeoutS=86400)".
func (v *Verb) Usage() string {
	parts := make([]string, len(v.Params))
	for i, p := range v.Params {
		parts[i] = p.PyName
		if !p.Required {
			parts[i] += "=" + p.Type.text(p.Default)
		}
	}
	return v.Name + "(" + strings.Join(parts, ", ") + ")"
}

// Func makes a Lua function of a Go function: see [vm.Guard]. Errors that are,
// or wrap, a [walberr.Error] show its fields to scripts.
func Func(op string, fn func(L *lua.LState) (int, error)) lua.LGFunction {
	return vm.Guard(op, func(L *lua.LState) (int, error) {
		n, err := fn(L)
		if err != nil {
			return 0, Adapt(err)
		}
		return n, nil
	})
}

// Raise raises err as a Lua error, its fields included. It does not return.
func Raise(L *lua.LState, err error) { vm.Raise(L, Adapt(err)) }

// Hint gives advice for errors that Lua itself raises about the kit's values,
// or "". It fits [vm.Options].Hint.
func Hint(message string) string {
	switch {
	case strings.Contains(message, "attempt to compare") && strings.Contains(message, "userdata"):
		return "order 64-bit numbers with u64.lt(a, b) or u64.le(a, b)"
	case strings.Contains(message, "table expected, got userdata"):
		return "only tables can be walked with pairs and ipairs"
	}
	return ""
}
