package proxy

import (
	"context"
	"fmt"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// registerTargets registers the get targets of a proxy.
func (s *Server) registerTargets() {
	s.core.Target(wire.TargetVol, s.getVol)
	s.core.Target(wire.TargetState, s.getState)
	s.core.Target(wire.TargetLatestSnap, s.getLatestSnap)
	s.core.Target(wire.TargetIsWdiffSendError, s.getIsWdiffSendError)
	s.core.Target(wire.TargetProxyDiff, s.getProxyDiff)
}

func (s *Server) getVol(context.Context, []string) (server.Value, error) {
	names, err := s.directories()
	return server.Lines(names), err
}

// volumeArg finds the volume that the first argument names.
func (s *Server) volumeArg(args []string) (*volume, error) {
	if err := server.RequireWords(args, 1); err != nil {
		return nil, err
	}
	if err := wire.CheckVolumeName(args[0]); err != nil {
		return nil, err
	}
	return s.find(args[0]), nil
}

func (s *Server) getState(_ context.Context, args []string) (server.Value, error) {
	v, err := s.volumeArg(args)
	if err != nil {
		return server.Value{}, err
	}
	return server.Text(v.state.State().String()), nil
}

func (s *Server) getLatestSnap(_ context.Context, args []string) (server.Value, error) {
	volumes := s.all()
	if len(args) > 0 {
		v, err := s.volumeArg(args)
		if err != nil {
			return server.Value{}, err
		}
		volumes = []*volume{v}
	}
	var out lines
	for _, v := range volumes {
		v.addLatestSnaps(&out)
	}
	if len(args) > 0 && len(out) == 0 {
		return server.Value{}, server.Refusef(walberr.NotFound, "getLatestSnap:could not get latest snapshot for volume:%s", args[0])
	}
	return server.Lines(out), nil
}

// addLatestSnaps prints, for each archive, the snapshot it will have when
// everything is delivered; nothing when nothing waits.
func (v *volume) addLatestSnaps(out *lines) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range v.names() {
		line := fmt.Sprintf("name:%s\tkind:proxy\tarchive:%s\t", v.name, name)
		if last, err := meta.MaxProgress(v.archives[name].store.All()); err != nil {
			out.add("%sgid:\ttimestamp:", line)
		} else {
			out.add("%sgid:%d\ttimestamp:%s", line, last.E.B, meta.FormatTime(last.Timestamp))
		}
	}
}

// getIsWdiffSendError does not check the volume's name: one that is not known
// is Clear.
func (s *Server) getIsWdiffSendError(_ context.Context, args []string) (server.Value, error) {
	const name = "isWdiffSendError"
	if err := server.RequireWords(args, 2); err != nil {
		return server.Value{}, err
	}
	v := s.find(args[0])
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.received == nil {
		return server.Value{}, server.Refusef(walberr.BadState, "%s:bad state:%s:%s", name, v.name, v.state.State())
	}
	a, found := v.archives[args[1]]
	if !found {
		return server.Value{}, server.Refusef(walberr.NotFound, "%s:bad archive name:%s:%s", name, v.name, args[1])
	}
	return server.Bool(a.failed), nil
}

// getProxyDiff lists the diffs that wait for an archive, or those in received.
func (s *Server) getProxyDiff(_ context.Context, args []string) (server.Value, error) {
	v, err := s.volumeArg(args)
	if err != nil {
		return server.Value{}, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var diffs []meta.Diff
	if len(args) > 1 {
		if a, found := v.archives[args[1]]; found {
			diffs = a.store.All()
		}
	} else if v.received != nil {
		diffs = v.received.All()
	}
	var out lines
	for _, d := range diffs {
		out.add("%s", d.Line())
	}
	return server.Lines(out), nil
}
