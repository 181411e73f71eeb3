package group

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// fakeProxy is a scripted proxy of one volume.
type fakeProxy struct {
	*fake
	vol      string
	state    string
	stopping bool
	busy     time.Duration // how long a stop waits before it begins
	infos    map[string]wire.ArchiveInfo
	queue    map[string][]meta.Diff
}

func (w *world) proxy(name, vol string) *fakeProxy {
	p := &fakeProxy{fake: w.add(Proxy, name), vol: vol, state: "Clear"}
	p.forget()
	p.self = p
	return p
}

func (p *fakeProxy) forget() {
	p.state, p.infos, p.queue = "Clear", map[string]wire.ArchiveInfo{}, map[string][]meta.Diff{}
}

func (p *fakeProxy) names() []string {
	if p.state == "Clear" {
		return nil
	}
	return []string{p.vol}
}

func (p *fakeProxy) do(name string, words []string, info wire.ArchiveInfoRequest) reply {
	switch name {
	case wire.ProtoArchiveInfo:
		return p.archiveInfo(info)
	case wire.ProtoKick:
		if len(words) > 0 && p.state != "Started" && p.state != "WaitForEmpty" {
			return refuse("c2pKickServer:bad state:" + p.state)
		}
		p.deliver()
		return ok()
	case wire.ProtoStart:
		switch {
		case p.stopping:
			return refuse("c2pStartServer:verifyStopState:" + p.vol + ":2:1")
		case p.state != "Stopped":
			return refuse("bad state:" + p.state)
		}
		p.state = "Start"
		p.w.later(time.Millisecond, func() {
			p.state = "Started"
			p.deliver()
			p.w.pump()
		})
		return ok()
	case wire.ProtoStop:
		mode := "graceful"
		if len(words) > 1 {
			mode = words[1]
		}
		return accept(func() { p.stop(mode) })
	}
	return refuse("findServerHandler:bad protocol:" + name + ":")
}

func (p *fakeProxy) stop(mode string) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.stopping || p.state != "Started" {
		return
	}
	p.stopping = true
	if p.busy == 0 {
		p.fall(mode)
		return
	}
	p.w.later(p.busy, func() { p.fall(mode) })
}

func (p *fakeProxy) fall(mode string) {
	if mode != "empty" {
		p.state = "Stop"
		p.w.later(time.Millisecond, func() { p.state, p.stopping = "Stopped", false })
		return
	}
	p.state = "WaitForEmpty"
	p.drain(time.Now().Add(p.w.giveUp))
}

// drain delivers until nothing waits or the time is over.
func (p *fakeProxy) drain(until time.Time) {
	p.w.later(2*time.Millisecond, func() {
		p.deliver()
		switch {
		case p.waiting() == 0:
			p.state, p.stopping = "Stopped", false
		case time.Now().After(until):
			p.state, p.stopping = "Started", false
		default:
			p.drain(until)
		}
	})
}

func (p *fakeProxy) waiting() int {
	n := 0
	for _, q := range p.queue {
		n += len(q)
	}
	return n
}

// deliver sends what waits to the archives that take it.
func (p *fakeProxy) deliver() {
	for name, q := range p.queue {
		a := p.w.archiveAt(p.infos[name].Addr)
		for len(q) > 0 && a != nil && a.receive(q[0]) {
			q = q[1:]
		}
		p.queue[name] = q
	}
}

func (p *fakeProxy) archiveInfo(r wire.ArchiveInfoRequest) reply {
	if r.Words[1] != p.vol {
		return reply{status: wire.OK, values: func(w *wire.Writer) { w.StrVec(nil) }}
	}
	switch r.Sub() {
	case wire.InfoList:
		names := slices.Sorted(maps.Keys(p.infos))
		return reply{status: wire.OK, values: func(w *wire.Writer) { w.StrVec(names) }}
	case wire.InfoGet:
		info, there := p.infos[r.Name]
		if !there {
			return refuse("getArchiveInfo:archive info not exists:" + r.Name)
		}
		return reply{status: wire.OK, values: info.Encode}
	}
	if p.state != "Stopped" && (p.state != "Clear" || r.Sub() == wire.InfoDelete) {
		return refuse("c2pArchiveInfoServer:StateMachineTransaction:bad state:" + p.state + ":Stopped:AddArchiveInfo")
	}
	switch _, there := p.infos[r.Name]; {
	case r.Sub() == wire.InfoDelete:
		delete(p.infos, r.Name)
		delete(p.queue, r.Name)
		if len(p.infos) == 0 {
			p.forget()
		}
		return ok()
	case r.Sub() == wire.InfoAdd && there:
		return refuse("ProxyVolInfo::addArchiveInfo:already exists:" + r.Name)
	}
	p.infos[r.Name] = r.Info
	p.state = "Stopped"
	return ok()
}

