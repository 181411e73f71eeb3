package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// openTries is how often the diffs to send are chosen anew because one of them
// vanished.
const openTries = 10

// outcome says how a transfer to an archive ended.
type outcome int

const (
	sent     outcome = iota // the archive has the diffs
	obsolete                // the archive will never need the diffs
	busy                    // the archive cannot take them now; an operator need not do anything
	refused                 // the archive refuses, perhaps until an operator does something
	failed                  // an operator must do something
	broken                  // no answer
)

// backoff grows with each refusal.
type backoff struct{ delay time.Duration }

// next gives the delay before the next try.
func (b *backoff) next(first, limit time.Duration) time.Duration {
	if b.delay == 0 {
		b.delay = first
	} else {
		b.delay = min(2*b.delay, limit)
	}
	return b.delay
}

// revive makes an archive that was given up be tried again. The lock is held.
func (a *archive) revive() {
	a.failed = false
	a.backoff = backoff{}
}

// sendDelay is how long a received diff waits before it is sent.
func (a *archive) sendDelay() time.Duration { return time.Duration(a.info.SendDelay) * time.Second }

// delivery is one transfer under way.
type delivery struct {
	volume  *volume
	archive *archive
	info    wire.ArchiveInfo
	size    block.LB

	work      *work
	endAction func()
}

// send runs one queued task.
func (s *Server) send(ctx context.Context, t task) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d, err := s.beginDelivery(t, cancel)
	if err != nil {
		s.log.Debug(fmt.Sprintf("not sent:%s:%s:%s", t.volume, t.archive, wire.RefusalText(err)))
		return
	}
	end, err := s.deliver(ctx, d)
	s.logEnd(t, end, err)
	s.endDelivery(d, end, err != nil && ctx.Err() != nil)
}

func (s *Server) logEnd(t task, end outcome, err error) {
	level := slog.LevelError
	switch {
	case err == nil:
		return
	case errors.Is(err, errForceStopped), errors.Is(err, server.ErrShutdown):
		level = slog.LevelWarn
	case end == obsolete, end == busy:
		level = slog.LevelInfo
	}
	s.log.Log(context.Background(), level, fmt.Sprintf("wdiff-transfer failed:%s:%s:%v", t.volume, t.archive, err))
}

// beginDelivery counts the transfer as an action of the volume. A task that has
// nothing to send, or of a volume that is not sending, or of an archive that is
// sent to already, ends.
func (s *Server) beginDelivery(t task, cancel context.CancelCauseFunc) (*delivery, error) {
	const name = "proxyTask"
	v := s.find(t.volume)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyStop(name, v.name, fsm.NotStopping|fsm.WaitingForEmpty); err != nil {
		return nil, err
	}
	if err := v.state.VerifyState(name, sendingStates()...); err != nil {
		return nil, err
	}
	a, found := v.archives[t.archive]
	if !found {
		return nil, &walberr.Error{Op: "send", Volume: v.name, Code: walberr.NotFound, Found: "no archive " + t.archive}
	}
	if len(a.store.All()) == 0 {
		return nil, &walberr.Error{Op: "send", Volume: v.name, Code: walberr.NotFound, Found: "nothing to send to " + t.archive}
	}
	action := fsm.Action(a.name)
	endAction, err := v.state.StartAction(name, action, action)
	if err != nil {
		a.again = true
		return nil, err
	}
	return &delivery{
		volume: v, archive: a, info: a.info, size: v.size,
		work: v.register(cancel), endAction: endAction,
	}, nil
}

// deliver sends the diffs that are next for the archive.
func (s *Server) deliver(ctx context.Context, d *delivery) (outcome, error) {
	group, err := s.choose(d.archive.store)
	if errors.Is(err, fs.ErrNotExist) {
		return failed, err // somebody removed a file that is listed
	}
	if err != nil {
		return judge(err), err
	}
	defer group.close()
	conn, err := wire.Dial(ctx, d.info.Addr.DialString(), s.config.Server.Wire)
	if err != nil {
		return broken, err
	}
	defer func() { _ = conn.Close() }() // what matters was acknowledged
	if _, err := wire.ClientHello(conn, s.config.Server.NodeID, wire.ProtoWdiffTransfer); err != nil {
		return judge(err), err
	}
	req := wire.WdiffRequest{
		Volume:   d.volume.name,
		HostType: wire.HostProxy,
		UUID:     group.diffs[0].UUID(),
		Size:     d.size,
		Diff:     group.merged,
	}
	err = transfer.SendWdiff(ctx, conn, req, group.diffs, d.info.Compress, transfer.Options{})
	end := sent
	if err != nil {
		end = judge(err)
	}
	if end == sent || end == obsolete {
		if err := d.archive.store.RemoveFiles(group.files...); err != nil {
			return broken, err
		}
	}
	if end == sent {
		s.log.Info(fmt.Sprintf("wdiff-transfer succeeded:%s:%s:%s", d.volume.name, d.archive.name, group.merged))
	}
	return end, err
}

