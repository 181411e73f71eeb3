// Package walbc is the operators' Lua module: every operation of package
// group under the name and with the arguments that operators know from the
// Python session.
//
//	walbc.replicate_once(a0, vol, a1, timeoutS)
//	walbc.replicate(a0, vol, a1, false, timeoutS)
//	walbc.synchronize(a0, vol, a1, {timeout_s = 60})
//
// It also makes the values that scripts work with: servers, by [Servers], and
// the module group, by which a script uses the volume itself ([Disk]).
//
// What may come in: one group.Group per session. A verb is one operation of the
// group; nothing is composed here.
package walbc

import (
	"context"
	"fmt"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
)

// Session is what the verbs of one Lua state work on.
type Session struct {
	Group *group.Group
	// Notice prints a line for the operator, beside results. It is called from
	// any goroutine. nil prints nothing.
	Notice func(line string)
}

func (s *Session) notice(format string, args ...any) {
	if s.Notice != nil {
		s.Notice(fmt.Sprintf(format, args...))
	}
}

// Module gives the module walbc.
func Module(s *Session) kit.Module {
	return kit.Module{
		Name:    "walbc",
		Summary: "operate a backup group: replicate, synchronize, back up, restore",
		Verbs: slices.Concat(
			s.synchronizing(), s.replication(), s.backup(), s.restoring(), s.exporting(), s.upkeep(), s.lifecycle(), s.queries()),
		Constants: []kit.Constant{
			{Name: "GID_MAX", Doc: "the all-ones gid, at which a volume is that was never synchronized", Value: uint64(meta.MaxGid)},
			{Name: "TIMEOUT_SEC", Doc: "default limit of long operations, in seconds", Value: int(group.DefaultTimeout.Seconds())},
		},
	}
}

// serverClass is the userdata of servers.
var serverClass = &kit.Class[group.Server]{
	Name: "server",
	Text: func(s group.Server) string { return fmt.Sprintf("%s (%s %s)", s.Name, s.Kind, s.Addr()) },
	Fields: map[string]func(group.Server) any{
		"name":    func(s group.Server) any { return s.Name },
		"kind":    func(s group.Server) any { return s.Kind.String() },
		"address": func(s group.Server) any { return s.Host },
		"port":    func(s group.Server) any { return int(s.Port) },
		"dir":     func(s group.Server) any { return s.Dir },
	},
}

// Servers sets a global for each server of the layout, by its name, and ax for
// the last archive, which the manual uses for any archive, unless a server is
// called so. Where a name means something else already, that stays, and the
// server gets the name with "_" behind it; the result gives those names by the
// servers'. The modules and whatever else has a name are to be there before.
func Servers(L *lua.LState, l group.Layout) (renamed map[string]string) {
	renamed = map[string]string{}
	for _, s := range l.All() {
		name := s.Name
		for L.GetGlobal(name) != lua.LNil {
			name += "_"
		}
		if name != s.Name {
			renamed[s.Name] = name
		}
		L.SetGlobal(name, serverClass.New(L, s))
	}
	if n := len(l.Archives); n > 0 && L.GetGlobal("ax") == lua.LNil {
		L.SetGlobal("ax", serverClass.New(L, l.Archives[n-1]))
	}
	return renamed
}

// server is the parameter type of a server of one of some kinds.
func server(want string, kinds ...group.Kind) kit.Type {
	return kit.Type{
		Name: want,
		From: func(v lua.LValue) (any, error) {
			s, ok := serverClass.From(v)
			if !ok {
				return nil, kit.Mismatch(want, v)
			}
			if !slices.Contains(kinds, s.Kind) {
				return nil, fmt.Errorf("wants %s, got the %s %s", want, s.Kind, s.Name)
			}
			return s, nil
		},
	}
}

var (
	storageType = server("a storage server", group.Storage)
	proxyType   = server("a proxy server", group.Proxy)
	archiveType = server("an archive server", group.Archive)
	serverType  = server("a server", group.Storage, group.Proxy, group.Archive)
)

// The parameters that many verbs share.

func sourceParam() kit.Param {
	return kit.Param{Name: "a_src", PyName: "aSrc", Type: archiveType, Required: true, Doc: "archive to copy from"}
}

func destParam() kit.Param {
	return kit.Param{Name: "a_dst", PyName: "aDst", Type: archiveType, Required: true, Doc: "archive to copy to"}
}

func archiveParam(doc string) kit.Param {
	return kit.Param{Name: "ax", PyName: "ax", Type: archiveType, Required: true, Doc: doc}
}

func storageParam() kit.Param {
	return kit.Param{Name: "sx", PyName: "sx", Type: storageType, Required: true, Doc: "storage that has the volume"}
}

func proxyParam() kit.Param {
	return kit.Param{Name: "px", PyName: "px", Type: proxyType, Required: true, Doc: "proxy"}
}

func serverParam() kit.Param {
	return kit.Param{Name: "s", PyName: "s", Type: serverType, Required: true, Doc: "server of any kind"}
}

func volParam() kit.Param {
	return kit.Param{Name: "vol", PyName: "vol", Type: kit.String, Required: true, Doc: "name of the volume"}
}

func gidParam(doc string) kit.Param {
	return kit.Param{Name: "gid", PyName: "gid", Type: kit.Uint64, Required: true, Doc: doc}
}

func timeoutParam() kit.Param {
	return kit.Param{
		Name: "timeout_s", PyName: "timeoutS", Type: kit.Seconds, Default: group.DefaultTimeout,
		Doc: "limit of the whole operation; what was changed is brought back when it passes",
	}
}

// Readers of arguments.

func vol(a kit.Args) string                { return kit.Get[string](a, "vol") }
func timeout(a kit.Args) time.Duration     { return kit.Get[time.Duration](a, "timeout_s") }
func gid(a kit.Args) meta.Gid              { return meta.Gid(kit.Get[uint64](a, "gid")) }
func ax(a kit.Args) group.Server           { return kit.Get[group.Server](a, "ax") }
func at(a kit.Args, p string) group.Server { return kit.Get[group.Server](a, p) }

// nothing adapts an operation without a result.
func nothing(do func(ctx context.Context, a kit.Args) error) func(context.Context, kit.Args) (any, error) {
	return func(ctx context.Context, a kit.Args) (any, error) { return nil, do(ctx, a) }
}

// warn tells the operator what went wrong without spoiling the result.
func (s *Session) warn(warnings []string) {
	for _, w := range warnings {
		s.notice("warning: %s", w)
	}
}

// jobLines are the lines of walbc.jobs.
func jobLines(list []plan.Info) []string {
	lines := make([]string, 0, len(list))
	for _, i := range list {
		lines = append(lines, fmt.Sprintf("job %d %s %s: %s, %s at %s", i.ID, i.Op, i.Volume, i.State, i.Step, i.Server))
	}
	return lines
}
