package seed

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

const limit = time.Minute

// TestManual follows the manual from its first picture to its last sentence.
func TestManual(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	images := map[meta.Gid][]byte{}
	snapshot := func(archives ...group.Server) meta.Gid {
		gid, image := r.snapshot(archives...)
		images[gid] = image
		return gid
	}

	// The original archive data at a0 will be updated by additional wdiffs.
	r.write(0, volumeSize)
	first := snapshot(r.a0)
	r.requireImage(r.a0, first, images[first])
	r.write(1<<20, 3<<20)
	snapshot(r.a0)
	r.write(5<<20, 1<<20)
	r.write(63<<20, 1<<20)
	snapshot(r.a0)

	assert.True(t, r.isSynchronizing(r.a0), "the primary archive is always synchronizing after full backup")
	assert.False(t, r.isSynchronizing(r.a1))

	// walbc.replicate_once(a0, vol, a1, timeoutS): all the snapshots of the
	// volume at a0 can be restored at a1 also.
	at0 := r.restorable(r.a0)
	c, err := r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	assert.Contains(t, at0, c.Gid)
	assert.Empty(t, c.Missing)
	assert.Subset(t, r.restorable(r.a1), at0)
	for gid, image := range images {
		assert.Contains(t, at0, gid)
		r.requireImage(r.a1, gid, image)
	}
	assert.False(t, r.isSynchronizing(r.a1))
	sent := r.replBytes()
	assert.Greater(t, sent, int64(volumeSize), "random data does not compress")
	assert.InDelta(t, sent, c.Sent, 64, "what the source counted is what the relay saw")

	// You can invoke replicate_once() periodically: it brings only what is new.
	r.write(10<<20, 1<<20)
	snapshot(r.a0)
	c, err = r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	again := r.replBytes() - sent
	assert.Greater(t, again, int64(1<<20))
	assert.Less(t, again, int64(1<<20+1<<16))
	for gid, image := range images {
		r.requireImage(r.a1, gid, image)
	}

	// Use replicate_once_nbk() for asynchronous behaviour.
	r.write(20<<20, 1<<20)
	snapshot(r.a0)
	gid, err := r.g.ReplicateOnceNbk(ctx, r.a0, vol, r.a1, group.ReplicateOptions{})
	require.NoError(t, err)
	require.NoError(t, r.g.WaitForReplicated(ctx, r.a0, vol, r.a1, gid, limit))
	r.requireImage(r.a1, gid, images[gid])

	// synchronize(): stop, add, replicate, start; from then on a1 follows.
	r.write(30<<20, 1<<20)
	start, before := time.Now(), r.replBytes()
	s, err := r.g.Synchronize(ctx, r.a0, vol, r.a1, group.SynchronizeOptions{Timeout: limit})
	require.NoError(t, err)
	assert.Equal(t, []string{"p0 stop empty", "p0 archive-info add a1", "a0 replicate", "p0 start"}, r.commands(start))
	assert.Less(t, r.replBytes()-before, int64(2<<20), "what was replicated before is not sent while the proxies stand still")
	assert.Positive(t, s.Standstill())
	assert.True(t, r.isSynchronizing(r.a0))
	assert.True(t, r.isSynchronizing(r.a1))
	before = r.replBytes()
	r.write(40<<20, 2<<20)
	live := snapshot(r.a0, r.a1)
	r.requireImage(r.a0, live, images[live])
	r.requireImage(r.a1, live, images[live])
	assert.Equal(t, before, r.replBytes(), "no replication was needed")

	// stop_synchronizing(): a1 keeps its data and is not updated.
	start = time.Now()
	_, err = r.g.StopSynchronizing(ctx, r.a1, vol)
	require.NoError(t, err)
	commands := r.commands(start)
	require.Len(t, commands, 3)
	assert.Contains(t, commands[0], "p0 stop")
	assert.Equal(t, []string{"p0 archive-info delete a1", "p0 start"}, commands[1:])
	assert.False(t, r.isSynchronizing(r.a1))
	assert.True(t, r.isSynchronizing(r.a0))
	kept := r.restorable(r.a1)
	r.write(50<<20, 1<<20)
	last := snapshot(r.a0)
	assert.Equal(t, kept, r.restorable(r.a1))
	r.requireImage(r.a1, live, images[live])
	_, err = r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	r.requireImage(r.a1, last, images[last])
}

