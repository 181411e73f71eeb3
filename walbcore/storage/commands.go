package storage

import (
	"context"
	"fmt"
	"strings"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
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
	s.core.HandleCommand(wire.ProtoFullBkp, s.fullBackup)
	s.core.HandleCommand(wire.ProtoSnapshot, s.snapshot)
	s.core.HandleStatus(s.status)
	s.registerTargets()
	if s.cfg.VolumeIO {
		s.core.HandleExtension(wire.ProtoVolumeIO, s.volumeIO)
	}
	s.core.Background(s.runWatchers)
	s.core.Background(s.proxies.run)
	s.core.Background(func(ctx context.Context) error {
		return s.tasks.Run(ctx, s.cfg.Workers, s.runTask)
	})
}

// initVol makes a volume of a walb device: words volume, device path.
func (s *Server) initVol(_ context.Context, _ *server.Request, words []string) error {
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
	if other := s.userOf(path, v); other != "" {
		return server.Refusef(walberr.Conflict, "%s:wdevPath is already used:%s:%s", name, v.name, path)
	}
	dev, err := s.cfg.Devices.Lookup(path)
	if err != nil {
		return server.Refusef(walberr.NotFound, "StorageVolInfo:not found:%s", path)
	}
	if err := v.create(path, dev, s.now()); err != nil {
		_ = vfs.RemoveAll(s.cfg.FS, v.dir)
		return err
	}
	tx.Commit()
	return nil
}

// userOf names the volume other than v that has the device, watched or not:
// two volumes on one log would each give up what the other still needs.
func (s *Server) userOf(path string, v *volume) string {
	for _, o := range s.volumes() {
		if o == v {
			continue
		}
		o.mu.Lock()
		same := o.path == path
		o.mu.Unlock()
		if same {
			return o.name
		}
	}
	return ""
}

// clearVol forgets a volume: word volume.
func (s *Server) clearVol(_ context.Context, _ *server.Request, words []string) error {
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
	v.mu.Lock()
	defer v.mu.Unlock()
	// The state goes first: what is left without it is removed at the next start.
	if err := s.cfg.FS.Remove(v.file("state")); err != nil {
		return err
	}
	if err := vfs.RemoveAll(s.cfg.FS, v.dir); err != nil {
		return err
	}
	v.dev, v.queue, v.path = nil, nil, ""
	tx.Commit()
	return nil
}

// start begins to ship (role target) or to throw away (role standby) the log:
// words volume, role.
func (s *Server) start(ctx context.Context, _ *server.Request, words []string) error {
	const name = "c2sStartServer"
	if err := server.ExactWords(name, words, 2); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	role := words[1]
	if role != "target" && role != "standby" {
		return server.Refusef(walberr.Usage, "parseStartParam:specify role: target or standby:%s", role)
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if role == "target" && v.overflowed() {
		return server.Refusef(walberr.BadState, "%s:overflow:%s:%s", name, v.name, v.path)
	}
	from, via, to := fsm.StorageStopped, fsm.StorageStartTarget, fsm.StorageTarget
	if role == "standby" {
		from, via, to = fsm.StorageSyncReady, fsm.StorageStartStandby, fsm.StorageStandby
	}
	tx, err := v.sm.Begin(name, from, via, to)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if role == "standby" && v.overflowed() {
		if _, err := v.resetLog(ctx, 0, s.now()); err != nil {
			return err
		}
	}
	if err := v.storeState(to); err != nil {
		return err
	}
	if err := s.monitor(ctx, v); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// stop ends shipping: words volume and mode. It answers before it is done.
func (s *Server) stop(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2sStopServer"
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
	return s.endShipping(name, v)
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
	s.unmonitorVolume(v)
	if err := v.storeState(to); err != nil {
		return err
	}
	tx.Commit()
	return nil
}

// resetVol throws the log away and begins a new life of it: words volume, gid.
func (s *Server) resetVol(ctx context.Context, _ *server.Request, words []string) error {
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
	return nil
}

// kick looks for proxies again and runs every waiting task now.
func (s *Server) kick(ctx context.Context, _ *server.Request, _ []string) error {
	s.proxies.kick(ctx)
	for _, v := range s.volumes() {
		v.mu.Lock()
		v.retry = 0
		v.mu.Unlock()
	}
	s.tasks.Kick(nil)
	return nil
}

// snapshot takes an explicit snapshot: word volume. The answer is its gid.
func (s *Server) snapshot(_ context.Context, r *server.Request, words []string) error {
	const name = "c2sSnapshotServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, fsm.StorageTarget, fsm.StorageStopped); err != nil {
		return err
	}
	gid, err := v.snapshot(s.cfg.MaxWlogMB, s.now())
	if err != nil {
		return err
	}
	s.cfg.Log.Info(fmt.Sprintf("snapshot succeeded:%s:%d", v.name, gid))
	if v.sm.State() == fsm.StorageTarget {
		s.tasks.PushForce(v.name, 0)
	}
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.U64(uint64(gid))
	return r.Finish()
}
