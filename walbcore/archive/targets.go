package archive

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// registerTargets tells the core the get targets of an archive.
func (s *Server) registerTargets() {
	for name, target := range map[string]server.Target{
		wire.TargetVol:             s.targetVol,
		wire.TargetState:           s.onVolume(func(v *volume, _ []string) (server.Value, error) { return server.Text(v.sm.State().String()), nil }),
		wire.TargetLatestSnap:      s.targetLatestSnap,
		wire.TargetUUID:            s.onActive("getUuidDetail", func(f facts) server.Value { return server.Text(f.uuid.String()) }),
		wire.TargetArchiveUUID:     s.onActive("getUuidDetail", func(f facts) server.Value { return server.Text(f.archiveUUID.String()) }),
		wire.TargetBase:            s.onActive("getBase", func(f facts) server.Value { return server.Text(f.base.Text()) }),
		wire.TargetBaseAll:         s.targetBaseAll,
		wire.TargetTsDelta:         s.targetTsDelta,
		wire.TargetDiff:            s.onDiffs(diffLines),
		wire.TargetNumDiff:         s.onDiffs(func(diffs []meta.Diff) server.Value { return server.Number(uint64(len(diffs))) }),
		wire.TargetTotalDiffSize:   s.onDiffs(func(diffs []meta.Diff) server.Value { return server.Number(meta.TotalSize(diffs)) }),
		wire.TargetApplicableDiff:  s.onVolume(targetApplicableDiff),
		wire.TargetExistsDiff:      s.onVolume(targetExistsDiff),
		wire.TargetExistsBaseImage: s.onVolume(targetExistsBaseImage),
		wire.TargetNumAction:       s.onVolume(targetNumAction),
		wire.TargetAllActions:      s.targetAllActions,
		wire.TargetRestored:        s.onVolume(targetRestored),
		wire.TargetCold:            s.onVolume(targetCold),
		wire.TargetRestorable:      s.onVolume(targetRestorable),
		wire.TargetVolSize:         s.onVolume(targetVolSize),
		wire.TargetProgress:        s.onVolume(func(v *volume, _ []string) (server.Value, error) { return server.Number(v.progress.Load()), nil }),
		wire.TargetVolumeGroup:     onServer(s.cfg.VolumeGroup),
		wire.TargetThinpool:        onServer(s.cfg.ThinPool),
		wire.TargetMetaSnap:        s.onVolume(targetMetaSnap),
		wire.TargetMetaState:       s.onVolume(targetMetaState),
		wire.TargetRepl:            s.onVolume(targetRepl),
		wire.TargetActions:         s.onVolume(targetActions),
		TargetRestoredPath:         s.onVolume(targetRestoredPath),
		wire.TargetExports:         s.targetExports,
	} {
		s.core.Target(name, target)
	}
}

// onServer makes a target of a text that never changes.
func onServer(text string) server.Target {
	return func(context.Context, []string) (server.Value, error) { return server.Text(text), nil }
}

// onVolume makes a target whose first argument is a volume; answer gets the
// others.
func (s *Server) onVolume(answer func(v *volume, args []string) (server.Value, error)) server.Target {
	return func(_ context.Context, args []string) (server.Value, error) {
		if err := server.RequireWords(args, 1); err != nil {
			return server.Value{}, err
		}
		v, err := s.volume(args[0], false)
		if err != nil {
			return server.Value{}, err
		}
		return answer(v, args[1:])
	}
}

// onActive makes a target of an active volume.
func (s *Server) onActive(name string, answer func(f facts) server.Value) server.Target {
	return s.onVolume(func(v *volume, _ []string) (server.Value, error) {
		if st := v.sm.State(); !isActive(st) {
			return server.Value{}, server.Refusef(walberr.BadState, "%s:bad state:%s:%s", name, v.name, st)
		}
		return answer(v.facts()), nil
	})
}

// onDiffs makes a target of the diffs in a range of gids.
func (s *Server) onDiffs(answer func(diffs []meta.Diff) server.Value) server.Target {
	return s.onVolume(func(v *volume, args []string) (server.Value, error) {
		b, e := meta.Gid(0), meta.MaxGid
		for i, g := range []*meta.Gid{&b, &e} {
			if i < len(args) {
				gid, err := meta.ParseGid(args[i])
				if err != nil {
					return server.Value{}, err
				}
				*g = gid
			}
		}
		if b >= e {
			return server.Value{}, server.Refusef(walberr.Range, "parseVolIdAndGidRangeParamForGet:bad gid range:%d:%d", b, e)
		}
		var diffs []meta.Diff
		var err error
		v.facts().view(func(m *meta.Manager) { diffs, err = m.Between(b, e) })
		return answer(diffs), err
	})
}

