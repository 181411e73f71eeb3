// Package bindings is the registry of everything that scripts can call: an
// explicit list of modules, of which each verb has one entry (see [kit.Verb])
// that gives the Lua function, its argument checks, its help, its completion
// and its danger tier.
//
// What may come in: [kit.Module] values; [New] refuses a list in which
// any field of any entry is missing. Nothing registers itself.
//
// [Registry.Install] sets, in one Lua state:
//
//	MODULE.VERB(...)         the verb; MODULE:VERB(...) is the same
//	MODULE.async.VERB(...)   the same in the background: gives a future
//	MODULE.CONSTANT
//	try(f, ...)              the results of f(...), or nil and the error
//	parallel{f, g, ...}      waits for many futures and gives their results
//	u64                      64-bit numbers
//	help                     help(), help(MODULE.VERB), help("VERB"), help.verbs()
//
// try and parallel are members of each module too. Reading a name that a
// module does not have raises with the nearest one.
package bindings

import (
	"context"
	"fmt"
	"io"
	"slices"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

// Registry is a checked list of modules. It is read-only and may serve many
// states.
type Registry struct {
	modules []kit.Module
}

// New makes a registry. The error names every fault of every entry.
func New(modules ...kit.Module) (*Registry, error) {
	r := &Registry{}
	seen := map[string]bool{}
	for _, m := range modules {
		if err := m.Validate(); err != nil {
			return nil, err
		}
		if seen[m.Name] {
			return nil, fmt.Errorf("module %s is there twice", m.Name)
		}
		seen[m.Name] = true
		verbs := make([]kit.Verb, len(m.Verbs))
		for i, v := range m.Verbs {
			if v.Tier == kit.Destructive {
				v.Params = append(slices.Clip(v.Params), kit.Param{
					Name: "confirm", PyName: "confirm", Type: kit.String,
					Doc: "the volume's name once more; asked for at a prompt, needed in a script",
				})
			}
			verbs[i] = v
		}
		m.Verbs = verbs
		r.modules = append(r.modules, m)
	}
	return r, nil
}

// Modules gives the modules, each destructive verb with its parameter confirm.
func (r *Registry) Modules() []kit.Module { return r.modules }

// Host is what verbs need from the program they run in.
type Host struct {
	VM      *vm.VM
	Futures *kit.Futures // owns the work of MODULE.async verbs
	Out     io.Writer    // where help prints
	// Confirm asks the user a question and gives the answer. It is nil where
	// nobody can be asked, as in a script.
	Confirm func(ctx context.Context, question string) (string, error)
}

// Session is a registry installed in one state. Its methods are for the
// goroutine that owns the state.
type Session struct {
	registry  *Registry
	host      Host
	functions map[*lua.LFunction]entry
	tables    map[*lua.LTable]*kit.Module
}

// entry is one verb as it is installed.
type entry struct {
	module *kit.Module
	verb   *kit.Verb
	async  bool
}

// name is how scripts call the entry.
func (e entry) name() string {
	if e.async {
		return e.module.Name + ".async." + e.verb.Name
	}
	return e.module.Name + "." + e.verb.Name
}

// Install sets the globals. The error says which constant has no Lua form.
func (r *Registry) Install(h Host) (*Session, error) {
	s := &Session{
		registry: r, host: h,
		functions: map[*lua.LFunction]entry{}, tables: map[*lua.LTable]*kit.Module{},
	}
	L := h.VM.State()
	kit.OpenU64(L)
	L.SetGlobal("try", L.NewFunction(kit.Try))
	L.SetGlobal("parallel", L.NewFunction(kit.Func("parallel", kit.Parallel)))
	L.SetGlobal("help", s.helpTable(L))
	for i := range r.modules {
		if err := s.installModule(L, &r.modules[i]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Session) installModule(L *lua.LState, m *kit.Module) error {
	t, async := L.NewTable(), L.NewTable()
	s.tables[t] = m
	names := []string{"async", "try", "parallel"}
	var verbs []string
	for i := range m.Verbs {
		v := &m.Verbs[i]
		verbs = append(verbs, v.Name)
		s.installVerb(L, t, entry{module: m, verb: v})
		s.installVerb(L, async, entry{module: m, verb: v, async: true})
	}
	for _, c := range m.Constants {
		names = append(names, c.Name)
		value, err := kit.ToLua(L, c.Value)
		if err != nil {
			return fmt.Errorf("%s.%s: %w", m.Name, c.Name, err)
		}
		t.RawSetString(c.Name, value)
	}
	s.tables[async] = m
	t.RawSetString("async", async)
	t.RawSetString("try", L.NewFunction(withoutSelf(t, kit.Try)))
	t.RawSetString("parallel", L.NewFunction(withoutSelf(t, kit.Func("parallel", kit.Parallel))))
	t.Metatable = strict(L, m.Name, append(names, verbs...))
	async.Metatable = strict(L, m.Name+".async", verbs)
	L.SetGlobal(m.Name, t)
	return nil
}

// withoutSelf drops the module in front of the arguments of a colon call.
func withoutSelf(self *lua.LTable, fn lua.LGFunction) lua.LGFunction {
	return func(L *lua.LState) int {
		if L.Get(1) == self {
			L.Remove(1)
		}
		return fn(L)
	}
}

// strict is the metatable of a table in which reading an unknown name raises.
func strict(L *lua.LState, table string, names []string) *lua.LTable {
	mt := L.NewTable()
	mt.RawSetString("__metatable", lua.LString("locked"))
	mt.RawSetString("__index", L.NewFunction(kit.Func(table, func(L *lua.LState) (int, error) {
		return 0, kit.NoSuchName(table, L.Get(2).String(), names)
	})))
	return mt
}

func (s *Session) installVerb(L *lua.LState, t *lua.LTable, e entry) {
	fn := L.NewFunction(kit.Func(e.name(), func(L *lua.LState) (int, error) {
		a, err := kit.ParseArgs(L, e.name(), e.verb, t)
		if err != nil {
			return 0, err
		}
		if e.verb.Tier == kit.Destructive {
			if err := s.confirm(L.Context(), e, a); err != nil {
				return 0, err
			}
		}
		if e.async {
			f := s.host.Futures.Go(e.verb.Name, func(ctx context.Context) (any, error) { return e.verb.Run(ctx, a) })
			L.Push(kit.FutureClass().New(L, f))
			return 1, nil
		}
		result, err := e.verb.Run(L.Context(), a)
		if err != nil {
			return 0, err
		}
		return kit.Push(L, result)
	}))
	s.functions[fn] = e
	t.RawSetString(e.verb.Name, fn)
}

// confirm makes sure that the caller of a destructive verb means the volume
// it named.
func (s *Session) confirm(ctx context.Context, e entry, a kit.Args) error {
	vol := kit.Get[string](a, "vol")
	refuse := func(found, hint string) error {
		return &walberr.Error{Op: e.name(), Volume: vol, Code: walberr.Usage, Found: found, Hint: hint}
	}
	answer := kit.Get[string](a, "confirm")
	if !a.Given("confirm") {
		if s.host.Confirm == nil {
			return refuse("this loses data and is not confirmed", fmt.Sprintf("add {confirm=%q}", vol))
		}
		var err error
		if answer, err = s.host.Confirm(ctx, fmt.Sprintf("%s loses data. Type the volume's name to go on: ", e.name())); err != nil {
			return err
		}
	}
	if answer != vol {
		return refuse(fmt.Sprintf("the confirmation %q is not the volume's name", answer), "nothing was changed")
	}
	return nil
}
