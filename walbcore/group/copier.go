package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// replAction is the archive's name for a replication that it sends.
const replAction = "ReplSyncAsClient"

// copier brings a volume at one archive up to a snapshot of another. It is
// used by one goroutine at a time.
type copier struct {
	g        *Group
	op       string
	src, dst Server
	vol      string
	opt      ReplicateOptions

	began   time.Time
	fresh   bool     // the destination did not know the volume when look saw it
	talks   bool     // the source tells about its replications
	lastRun int64    // start of the latest copy that is not to be counted (again)
	goal    meta.Gid // what the destination must reach
	out     Copy
}

func (g *Group) newCopier(op string, src Server, vol string, dst Server, opt ReplicateOptions) *copier {
	return &copier{g: g, op: op, src: src, dst: dst, vol: vol, opt: opt, began: time.Now()}
}

// checkArgs judges what the caller gave.
func (c *copier) checkArgs() error {
	err := firstError(
		arg(c.op, "aSrc", c.src, Archive), volumeArg(c.op, c.vol), arg(c.op, "aDst", c.dst, Archive),
	)
	if err == nil && c.src.Addr() == c.dst.Addr() {
		err = &walberr.Error{
			Op: c.op, Code: walberr.Usage, Found: "arguments aSrc and aDst are both " + c.src.Name,
			Expected: "two archives",
		}
	}
	return err
}

// look refuses, before anything was touched, what cannot succeed. It sets the
// goal.
func (c *copier) look(ctx context.Context) error {
	if err := c.lookSource(ctx); err != nil {
		return err
	}
	if err := c.lookDestination(ctx); err != nil {
		return err
	}
	return c.aim(ctx)
}

// refuse makes the error of a fact at one of the archives.
func (c *copier) refuse(s Server, code walberr.Code, found, expected, hint string) error {
	return &walberr.Error{
		Op: c.op, Server: s.Name, Volume: c.vol, Code: code, Found: found, Expected: expected, Hint: hint,
	}
}

func (c *copier) lookSource(ctx context.Context) error {
	state, err := c.g.archiveState(ctx, c.src, c.vol)
	switch {
	case err != nil:
		return err
	case state == fsm.ArchiveClear:
		return c.g.unknownVolume(ctx, c.op, c.src, c.vol)
	case !active(state):
		return c.refuse(c.src, walberr.BadState, "the source is in state "+state.String(), fsm.ArchiveArchived.String(),
			"make a full backup first, or start the volume there if it is stopped")
	}
	c.talks, err = c.g.Client(c.src).HasFeature(ctx, wire.FeatureReplStatus)
	return err
}

func (c *copier) lookDestination(ctx context.Context) error {
	state, err := c.g.archiveState(ctx, c.dst, c.vol)
	switch {
	case err != nil:
		return err
	case state == fsm.ArchiveStopped || state == fsm.ArchiveStop:
		return c.refuse(c.dst, walberr.BadState, "the destination is in state "+state.String(),
			"Clear, SyncReady or Archived", fmt.Sprintf("start the volume there: start(%s, %q)", c.dst.Name, c.vol))
	case state == fsm.ArchiveClear:
		c.fresh = true
		return nil
	case !active(state):
		return nil
	}
	if err := c.sameLineage(ctx); err != nil {
		return err
	}
	return c.sizeFits(ctx)
}

// sameLineage refuses a destination whose image descends from another full
// backup: diffs do not join there.
func (c *copier) sameLineage(ctx context.Context) error {
	if c.opt.Resync {
		return nil
	}
	src, dst, err := c.lineages(ctx)
	if err != nil {
		return err
	}
	if src != dst {
		return c.refuse(c.dst, walberr.DifferentUUID, "archive uuid "+dst.String(), src.String()+" as at "+c.src.Name,
			fmt.Sprintf("its data belongs to another full backup: replicate with do_resync, which overwrites it, "+
				"or clear the volume at %s, then call again", c.dst.Name))
	}
	return nil
}

// oneLineage reports whether both images descend from one full backup.
func (c *copier) oneLineage(ctx context.Context) (bool, error) {
	src, dst, err := c.lineages(ctx)
	return src == dst, err
}

func (c *copier) lineages(ctx context.Context) (src, dst meta.UUID, err error) {
	if src, err = c.g.Client(c.src).ArchiveUUID(ctx, c.vol); err == nil {
		dst, err = c.g.Client(c.dst).ArchiveUUID(ctx, c.vol)
	}
	return src, dst, err
}

