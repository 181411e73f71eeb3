package group

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// ApplyResult is the result of apply.
type ApplyResult struct {
	Gid      meta.Gid   // what the base image is at now
	Lost     []meta.Gid // snapshots that could be restored before and cannot any more
	Elapsed  time.Duration
	Warnings []string
}

// String prints one line, for people.
func (r ApplyResult) String() string {
	text := fmt.Sprintf("base image at gid %d in %s", r.Gid, shortTime(r.Elapsed))
	if len(r.Lost) > 0 {
		text += ", gone: " + gidList(r.Lost)
	}
	return text + warningText(r.Warnings)
}

// MergeResult is the result of merge.
type MergeResult struct {
	B, E     meta.Gid   // ends of the one diff
	Merged   int        // diffs that it was made of; 1 if it was there already
	Lost     []meta.Gid // implicit snapshots that could be restored before and cannot any more
	Elapsed  time.Duration
	Warnings []string
}

// String prints one line, for people.
func (r MergeResult) String() string {
	text := fmt.Sprintf("%s merged into %d-->%d in %s", count(r.Merged, "diff"), r.B, r.E, shortTime(r.Elapsed))
	if r.Merged == 1 {
		text = fmt.Sprintf("%d-->%d is one diff already", r.B, r.E)
	}
	if len(r.Lost) > 0 {
		text += ", gone: " + gidList(r.Lost)
	}
	return text + warningText(r.Warnings)
}

// upkeep is an action of an archive at work: one command, whose end is seen by
// a fact.
type upkeep struct {
	g      *Group
	op     string // as its user knows it
	action string // as the archive knows it
	ax     Server
	vol    string
	goal   string // the fact, for errors
	begin  func(ctx context.Context) error
	there  func(ctx context.Context) (bool, error)
}

// run gives the command, again while something else is in its way that will
// pass, and waits for the fact. An action of the same kind that runs already is
// waited for first: it may be the one that an earlier call began. The archive
// begins a moment after it accepted, so that no action means failure only after
// that moment.
func (u upkeep) run(ctx context.Context) error {
	cl := u.g.Client(u.ax)
	tells, err := cl.HasFeature(ctx, wire.FeatureActionStatus)
	if err != nil {
		return err
	}
	var until, accepted time.Time
	w := wait{op: u.op, server: u.ax.Name, volume: u.vol, expected: u.goal, hint: "the archive goes on; the same call again waits for it"}
	return await(ctx, u.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		running, err := cl.NumAction(ctx, u.vol, u.action)
		if err != nil {
			return "", false, err
		}
		if tells && running > 0 {
			u.report(ctx)
		}
		done, err := u.there(ctx)
		switch {
		case err != nil || running > 0 || done:
			return "running", done && running == 0, err
		case !accepted.IsZero():
			if time.Since(accepted) > u.g.settle {
				err = u.failure(ctx, tells)
			}
			return "running", false, err
		}
		if until.IsZero() {
			until = time.Now().Add(u.g.opts.Busy)
		}
		if err := u.begin(ctx); err != nil {
			if time.Now().Before(until) && passes(err) {
				return err.Error(), false, nil
			}
			return "", false, err
		}
		accepted = time.Now()
		return "running", false, nil
	})
}

// report tells the plan how far the action is.
func (u upkeep) report(ctx context.Context) {
	if st, ok := u.status(ctx); ok {
		plan.Report(ctx, plan.Bytes{Done: int64(st.Done), Total: int64(st.Total)})
	}
}

func (u upkeep) status(ctx context.Context) (wire.ActionStatus, bool) {
	list, err := u.g.Client(u.ax).Actions(ctx, u.vol)
	if err != nil {
		return wire.ActionStatus{}, false
	}
	for _, st := range list {
		if st.Action == u.action {
			return st, true
		}
	}
	return wire.ActionStatus{}, false
}