func diffLines(diffs []meta.Diff) server.Value {
	var lines []string
	for _, d := range diffs {
		lines = append(lines, d.Line())
	}
	return server.Lines(lines)
}

func (s *Server) targetVol(context.Context, []string) (server.Value, error) {
	var names []string
	for _, v := range s.volumes() {
		names = append(names, v.name)
	}
	return server.Lines(names), nil
}

func (s *Server) targetLatestSnap(_ context.Context, args []string) (server.Value, error) {
	vols := s.volumes()
	if len(args) > 0 {
		v, err := s.volume(args[0], false)
		if err != nil {
			return server.Value{}, err
		}
		vols = []*volume{v}
	}
	var lines []string
	for _, v := range vols {
		if st := v.sm.State(); isActive(st) || st == fsm.ArchiveStopped {
			latest := v.facts().latest()
			lines = append(lines, fmt.Sprintf("name:%s\tkind:archive\tgid:%d\ttimestamp:%s",
				v.name, latest.B.B, meta.FormatTime(latest.Timestamp)))
		}
	}
	if len(args) > 0 && len(lines) == 0 {
		return server.Value{}, server.Refusef(walberr.NotFound, "getLatestSnap:could not get latest snapshot for volume:%s", args[0])
	}
	return server.Lines(lines), nil
}

func (s *Server) targetBaseAll(context.Context, []string) (server.Value, error) {
	var lines []string
	for _, v := range s.volumes() {
		if !isActive(v.sm.State()) {
			continue
		}
		lines = append(lines, fmt.Sprintf("name:%s\tmetastate:%s", v.name, v.facts().base.Text()))
	}
	return server.Lines(lines), nil
}

// targetTsDelta tells how far behind the destinations of this server's
// replications were when they were heard of last.
func (s *Server) targetTsDelta(context.Context, []string) (server.Value, error) {
	var lines []string
	for _, v := range s.volumes() {
		src := v.facts().latest()
		for _, r := range v.replRuns() {
			dest, ok := r.lastHeard()
			if !ok {
				continue
			}
			lines = append(lines, fmt.Sprintf("name:%s\tdest:%s\tkind:archive\tdest_kind:archive\tgid:%d\tts:%s\tdest_gid:%d\tdest_ts:%s\tts_delta:%d",
				v.name, r.dest, src.B.B, meta.FormatTime(src.Timestamp), dest.B.B, meta.FormatTime(dest.Timestamp),
				int64(src.Timestamp)-int64(dest.Timestamp)))
		}
	}
	return server.Lines(lines), nil
}

// optionalGid reads the gid at args[i]; without it the answer is the largest.
func optionalGid(args []string, i int) (meta.Gid, error) {
	if i >= len(args) {
		return meta.MaxGid, nil
	}
	return meta.ParseGid(args[i])
}

func targetApplicableDiff(v *volume, args []string) (server.Value, error) {
	_, diffs, err := v.chain(args, 0)
	return diffLines(diffs), err
}

// chain is what the base image is at, and the diffs that lead from there up to
// the gid in args[i], if it is there.
func (v *volume) chain(args []string, i int) (base meta.State, diffs []meta.Diff, err error) {
	last, err := optionalGid(args, i)
	if err != nil {
		return meta.State{}, nil, err
	}
	f := v.facts()
	if f.diffs == nil {
		return meta.State{}, nil, server.Refusef(walberr.NotFound,
			"open failed: %s (throwOpenError:48) <libc_error> 2 No such file or directory", v.file(fileBase))
	}
	f.view(func(m *meta.Manager) { diffs = m.ApplicableListByGid(f.base.B, last) })
	return f.base, diffs, nil
}

func targetMetaSnap(v *volume, args []string) (server.Value, error) {
	base, diffs, err := v.chain(args, 0)
	if err != nil {
		return server.Value{}, err
	}
	snap, err := base.B.Apply(diffs...)
	return server.Text(snap.String()), err
}

func targetMetaState(v *volume, args []string) (server.Value, error) {
	if len(args) == 0 {
		return server.Value{}, server.RequireWords(args, 1)
	}
	if args[0] != "0" && args[0] != "1" {
		return server.Value{}, server.Refusef(walberr.Usage, "bad isApplying parameter. specify 0 or 1.:%s", args[0])
	}
	base, diffs, err := v.chain(args, 1)
	if err != nil {
		return server.Value{}, err
	}
	var st meta.State
	if args[0] == "1" {
		st, err = base.BeginApplying(diffs)
	} else {
		st, err = base.EndApplying(diffs)
	}
	return server.Text(st.Text()), err
}

