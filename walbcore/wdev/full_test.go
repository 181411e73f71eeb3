package wdev

import (
	"bytes"
	"context"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// fill writes until the log has used PB or more.
func fill(tb testing.TB, d *Userspace, used uint64) {
	tb.Helper()
	for i := uint64(0); d.Lsids().Usage() < used; i++ {
		require.NoError(tb, d.WriteAt(tb.Context(), random(7, i), int64(i%100)*7*512))
	}
}

// TestOverflow: by default writes go on, the flag rises, the disk stays right,
// and the flag is found again at the next start; reset clears it.
func TestOverflow(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{})
	ctx := t.Context()
	fill(t, d, 256)
	assert.Equal(t, uint64(256), d.Lsids().Usage())
	assert.False(t, d.Overflowed(), "exactly full is not an overflow")
	fill(t, d, 257)
	assert.True(t, d.Overflowed())
	fill(t, d, 2000)
	want := read(t, d, 0, small.Size)
	require.NoError(t, d.Flush(ctx))
	err := d.ReadLog(ctx, 0, make([]byte, 512))
	assert.True(t, walberr.Is(err, walberr.Unavailable), err)
	require.NoError(t, d.Close())

	d, err = open(ctx, "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.True(t, d.Overflowed())
	assert.True(t, bytes.Equal(want, read(t, d, 0, small.Size)))
	before := d.Identity()
	require.NoError(t, d.ResetLog(ctx))
	assert.False(t, d.Overflowed())
	assert.Equal(t, Lsids{}, d.Lsids())
	assert.NotEqual(t, before.UUID, d.Identity().UUID)
	assert.NotEqual(t, before.Salt, d.Identity().Salt)
	assert.True(t, bytes.Equal(want, read(t, d, 0, small.Size)), "the disk keeps its content")
	require.NoError(t, d.WriteThrough(ctx, random(1, 99), 0))
	id := d.Identity()
	closed(t, d)

	d, err = open(ctx, "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.False(t, d.Overflowed())
	assert.Equal(t, id, d.Identity())
	assert.Equal(t, meta.Lsid(2), d.Lsids().Latest)
	closed(t, d)
}

// TestOverflowIsGoneAfterGivingUp: giving up the log leaves the flag, a restart
// does not find it again.
func TestOverflowIsGoneAfterGivingUp(t *testing.T) {
	d, logFile, dataFile := simDevice(t, small, Options{})
	fill(t, d, 300)
	require.NoError(t, d.Flush(t.Context()))
	await(t, d, func() bool { return d.Lsids().Written == d.Lsids().Latest })
	require.NoError(t, d.Checkpoint(t.Context()))
	require.NoError(t, d.SetOldest(t.Context(), d.Lsids().PrevWritten))
	assert.True(t, d.Overflowed())
	closed(t, d)
	d, err := open(t.Context(), "", logFile, dataFile, Options{})
	require.NoError(t, err)
	assert.False(t, d.Overflowed())
	closed(t, d)
}

// TestBlock: with OnFull Block writers wait for room, a flush does not, a
// cancelled writer leaves without a trace, and giving up log lets them go on.
func TestBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := simDevice(t, small, Options{OnFull: Block})
		ctx := t.Context()
		for range 30 { // 240 of 256 blocks
			require.NoError(t, d.WriteAt(ctx, random(7, 1), 0))
		}
		require.NoError(t, d.WriteAt(ctx, random(7, 2), 0))
		var done [2]error
		var wg sync.WaitGroup
		quit, cancel := context.WithCancel(ctx)
		wg.Go(func() { done[0] = d.WriteAt(quit, random(16, 3), 100*512) })
		synctest.Wait()
		wg.Go(func() { done[1] = d.WriteAt(ctx, random(16, 4), 200*512) })
		synctest.Wait()
		require.NoError(t, d.Flush(ctx))
		assert.Equal(t, meta.Lsid(248), d.Lsids().Latest, "nobody got in")
		cancel()
		synctest.Wait()
		require.ErrorIs(t, done[0], context.Canceled)

		l := d.Lsids()
		assert.Equal(t, l.Latest, l.PrevWritten, "a full log is checkpointed without being asked")
		require.NoError(t, d.SetOldest(ctx, 8))
		synctest.Wait()
		assert.Equal(t, meta.Lsid(248), d.Lsids().Latest, "one pack is too little room")
		require.NoError(t, d.SetOldest(ctx, 80))
		wg.Wait()
		require.NoError(t, done[1])
		assert.Equal(t, make([]byte, 16*512), read(t, d, 100, 16), "the cancelled write did not happen")
		assert.Equal(t, random(16, 4), read(t, d, 200, 16))
		assert.False(t, d.Overflowed())

		wg.Go(func() { done[0] = d.WriteAt(ctx, random(200, 5), 300*512) })
		synctest.Wait()
		closed(t, d)
		wg.Wait()
		assert.True(t, walberr.Is(done[0], walberr.Stopped), "close does not wait for writers without room: %v", done[0])
	})
}

// TestResetFreesBlockedWriters: a reset is done while writers wait.
func TestResetFreesBlockedWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _, _ := simDevice(t, small, Options{OnFull: Block})
		ctx := t.Context()
		fill(t, d, 240)
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, d.WriteAt(ctx, random(32, 3), 0)) })
		synctest.Wait()
		require.NoError(t, d.ResetLog(ctx))
		wg.Wait()
		assert.Equal(t, meta.Lsid(33), d.Lsids().Latest)
		closed(t, d)
	})
}
