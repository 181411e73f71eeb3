package group

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// each asks the servers at the same time and gives the answers in their order.
// When some fail, the error names all of those.
func each[T any](ctx context.Context, servers []Server, ask func(ctx context.Context, s Server) (T, error)) ([]T, error) {
	answers := make([]T, len(servers))
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() { answers[i], errs[i] = ask(ctx, s) })
	}
	wg.Wait()
	return answers, joined(servers, errs)
}

// joined makes one error of those of several servers.
func joined(servers []Server, errs []error) error {
	var names, texts []string
	var first error
	for i, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		names = append(names, servers[i].Name)
		texts = append(texts, err.Error())
	}
	if len(names) < 2 {
		return first
	}
	return &walberr.Error{
		Op: "ask", Server: strings.Join(names, ", "), Code: walberr.CodeOf(first), Found: strings.Join(texts, "; "),
	}
}

// unknownVolume makes the error of a volume that a server does not know, with
// a hint at the names that it knows.
func (g *Group) unknownVolume(ctx context.Context, op string, s Server, vol string) error {
	names, err := g.Client(s).Volumes(ctx)
	if err != nil {
		return err
	}
	return &walberr.Error{
		Op: op, Server: s.Name, Volume: vol, Code: walberr.NotFound,
		Found: s.Name + " does not know this volume", Hint: nearHint(vol, names),
	}
}

// knownSomewhere fails with NotFound when no server of the layout, and none of
// the others either, knows the volume. A server that does not answer may.
func (g *Group) knownSomewhere(ctx context.Context, op, vol string, others ...Server) error {
	all := g.Layout().All()
	for _, s := range others {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	type answer struct {
		names []string
		err   error
	}
	answers, _ := each(ctx, all, func(ctx context.Context, s Server) (answer, error) {
		names, err := g.Client(s).Volumes(ctx)
		return answer{names, err}, nil
	})
	known := map[string]bool{}
	for _, a := range answers {
		if a.err != nil {
			return nil //nolint:nilerr // a server that does not answer may know it
		}
		for _, n := range a.names {
			known[n] = true
		}
	}
	if known[vol] {
		return nil
	}
	return &walberr.Error{
		Op: op, Volume: vol, Code: walberr.NotFound, Found: "no server of the group knows this volume",
		Hint: nearHint(vol, slices.Sorted(maps.Keys(known))),
	}
}

// proxyFact is what a proxy knew of a volume at one moment.
type proxyFact struct {
	server   Server
	state    fsm.ProxyState              // steady: Clear, Stopped or Started
	archives map[string]wire.ArchiveInfo // registered archives by name
}

// runs reports whether the proxy took logs and sent diffs.
func (f proxyFact) runs() bool { return f.state == fsm.ProxyStarted }

// has reports whether the archive was registered.
func (f proxyFact) has(ax Server) bool {
	_, ok := f.archives[ax.Name]
	return ok
}

// lookProxies learns what every proxy of the layout knows of a volume. It
// waits for proxies that are between two states.
func (g *Group) lookProxies(ctx context.Context, op, vol string) ([]proxyFact, error) {
	proxies := g.Layout().Proxies
	if len(proxies) == 0 {
		return nil, &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Usage, Found: "the layout has no proxy", Expected: "at least one",
		}
	}
	return each(ctx, proxies, func(ctx context.Context, px Server) (proxyFact, error) {
		return g.lookProxy(ctx, px, vol)
	})
}

// lookProxy learns what one proxy knows of a volume.
func (g *Group) lookProxy(ctx context.Context, px Server, vol string) (proxyFact, error) {
	f := proxyFact{server: px, archives: map[string]wire.ArchiveInfo{}}
	w := wait{op: "get state", server: px.Name, volume: vol, expected: "a steady state"}
	err := await(ctx, 0, w, func(ctx context.Context) (string, bool, error) {
		s, err := g.proxyState(ctx, px, vol)
		f.state = s
		return "state " + s.String(), s.Steady(), err
	})
	if err != nil {
		return f, err
	}
	names, err := g.Client(px).ArchiveInfoList(ctx, vol)
	if err != nil {
		return f, err
	}
	for _, name := range names {
		info, err := g.Client(px).ArchiveInfoGet(ctx, vol, name)
		if err != nil {
			return f, err
		}
		f.archives[name] = info
	}
	return f, nil
}

// proxyState asks for a proxy's state of a volume. Receiving a log counts as
// being started.
func (g *Group) proxyState(ctx context.Context, px Server, vol string) (fsm.ProxyState, error) {
	word, err := g.Client(px).State(ctx, vol)
	if err != nil {
		return 0, err
	}
	s, err := fsm.ParseProxyState(word)
	if err != nil {
		return 0, notThatKind(px, vol, word)
	}
	if s == fsm.ProxyWlogRecv {
		s = fsm.ProxyStarted
	}
	return s, nil
}

// archiveState asks for an archive's state of a volume.
func (g *Group) archiveState(ctx context.Context, ax Server, vol string) (fsm.ArchiveState, error) {
	word, err := g.Client(ax).State(ctx, vol)
	if err != nil {
		return 0, err
	}
	s, err := fsm.ParseArchiveState(word)
	if err != nil {
		return 0, notThatKind(ax, vol, word)
	}
	return s, nil
}

// storageState asks for a storage's state of a volume.
func (g *Group) storageState(ctx context.Context, sx Server, vol string) (fsm.StorageState, error) {
	word, err := g.Client(sx).State(ctx, vol)
	if err != nil {
		return 0, err
	}
	s, err := fsm.ParseStorageState(word)
	if err != nil {
		return 0, notThatKind(sx, vol, word)
	}
	return s, nil
}

// notThatKind is the error of a server that answers with a state of another
// kind of server: the layout is wrong.
func notThatKind(s Server, vol, word string) error {
	return &walberr.Error{
		Op: "get state", Server: s.Name, Volume: vol, Code: walberr.Usage,
		Found: fmt.Sprintf("state %q", word), Expected: "a state of " + s.Kind.article(),
		Hint: "does the layout name the right port for " + s.Name + "?",
	}
}

// active reports whether an archive in that state serves its volume: it can
// list, restore and replicate.
func active(s fsm.ArchiveState) bool { return slices.Contains(fsm.ArchiveActive(), s) }
