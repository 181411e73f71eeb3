package proxy

import (
	"context"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/wire"
)

// status gives the lines of the command status.
func (s *Server) status(_ context.Context, words []string) ([]string, error) {
	if len(words) == 0 {
		return s.statusAll(), nil
	}
	if err := server.NonEmptyWords("c2pStatusServer", words); err != nil {
		return nil, err
	}
	if err := wire.CheckVolumeName(words[0]); err != nil {
		return nil, err
	}
	return s.statusOf(s.find(words[0])), nil
}

// lines collects printed lines.
type lines []string

func (l *lines) add(format string, args ...any) { *l = append(*l, fmt.Sprintf(format, args...)) }

func (s *Server) statusAll() []string {
	var out lines
	config := s.core.Config()
	out.add("-----ProxyGlobal-----")
	out.add("nodeId %s", config.NodeID)
	out.add("baseDir %s", s.config.Base)
	out.add("maxWdiffSendMb %d", s.config.MaxSendMiB)
	out.add("minDelaySecForRetry %d", int64(s.config.RetryDelay.Seconds()))
	out.add("maxDelaySecForRetry %d", int64(s.config.MaxRetryDelay.Seconds()))
	out.add("retryTimeout %d", int64(s.config.RetryTimeout.Seconds()))
	out.add("maxConnections %d", config.MaxConn)
	out.add("maxForegroundTasks %d", config.MaxForeground)
	out.add("maxBackgroundTasks %d", s.config.SendWorkers)
	out = append(out, server.SocketStatus(config.Wire)...)

	tasks := s.queue.List()
	out.add("-----TaskQueue %d-----", len(tasks))
	for _, t := range tasks {
		out.add("volume %s archive %s timeDiffMs %d", t.Key.volume, t.Key.archive, t.In.Milliseconds())
	}
	out.add("-----Volume-----")
	for _, v := range s.all() {
		s.addVolumeLines(&out, v)
	}
	return out
}

// addVolumeLines prints a volume that is not Clear.
func (s *Server) addVolumeLines(out *lines, v *volume) {
	v.mu.Lock()
	defer v.mu.Unlock()
	state := v.state.View()
	if v.received == nil {
		return
	}
	received := v.received.All()
	out.add("volume %s state %s numDiff %d totalSize %s timestamp %s",
		v.name, state.State, len(received), formatTotal(received), meta.PrettyTime(v.lastWlog))
	for _, name := range v.names() {
		a := v.archives[name]
		diffs := a.store.All()
		var lo, hi meta.Gid
		a.store.View(func(m *meta.Manager) { lo, hi = m.MinMaxGid() })
		out.add("  archive %s action %s numDiff %d totalSize %s minGid %d maxGid %d %s",
			name, actionWord(state, name), len(diffs), formatTotal(diffs), lo, hi, meta.PrettyTime(a.lastSent))
	}
}

// statusOf prints one volume.
func (s *Server) statusOf(v *volume) []string {
	var out lines
	v.mu.Lock()
	defer v.mu.Unlock()
	state := v.state.View()
	out.add("hostType proxy")
	out.add("volume %s", v.name)
	out.add("state %s", state.State)
	if v.received == nil {
		return out
	}
	received := v.received.All()
	out.add("sizeLb %d", v.size)
	out.add("size %s", block.FormatSize(v.size.Bytes()))
	out.add("numDiff %d", len(received))
	out.add("totalSize %s", formatTotal(received))
	out.add("lastWlogReceivedTime %s", meta.PrettyTime(v.lastWlog))
	out.add("totalNumAction %d", state.TotalRunning())
	out.add("-----Archive-----")
	for _, name := range v.names() {
		a := v.archives[name]
		diffs := a.store.All()
		out.add("  archive %s", name)
		out.add("  host %s", a.info.Addr)
		out.add("  compression %s", a.info.Compress)
		out.add("  wdiffSendDelay %d", a.info.SendDelay)
		out.add("  action %s", actionWord(state, name))
		out.add("  numDiff %d", len(diffs))
		out.add("  lastWdiffSentTime %s", meta.PrettyTime(a.lastSent))
		out.add("  isWdiffSendError %d", boolDigit(a.failed))
		out.add("  wdiffTotalSize %d", meta.TotalSize(diffs))
		out.add("  wdiffSendDelayMeasured %d", s.waiting(diffs))
	}
	return out
}

func actionWord(state fsm.View[fsm.ProxyState], archive string) string {
	if state.Running[fsm.Action(archive)] > 0 {
		return "WdiffSend"
	}
	return "None"
}

func formatTotal(diffs []meta.Diff) string { return block.FormatSize(int64(meta.TotalSize(diffs))) }

func boolDigit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// waiting is how long the oldest of the diffs has been waiting, in seconds.
func (s *Server) waiting(diffs []meta.Diff) int64 {
	if len(diffs) == 0 {
		return 0
	}
	oldest := diffs[0].Timestamp
	for _, d := range diffs {
		oldest = min(oldest, d.Timestamp)
	}
	return int64(s.now()) - int64(oldest)
}
