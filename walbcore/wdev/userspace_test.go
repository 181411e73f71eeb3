package wdev

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(childMain(dir))
	}
	goleak.VerifyTestMain(m)
}

var small = Spec{Name: "w0", Size: 1024, LogSize: (10 + 256) * 512, PBS: 512}

// simDevice is a device on simulated files that never fail by themselves.
func simDevice(tb testing.TB, spec Spec, opt Options) (*Userspace, *simFile, *simFile) {
	tb.Helper()
	spec = spec.withDefaults()
	disk := newSimDisk(1)
	logFile, dataFile := disk.file(spec.LogSize), disk.file(spec.Size.Bytes())
	require.NoError(tb, format(context.Background(), logFile, dataFile, spec))
	d, err := open(context.Background(), "", logFile, dataFile, opt)
	require.NoError(tb, err)
	return d, logFile, dataFile
}

func closed(tb testing.TB, d *Userspace) {
	tb.Helper()
	require.NoError(tb, d.Close())
}

func random(n block.LB, seed uint64) []byte {
	p := make([]byte, n.Bytes())
	rnd := rand.New(rand.NewPCG(seed, 0))
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	return p
}

// await waits for a fact about a device.
func await(tb testing.TB, d Device, fact func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		changed := d.Changed()
		if fact() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			require.FailNow(tb, "the fact never came true")
		}
	}
}

func read(tb testing.TB, d Disk, addr, n block.LB) []byte {
	tb.Helper()
	p := make([]byte, n.Bytes())
	got, err := d.ReadAt(p, addr.Bytes())
	require.NoError(tb, err)
	require.Len(tb, p, got)
	return p
}

// TestRealFiles is the way of a write through files of the file system, and
// over a restart.
func TestRealFiles(t *testing.T) {
	dir := t.TempDir()
	logPath, dataPath := filepath.Join(dir, "log"), filepath.Join(dir, "data")
	ctx := t.Context()
	spec := Spec{Name: "w0", Size: 4096, LogSize: 1 << 20, PBS: 4096}
	require.NoError(t, Format(ctx, logPath, dataPath, spec))
	err := Format(ctx, logPath, dataPath, spec)
	assert.True(t, walberr.Is(err, walberr.Conflict), err)
	d, err := Open(ctx, "", logPath, dataPath, Options{})
	require.NoError(t, err)
	_, err = Open(ctx, "", logPath, dataPath, Options{})
	assert.True(t, walberr.Is(err, walberr.Conflict), "a device has one owner: %v", err)

	want := make([]byte, spec.Size.Bytes())
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		n := block.LB(1 + rnd.IntN(100))
		addr := block.LB(rnd.IntN(int(spec.Size - n)))
		if i%10 == 0 {
			clear(want[addr.Bytes():(addr + n).Bytes()])
			require.NoError(t, d.Discard(ctx, addr.Bytes(), n.Bytes()))
			continue
		}
		p := random(n, uint64(i))
		copy(want[addr.Bytes():], p)
		require.NoError(t, d.WriteAt(ctx, p, addr.Bytes()))
	}
	assert.True(t, bytes.Equal(want, read(t, d, 0, spec.Size)))
	require.NoError(t, d.Close())
	onDisk, err := os.ReadFile(dataPath)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(want, onDisk))

	d, err = Open(ctx, "w1", logPath, dataPath, Options{})
	require.NoError(t, err)
	assert.Equal(t, "w1", d.Name())
	assert.True(t, bytes.Equal(want, read(t, d, 0, spec.Size)))
	l := d.Lsids()
	assert.Equal(t, l.Latest, l.PrevWritten)
	require.NoError(t, d.Close())

	_, err = Open(ctx, "", filepath.Join(dir, "nosuch"), dataPath, Options{})
	assert.True(t, walberr.Is(err, walberr.NotFound), err)
	require.NoError(t, os.Truncate(dataPath, spec.Size.Bytes()-512))
	_, err = Open(ctx, "", logPath, dataPath, Options{})
	assert.True(t, walberr.Is(err, walberr.Checksum), err)
}