// failure is the error of an action that ended without its fact.
func (u upkeep) failure(ctx context.Context, tells bool) error {
	found, hint := "it ended without success", "the log of "+u.ax.Name+" says why"
	if tells {
		if st, ok := u.status(ctx); ok && st.State == wire.ReplFailed {
			found, hint = st.Error, ""
		}
	}
	return refusal(u.op, u.ax, u.vol, walberr.Unavailable, found, u.goal, hint)
}

// passes reports whether the reason of a refused action will pass.
func passes(refused error) bool {
	return walberr.Is(refused, walberr.Conflict) || strings.Contains(refused.Error(), "exceeds max foreground tasks")
}

// activeArchive refuses a volume that is not active at an archive.
func (g *Group) activeArchive(ctx context.Context, op string, ax Server, vol string, also ...fsm.ArchiveState) error {
	state, err := g.archiveState(ctx, ax, vol)
	switch {
	case err != nil:
		return err
	case state == fsm.ArchiveClear:
		return g.unknownVolume(ctx, op, ax, vol)
	case active(state) || slices.Contains(also, state):
		return nil
	}
	return refusal(op, ax, vol, walberr.BadState, "state "+state.String(), "state Archived", "")
}

// restorableGids lists the snapshots that an archive can restore, implicit
// ones too.
func (g *Group) restorableGids(ctx context.Context, ax Server, vol string) ([]meta.Gid, error) {
	list, err := g.Client(ax).Restorable(ctx, vol, true)
	gids := make([]meta.Gid, len(list))
	for i, r := range list {
		gids[i] = r.Gid
	}
	return gids, err
}

// Apply writes the diffs up to a snapshot into the base image of a volume at an
// archive, and waits for that, at most timeout (0 = [DefaultTimeout]). There is
// no way back: the snapshots before it are gone. An application that was broken
// off is completed. That the base is there already is a success.
func (g *Group) Apply(ctx context.Context, ax Server, vol string, gid meta.Gid, timeout time.Duration) (ApplyResult, error) {
	const op = "apply"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return ApplyResult{}, err
	}
	began, r := time.Now(), ApplyResult{Gid: gid}
	build := func(ctx context.Context) (*plan.Plan, error) {
		p := plan.New(op, vol)
		there, err := g.canApply(ctx, op, ax, vol, gid)
		if err != nil || there {
			return p, err
		}
		gids, err := g.restorableGids(ctx, ax, vol)
		if err != nil {
			return nil, err
		}
		r.Lost = slices.DeleteFunc(gids, func(g meta.Gid) bool { return g >= gid })
		name := fmt.Sprintf("apply up to gid %d at %s", gid, ax.Name)
		if len(r.Lost) > 0 {
			name += ", losing the snapshots " + gidList(last(r.Lost, 10))
		}
		u := upkeep{
			g: g, op: op, action: string(fsm.Apply), ax: ax, vol: vol, goal: fmt.Sprintf("the base image at gid %d", gid),
			begin: func(ctx context.Context) error { return g.Client(ax).Apply(ctx, vol, gid) },
			there: func(ctx context.Context) (bool, error) {
				base, err := g.Client(ax).Base(ctx, vol)
				return err == nil && !base.Applying && base.B.B >= gid, err
			},
		}
		return p.Then(plan.Step{Name: name, Server: ax.Name, Final: true, Do: u.run}), nil
	}
	warnings, err := g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Build: build})
	r.Elapsed, r.Warnings = time.Since(began), warnings
	return r, err
}

// canApply refuses what is not on the way, and reports whether the base image is
// there already.
func (g *Group) canApply(ctx context.Context, op string, ax Server, vol string, gid meta.Gid) (there bool, err error) {
	if err := g.activeArchive(ctx, op, ax, vol); err != nil {
		return false, err
	}
	base, err := g.Client(ax).Base(ctx, vol)
	if err != nil {
		return false, err
	}
	if !base.Applying && base.B.B == gid {
		return true, nil
	}
	diffs, err := g.Client(ax).ApplicableDiffs(ctx, vol, meta.MaxGid)
	if err != nil {
		return false, err
	}
	var ends []meta.Gid
	for _, d := range diffs {
		ends = append(ends, d.E.B)
	}
	if slices.Contains(ends, gid) {
		return false, nil
	}
	if base.B.B > gid {
		return false, refusal(op, ax, vol, walberr.NotFound, fmt.Sprintf("the base image is beyond gid %d: %s", gid, base), "a later gid", "")
	}
	return false, refusal(op, ax, vol, walberr.NotFound, fmt.Sprintf("gid %d is not on the way from %s", gid, base),
		"one of "+gidList(last(ends, 10)), "")
}

