package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestASnapshotSurvivesAPowerCut: what a snapshot promises does not hang on log
// that is in a cache. Of the device only what was flushed is left, of the
// server's files all, as each is durable.
func TestASnapshotSurvivesAPowerCut(t *testing.T) {
	g := newGroup(t, 1)
	g.options.FlushInterval = time.Hour // only flushes make log permanent
	g.started(t)
	g.write(t, 0, 17*512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)

	copied := func(dir string) string {
		to := filepath.Join(t.TempDir(), "copy")
		require.NoError(t, os.CopyFS(to, os.DirFS(dir)))
		return to
	}
	g.proxies[0].refuse(true)
	permanent, devices := g.dev.Lsids().Permanent, copied(g.devDir)
	g.write(t, 0, 8*512)
	_, err := g.client().Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	if g.dev.Lsids().Permanent > permanent {
		devices = copied(g.devDir)
	}
	base := copied(g.base)
	g.stop()

	g.devDir, g.base = devices, base
	g.proxies[0].refuse(false)
	g.start(t)
	for range 3 {
		g.write(t, 4096, 5*512)
		require.NoError(t, g.dev.Flush(t.Context()))
	}
	g.awaitShipped(t)
	g.verify(t)
}
