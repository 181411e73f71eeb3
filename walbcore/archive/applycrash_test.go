package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
)

// complete ends an application at a server that does not run, as the start of
// one that does would.
func complete(t *testing.T, s *Server, vol string) {
	t.Helper()
	require.NoError(t, s.completeApplies(t.Context()))
	f, _ := inspect(t, s, vol)
	require.False(t, f.base.Applying)
}

// upkeepLife merges, changes snapshots and applies in rounds. step is called
// with each step.
func upkeepLife(t *testing.T, r *rig, w *world, step func(what string, do func() error)) {
	t.Helper()
	ctx, c := t.Context(), r.client()
	idle := func(err error) error {
		r.awaitIdle(t, "v0")
		return err
	}
	ship := func(mergeable bool) {
		next := sync.OnceValues(func() (meta.Diff, []byte) { return w.next(3, mergeable) })
		step("ship", func() error {
			d, file := next()
			return w.send(ctx, r.addr, "v0", d, file)
		})
	}
	step("init", func() error { return c.InitVol(ctx, "v0", "") })
	step("backup", func() error { return w.backup(ctx, r.addr, "v0") })
	for i := range 7 {
		ship(i%2 == 1)
	}
	step("disable", func() error { return c.DisableSnapshot(ctx, "v0", 2, 4) })
	step("enable", func() error { return c.EnableSnapshot(ctx, "v0", 4) })
	step("merge", func() error { return idle(c.MergeGid(ctx, "v0", 1, 4)) })
	step("apply", func() error { return idle(c.Apply(ctx, "v0", 5)) })
	ship(false)
	step("gc", func() error { return c.GCDiff(ctx, "v0") })
	step("apply rest", func() error { return idle(c.Apply(ctx, "v0", 8)) })
}

// TestPowerLossInUpkeep: whenever the power goes in a merge, a change of
// snapshots or an apply, everything that can be restored is right, before and
// after the application that was broken off is completed, and nothing that was
// acknowledged is lost.
func TestPowerLossInUpkeep(t *testing.T) {
	disk := lossless()
	cfg := disk.config()
	cfg.MaxOpen = 2
	r := run(t, cfg)
	w := newWorld(11, 48)
	type point struct {
		what string
		gid  meta.Gid // newest snapshot that is acknowledged
	}
	points := []point{{}}
	upkeepLife(t, r, w, func(what string, do func() error) {
		require.NoError(t, do(), what)
		points = append(points, point{what, w.gid})
		disk.acked.Add(1)
	})
	r.stop()
	assert.Equal(t, meta.CleanSnap(8), r.known(t, "v0").facts().base.B)
	applying := 0
	disk.each(t, 1, func(t *testing.T, l loss, s *Server) {
		t.Helper()
		f, state := inspect(t, s, "v0")
		if state != fsm.ArchiveArchived {
			require.Less(t, l.acked, int64(2), l.at)
			return
		}
		noTemps(t, s, "v0")
		gids := offline(t, s, "v0", w)
		last := points[l.acked].gid
		if last > 1 {
			require.Contains(t, gids, last, "%s behind %s", l.at, points[l.acked].what)
		}
		if !f.base.Applying {
			return
		}
		applying++
		complete(t, s, "v0")
		after := offline(t, s, "v0", w)
		require.Subset(t, gids, after, l.at)
		require.Contains(t, after, last, l.at)
		require.True(t, bytes.Equal(w.at[after[0]], baseImage(t, s, "v0")), "the base image is at %d", after[0])
		noTemps(t, s, "v0")
	})
	assert.Greater(t, applying, 6, "losses while the base image was between two snapshots")
}

