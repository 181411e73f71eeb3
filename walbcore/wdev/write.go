package wdev

import (
	"context"
	"fmt"
	"slices"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

const (
	// maxPiece is the longest IO that goes into one record [bytes]; longer
	// writes are split.
	maxPiece = 1 << 20
	// maxDiscardPiece is the same for discards [LB].
	maxDiscardPiece = 1 << 22
	// maxPackBytes is the most data in a pack of several writes [bytes].
	maxPackBytes = 32 << 10
	// maxGroupBytes and maxGroupIOs bound what is written to the log at once.
	maxGroupBytes = 4 << 20
	maxGroupIOs   = 1024
)

// request is one call of an application. Its ops are answered one by one.
type request struct {
	left int   // ops without an answer
	err  error // the first one; valid when done is closed
	done chan struct{}
}

// op is a piece of a request: one record of the log, or a flush. It belongs to
// the queue, then to the log goroutine; request and left are guarded by mu.
type op struct {
	wlog.IO
	through bool // to be answered after the next sync
	request *request
}

// finish answers ops. mu of the device is held.
func finish(ops []*op, err error) {
	for _, o := range ops {
		r := o.request
		if r.err == nil {
			r.err = err
		}
		if r.left--; r.left == 0 {
			close(r.done)
		}
	}
}

// group is what was written to the log at once and is on its way to the data
// file.
type group struct {
	buf []byte    // the packs
	end meta.Lsid // behind the last pack
	ios []segment // what the packs hold, in order; data lies in buf
}

// WriteAt implements [Disk].
func (d *Userspace) WriteAt(ctx context.Context, p []byte, off int64) error {
	return d.write(ctx, p, off, false)
}

// WriteThrough implements [Disk].
func (d *Userspace) WriteThrough(ctx context.Context, p []byte, off int64) error {
	return d.write(ctx, p, off, true)
}

func (d *Userspace) write(ctx context.Context, p []byte, off int64, through bool) error {
	if err := aligned("write", off, int64(len(p))); err != nil {
		return err
	}
	addr := block.FromBytes(off)
	if err := d.inside("write", block.Range{Addr: addr, Len: block.FromBytes(int64(len(p)))}); err != nil {
		return err
	}
	piece := d.pieceBytes()
	var ops []*op
	for len(p) > 0 {
		data := p[:min(len(p), piece)]
		n := block.FromBytes(int64(len(data)))
		ops = append(ops, &op{IO: wlog.IO{Op: wlog.OpWrite, Addr: addr, Len: n, Data: data}, through: through})
		addr, p = addr+n, p[len(data):]
	}
	return d.submit(ctx, "write", ops)
}

// Discard implements [Disk].
func (d *Userspace) Discard(ctx context.Context, off, n int64) error {
	if err := aligned("discard", off, n); err != nil {
		return err
	}
	r := block.Range{Addr: block.FromBytes(off), Len: block.FromBytes(n)}
	if err := d.inside("discard", r); err != nil {
		return err
	}
	var ops []*op
	for r.Len > 0 {
		n := min(r.Len, maxDiscardPiece)
		ops = append(ops, &op{IO: wlog.IO{Op: wlog.OpDiscard, Addr: r.Addr, Len: n}})
		r.Addr, r.Len = r.Addr+n, r.Len-n
	}
	return d.submit(ctx, "discard", ops)
}

// Flush implements [Disk].
func (d *Userspace) Flush(ctx context.Context) error {
	return d.submit(ctx, "flush", []*op{{IO: wlog.IO{Op: wlog.OpFlush}, through: true}})
}

func (d *Userspace) inside(op string, r block.Range) error {
	if size := d.Size(); r.End() > size {
		return &walberr.Error{Op: op, Code: walberr.Range, Found: fmt.Sprintf("blocks %v", r), Expected: fmt.Sprintf("blocks below %d", uint64(size))}
	}
	return nil
}

// pieceBytes is the longest write for one record: no more than a quarter of
// the ring, so that a ring that was given up always has room for it.
func (d *Userspace) pieceBytes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int(min(maxPiece, d.super.Ring/4*uint64(d.super.PBS)))
}

