package proxy

import (
	"context"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

func (s *Server) registerCommands() {
	s.core.Handle(wire.ProtoArchiveInfo, s.archiveInfo)
	s.core.HandleCommand(wire.ProtoStart, s.start)
	s.core.HandleCommand(wire.ProtoStop, s.stop)
	s.core.HandleCommand(wire.ProtoClearVol, s.clearVol)
	s.core.HandleCommand(wire.ProtoKick, s.kick)
}

// oneVolume reads the words of a command that takes exactly a volume name.
func oneVolume(name string, words []string) (string, error) {
	if err := server.ExactWords(name, words, 1); err != nil {
		return "", err
	}
	return words[0], wire.CheckVolumeName(words[0])
}

func (s *Server) start(_ context.Context, r *server.Request, words []string) error {
	vol, err := oneVolume("c2pStartServer", words)
	if err != nil {
		return err
	}
	v := s.find(vol)
	v.mu.Lock()
	err = s.startVolume(v)
	v.mu.Unlock()
	if err != nil {
		return err
	}
	r.Log.Info("start succeeded:" + vol)
	return nil
}

// startVolume brings a volume from Stopped to Started. What is left in
// received is given to every archive first. The lock is held.
func (s *Server) startVolume(v *volume) error {
	const name = "startProxyVol"
	if err := v.state.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.state.VerifyNoAction(name); err != nil {
		return err
	}
	if err := v.state.VerifyState("", fsm.ProxyStopped); err != nil {
		return err
	}
	if len(v.archives) == 0 {
		return server.Refusef(walberr.BadState, "%s:no archive is registered:%s", name, v.name)
	}
	tx, err := v.state.Begin(name, fsm.ProxyStopped, fsm.ProxyStart, fsm.ProxyStarted)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := s.distribute(v); err != nil {
		return err
	}
	if _, err := v.received.RemoveTemps(); err != nil {
		return err
	}
	for _, a := range v.archives {
		if _, err := a.store.RemoveTemps(); err != nil {
			return err
		}
		a.revive()
	}
	s.pushAll(v)
	tx.Commit()
	return nil
}

func (s *Server) clearVol(_ context.Context, r *server.Request, words []string) error {
	const name = "c2pClearVolServer"
	vol, err := oneVolume(name, words)
	if err != nil {
		return err
	}
	v := s.find(vol)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyStop(name, vol, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.state.VerifyNoAction(name); err != nil {
		return err
	}
	tx, err := v.state.Begin("", fsm.ProxyStopped, fsm.ProxyClearVol, fsm.ProxyClear)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := s.forget(v); err != nil {
		return err
	}
	tx.Commit()
	r.Log.Info("clearVol succeeded:" + vol)
	return nil
}

// sendingStates are the states in which diffs are sent.
func sendingStates() []fsm.ProxyState {
	return []fsm.ProxyState{fsm.ProxyStarted, fsm.ProxyWlogRecv, fsm.ProxyWaitForEmpty}
}

// kick makes the waiting transfers due: of all volumes, of one, or of one
// archive of a volume.
func (s *Server) kick(_ context.Context, r *server.Request, words []string) error {
	const name = "c2pKickServer"
	if err := server.NonEmptyWords(name, words); err != nil {
		return err
	}
	if len(words) == 0 {
		for _, v := range s.all() {
			if err := s.kickVolume(v, ""); err != nil {
				r.Log.Info("not kicked:" + v.name + ":" + wire.RefusalText(err))
			}
		}
		return nil
	}
	if err := wire.CheckVolumeName(words[0]); err != nil {
		return err
	}
	only := ""
	if len(words) > 1 {
		only = words[1]
	}
	return s.kickVolume(s.find(words[0]), only)
}

func (s *Server) kickVolume(v *volume, only string) error {
	const name = "c2pKickServer"
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyState(name, sendingStates()...); err != nil {
		return err
	}
	if only == "" {
		for _, a := range v.archives {
			a.revive()
		}
		s.pushAll(v)
		return nil
	}
	a, found := v.archives[only]
	if !found {
		return server.Refusef(walberr.NotFound, "%s:archive does not exist:%s", name, only)
	}
	a.revive()
	s.queue.PushForce(task{v.name, only}, 0)
	return nil
}