func (p *fakeProxy) get(target string, args []string) reply {
	switch target {
	case wire.TargetState:
		if args[0] != p.vol {
			return str("Clear")
		}
		return str(p.state)
	case wire.TargetProxyDiff:
		var v []string
		for _, d := range p.queue[args[1]] {
			v = append(v, d.Line())
		}
		return vec(v)
	case wire.TargetIsWdiffSendError:
		return num(0)
	}
	return refuse("runGetCommandServer:no such target:" + target)
}

// fakeArchive is a scripted archive of one volume, whose image is the list of
// its snapshots.
type fakeArchive struct {
	*fake
	vol         string
	state       string
	stopState   string
	lineage     meta.UUID
	life        meta.UUID // of the log
	size        uint64    // logical blocks
	volumeGroup string    // of images in LVM
	base        meta.Gid
	snaps       []meta.Gid // after the base
	implicit    map[meta.Gid]bool
	restored    []meta.Gid
	actions     map[string]int
	garbage     []meta.Diff // diffs that lead nowhere
	status      map[string]*wire.ReplStatus
	fail        string // reason with which copies from here end; "" = they succeed
	stuck       bool   // copies from here do not end
	run         int64
}

func (w *world) archive(name, vol string) *fakeArchive {
	a := &fakeArchive{fake: w.add(Archive, name), vol: vol}
	a.self = a
	a.forget()
	return a
}

func (a *fakeArchive) forget() {
	a.state, a.stopState, a.base, a.snaps, a.restored = "Clear", "NotStopping", meta.MaxGid, nil, nil
	a.implicit, a.actions, a.status = map[meta.Gid]bool{}, map[string]int{}, map[string]*wire.ReplStatus{}
	a.lineage, a.size = meta.UUID{}, 0
}

// fill makes the archive hold a volume.
func (a *fakeArchive) fill(base meta.Gid, snaps ...meta.Gid) {
	a.state, a.base, a.snaps, a.lineage, a.size = "Archived", base, snaps, meta.UUID{7}, 2048
}

func (a *fakeArchive) names() []string {
	if a.state == "Clear" {
		return nil
	}
	return []string{a.vol}
}

func (a *fakeArchive) latest() meta.Gid {
	if len(a.snaps) == 0 {
		return a.base
	}
	return a.snaps[len(a.snaps)-1]
}

func (a *fakeArchive) active() bool {
	return slices.Contains([]string{"Archived", "WdiffRecv", "HashSync", "ReplSyncAsServer"}, a.state)
}

// receive takes a diff from a proxy and reports whether the proxy may forget it.
func (a *fakeArchive) receive(d meta.Diff) bool {
	switch {
	case a.down || a.state != "Archived":
		return false
	case d.E.B <= a.latest():
		return true
	case d.B.B > a.latest():
		return false
	}
	a.snaps = append(a.snaps, d.E.B)
	return true
}

