package seed

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// loseLog stops the storage, writes what no log will tell, and gives what was
// written until then.
func (r *rig) loseLog() {
	r.t.Helper()
	err := r.g.Stop(r.t.Context(), r.s0, vol, client.StopGraceful)
	require.NoError(r.t, err)
	r.write(2<<20, 1<<20)
	r.write(60<<20, 100<<10)
}

// bytesTo is what went to an archive under a protocol.
func (r *rig) bytesTo(id, protocol string) (n int64) {
	for _, rec := range r.relays[id].Records() {
		if rec.Protocol == protocol {
			n += rec.Bytes[simnet.ToServer]
		}
	}
	return n
}

// TestBackupsAndReplicasAgree: after synchronizing, a hash backup at s0 still
// goes to a0 by itself; the snapshots there stay, and a1 follows again.
func TestBackupsAndReplicasAgree(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.write(0, 16<<20)
	old, oldImage := r.snapshot(r.a0)
	_, err := r.g.Synchronize(ctx, r.a0, vol, r.a1, group.SynchronizeOptions{Timeout: limit})
	require.NoError(t, err)
	for round := range 2 {
		r.loseLog()
		before := r.bytesTo("a0", wire.ProtoHashSync)
		res, err := r.g.HashBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: limit})
		require.NoError(t, err)
		assert.Equal(t, []string{"a1"}, res.PutBack, "round %d: %v", round, res.Warnings)
		assert.Less(t, r.bytesTo("a0", wire.ProtoHashSync)-before, int64(3<<20), "only what differs is sent")
		r.requireImage(r.a0, res.Gid, r.model)
		r.requireImage(r.a0, old, oldImage)
		assert.True(t, r.isSynchronizing(r.a0))
		assert.True(t, r.isSynchronizing(r.a1))
		r.write(30<<20, 1<<20)
		gid, image := r.snapshot(r.a0, r.a1)
		r.requireImage(r.a0, gid, image)
		r.requireImage(r.a1, gid, image)
	}
	// A full backup would throw this away, and says so.
	err = r.g.Stop(ctx, r.s0, vol, client.StopGraceful)
	require.NoError(t, err)
	_, err = r.g.FullBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: limit})
	require.ErrorContains(t, err, "snapshots to gid")
	assert.True(t, walberr.Is(err, walberr.BadState))
}

// TestAReplicaOfAnotherBackupIsCompared: a new full backup begins another
// lineage; a1 takes it over without being sent everything again.
func TestAReplicaOfAnotherBackupIsCompared(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.write(0, 24<<20)
	r.snapshot(r.a0)
	_, err := r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	r.loseLog()
	err = r.g.Stop(ctx, r.a0, vol, client.StopGraceful)
	require.NoError(t, err)
	require.NoError(t, r.g.Client(r.a0).ResetVol(ctx, vol))
	_, err = r.g.FullBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: limit})
	require.NoError(t, err)
	gid, image := r.snapshot(r.a0)

	_, err = r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	assert.True(t, walberr.Is(err, walberr.DifferentUUID), "%v", err)
	before := r.replBytes()
	_, err = r.g.Replicate(ctx, r.a0, vol, r.a1, true, group.ReplicateOptions{Timeout: limit, Resync: true})
	require.NoError(t, err)
	assert.Less(t, r.replBytes()-before, int64(4<<20), "only what differs is sent")
	r.requireImage(r.a1, gid, image)
	r.write(30<<20, 1<<20)
	gid, image = r.snapshot(r.a0, r.a1)
	r.requireImage(r.a1, gid, image)
}

// TestAReplicaBehindTheBaseIsCompared: what it lacks was applied at a0.
func TestAReplicaBehindTheBaseIsCompared(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.write(0, 24<<20)
	first, firstImage := r.snapshot(r.a0)
	_, err := r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	r.write(8<<20, 1<<20)
	second, secondImage := r.snapshot(r.a0)
	r.write(12<<20, 1<<20)
	third, thirdImage := r.snapshot(r.a0)
	require.NoError(t, r.g.Client(r.a0).Apply(ctx, vol, second))
	require.Eventually(t, func() bool {
		st, err := r.g.Client(r.a0).Base(ctx, vol)
		return err == nil && !st.Applying && st.B == meta.CleanSnap(second)
	}, limit, 5*time.Millisecond)
	before := r.replBytes()
	c, err := r.g.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	assert.Equal(t, 2, c.Rounds, "one by hash, one by diff")
	assert.Less(t, r.replBytes()-before, int64(4<<20))
	r.requireImage(r.a1, first, firstImage)
	r.requireImage(r.a1, second, secondImage)
	r.requireImage(r.a1, third, thirdImage)
}

// TestAHashBackupThatBreaks leaves everything as it was, and can be repeated.
func TestAHashBackupThatBreaks(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.write(0, 16<<20)
	old, oldImage := r.snapshot(r.a0)
	_, err := r.g.Synchronize(ctx, r.a0, vol, r.a1, group.SynchronizeOptions{Timeout: limit})
	require.NoError(t, err)
	r.loseLog()
	r.relays["a0"].SetRules(simnet.Rule{Protocol: wire.ProtoHashSync, CutAfter: 100_000, Cut: simnet.ToServer, Reset: true})
	_, err = r.g.HashBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: limit})
	require.Error(t, err)
	r.relays["a0"].SetRules()
	assert.True(t, r.isSynchronizing(r.a0))
	assert.True(t, r.isSynchronizing(r.a1))
	state, err := r.g.GetState(ctx, r.s0, vol)
	require.NoError(t, err)
	assert.Equal(t, fsm.StorageSyncReady.String(), state)
	r.requireImage(r.a0, old, oldImage)
	res, err := r.g.HashBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: limit})
	require.NoError(t, err)
	assert.Equal(t, []string{"a1"}, res.PutBack, "%v", res.Warnings)
	r.requireImage(r.a0, res.Gid, r.model)
}