// TestLsidsFollowAWrite: a write without a flush becomes permanent after the
// flush interval and is then written; the checkpoint comes later.
func TestLsidsFollowAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := simDevice(t, small, Options{})
		begin := time.Now()
		require.NoError(t, d.WriteAt(t.Context(), random(8, 1), 0))
		assert.Equal(t, Lsids{Latest: 9, Completed: 9}, d.Lsids())
		await(t, d, func() bool { return d.Lsids().Permanent == 9 })
		assert.Equal(t, 100*time.Millisecond, time.Since(begin))
		await(t, d, func() bool { return d.Lsids().Written == 9 })
		assert.Equal(t, 100*time.Millisecond, time.Since(begin))
		await(t, d, func() bool { return d.Lsids().PrevWritten == 9 })
		assert.Equal(t, 10*time.Second, time.Since(begin))
		assert.Equal(t, Lsids{9, 9, 9, 9, 9, 9, 0}, d.Lsids())

		require.NoError(t, d.WriteThrough(t.Context(), random(1, 1), 0))
		assert.Equal(t, meta.Lsid(11), d.Lsids().Permanent)
		require.NoError(t, d.WriteAt(t.Context(), random(1, 1), 0))
		require.NoError(t, d.Flush(t.Context()))
		assert.Equal(t, meta.Lsid(13), d.Lsids().Permanent)
		require.NoError(t, d.Flush(t.Context()), "nothing to flush")
		closed(t, d)
	})
}

func TestFlushBytesMakesPermanent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := simDevice(t, small, Options{FlushBytes: 16 * 512})
		begin := time.Now()
		require.NoError(t, d.WriteAt(t.Context(), random(16, 1), 0))
		await(t, d, func() bool { return d.Lsids().Permanent == 17 })
		assert.Zero(t, time.Since(begin))
		closed(t, d)
	})
}

// TestReadsSeeWhatIsPending: writes and discards are seen at once, also while
// the data file does not have them.
func TestReadsSeeWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, dataFile := simDevice(t, small, Options{})
		ctx := t.Context()
		want := random(16, 1)
		require.NoError(t, d.WriteAt(ctx, want, 4*512))
		copy(want[2*512:], random(3, 2))
		require.NoError(t, d.WriteAt(ctx, want[2*512:5*512], 6*512))
		clear(want[8*512 : 10*512])
		require.NoError(t, d.Discard(ctx, 12*512, 2*512))
		want = append(make([]byte, 4*512), want...)
		want = append(want, make([]byte, 4*512)...)
		require.Zero(t, d.Lsids().Written)
		assert.Equal(t, make([]byte, 20*512), dataFile.content()[:20*512])
		assert.Equal(t, want, read(t, d, 0, 24))
		await(t, d, func() bool { return d.Lsids().Written == d.Lsids().Latest })
		assert.Equal(t, want, read(t, d, 0, 24))
		assert.Equal(t, want, dataFile.content()[:24*512])
		closed(t, d)
	})
}

func TestNextDataIsConservative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := simDevice(t, small, Options{})
		ctx := t.Context()
		all := func() (ranges []block.Range) {
			for at := block.LB(0); ; {
				r, err := d.NextData(ctx, at)
				require.NoError(t, err)
				if r.Len == 0 {
					assert.Equal(t, d.Size(), r.Addr)
					return ranges
				}
				ranges = append(ranges, r)
				at = r.End()
			}
		}
		assert.Empty(t, all())
		require.NoError(t, d.WriteAt(ctx, random(8, 1), 16*512))
		require.NoError(t, d.Flush(ctx))
		await(t, d, func() bool { return d.Lsids().Written == 9 })
		assert.Equal(t, []block.Range{{Addr: 16, Len: 8}}, all())
		require.NoError(t, d.WriteAt(ctx, random(8, 1), 4*512))
		require.NoError(t, d.WriteAt(ctx, random(8, 1), 1016*512))
		assert.Equal(t, []block.Range{{Addr: 4, Len: 8}, {Addr: 16, Len: 8}, {Addr: 1016, Len: 8}}, all(), "pending counts as data")
		r, err := d.NextData(ctx, 20)
		require.NoError(t, err)
		assert.Equal(t, block.Range{Addr: 20, Len: 4}, r)
		r, err = d.NextData(ctx, 5000)
		require.NoError(t, err)
		assert.Equal(t, block.Range{Addr: 1024}, r)
		closed(t, d)
	})
}

