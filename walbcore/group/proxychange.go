package group

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// proxyChange changes the archives that a proxy has for a volume: it stops the
// proxy if it runs, changes the list, and starts it again, as steps of a plan
// that do the same at other proxies; and it can bring back what was before.
// Its steps run one after the other, never at the same time.
type proxyChange struct {
	g      *Group
	vol    string
	before proxyFact
	mode   client.StopMode
	want   map[string]wire.ArchiveInfo // the list afterwards
	run    bool                        // whether the proxy shall run afterwards
	keep   func() bool                 // when it says true, restore does nothing; may be nil
	renew  string                      // archive whose entry is made anew, so that nothing waits for it

	started  bool           // a start was sent: that it runs is this change's doing
	others   bool           // restore found it running by somebody else's doing
	stopSent time.Time      // a stop was sent and its end not seen yet; zero if none
	pausedAt time.Time      // when the first stop was sent
	paused   time.Duration  // until it was seen running again
	dropped  map[string]int // diffs that were lost with removed archives
}

// changeTo prepares a change of a proxy. It stops in the given mode, and runs
// afterwards if it ran before.
func (g *Group) changeTo(vol string, before proxyFact, mode client.StopMode, want map[string]wire.ArchiveInfo) *proxyChange {
	return &proxyChange{
		g: g, vol: vol, before: before, mode: mode, want: want, run: before.runs() && len(want) > 0,
		dropped: map[string]int{},
	}
}

// registration is how an archive shall be registered: as it is, or with the
// default options if it is not, with the address of the layout, and with the
// options that were given.
func registration(f proxyFact, ax Server, opt *SyncOpt) wire.ArchiveInfo {
	info, ok := f.archives[ax.Name]
	if !ok {
		info.Compress = compress.Opt{Type: compress.Snappy, CPUs: 1}
	}
	info.Addr = wire.Addr{Host: ax.Host, Port: ax.Port}
	if opt != nil {
		info.Compress, info.SendDelay = opt.Compress, uint32(opt.Delay/time.Second)
	}
	return info
}

// with gives the proxy's list with the archive in it.
func (f proxyFact) with(ax Server, info wire.ArchiveInfo) map[string]wire.ArchiveInfo {
	want := maps.Clone(f.archives)
	want[ax.Name] = info
	return want
}

// without gives the proxy's list without the archive.
func (f proxyFact) without(ax Server) map[string]wire.ArchiveInfo {
	want := maps.Clone(f.archives)
	delete(want, ax.Name)
	return want
}

func (c *proxyChange) name() string { return c.before.server.Name }

func (c *proxyChange) client() *client.Client { return c.g.Client(c.before.server) }

func (c *proxyChange) wait(op, expected string) wait {
	return wait{op: op, server: c.name(), volume: c.vol, expected: expected}
}

func (c *proxyChange) refuse(op string, code walberr.Code, found, expected, hint string) error {
	return &walberr.Error{
		Op: op, Server: c.name(), Volume: c.vol, Code: code, Found: found, Expected: expected, Hint: hint,
	}
}

// stopAndChange appends to the plan: stop all that run, at the same time; then
// change all lists, at the same time.
func stopAndChange(p *plan.Plan, changes []*proxyChange) {
	var stops, lists []plan.Step
	for _, c := range changes {
		if c.before.runs() {
			stops = append(stops, c.stopStep())
		}
		lists = append(lists, c.changeStep())
	}
	p.Then(stops...).Then(lists...)
}

// startAll appends to the plan: start all that shall run, at the same time.
func startAll(p *plan.Plan, changes []*proxyChange) {
	var starts []plan.Step
	for _, c := range changes {
		if c.run {
			starts = append(starts, plan.Step{
				Name: "start " + c.name(), Server: c.name(), Do: c.start,
			})
		}
	}
	p.Then(starts...)
}

