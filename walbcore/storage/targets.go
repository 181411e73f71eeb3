package storage

import (
	"context"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// registerTargets tells the core the get targets of a storage.
func (s *Server) registerTargets() {
	s.core.Target(wire.TargetVol, func(context.Context, []string) (server.Value, error) {
		var names []string
		for _, v := range s.volumes() {
			names = append(names, v.name)
		}
		return server.Lines(names), nil
	})
	s.core.Target(wire.TargetState, s.onVolume(func(v *volume) (server.Value, error) {
		return server.Text(v.sm.State().String()), nil
	}))
	s.core.Target(wire.TargetUUID, s.onVolume(func(v *volume) (server.Value, error) {
		if v.dev == nil {
			return server.Value{}, server.Refusef(walberr.BadState, "getUuid:bad state:%s", v.sm.State())
		}
		return server.Text(v.uuid.String()), nil
	}))
	s.core.Target(wire.TargetIsOverflow, s.onVolume(func(v *volume) (server.Value, error) {
		if v.dev == nil {
			return server.Value{}, server.Refusef(walberr.BadState, "isOverflow:bad state:%s", v.sm.State())
		}
		return server.Bool(v.dev.Overflowed()), nil
	}))
	s.core.Target(wire.TargetLogUsage, s.logUsage)
	s.core.Target(wire.TargetLatestSnap, s.latestSnap)
	s.core.Target(wire.TargetTsDelta, s.tsDelta)
}

// onVolume makes a target of one volume; answer is called under the volume's
// lock.
func (s *Server) onVolume(answer func(v *volume) (server.Value, error)) server.Target {
	return func(_ context.Context, args []string) (server.Value, error) {
		if err := server.RequireWords(args, 1); err != nil {
			return server.Value{}, err
		}
		v, err := s.volume(args[0], false)
		if err != nil {
			return server.Value{}, err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		return answer(v)
	}
}

// targeted lists the volumes that a target with an optional volume speaks of.
func (s *Server) targeted(args []string) ([]*volume, error) {
	if len(args) == 0 {
		return s.volumes(), nil
	}
	v, err := s.volume(args[0], false)
	if err != nil {
		return nil, err
	}
	return []*volume{v}, nil
}

func (s *Server) logUsage(_ context.Context, args []string) (server.Value, error) {
	vols, err := s.targeted(args)
	if err != nil {
		return server.Value{}, err
	}
	var lines []string
	for _, v := range vols {
		v.mu.Lock()
		dev := v.dev
		v.mu.Unlock()
		if dev == nil {
			return server.Value{}, server.Refusef(walberr.BadState, "getLogUsageForVolume:bad state:%s:%s", v.name, v.sm.State())
		}
		lines = append(lines, fmt.Sprintf("name:%s\tusage_pb:%d\tcapacity_pb:%d\tpbs:%d",
			v.name, dev.Lsids().Usage(), dev.LogCapacity(), dev.Identity().PBS))
	}
	return server.Lines(lines), nil
}

func (s *Server) latestSnap(_ context.Context, args []string) (server.Value, error) {
	vols, err := s.targeted(args)
	if err != nil {
		return server.Value{}, err
	}
	var lines []string
	for _, v := range vols {
		if v.sm.State() != fsm.StorageTarget {
			continue
		}
		v.mu.Lock()
		rec := v.latest()
		v.mu.Unlock()
		lines = append(lines, fmt.Sprintf("name:%s\tkind:storage\tgid:%d\tlsid:%d\ttimestamp:%s",
			v.name, rec.Gid, rec.Lsid, meta.FormatTime(rec.Timestamp)))
	}
	if len(args) > 0 && len(lines) == 0 {
		return server.Value{}, server.Refusef(walberr.NotFound, "getLatestSnap:could not get latest snapshot for volume:%s", args[0])
	}
	return server.Lines(lines), nil
}

// status gives the lines of the status command.
func (s *Server) status(_ context.Context, words []string) ([]string, error) {
	if len(words) > 0 {
		v, err := s.volume(words[0], false)
		if err != nil {
			return nil, err
		}
		return v.status(), nil
	}
	lines := []string{
		"-----StorageGlobal-----",
		"nodeId " + s.cfg.NodeID,
		"baseDir " + s.cfg.BaseDir,
		fmt.Sprintf("maxWlogSendMb %d", s.cfg.MaxWlogMB),
		fmt.Sprintf("minDelaySecForRetry %d", int(s.cfg.Delay.Seconds())),
		fmt.Sprintf("maxDelaySecForRetry %d", int(s.cfg.MaxDelay.Seconds())),
		fmt.Sprintf("maxConnections %d", s.core.Config().MaxConn),
		fmt.Sprintf("maxForegroundTasks %d", s.core.Config().MaxForeground),
		fmt.Sprintf("maxBackgroundTasks %d", s.cfg.Workers),
	}
	lines = append(lines, server.SocketStatus(s.cfg.Wire)...)
	lines = append(lines,
		fmt.Sprintf("fullScanLbPerSec %d", s.fullScan()),
		"-----Archive-----",
		"host "+hostLine(s.cfg.Archive),
		"-----Proxy-----")
	now := s.cfg.Now()
	for _, p := range s.proxies.view() {
		left := 0
		if !p.checked.IsZero() {
			left = int(p.checked.Add(heartbeatInterval).Sub(now).Seconds())
		}
		lines = append(lines, fmt.Sprintf("host %s isAvailable %d timeToNextCheck %d", hostLine(p.addr), bit(p.available), left))
	}
	lines = append(lines, "-----TaskQueue-----")
	for _, t := range s.tasks.List() {
		lines = append(lines, fmt.Sprintf("volume %s timeDiffMs %d", t.Key, t.In.Milliseconds()))
	}
	lines = append(lines, "-----Volume-----")
	for _, v := range s.volumes() {
		lines = append(lines, v.statusLine())
	}
	return lines, nil
}

// hostLine prints an address with its port twice, as the original does.
func hostLine(a wire.Addr) string { return fmt.Sprintf("%s:%d:%d", a.Host, a.Port, a.Port) }

// statusLine is the volume's line in the status of all.
func (v *volume) statusLine() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dev == nil {
		return fmt.Sprintf("volume %s state %s", v.name, v.sm.State())
	}
	l := v.dev.Lsids()
	return fmt.Sprintf("volume %s state %s logUsagePb %d logCapacityPb %d oldestGid %d latestGid %d oldestLsid %d permanentLsid %d",
		v.name, v.sm.State(), l.Usage(), v.dev.LogCapacity(), v.done.Gid, v.latest().Gid, l.Oldest, l.Permanent)
}

// status gives the lines of the status of one volume.
func (v *volume) status() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	view := v.sm.View()
	lines := []string{"hostType storage", "volId " + v.name, "state " + view.State.String()}
	if v.dev == nil {
		return lines
	}
	id, size := v.dev.Identity(), v.dev.Size()
	lines = append(lines,
		fmt.Sprintf("action WlogSend %d WlogRemove %d", view.Running[fsm.WlogSend], view.Running[fsm.WlogRemove]),
		"stopState "+view.Stop.String(),
		fmt.Sprintf("isUnderMonitoring %d", bit(v.unwatch != nil)),
		"wdevPath "+v.path,
		fmt.Sprintf("sizeLb %d", size),
		"size "+block.FormatSize(size.Bytes()),
		fmt.Sprintf("isOverflow %d", bit(v.dev.Overflowed())),
		fmt.Sprintf("logUsagePb %d", v.dev.Lsids().Usage()),
		fmt.Sprintf("logCapacityPb %d", v.dev.LogCapacity()),
		"uuid "+v.uuid.String(),
		fmt.Sprintf("pbs %d", id.PBS),
		fmt.Sprintf("salt %x", id.Salt),
		"-----DoneFile-----",
		v.done.String(),
		"-----QueueFile-----")
	for _, rec := range v.queue.records {
		lines = append(lines, rec.String())
	}
	return lines
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
