// Package system holds tests that need more than others: root, disk space, or
// a machine to themselves. `make test-system` runs them.
package system

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

const (
	volumeSize = 1 << 30   // bytes
	logSize    = 64 << 20  // bytes
	written    = 256 << 20 // bytes that go through the log
	memory     = 100 << 20 // that a server may take [bytes]
	limit      = 5 * time.Minute
)

// TestMemory: whatever the size of the volume, no server takes more than 100
// MiB in full backup, log shipping, delivery, replication and restore.
func TestMemory(t *testing.T) {
	if os.Getenv("WALBSH_SYSTEM") == "" {
		t.Skip("lacks WALBSH_SYSTEM=1, which make test-system sets: it needs 4 GiB of disk and a minute")
	}
	ctx := t.Context()
	walbsh, err := daemons.Build(ctx, t.TempDir())
	require.NoError(t, err)
	g, err := daemons.New(ctx, daemons.Options{Walbsh: walbsh, Dir: t.TempDir(), Size: volumeSize, LogSize: logSize})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, g.Close())
		if t.Failed() {
			t.Log(g.LogTails(20))
		}
	})
	data := filepath.Join(g.Dir(), "wdev", daemons.Volume, "data")
	fillFile(t, data)
	require.NoError(t, g.StartAll(ctx))
	l := g.Layout()
	s0, a0, a1 := l.Storages[0], l.Archives[0], l.Archives[1]
	ops, err := group.New(l, group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, ops.Close(context.WithoutCancel(ctx))) })

	require.NoError(t, ops.InitStorage(ctx, s0, daemons.Volume, daemons.Device))
	_, err = ops.FullBackup(ctx, s0, daemons.Volume, group.FullBackupOptions{Timeout: limit})
	require.NoError(t, err)
	gid := writeMuch(t, ops, s0, a0)
	c, err := ops.ReplicateOnce(ctx, a0, daemons.Volume, a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	t.Log(c)
	restored, err := ops.Restore(ctx, a1, daemons.Volume, gid, limit)
	require.NoError(t, err)
	for _, id := range daemons.IDs() {
		peak, err := g.PeakMemory(id)
		require.NoError(t, err)
		t.Logf("%s took %d MiB at most", id, peak>>20)
		assert.LessOrEqual(t, peak, int64(memory), id)
	}

	// What was measured was the real thing.
	require.NoError(t, g.End("s0")) // which writes back what is in its log only
	assert.Equal(t, digest(t, data), digest(t, restored.Path))
}

// fillFile fills the volume with random data, without an application.
func fillFile(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{1}), volumeSize)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// writeMuch writes to the volume as an application does, and gives the snapshot
// behind that, which has come to the archive.
func writeMuch(t *testing.T, ops *group.Group, s0, a0 group.Server) meta.Gid {
	t.Helper()
	v, err := ops.Client(s0).OpenVolume(t.Context(), daemons.Volume)
	require.NoError(t, err)
	src := rand.NewChaCha8([32]byte{2})
	buf := make([]byte, 1<<20)
	for off := int64(0); off < written; off += int64(len(buf)) {
		_, _ = src.Read(buf)
		_, err := v.WriteAt(buf, off*3) // here and there
		require.NoError(t, err)
	}
	require.NoError(t, v.Close())
	gid, err := ops.Snapshot(t.Context(), s0, daemons.Volume, []group.Server{a0}, limit)
	require.NoError(t, err)
	return gid
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	require.NoError(t, err)
	return fmt.Sprintf("%x", sum.Sum(nil))
}