// pauses lists how long the proxies stood still.
func pauses(changes []*proxyChange) []Pause {
	var out []Pause
	for _, c := range changes {
		if c.paused > 0 {
			out = append(out, Pause{Proxy: c.name(), For: c.paused})
		}
	}
	return out
}

// backName says what restore does.
func (c *proxyChange) backName() string {
	return fmt.Sprintf("bring %s back to %s with %s", c.name(), c.before.state, nameList(c.before.archives))
}

func nameList(archives map[string]wire.ArchiveInfo) string {
	if len(archives) == 0 {
		return "no archive"
	}
	return strings.Join(slices.Sorted(maps.Keys(archives)), ", ")
}

func (c *proxyChange) stopStep() plan.Step {
	name := "stop " + c.name()
	if c.mode == client.StopEmpty {
		name += " when it is empty"
	}
	return plan.Step{Name: name, Server: c.name(), Do: c.stop, Undo: c.restore, UndoName: c.backName()}
}

// stop stops the proxy and waits for it. That the server gave up is seen at
// once where the volume is started again after it was on its way down.
func (c *proxyChange) stop(ctx context.Context) error {
	c.stopSent = time.Now()
	if c.pausedAt.IsZero() {
		c.pausedAt = c.stopSent
	}
	if err := c.client().Stop(ctx, c.vol, c.mode); err != nil {
		return err
	}
	falling := false // it was seen on its way down
	return await(ctx, c.g.opts.Patience, c.wait("stop", "state Stopped"), func(ctx context.Context) (string, bool, error) {
		state, err := c.g.proxyState(ctx, c.before.server, c.vol)
		if err != nil {
			return "", false, err
		}
		switch {
		case state == fsm.ProxyStopped:
			c.stopSent = time.Time{}
			return "", true, nil
		case state == fsm.ProxyStarted && (falling || time.Since(c.stopSent) > c.g.stopLimit):
			c.stopSent = time.Time{}
			return "", false, c.gaveUp(ctx)
		case state == fsm.ProxyClear:
			return "", false, c.refuse("stop", walberr.BadState, "state Clear", "state Stopped", "")
		case state == fsm.ProxyWaitForEmpty && !falling:
			// Diffs whose retry is due in minutes are sent now. That it does not
			// reach the proxy only makes the wait longer.
			_ = c.client().Kick(ctx, c.vol, "")
		}
		falling = falling || state != fsm.ProxyStarted
		return "state " + state.String(), false, nil
	})
}

// gaveUp makes the error of a stop that the server abandoned.
func (c *proxyChange) gaveUp(ctx context.Context) error {
	found := "the proxy gave up the stop and runs again"
	hint := "something runs there for longer than a minute; call again later"
	if c.mode == client.StopEmpty {
		hint = "it must deliver everything first: are these archives up and in state Archived?"
		if left := c.waiting(ctx); left != "" {
			found += ": " + left
		}
	}
	return c.refuse("stop", walberr.Unavailable, found, "state Stopped", hint)
}

// waiting tells how many diffs wait for which archives.
func (c *proxyChange) waiting(ctx context.Context) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.before.archives)) {
		diffs, err := c.client().ProxyDiffs(ctx, c.vol, name)
		if err != nil || len(diffs) == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s for %s", count(len(diffs), "diff"), name))
	}
	return strings.Join(parts, ", ")
}

func (c *proxyChange) changeStep() plan.Step {
	s := plan.Step{
		Name: c.changeName(), Server: c.name(),
		Do: func(ctx context.Context) error {
			from := maps.Clone(c.before.archives)
			if _, had := from[c.renew]; had {
				if err := c.remove(ctx, c.renew); err != nil {
					return err
				}
				delete(from, c.renew)
			}
			return c.change(ctx, from, c.want)
		},
		Verify: func(ctx context.Context) error {
			names, err := c.client().ArchiveInfoList(ctx, c.vol)
			if err == nil && !slices.Equal(names, slices.Sorted(maps.Keys(c.want))) {
				err = c.refuse("archive-info list", walberr.BadState, strings.Join(names, ", "), nameList(c.want), "")
			}
			return err
		},
	}
	if !c.before.runs() {
		s.Undo, s.UndoName = c.restore, c.backName()
	}
	return s
}

