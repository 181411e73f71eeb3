package wdev

import (
	"math/bits"
	"sync"
	"time"
)

// runData is the data goroutine: it writes permanent groups to the data file,
// in the order of the log.
func (d *Userspace) runData() {
	defer d.wg.Done()
	for {
		g, end := d.nextForData()
		switch {
		case g != nil:
			d.apply(g)
		case end:
			return
		default:
			<-d.wakeData
		}
	}
}

// nextForData is the oldest group if it is permanent; end reports that there
// will never be one again.
func (d *Userspace) nextForData() (g *group, end bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.closing && d.logEnded
	}
	if len(d.groups) > 0 && d.groups[0].end <= d.lsids.Permanent {
		return d.groups[0], false
	}
	return nil, d.logEnded && len(d.groups) == 0
}

func (d *Userspace) apply(g *group) {
	for _, s := range g.ios {
		if err := d.applyIO(s); err != nil {
			d.fail("write data", err)
			return
		}
	}
	for _, s := range g.ios {
		d.pending.remove(s.Range, s.seq)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.groups[0] = nil
	d.groups = d.groups[1:]
	d.bytes -= int64(len(g.buf))
	d.lsids.Written = g.end
	d.notify()
	d.wakeLog.set()
	if d.checkpointDue() {
		d.wakeCheckpoint.set()
	}
	d.buffers.put(g.buf)
}

func (d *Userspace) applyIO(s segment) error {
	if s.data == nil {
		return d.dataFile.Zero(s.Addr.Bytes(), s.Len.Bytes())
	}
	_, err := d.dataFile.WriteAt(s.data, s.Addr.Bytes())
	return err
}

// checkpointDue reports whether so much was written since the last checkpoint
// that the next one should not wait for its time. mu is held.
func (d *Userspace) checkpointDue() bool {
	since := uint64(d.lsids.Written - d.lsids.PrevWritten)
	return since > min(d.super.Ring/4, uint64(checkpointBytes/d.super.PBS))
}

// runCheckpoints is the checkpoint goroutine. Without a reason to hurry it
// writes the super sector once per interval if Written moved.
func (d *Userspace) runCheckpoints() {
	defer d.wg.Done()
	timer := time.NewTimer(d.opt.CheckpointInterval)
	defer timer.Stop()
	for {
		due := false
		select {
		case <-d.wakeCheckpoint:
		case <-timer.C:
			due = true
		}
		work, end := d.nextForCheckpoint(due)
		if end {
			return
		}
		if work {
			if d.checkpoint() != nil {
				return
			}
		}
		if work || due {
			timer.Reset(d.opt.CheckpointInterval)
		}
	}
}

// nextForCheckpoint reports whether a checkpoint is to be taken, and whether
// none will be any more: Close takes the last one itself.
func (d *Userspace) nextForCheckpoint(due bool) (work, end bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing || d.err != nil {
		return false, true
	}
	if d.lsids.Written == d.lsids.PrevWritten {
		return false, false
	}
	return due || d.checkpointDue() || len(d.queue) > 0, false
}

// checkpoint makes everything below Written durable on the data file and says
// so in the super sector.
func (d *Userspace) checkpoint() error {
	d.superMu.Lock()
	defer d.superMu.Unlock()
	return d.updateSuper(nil, nil)
}

// updateSuper takes a checkpoint, with change applied to the super sector that
// is written. Once that is durable it holds for the device too, and install
// changes what belongs to it. Either function may be nil. superMu is held; mu
// is held while install runs.
func (d *Userspace) updateSuper(change func(*Super), install func()) error {
	d.mu.Lock()
	s := d.super
	s.Written = d.lsids.Written
	err := d.err
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if change != nil {
		change(&s)
	}
	if err = d.dataFile.Sync(); err == nil {
		err = writeSuper(d.logFile, &s)
	}
	if err != nil {
		d.fail("checkpoint", err)
		return d.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.super = s
	d.lsids.PrevWritten = s.Written
	d.lsids.Oldest = s.Oldest
	if install != nil {
		install()
	}
	d.notify()
	d.wakeLog.set()
	return nil
}

// signal wakes one goroutine: setting it twice before it is seen counts once.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) set() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// bufferPool keeps buffers for groups, by size: powers of two up to
// bufferStep, multiples of it above.
type bufferPool struct {
	pools [maxBufferClass + 1]sync.Pool
}

const (
	bufferBits     = 16
	bufferStep     = 1 << bufferBits
	maxBufferClass = bufferBits + (maxGroupBytes+maxPiece)/bufferStep
)

// bufferClass is the pool for buffers of at least n bytes, and how large those
// are.
func bufferClass(n int) (class, size int) {
	if n <= bufferStep {
		class = bits.Len(uint(max(n, 1) - 1))
		return class, 1 << class
	}
	steps := (n-1)/bufferStep + 1
	return bufferBits + steps, steps * bufferStep
}

// get returns n bytes of any content.
func (b *bufferPool) get(n int) []byte {
	class, size := bufferClass(n)
	if class <= maxBufferClass {
		if p, ok := b.pools[class].Get().(*[]byte); ok {
			return (*p)[:n]
		}
	}
	return make([]byte, n, size)
}

// put gives back what get returned.
func (b *bufferPool) put(p []byte) {
	p = p[:cap(p)]
	if class, size := bufferClass(len(p)); class <= maxBufferClass && size == len(p) {
		b.pools[class].Put(&p)
	}
}
