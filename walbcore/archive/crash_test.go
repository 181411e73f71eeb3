package archive

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
)

// lossyDisk is a disk in memory that keeps what would be found after a loss of
// power just before each change.
type lossyDisk struct {
	*vfstest.Mem
	acked atomic.Int64 // steps that the client knows to be done

	mu    sync.Mutex
	found []loss
}

// loss is what a loss of power left.
type loss struct {
	disk  *vfstest.Mem
	acked int64
	at    string // the change that did not come any more
}

func (d *lossyDisk) hook(op vfstest.Op, name string) error {
	if op.Changes() {
		d.mu.Lock()
		defer d.mu.Unlock()
		acked := d.acked.Load() // before the disk is looked at: it may hold more
		rnd := rand.New(rand.NewPCG(uint64(len(d.found)), 3))
		d.found = append(d.found, loss{d.Crash(rnd), acked, fmt.Sprintf("change %d, %s %s", len(d.found), op, path.Base(name))})
	}
	return nil
}

// config is that of an archive on the disk.
func (d *lossyDisk) config() Config {
	c := memConfig(d.Mem)
	fs := vfstest.Intercept(d.Mem, d.hook)
	c.FS, c.Store = fs, &memStore{fs}
	return c
}

// each starts an archive on every disk that was found, or on one of every
// step of them, and lets check judge it.
func (d *lossyDisk) each(t *testing.T, step int, check func(t *testing.T, l loss, s *Server)) {
	t.Helper()
	for i := 0; i < len(d.found); i += step {
		l := d.found[i]
		s, err := New(memConfig(l.disk))
		require.NoError(t, err, "%s, %d steps done", l.at, l.acked)
		check(t, l, s)
		require.NoError(t, s.lock.Close())
		if t.Failed() {
			require.Fail(t, l.at)
		}
	}
}

func lossless() *lossyDisk { return &lossyDisk{Mem: newDisk()} }

// life takes a volume through two lives. step is called with each step.
func life(t *testing.T, r *rig, w, w2 *world, step func(do func() error)) {
	t.Helper()
	ctx := t.Context()
	c := r.client()
	ship := func(w *world, mergeable bool) func() error {
		next := sync.OnceValues(func() (meta.Diff, []byte) { return w.next(3, mergeable) })
		return func() error {
			d, file := next()
			return w.send(t.Context(), r.addr, "v0", d, file)
		}
	}
	stop := func() error {
		if err := c.Stop(ctx, "v0", client.StopGraceful); err != nil {
			return err
		}
		r.awaitNoStop(t, "v0")
		r.awaitIdle(t, "v0")
		if state := r.state(t, "v0"); state != "Stopped" {
			return errors.New("not stopped but " + state)
		}
		return nil
	}
	restore := func() error {
		if err := c.Restore(ctx, "v0", 2); err != nil {
			return err
		}
		r.awaitIdle(t, "v0")
		gids, err := r.s.cfg.Store.Restored("v0")
		if err == nil && len(gids) == 0 {
			err = errors.New("not restored")
		}
		return err
	}
	for _, do := range []func() error{
		func() error { return c.InitVol(ctx, "v0", "") },
		func() error { return w.backup(t.Context(), r.addr, "v0") },
		ship(w, false), ship(w, true), restore,
		stop,
		func() error { return c.Start(ctx, "v0", "") },
		ship(w, false), stop,
		func() error { return c.ResetVol(ctx, "v0") },
		func() error { return w2.backup(t.Context(), r.addr, "v0") },
		ship(w2, false), stop,
		func() error { return c.ClearVol(ctx, "v0") },
	} {
		step(do)
	}
}

// The steps of life, by what is done when as many are.
const (
	didInit = iota + 1
	didBackup
	didDiff1
	didDiff2
	didRestore
	didStop
	didStart
	didDiff3
	didStop2
	didReset
	didBackup2
	didDiff4
	didStop3
	didClear
)

