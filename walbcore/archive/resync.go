package archive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// A resync turns the base image into that of another archive, of which only the
// differences come. Until all of them are here nothing of the volume is touched;
// then they are kept as a plan, which is carried out to its end, if need be at
// the next start:
//
//	resync_diff   sorted wdiff file: what to write to the base image
//	resync_state  plan record: what the volume is then. It is written when
//	              resync_diff is durable, and removed first
const (
	fileResyncDiff = "resync_diff"
	fileResync     = "resync_state"
)

// resyncPlan is the content of resync_state.
//
//	state base | uuid | uuid archive
type resyncPlan struct {
	Base        meta.State
	UUID        meta.UUID
	ArchiveUUID meta.UUID
}

// Encode writes the plan.
func (p resyncPlan) Encode(w *wire.Writer) {
	w.State(p.Base)
	w.UUID(p.UUID)
	w.UUID(p.ArchiveUUID)
}

// Decode reads the plan.
func (p *resyncPlan) Decode(r *wire.Reader) {
	p.Base = r.State()
	p.UUID = r.UUID()
	p.ArchiveUUID = r.UUID()
}

// Resync judges the request, and begins the move: from now on nothing reads or
// changes the volume. The way of an Archived volume is that of the original,
// over Stopped and SyncReady; but it is Archived on the disk all the while, and
// again when the differences do not come to their end.
func (d *replDest) Resync(ctx context.Context, req *wire.ReplResyncRequest) error {
	const name = "runResyncReplServer"
	d.resync = *req
	done, err := d.v.claims.move(name, d.v.name, meta.MaxGid)
	if err != nil {
		return err
	}
	d.hold(done)
	if err := d.checkSize(req.Size); err != nil {
		return err
	}
	if d.tx != nil { // the volume is SyncReady
		return nil
	}
	if err := d.beginMoment(ctx, name, fsm.ArchiveStop, fsm.ArchiveStopped); err != nil {
		return err
	}
	// What began since the volume was accepted reads the image, or changes it.
	if err := d.v.sm.VerifyNone(name, fsm.ArchiveActions()...); err != nil {
		return err
	}
	if err := d.tx.Then(fsm.ArchiveResetVol, fsm.ArchiveSyncReady); err != nil {
		return err
	}
	return d.tx.Then(fsm.ArchiveResync, fsm.ArchiveArchived)
}

// BeginResync opens the base image, and makes the file that the differences go
// to.
func (d *replDest) BeginResync(context.Context) (transfer.CompareSink, error) {
	old, err := d.v.images.Open(d.v.name)
	if err != nil {
		return nil, err
	}
	tmp, err := d.v.facts().diffs.CreateTemp()
	if err != nil {
		return nil, errors.Join(err, old.Close())
	}
	return &resyncSink{TempFile: tmp, old: old, d: d}, nil
}

// resyncSink takes the differences of a resync in.
type resyncSink struct {
	*vfs.TempFile
	old image.Image
	d   *replDest
}

// Old is the base image.
func (k *resyncSink) Old() transfer.BlockSource { return k.old }

// Commit makes the plan, and carries it out. Once it is made the volume can no
// longer be what it was before: when something fails then it is SyncReady.
func (k *resyncSink) Commit(ctx context.Context) error {
	v, req := k.d.v, &k.d.resync
	if err := v.removeResync(); err != nil {
		return err
	}
	if _, err := k.TempFile.Commit(fileResyncDiff); err != nil {
		return err
	}
	plan := resyncPlan{Base: req.Base, UUID: req.UUID, ArchiveUUID: req.ArchiveUUID}
	if err := v.save(fileResync, plan.Encode); err != nil {
		return errors.Join(err, v.removeResync())
	}
	k.d.tx.RollbackTo(fsm.ArchiveSyncReady)
	if err := v.carryOut(ctx, plan, k.d.s.cfg.Discard); err != nil {
		return fmt.Errorf("resync of %s, which the next start of the server completes: %w", v.name, err)
	}
	v.learn(func(f *facts) { f.lastSync = k.d.s.now() })
	v.progress.Store(0)
	k.d.tx.Commit()
	return nil
}