func (a *fakeArchive) do(name string, words []string, _ wire.ArchiveInfoRequest) reply {
	switch name {
	case wire.ProtoInitVol:
		if a.state != "Clear" {
			return refuse("c2aInitVolServer:StateMachineTransaction:bad state:" + a.state + ":Clear:InitVol")
		}
		a.state = "SyncReady"
		return ok()
	case wire.ProtoClearVol:
		if a.state != "SyncReady" && a.state != "Stopped" {
			return refuse("c2aClearVolServer:StateMachineTransaction:bad state:" + a.state + ":" + a.state + ":ClearVol")
		}
		a.forget()
		return ok()
	case wire.ProtoResetVol:
		if a.state != "SyncReady" && a.state != "Stopped" {
			return refuse("c2aResetVolServer:bad state:" + a.state)
		}
		a.forget()
		a.state = "SyncReady"
		return ok()
	case wire.ProtoStart:
		if a.state != "Stopped" {
			return refuse("c2aStartServer:StateMachineTransaction:bad state:" + a.state + ":Stopped:Start")
		}
		a.state = "Archived"
		return ok()
	case wire.ProtoStop:
		return accept(func() {
			a.w.later(0, func() {
				if a.state == "Archived" {
					a.state = "Stop"
					a.w.later(time.Millisecond, func() { a.state = "Stopped" })
				}
			})
		})
	case wire.ProtoReplicate:
		return a.replicate(words)
	case wire.ProtoSetUUID:
		a.life, _ = meta.ParseUUID(words[1])
		return ok()
	case wire.ProtoRestore:
		gid, _ := meta.ParseGid(words[1])
		return accept(func() {
			a.w.later(3*time.Millisecond, func() {
				a.actions["Restore"]++
				a.w.later(3*time.Millisecond, func() {
					a.actions["Restore"]--
					if a.fail == "" {
						a.restored = append(a.restored, gid)
					}
				})
			})
		})
	case wire.ProtoDelRestored:
		gid, _ := meta.ParseGid(words[1])
		a.restored = slices.DeleteFunc(a.restored, func(g meta.Gid) bool { return g == gid })
		return ok()
	}
	return a.upkeep(name, words)
}

// replicate begins a copy as the real archive does: the destination is asked
// before the controller is answered.
func (a *fakeArchive) replicate(words []string) reply {
	gid, _ := meta.ParseGid(words[2])
	addr, _ := wire.ParseAddr(words[3])
	dst := a.w.archiveAt(addr)
	switch {
	case a.actions["ReplSyncAsClient"] > 0:
		return refuse("c2aReplicateServer:there are running action:ReplSyncAsClient:1")
	case dst == nil:
		return refuse("Socket::connect:bad socket:Connection refused(111)")
	}
	if f := dst.strike("repl-sync3"); f != nil {
		if f.happens != nil {
			f.happens()
		}
		return refuse(f.refuse)
	}
	if dst.state != "SyncReady" && dst.state != "Archived" {
		return refuse("runReplSync1stNegotiation:a2aReplSyncServer:bad state:" + dst.state)
	}
	a.actions["ReplSyncAsClient"]++
	a.run++
	st := &wire.ReplStatus{
		Dest: dst.conf.Name, Addr: dst.conf.Addr(), State: wire.ReplRunning, Kind: "diff", Gid: gid, Started: a.run, Rounds: 1,
	}
	a.status[dst.conf.Name] = st
	return accept(func() {
		a.w.later(0, func() {
			if dst.state == "SyncReady" {
				dst.state, st.Kind, st.LBTotal = "FullSync", "full", a.size
				st.BytesSent = 1 << 20
				dst.lineage, dst.life, dst.size = a.lineage, a.life, a.size
			} else {
				dst.state = "ReplSyncAsServer"
			}
			a.finish(dst, st, gid)
		})
	})
}

// finish ends a copy after its time.
func (a *fakeArchive) finish(dst *fakeArchive, st *wire.ReplStatus, gid meta.Gid) {
	a.w.later(a.w.copying, func() {
		if a.stuck {
			a.finish(dst, st, gid)
			return
		}
		a.actions["ReplSyncAsClient"]--
		st.State, st.Ended = wire.ReplDone, 1
		full := dst.state == "FullSync"
		if reason := a.fail; reason != "" || dst.down {
			st.State, st.Error = wire.ReplFailed, reason
			if dst.down {
				st.Error = "stream:read"
			}
			if dst.state = "Archived"; full {
				dst.state = "SyncReady"
			}
			return
		}
		if full {
			dst.base, dst.snaps = a.base, nil
		}
		for _, s := range a.snaps {
			if s > dst.latest() && s <= gid {
				dst.snaps = append(dst.snaps, s)
				st.BytesSent += 100
				st.Rounds++
			}
		}
		st.LBDone = st.LBTotal
		dst.state = "Archived"
	})
}