func TestArguments(t *testing.T) {
	d, _, _ := simDevice(t, small, Options{})
	defer closed(t, d)
	ctx := t.Context()
	end := small.Size.Bytes()
	buf := make([]byte, 1024)
	for name, err := range map[string]error{
		"write unaligned":    d.WriteAt(ctx, buf, 1),
		"write half a block": d.WriteAt(ctx, buf[:100], 0),
		"write before":       d.WriteAt(ctx, buf, -512),
		"discard unaligned":  d.Discard(ctx, 100, 512),
		"discard negative":   d.Discard(ctx, 0, -512),
		"through unaligned":  d.WriteThrough(ctx, buf, 511),
		"read log by a byte": d.ReadLog(ctx, 0, buf[:100]),
	} {
		assert.True(t, walberr.Is(err, walberr.Usage), "%s: %v", name, err)
	}
	for name, err := range map[string]error{
		"write behind":         d.WriteAt(ctx, buf, end-512),
		"discard behind":       d.Discard(ctx, end, 512),
		"read log of nothing":  d.ReadLog(ctx, 0, buf),
		"oldest is no header":  d.SetOldest(ctx, 1),
		"smaller":              d.Resize(ctx, small.Size-1),
		"larger than any file": d.Resize(ctx, block.MaxLB+1),
	} {
		assert.True(t, walberr.Is(err, walberr.Range), "%s: %v", name, err)
	}
	n, err := d.ReadAt(buf, end-512)
	assert.Equal(t, 512, n)
	require.ErrorIs(t, err, io.EOF)
	n, err = d.ReadAt(buf, end)
	assert.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	_, err = d.ReadAt(buf, 1)
	assert.True(t, walberr.Is(err, walberr.Usage))
	assert.NoError(t, d.WriteAt(ctx, nil, 0))
	assert.NoError(t, d.Discard(ctx, 0, 0))
	assert.Equal(t, Lsids{}, d.Lsids())

	gone, cancel := context.WithCancel(ctx)
	cancel()
	for name, err := range map[string]error{
		"write": d.WriteAt(gone, buf, 0), "flush": d.Flush(gone), "discard": d.Discard(gone, 0, 512), "checkpoint": d.Checkpoint(gone),
		"read log": d.ReadLog(gone, 0, nil), "set oldest": d.SetOldest(gone, 0), "reset": d.ResetLog(gone), "resize": d.Resize(gone, small.Size),
	} {
		require.ErrorIs(t, err, context.Canceled, name)
	}
	_, err = d.NextData(gone, 0)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestClosedDevice(t *testing.T) {
	d, _, _ := simDevice(t, small, Options{})
	changed := d.Changed()
	closed(t, d)
	<-changed
	ctx := t.Context()
	buf := make([]byte, 512)
	_, readErr := d.ReadAt(buf, 0)
	_, dataErr := d.NextData(ctx, 0)
	for name, err := range map[string]error{
		"write": d.WriteAt(ctx, buf, 0), "flush": d.Flush(ctx), "read": readErr, "data": dataErr, "log": d.ReadLog(ctx, 0, nil),
		"oldest": d.SetOldest(ctx, 0), "checkpoint": d.Checkpoint(ctx), "reset": d.ResetLog(ctx), "resize": d.Resize(ctx, 2048), "err": d.Err(),
	} {
		assert.True(t, walberr.Is(err, walberr.Stopped), "%s: %v", name, err)
	}
}

// TestLongWritesAreSplit: no record is longer than a quarter of the ring or
// 1 MiB, and all of it is one log.
func TestLongWritesAreSplit(t *testing.T) {
	for _, spec := range []Spec{
		{Name: "tiny", Size: 2000, LogSize: (10 + MinRing) * 512, PBS: 512},
		{Name: "pb", Size: 2000, LogSize: (3 + MinRing) * 4096, PBS: 4096},
	} {
		d, _, _ := simDevice(t, spec, Options{})
		p := random(spec.Size, 7)
		require.NoError(t, d.WriteAt(t.Context(), p, 0))
		assert.True(t, bytes.Equal(p, read(t, d, 0, spec.Size)))
		assert.True(t, d.Overflowed(), "longer than the ring")
		closed(t, d)
	}
}

// TestSetOldest: only pack boundaries up to the checkpoint are taken, and what
// was taken is durable.
func TestSetOldest(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{CheckpointInterval: time.Hour})
	ctx := t.Context()
	for range 3 {
		require.NoError(t, d.WriteAt(ctx, random(7, 1), 0))
	}
	require.NoError(t, d.Flush(ctx))
	await(t, d, func() bool { return d.Lsids().Written == 24 })
	refused := func(lsid meta.Lsid) {
		t.Helper()
		before := d.Lsids()
		assert.True(t, walberr.Is(d.SetOldest(ctx, lsid), walberr.Range), lsid)
		assert.Equal(t, before, d.Lsids())
	}
	refused(8) // before a checkpoint
	require.NoError(t, d.Checkpoint(ctx))
	assert.Equal(t, meta.Lsid(24), d.Lsids().PrevWritten)
	refused(9)
	refused(25)
	require.NoError(t, d.SetOldest(ctx, 8))
	refused(0)
	require.NoError(t, d.SetOldest(ctx, 8), "again")
	require.NoError(t, d.SetOldest(ctx, 24))
	assert.Zero(t, d.Lsids().Usage())
	closed(t, d)
	d, err := open(ctx, "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.Equal(t, meta.Lsid(24), d.Lsids().Oldest)
	closed(t, d)
}

// TestResetTakesAGrownLog: only a reset notices that the log file grew, and it
// refuses one that shrank.
func TestResetTakesAGrownLog(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{})
	require.NoError(t, logFile.Truncate(small.LogSize+100*512+100))
	fill(t, d, 250)
	assert.Equal(t, uint64(256), d.LogCapacity())
	require.NoError(t, d.ResetLog(t.Context()))
	assert.Equal(t, uint64(356), d.LogCapacity())
	fill(t, d, 350)
	assert.False(t, d.Overflowed())
	want := read(t, d, 0, small.Size)
	require.NoError(t, logFile.Truncate(small.LogSize))
	err := d.ResetLog(t.Context())
	assert.True(t, walberr.Is(err, walberr.Unavailable), err)
	assert.Equal(t, uint64(356), d.LogCapacity())
	require.NoError(t, logFile.Truncate(small.LogSize+100*512))
	require.NoError(t, d.WriteAt(t.Context(), random(1, 1), 0), "it goes on as before")
	copy(want, random(1, 1))
	closed(t, d)
	d, err = open(t.Context(), "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.Equal(t, uint64(356), d.LogCapacity())
	assert.True(t, bytes.Equal(want, read(t, d, 0, small.Size)))
	closed(t, d)
}

func TestResize(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{})
	ctx := t.Context()
	require.NoError(t, d.Resize(ctx, small.Size))
	require.NoError(t, d.Resize(ctx, small.Size+64))
	assert.Equal(t, small.Size+64, d.Size())
	p := random(64, 3)
	require.NoError(t, d.WriteAt(ctx, p, small.Size.Bytes()))
	assert.Equal(t, p, read(t, d, small.Size, 64))
	closed(t, d)
	d, err := open(ctx, "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.Equal(t, small.Size+64, d.Size())
	assert.Equal(t, p, read(t, d, small.Size, 64))
	closed(t, d)
}

// TestDiskErrors: after an error of either file nothing is accepted, reads go
// on, and a new start has everything that was acknowledged.
func TestDiskErrors(t *testing.T) {
	for _, brokenLog := range []bool{true, false} {
		for breakAt := 1; breakAt < 12; breakAt++ {
			d, logFile, dataFile := simDevice(t, small, Options{FlushInterval: time.Millisecond, CheckpointInterval: 2 * time.Millisecond})
			broken := dataFile
			if brokenLog {
				broken = logFile
			}
			logFile.disk.mu.Lock()
			logFile.disk.breaks, logFile.disk.breakAt = broken, logFile.disk.ops+breakAt
			logFile.disk.mu.Unlock()
			want := make([]byte, small.Size.Bytes())
			ctx := t.Context()
			var err error
			for i := block.LB(0); err == nil; i = (i + 1) % 100 {
				p := random(3, uint64(i))
				if err = d.WriteAt(ctx, p, (3 * i).Bytes()); err == nil {
					copy(want[(3*i).Bytes():], p)
				}
			}
			assert.True(t, walberr.Is(err, walberr.Unavailable), err)
			require.ErrorIs(t, err, errDisk)
			require.Error(t, d.Err())
			require.ErrorIs(t, d.Flush(ctx), errDisk)
			require.ErrorIs(t, d.Discard(ctx, 0, 512), errDisk)
			require.ErrorIs(t, d.ResetLog(ctx), errDisk)
			require.ErrorIs(t, d.Checkpoint(ctx), errDisk)
			assert.True(t, bytes.Equal(want, read(t, d, 0, small.Size)), "log %v, op %d", brokenLog, breakAt)
			require.ErrorIs(t, d.Close(), errDisk)
			logFile.disk.breakAt = 0
			d, err = open(ctx, "", logFile, dataFile, Options{})
			require.NoError(t, err)
			assert.True(t, bytes.Equal(want, read(t, d, 0, small.Size)), "after restart, log %v, op %d", brokenLog, breakAt)
			closed(t, d)
		}
	}
}

// TestEverybodyAtOnce lets writers, readers and all kinds of control meet, and
// compares the disk at the end. Run it with the race detector.
func TestEverybodyAtOnce(t *testing.T) {
	spec := Spec{Name: "w0", Size: 4 * 256, LogSize: (10 + 300) * 512, PBS: 512}
	d, _, dataFile := simDevice(t, spec, Options{FlushInterval: time.Millisecond, MaxPending: 1, CheckpointInterval: time.Millisecond})
	ctx := t.Context()
	var writers, others sync.WaitGroup
	want := make([]byte, spec.Size.Bytes())
	for w := range block.LB(4) {
		writers.Go(func() {
			mine := want[(w * 256).Bytes():((w + 1) * 256).Bytes()]
			rnd := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range 60 {
				n := block.LB(1 + rnd.IntN(100))
				at := block.LB(rnd.IntN(int(256 - n)))
				p := random(n, uint64(i))
				copy(mine[at.Bytes():], p)
				if err := d.WriteAt(ctx, p, (w*256 + at).Bytes()); err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 {
					if err := d.Flush(ctx); err != nil {
						t.Error(err)
						return
					}
					assert.True(t, bytes.Equal(mine, read(t, d, w*256, 256)))
				}
			}
		})
	}
	stop := make(chan struct{})
	again := func(f func()) {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-d.Changed():
					f()
				}
			}
		})
	}
	again(func() { assert.NoError(t, d.ResetLog(ctx)) })
	again(func() {
		if err := d.Checkpoint(ctx); err != nil {
			t.Error(err)
		}
		_ = d.SetOldest(ctx, d.Lsids().PrevWritten)
	})
	again(func() {
		l := d.Lsids()
		assert.True(t, l.Oldest <= l.PrevWritten && l.PrevWritten <= l.Written && l.Written <= l.Permanent &&
			l.Permanent <= l.Flush && l.Flush <= l.Completed && l.Completed <= l.Latest, l)
		_ = d.ReadLog(ctx, l.Oldest, make([]byte, 512))
		_, err := d.NextData(ctx, 17)
		assert.NoError(t, err)
	})
	writers.Wait()
	close(stop)
	others.Wait()
	assert.True(t, bytes.Equal(want, read(t, d, 0, spec.Size)))
	closed(t, d)
	assert.True(t, bytes.Equal(want, dataFile.content()))
}

// TestRedoRefusesTargetsOutside: a record that points behind the device is not
// applied.
func TestRedoRefusesTargetsOutside(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{})
	id := d.Identity()
	closed(t, d)
	packs, _ := wlog.Packer{PBS: 512, Ring: 256}.Pack([]wlog.IO{{Addr: small.Size - 1, Len: 2, Data: random(2, 1)}}, 0)
	p := make([]byte, 3*512)
	packs[0].Encode(p, 512, id.Salt)
	s, err := readSuper(logFile)
	require.NoError(t, err)
	require.NoError(t, ring{logFile, s}.writeBlocks(0, p))
	_, err = open(t.Context(), "", logFile, dataFile, Options{})
	assert.True(t, walberr.Is(err, walberr.Checksum), err)
}
