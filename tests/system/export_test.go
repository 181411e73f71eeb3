package system

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/embed"
	"walbsh/walbcore/group"
)

// TestExport: what others read of an exported snapshot is what a restore gives,
// while the volume is written to and its diffs come in; what they write to an
// overlay is what they read, and is gone afterwards.
func TestExport(t *testing.T) {
	if os.Getenv("WALBSH_SYSTEM") == "" {
		t.Skip("lacks WALBSH_SYSTEM=1, which make test-system sets: it needs nbdcopy, qemu-img, qemu-io and fio")
	}
	ctx := t.Context()
	g, err := embed.Open(ctx, embed.Options{Size: 64 << 20, LogSize: 16 << 20})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.Close()) })
	ops, err := group.New(g.Layout(), group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, ops.Close(context.WithoutCancel(ctx))) })
	l := g.Layout()
	s0, a0, vol := l.Storages[0], l.Archives[0], g.Volume()
	w := &writer{ops: ops, s0: s0, vol: vol, rnd: rand.New(rand.NewPCG(9, 9))}
	require.NoError(t, w.some(ctx, 200))
	gid, err := ops.Snapshot(ctx, s0, vol, []group.Server{a0}, limit)
	require.NoError(t, err)
	stop := w.goOn(t)

	began := time.Now()
	e, err := ops.ExportSnapshot(ctx, a0, vol, gid, false)
	require.NoError(t, err)
	t.Logf("exported in %v: %s", time.Since(began), e)
	restored, err := ops.Restore(ctx, a0, vol, gid, limit)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "out")
	run(t, "nbdinfo", "--map", e.URI)
	assert.Contains(t, run(t, "nbdinfo", "--list", e.URI), vol)
	run(t, "nbdcopy", e.URI, out)
	want := digest(t, restored.Path)
	assert.Equal(t, want, digest(t, out))
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", e.URI, restored.Path)
	stop()
	if os.Getenv("WALBSH_FUSE") != "" { // tests/system/run tells what it takes
		asFile(t, e.URI, func(path string) { assert.Equal(t, want, digest(t, path)) })
	}
	require.NoError(t, w.some(ctx, 50))
	_, err = ops.Snapshot(ctx, s0, vol, []group.Server{a0}, limit)
	require.NoError(t, err)
	_, err = ops.Apply(ctx, a0, vol, gid, limit)
	require.NoError(t, err)
	run(t, "nbdcopy", e.URI, out)
	assert.Equal(t, want, digest(t, out), "after an apply")
	require.NoError(t, ops.UnexportSnapshot(ctx, a0, vol, gid, false))

	e, err = ops.ExportSnapshot(ctx, a0, vol, gid, true)
	require.NoError(t, err)
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 90 1m 64k", "-c", "read -P 90 1m 64k", "-c", "write -z 3m 2m", "-c", "read -P 0 3m 2m",
		"-c", "discard 8m 1m", "-c", "flush", "-c", "write -f -P 7 9m 4k", "-c", "read -P 7 9m 4k", e.URI)
	run(t, "fio", "--name=w", "--ioengine=nbd", "--uri="+e.URI, "--rw=randwrite", "--bs=4k-64k", "--bsrange=4k-64k", "--iodepth=16",
		"--size=32m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--verify_state_save=0", "--output="+filepath.Join(t.TempDir(), "fio"))
	require.NoError(t, ops.UnexportSnapshot(ctx, a0, vol, gid, false))
	e, err = ops.ExportSnapshot(ctx, a0, vol, gid, false)
	require.NoError(t, err)
	run(t, "nbdcopy", e.URI, out)
	assert.Equal(t, want, digest(t, out), "after an overlay")
}

// asFile mounts an export as a file, by FUSE, while use runs.
func asFile(t *testing.T, uri string, use func(path string)) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "snapshot")
	fuse := exec.CommandContext(t.Context(), "nbdfuse", "--readonly", path, uri)
	fuse.Stderr = os.Stderr
	require.NoError(t, fuse.Start())
	require.Eventually(t, func() bool {
		_, err := os.Stat(path)
		return err == nil
	}, limit, 10*time.Millisecond)
	use(path)
	run(t, "fusermount3", "-u", dir)
	require.NoError(t, fuse.Wait())
}

// run runs a program that must succeed, and gives what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
	return string(out)
}

// writer is an application of a volume.
type writer struct {
	ops *group.Group
	s0  group.Server
	vol string
	rnd *rand.Rand
}

// some makes n writes here and there.
func (w *writer) some(ctx context.Context, n int) error {
	v, err := w.ops.Client(w.s0).OpenVolume(ctx, w.vol)
	if err != nil {
		return err
	}
	for range n {
		p := make([]byte, 4096*(1+w.rnd.IntN(16)))
		for i := range p {
			p[i] = byte(w.rnd.Uint32())
		}
		if _, err := v.WriteAt(p, int64(w.rnd.IntN(60<<8))<<12); err != nil {
			return errors.Join(err, v.Close())
		}
	}
	return v.Close()
}

// goOn keeps writing until the returned function is called.
func (w *writer) goOn(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var err error
	running.Go(func() {
		for err == nil && ctx.Err() == nil {
			err = w.some(context.WithoutCancel(ctx), 5)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
		assert.NoError(t, err)
	}
}