func (a *fakeArchive) get(target string, args []string) reply {
	if len(args) > 0 && args[0] != a.vol {
		if target == wire.TargetState {
			return str("Clear")
		}
		return refuse("bad state:Clear")
	}
	switch target {
	case wire.TargetState:
		return str(a.state)
	case wire.TargetVolSize:
		return num(a.size)
	case wire.TargetProgress:
		return num(0)
	case wire.TargetArchiveUUID:
		return str(a.lineage.String())
	case wire.TargetUUID:
		return str(a.life.String())
	case wire.TargetExistsBaseImage:
		return flagged(a.size > 0)
	case wire.TargetVolumeGroup:
		return str(a.volumeGroup)
	case wire.TargetNumAction:
		return num(uint64(a.actions[args[1]]))
	case wire.TargetMetaSnap:
		return str(meta.CleanSnap(a.latest()).String())
	case wire.TargetRestored:
		return lines(a.restored)
	case wire.TargetRestorable:
		if !a.active() || a.base == meta.MaxGid {
			return vec(nil)
		}
		list := []meta.Restorable{{Gid: a.base, Timestamp: stamp}}
		for i, s := range a.snaps {
			explicit := !a.implicit[s] || i == len(a.snaps)-1
			if explicit || len(args) > 1 {
				list = append(list, meta.Restorable{Gid: s, Timestamp: stamp, Explicit: explicit})
			}
		}
		return lines(list)
	case wire.TargetAllActions:
		return vec([]string{fmt.Sprintf("%s Merge 0 --- Apply 0 --- Restore %d --- ReplSyncAsClient %d --- Resize 0 ---",
			a.vol, a.actions["Restore"], a.actions["ReplSyncAsClient"])})
	case wire.TargetRepl:
		var list []wire.ReplStatus
		for _, name := range slices.Sorted(maps.Keys(a.status)) {
			list = append(list, *a.status[name])
		}
		return lines(list)
	}
	return a.upkeepTarget(target, args)
}

// fakeStorage is a scripted storage of one volume.
type fakeStorage struct {
	*fake
	vol     string
	state   string
	gid     meta.Gid
	pending []meta.Diff // log that no proxy took yet
	broken  bool        // backups end without success
	stuck   bool        // backups do not end
	force   bool        // a forced stop was asked for
}

func (w *world) storage(name, vol string) *fakeStorage {
	s := &fakeStorage{fake: w.add(Storage, name), vol: vol, state: "Clear"}
	s.self = s
	return s
}

func (s *fakeStorage) names() []string {
	if s.state == "Clear" {
		return nil
	}
	return []string{s.vol}
}

// write makes a new generation of the volume.
func (s *fakeStorage) write() meta.Gid {
	s.gid++
	s.pending = append(s.pending, diff(s.gid-1, s.gid))
	s.w.pump()
	return s.gid
}

// pump ships the log of all storages to a proxy that runs.
func (w *world) pump() {
	for _, srv := range w.servers {
		s, is := srv.self.(*fakeStorage)
		if !is || s.state != "Target" {
			continue
		}
		for _, other := range w.servers {
			p, is := other.self.(*fakeProxy)
			if !is || p.state != "Started" || p.stopping || p.down {
				continue
			}
			for name := range p.infos {
				p.queue[name] = append(p.queue[name], s.pending...)
			}
			s.pending = nil
			p.deliver()
			break
		}
	}
}

