package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// A resync turns the base image into that of another archive, of which only the
// differences come. They are those to our latest image, of which more is likely
// to be the same; or to the base image alone where there is no other, or the
// diffs could not be read the last time. Until all differences are here nothing
// of the volume is touched; then they are kept as a plan, which is carried out
// to its end, if need be at the next start:
//
//	resync_diff   sorted wdiff file: what to write to the image compared with
//	resync_state  plan record: what the volume is then. It is written when
//	              resync_diff is durable, and removed first
//
// The image compared with is base and diffs up to a snapshot. So the diffs are
// written to the base image, then resync_diff. Both may be repeated until the plan
// says that it was done; only then the diffs go.
const (
	fileResyncDiff = "resync_diff"
	fileResync     = "resync_state"
)

// resyncPlan is the content of resync_state.
//
//	state base | uuid | uuid archive | u64 gid | bool written
type resyncPlan struct {
	Base        meta.State
	UUID        meta.UUID
	ArchiveUUID meta.UUID
	Gid         meta.Gid // snapshot that was compared with; [meta.MaxGid] is the base image alone
	Written     bool     // the base image is what the plan wants
}

// Encode writes the plan.
func (p resyncPlan) Encode(w *wire.Writer) {
	w.State(p.Base)
	w.UUID(p.UUID)
	w.UUID(p.ArchiveUUID)
	w.U64(uint64(p.Gid))
	w.Bool(p.Written)
}

// Decode reads the plan.
func (p *resyncPlan) Decode(r *wire.Reader) {
	p.Base = r.State()
	p.UUID = r.UUID()
	p.ArchiveUUID = r.UUID()
	p.Gid = meta.Gid(r.U64())
	p.Written = r.Bool()
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
	d.archived = true
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

// BeginResync opens the image to compare with, and makes the file that the
// differences go to.
func (d *replDest) BeginResync(ctx context.Context) (transfer.CompareSink, error) {
	old, gid, err := d.toCompare(ctx)
	if err != nil {
		return nil, err
	}
	tmp, err := d.v.facts().diffs.CreateTemp()
	if err != nil {
		return nil, errors.Join(err, old.Close())
	}
	return &resyncSink{TempFile: tmp, old: old, gid: gid, d: d}, nil
}

// toCompare opens the image to compare with, which nobody touches meanwhile.
func (d *replDest) toCompare(ctx context.Context) (transfer.SourceImage, meta.Gid, error) {
	if f := d.v.facts(); d.archived && !f.baseOnly {
		gid := f.latest().B.B
		if old, err := d.s.openSnapshot(ctx, d.v, gid); err == nil {
			if old.diffs.fit(old.size) {
				old.exclusive = true
				return old, gid, nil
			}
			if err := old.Close(); err != nil {
				return nil, 0, err
			}
		}
	}
	old, err := d.v.images.Open(d.v.name)
	return old, meta.MaxGid, err
}

// fit reports whether all records can be read, and lie inside the image.
func (o *openDiffs) fit(size block.LB) bool {
	for _, f := range o.diffs {
		for recs := f.Records(); ; {
			r, err := recs.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || r.End() > size {
				return false
			}
		}
	}
	return true
}

// resyncSink takes the differences of a resync in.
type resyncSink struct {
	*vfs.TempFile
	old transfer.SourceImage
	gid meta.Gid // of old
	d   *replDest
}

// Old is the image that is compared with.
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
	plan := resyncPlan{Base: req.Base, UUID: req.UUID, ArchiveUUID: req.ArchiveUUID, Gid: k.gid}
	if err := v.save(fileResync, plan.Encode); err != nil {
		return errors.Join(err, v.removeResync())
	}
	k.d.tx.RollbackTo(fsm.ArchiveSyncReady)
	if err := k.d.s.carryOut(ctx, v, plan); err != nil {
		return fmt.Errorf("resync of %s, which the next start of the server completes: %w", v.name, err)
	}
	v.learn(func(f *facts) { f.lastSync = k.d.s.now() })
	v.progress.Store(0)
	k.d.tx.Commit()
	return nil
}

// Close removes what has not become a plan, and ends the move.
func (k *resyncSink) Close() error {
	if img, ok := k.old.(*snapshotImage); ok && img.failed {
		k.d.v.learn(func(f *facts) { f.baseOnly = true })
	}
	err := errors.Join(k.old.Close(), k.Abort())
	k.d.tx.Rollback()
	return err
}

// carryOut makes the volume what the plan says. It may be repeated at any time
// until it has succeeded.
func (s *Server) carryOut(ctx context.Context, v *volume, plan resyncPlan) error {
	if err := v.saveState(fsm.ArchiveSyncReady); err != nil {
		return err
	}
	if err := v.removeFullRepl(); err != nil {
		return err
	}
	if !plan.Written {
		if err := s.writePlan(ctx, v, plan.Gid); err != nil {
			return err
		}
		plan.Written = true
		if err := v.save(fileResync, plan.Encode); err != nil {
			return err
		}
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
	v.learn(func(f *facts) { f.baseOnly = false })
	return v.removeResync()
}

// writePlan makes the base image what was compared with, and writes the
// differences to it, durably. What was discarded was compared as zeros.
func (s *Server) writePlan(ctx context.Context, v *volume, gid meta.Gid) (err error) {
	img, err := v.images.Open(v.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	write := func(recs wdiff.Stream) error {
		_, err := wdiff.Apply(ctx, recs, &flushing{Image: img}, wdiff.ApplyOptions{Size: img.Size(), Discard: wdiff.DiscardZero})
		return err
	}
	if gid != meta.MaxGid {
		f := v.facts()
		var list []meta.Diff
		ok := false
		f.view(func(m *meta.Manager) { list, ok = m.ListToScan(f.base, gid, 0) })
		if !ok {
			return &walberr.Error{
				Op: "resync", Volume: v.name, Code: walberr.Checksum, Found: fmt.Sprintf("no way from the base image at %s to gid %d", f.base, gid),
			}
		}
		// All at a time, so that nothing is read that was not read when it was compared.
		o, err := v.openDiffs(list)
		if err != nil {
			return err
		}
		if err := errors.Join(write(o.merged(0)), o.Close()); err != nil {
			return err
		}
	}
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
	if err := write(diff.Records()); err != nil {
		return err
	}
	return img.Sync()
}

// completeResync carries out the plan that an earlier run of the server left,
// if there is one, and gives the state of the volume.
func (s *Server) completeResync(ctx context.Context, v *volume, state fsm.ArchiveState) (fsm.ArchiveState, error) {
	planned, err := vfs.Exists(v.fsys, v.file(fileResync))
	if err != nil || !planned {
		return state, err
	}
	var plan resyncPlan
	if err := v.read(fileResync, plan.Decode); err != nil {
		return state, err
	}
	if err := s.carryOut(ctx, v, plan); err != nil {
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
