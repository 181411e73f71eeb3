package wdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

// region is a part of the disk that one writer has for itself, and everything
// that the writer asked for since the content was last known. The log orders
// all writes, so after a crash the region must look as after some number of
// them.
type region struct {
	addr block.LB
	len  block.LB

	known   []byte     // content before ops
	ops     []regionOp // submitted, in order
	acked   int        // of these, answered with success
	durable int        // of these, known to survive a power cut
}

type regionOp struct {
	block.Range
	data []byte // nil: discard
}

func (r *region) apply(img []byte, op regionOp) {
	dst := img[(op.Addr - r.addr).Bytes():(op.End() - r.addr).Bytes()]
	if op.data == nil {
		clear(dst)
	} else {
		copy(dst, op.data)
	}
}

// after is the content after the first n ops.
func (r *region) after(n int) []byte {
	img := append([]byte{}, r.known...)
	for _, op := range r.ops[:n] {
		r.apply(img, op)
	}
	return img
}

// settle finds out how many ops are in img, which must be at least so many, and
// forgets them.
func (r *region) settle(img []byte, atLeast int) error {
	state := append([]byte{}, r.known...)
	found := -1
	for n := 0; ; n++ {
		if n >= atLeast && bytes.Equal(state, img) {
			found = n
		}
		if n == len(r.ops) {
			break
		}
		r.apply(state, r.ops[n])
	}
	if found < 0 {
		return fmt.Errorf("region %d+%d is in no state between op %d and %d", r.addr, r.len, atLeast, len(r.ops))
	}
	r.known, r.ops, r.acked, r.durable = img, nil, 0, 0
	return nil
}