// sizeFits refuses a destination whose image is too small and will not grow by itself.
func (c *copier) sizeFits(ctx context.Context) error {
	src, err := c.g.Client(c.src).VolSize(ctx, c.vol)
	if err != nil {
		return err
	}
	dst, err := c.g.Client(c.dst).VolSize(ctx, c.vol)
	if err != nil || dst >= src {
		return err
	}
	lines, err := c.g.Client(c.dst).Status(ctx, "")
	if err != nil {
		return err
	}
	if slices.Contains(lines, "doAutoResize 1") {
		return nil
	}
	return c.refuse(c.dst, walberr.BadState, fmt.Sprintf("image of %s", block.FormatSize(dst.Bytes())),
		"at least "+block.FormatSize(src.Bytes()), "grow the image there first")
}

// aim takes the goal, and the snapshots that the destination shall have, from
// what the source can restore now.
func (c *copier) aim(ctx context.Context) error {
	list, err := c.g.Client(c.src).Restorable(ctx, c.vol, false)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return c.refuse(c.src, walberr.BadState, "nothing is restorable there yet", "a clean snapshot",
			"the first one comes with the first diff after a full backup")
	}
	c.out.AllPromised = c.talks
	c.out.Promised = nil
	for _, r := range list {
		if c.talks || r.Explicit {
			c.out.Promised = append(c.out.Promised, r.Gid)
		}
	}
	c.out.Gid = list[len(list)-1].Gid
	if c.opt.Gid != nil {
		c.out.Gid = *c.opt.Gid
		if c.out.Gid > list[len(list)-1].Gid {
			return c.refuse(c.src, walberr.NotFound, fmt.Sprintf("gid %d is not there", c.out.Gid),
				fmt.Sprintf("at most %d", list[len(list)-1].Gid), "get_restorable lists what is there")
		}
		c.out.Promised = slices.DeleteFunc(c.out.Promised, func(gid meta.Gid) bool { return gid > c.out.Gid })
	}
	c.goal = c.out.Gid
	return nil
}

// aimAtEnd makes the goal all that the source has, restorable or not: what
// follows in the proxies joins there.
func (c *copier) aimAtEnd(ctx context.Context) error {
	if err := c.aim(ctx); err != nil {
		return err
	}
	latest, err := c.g.Client(c.src).MetaSnap(ctx, c.vol, meta.MaxGid)
	if err != nil {
		return err
	}
	if latest.B != meta.MaxGid {
		c.goal = max(c.goal, latest.B)
	}
	return nil
}

// initStep makes the volume known at a destination that never saw it.
func (c *copier) initStep() plan.Step {
	return c.g.initArchiveStep(c.op, c.dst, c.vol, func(ctx context.Context) (bool, error) {
		running, err := c.g.Client(c.src).NumAction(ctx, c.vol, replAction)
		return running > 0, err
	})
}

// initArchiveStep makes a volume known at an archive. Undone, it is forgotten
// again, unless data has come or inUse says that it will.
func (g *Group) initArchiveStep(op string, ax Server, vol string, inUse func(ctx context.Context) (bool, error)) plan.Step {
	cl := g.Client(ax)
	return plan.Step{
		Name:   "init the volume at " + ax.Name,
		Server: ax.Name,
		Do:     func(ctx context.Context) error { return cl.InitVol(ctx, vol, "") },
		Verify: func(ctx context.Context) error {
			state, err := g.archiveState(ctx, ax, vol)
			if err == nil && state == fsm.ArchiveClear {
				err = refusal(op, ax, vol, walberr.BadState, "state Clear after init-vol", "SyncReady", "")
			}
			return err
		},
		UndoName: "clear the volume at " + ax.Name + " if nothing was copied",
		Undo: func(ctx context.Context) error {
			state, err := g.archiveState(ctx, ax, vol)
			if err != nil || state != fsm.ArchiveSyncReady {
				return err
			}
			if used, err := inUse(ctx); err != nil || used {
				return err
			}
			if holds, err := cl.ExistsBaseImage(ctx, vol); err != nil || holds {
				return err
			}
			return cl.ClearVol(ctx, vol)
		},
	}
}

// copyStep copies until the goal is reached. It is not undone: what was copied
// is good, and the next copy goes on from there.
func (c *copier) copyStep() plan.Step {
	return plan.Step{
		Name:   fmt.Sprintf("copy %s to %s", c.src.Name, c.dst.Name),
		Server: c.dst.Name,
		Do:     c.copy,
		Verify: c.listMissing,
	}
}