// Close removes what has not become a plan, and ends the move.
func (k *resyncSink) Close() error {
	err := errors.Join(k.old.Close(), k.Abort())
	k.d.tx.Rollback()
	return err
}

// carryOut makes the volume what the plan says. It may be repeated at any time
// until it has succeeded.
func (v *volume) carryOut(ctx context.Context, plan resyncPlan, discard wdiff.DiscardMode) error {
	if err := v.saveState(fsm.ArchiveSyncReady); err != nil {
		return err
	}
	if err := v.removeFullRepl(); err != nil {
		return err
	}
	if err := v.writeDifferences(ctx, discard); err != nil {
		return err
	}
	if err := v.removeRestored(); err != nil {
		return err
	}
	if err := v.facts().diffs.RemoveAll(); err != nil {
		return err
	}
	if err := v.saveBase(meta.NewState(plan.Base.B, plan.Base.Timestamp)); err != nil {
		return err
	}
	if err := v.saveUUID(plan.UUID); err != nil {
		return err
	}
	if err := v.saveArchiveUUID(plan.ArchiveUUID); err != nil {
		return err
	}
	if err := v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	return v.removeResync()
}

// writeDifferences writes resync_diff to the base image, durably.
func (v *volume) writeDifferences(ctx context.Context, discard wdiff.DiscardMode) (err error) {
	f, err := v.fsys.Open(v.file(fileResyncDiff), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	diff, err := wdiff.Open(v.file(fileResyncDiff), f, info.Size())
	if err != nil {
		return err
	}
	img, err := v.images.Open(v.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if _, err := wdiff.Apply(ctx, diff.Records(), img, wdiff.ApplyOptions{Size: img.Size(), Discard: discard}); err != nil {
		return err
	}
	return img.Sync()
}

// completeResync carries out the plan that an earlier run of the server left,
// if there is one, and gives the state of the volume.
func (v *volume) completeResync(ctx context.Context, state fsm.ArchiveState, discard wdiff.DiscardMode) (fsm.ArchiveState, error) {
	planned, err := vfs.Exists(v.fsys, v.file(fileResync))
	if err != nil || !planned {
		return state, err
	}
	var plan resyncPlan
	if err := v.read(fileResync, plan.Decode); err != nil {
		return state, err
	}
	if err := v.carryOut(ctx, plan, discard); err != nil {
		return state, &walberr.Error{
			Op: "complete resync", Volume: v.name, Code: walberr.CodeOf(err), Err: err,
			Hint: "remove the cause and start again; or remove " + fileResync + " and the volume is empty",
		}
	}
	return fsm.ArchiveArchived, nil
}

// removeResync removes a plan, whether it is complete or not.
func (v *volume) removeResync() error {
	for _, name := range []string{fileResync, fileResyncDiff} {
		err := v.fsys.Remove(v.file(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := v.fsys.SyncDir(v.dir); err != nil {
			return err
		}
	}
	return nil
}

// removeRestored removes the restored images.
func (v *volume) removeRestored() error {
	gids, err := v.images.Restored(v.name)
	if err != nil {
		return err
	}
	for _, gid := range gids {
		if err := v.images.DeleteRestored(v.name, gid); err != nil {
			return err
		}
	}
	return nil
}

// checkSize refuses a source whose image is larger than ours.
func (d *replDest) checkSize(size block.LB) error {
	have, err := d.s.fit(d.v, size)
	if err != nil {
		return err
	}
	if have < size {
		return server.Refusef(walberr.BadState, "verifyVolumeSize:volume size is smaller than the received size:%s:%d:%d", d.v.name, size, have)
	}
	return nil
}
