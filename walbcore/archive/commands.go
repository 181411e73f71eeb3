package archive

import (
	"context"
	"fmt"
	"slices"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
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
	s.core.HandleTransfer(wire.ProtoHashSync, s.serveHashBackup)
	s.core.HandleTransfer(wire.ProtoGatherLatest, s.serveLatest)
	s.core.HandleStatus(s.status)
	s.registerUpkeep()
	s.registerTargets()
}

// registerUpkeep tells the core what is done with images and diffs that are
// there.
func (s *Server) registerUpkeep() {
	s.core.HandleCommand(wire.ProtoApply, s.apply)
	s.core.HandleCommand(wire.ProtoMerge, s.merge)
	s.core.HandleCommand(wire.ProtoResize, s.resize)
	s.core.HandleCommand(wire.ProtoDelCold, s.delCold)
	s.core.HandleCommand(wire.ProtoDisableSnapshot, s.changeSnapshots(false))
	s.core.HandleCommand(wire.ProtoEnableSnapshot, s.changeSnapshots(true))
	s.core.HandleCommand(wire.ProtoGCDiff, s.gcDiff)
	s.core.HandleCommand(wire.ProtoBlockHash, s.blockHash)
	s.core.HandleCommand(wire.ProtoVirtFullScan, s.virtFullScan)
	s.core.HandleCommand(wire.ProtoReloadMetadata, s.reloadMetadata)
	s.core.HandleCommand(wire.ProtoSetUUID, s.setUUID)
	s.core.HandleCommand(wire.ProtoSetState, s.setState)
	s.core.HandleCommand(wire.ProtoSetBase, s.setBase)
	s.core.HandleExtension(wire.ProtoVerify, s.verify)
	s.core.Background(s.completeApplies)
	s.core.HandleCommand(wire.ProtoExport, s.export)
	s.core.HandleCommand(wire.ProtoUnexport, s.unexport)
	s.core.Background(s.exports.run)
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
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	done, err := v.claims.move(name, v.name, meta.MaxGid)
	if err != nil {
		return err
	}
	defer done()
	// What a stopped volume has promised is taken back first.
	if v.sm.State() == fsm.ArchiveStopped {
		if err := v.reset(name); err != nil {
			return err
		}
	}
	tx, err := v.beginRemoval(name, fsm.ArchiveClearVol, fsm.ArchiveClear)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.removeData(); err != nil {
		return err
	}
	gone, err := v.removeDir()
	if gone {
		v.mu.Lock()
		v.kept, v.began, v.repls, v.runs = facts{}, nil, nil, nil
		v.mu.Unlock()
		tx.Commit()
	}
	return err
}

// resetVol throws images and diffs away and makes the volume empty: word
// volume.
func (s *Server) resetVol(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aResetVolServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	return v.reset(name)
}

// reset makes the volume empty. Once it is said to be so on the disk, it is so:
// what could not be removed is removed by whatever fills the volume next, or
// by another reset.
func (v *volume) reset(name string) error {
	done, err := v.claims.move(name, v.name, meta.MaxGid)
	if err != nil {
		return err
	}
	defer done()
	tx, err := v.beginRemoval(name, fsm.ArchiveResetVol, fsm.ArchiveSyncReady)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.saveState(fsm.ArchiveSyncReady); err != nil {
		return err
	}
	defer tx.Commit()
	if err := v.removeData(); err != nil {
		return err
	}
	return v.saveFresh()
}

// beginRemoval makes the move of clear-vol or reset-vol, which no action may
// run beside. Whatever the state is, a refusal speaks of a move from it.
func (v *volume) beginRemoval(name string, via, to fsm.ArchiveState) (*fsm.Tx[fsm.ArchiveState], error) {
	if err := v.sm.VerifyNoAction(name); err != nil {
		return nil, err
	}
	tx, err := v.sm.Begin(name, v.sm.State(), via, to)
	if err != nil {
		return nil, err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		tx.Rollback()
		return nil, err
	}
	return tx, nil
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
	if err := v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// stop makes a volume take nothing any more: words volume and mode. It answers
// before it is done. A force stop breaks nothing off before that.
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
	stopping, ok := v.sm.BeginStop(fsm.Stopping)
	if !ok {
		return server.Refusef(walberr.Conflict, "%s:already under stopping:%s", name, v.name)
	}
	defer stopping.End()
	if err := r.Accept(); err != nil {
		return err
	}
	if mode == server.StopForce {
		stopping.Become(fsm.ForceStopping)
	}
	tx, err := s.awaitStop(ctx, name, v)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.saveState(fsm.ArchiveStopped); err != nil {
		return err
	}
	// Who sees the volume Stopped finds the stop ended.
	stopping.End()
	tx.Commit()
	return nil
}

// awaitStop waits until nothing runs on the volume, and makes the move to
// Stopped in the same moment.
func (s *Server) awaitStop(ctx context.Context, name string, v *volume) (tx *fsm.Tx[fsm.ArchiveState], err error) {
	changed := func() <-chan struct{} { _, c := v.sm.Watch(); return c }
	var refusal error
	err = s.core.AwaitFact(ctx, name, changed, func() bool {
		view := v.sm.View()
		if !view.Idle() {
			return false
		}
		if view.State != fsm.ArchiveArchived {
			refusal = v.sm.VerifyState(name, fsm.ArchiveArchived)
			return refusal != nil
		}
		var busy error // something began in between
		tx, busy = v.sm.Begin(name, fsm.ArchiveArchived, fsm.ArchiveStop, fsm.ArchiveStopped)
		return busy == nil
	})
	if err == nil {
		err = refusal
	}
	return tx, err
}

// delRestored removes a restored image: words volume and gid.
func (s *Server) delRestored(_ context.Context, _ *server.Request, words []string) error {
	v, gid, err := s.imageToDelete(words)
	if err != nil {
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

// imageToDelete reads the words of a command that removes a restored or cold
// image, and refuses it when that must not be now.
func (s *Server) imageToDelete(words []string) (*volume, meta.Gid, error) {
	const name = "delSnapshotServer"
	v, gid, err := s.volumeAndGid(name, words)
	if err != nil {
		return nil, 0, err
	}
	if err := v.admits(name, append(fsm.ArchiveActive(), fsm.ArchiveStopped)...); err != nil {
		return nil, 0, err
	}
	return v, gid, v.sm.VerifyNone(name, fsm.Restore, fsm.Resize)
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