// changeName says what changes in the list.
func (c *proxyChange) changeName() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(c.before.archives)) {
		if _, stays := c.want[name]; !stays {
			parts = append(parts, "delete "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.want)) {
		switch old, had := c.before.archives[name]; {
		case !had:
			parts = append(parts, "add "+name)
		case name == c.renew:
			parts = append(parts, "delete and add "+name)
		case old != c.want[name]:
			parts = append(parts, "update "+name)
		}
	}
	if len(parts) == 0 {
		parts = []string{"change nothing"}
	}
	return strings.Join(parts, ", ") + " at " + c.name()
}

// change makes the list of a proxy that is not running what it shall be.
func (c *proxyChange) change(ctx context.Context, from, to map[string]wire.ArchiveInfo) error {
	cl := c.client()
	for _, name := range slices.Sorted(maps.Keys(to)) {
		info := to[name]
		old, had := from[name]
		if had && old == info {
			continue
		}
		command := cl.ArchiveInfoAdd
		if had {
			command = cl.ArchiveInfoUpdate
		}
		if err := c.repeat(ctx, func(ctx context.Context) error { return command(ctx, c.vol, name, info) }); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		if _, stays := to[name]; stays {
			continue
		}
		diffs, err := cl.ProxyDiffs(ctx, c.vol, name)
		if err != nil {
			return err
		}
		if err := c.remove(ctx, name); err != nil {
			return err
		}
		c.dropped[name] += len(diffs)
	}
	return nil
}

// remove deletes an archive from the list.
func (c *proxyChange) remove(ctx context.Context, name string) error {
	return c.repeat(ctx, func(ctx context.Context) error { return c.client().ArchiveInfoDelete(ctx, c.vol, name) })
}

// otherSession is the hint where a proxy is not as it was left.
const otherSession = "does another session operate this volume? call again when it has ended"

// repeat repeats a command while it is refused for something that will pass:
// a send that is ending. A proxy that does not stand still as it was left
// belongs to somebody else, too.
func (c *proxyChange) repeat(ctx context.Context, command func(ctx context.Context) error) error {
	until := time.Now().Add(c.g.opts.Busy)
	return await(ctx, 0, c.wait("archive-info", "done"), func(ctx context.Context) (string, bool, error) {
		err := command(ctx)
		if walberr.Is(err, walberr.Conflict) && time.Now().Before(until) {
			return err.Error(), false, nil
		}
		if e, ok := errors.AsType[*walberr.Error](err); ok && e.Code == walberr.BadState && e.Hint == "" {
			e.Hint = otherSession
		}
		return "", err == nil, err
	})
}

// start makes the proxy run and waits until it does. The server refuses while
// a stop is not over; it is asked again.
func (c *proxyChange) start(ctx context.Context) error {
	until := time.Now().Add(c.g.opts.Busy)
	accepted := false
	err := await(ctx, c.g.opts.Patience, c.wait("start", "state Started"), func(ctx context.Context) (string, bool, error) {
		var refusal error
		if !accepted {
			c.started = true
			refusal = c.client().Start(ctx, c.vol, client.RoleNone)
			accepted = refusal == nil
		}
		switch walberr.CodeOf(refusal) {
		case "", walberr.BadState, walberr.Conflict:
		case walberr.Stopped:
			until = time.Now().Add(c.g.opts.Busy)
			return refusal.Error(), false, nil
		default:
			return "", false, refusal
		}
		state, err := c.g.proxyState(ctx, c.before.server, c.vol)
		switch {
		case err != nil:
			return "", false, err
		case state == fsm.ProxyStarted:
			return "a stop that may come", accepted || c.noStopComes(), nil
		case state == fsm.ProxyClear || time.Now().After(until):
			if refusal == nil {
				refusal = c.refuse("start", walberr.BadState, "state "+state.String(), "state Started", "")
			}
			return "", false, refusal
		}
		return "state " + state.String(), false, nil
	})
	if err != nil {
		return err
	}
	c.stopSent = time.Time{}
	if !c.pausedAt.IsZero() {
		c.paused = time.Since(c.pausedAt)
	}
	return nil
}

