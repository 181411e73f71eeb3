package group

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Synchronize makes dst a live target of a volume, with no gap:
//
//  1. stop all running proxies, when they have delivered what they hold;
//  2. add dst to the list of archives at all proxies;
//  3. copy what dst lacks from src, as [Group.ReplicateOnce], and let dst take
//     the log that src takes;
//  4. start the proxies that ran;
//  5. kick the storages, and check that the proxies run, have dst, and hold
//     nothing that dst cannot take.
//
// src must be synchronizing itself, or it would lack what the proxies deliver.
// Everything that can be known to fail is refused before step 1. If a step
// fails, or the deadline or the caller ends it, the proxies get the lists and
// run states that they had before.
//
// A dst that is synchronizing already, with the same address and options, is
// only copied to: no proxy stops, since all that follows is queued for dst. The
// copy is repeated until what is queued joins, so that a gap left by others is
// filled, too.
//
// A proxy that was stopped on purpose stays stopped. It is refused if it holds
// diffs that dst would never get.
func (g *Group) Synchronize(ctx context.Context, src Server, vol string, dst Server, opt SynchronizeOptions) (SyncResult, error) {
	return g.synchronize(ctx, "synchronize", src, vol, dst, ReplicateOptions{Timeout: opt.Timeout, Sync: opt.Sync}, false)
}

// syncer makes an archive a live target.
type syncer struct {
	g       *Group
	op      string
	vol     string
	first   *copier // made before the proxies stop; nil if there is none
	copier  *copier // made while they stand still
	facts   []proxyFact
	changes []*proxyChange
	already bool
}

func (g *Group) synchronize(ctx context.Context, op string, src Server, vol string, dst Server, opt ReplicateOptions, copyFirst bool) (SyncResult, error) {
	began := time.Now()
	s := &syncer{g: g, op: op, vol: vol, copier: g.newCopier(op, src, vol, dst, ReplicateOptions{
		DontMerge: opt.DontMerge, Sync: opt.Sync,
	})}
	if copyFirst {
		s.first = g.newCopier(op, src, vol, dst, opt)
	}
	if err := s.copier.checkArgs(); err != nil {
		return SyncResult{}, err
	}
	warnings, err := g.run(ctx, opt.Timeout, plan.Spec{Op: op, Volume: vol, Build: s.build})
	if err != nil {
		return SyncResult{}, err
	}
	out := SyncResult{
		Copy: s.copier.out, Already: s.already, Pauses: pauses(s.changes), Elapsed: time.Since(began), Warnings: warnings,
	}
	if s.first != nil {
		out.First = &s.first.out
	}
	return out, nil
}

// build looks at the archives and the proxies and makes the plan.
func (s *syncer) build(ctx context.Context) (*plan.Plan, error) {
	early := s.copier
	if s.first != nil {
		early = s.first
	}
	if err := early.look(ctx); err != nil {
		return nil, err
	}
	s.copier.talks = early.talks
	facts, err := s.g.lookProxies(ctx, s.op, s.vol)
	if err != nil {
		return nil, err
	}
	s.facts = facts
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	p := plan.New(s.op, s.vol)
	if s.already {
		s.copier, s.first = early, nil
		return s.finish(early.steps(p), []plan.Step{s.kickDst()}), nil
	}
	if s.first != nil {
		s.first.steps(p)
	}
	stopAndChange(p, s.changes)
	if s.first == nil && early.fresh {
		p.Then(early.initStep())
	}
	last := s.copier.copyStep()
	last.Pre = s.copier.aimAtEnd
	last.Do = func(ctx context.Context) error {
		if err := s.copier.copy(ctx); err != nil {
			return err
		}
		return s.adoptLog(ctx)
	}
	p.Then(last)
	startAll(p, s.changes)
	return s.finish(p, s.g.kickSteps()), nil
}

