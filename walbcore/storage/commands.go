package storage

import (
	"context"
	"fmt"
	"strings"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// register tells the core what this server answers.
func (s *Server) register() {
	s.core.HandleCommand(wire.ProtoInitVol, s.initVol)
	s.core.HandleCommand(wire.ProtoClearVol, s.clearVol)
	s.core.HandleCommand(wire.ProtoResetVol, s.resetVol)
	s.core.HandleCommand(wire.ProtoStart, s.start)
	s.core.HandleCommand(wire.ProtoStop, s.stop)
	s.core.HandleCommand(wire.ProtoKick, s.kick)
	s.core.HandleCommand(wire.ProtoFullBkp, s.backup(fullKind))
	s.core.HandleCommand(wire.ProtoHashBkp, s.backup(hashKind))
	s.core.HandleCommand(wire.ProtoSetFullScan, s.setFullScan)
	s.core.HandleCommand(wire.ProtoSnapshot, s.snapshot)
	s.core.HandleStatus(s.status)
	s.registerTargets()
	if s.cfg.VolumeIO {
		s.core.HandleExtension(wire.ProtoVolumeIO, s.volumeIO)
	}
	s.core.Background(s.proxies.run)
	s.core.Background(s.keepGathering)
	s.core.Background(func(ctx context.Context) error {
		return s.tasks.Run(ctx, s.cfg.Workers, s.runTask)
	})
}

// initVol makes a volume of a walb device: words volume, device path.
func (s *Server) initVol(_ context.Context, r *server.Request, words []string) error {
	const name = "c2sInitVolServer"
	if err := server.ExactWords(name, words, 2); err != nil {
		return err
	}
	path := words[1]
	v, err := s.volume(words[0], true)
	if err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.StorageClear, fsm.StorageInitVol, fsm.StorageSyncReady)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if dev, ok := strings.CutPrefix(path, wdev.PathPrefix); !ok || dev == "" {
		return server.Refusef(walberr.Usage, "getWdevNameFromWdevPath:bad name:%s", path)
	}
	if other := s.claim(path, v.name); other != "" {
		return server.Refusef(walberr.Conflict, "%s:wdevPath is already used:%s:%s", name, v.name, path)
	}
	dev, err := s.cfg.Devices.Lookup(path)
	switch walberr.CodeOf(err) {
	case "":
		err = v.create(path, dev, s.now())
	case walberr.NotFound, walberr.Usage:
		err = server.Refusef(walberr.NotFound, "StorageVolInfo:not found:%s", path)
	}
	if err != nil {
		s.release(path)
		return err
	}
	tx.Commit()
	r.Log.Info("initVol succeeded:" + v.name + ":" + path)
	return nil
}

// clearVol forgets a volume: word volume.
func (s *Server) clearVol(_ context.Context, r *server.Request, words []string) error {
	const name = "c2sClearVolServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.StorageSyncReady, fsm.StorageClearVol, fsm.StorageClear)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	path, err := v.clear()
	if err != nil {
		return err
	}
	s.release(path)
	tx.Commit()
	r.Log.Info("clearVol succeeded:" + v.name)
	return nil
}