func (s *fakeStorage) do(name string, words []string, _ wire.ArchiveInfoRequest) reply {
	switch name {
	case wire.ProtoKick:
		s.w.pump()
		return ok()
	case wire.ProtoSnapshot:
		if s.state != "Target" && s.state != "Stopped" {
			return refuse("c2sSnapshotServer:bad state:" + s.state)
		}
		gid := s.write()
		return reply{status: wire.OK, values: func(w *wire.Writer) { w.U64(uint64(gid)) }}
	case wire.ProtoInitVol:
		if s.state != "Clear" {
			return refuse("c2sInitVolServer:StateMachineTransaction:bad state:" + s.state + ":Clear:InitVol")
		}
		s.state = "SyncReady"
		return ok()
	case wire.ProtoClearVol:
		if s.state != "SyncReady" {
			return refuse("c2sClearVolServer:bad state:" + s.state)
		}
		s.state = "Clear"
		return ok()
	case wire.ProtoResetVol:
		if s.state != "Stopped" {
			return refuse("StateMachineTransaction:bad state:" + s.state + ":Stopped:Reset")
		}
		s.state = "SyncReady"
		return ok()
	case wire.ProtoStart:
		from, to := "Stopped", "Target"
		if words[1] == "standby" {
			from, to = "SyncReady", "Standby"
		}
		if s.state != from {
			return refuse("c2sStartServer:bad state:" + s.state)
		}
		s.state = to
		return ok()
	case wire.ProtoStop:
		return accept(func() {
			s.w.later(time.Millisecond, func() {
				switch s.state {
				case "Target":
					s.state = "Stopped"
				case "Standby":
					s.state = "SyncReady"
				case "FullSync", "HashSync":
					s.force = len(words) > 1 && words[1] == "force"
				}
			})
		})
	case wire.ProtoFullBkp:
		if s.state != "SyncReady" {
			return refuse("backupClient:StateMachineTransaction:bad state:" + s.state + ":SyncReady:FullSync")
		}
		for _, srv := range s.w.servers {
			if a, is := srv.self.(*fakeArchive); is && a.state == "SyncReady" {
				s.state, a.state, s.force = "FullSync", "FullSync", false
				return accept(func() { s.w.later(0, func() { s.backup(a) }) })
			}
		}
		return refuse("backupClient:not accepted by archive:a0:backupServer:bad state:Clear")
	case wire.ProtoHashBkp:
		if s.state != "SyncReady" {
			return refuse("backupClient:StateMachineTransaction:bad state:" + s.state + ":SyncReady:HashSync")
		}
		for _, srv := range s.w.servers {
			if a, is := srv.self.(*fakeArchive); is && a.state == "Archived" {
				s.state, a.state, s.force = "HashSync", "HashSync", false
				return accept(func() { s.w.later(0, func() { s.hashBackup(a) }) })
			}
		}
		return refuse("backupClient:not accepted by archive:a0:backupServer:bad state:SyncReady")
	}
	return refuse("findServerHandler:bad protocol:" + name + ":")
}

// hashBackup brings the archive what differs, and a new life of the log.
func (s *fakeStorage) hashBackup(a *fakeArchive) {
	s.w.later(s.w.copying, func() {
		switch {
		case s.broken || s.force:
			s.state, a.state = "SyncReady", "Archived"
		case s.stuck:
			s.hashBackup(a)
		default:
			s.gid = a.latest() + 1
			a.life[0]++
			a.snaps, a.state = append(a.snaps, s.gid), "Archived"
			s.state, s.pending = "Target", []meta.Diff{}
			s.w.later(3*time.Millisecond, func() { s.write() })
		}
	})
}

func (s *fakeStorage) backup(a *fakeArchive) {
	s.w.later(s.w.copying, func() {
		switch {
		case s.broken || s.force:
			s.state, a.state = "SyncReady", "SyncReady"
		case s.stuck:
			s.backup(a)
		default:
			a.fill(0)
			a.base = meta.MaxGid // dirty until the first diff
			s.state, s.gid = "Target", 0
			s.pending = []meta.Diff{}
			s.w.later(3*time.Millisecond, func() {
				a.base = 0
				s.write()
			})
		}
	})
}

func (s *fakeStorage) get(target string, args []string) reply {
	if len(args) > 0 && args[0] != s.vol {
		return str("Clear")
	}
	switch target {
	case wire.TargetState:
		return str(s.state)
	case wire.TargetIsOverflow:
		return num(0)
	case wire.TargetLogUsage:
		return vec([]string{"name:" + s.vol + "\tusage_pb:3\tcapacity_pb:10\tpbs:512"})
	case wire.TargetLatestSnap:
		return vec([]string{"name:" + s.vol + "\tkind:storage\tgid:" + strconv.FormatUint(uint64(s.gid), 10) +
			"\tlsid:5\ttimestamp:2023-11-14T22:13:20"})
	}
	return refuse("runGetCommandServer:no such target:" + target)
}