// finish appends the kicks and the check that dst is synchronizing.
func (s *syncer) finish(p *plan.Plan, kicks []plan.Step) *plan.Plan {
	dst := s.copier.dst
	return p.Then(kicks...).Then(plan.Step{
		Name: "check that " + dst.Name + " is synchronizing", Server: dst.Name, Do: s.verify,
	})
}

// adoptLog gives dst the log life of src. Copied diffs do not bring it, and
// after a hash backup dst would refuse all that comes from the proxies.
func (s *syncer) adoptLog(ctx context.Context) error {
	want, err := s.g.Client(s.copier.src).UUID(ctx, s.vol)
	if err != nil {
		return err
	}
	dst := s.g.Client(s.copier.dst)
	have, err := dst.UUID(ctx, s.vol)
	if err != nil || have == want {
		return err
	}
	return dst.SetUUID(ctx, s.vol, want)
}

// kickDst makes the proxies send to dst now; after an outage their next try may
// be minutes away.
func (s *syncer) kickDst() plan.Step {
	return plan.Step{
		Name: "kick the proxies for " + s.copier.dst.Name, Lenient: true,
		Do: func(ctx context.Context) error { return s.g.kickProxies(ctx, s.facts, s.vol, s.copier.dst) },
	}
}

// check refuses proxies with which the volume cannot become synchronizing, and
// decides what has to change at which.
func (s *syncer) check(ctx context.Context) error {
	src, dst := s.copier.src, s.copier.dst
	var unaware []string
	for _, f := range s.facts {
		if f.state == fsm.ProxyClear {
			unaware = append(unaware, f.server.Name)
		}
	}
	if len(unaware) > 0 {
		return &walberr.Error{
			Op: s.op, Server: strings.Join(unaware, ", "), Volume: s.vol, Code: walberr.BadState,
			Found: "the proxy does not know the volume", Expected: src.Name + " in its list of archives",
			Hint: fmt.Sprintf("full_backup registers the primary everywhere; add_archive_to_proxy(%s, %q, %s) does it at one proxy",
				unaware[0], s.vol, src.Name),
		}
	}
	s.already = true
	for _, f := range s.facts {
		if !f.has(src) {
			return &walberr.Error{
				Op: s.op, Server: f.server.Name, Volume: s.vol, Code: walberr.BadState,
				Found: src.Name + " is not registered there", Expected: "a source that is synchronizing",
				Hint: "take an archive that is, or " + dst.Name + " would miss what " + src.Name + " does not get",
			}
		}
		info := registration(f, dst, s.copier.opt.Sync)
		change := s.g.changeTo(s.vol, f, client.StopEmpty, f.with(dst, info))
		s.changes = append(s.changes, change)
		s.already = s.already && maps.Equal(f.archives, change.want)
		if err := s.checkStopped(ctx, f); err != nil {
			return err
		}
	}
	if s.already {
		s.changes = nil
	}
	return nil
}

// checkStopped refuses a stopped proxy that holds diffs for others which dst
// would never get from it.
func (s *syncer) checkStopped(ctx context.Context, f proxyFact) error {
	if f.runs() || f.has(s.copier.dst) {
		return nil
	}
	diffs, err := s.g.Client(f.server).ProxyDiffs(ctx, s.vol, s.copier.src.Name)
	if err != nil || len(diffs) == 0 {
		return err
	}
	return &walberr.Error{
		Op: s.op, Server: f.server.Name, Volume: s.vol, Code: walberr.BadState,
		Found:    fmt.Sprintf("the proxy is stopped and holds %s for %s", count(len(diffs), "diff"), s.copier.src.Name),
		Expected: "none", Hint: fmt.Sprintf("start(%s, %q) lets it deliver them", f.server.Name, s.vol),
	}
}

