package group

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

// nudge is how often a wait for a snapshot makes storages and proxies send at
// once.
const nudge = time.Second

// SnapshotNbk takes a snapshot of a volume at its storage and gives its gid. It
// becomes restorable at an archive when the log up to it has come there.
func (g *Group) SnapshotNbk(ctx context.Context, sx Server, vol string) (meta.Gid, error) {
	const op = "snapshot_nbk"
	if err := firstError(arg(op, "sx", sx, Storage), volumeArg(op, vol)); err != nil {
		return 0, err
	}
	return g.Client(sx).Snapshot(ctx, vol)
}

// Snapshot takes a snapshot of a volume at its storage and waits until it is
// restorable at each of the archives, at most timeout in all (0 =
// [DefaultTimeout]). To wait, the storage must be the target and the archives
// synchronizing; that is checked before the snapshot is taken. With no archives
// it comes back at once.
//
// When it fails after the snapshot was taken, the gid is given with the error.
func (g *Group) Snapshot(ctx context.Context, sx Server, vol string, archives []Server, timeout time.Duration) (meta.Gid, error) {
	const op = "snapshot"
	err := firstError(arg(op, "sx", sx, Storage), volumeArg(op, vol))
	for _, ax := range archives {
		err = firstError(err, arg(op, "axL", ax, Archive))
	}
	if err != nil {
		return 0, err
	}
	var gid atomic.Uint64
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := g.canWaitForSnapshot(ctx, op, sx, vol, archives); err != nil {
			return nil, err
		}
		p := plan.New(op, vol).Then(plan.Step{
			Name: "take the snapshot at " + sx.Name, Server: sx.Name, Final: true,
			Do: func(ctx context.Context) error {
				taken, err := g.Client(sx).Snapshot(ctx, vol)
				gid.Store(uint64(taken))
				return err
			},
		})
		var waits []plan.Step
		for _, ax := range archives {
			waits = append(waits, plan.Step{
				Name: "wait for it at " + ax.Name, Server: ax.Name,
				Do: func(ctx context.Context) error { return g.awaitRestorable(ctx, ax, vol, meta.Gid(gid.Load())) },
			})
		}
		return p.Then(waits...), nil
	}
	_, err = g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return meta.Gid(gid.Load()), err
}

// canWaitForSnapshot refuses a wait that would never end.
func (g *Group) canWaitForSnapshot(ctx context.Context, op string, sx Server, vol string, archives []Server) error {
	state, err := g.storageState(ctx, sx, vol)
	switch {
	case err != nil:
		return err
	case state == fsm.StorageClear:
		return g.unknownVolume(ctx, op, sx, vol)
	case len(archives) > 0 && state != fsm.StorageTarget:
		return refusal(op, sx, vol, walberr.BadState, "state "+state.String(), "state Target",
			"only the target ships its log; snapshot_nbk takes a snapshot without waiting")
	}
	for _, ax := range archives {
		ok, err := g.isSynchronizing(ctx, op, ax, vol)
		if err != nil {
			return err
		}
		if !ok {
			return refusal(op, ax, vol, walberr.BadState, "it is not synchronizing", "an archive that gets the snapshot",
				fmt.Sprintf("leave %s out, or synchronize it first", ax.Name))
		}
	}
	return nil
}

// awaitRestorable waits until a snapshot is restorable at an archive, and makes
// storages and proxies send meanwhile.
func (g *Group) awaitRestorable(ctx context.Context, ax Server, vol string, gid meta.Gid) error {
	w := wait{
		op: "snapshot", server: ax.Name, volume: vol, expected: fmt.Sprintf("gid %d restorable", gid),
		hint: fmt.Sprintf("the snapshot is taken, gid %d, and comes there when the way is free", gid),
	}
	next := time.Now().Add(nudge)
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		list, err := g.Client(ax).Restorable(ctx, vol, false)
		if err != nil {
			return "", false, err
		}
		found := "nothing restorable"
		if len(list) > 0 {
			found = fmt.Sprintf("at gid %d", list[len(list)-1].Gid)
		}
		if slices.ContainsFunc(list, func(r meta.Restorable) bool { return r.Gid == gid }) {
			return found, true, nil
		}
		if len(list) > 0 && list[0].Gid > gid {
			return "", false, refusal("snapshot", ax, vol, walberr.NotFound,
				fmt.Sprintf("its base is at gid %d already", list[0].Gid), w.expected, "an apply went past the snapshot")
		}
		if time.Now().After(next) {
			next = time.Now().Add(nudge)
			_ = g.KickStorages(ctx) // both are a help; without them log and diffs come later
			_ = g.KickProxy(ctx, vol, ax)
		}
		return found, false, nil
	})
}