// write does random ops until one fails.
func (r *region) write(ctx context.Context, d Disk, rnd *rand.Rand, longest, count int) error {
	for range count {
		var err error
		switch rnd.IntN(10) {
		case 0:
			if err = d.Flush(ctx); err == nil {
				r.durable = r.acked
			}
		case 1:
			got := make([]byte, r.len.Bytes())
			if _, err = d.ReadAt(got, r.addr.Bytes()); err == nil && !bytes.Equal(got, r.after(r.acked)) {
				return fmt.Errorf("region %d+%d reads wrong after op %d", r.addr, r.len, r.acked)
			}
		case 2:
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond) // in the bubble's time
		default:
			n := block.LB(1 + rnd.IntN(min(longest, int(r.len))))
			op := regionOp{Range: block.Range{Addr: r.addr + block.LB(rnd.IntN(int(r.len-n)+1)), Len: n}}
			kind := rnd.IntN(6)
			if kind > 0 {
				op.data = make([]byte, n.Bytes())
				for i := range op.data {
					op.data[i] = byte(rnd.Uint32())
				}
			}
			r.ops = append(r.ops, op)
			off := op.Addr.Bytes()
			switch kind {
			case 0:
				err = d.Discard(ctx, off, n.Bytes())
			case 1:
				err = d.WriteThrough(ctx, op.data, off)
			default:
				err = d.WriteAt(ctx, op.data, off)
			}
			if err == nil {
				r.acked = len(r.ops)
				if kind == 1 {
					r.durable = r.acked
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replica is what a storage server would have made of the log elsewhere.
type replica struct {
	img     []byte
	shipped meta.Lsid
}

// ship follows the log until ctx ends, gives up what it has shipped, and
// reports what is wrong with the log.
func (r *replica) ship(ctx context.Context, d Device) error {
	for {
		changed := d.Changed()
		l := d.Lsids()
		for r.shipped < l.Permanent {
			if err := r.shipPack(ctx, d); err != nil {
				return err
			}
		}
		if l.Oldest < r.shipped {
			if l.PrevWritten < r.shipped && l.Written >= r.shipped {
				if err := d.Checkpoint(ctx); err != nil {
					return err
				}
			}
			if to := min(r.shipped, d.Lsids().PrevWritten); to > l.Oldest {
				if err := d.SetOldest(ctx, to); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *replica) shipPack(ctx context.Context, d Device) error {
	id := d.Identity()
	p := make([]byte, id.PBS)
	if err := d.ReadLog(ctx, r.shipped, p); err != nil {
		return err
	}
	h, err := wlog.DecodePack(p, id.Salt)
	if err != nil {
		return err
	}
	if h.Lsid != r.shipped || len(h.Records) == 0 {
		return fmt.Errorf("pack %v where lsid %d is expected", h, r.shipped)
	}
	for _, rec := range h.Records {
		dst := r.img[rec.Range().Addr.Bytes():rec.Range().End().Bytes()]
		switch rec.Kind {
		case wlog.Discard:
			clear(dst)
		case wlog.Write:
			data := make([]byte, rec.PB(id.PBS)*uint64(id.PBS))
			if err := d.ReadLog(ctx, rec.Lsid, data); err != nil {
				return err
			}
			if err := rec.VerifyData(data, id.Salt); err != nil {
				return err
			}
			copy(dst, data)
		}
	}
	r.shipped = h.Next()
	return nil
}

// gone reports whether an error is only the power cut, or the end of the run.
func gone(err error) bool {
	return errors.Is(err, errPower) || errors.Is(err, context.Canceled) || walberr.Is(err, walberr.Stopped)
}

// crashWorld is a device on simulated hardware with writers and a shipper.
type crashWorld struct {
	t       *testing.T
	rnd     *rand.Rand
	opt     Options
	spec    Spec
	longest int // longest write [LB]
	log     *simFile
	data    *simFile
	regions []*region
	replica replica
}

func newCrashWorld(t *testing.T, seed uint64) *crashWorld {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := &crashWorld{t: t, rnd: rnd}
	w.spec = Spec{Name: "w", Size: 96, LogSize: 90 * 512, PBS: 512}
	if rnd.IntN(3) == 0 {
		w.spec = Spec{Name: "w", Size: 300, LogSize: 67 * 4096, PBS: 4096}
	}
	w.longest = 1 + rnd.IntN(2)*99 // short writes make packs that fit where others were
	w.opt = Options{OnFull: FullPolicy(rnd.IntN(2)), FlushBytes: 1 << uint(9+rnd.IntN(10)), CheckpointInterval: time.Duration(50+rnd.IntN(2000)) * time.Millisecond}
	disk := newSimDisk(rnd.Uint64())
	w.log, w.data = disk.file(w.spec.LogSize), disk.file(w.spec.Size.Bytes())
	require.NoError(t, format(t.Context(), w.log, w.data, w.spec))
	writers := block.LB(1 + rnd.IntN(3))
	n := w.spec.Size / writers
	for i := range writers {
		w.regions = append(w.regions, &region{addr: i * n, len: n, known: make([]byte, n.Bytes())})
	}
	w.replica.img = make([]byte, w.spec.Size.Bytes())
	return w
}

// restart is what is left of the hardware's content, on a disk that will lose
// its power after some operations, or never (0).
func (w *crashWorld) restart(powerAt int, killed bool) {
	disk := newSimDisk(w.rnd.Uint64())
	disk.powerAt = powerAt
	w.log, w.data = w.log.restart(disk, killed), w.data.restart(disk, killed)
}

// open starts the device after its process was killed or its power went. The
// power may go (again) during redo, several times. It reports whether it never
// did, so that everything acknowledged must be there.
func (w *crashWorld) open(killed bool) (d *Userspace, all bool) {
	for range w.rnd.IntN(3) {
		w.restart(1+w.rnd.IntN(8), killed)
		d, err := open(w.t.Context(), "w", w.log, w.data, w.opt)
		if err == nil {
			err = d.Close()
		}
		if err != nil {
			require.ErrorIs(w.t, err, errPower)
			killed = false
		}
	}
	w.restart(0, killed)
	d, err := open(w.t.Context(), "w", w.log, w.data, w.opt)
	require.NoError(w.t, err)
	return d, killed
}

// run lets everybody work until the power goes or count ops are done.
func (w *crashWorld) run(d *Userspace, count int) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	var writers, shipper sync.WaitGroup
	longest := min(w.longest, d.pieceBytes()/block.Size)
	for _, r := range w.regions {
		rnd := rand.New(rand.NewPCG(w.rnd.Uint64(), 0))
		writers.Go(func() {
			if err := r.write(ctx, d, rnd, longest, count); err != nil && !gone(err) {
				assert.NoError(w.t, err)
			}
		})
	}
	shipper.Go(func() {
		if w.opt.OnFull == Overflow {
			return // the log may be overwritten before it is shipped
		}
		if err := w.replica.ship(ctx, d); err != nil && !gone(err) {
			assert.NoError(w.t, err)
			cancel() // nobody makes room for the writers any more
		}
	})
	writers.Wait()
	cancel()
	shipper.Wait()
}

// check compares the disk with the writers' histories, and takes it for known.
func (w *crashWorld) check(d *Userspace, all bool) {
	require.False(w.t, w.opt.OnFull == Block && d.Overflowed(), "log that was not given up is overwritten")
	for _, r := range w.regions {
		img := make([]byte, r.len.Bytes())
		_, err := d.ReadAt(img, r.addr.Bytes())
		require.NoError(w.t, err)
		atLeast := r.durable
		if all {
			atLeast = r.acked
		}
		require.NoError(w.t, r.settle(img, atLeast))
	}
}

// TestCrash runs writers and a shipper on a device whose power goes, or whose
// process is killed, at a random operation on the files, time and again: after
// each restart the disk shows all acknowledged and flushed writes, older ones
// before newer ones, and none torn; log that was reported permanent is there;
// and the log, shipped across all crashes, makes the same disk elsewhere.
func TestCrash(t *testing.T) {
	rounds := 40
	if testing.Short() {
		rounds = 10
	}
	seed := rand.Uint64()
	for i := range rounds {
		synctest.Test(t, func(t *testing.T) { crashRounds(t, seed+uint64(i)) })
		if t.Failed() {
			t.Fatalf("seed %d", seed+uint64(i))
		}
	}
}

func crashRounds(t *testing.T, seed uint64) {
	t.Helper()
	w := newCrashWorld(t, seed)
	killed := false
	for range 6 {
		d, all := w.open(killed)
		w.check(d, all)
		require.GreaterOrEqual(t, d.Lsids().Latest, w.replica.shipped, "log that was permanent is lost, seed %d", seed)
		w.log.disk.mu.Lock()
		w.log.disk.powerAt = w.log.disk.ops + 1 + w.rnd.IntN([]int{6, 20, 200}[w.rnd.IntN(3)])
		w.log.disk.mu.Unlock()
		w.run(d, 60)
		killed = w.rnd.IntN(3) == 0
		_ = d.Close()
	}
	d, all := w.open(killed)
	w.check(d, all)
	w.run(d, 20)
	require.NoError(t, d.Flush(t.Context()))
	for w.opt.OnFull == Block && w.replica.shipped < d.Lsids().Permanent {
		require.NoError(t, w.replica.shipPack(t.Context(), d))
	}
	img := make([]byte, w.spec.Size.Bytes())
	_, err := d.ReadAt(img, 0)
	require.NoError(t, err)
	if w.opt.OnFull == Block {
		require.True(t, bytes.Equal(w.replica.img, img), "the shipped log makes another disk, seed %d", seed)
	}
	require.NoError(t, d.Close())
	require.True(t, bytes.Equal(img, w.data.content()), "the data file differs after Close, seed %d", seed)
}