func targetExistsDiff(v *volume, args []string) (server.Value, error) {
	if err := server.RequireWords(args, 4); err != nil {
		return server.Value{}, err
	}
	if st := v.sm.State(); !isActive(st) && st != fsm.ArchiveStopped {
		return server.Value{}, server.Refusef(walberr.BadState, "existsDiff:bad state:%s", st)
	}
	var g [4]meta.Gid
	for i := range g {
		var err error
		if g[i], err = meta.ParseGid(args[i]); err != nil {
			return server.Value{}, err
		}
	}
	d := meta.Diff{B: meta.Snap{B: g[0], E: g[1]}, E: meta.Snap{B: g[2], E: g[3]}}
	if err := d.Check(); err != nil {
		return server.Value{}, err
	}
	found := false
	v.facts().view(func(m *meta.Manager) { _, found = m.Find(d.B, d.E) })
	return server.Bool(found), nil
}

func targetExistsBaseImage(v *volume, _ []string) (server.Value, error) {
	_, err := v.images.Size(v.name)
	if walberr.Is(err, walberr.NotFound) {
		return server.Bool(false), nil
	}
	return server.Bool(err == nil), err
}

func targetVolSize(v *volume, _ []string) (server.Value, error) {
	size, err := v.images.Size(v.name)
	if walberr.Is(err, walberr.NotFound) {
		return server.Value{}, server.Refusef(walberr.NotFound, "getVolSize:base image does not exist:%s", v.name)
	}
	return server.Number(uint64(size)), err
}

func targetNumAction(v *volume, args []string) (server.Value, error) {
	if err := server.RequireWords(args, 1); err != nil {
		return server.Value{}, err
	}
	action := fsm.Action(args[0])
	if v.sm.State() == fsm.ArchiveClear {
		return server.Value{}, server.Refusef(walberr.BadState, "getNumAction:bad state:%s:%s:Clear", v.name, action)
	}
	for _, a := range fsm.ArchiveActions() {
		if a == action {
			return server.Number(uint64(v.sm.Running(a))), nil
		}
	}
	return server.Value{}, server.Refusef(walberr.Usage, "getNumAction:no such action:%s", action)
}

func (s *Server) targetAllActions(context.Context, []string) (server.Value, error) {
	var lines []string
	for _, v := range s.volumes() {
		if !isActive(v.sm.State()) {
			continue
		}
		v.mu.Lock()
		times := maps.Clone(v.began)
		v.mu.Unlock()
		var b strings.Builder
		b.WriteString(v.name)
		for _, a := range fsm.ArchiveActions() {
			fmt.Fprintf(&b, " %s %d %s", a, v.sm.Running(a), meta.PrettyTime(times[a]))
		}
		lines = append(lines, b.String())
	}
	return server.Lines(lines), nil
}

// snapshotCheck is what the lists of restored and cold snapshots demand.
func snapshotCheck(v *volume) error {
	const name = "getSnapshot"
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	return v.sm.VerifyState(name, append(fsm.ArchiveActive(), fsm.ArchiveStopped)...)
}

func targetRestored(v *volume, _ []string) (server.Value, error) {
	if err := snapshotCheck(v); err != nil {
		return server.Value{}, err
	}
	gids, err := v.images.Restored(v.name)
	if err != nil {
		return server.Value{}, err
	}
	var lines []string
	for _, gid := range gids {
		lines = append(lines, gid.String())
	}
	return server.Lines(lines), nil
}

// targetCold lists cold snapshots, which images in files do not have.
func targetCold(v *volume, _ []string) (server.Value, error) {
	return server.Lines(nil), snapshotCheck(v)
}

func targetRestorable(v *volume, args []string) (server.Value, error) {
	if err := v.sm.VerifyStop("getRestorable", v.name, fsm.NotStopping); err != nil {
		return server.Value{}, err
	}
	all := false
	if len(args) > 0 && args[0] != "" {
		if all = args[0] == "all"; !all {
			return server.Value{}, server.Refusef(walberr.Usage, "parseRestorableParamForGet:bad opt:%s", args[0])
		}
	}
	if !isActive(v.sm.State()) {
		return server.Lines(nil), nil
	}
	var lines []string
	f := v.facts()
	f.view(func(m *meta.Manager) {
		for _, r := range m.Restorable(f.base, all) {
			lines = append(lines, r.String())
		}
	})
	return server.Lines(lines), nil
}

