package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// busyDelay is how long a task waits that found its volume occupied.
const busyDelay = 100 * time.Millisecond

// runTask looks after one volume: it ships or throws away log, and decides
// when to look again. It runs on a worker of the task queue.
func (s *Server) runTask(ctx context.Context, name string) {
	v, err := s.volume(name, false)
	if err != nil {
		return
	}
	if v.sm.StopState() != fsm.NotStopping {
		return
	}
	state := v.sm.State()
	switch state {
	case fsm.StorageStartStandby, fsm.StorageStartTarget:
		s.tasks.Push(name, busyDelay)
		return
	case fsm.StorageTarget, fsm.StorageFullSync, fsm.StorageStandby:
	default:
		return
	}
	if v.overflowed() {
		s.cfg.Log.Error(fmt.Sprintf("log of %s has overflowed: reset-vol and back it up again", name))
		if state == fsm.StorageTarget {
			if err := s.endShipping("overflow", v); err != nil {
				s.cfg.Log.Error(err.Error())
			}
		}
		return
	}
	action := fsm.WlogSend
	if state == fsm.StorageStandby {
		action = fsm.WlogRemove
	}
	end, err := v.sm.StartAction("runTask", action, fsm.WlogSend, fsm.WlogRemove)
	if err != nil {
		s.tasks.PushForce(name, busyDelay)
		return
	}
	var next time.Duration
	var again bool
	if action == fsm.WlogSend {
		next, again, err = s.ship(ctx, v)
	} else {
		err = v.discardLog(ctx)
	}
	end()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.retryLater(v, err)
	case again:
		s.clearRetry(v)
		s.tasks.Push(name, next)
	default:
		s.clearRetry(v)
	}
}

func (s *Server) clearRetry(v *volume) {
	v.mu.Lock()
	v.retry = 0
	v.mu.Unlock()
}

// retryLater queues a failed shipment again, each time after twice as long.
func (s *Server) retryLater(v *volume, err error) {
	v.mu.Lock()
	if v.retry == 0 {
		v.retry = s.cfg.Delay
	} else {
		v.retry = min(2*v.retry, s.cfg.MaxDelay)
	}
	delay, watched := v.retry, v.unmonitor != nil
	v.mu.Unlock()
	s.cfg.Log.Warn(fmt.Sprintf("wlog-transfer of %s failed, next try in %s: %s", v.name, delay, err))
	if watched {
		s.tasks.PushForce(v.name, delay)
	}
}

// discardLog gives up all log that the device itself needs no longer.
func (v *volume) discardLog(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if l := v.dev.Lsids(); l.PrevWritten > l.Oldest {
		return v.dev.SetOldest(ctx, l.PrevWritten)
	}
	return nil
}