// TestReplicate: replicate() does what replicate_once does, and synchronizes
// when told.
func TestReplicate(t *testing.T) {
	r := newRig(t)
	r.write(0, 8<<20)
	r.snapshot(r.a0)
	_, err := r.g.Replicate(t.Context(), r.a0, vol, r.a1, false, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	assert.False(t, r.isSynchronizing(r.a1))
	_, err = r.g.Replicate(t.Context(), r.a0, vol, r.a1, true, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	assert.True(t, r.isSynchronizing(r.a1))
	r.write(0, 1<<20)
	gid, image := r.snapshot(r.a0, r.a1)
	r.requireImage(r.a1, gid, image)
}

// TestSynchronizeLeavesNothingHalfway: whatever fails, the proxies run again
// and registrations are what they were.
func TestSynchronizeLeavesNothingHalfway(t *testing.T) {
	for name, c := range map[string]struct {
		trouble func(r *rig) (undo func())
		ctx     func(ctx context.Context) (context.Context, context.CancelFunc)
		timeout time.Duration
		code    walberr.Code
	}{
		"a1 refuses connections": {
			trouble: func(r *rig) func() {
				r.relays["a1"].SetRules(simnet.Rule{Refuse: true})
				return func() { r.relays["a1"].SetRules() }
			},
			timeout: 5 * time.Second, code: walberr.Unreachable,
		},
		"a1 hangs in the copy": {
			trouble: func(r *rig) func() {
				r.relays["a1"].SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, Hang: true})
				return func() { r.relays["a1"].SetRules() }
			},
			timeout: 2 * time.Second, code: walberr.Timeout,
		},
		"the operator gives up": {
			trouble: func(r *rig) func() {
				r.relays["a1"].SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, Rate: 1 << 20})
				return func() { r.relays["a1"].SetRules() }
			},
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
			timeout: limit, code: walberr.Canceled,
		},
		"the copy is cut": {
			trouble: func(r *rig) func() {
				r.relays["a1"].SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: 1 << 20, Cut: simnet.ToServer})
				return func() { r.relays["a1"].SetRules() }
			},
			timeout: 20 * time.Second, code: walberr.Unavailable,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.write(0, 16<<20)
			r.snapshot(r.a0)
			undo := c.trouble(r)
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if c.ctx != nil {
				ctx, cancel = c.ctx(ctx)
			}
			defer cancel()
			_, err := r.g.Synchronize(ctx, r.a0, vol, r.a1, group.SynchronizeOptions{Timeout: c.timeout})
			require.Error(t, err)
			t.Log(err)
			assert.Equal(t, c.code, walberr.CodeOf(err), "%v", err)
			var we *walberr.Error
			require.ErrorAs(t, err, &we)
			assert.Equal(t, vol, we.Volume)
			assert.NotEmpty(t, we.Hint)
			undo()
			require.Eventually(t, func() bool {
				return !slices.ContainsFunc(r.g.Jobs().List(), func(i plan.Info) bool { return i.Ended.IsZero() })
			}, limit, 5*time.Millisecond, "what was begun is brought back")

			assert.False(t, r.isSynchronizing(r.a1))
			assert.True(t, r.isSynchronizing(r.a0))
			state, err := r.g.GetState(t.Context(), r.p0, vol)
			require.NoError(t, err)
			assert.Contains(t, []string{"Started", "WlogRecv"}, state)
			r.write(0, 1<<20)
			gid, image := r.snapshot(r.a0)
			r.requireImage(r.a0, gid, image)

			// A copy that still runs is joined, one that broke goes on.
			_, err = r.g.ReplicateOnce(t.Context(), r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
			require.NoError(t, err)
			r.requireImage(r.a1, gid, image)
		})
	}
}

// TestDiscardAndSparse: holes stay holes at every archive.
func TestDiscardAndSparse(t *testing.T) {
	r := newRig(t)
	r.write(0, 4<<20)
	require.NoError(t, r.disk.Discard(1<<20, 2<<20))
	clear(r.model[1<<20 : 3<<20])
	gid, image := r.snapshot(r.a0)
	r.requireImage(r.a0, gid, image)
	_, err := r.g.ReplicateOnce(t.Context(), r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	r.requireImage(r.a1, gid, image)
	st, err := os.Stat(filepath.Join(r.a1.Dir, vol, "wb_"+vol))
	require.NoError(t, err)
	assert.Equal(t, int64(volumeSize), st.Size())
}