// verify checks that dst is synchronizing: every proxy has it, those that ran
// run, and what waits there for dst joins what it has. Where it does not join
// yet since the source itself was behind, the copy is repeated. A server that
// went away since is a warning.
func (s *syncer) verify(ctx context.Context) error {
	dst := s.copier.dst
	ok, err := s.g.isSynchronizing(ctx, s.op, dst, s.vol)
	if err != nil {
		return err
	}
	if !ok {
		return s.copier.refuse(dst, walberr.BadState, "no proxy has it in its list", "all", otherSession)
	}
	until := time.Now().Add(s.g.opts.Busy)
	w := wait{op: s.op, server: dst.Name, volume: s.vol, expected: "the waiting diffs to join"}
	return await(ctx, s.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		gap, err := s.gap(ctx)
		if err != nil && momentary(err) && ctx.Err() == nil {
			plan.Warn(ctx, err) // everything is in place; the proxies deliver when it is back
			return "", true, nil
		}
		if err != nil || gap == "" {
			return "", err == nil, err
		}
		if time.Now().After(until) {
			return "", false, s.copier.refuse(dst, walberr.BadState, gap, "diffs that join",
				fmt.Sprintf("stop_synchronizing(%s, %q), then synchronize again", dst.Name, s.vol))
		}
		return gap, false, s.copyMore(ctx)
	})
}

// gap tells which waiting diffs do not join what dst has, "" if all do.
func (s *syncer) gap(ctx context.Context) (string, error) {
	dst := s.copier.dst
	latest, err := s.g.Client(dst).MetaSnap(ctx, s.vol, meta.MaxGid)
	if err != nil {
		return "", err
	}
	var gaps []string
	for _, f := range s.facts {
		diffs, err := s.g.Client(f.server).ProxyDiffs(ctx, s.vol, dst.Name)
		if err != nil {
			return "", err
		}
		if len(diffs) > 0 && diffs[0].B.B > latest.B {
			gaps = append(gaps, fmt.Sprintf("%s at %s", diffs[0].B, f.server.Name))
		}
	}
	if len(gaps) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%s has %s, and the next diffs begin at %s", dst.Name, latest, strings.Join(gaps, ", ")), nil
}

// copyMore copies again if the source has more than the destination by now.
func (s *syncer) copyMore(ctx context.Context) error {
	if err := s.copier.aimAtEnd(ctx); err != nil {
		return err
	}
	reached, err := s.copier.reached(ctx)
	if err != nil || reached {
		return err
	}
	return s.copier.copy(ctx)
}

// StopSynchronizing takes an archive out of a volume's list of archives at all
// proxies: stop those that run, delete, start them again, kick the storages.
// The archive keeps its data and is no longer updated. Nothing that others wait
// for is lost: an interrupted transfer is repeated.
//
// Diffs that waited for the archive are dropped, and the result says how many.
// Nothing is refused for the primary archive either; the result says what that
// means.
//
// If a step fails, the proxies run again as before; where diffs were dropped
// already, the archive stays removed, since registering it again would hide
// the gap.
func (g *Group) StopSynchronizing(ctx context.Context, ax Server, vol string) (StopResult, error) {
	const op = "stop_synchronizing"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return StopResult{}, err
	}
	var changes []*proxyChange
	build := func(ctx context.Context) (*plan.Plan, error) {
		facts, err := g.lookProxies(ctx, op, vol)
		if err != nil {
			return nil, err
		}
		known := false
		for _, f := range facts {
			known = known || f.state != fsm.ProxyClear
			if f.has(ax) {
				changes = append(changes, g.changeTo(vol, f, client.StopForce, f.without(ax)))
			}
		}
		p := plan.New(op, vol)
		switch {
		case len(changes) > 0:
			stopAndChange(p, changes)
			startAll(p, changes)
			p.Then(g.kickSteps()...)
		case !known:
			return p, g.knownSomewhere(ctx, op, vol, ax)
		}
		return p, nil
	}
	warnings, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	if err != nil {
		return StopResult{}, err
	}
	out := StopResult{Pauses: pauses(changes)}
	for _, c := range changes {
		out.Removed = append(out.Removed, c.name())
		if n := c.dropped[ax.Name]; n > 0 {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s that waited at %s for %s dropped", count(n, "diff"), c.name(), ax.Name))
		}
		if len(c.want) == 0 {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s has no archive left for the volume and forgot it", c.name()))
		}
	}
	out.Warnings = append(out.Warnings, g.primaryWarning(ax, len(changes) > 0)...)
	out.Warnings = append(out.Warnings, warnings...)
	return out, nil
}