// submit queues the ops of one request and waits for the answer. When ctx is
// cancelled, ops still in the queue are taken out of it.
func (d *Userspace) submit(ctx context.Context, what string, ops []*op) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(ops) == 0 {
		return nil
	}
	req := &request{left: len(ops), done: make(chan struct{})}
	for _, o := range ops {
		o.request = req
	}
	d.mu.Lock()
	err := d.err
	if d.closing {
		err = d.stopped(what)
	}
	if err != nil {
		d.mu.Unlock()
		return err
	}
	d.queue = append(d.queue, ops...)
	d.mu.Unlock()
	d.wakeLog.set()
	select {
	case <-req.done:
	case <-ctx.Done():
		d.withdraw(req, context.Cause(ctx))
		<-req.done
	}
	return req.err
}

// withdraw answers those ops of a request that wait for room or for a sync.
func (d *Userspace) withdraw(req *request, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ours := func(o *op) bool { return o.request == req }
	for _, list := range []*[]*op{&d.queue, &d.waiters} {
		for _, o := range *list {
			if ours(o) {
				defer finish([]*op{o}, err)
			}
		}
		*list = slices.DeleteFunc(*list, ours)
	}
}

// runLog is the log goroutine: the only one that appends to the log.
func (d *Userspace) runLog() {
	defer d.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ops, call, wait := d.nextForLog()
		switch {
		case call != nil:
			call()
		case len(ops) > 0:
			d.writeGroup(ops)
		case wait == 0:
			d.syncLog()
		case wait < 0:
			d.wakeData.set()
			return
		default:
			timer.Reset(wait)
			select {
			case <-d.wakeLog:
			case <-timer.C:
			}
		}
	}
}

// forever is how long the log goroutine waits when nothing is due.
const forever = 24 * time.Hour

// nextForLog decides what the log goroutine does next: run a call, write ops,
// sync now (wait 0), end (wait < 0), or sleep for at most wait.
func (d *Userspace) nextForLog() (ops []*op, call func(), wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.calls) > 0 {
		call, d.calls = d.calls[0], d.calls[1:]
		return nil, call, 0
	}
	if d.err != nil {
		d.failQueue(d.err)
		finish(d.waiters, d.err)
		d.waiters = nil
		if d.closing {
			d.logEnded = true
			return nil, nil, -1
		}
		return nil, nil, forever
	}
	dirty := d.lsids.Permanent < d.lsids.Completed
	left := d.opt.FlushInterval - time.Since(d.unsynced)
	much := int64(d.lsids.Completed-d.lsids.Permanent)*int64(d.super.PBS) >= d.opt.FlushBytes
	if len(d.waiters) > 0 || dirty && (much || left <= 0) {
		return nil, nil, 0
	}
	if ops = d.take(); len(ops) > 0 {
		return ops, nil, 0
	}
	blocked := len(d.queue) > 0
	switch {
	case d.flushQueued(), dirty && (blocked || d.closing):
		return nil, nil, 0
	case d.closing:
		d.logEnded = true
		return nil, nil, -1
	case dirty:
		return nil, nil, left
	}
	if blocked {
		d.wakeCheckpoint.set()
	}
	return nil, nil, forever
}

// flushQueued moves the flushes out of a queue that waits for room, since a
// flush needs none, and reports whether there were any. mu is held.
func (d *Userspace) flushQueued() bool {
	isFlush := func(o *op) bool { return o.Op == wlog.OpFlush }
	for _, o := range d.queue {
		if isFlush(o) {
			d.waiters = append(d.waiters, o)
		}
	}
	d.queue = slices.DeleteFunc(d.queue, isFlush)
	return len(d.waiters) > 0
}

// take removes the ops from the queue that can be written now: there is memory
// for them, and ring space that holds no log which is still needed. mu is held.
func (d *Userspace) take() []*op {
	needed := d.lsids.PrevWritten
	if d.opt.OnFull == Block {
		needed = d.lsids.Oldest
	}
	pbs, ring := d.super.PBS, d.super.Ring
	used := uint64(d.lsids.Latest - needed)
	toEnd := ring - uint64(d.lsids.Latest)%ring
	var blocks, longest uint64 // of the ops taken, each with a header of its own
	n := 0
	for _, o := range d.queue {
		if n == maxGroupIOs {
			break
		}
		if o.Op == wlog.OpFlush {
			n++
			continue
		}
		pb := uint64(0)
		if o.Op == wlog.OpWrite {
			pb = wlog.PB(o.Len, pbs)
		}
		longest = max(longest, pb)
		need := blocks + pb + 1
		bytes := int64(need) * int64(pbs)
		if n > 0 && bytes > maxGroupBytes || d.bytes > 0 && d.bytes+bytes > d.opt.MaxPending {
			break
		}
		padded := need
		if need >= toEnd {
			padded += longest
		}
		if used+padded > ring {
			break
		}
		blocks = need
		n++
	}
	ops := slices.Clone(d.queue[:n])
	d.queue = slices.Delete(d.queue, 0, n)
	return ops
}