// copy brings the destination to the goal: it waits for a copy that runs
// already, begins one of its own, and judges by what the destination has.
func (c *copier) copy(ctx context.Context) error {
	for {
		joined, err := c.begin(ctx)
		if err != nil {
			return err
		}
		if err := c.watch(ctx); err != nil {
			return err
		}
		reason := c.count(ctx)
		if joined && c.opt.Resync {
			continue // that one has not compared everything
		}
		reached, err := c.reached(ctx)
		if err == nil && c.opt.Resync && reason != "" {
			reached = false // it had the gid before
		}
		if err != nil || reached {
			return err
		}
		if !joined {
			return c.ended(ctx, reason)
		}
	}
}

// begin makes the source copy, unless a copy of the volume runs there already.
// A refusal that will pass is repeated: the destination takes a diff just now,
// or one of the archives has something else to do.
func (c *copier) begin(ctx context.Context) (joined bool, err error) {
	source := c.g.Client(c.src)
	if last := c.line(ctx); last.State != wire.ReplRunning {
		c.lastRun = last.Started
	}
	until := time.Now().Add(c.g.opts.Busy)
	w := wait{op: "replicate", server: c.src.Name, volume: c.vol, expected: "the copy to begin"}
	err = await(ctx, c.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		running, err := source.NumAction(ctx, c.vol, replAction)
		if err != nil {
			return "", false, err
		}
		if joined = running > 0; joined {
			c.out.Joined = c.out.Joined || !c.talks || c.line(ctx).State == wire.ReplRunning
			return "", true, nil
		}
		err = source.Replicate(ctx, c.vol, c.command())
		if err != nil && time.Now().Before(until) && c.passes(ctx, err) {
			return err.Error(), false, nil
		}
		return "", err == nil, c.blame(err)
	})
	return joined, err
}

// blame names the destination where the source says that it cannot reach it.
func (c *copier) blame(err error) error {
	e, ok := errors.AsType[*walberr.Error](err)
	if !ok || e.Err != nil || !momentary(err) {
		return err
	}
	return c.refuse(c.dst, e.Code, e.Found, "",
		fmt.Sprintf("%s cannot reach %s at %s: is it running?", c.src.Name, c.dst.Name, c.dst.Addr()))
}

// command is the replicate command.
func (c *copier) command() client.Replication {
	p := client.Replication{
		Dest: wire.Addr{Host: c.dst.Host, Port: c.dst.Port}, ByGid: true, Value: uint64(c.goal),
		Resync: c.opt.Resync, DontMerge: c.opt.DontMerge,
	}
	if o := c.opt.Sync; o != nil {
		p.Compress, p.MaxMergeSize, p.Bulk = o.Compress, o.MaxMerge, o.Bulk
	}
	return p
}

// passes reports whether the reason of a refused replicate will pass by itself.
func (c *copier) passes(ctx context.Context, refusal error) bool {
	switch walberr.CodeOf(refusal) {
	case walberr.Conflict:
		return true
	case walberr.Unavailable:
		return strings.Contains(refusal.Error(), "exceeds max foreground tasks")
	case walberr.BadState:
		src, err := c.g.archiveState(ctx, c.src, c.vol)
		if err != nil || !active(src) {
			return false
		}
		dst, err := c.g.archiveState(ctx, c.dst, c.vol)
		return err == nil && (active(dst) || !dst.Steady() && dst != fsm.ArchiveStop)
	}
	return false
}

// watch waits until the source copies no more and the destination has settled.
func (c *copier) watch(ctx context.Context) error {
	w := wait{
		op: "replicate", server: c.src.Name, volume: c.vol, expected: "its end",
		hint: "the copy itself goes on at the archives; the next call joins it",
	}
	return await(ctx, c.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		running, err := c.g.Client(c.src).NumAction(ctx, c.vol, replAction)
		if err != nil {
			return "", false, err
		}
		if running > 0 {
			if found, other := c.progress(ctx); !other {
				return found, false, nil
			}
		}
		state, err := c.g.archiveState(ctx, c.dst, c.vol)
		if err != nil {
			return "", false, err
		}
		switch state {
		case fsm.ArchiveFullSync, fsm.ArchiveResync, fsm.ArchiveReplSyncAsServer:
			return c.dst.Name + " in state " + state.String(), false, nil
		}
		return "", true, nil
	})
}