// judge tells what a failed transfer means.
func judge(err error) outcome {
	refusal, ok := errors.AsType[*wire.Refusal](err)
	if !ok {
		_, ofPeer := errors.AsType[*wire.Error](err)
		if walberr.Is(err, walberr.Checksum) && !ofPeer {
			return failed // one of our own files is corrupt
		}
		return broken
	}
	switch refusal.Text {
	case wire.DifferentUUID, wire.TooOldDiff:
		return obsolete
	case wire.TooNewDiff, wire.SyncingWord:
		return busy
	case wire.SmallerLvSize, wire.ArchiveNotFound:
		return failed
	}
	return refused
}

// endDelivery draws the consequences of a transfer and pushes the next one,
// unless the volume stopped sending meanwhile.
func (s *Server) endDelivery(d *delivery, end outcome, canceled bool) {
	v, a := d.volume, d.archive
	v.mu.Lock()
	defer v.mu.Unlock()
	defer d.endAction()
	delete(v.works, d.work)
	again := a.again
	a.again = false
	if canceled {
		return
	}
	delay, retry := s.consequence(v, a, end)
	if again {
		a.failed = false
		delay, retry = 0, true
	}
	if retry && v.state.VerifyStop("", v.name, fsm.NotStopping|fsm.WaitingForEmpty) == nil {
		// A task that came meanwhile, by a kick or a new diff, is not put off.
		s.queue.PushSooner(task{v.name, a.name}, delay)
	}
}

// consequence updates what is known of the archive, and tells whether and
// when to try again. The lock is held.
func (s *Server) consequence(v *volume, a *archive, end outcome) (delay time.Duration, retry bool) {
	switch end {
	case sent:
		a.lastSent = s.now()
		a.backoff = backoff{}
		return 0, true
	case obsolete:
		a.backoff = backoff{}
		return 0, true
	case busy:
		return a.backoff.next(s.config.RetryDelay, s.config.MaxRetryDelay), true
	case refused:
		if s.givesUp(v) {
			return s.giveUp(v, a)
		}
		return a.backoff.next(s.config.RetryDelay, s.config.MaxRetryDelay), true
	case failed:
		return s.giveUp(v, a)
	case broken:
		a.backoff.delay = brokenDelay
		return brokenDelay, true
	}
	return 0, false
}

// givesUp reports whether refusals have gone on for too long since the last
// log came.
func (s *Server) givesUp(v *volume) bool {
	return v.lastWlog != 0 && s.now() > v.lastWlog+uint64(s.config.RetryTimeout/time.Second)
}

// giveUp sets the error flag of an archive. Only somebody who waits until
// everything is delivered still tries.
func (s *Server) giveUp(v *volume, a *archive) (delay time.Duration, retry bool) {
	a.failed = true
	a.backoff = backoff{}
	return brokenDelay, v.state.State() == fsm.ProxyWaitForEmpty
}

// group is the diffs that one transfer merges, open.
type group struct {
	files  []*diffstore.File
	diffs  []*wdiff.File
	merged meta.Diff
}

func (g *group) close() {
	for _, f := range g.files {
		_ = f.Close() // it was only read
	}
}

// choose opens the diffs that are next to be sent as one. There is at least
// one, since only this delivery removes any.
func (s *Server) choose(store *diffstore.Store) (*group, error) {
	for try := 1; ; try++ {
		g, err := s.openGroup(store)
		if err == nil {
			return g, nil
		}
		g.close()
		if !walberr.Is(err, walberr.NotFound) || try == openTries {
			return nil, err
		}
	}
}

func (s *Server) openGroup(store *diffstore.Store) (*group, error) {
	var list []meta.Diff
	store.View(func(m *meta.Manager) {
		list = m.ListToMerge(0, s.config.MaxSendMiB<<20, s.config.MaxSendFiles)
	})
	g := new(group)
	for _, d := range list {
		f, err := store.OpenFile(d)
		if err != nil {
			return g, err
		}
		diff, err := openDiff(f)
		if err != nil || len(g.diffs) > 0 && diff.UUID() != g.diffs[0].UUID() {
			_ = f.Close() // it was only read
			if err != nil {
				return g, err
			}
			break
		}
		g.files = append(g.files, f)
		g.diffs = append(g.diffs, diff)
	}
	var err error
	g.merged, err = meta.MergeAll(list[:len(g.files)])
	return g, err
}

func openDiff(f *diffstore.File) (*wdiff.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return wdiff.Open(f.Name(), f, info.Size())
}