// Merge makes one diff of those between two gids at an archive, and waits for
// that, at most timeout (0 = [DefaultTimeout]). Implicit snapshots between them
// are gone; an explicit one is refused before anything is done.
func (g *Group) Merge(ctx context.Context, ax Server, vol string, b, e meta.Gid, timeout time.Duration) (MergeResult, error) {
	const op = "merge"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return MergeResult{}, err
	}
	if b >= e {
		return MergeResult{}, &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Usage, Found: fmt.Sprintf("from gid %d to %d", b, e), Expected: "the first below the last",
		}
	}
	began, r := time.Now(), MergeResult{B: b, E: e}
	build := func(ctx context.Context) (*plan.Plan, error) {
		p := plan.New(op, vol)
		if err := g.activeArchive(ctx, op, ax, vol); err != nil {
			return nil, err
		}
		diffs, err := g.Client(ax).ApplicableDiffs(ctx, vol, e)
		if err != nil {
			return nil, err
		}
		if r.Merged, err = mergeable(op, ax, vol, diffs, b, e); err != nil || r.Merged == 1 {
			return p, err
		}
		gids, err := g.restorableGids(ctx, ax, vol)
		if err != nil {
			return nil, err
		}
		r.Lost = slices.DeleteFunc(gids, func(g meta.Gid) bool { return g <= b || g >= e })
		u := upkeep{
			g: g, op: op, action: string(fsm.Merge), ax: ax, vol: vol, goal: fmt.Sprintf("one diff from %d to %d", b, e),
			begin: func(ctx context.Context) error { return g.Client(ax).MergeGid(ctx, vol, b, e) },
			there: func(ctx context.Context) (bool, error) {
				diffs, err := g.Client(ax).ApplicableDiffs(ctx, vol, e)
				if err != nil {
					return false, err
				}
				n, err := mergeable(op, ax, vol, diffs, b, e)
				return n == 1, err
			},
		}
		return p.Then(plan.Step{Name: fmt.Sprintf("merge %d-->%d at %s", b, e, ax.Name), Server: ax.Name, Final: true, Do: u.run}), nil
	}
	warnings, err := g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Build: build})
	r.Elapsed, r.Warnings = time.Since(began), warnings
	return r, err
}

// mergeable counts the diffs from b to e, and refuses what does not merge.
func mergeable(op string, ax Server, vol string, diffs []meta.Diff, b, e meta.Gid) (int, error) {
	from := slices.IndexFunc(diffs, func(d meta.Diff) bool { return d.B.B == b })
	to := slices.IndexFunc(diffs, func(d meta.Diff) bool { return d.E.B == e })
	if from < 0 || to < from {
		var begins []meta.Gid
		for _, d := range diffs {
			begins = append(begins, d.B.B)
		}
		return 0, refusal(op, ax, vol, walberr.NotFound, fmt.Sprintf("no diffs from gid %d to %d", b, e),
			"exact ends; diffs begin at "+gidList(last(begins, 10)), "get_diff_list shows them")
	}
	list := diffs[from : to+1]
	for i, d := range list {
		switch {
		case d.Comp:
			return 0, refusal(op, ax, vol, walberr.BadState, "the diff "+d.String()+" is a compared one", "diffs that merge", "")
		case i > 0 && !d.Mergeable:
			return 0, refusal(op, ax, vol, walberr.BadState, fmt.Sprintf("the snapshot %d is an explicit one", d.B.B), "implicit ones",
				fmt.Sprintf("disable_snapshot(%s, %q, {%d}) gives it up", ax.Name, vol, d.B.B))
		}
	}
	return len(list), nil
}