func targetRepl(v *volume, _ []string) (server.Value, error) {
	var lines []string
	for _, r := range v.replRuns() {
		lines = append(lines, r.view().String())
	}
	return server.Lines(lines), nil
}

func targetRestoredPath(v *volume, args []string) (server.Value, error) {
	if err := server.RequireWords(args, 1); err != nil {
		return server.Value{}, err
	}
	gid, err := meta.ParseGid(args[0])
	if err != nil {
		return server.Value{}, err
	}
	img, err := v.images.OpenRestored(v.name, gid)
	if err != nil {
		return server.Value{}, err
	}
	return server.Text(v.images.RestoredPath(v.name, gid)), img.Close()
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
		"-----ArchiveGlobal-----",
		"nodeId " + s.cfg.NodeID,
		"baseDir " + s.cfg.BaseDir,
		"volumeGroup " + s.cfg.VolumeGroup,
	}
	if s.cfg.ThinPool != "" {
		lines = append(lines, "thinpool "+s.cfg.ThinPool)
	}
	lines = append(lines,
		fmt.Sprintf("maxConnections %d", s.core.Config().MaxConn),
		fmt.Sprintf("maxForegroundTasks %d", s.core.Config().MaxForeground))
	lines = append(lines, server.SocketStatus(s.cfg.Wire)...)
	lines = append(lines, fmt.Sprintf("doAutoResize %d", bit(s.cfg.AutoResize)),
		fmt.Sprintf("keepOneColdSnapshot %d", bit(s.cfg.KeepOneCold)), "-----Volume-----")
	for _, v := range s.volumes() {
		lines = append(lines, v.statusLine())
	}
	return lines, nil
}

// statusLine is the volume's line in the status of all.
func (v *volume) statusLine() string {
	f, view := v.facts(), v.sm.View()
	actions, diffs := 0, 0
	for _, a := range fsm.ArchiveActions() {
		actions += view.Running[a]
	}
	f.view(func(m *meta.Manager) { diffs = m.Len() })
	line := fmt.Sprintf("volume %s state %s totalNumAction %d stopState %s lastSyncTime %s lastWdiffReceivedTime %s numDiff %d",
		v.name, view.State, actions, view.Stop, meta.PrettyTime(f.lastSync), meta.PrettyTime(f.lastWdiff), diffs)
	size, err := v.images.Size(v.name)
	if err != nil {
		return line + " baseLv NOT FOUND"
	}
	return line + fmt.Sprintf(" latestSnapshot %s size %s", f.latest().B, block.FormatSize(size.Bytes()))
}

// status gives the lines of the status of one volume.
func (v *volume) status() []string {
	f, view := v.facts(), v.sm.View()
	lines := []string{"hostType archive", "volume " + v.name, "state " + view.State.String()}
	if f.diffs == nil {
		return lines
	}
	var actions strings.Builder
	for _, a := range fsm.ArchiveActions() {
		fmt.Fprintf(&actions, " %s %d", a, view.Running[a])
	}
	lines = append(lines,
		"action"+actions.String(),
		"stopState "+view.Stop.String(),
		"lastSyncTime "+meta.PrettyTime(f.lastSync),
		"lastWdiffReceivedTime "+meta.PrettyTime(f.lastWdiff),
		fmt.Sprintf("progressLb %d", v.progress.Load()))
	size, err := v.images.Size(v.name)
	if err != nil {
		return append(lines, "baseLv NOT FOUND")
	}
	restored, err := v.images.Restored(v.name)
	if err != nil {
		return append(lines, "baseLv NOT FOUND")
	}
	lines = append(lines,
		fmt.Sprintf("sizeLb %d", size),
		"size "+block.FormatSize(size.Bytes()),
		"uuid "+f.uuid.String(),
		"archiveUuid "+f.archiveUUID.String(),
		"base "+f.base.String())
	f.view(func(m *meta.Manager) {
		lines = append(lines,
			"latest "+m.LatestState(f.base).B.String(),
			"numCold 0",
			fmt.Sprintf("numRestored %d", len(restored)),
			fmt.Sprintf("numRestorable %d", len(m.Restorable(f.base, false))),
			fmt.Sprintf("numRestorableAll %d", len(m.Restorable(f.base, true))),
			fmt.Sprintf("numDiff %d", m.Len()),
			fmt.Sprintf("wdiffTotalSize %d", m.TotalSize()))
	})
	if f.fullRepl == nil {
		return append(lines, "fullReplState None")
	}
	return append(lines, fmt.Sprintf("fullReplState %s %d %s", f.fullRepl.Base, f.fullRepl.Progress, meta.PrettyTime(f.fullRepl.Timestamp)))
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