// TestFailingDiskInUpkeep: every change fails once. What is there stays right,
// and the same again succeeds.
func TestFailingDiskInUpkeep(t *testing.T) {
	for fail := 40; ; fail += 9 {
		var mu sync.Mutex
		n, hit, quiet := 0, "", false
		disk := newDisk()
		fs := vfstest.Intercept(disk, func(op vfstest.Op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if !op.Changes() || quiet {
				return nil
			}
			if n++; n-1 == fail {
				hit = fmt.Sprintf("%s %s", op, path.Base(name))
				return syscall.EIO
			}
			return nil
		})
		cfg := memConfig(disk)
		cfg.FS, cfg.Store, cfg.MaxOpen = fs, &memStore{fs}, 2
		r := run(t, cfg)
		w := newWorld(12, 32)
		failed := func() (any, bool) {
			mu.Lock()
			defer mu.Unlock()
			return hit, hit != ""
		}
		upkeepLife(t, r, w, func(what string, do func() error) {
			_, before := failed()
			err := do()
			at, now := failed()
			if before || !now {
				require.NoError(t, err, what)
				return
			}
			if state := r.state(t, "v0"); state == "Archived" {
				r.sameAs(t, "v0", w)
			}
			err = do()
			for _, fine := range []string{"too-old-diff", "no mergeable diff", "not applicable", "bad state:Archived"} {
				if err != nil && strings.Contains(err.Error(), fine) {
					err = nil // it was done, but for the end
				}
			}
			require.NoError(t, err, "%s again, after failure %d at %v", what, fail, at)
		})
		mu.Lock()
		quiet = true
		mu.Unlock()
		r.sameAs(t, "v0", w)
		f := r.known(t, "v0").facts()
		require.False(t, f.base.Applying, "failure %d at %s", fail, hit)
		require.Equal(t, meta.CleanSnap(8), f.base.B, "failure %d at %s", fail, hit)
		r.stop()
		if hit == "" {
			return
		}
	}
}

// TestCorruptDiffLeavesTheBaseAlone: an apply that would not come to its end
// does not begin, so that what can be read stays readable.
func TestCorruptDiffLeavesTheBaseAlone(t *testing.T) {
	disk := newDisk()
	r := run(t, memConfig(disk))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	w := newWorld(13, 64)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range 3 {
		w.ship(t, r.addr, "v0", true)
	}
	f := r.known(t, "v0").facts()
	spoil(t, disk, path.Join(memBase, "v0", f.diffs.All()[2].FileName()))
	require.NoError(t, r.client().Apply(t.Context(), "v0", 3))
	r.awaitIdle(t, "v0")
	after := r.known(t, "v0").facts()
	assert.Equal(t, f.base, after.base, "the round of all three does not begin")
	list, err := r.client().Actions(t.Context(), "v0")
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Contains(t, list[0].Error, "check ")
	require.NoError(t, r.client().MergeGid(t.Context(), "v0", 0, 3))
	r.awaitIdle(t, "v0")
	assert.Len(t, after.diffs.All(), 3, "a merge does not hide it")
	require.NoError(t, r.client().Apply(t.Context(), "v0", 2))
	r.awaitIdle(t, "v0")
	assert.Equal(t, meta.CleanSnap(2), r.known(t, "v0").facts().base.B)
	assert.True(t, bytes.Equal(w.at[2], r.restore(t, "v0", 2)))

	faults, err := r.client().Verify(t.Context(), "v0", 0, nil)
	require.NoError(t, err)
	require.NotEmpty(t, faults)
	assert.Equal(t, []meta.Gid{3}, faults[0].Hurts)
	assert.Equal(t, after.diffs.All()[0].FileName(), faults[0].What)
}

// spoil changes a byte near the end of a diff's last data.
func spoil(t *testing.T, disk *vfstest.Mem, name string) {
	t.Helper()
	f, err := disk.Open(name, 2, 0)
	require.NoError(t, err)
	info, err := f.Stat()
	require.NoError(t, err)
	var b [1]byte
	at := info.Size() - 4096 - 1
	_, err = f.ReadAt(b[:], at)
	require.NoError(t, err)
	b[0] ^= 0x40
	_, err = f.WriteAt(b[:], at)
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
}

// TestStartCompletesAnApply: a server that starts on an application that was
// broken off completes it by itself.
func TestStartCompletesAnApply(t *testing.T) {
	disk := lossless()
	r := run(t, disk.config())
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	w := newWorld(14, 64)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range 3 {
		w.ship(t, r.addr, "v0", false)
	}
	disk.found = nil
	require.NoError(t, r.client().Apply(t.Context(), "v0", 3))
	r.awaitIdle(t, "v0")
	r.stop()
	seen := 0
	for _, l := range disk.found {
		s, err := New(memConfig(l.disk))
		require.NoError(t, err, l.at)
		f, _ := inspect(t, s, "v0")
		require.NoError(t, s.lock.Close())
		if !f.base.Applying {
			continue
		}
		seen++
		again := run(t, memConfig(l.disk))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		require.NoError(t, again.known(t, "v0").sm.Wait(ctx, func(view fsm.View[fsm.ArchiveState]) bool {
			return view.Idle() && !again.known(t, "v0").facts().base.Applying
		}), l.at)
		cancel()
		require.True(t, bytes.Equal(w.at[3], baseImage(t, again.s, "v0")), l.at)
		require.Equal(t, []meta.Gid{3}, again.sameAs(t, "v0", w))
		again.stop()
	}
	assert.Greater(t, seen, 2)
}