// GCDiff removes the diffs at an archive that lead to no snapshot, and gives
// their number.
func (g *Group) GCDiff(ctx context.Context, ax Server, vol string) (int, error) {
	const op = "gc_diff"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return 0, err
	}
	var before, after uint64
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := g.activeArchive(ctx, op, ax, vol, fsm.ArchiveStopped); err != nil {
			return nil, err
		}
		return plan.New(op, vol).Then(plan.Step{
			Name: "remove diffs at " + ax.Name, Server: ax.Name, Final: true,
			Do: func(ctx context.Context) (err error) {
				if before, err = g.Client(ax).NumDiff(ctx, vol, client.GidRange{}); err != nil {
					return err
				}
				if err := g.whenFree(ctx, op, ax, vol, func(ctx context.Context) error { return g.Client(ax).GCDiff(ctx, vol) }); err != nil {
					return err
				}
				after, err = g.Client(ax).NumDiff(ctx, vol, client.GidRange{})
				return err
			},
		}), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return int(before - min(before, after)), err
}

// whenFree does a command, again while something else is in its way that will
// pass.
func (g *Group) whenFree(ctx context.Context, op string, s Server, vol string, do func(ctx context.Context) error) error {
	until := time.Now().Add(g.opts.Busy)
	return await(ctx, 0, wait{op: op, server: s.Name, volume: vol, expected: "the volume free"}, func(ctx context.Context) (string, bool, error) {
		err := do(ctx)
		if err != nil && time.Now().Before(until) && passes(err) {
			return err.Error(), false, nil
		}
		return "", err == nil, err
	})
}

// DisableSnapshots makes snapshots at an archive implicit: a merge, or an
// original's replication, may take them away. Gids that are no begin of a diff
// are refused before anything is done. Other archives keep their own flags.
func (g *Group) DisableSnapshots(ctx context.Context, ax Server, vol string, gids []meta.Gid) error {
	return g.changeSnapshots(ctx, "disable_snapshot", ax, vol, gids, (*client.Client).DisableSnapshot)
}

// EnableSnapshots makes snapshots at an archive explicit, so that no merge takes
// them away. Refusals are those of [Group.DisableSnapshots].
func (g *Group) EnableSnapshots(ctx context.Context, ax Server, vol string, gids []meta.Gid) error {
	return g.changeSnapshots(ctx, "enable_snapshot", ax, vol, gids, (*client.Client).EnableSnapshot)
}