// progress reports how far the running copy is. other tells that what runs at
// the source goes to another destination.
func (c *copier) progress(ctx context.Context) (found string, other bool) {
	if !c.talks {
		c.progressOfOriginal(ctx)
		return "running", false
	}
	r := c.line(ctx)
	if r.State != wire.ReplRunning {
		return "", r.State != ""
	}
	b := plan.Bytes{Done: int64(r.BytesSent), Total: int64(r.BytesTotal), Wire: c.out.Sent + int64(r.BytesSent)}
	if r.LBTotal > 0 {
		b.Done, b.Total = block.LB(r.LBDone).Bytes(), block.LB(r.LBTotal).Bytes()
	}
	plan.Report(ctx, b)
	return fmt.Sprintf("running, %s sent", size(b.Wire)), false
}

// progressOfOriginal reports what the destination tells of a full copy. What
// cannot be learned is left out.
func (c *copier) progressOfOriginal(ctx context.Context) {
	done, err := c.g.Client(c.dst).Progress(ctx, c.vol)
	if err != nil || done == 0 {
		return
	}
	total, err := c.g.Client(c.src).VolSize(ctx, c.vol)
	if err == nil {
		plan.Report(ctx, plan.Bytes{Done: done.Bytes(), Total: total.Bytes()})
	}
}

// line is what the source tells of its running or latest copy to the
// destination; the zero value when it tells nothing.
func (c *copier) line(ctx context.Context) wire.ReplStatus {
	if !c.talks {
		return wire.ReplStatus{}
	}
	lines, err := c.g.Client(c.src).GetStrings(ctx, wire.TargetRepl, c.vol)
	if err != nil {
		return wire.ReplStatus{}
	}
	for _, l := range lines {
		r, err := wire.ParseReplStatus(l)
		if err == nil && (r.Dest == c.dst.Name || r.Addr == c.dst.Addr()) {
			return r
		}
	}
	return wire.ReplStatus{}
}

// count adds up what an ended copy cost, and gives the reason of its failure.
func (c *copier) count(ctx context.Context) (reason string) {
	r := c.line(ctx)
	if r.State == "" || r.Started == c.lastRun {
		return ""
	}
	c.lastRun = r.Started
	c.out.Counted = true
	c.out.Sent += int64(r.BytesSent)
	c.out.Rounds += int(r.Rounds)
	return r.Error
}

// reached reports whether the destination has the goal.
func (c *copier) reached(ctx context.Context) (bool, error) {
	state, err := c.g.archiveState(ctx, c.dst, c.vol)
	if err != nil || !active(state) {
		return false, err
	}
	if c.opt.Resync {
		if same, err := c.oneLineage(ctx); err != nil || !same {
			return false, err
		}
	}
	latest, err := c.g.Client(c.dst).MetaSnap(ctx, c.vol, meta.MaxGid)
	return err == nil && latest.B != meta.MaxGid && latest.B >= c.goal, err
}

// ended makes the error of a copy that ended without having reached the goal.
func (c *copier) ended(ctx context.Context, reason string) error {
	e := &walberr.Error{
		Op: "replicate", Server: c.src.Name, Volume: c.vol, Code: walberr.Unavailable, Found: reason,
		Hint: "call again: it goes on where it ended",
	}
	if reason != "" {
		e.Code = client.Classify(reason)
		if momentary(e) {
			e.Server = c.dst.Name
			e.Hint = fmt.Sprintf("the connection from %s broke; call again: it goes on where it ended", c.src.Name)
		}
		return e
	}
	state, err := c.g.archiveState(ctx, c.dst, c.vol)
	if err != nil {
		return err
	}
	e.Found = fmt.Sprintf("the copy ended with %s in state %s, gid %d not reached", c.dst.Name, state, c.goal)
	e.Hint = fmt.Sprintf("the logs of %s and %s say why; call again, it goes on where it ended", c.src.Name, c.dst.Name)
	return e
}

// listMissing notes which promised snapshots the destination cannot restore.
func (c *copier) listMissing(ctx context.Context) error {
	list, err := c.g.Client(c.dst).Restorable(ctx, c.vol, true)
	if err != nil {
		return err
	}
	have := map[meta.Gid]bool{}
	for _, r := range list {
		have[r.Gid] = true
	}
	c.out.Missing = slices.DeleteFunc(slices.Clone(c.out.Promised), func(gid meta.Gid) bool { return have[gid] })
	c.out.Elapsed = time.Since(c.began)
	return nil
}