// start begins to ship (role target) or to throw away (role standby) the log:
// words volume, role.
func (s *Server) start(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2sStartServer"
	if err := server.ExactWords(name, words, 2); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	from, via, to := fsm.StorageStopped, fsm.StorageStartTarget, fsm.StorageTarget
	switch words[1] {
	case "target":
	case "standby":
		from, via, to = fsm.StorageSyncReady, fsm.StorageStartStandby, fsm.StorageStandby
	default:
		return server.Refusef(walberr.Usage, "parseStartParam:specify role: target or standby:%s", words[1])
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	path, overflow := v.overflowed()
	if overflow && to == fsm.StorageTarget {
		return server.Refusef(walberr.BadState, "%s:overflow:%s:%s", name, v.name, path)
	}
	tx, err := v.sm.Begin(name, from, via, to)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if overflow {
		if _, err := v.resetLog(ctx, 0, s.now()); err != nil {
			return err
		}
	}
	if err := v.storeState(to); err != nil {
		return err
	}
	s.watch(ctx, v)
	tx.Commit()
	s.tasks.PushForce(v.name, 0)
	r.Log.Info("start succeeded:" + v.name)
	return nil
}

// stop ends shipping: words volume and mode. It answers before it is done.
func (s *Server) stop(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2sStopServer"
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	kind := fsm.Stopping
	switch server.ParseStopMode(words) {
	case server.StopEmpty:
		return server.Refusef(walberr.Usage, "parseStopParam:stop empty is not allowed.")
	case server.StopForce:
		kind = fsm.ForceStopping
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	stopping, ok := v.sm.BeginStop(kind)
	if !ok {
		return server.Refusef(walberr.Conflict, "%s:already under stopping:%s", name, v.name)
	}
	defer s.wake(v) // a stop that comes to nothing has kept tasks from running
	defer stopping.End()
	if kind == fsm.ForceStopping {
		v.breakOff(&walberr.Error{Op: "stop", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.Stopped, Found: "force stopped"})
	}
	if err := r.Accept(); err != nil {
		return err
	}
	changed := func() <-chan struct{} { _, c := v.sm.Watch(); return c }
	if err := s.core.AwaitFact(ctx, name, changed, func() bool { return v.sm.View().Idle() }); err != nil {
		return err
	}
	if err := s.endShipping(name, v); err != nil {
		return err
	}
	r.Log.Info("stop succeeded:" + v.name)
	return nil
}

// endShipping takes a volume out of Target or Standby.
func (s *Server) endShipping(name string, v *volume) error {
	if err := v.sm.VerifyState(name, fsm.StorageTarget, fsm.StorageStandby); err != nil {
		return err
	}
	from, via, to := fsm.StorageTarget, fsm.StorageStopTarget, fsm.StorageStopped
	if v.sm.State() == fsm.StorageStandby {
		from, via, to = fsm.StorageStandby, fsm.StorageStopStandby, fsm.StorageSyncReady
	}
	tx, err := v.sm.Begin(name, from, via, to)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := v.storeState(to); err != nil {
		return err
	}
	s.unwatch(v)
	tx.Commit()
	return nil
}

// resetVol throws the log away and begins a new life of it: words volume, gid.
func (s *Server) resetVol(ctx context.Context, r *server.Request, words []string) error {
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	var gid meta.Gid
	if len(words) > 1 {
		var err error
		if gid, err = meta.ParseGid(words[1]); err != nil {
			return err
		}
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyStop("c2sResetVolServer", v.name, fsm.NotStopping); err != nil {
		return err
	}
	tx, err := v.sm.Begin("", fsm.StorageStopped, fsm.StorageReset, fsm.StorageSyncReady)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := v.resetLog(ctx, gid, s.now()); err != nil {
		return err
	}
	tx.Commit()
	r.Log.Info(fmt.Sprintf("reset succeeded:%s:%d", v.name, gid))
	return nil
}

// kick looks for proxies again and runs every waiting task now.
func (s *Server) kick(ctx context.Context, _ *server.Request, _ []string) error {
	s.proxies.kick(ctx)
	s.retryNow()
	return nil
}

// retryNow runs every waiting task now, those that failed too.
func (s *Server) retryNow() {
	for _, v := range s.volumes() {
		v.setRetry(0)
	}
	s.tasks.Kick(nil)
}

// snapshot takes an explicit snapshot: word volume. The answer is its gid.
func (s *Server) snapshot(ctx context.Context, r *server.Request, words []string) error {
	if err := server.ExactWords("c2sSnapshotServer", words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	gid, err := s.snapshotOf(ctx, v)
	if err != nil {
		return err
	}
	s.tasks.PushForce(v.name, 0) // does nothing if the volume is not a target
	r.Log.Info(fmt.Sprintf("snapshot succeeded:%s:%d", v.name, gid))
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.U64(uint64(gid))
	return r.Finish()
}

// snapshotOf takes the snapshot of a command. While mu is held the states
// that it is allowed in do not lose the files it changes.
func (s *Server) snapshotOf(ctx context.Context, v *volume) (meta.Gid, error) {
	const name = "c2sSnapshotServer"
	if err := v.flush(ctx); err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return 0, err
	}
	if err := v.sm.VerifyState(name, fsm.StorageTarget, fsm.StorageStopped); err != nil {
		return 0, err
	}
	return v.takeSnapshot(s.cfg.MaxWlogMB, s.now())
}
