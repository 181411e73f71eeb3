package archive

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
)

// TestKilledApplyAndMerge: kill -9 in the middle of an apply or merge loses
// nothing, leaves no temporary file, and the apply is completed by the next start.
func TestKilledApplyAndMerge(t *testing.T) {
	c := newChild(t)
	ctx := t.Context()
	w := newWorld(15, 4<<10)
	require.NoError(t, c.InitVol(ctx, "v0", ""))
	require.NoError(t, w.backup(ctx, c.Addr(), "v0"))
	for range 4 {
		d, file := w.next(200, true)
		require.NoError(t, w.send(ctx, c.Addr(), "v0", d, file))
	}
	c.kill(t)
	// A merge is killed as soon as its temporary file is there.
	require.NoError(t, c.MergeSize(ctx, "v0", 0, 1<<20))
	require.Eventually(t, func() bool {
		temps, merged := c.files(t)
		return temps > 0 || merged == 1
	}, patience, 1e5)
	c.kill(t)
	temps, _ := c.files(t)
	assert.Zero(t, temps)
	assert.Contains(t, c.sameAs(t, w), meta.Gid(4))
	// An apply is killed as soon as its base says so.
	require.NoError(t, c.Apply(ctx, "v0", 4))
	require.Eventually(t, func() bool {
		base, err := c.Base(ctx, "v0")
		require.NoError(t, err)
		return base.Applying || base.B == meta.CleanSnap(4)
	}, patience, 1e5)
	c.kill(t)
	require.Eventually(t, func() bool {
		base, err := c.Base(ctx, "v0")
		return err == nil && !base.Applying
	}, patience, 1e6)
	assert.Contains(t, c.sameAs(t, w), meta.Gid(4))
	require.NoError(t, c.Stop(ctx, "v0", client.StopForce))
}

// files counts the temporary files and the diffs of the volume.
func (c *child) files(t *testing.T) (temps, diffs int) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.base, "v0"))
	require.NoError(t, err)
	for _, e := range entries {
		if vfs.IsTempName(e.Name()) {
			temps++
		}
		if filepath.Ext(e.Name()) == ".wdiff" {
			diffs++
		}
	}
	return temps, diffs
}