// TestPowerLossInALife: whenever the power goes, the archive starts again, has
// all that was acknowledged, and nothing that is half done.
func TestPowerLossInALife(t *testing.T) {
	disk := lossless()
	r := run(t, disk.config())
	w, w2 := newWorld(1, 48), newWorld(2, 40)
	base, base2 := bytes.Clone(w.image), bytes.Clone(w2.image)
	life(t, r, w, w2, func(do func() error) {
		require.NoError(t, do())
		disk.acked.Add(1)
	})
	r.stop()
	disk.each(t, 1, func(t *testing.T, l loss, s *Server) {
		t.Helper()
		f, state := inspect(t, s, "v0")
		allowed := []fsm.ArchiveState{fsm.ArchiveArchived, fsm.ArchiveStopped}
		switch n := l.acked; {
		case n < didInit:
			allowed = []fsm.ArchiveState{fsm.ArchiveClear, fsm.ArchiveSyncReady}
		case n < didBackup, n == didReset:
			allowed = []fsm.ArchiveState{fsm.ArchiveSyncReady, fsm.ArchiveArchived}
		case n == didStop2:
			allowed = []fsm.ArchiveState{fsm.ArchiveStopped, fsm.ArchiveSyncReady}
		case n == didStop3:
			allowed = []fsm.ArchiveState{fsm.ArchiveStopped, fsm.ArchiveSyncReady, fsm.ArchiveClear}
		case n >= didClear:
			allowed = []fsm.ArchiveState{fsm.ArchiveClear}
		}
		require.Contains(t, allowed, state, l.at)
		if state == fsm.ArchiveClear {
			return
		}
		noTemps(t, s, "v0")
		if state == fsm.ArchiveSyncReady {
			return
		}
		live, image := w, base
		if l.acked >= didReset || f.uuid == w2.uuid {
			live, image = w2, base2
		}
		assert.Equal(t, live.uuid, f.uuid)
		assert.True(t, bytes.Equal(image, baseImage(t, s, "v0")), "the base image")
		if l.acked >= didRestore && live == w {
			assert.True(t, bytes.Equal(w.at[2], readImage(t, s, "v0", 2)), "the restored image")
		}
		if gids, err := s.cfg.Store.Restored("v0"); assert.NoError(t, err) && len(gids) > 0 {
			require.NoError(t, s.cfg.Store.DeleteRestored("v0", 2))
		}
		gids := offline(t, s, "v0", live)
		for done, gid := range map[int64]meta.Gid{didDiff1: 1, didDiff2: 2, didDiff3: 3, didDiff4: 1} {
			if l.acked >= done && (live == w2) == (done == didDiff4) {
				assert.Contains(t, gids, gid)
			}
		}
	})
	// And it can go on from there.
	disk.each(t, 17, func(t *testing.T, _ loss, s *Server) {
		t.Helper()
		_, state := inspect(t, s, "v0")
		require.NoError(t, s.lock.Close())
		r := run(t, s.cfg)
		w := newWorld(3, 56)
		if state == fsm.ArchiveArchived {
			r.halt(t, "v0", client.StopForce)
		}
		if state != fsm.ArchiveClear {
			require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
		}
		require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
		require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
		w.ship(t, r.addr, "v0", false)
		assert.Equal(t, []meta.Gid{1}, r.sameAs(t, "v0", w))
		r.stop()
		s.lock = nopCloser{}
	})
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// TestFailingDiskInALife: every change fails once. The step is told so, and
// succeeds when it is done again.
func TestFailingDiskInALife(t *testing.T) {
	for fail := 0; ; fail += 11 {
		var mu sync.Mutex
		n, hit := 0, ""
		disk := newDisk()
		fs := vfstest.Intercept(disk, func(op vfstest.Op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			if !op.Changes() {
				return nil
			}
			if n++; n-1 == fail {
				hit = fmt.Sprintf("%s %s", op, path.Base(name))
				return syscall.EIO
			}
			return nil
		})
		cfg := memConfig(disk)
		cfg.FS, cfg.Store = fs, &memStore{fs}
		s, err := New(withListener(t, cfg))
		if err != nil {
			require.ErrorIs(t, err, syscall.EIO)
			continue
		}
		r := serve(t, s)
		w, w2, done := newWorld(1, 32), newWorld(2, 32), 0
		life(t, r, w, w2, func(do func() error) {
			twice := func(do func() error) {
				t.Helper()
				if do() == nil {
					return
				}
				err := do()
				refusal, refused := errors.AsType[*wire.Refusal](err)
				switch {
				case refused && refusal.Text == wire.TooOldDiff: // it was there already
					err = nil
				case done == didStop3 && r.state(t, "v0") == "Clear": // a remnant may be left
					err = nil
				}
				require.NoError(t, err, "again, after failure %d: %s", fail, hit)
			}
			twice(do)
			if done++; done == didDiff3 {
				twice(func() error { return s.restoreOnce(t.Context(), r.known(t, "v0"), 3) })
				for _, gid := range []meta.Gid{2, 3} {
					img, err := (&memStore{disk}).OpenRestored("v0", gid)
					require.NoError(t, err)
					require.True(t, bytes.Equal(w.at[gid], content(t, img)), "failure %d: %s", fail, hit)
				}
			}
		})
		r.stop()
		again, err := New(memConfig(disk))
		require.NoError(t, err, "failure %d: %s", fail, hit)
		require.NoError(t, again.lock.Close())
		entries, err := disk.ReadDir(memBase)
		require.NoError(t, err)
		for _, e := range entries {
			require.False(t, e.IsDir(), "failure %d: %s", fail, hit)
		}
		if hit == "" {
			return
		}
	}
}

// TestPowerLossInAReplication: whatever a loss of power leaves of a
// replication, the next one completes it.
func TestPowerLossInAReplication(t *testing.T) {
	disk := lossless()
	p := newPair(t, 256, 2, func(c *Config) {
		lossy := disk.config()
		c.FS, c.Store = lossy.FS, lossy.Store
	}, markEvery(32))
	base := baseImage(t, p.a0.s, "v0")
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	p.w.ship(t, p.a0.addr, "v0", false)
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	p.a1.stop()
	resumed := map[block.LB]bool{}
	disk.each(t, 1, func(t *testing.T, l loss, s *Server) {
		t.Helper()
		f, state := inspect(t, s, "v0")
		switch state {
		case fsm.ArchiveSyncReady:
			if f.fullRepl == nil {
				return
			}
			// What the mark vouches for is there.
			n := f.fullRepl.Progress
			resumed[n] = true
			assert.Equal(t, p.a0.known(t, "v0").facts().archiveUUID, f.archiveUUID)
			assert.True(t, bytes.Equal(base[:n.Bytes()], baseImage(t, s, "v0")[:n.Bytes()]))
		case fsm.ArchiveArchived:
			assert.True(t, bytes.Equal(base, baseImage(t, s, "v0")))
			offline(t, s, "v0", p.w)
		}
	})
	assert.Greater(t, len(resumed), 3)
	disk.each(t, 9, func(t *testing.T, _ loss, s *Server) {
		t.Helper()
		_, state := inspect(t, s, "v0")
		require.NoError(t, s.lock.Close())
		cfg := s.cfg
		cfg.NodeID = "ar1"
		p.a1 = run(t, cfg)
		p.link.SetTarget(p.a1.addr)
		if state == fsm.ArchiveClear {
			require.NoError(t, p.a1.client().InitVol(t.Context(), "v0", ""))
		}
		st := p.replicate(t, p.w.gid)
		require.Equal(t, wire.ReplDone, st.State, st.Error)
		assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)
		p.a1.stop()
		s.lock = nopCloser{}
	})
}