// WaitForRestorable waits until a snapshot is restorable at an archive, at
// most timeout (0 = [DefaultTimeout]).
func (g *Group) WaitForRestorable(ctx context.Context, ax Server, vol string, gid meta.Gid, timeout time.Duration) error {
	const op = "wait_for_restorable"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(context.Context) (*plan.Plan, error) {
		return plan.New(op, vol).Then(plan.Step{
			Name: "wait at " + ax.Name, Server: ax.Name,
			Do: func(ctx context.Context) error { return g.awaitRestorable(ctx, ax, vol, gid) },
		}), nil
	}
	_, err := g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return err
}

// restoreAction is the archive's name for a restore.
const restoreAction = "Restore"

// Restore makes a writable image of a snapshot at an archive and waits for it,
// at most timeout (0 = [DefaultTimeout]). It fails with Conflict when there is
// such an image already, and with NotFound when the snapshot is not restorable.
func (g *Group) Restore(ctx context.Context, ax Server, vol string, gid meta.Gid, timeout time.Duration) (Restored, error) {
	const op = "restore"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return Restored{}, err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := g.canRestore(ctx, op, ax, vol, gid); err != nil {
			return nil, err
		}
		return plan.New(op, vol).Then(plan.Step{
			Name: fmt.Sprintf("restore gid %d at %s", gid, ax.Name), Server: ax.Name,
			Do: func(ctx context.Context) error { return g.restore(ctx, ax, vol, gid) },
		}), nil
	}
	if _, err := g.run(ctx, timeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build}); err != nil {
		return Restored{}, err
	}
	return g.locate(ctx, ax, vol, gid), nil
}

// locate names a restored image as its archive keeps it: as a logical volume
// of the group that it tells, else as a file in the directory that the layout
// tells. An archive that cannot be asked now gets the benefit of the doubt.
func (g *Group) locate(ctx context.Context, ax Server, vol string, gid meta.Gid) Restored {
	r := restoredImage(ax, vol, gid)
	if vg, err := g.Client(ax).VolumeGroup(ctx); err == nil && vg != "" {
		r.Path = filepath.Join("/dev", vg, r.Name)
	}
	return r
}

// restoredImage names a restored image that is a file.
func restoredImage(ax Server, vol string, gid meta.Gid) Restored {
	r := Restored{Gid: gid, Name: fmt.Sprintf("wr_%s_%d", vol, gid)}
	if ax.Dir != "" {
		r.Path = filepath.Join(ax.Dir, vol, r.Name)
	}
	return r
}

// canRestore refuses what is there already, and what cannot be restored.
func (g *Group) canRestore(ctx context.Context, op string, ax Server, vol string, gid meta.Gid) error {
	state, err := g.archiveState(ctx, ax, vol)
	switch {
	case err != nil:
		return err
	case state == fsm.ArchiveClear:
		return g.unknownVolume(ctx, op, ax, vol)
	case !active(state):
		return refusal(op, ax, vol, walberr.BadState, "state "+state.String(), "state Archived", "")
	}
	there, err := g.Client(ax).Restored(ctx, vol)
	if err != nil {
		return err
	}
	if slices.Contains(there, gid) {
		return refusal(op, ax, vol, walberr.Conflict, fmt.Sprintf("gid %d is restored already: %s", gid, restoredImage(ax, vol, gid)),
			"no such image", fmt.Sprintf("use it, or del_restored(%s, %q, %d) first", ax.Name, vol, gid))
	}
	list, err := g.Client(ax).Restorable(ctx, vol, true)
	if err != nil {
		return err
	}
	var gids []meta.Gid
	for _, r := range list {
		gids = append(gids, r.Gid)
	}
	if !slices.Contains(gids, gid) {
		return refusal(op, ax, vol, walberr.NotFound, fmt.Sprintf("gid %d is not restorable", gid), "one of "+gidList(last(gids, 10)), "")
	}
	return nil
}

func last[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

// restore makes the archive restore, and waits for the image. The archive
// begins a moment after it accepted, so that no action means failure only
// after that moment.
func (g *Group) restore(ctx context.Context, ax Server, vol string, gid meta.Gid) error {
	cl := g.Client(ax)
	until := time.Now().Add(g.opts.Busy)
	var accepted time.Time
	w := wait{
		op: "restore", server: ax.Name, volume: vol, expected: "the image",
		hint: "the archive goes on; get_restored shows when the image is there",
	}
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		if accepted.IsZero() {
			err := cl.Restore(ctx, vol, gid)
			if err != nil && time.Now().Before(until) && restorePasses(err) {
				return err.Error(), false, nil
			}
			if err != nil {
				return "", false, err
			}
			accepted = time.Now()
		}
		running, err := cl.NumAction(ctx, vol, restoreAction)
		if err != nil {
			return "", false, err
		}
		there, err := cl.Restored(ctx, vol)
		if err != nil {
			return "", false, err
		}
		if running == 0 && !slices.Contains(there, gid) && time.Since(accepted) > g.settle {
			err = refusal("restore", ax, vol, walberr.Unavailable, "the restore ended without an image", "the image",
				"the log of "+ax.Name+" says why")
		}
		return "running", slices.Contains(there, gid), err
	})
}

