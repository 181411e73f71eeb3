package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// runTask looks after one volume: it ships or throws away log, gives up what
// is shipped, and sees to it that what is left is looked after too. It runs on
// a worker of the task queue.
func (s *Server) runTask(ctx context.Context, name string) {
	v, err := s.volume(name, false)
	if err != nil {
		return
	}
	state := v.sm.State()
	var action fsm.Action
	switch state {
	case fsm.StorageTarget, fsm.StorageFullSync, fsm.StorageHashSync:
		action = fsm.WlogSend
	case fsm.StorageStandby:
		action = fsm.WlogRemove
	default:
		return // whoever brings the volume into one of these queues a task then
	}
	end, err := v.sm.StartAction("runTask", action, fsm.WlogSend, fsm.WlogRemove)
	if err != nil {
		return // the one that runs looks for more when it ends
	}
	err = s.lookAfter(ctx, v, state)
	end()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.retryLater(v, err)
	default:
		v.setRetry(0)
		s.wake(v)
	}
}

func (v *volume) setRetry(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retry = d
}

// retryLater queues a failed task again, each time after twice as long.
func (s *Server) retryLater(v *volume, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unwatch == nil {
		return
	}
	v.retry = min(max(2*v.retry, s.cfg.Delay), s.cfg.MaxDelay)
	s.cfg.Log.Warn(fmt.Sprintf("wlog-transfer of %s failed, next try in %s: %s", v.name, v.retry, err))
	s.tasks.PushForce(v.name, v.retry)
}

// lookAfter does what the device of a volume in that state asks for. Its
// caller counts as an action: as long as that runs the volume does not leave
// the states in which there may be one, and its log is not reset.
func (s *Server) lookAfter(ctx context.Context, v *volume, state fsm.StorageState) error {
	ctx, release := v.breakable(ctx)
	defer release()
	view := v.sm.View()
	v.mu.Lock()
	dev, uuid, done, watched := v.dev, v.uuid, v.done, v.unwatch != nil
	v.mu.Unlock()
	if view.State != state || view.Stop != fsm.NotStopping || !watched {
		return nil
	}
	if state == fsm.StorageStandby {
		return giveUp(ctx, dev, meta.MaxLsid)
	}
	if dev.Overflowed() {
		s.cfg.Log.Error(fmt.Sprintf("the log of %s has overflowed: reset-vol and back it up again", v.name))
		if state == fsm.StorageTarget {
			return s.endShipping("overflow", v)
		}
		return nil
	}
	if id := dev.Identity(); id.UUID != uuid {
		return &walberr.Error{
			Op: "wlog-transfer", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.DifferentUUID,
			Found: "log of life " + id.UUID.String(), Expected: uuid.String(),
			Hint: "the device's log was reset by someone else: stop and reset the volume, then back it up again",
		}
	}
	// What is shipped is given up first: room for writers does not depend on
	// proxies. A device that gives nothing up is shipped all the same.
	err := giveUp(ctx, dev, done.Lsid)
	shipped, shipErr := s.ship(ctx, v)
	if shipErr == nil && shipped > done.Lsid {
		err = giveUp(ctx, dev, shipped)
	}
	return errors.Join(shipErr, err)
}

// ship sends one stretch of log, if there is one, and gives up to where it is
// shipped then.
func (s *Server) ship(ctx context.Context, v *volume) (meta.Lsid, error) {
	sh, ok, err := s.prepareShipment(v)
	if err != nil || !ok {
		return 0, err
	}
	reached, err := s.sendShipment(ctx, v, sh)
	if err != nil {
		return 0, err
	}
	if reached == sh.from.Lsid && reached != sh.to.Lsid {
		return 0, &walberr.Error{
			Op: "wlog-transfer", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.Checksum,
			Found: fmt.Sprintf("no log pack at %d ends before %d", reached, sh.limit), Expected: "a snapshot at a pack boundary",
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.saveDone(sh.done(reached)); err != nil {
		return 0, err
	}
	v.pace.shipped(s.cfg.Now())
	return reached, v.queue.dropShipped(v.done)
}

// prepareShipment takes a snapshot where one is due, and chooses what to ship.
// It is false when nothing can be shipped now.
//
// The snapshot lies where the log is permanent. The original takes it at the
// end of the log, and has to wait.
func (s *Server) prepareShipment(v *volume) (shipment, bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.queue.dropShipped(v.done); err != nil {
		return shipment{}, false, err
	}
	permanent := v.dev.Lsids().Permanent
	if v.done.Lsid >= permanent && len(v.queue.records) == 0 {
		return shipment{}, false, nil
	}
	blocks, now := maxPB(v.dev, s.cfg.MaxWlogMB), s.now()
	if implicitIsDue(v.queue, permanent, uint64(s.cfg.SnapshotInterval.Seconds()), now) {
		rec, err := snapshotAfter(v.latest(), permanent, blocks, true, now)
		if err != nil {
			return shipment{}, false, err
		}
		if err := v.queue.push(rec); err != nil {
			return shipment{}, false, err
		}
	}
	sh := chooseShipment(v.done, v.queue.records, permanent, blocks)
	return sh, permanent >= sh.limit, nil
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
	var refusals []string
	for _, addr := range s.proxies.usable() {
		conn, err := s.offer(ctx, addr, req)
		if err != nil {
			if ctx.Err() != nil {
				return 0, context.Cause(ctx)
			}
			refusals = append(refusals, fmt.Sprintf("%s: %s", addr, err))
			continue
		}
		reached, err := transfer.SendWlog(ctx, conn, req, dev, transfer.WlogStretch{
			Begin: sh.from.Lsid, Limit: sh.limit, MaxPB: maxPB(dev, s.cfg.MaxWlogMB), Diff: sh.diff,
		}, transfer.Options{})
		_ = conn.Close()
		if broken, ok := errors.AsType[*transfer.BrokenLogError](err); ok {
			s.keepBrokenPack(v, broken)
		}
		return reached, err
	}
	return 0, &walberr.Error{
		Op: "wlog-transfer", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.Unavailable,
		Found: "There is no available proxy", Err: errors.New(strings.Join(refusals, ", ")),
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
	path := v.file(brokenPackFile + broken.Lsid.String())
	if err := vfs.WriteFile(v.fsys, path, broken.Block); err != nil {
		s.cfg.Log.Error(err.Error())
	}
}