func (g *Group) changeSnapshots(ctx context.Context, op string, ax Server, vol string, gids []meta.Gid,
	change func(*client.Client, context.Context, string, ...meta.Gid) error,
) error {
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	if len(gids) == 0 {
		return &walberr.Error{Op: op, Volume: vol, Code: walberr.Usage, Found: "no gid", Expected: "a list of gids"}
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := g.activeArchive(ctx, op, ax, vol); err != nil {
			return nil, err
		}
		diffs, err := g.Client(ax).Diffs(ctx, vol, client.GidRange{})
		if err != nil {
			return nil, err
		}
		if missing := notBegun(diffs, gids); len(missing) > 0 {
			return nil, refusal(op, ax, vol, walberr.NotFound, "no diff begins at "+gidList(missing), "snapshots with a successor",
				"the newest snapshot is explicit as long as it is the newest")
		}
		return plan.New(op, vol).Then(plan.Step{
			Name: fmt.Sprintf("%s %s at %s", strings.ReplaceAll(op, "_", " "), gidList(gids), ax.Name), Server: ax.Name, Final: true,
			Do: func(ctx context.Context) error {
				return g.whenFree(ctx, op, ax, vol, func(ctx context.Context) error { return change(g.Client(ax), ctx, vol, gids...) })
			},
		}), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return err
}

// notBegun lists the gids at which no diff begins.
func notBegun(diffs []meta.Diff, gids []meta.Gid) []meta.Gid {
	return slices.DeleteFunc(slices.Clone(gids), func(gid meta.Gid) bool {
		return slices.ContainsFunc(diffs, func(d meta.Diff) bool { return d.B.B == gid })
	})
}

// ResizeArchive makes the base image of a volume at an archive larger, to at
// least size. That it is as large already is a success; a larger one is refused.
// There is no way back.
func (g *Group) ResizeArchive(ctx context.Context, ax Server, vol string, size block.LB, zeroClear bool) error {
	const op = "resize_archive"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	if size == 0 || !size.Valid() {
		return &walberr.Error{Op: op, Volume: vol, Code: walberr.Usage, Found: fmt.Sprintf("a size of %d blocks", size), Expected: "more than 0"}
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		p := plan.New(op, vol)
		if err := g.activeArchive(ctx, op, ax, vol, fsm.ArchiveStopped, fsm.ArchiveSyncReady); err != nil {
			return nil, err
		}
		have, err := g.Client(ax).VolSize(ctx, vol)
		switch {
		case err != nil || have == size:
			return p, err
		case have > size:
			return nil, refusal(op, ax, vol, walberr.Range, fmt.Sprintf("the image has %d blocks", have),
				fmt.Sprintf("at most %d", size), "images cannot be made smaller")
		}
		u := upkeep{
			g: g, op: op, action: string(fsm.Resize), ax: ax, vol: vol, goal: fmt.Sprintf("an image of %d blocks", size),
			begin: func(ctx context.Context) error { return g.Client(ax).Resize(ctx, vol, size, zeroClear) },
			there: func(ctx context.Context) (bool, error) {
				have, err := g.Client(ax).VolSize(ctx, vol)
				return have >= size, err
			},
		}
		return p.Then(plan.Step{
			Name: fmt.Sprintf("grow the image at %s from %d to %d blocks", ax.Name, have, size), Server: ax.Name, Final: true, Do: u.run,
		}), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

// BlockHash gives the hash of a snapshot at an archive, in bulks of bulk blocks
// (0 = 128, as the Python session), of the first size blocks (0 = all). Archives
// that have the same snapshot give the same hash for the same bulk, if they treat
// discards alike.
func (g *Group) BlockHash(ctx context.Context, ax Server, vol string, gid meta.Gid, bulk, size block.LB) (checksum.Hash, error) {
	const op = "get_block_hash"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return checksum.Hash{}, err
	}
	if bulk == 0 {
		bulk = 128
	}
	if err := g.activeArchive(ctx, op, ax, vol); err != nil {
		return checksum.Hash{}, err
	}
	return g.Client(ax).BlockHash(ctx, vol, gid, client.ScanOptions{Bulk: bulk, Size: size})
}

// Verify makes an archive read all that it has of a volume, at most rate bytes a
// second (0 = as fast as it goes), and gives what cannot be read, with the
// snapshots that need it. An original cannot do that.
func (g *Group) Verify(ctx context.Context, ax Server, vol string, rate uint64, timeout time.Duration) ([]wire.Fault, error) {
	const op = "verify"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return nil, err
	}
	var faults []wire.Fault
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := g.activeArchive(ctx, op, ax, vol, fsm.ArchiveStopped); err != nil {
			return nil, err
		}
		can, err := g.Client(ax).HasFeature(ctx, wire.FeatureVerify)
		if err == nil && !can {
			err = refusal(op, ax, vol, walberr.Unavailable, ax.Name+" is an original, which cannot verify", "an archive of walbsh", "get_block_hash reads an image")
		}
		if err != nil {
			return nil, err
		}
		return plan.New(op, vol).Then(plan.Step{
			Name: "read all at " + ax.Name, Server: ax.Name,
			Do: func(ctx context.Context) (err error) {
				faults, err = g.Client(ax).Verify(ctx, vol, rate, func(done, total uint64) {
					plan.Report(ctx, plan.Bytes{Done: int64(done), Total: int64(total)})
				})
				return err
			},
		}), nil
	}
	_, err := g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return faults, err
}
