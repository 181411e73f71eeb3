package proxy

import (
	"context"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// stop serves the command stop. It is always accepted; whether it succeeds
// shows in the state.
func (s *Server) stop(ctx context.Context, r *server.Request, words []string) error {
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	if err := wire.CheckVolumeName(words[0]); err != nil {
		return err
	}
	mode := server.ParseStopMode(words)
	if err := r.Accept(); err != nil {
		return err
	}
	v := s.find(words[0])
	stop := s.stopVolume
	if mode == server.StopEmpty {
		stop = s.stopEmpty
	}
	if err := stop(ctx, v, mode); err != nil {
		return err
	}
	r.Log.Info("stop succeeded:" + v.name)
	return nil
}

// stopVolume brings a volume from Started to Stopped when running work has
// ended, or, forced, breaks that off.
func (s *Server) stopVolume(ctx context.Context, v *volume, mode server.StopMode) error {
	const name = "stopProxyVol"
	stopState := fsm.Stopping
	if mode == server.StopForce {
		stopState = fsm.ForceStopping
	}
	stop, ok := v.beginStop(stopState)
	if !ok {
		return server.Refusef(walberr.Stopped, "%s:already under stopping wlog:%s", name, v.name)
	}
	defer s.endStop(v, stop, nil)
	if mode == server.StopForce {
		v.breakOff()
	}
	idle := func() bool { return v.state.View().Idle() }
	if err := s.core.AwaitFact(ctx, name, v.watch, idle); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyState(name, fsm.ProxyStarted); err != nil {
		return err
	}
	tx, err := v.state.Begin(name, fsm.ProxyStarted, fsm.ProxyStop, fsm.ProxyStopped)
	if err != nil {
		return err
	}
	s.succeed(v, stop, tx)
	return nil
}

// stopEmpty takes no more logs, delivers everything, and then brings the
// volume to Stopped. When that takes too long the volume is Started again.
func (s *Server) stopEmpty(ctx context.Context, v *volume, _ server.StopMode) error {
	const name = "stopAndEmptyProxyVol"
	stop, ok := v.beginStop(fsm.WaitingForEmpty)
	if !ok {
		return server.Refusef(walberr.Stopped, "%s:already under stopping wlog receiver:%s", name, v.name)
	}
	var tx *fsm.Tx[fsm.ProxyState]
	defer func() { s.endStop(v, stop, tx) }()
	steady := func() bool { return v.state.State().Steady() }
	if err := s.core.AwaitFact(ctx, name, v.watch, steady); err != nil {
		return err
	}
	var err error
	if tx, err = s.beginEmptying(v, name); err != nil {
		return err
	}
	empty := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !v.isEmpty() || v.state.View().TotalRunning() > 0 {
			return false
		}
		stop.Become(fsm.Stopping) // from here on no transfer begins
		return true
	}
	if err := s.core.AwaitFact(ctx, name, v.watch, empty); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s.succeed(v, stop, tx)
	return nil
}

// beginEmptying enters WaitForEmpty and makes every transfer due.
func (s *Server) beginEmptying(v *volume, name string) (*fsm.Tx[fsm.ProxyState], error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyState(name, fsm.ProxyStarted); err != nil {
		return nil, err
	}
	tx, err := v.state.Begin(name, fsm.ProxyStarted, fsm.ProxyWaitForEmpty, fsm.ProxyStopped)
	if err != nil {
		return nil, err
	}
	if err := s.distribute(v); err != nil {
		tx.Rollback()
		return nil, err
	}
	for _, a := range v.archives {
		a.revive()
	}
	s.pushAll(v)
	return tx, nil
}

// beginStop sets the stop state under the lock, so that work which verified it
// before is registered by now.
func (v *volume) beginStop(state fsm.StopState) (*fsm.Stop[fsm.ProxyState], bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state.BeginStop(state)
}

// succeed makes the volume Stopped and ends the stop. Both happen under the
// lock, so that whoever sees the state finds no stop under way.
func (s *Server) succeed(v *volume, stop *fsm.Stop[fsm.ProxyState], tx *fsm.Tx[fsm.ProxyState]) {
	s.dropTasks(v)
	tx.Commit()
	stop.End()
}

// endStop ends a stop that has not succeeded: the volume goes back to where it
// was, and on sending. After success it does nothing.
func (s *Server) endStop(v *volume, stop *fsm.Stop[fsm.ProxyState], tx *fsm.Tx[fsm.ProxyState]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if tx != nil {
		tx.Rollback()
	}
	stop.End()
	if v.state.VerifyState("", sendingStates()...) == nil {
		for name := range v.archives {
			s.queue.Push(task{v.name, name}, 0)
		}
	}
}
