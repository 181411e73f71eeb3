package archive

import (
	"context"
	"fmt"
	"slices"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// register tells the core what this server answers.
func (s *Server) register() {
	s.core.HandleCommand(wire.ProtoInitVol, s.initVol)
	s.core.HandleCommand(wire.ProtoClearVol, s.clearVol)
	s.core.HandleCommand(wire.ProtoResetVol, s.resetVol)
	s.core.HandleCommand(wire.ProtoStart, s.start)
	s.core.HandleCommand(wire.ProtoStop, s.stop)
	s.core.HandleCommand(wire.ProtoRestore, s.restore)
	s.core.HandleCommand(wire.ProtoDelRestored, s.delRestored)
	s.core.HandleCommand(wire.ProtoReplicate, s.replicate)
	s.core.HandleTransfer(wire.ProtoFullSync, s.serveFullBackup)
	s.core.HandleTransfer(wire.ProtoWdiffTransfer, s.serveWdiff)
	s.core.HandleTransfer(wire.ProtoReplSync, s.serveRepl)
	s.core.HandleStatus(s.status)
	s.registerTargets()
}

// initVol makes an empty volume: word volume.
func (s *Server) initVol(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aInitVolServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], true)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.ArchiveClear, fsm.ArchiveInitVol, fsm.ArchiveSyncReady)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.create(); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// clearVol forgets a volume and all its images and diffs: word volume.
func (s *Server) clearVol(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aClearVolServer"
	v, tx, err := s.beginRemoval(name, words, fsm.ArchiveClearVol, fsm.ArchiveClear)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	v.mu.Lock()
	defer v.mu.Unlock()
	// The state goes first: what is left without it is removed at the next start.
	if err := s.cfg.FS.Remove(v.file(fileState)); err != nil {
		return err
	}
	if err := s.cfg.FS.SyncDir(v.dir); err != nil {
		return err
	}
	if err := v.removeImages(); err != nil {
		return err
	}
	if err := vfs.RemoveAll(s.cfg.FS, v.dir); err != nil {
		return err
	}
	v.diffs, v.fullRepl, v.repls, v.began = nil, nil, nil, nil
	v.base, v.uuid, v.archiveUUID = meta.State{}, meta.UUID{}, meta.UUID{}
	v.lastSync, v.lastWdiff = 0, 0
	tx.Commit()
	return nil
}

// resetVol throws images and diffs away and makes the volume empty: word
// volume.
func (s *Server) resetVol(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aResetVolServer"
	v, tx, err := s.beginRemoval(name, words, fsm.ArchiveResetVol, fsm.ArchiveSyncReady)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	v.mu.Lock()
	defer v.mu.Unlock()
	// SyncReady promises no image and no diffs, so it may be said first; what
	// a crash then leaves is removed by whatever fills the volume next.
	if err := v.saveState(fsm.ArchiveSyncReady); err != nil {
		return err
	}
	if err := v.removeImages(); err != nil {
		return err
	}
	if err := v.diffs.RemoveAll(); err != nil {
		return err
	}
	if err := v.removeFullRepl(); err != nil {
		return err
	}
	if err := v.saveFresh(); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// beginRemoval makes the checks of clear-vol and reset-vol, and the move.
func (s *Server) beginRemoval(name string, words []string, via, to fsm.ArchiveState) (*volume, *fsm.Tx[fsm.ArchiveState], error) {
	if err := server.ExactWords(name, words, 1); err != nil {
		return nil, nil, err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return nil, nil, err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		return nil, nil, err
	}
	// Whatever the state is, the refusal speaks of a move from it.
	from := v.sm.State()
	tx, err := v.sm.Begin(name, from, via, to)
	return v, tx, err
}

// removeImages removes base and restored images.
func (v *volume) removeImages() error {
	gids, err := v.images.Restored(v.name)
	if err != nil {
		return err
	}
	for _, gid := range gids {
		if err := v.images.DeleteRestored(v.name, gid); err != nil {
			return err
		}
	}
	return v.images.Delete(v.name)
}

// start lets a stopped volume take diffs again: word volume.
func (s *Server) start(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aStartServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.ArchiveStopped, fsm.ArchiveStart, fsm.ArchiveArchived)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.storeState(fsm.ArchiveArchived); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// stop makes a volume take nothing any more: words volume and mode. It answers
// before it is done.
func (s *Server) stop(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aStopServer"
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	mode := server.ParseStopMode(words)
	if mode == server.StopEmpty {
		return server.Refusef(walberr.Usage, "parseStopParam:stop empty is not allowed.")
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	kind := fsm.Stopping
	if mode == server.StopForce {
		kind = fsm.ForceStopping
	}
	stopping, ok := v.sm.BeginStop(kind)
	if !ok {
		return server.Refusef(walberr.Conflict, "%s:already under stopping:%s", name, v.name)
	}
	defer stopping.End()
	if err := r.Accept(); err != nil {
		return err
	}
	changed := func() <-chan struct{} { _, c := v.sm.Watch(); return c }
	if err := s.core.AwaitFact(ctx, name, changed, func() bool { return v.sm.View().Idle() }); err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveArchived); err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.ArchiveArchived, fsm.ArchiveStop, fsm.ArchiveStopped)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.storeState(fsm.ArchiveStopped); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// delRestored removes a restored image: words volume and gid.
func (s *Server) delRestored(_ context.Context, _ *server.Request, words []string) error {
	const name = "delSnapshotServer"
	v, gid, err := s.volumeAndGid(name, words)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, append(fsm.ArchiveActive(), fsm.ArchiveStopped)...); err != nil {
		return err
	}
	if err := v.sm.VerifyNone(name, fsm.Restore, fsm.Resize); err != nil {
		return err
	}
	gids, err := v.images.Restored(v.name)
	if err != nil {
		return err
	}
	if !slices.Contains(gids, gid) {
		return server.Refusef(walberr.NotFound, "delSnapshot:volume not found:%s:%d:restored", v.name, gid)
	}
	return v.images.DeleteRestored(v.name, gid)
}

// volumeAndGid reads the two words of a command on a snapshot.
func (s *Server) volumeAndGid(name string, words []string) (*volume, meta.Gid, error) {
	if err := server.ExactWords(name, words, 2); err != nil {
		return nil, 0, err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return nil, 0, err
	}
	gid, err := meta.ParseGid(words[1])
	return v, gid, err
}

// logEnd logs how background work ended.
func (s *Server) logEnd(what string, v *volume, err error) {
	if err != nil {
		s.cfg.Log.Error(fmt.Sprintf("%s failed:%s:%s", what, v.name, err))
		return
	}
	s.cfg.Log.Info(fmt.Sprintf("%s succeeded:%s", what, v.name))
}