// primaryWarning says what the removal of the primary archive means.
func (g *Group) primaryWarning(ax Server, removed bool) []string {
	primary, err := g.Layout().Primary()
	if err != nil || primary != ax || !removed {
		return nil
	}
	return []string{ax.Name + " is the primary: it misses what is written from now on, and a full or hash backup is needed to make it whole"}
}

// StartSynchronizing registers an archive at all proxies and starts those that
// run or know nothing of the volume yet. It does not bring the archive up to
// date: that is right only for the target of a backup that follows; use
// [Group.Synchronize] for anything else.
func (g *Group) StartSynchronizing(ctx context.Context, ax Server, vol string, opt *SyncOpt) error {
	const op = "start_synchronizing"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		facts, err := g.lookProxies(ctx, op, vol)
		if err != nil {
			return nil, err
		}
		var changes []*proxyChange
		for _, f := range facts {
			c := g.changeTo(vol, f, client.StopForce, f.with(ax, registration(f, ax, opt)))
			if f.state == fsm.ProxyClear {
				c.run = true
			}
			if !maps.Equal(f.archives, c.want) {
				changes = append(changes, c)
			}
		}
		p := plan.New(op, vol)
		stopAndChange(p, changes)
		startAll(p, changes)
		return p.Then(g.kickSteps()...), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

// AddArchiveToProxy registers an archive at one proxy, with the proxy stopped
// meanwhile. With start, a proxy that knew nothing of the volume is started;
// one that ran runs again in any case.
func (g *Group) AddArchiveToProxy(ctx context.Context, px Server, vol string, ax Server, start bool, opt *SyncOpt) error {
	const op = "add_archive_to_proxy"
	return g.changeOne(ctx, op, px, vol, ax, client.StopForce, func(f proxyFact, c *proxyChange) {
		c.want = f.with(ax, registration(f, ax, opt))
		c.run = f.runs() || start
	})
}

// DelArchiveFromProxy takes an archive out of the list at one proxy. With
// stopEmpty the proxy delivers everything first; otherwise the diffs that wait
// for the archive are dropped.
func (g *Group) DelArchiveFromProxy(ctx context.Context, px Server, vol string, ax Server, stopEmpty bool) error {
	const op = "del_archive_from_proxy"
	mode := client.StopForce
	if stopEmpty {
		mode = client.StopEmpty
	}
	return g.changeOne(ctx, op, px, vol, ax, mode, func(f proxyFact, c *proxyChange) {
		c.want = f.without(ax)
		c.run = f.runs() && len(c.want) > 0
	})
}

// changeOne changes the list of one proxy.
func (g *Group) changeOne(ctx context.Context, op string, px Server, vol string, ax Server, mode client.StopMode, set func(proxyFact, *proxyChange)) error {
	if err := firstError(arg(op, "px", px, Proxy), volumeArg(op, vol), arg(op, "ax", ax, Archive)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		f, err := g.lookProxy(ctx, px, vol)
		if err != nil {
			return nil, err
		}
		c := g.changeTo(vol, f, mode, map[string]wire.ArchiveInfo{})
		set(f, c)
		p := plan.New(op, vol)
		if !maps.Equal(f.archives, c.want) || c.run && !f.runs() {
			stopAndChange(p, []*proxyChange{c})
			startAll(p, []*proxyChange{c})
		}
		return p, nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}