// ship sends one stretch of log, if there is one. again tells whether to come
// back by itself after next; otherwise the device's next change will.
func (s *Server) ship(ctx context.Context, v *volume) (next time.Duration, again bool, err error) {
	sh, ok, err := s.prepareShipment(ctx, v)
	if err != nil || !ok {
		return 0, false, err
	}
	ctx, release := v.breakable(ctx)
	defer release()
	reached, err := s.sendShipment(ctx, v, sh)
	if err != nil {
		return 0, false, err
	}
	if reached == sh.from.Lsid && reached != sh.to.Lsid {
		return 0, false, &walberr.Error{
			Op: "wlog-transfer", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.Range,
			Found: fmt.Sprintf("the log pack at %d is larger than one shipment", reached), Hint: "raise -wl",
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	done := sh.done(reached)
	if err := v.saveDone(done); err != nil {
		return 0, false, err
	}
	if err := v.queue.dropShipped(done); err != nil {
		return 0, false, err
	}
	if err := v.giveUpShipped(ctx); err != nil {
		return 0, false, err
	}
	if len(v.queue.records) > 0 {
		return 0, true, nil
	}
	return s.moreLogIn(v)
}

// moreLogIn tells when to ship log that was written during a shipment. The
// caller holds mu.
func (s *Server) moreLogIn(v *volume) (time.Duration, bool, error) {
	l := v.dev.Lsids()
	if v.done.Lsid >= l.Latest {
		return 0, false, nil
	}
	remaining := uint64(l.Latest-v.done.Lsid)*uint64(v.dev.Identity().PBS)>>20 + 1
	return batchDelay(remaining, s.cfg.MaxWlogMB), true, nil
}

// prepareShipment takes a snapshot where one is due, and chooses what to ship.
// It is false when nothing can be shipped now.
func (s *Server) prepareShipment(ctx context.Context, v *volume) (shipment, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.giveUpShipped(ctx); err != nil {
		return shipment{}, false, err
	}
	l := v.dev.Lsids()
	if v.done.Lsid >= l.Permanent && len(v.queue.records) == 0 {
		return shipment{}, false, nil
	}
	if err := v.queue.dropShipped(v.done); err != nil {
		return shipment{}, false, err
	}
	maxPB := v.maxPB(s.cfg.MaxWlogMB)
	now := s.now()
	if implicitIsDue(v.queue, l.Latest, uint64(s.cfg.SnapshotInterval.Seconds()), now) {
		rec, err := snapshotAfter(v.latest(), l.Latest, maxPB, true, now)
		if err != nil {
			return shipment{}, false, err
		}
		if err := v.queue.push(rec); err != nil {
			return shipment{}, false, err
		}
	}
	sh := chooseShipment(v.done, v.queue.records, l.Permanent, maxPB)
	return sh, l.Permanent >= sh.limit, nil
}

// sendShipment sends the log to the first proxy that takes it, and returns
// where it ended. After a proxy took it there is no fall-over: a failure then
// leaves everything to the next try.
func (s *Server) sendShipment(ctx context.Context, v *volume, sh shipment) (meta.Lsid, error) {
	v.mu.Lock()
	dev, uuid := v.dev, v.uuid
	v.mu.Unlock()
	id := dev.Identity()
	req := wire.WlogRequest{
		Volume: v.name, UUID: uuid, PBS: id.PBS, Salt: id.Salt, Size: dev.Size(),
		MaxLogPB: uint64(sh.limit - sh.from.Lsid),
	}
	var refusals []error
	for _, addr := range s.proxies.usable() {
		conn, err := s.offer(ctx, addr, req)
		if err != nil {
			refusals = append(refusals, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		reached, err := transfer.SendWlog(ctx, conn, req, dev, transfer.WlogStretch{
			Begin: sh.from.Lsid, Limit: sh.limit, MaxPB: v.maxPB(s.cfg.MaxWlogMB), Diff: sh.diff,
		}, transfer.Options{})
		_ = conn.Close()
		var broken *transfer.BrokenLogError
		if errors.As(err, &broken) {
			s.keepBrokenPack(v, broken)
		}
		return reached, err
	}
	return 0, &walberr.Error{
		Op: "wlog-transfer", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.Unavailable,
		Found: "There is no available proxy", Err: errors.Join(refusals...),
		Hint: "start the volume at a proxy, then kick the storage",
	}
}

// offer connects to a proxy and asks it to take the log.
func (s *Server) offer(ctx context.Context, addr wire.Addr, req wire.WlogRequest) (*wire.Conn, error) {
	conn, err := s.dial(ctx, addr, wire.ProtoWlogTransfer)
	if err != nil {
		return nil, err
	}
	if err := transfer.OfferWlog(ctx, conn, req); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// dial opens a conversation with another server.
func (s *Server) dial(ctx context.Context, addr wire.Addr, protocol string) (*wire.Conn, error) {
	conn, err := wire.Dial(ctx, addr.DialString(), s.cfg.Wire)
	if err != nil {
		return nil, err
	}
	if _, err := wire.ClientHello(conn, s.cfg.NodeID, protocol); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// keepBrokenPack saves a pack header that cannot be shipped, for inspection.
func (s *Server) keepBrokenPack(v *volume, broken *transfer.BrokenLogError) {
	path := v.file(fmt.Sprintf("logpackheader-%d", broken.Lsid))
	if err := vfs.WriteFile(v.fsys, path, broken.Block); err != nil {
		s.cfg.Log.Error(err.Error())
	}
}