// noStopComes reports whether a volume that runs, and is not stopping, stays
// so: a stop that was sent a moment ago may not have begun.
func (c *proxyChange) noStopComes() bool {
	return c.stopSent.IsZero() || time.Since(c.stopSent) > c.g.settle
}

// restore brings back the run state and the list of archives that were before,
// whatever happened since. A proxy that was stopped before and that somebody
// else has started meanwhile runs on afterwards. An archive whose waiting diffs were lost with its
// removal stays removed: to register it again would hide the gap.
func (c *proxyChange) restore(ctx context.Context) error {
	if c.keep != nil && c.keep() {
		return nil
	}
	back := maps.Clone(c.before.archives)
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(c.dropped)) {
		if c.dropped[name] > 0 {
			delete(back, name)
			gone = append(gone, fmt.Sprintf("%s for %s", count(c.dropped[name], "diff"), name))
		}
	}
	err := await(ctx, c.g.opts.Patience, c.wait("bring back", c.backName()), func(ctx context.Context) (string, bool, error) {
		return c.restoreMore(ctx, back)
	})
	if err == nil && (c.before.runs() || c.others) && len(back) > 0 {
		err = c.start(ctx)
	}
	if err != nil {
		return c.debt(err)
	}
	if len(gone) > 0 {
		return c.refuse("bring back", walberr.BadState,
			"stays without "+strings.Join(gone, ", ")+", which were lost with the removal", nameList(c.before.archives),
			"synchronize registers it again and fills the gap")
	}
	return nil
}

// restoreMore does the next thing on the way to the list of archives, and
// reports whether it is reached.
func (c *proxyChange) restoreMore(ctx context.Context, back map[string]wire.ArchiveInfo) (string, bool, error) {
	now, err := c.g.lookProxy(ctx, c.before.server, c.vol)
	if err != nil {
		return "", false, err
	}
	if now.state != fsm.ProxyStarted {
		c.stopSent = time.Time{}
	}
	switch {
	case maps.Equal(now.archives, back):
		return "", true, nil
	case now.state != fsm.ProxyStarted:
		err = c.change(ctx, now.archives, back)
	case c.stopSent.IsZero() || time.Since(c.stopSent) > c.g.stopLimit:
		c.others = c.others || !c.before.runs() && !c.started
		c.stopSent = time.Now()
		err = c.client().Stop(ctx, c.vol, client.StopForce)
	}
	if walberr.Is(err, walberr.BadState) || walberr.Is(err, walberr.Conflict) {
		return err.Error(), false, nil // it moved on since it was looked at
	}
	return fmt.Sprintf("%s with %s", now.state, nameList(now.archives)), false, err
}

// debt makes the error of a proxy that could not be brought back, with the
// commands that do it.
func (c *proxyChange) debt(err error) error {
	var todo []string
	for _, name := range slices.Sorted(maps.Keys(c.want)) {
		if _, had := c.before.archives[name]; !had {
			todo = append(todo, fmt.Sprintf("del_archive_from_proxy(%s, %q, %s)", c.name(), c.vol, name))
		}
	}
	if c.before.runs() {
		todo = append(todo, fmt.Sprintf("start(%s, %q) unless it runs", c.name(), c.vol))
	}
	return &walberr.Error{
		Op: "bring back", Server: c.name(), Volume: c.vol, Code: walberr.CodeOf(err), Err: err,
		Hint: fmt.Sprintf("when %s answers again: %s", c.name(), strings.Join(todo, ", ")),
	}
}