// restorePasses reports whether the reason of a refused restore will pass.
func restorePasses(refused error) bool {
	text := refused.Error()
	return walberr.Is(refused, walberr.Conflict) && !strings.Contains(text, "already restored") ||
		strings.Contains(text, "exceeds max foreground tasks")
}

// DelRestored removes a restored image from an archive. It fails with NotFound
// when there is none.
func (g *Group) DelRestored(ctx context.Context, ax Server, vol string, gid meta.Gid) error {
	const op = "del_restored"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	there, err := g.GetRestored(ctx, ax, vol)
	if err != nil {
		return err
	}
	if !slices.Contains(there, gid) {
		e := refusal(op, ax, vol, walberr.NotFound, fmt.Sprintf("no restored image of gid %d", gid), "one of "+gidList(there), "")
		if len(there) == 0 {
			e = refusal(op, ax, vol, walberr.NotFound, "no restored image", "", "")
		}
		return e
	}
	build := func(context.Context) (*plan.Plan, error) {
		return plan.New(op, vol).Then(plan.Step{
			Name: fmt.Sprintf("delete the image of gid %d at %s", gid, ax.Name), Server: ax.Name, Final: true,
			Do: func(ctx context.Context) error { return g.delRestored(ctx, ax, vol, gid) },
		}), nil
	}
	_, err = g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Shared: true, Build: build})
	return err
}

// delRestored deletes an image; where the archive is busy, or the image is in
// use for a moment, it tries again.
func (g *Group) delRestored(ctx context.Context, ax Server, vol string, gid meta.Gid) error {
	until := time.Now().Add(g.opts.Busy)
	w := wait{op: "del-restored", server: ax.Name, volume: vol, expected: "the image gone"}
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		err := g.Client(ax).DelRestored(ctx, vol, gid)
		if walberr.Is(err, walberr.Conflict) && time.Now().Before(until) {
			return err.Error(), false, nil
		}
		if err != nil && !walberr.Is(err, walberr.NotFound) {
			return "", false, err
		}
		there, err := g.Client(ax).Restored(ctx, vol)
		return "the image is there", err == nil && !slices.Contains(there, gid), err
	})
}

// GetRestorable lists the snapshots that an archive can restore, ascending;
// with [AllSnapshots] the implicit ones too.
func (g *Group) GetRestorable(ctx context.Context, ax Server, vol string, all bool) ([]meta.Restorable, error) {
	const op = "get_restorable"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return nil, err
	}
	list, err := g.Client(ax).Restorable(ctx, vol, all)
	if err == nil && len(list) == 0 {
		err = g.knownAt(ctx, op, ax, vol)
	}
	return list, err
}

// GetRestored lists the snapshots of which an archive has a restored image,
// ascending.
func (g *Group) GetRestored(ctx context.Context, ax Server, vol string) ([]meta.Gid, error) {
	const op = "get_restored"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return nil, err
	}
	if err := g.knownAt(ctx, op, ax, vol); err != nil {
		return nil, err
	}
	return g.Client(ax).Restored(ctx, vol)
}

// GetRestoredPath names the restored image of a snapshot, whether or not it is
// there.
func (g *Group) GetRestoredPath(ctx context.Context, ax Server, vol string, gid meta.Gid) (Restored, error) {
	const op = "get_restored_path"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return Restored{}, err
	}
	return g.locate(ctx, ax, vol, gid), nil
}

// knownAt fails with NotFound when a server does not know the volume.
func (g *Group) knownAt(ctx context.Context, op string, s Server, vol string) error {
	word, err := g.Client(s).State(ctx, vol)
	if err == nil && word == fsm.ArchiveClear.String() {
		err = g.unknownVolume(ctx, op, s, vol)
	}
	return err
}

// GetState gives the name of a volume's state at a server, steady or
// temporary. A server that does not know the volume says Clear.
func (g *Group) GetState(ctx context.Context, s Server, vol string) (string, error) {
	const op = "get_state"
	if err := firstError(arg(op, "s", s, Storage, Proxy, Archive), volumeArg(op, vol)); err != nil {
		return "", err
	}
	return g.Client(s).State(ctx, vol)
}

// StopModes are the modes of [Group.Stop] by the operators' words.
func StopModes() map[string]client.StopMode {
	return map[string]client.StopMode{
		"graceful": client.StopGraceful, "force": client.StopForce, "empty": client.StopEmpty,
	}
}
