package wdev

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Checkpoint implements [Device].
func (d *Userspace) Checkpoint(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.superMu.Lock()
	defer d.superMu.Unlock()
	if l := d.Lsids(); l.Written == l.PrevWritten {
		return d.usable("checkpoint")
	}
	if err := d.usable("checkpoint"); err != nil {
		return err
	}
	return d.updateSuper(nil, nil)
}

func (d *Userspace) usable(op string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return d.stopped(op)
	}
	return d.err
}

// SetOldest implements [Device].
func (d *Userspace) SetOldest(ctx context.Context, lsid meta.Lsid) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.superMu.Lock()
	defer d.superMu.Unlock()
	if err := d.usable("set oldest lsid"); err != nil {
		return err
	}
	d.mu.Lock()
	l, s := d.lsids, d.super
	d.mu.Unlock()
	if lsid < l.Oldest || lsid > l.PrevWritten {
		return &walberr.Error{
			Op: "set oldest lsid", Code: walberr.Range, Found: fmt.Sprint(lsid),
			Expected: fmt.Sprintf("%d..%d", l.Oldest, l.PrevWritten), Hint: "a checkpoint moves the upper limit",
		}
	}
	if lsid < l.Permanent {
		ok, err := ring{d.logFile, s}.hasHeader(lsid)
		if err != nil {
			return d.ioError("set oldest lsid", err)
		}
		if !ok {
			return &walberr.Error{Op: "set oldest lsid", Code: walberr.Range, Found: fmt.Sprint(lsid), Expected: "the lsid of a pack"}
		}
	}
	return d.updateSuper(func(s *Super) { s.Oldest = lsid }, nil)
}

// Resize implements [Device]. The data file grows with it.
func (d *Userspace) Resize(ctx context.Context, size block.LB) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.superMu.Lock()
	defer d.superMu.Unlock()
	if err := d.usable("resize"); err != nil {
		return err
	}
	now := d.Size()
	if size < now || !size.Valid() {
		return &walberr.Error{
			Op: "resize", Code: walberr.Range, Found: fmt.Sprintf("%d blocks", uint64(size)),
			Expected: fmt.Sprintf("at least the present %d", uint64(now)),
		}
	}
	if size == now {
		return nil
	}
	old, err := d.dataFile.Size()
	if err == nil && old < size.Bytes() {
		err = d.dataFile.Truncate(size.Bytes())
	}
	if err != nil {
		return &walberr.Error{Op: "resize", Code: walberr.Unavailable, Found: "the data file does not grow", Err: err}
	}
	return d.updateSuper(func(s *Super) { s.Size = size }, nil)
}

// ResetLog implements [Device].
func (d *Userspace) ResetLog(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	d.mu.Lock()
	if d.closing || d.err != nil {
		defer d.mu.Unlock()
		if d.closing {
			return d.stopped("reset log")
		}
		return d.err
	}
	d.calls = append(d.calls, func() { done <- d.resetLog() })
	d.mu.Unlock()
	d.wakeLog.set()
	return <-done
}

// resetLog runs in the log goroutine: nothing is appended meanwhile.
func (d *Userspace) resetLog() error {
	d.syncLog()
	for {
		changed := d.Changed()
		if err := d.Err(); err != nil {
			return err
		}
		if l := d.Lsids(); l.Written == l.Latest {
			break
		}
		<-changed
	}
	d.superMu.Lock()
	defer d.superMu.Unlock()
	d.mu.Lock()
	s := d.super
	d.mu.Unlock()
	if err := d.newLife(&s); err != nil {
		return err
	}
	err := d.updateSuper(func(next *Super) { *next = s }, func() {
		d.lsids = Lsids{}
		d.overflow = false
	})
	if err != nil {
		return err
	}
	// The block may hold a pack of the old life; the new salt already makes
	// it invalid.
	if err := (ring{d.logFile, s}).writeBlocks(0, make([]byte, s.PBS)); err != nil {
		d.fail("reset log", err)
		return d.Err()
	}
	d.log.Info("log is reset", "uuid", s.UUID.String())
	return nil
}

// newLife gives the super sector a new identity, lsids 0 and the ring that the
// log file has room for now.
func (d *Userspace) newLife(s *Super) error {
	size, err := d.logFile.Size()
	if err != nil {
		return d.ioError("reset log", err)
	}
	blocks := uint64(size) / uint64(s.PBS)
	if blocks < s.RingOffset()+s.Ring {
		return &walberr.Error{
			Op: "reset log", Code: walberr.Unavailable, Found: fmt.Sprintf("a log file of %d blocks", blocks),
			Expected: fmt.Sprintf("at least %d as at the start", s.RingOffset()+s.Ring),
		}
	}
	s.Ring = blocks - s.RingOffset()
	s.Oldest, s.Written = 0, 0
	s.UUID, s.Salt = newIdentity()
	return nil
}

// newIdentity draws the uuid and the salt of a log life.
func newIdentity() (meta.UUID, uint32) {
	var p [20]byte
	_, _ = rand.Read(p[:]) // never fails
	var u meta.UUID
	copy(u[:], p[:])
	return u, binary.LittleEndian.Uint32(p[16:])
}
