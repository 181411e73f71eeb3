package storage

import (
	"context"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
)

// watch looks after the volume's device from now on, until unwatch or the end
// of ctx, which is that of the server. It is called while nobody else can
// call it for the same volume: at the start, and in transactions.
func (s *Server) watch(ctx context.Context, v *volume) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	v.mu.Lock()
	dev := v.dev
	v.unwatch = func() { cancel(); <-ended }
	v.mu.Unlock()
	s.watchers.Go(func() {
		defer close(ended)
		for {
			changed := dev.Changed()
			s.wake(v)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
}

// unwatch ends watch, and drops the volume's task.
func (s *Server) unwatch(v *volume) {
	v.mu.Lock()
	end := v.unwatch
	v.unwatch = nil
	v.retry = 0
	v.mu.Unlock()
	if end != nil {
		end()
	}
	s.tasks.Remove(func(name string) bool { return name == v.name })
}

// wake queues a task for the volume if there is work. It is called at every
// change of the device, and at the end of everything that keeps tasks from
// running: other tasks, stops, states.
func (s *Server) wake(v *volume) {
	view := v.sm.View()
	if view.Stop != fsm.NotStopping || len(view.Running) > 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unwatch == nil {
		return
	}
	overflow := v.dev.Overflowed()
	switch view.State {
	case fsm.StorageTarget:
		if overflow {
			s.tasks.PushSooner(v.name, 0) // not even a failed shipment is waited for
			return
		}
	case fsm.StorageFullSync, fsm.StorageHashSync:
		if overflow { // its last step would fail
			v.breakAll(&walberr.Error{
				Op: "backup", Server: s.cfg.NodeID, Volume: v.name, Code: walberr.BadState, Found: "the log has overflowed",
				Hint: "a larger log, or a faster proxy, lets the backup come through",
			})
			return
		}
	case fsm.StorageStandby:
		if overflow {
			return
		}
	default:
		return
	}
	if v.retry > 0 {
		return
	}
	if delay, due := v.due(view.State, s.cfg.MaxWlogMB, s.cfg.Now()); due {
		s.tasks.PushSooner(v.name, delay)
	}
}

// due reports whether log can be shipped or given up, and how long to wait
// for more. The caller holds mu.
func (v *volume) due(state fsm.StorageState, maxWlogMB uint64, now time.Time) (delay time.Duration, yes bool) {
	l := v.dev.Lsids()
	if state == fsm.StorageStandby {
		return monitorDelay, l.PrevWritten > l.Oldest
	}
	switch queued := len(v.queue.records) > 0; {
	case queued && chooseShipment(v.done, v.queue.records, l.Permanent, maxPB(v.dev, maxWlogMB)).limit <= l.Permanent:
		return 0, true
	case !queued && l.Permanent > v.done.Lsid:
		if scarce(v.dev, l) {
			return 0, true
		}
		megabytes := uint64(l.Permanent-v.done.Lsid)*uint64(v.dev.Identity().PBS)>>20 + 1
		return v.pace.delay(now, megabytes, maxWlogMB), true
	}
	return monitorDelay, min(v.done.Lsid, l.PrevWritten) > l.Oldest
}

// maxPB converts megabytes of log to physical blocks of the device.
func maxPB(dev wdev.Device, megabytes uint64) uint64 {
	return megabytes << 20 / uint64(dev.Identity().PBS)
}

// scarce reports whether much of the log is in use: then it is shipped and
// given up without any delay, so that writers need not wait for room.
func scarce(dev wdev.Device, l wdev.Lsids) bool { return l.Usage() > dev.LogCapacity()/4 }

// giveUp lets the device overwrite the log below shipped that it needs no
// longer itself. When log gets scarce the device is asked to need less.
func giveUp(ctx context.Context, dev wdev.Device, shipped meta.Lsid) error {
	l := dev.Lsids()
	if shipped > l.PrevWritten && l.Written > l.PrevWritten && scarce(dev, l) {
		if err := dev.Checkpoint(ctx); err != nil {
			return err
		}
		l = dev.Lsids()
	}
	if oldest := min(shipped, l.PrevWritten); oldest > l.Oldest {
		return dev.SetOldest(ctx, oldest)
	}
	return nil
}
