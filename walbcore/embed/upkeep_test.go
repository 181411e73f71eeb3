package embed_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

// TestUpkeepOfARealGroup: snapshots, merge, replication, apply, hash and verify
// as an operator does them.
func TestUpkeepOfARealGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	g := open(t, small(dir))
	ops, l, ctx := operate(t, g), g.Layout(), t.Context()
	s0, a0, a1 := l.Storages[0], l.Archives[0], l.Archives[1]
	v, err := ops.Client(s0).OpenVolume(ctx, "vol")
	require.NoError(t, err)
	defer v.Close()
	data := make([]byte, 64<<10)
	source := rand.NewChaCha8([32]byte{2})
	image := map[meta.Gid][]byte{}
	whole := make([]byte, 4<<20)
	var gids []meta.Gid
	for i := range 4 {
		_, _ = source.Read(data)
		off := int64(i) * 48 << 10
		_, err := v.WriteAt(data, off)
		require.NoError(t, err)
		copy(whole[off:], data)
		gid, err := ops.Snapshot(ctx, s0, "vol", []group.Server{a0}, time.Minute)
		require.NoError(t, err)
		gids, image[gid] = append(gids, gid), bytes.Clone(whole)
	}
	restored := func(ax group.Server, gid meta.Gid) {
		t.Helper()
		r, err := ops.Restore(ctx, ax, "vol", gid, time.Minute)
		require.NoError(t, err)
		got, err := os.ReadFile(r.Path)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(image[gid], got), "gid %d at %s", gid, ax.Name)
		require.NoError(t, ops.DelRestored(ctx, ax, "vol", gid))
	}
	_, err = ops.Merge(ctx, a0, "vol", gids[0], gids[2], time.Minute)
	require.ErrorContains(t, err, "is an explicit one")
	require.NoError(t, ops.DisableSnapshots(ctx, a0, "vol", gids[1:2]))
	m, err := ops.Merge(ctx, a0, "vol", gids[0], gids[2], time.Minute)
	require.NoError(t, err)
	assert.Contains(t, m.Lost, gids[1])
	restored(a0, gids[2])

	_, err = ops.ReplicateOnce(ctx, a0, "vol", a1, group.ReplicateOptions{Timeout: time.Minute})
	require.NoError(t, err)
	apply, err := ops.Apply(ctx, a0, "vol", gids[2], time.Minute)
	require.NoError(t, err)
	assert.Contains(t, apply.Lost, gids[0])
	for _, gid := range gids[2:] {
		restored(a0, gid)
		h0, err := ops.BlockHash(ctx, a0, "vol", gid, 0, 0)
		require.NoError(t, err)
		h1, err := ops.BlockHash(ctx, a1, "vol", gid, 0, 0)
		require.NoError(t, err)
		assert.Equal(t, h0, h1)
		other, err := ops.BlockHash(ctx, a1, "vol", gid, 512, 0)
		require.NoError(t, err)
		assert.NotEqual(t, h0, other, "the hash depends on the bulk")
	}
	for _, ax := range l.Archives {
		faults, err := ops.Verify(ctx, ax, "vol", 0, time.Minute)
		require.NoError(t, err)
		assert.Empty(t, faults)
		_, err = ops.GCDiff(ctx, ax, "vol")
		require.NoError(t, err)
		require.NoError(t, ops.ResizeArchive(ctx, ax, "vol", 5<<20/512, true))
	}

	// What the disk has spoiled is found.
	wdiffs, err := filepath.Glob(filepath.Join(a1.Dir, "vol", "*.wdiff"))
	require.NoError(t, err)
	require.NotEmpty(t, wdiffs)
	f, err := os.OpenFile(wdiffs[len(wdiffs)-1], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{1, 2, 3, 4}, 40)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	faults, err := ops.Verify(ctx, a1, "vol", 0, time.Minute)
	require.NoError(t, err)
	require.NotEmpty(t, faults)
	assert.Equal(t, filepath.Base(wdiffs[len(wdiffs)-1]), faults[0].What)
	assert.NotEmpty(t, faults[0].Hurts)
}