// writeGroup logs ops and answers those that need no sync.
func (d *Userspace) writeGroup(ops []*op) {
	ios := make([]wlog.IO, len(ops))
	for i, o := range ops {
		ios[i] = o.IO
	}
	d.mu.Lock()
	begin := d.lsids.Latest
	packer := wlog.Packer{PBS: d.super.PBS, Ring: d.super.Ring, MaxPack: uint64(maxPackBytes / d.super.PBS)}
	packs, end := packer.Pack(ios, begin)
	g := &group{end: end, buf: d.buffers.get(int(end-begin) * int(d.super.PBS))}
	d.bytes += int64(len(g.buf))
	d.lsids.Latest = end
	if d.lsids.Usage() > d.super.Ring && !d.overflow {
		d.overflow = true
		d.log.Warn("log has overflowed, reset is required")
		d.notify()
	}
	r := ring{d.logFile, d.super}
	d.mu.Unlock()

	if err := d.writePacks(r, begin, packs, g.buf); err != nil {
		d.fail("write log", err)
		d.mu.Lock()
		finish(ops, d.err)
		d.mu.Unlock()
		return
	}
	d.addPending(g, r.PBS, begin, packs)

	d.mu.Lock()
	defer d.mu.Unlock()
	if len(packs) > 0 {
		d.groups = append(d.groups, g)
		if d.lsids.Permanent == d.lsids.Completed {
			d.unsynced = time.Now()
		}
		d.lsids.Completed = end
	}
	for _, o := range ops {
		if o.through {
			d.waiters = append(d.waiters, o)
		} else {
			finish([]*op{o}, nil)
		}
	}
}

// writePacks encodes packs into buf, block by block as in the log, and writes
// it, except for the blocks of a padding.
func (d *Userspace) writePacks(r ring, begin meta.Lsid, packs []wlog.Pack, buf []byte) error {
	pbs := int(r.PBS)
	at := begin // what lies before in buf is written
	write := func(end meta.Lsid) error {
		if end == at {
			return nil
		}
		return r.writeBlocks(at, buf[int(at-begin)*pbs:int(end-begin)*pbs])
	}
	for i := range packs {
		p := &packs[i]
		p.Encode(buf[int(p.Lsid-begin)*pbs:int(p.Next()-begin)*pbs], r.PBS, r.Salt)
		for _, rec := range p.Records {
			if rec.Kind != wlog.Padding {
				continue
			}
			if err := write(rec.Lsid); err != nil {
				return err
			}
			at = rec.Lsid + meta.Lsid(rec.PB(r.PBS))
		}
	}
	return write(begin + meta.Lsid(len(buf)/pbs))
}

// addPending makes the group's IOs visible to readers.
func (d *Userspace) addPending(g *group, pbs uint32, begin meta.Lsid, packs []wlog.Pack) {
	for i := range packs {
		for _, rec := range packs[i].Records {
			if rec.Kind == wlog.Padding {
				continue
			}
			d.seq++
			s := segment{Range: rec.Range(), seq: d.seq}
			if rec.Kind == wlog.Write {
				at := int64(rec.Lsid-begin) * int64(pbs)
				s.data = g.buf[at : at+rec.Size.Bytes()]
			}
			g.ios = append(g.ios, s)
			d.pending.insert(s)
		}
	}
}

// syncLog makes all completed log permanent and answers who waits for that.
func (d *Userspace) syncLog() {
	d.mu.Lock()
	completed := d.lsids.Completed
	dirty := completed > d.lsids.Permanent
	d.lsids.Flush = completed
	waiters := d.waiters
	d.waiters = nil
	d.mu.Unlock()
	var err error
	if dirty {
		err = d.logFile.Sync()
	}
	if err != nil {
		d.fail("sync log", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		finish(waiters, d.err)
		return
	}
	if dirty {
		d.lsids.Permanent = completed
		d.notify()
		d.wakeData.set()
	}
	finish(waiters, nil)
}
