package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// restoreAttempts is how often a restore is begun.
const restoreAttempts = 10

// restore makes an image of a snapshot: words volume and gid. It answers when
// it has begun.
func (s *Server) restore(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aRestoreServer"
	v, gid, err := s.volumeAndGid(name, words)
	if err != nil {
		return err
	}
	if restored, err := v.images.Restored(v.name); err == nil && slices.Contains(restored, gid) {
		return server.Refusef(walberr.Conflict, "%s:already restored:%s:%d", name, v.name, gid)
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	if err := v.admits(name, fsm.ArchiveActive()...); err != nil {
		return err
	}
	end, err := v.startAction(name, fsm.Restore, s.now(), fsm.ArchiveActive()...)
	if err != nil {
		return err
	}
	defer end()
	if _, ok := v.toRestore(gid); !ok {
		return server.Refusef(walberr.NotFound, "verifyRestorable:bad gid to restore:%s:%d", v.name, gid)
	}
	if err := r.Accept(); err != nil {
		return err
	}
	ctx, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	run := s.track(v, fsm.Restore, gid)
	err = s.restoreTo(ctx, v, gid)
	run.end(err)
	s.logEnd(fmt.Sprintf("restore of %d", gid), v, err)
	return err
}

// toRestore lists the diffs that make the snapshot gid of the base image.
func (v *volume) toRestore(gid meta.Gid) (diffs []meta.Diff, ok bool) {
	f := v.facts()
	f.view(func(m *meta.Manager) { diffs, ok = m.ListToRestore(f.base, gid, 0) })
	return diffs, ok
}

// restoreTo makes the image. Where a diff was replaced when it was about to be
// opened, it begins again with the new list.
func (s *Server) restoreTo(ctx context.Context, v *volume, gid meta.Gid) error {
	for attempt := 1; ; attempt++ {
		err := s.restoreOnce(ctx, v, gid)
		if err == nil || attempt == restoreAttempts || !walberr.Is(err, walberr.NotFound) || ctx.Err() != nil {
			return err
		}
	}
}

// restoreOnce makes the image, and leaves nothing behind when it fails. An
// apply may begin at any time: what it writes before or while the base image is
// copied is under the records of the diffs, unless it goes beyond the snapshot.
func (s *Server) restoreOnce(ctx context.Context, v *volume, gid meta.Gid) (err error) {
	archive := v.facts().archiveUUID
	diffs, ok := v.toRestore(gid)
	if !ok {
		return &walberr.Error{
			Op: "restore", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.BadState,
			Found: fmt.Sprintf("snapshot %d is gone", gid), Hint: "see get restorable",
		}
	}
	img, err := v.images.BeginRestore(ctx, v.name, gid)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, img.Close())
		if err == nil {
			err = v.images.CommitRestore(v.name, gid)
		}
		if err != nil {
			err = errors.Join(err, v.images.AbortRestore(v.name, gid))
		}
	}()
	if err := v.stillHolds(archive, gid); err != nil {
		return err
	}
	w := writing{img: img, discard: s.cfg.Discard, pace: newPace(0)}
	if err := s.eachRound(v, diffs, func(_ int, o *openDiffs) error { return w.write(ctx, o.merged(0)) }); err != nil {
		return err
	}
	return img.Sync()
}
