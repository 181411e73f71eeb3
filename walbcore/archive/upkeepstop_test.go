package archive

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// gate holds the first of the chosen operations up until it is opened.
type gate struct {
	op      vfstest.Op
	name    string // pattern of the last element
	passed  atomic.Bool
	reached chan struct{} // closed when it is there
	opened  chan struct{}
	open    func()
}

func newGate(op vfstest.Op, name string) *gate {
	g := &gate{op: op, name: name, reached: make(chan struct{}), opened: make(chan struct{})}
	g.open = sync.OnceFunc(func() { close(g.opened) })
	return g
}

func (g *gate) hook(op vfstest.Op, name string) error {
	if ok, err := path.Match(g.name, path.Base(name)); op == g.op && ok && err == nil && g.passed.CompareAndSwap(false, true) {
		close(g.reached)
		<-g.opened
	}
	return nil
}

// gated makes an archive whose disk has a gate, with a full backup and n
// mergeable diffs, before the gate takes effect.
func gated(t *testing.T, g *gate, n int, change ...func(*Config)) (*rig, *world) {
	t.Helper()
	disk := newDisk()
	r, w := run(t, memConfig(disk)), newWorld(21, 64)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range n {
		w.ship(t, r.addr, "v0", true)
	}
	r.stop()
	cfg := memConfig(disk)
	fs := vfstest.Intercept(disk, g.hook)
	cfg.FS, cfg.Store = fs, &memStore{fs}
	for _, f := range change {
		f(&cfg)
	}
	r = run(t, cfg)
	t.Cleanup(g.open)
	return r, w
}

// TestExclusions: what must not run beside an apply or a merge is refused, in
// the original's words; the rest is not.
func TestExclusions(t *testing.T) {
	for _, c := range []struct {
		action  string
		gate    *gate
		begin   func(c *client.Client) error
		refused []string
	}{
		{
			"Apply", newGate(vfstest.OpWrite, "wb_v0"), func(c *client.Client) error { return c.Apply(t.Context(), "v0", 3) },
			[]string{"apply", "merge", "replicate", "resize", "disable", "enable", "gc", "reload"},
		},
		{
			"Merge", newGate(vfstest.OpWrite, "tmp??????"), func(c *client.Client) error { return c.MergeGid(t.Context(), "v0", 0, 3) },
			[]string{"apply", "merge", "replicate", "disable", "enable", "gc", "reload"},
		},
	} {
		t.Run(c.action, func(t *testing.T) {
			r, w := gated(t, c.gate, 4)
			cl, ctx := r.client(), t.Context()
			require.NoError(t, c.begin(cl))
			<-c.gate.reached
			n, err := cl.NumAction(ctx, "v0", c.action)
			require.NoError(t, err)
			assert.Equal(t, uint64(1), n)
			for name, do := range map[string]func() error{
				"apply": func() error { return cl.Apply(ctx, "v0", 4) },
				"merge": func() error { return cl.MergeGid(ctx, "v0", 0, 2) },
				"replicate": func() error {
					return cl.Replicate(ctx, "v0", client.Replication{Dest: wire.Addr{Host: "127.0.0.1", Port: 1}})
				},
				"resize":  func() error { return cl.Resize(ctx, "v0", w.size+8, false) },
				"disable": func() error { return cl.DisableSnapshot(ctx, "v0", 2) },
				"enable":  func() error { return cl.EnableSnapshot(ctx, "v0", 2) },
				"gc":      func() error { return cl.GCDiff(ctx, "v0") },
				"reload":  func() error { return cl.ReloadMetadata(ctx, "v0") },
				"setbase": func() error { return cl.SetBase(ctx, "v0", meta.NewState(meta.CleanSnap(1), 1)) },
			} {
				err := do()
				if !slices.Contains(c.refused, name) && name != "setbase" && c.action == "Merge" {
					require.NoError(t, err, name)
					continue
				}
				require.ErrorContains(t, err, "there are running action:"+c.action+":1", name)
				assert.True(t, walberr.Is(err, walberr.Conflict), name)
			}
			c.gate.open()
			r.awaitIdle(t, "v0")
		})
	}
}

// TestDiffsComeInBesideAnApplyAndAMerge: receiving goes on, and what is
// received is there afterwards.
func TestDiffsComeInBesideAnApplyAndAMerge(t *testing.T) {
	for _, c := range []struct {
		name  string
		gate  *gate
		begin func(c *client.Client) error
		left  []meta.Gid
	}{
		{"apply", newGate(vfstest.OpWrite, "wb_v0"), func(c *client.Client) error { return c.Apply(t.Context(), "v0", 2) }, []meta.Gid{2, 3, 4}},
		{"merge", newGate(vfstest.OpWrite, "tmp??????"), func(c *client.Client) error { return c.MergeGid(t.Context(), "v0", 0, 3) }, []meta.Gid{3, 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, w := gated(t, c.gate, 3)
			require.NoError(t, c.begin(r.client()))
			<-c.gate.reached
			w.ship(t, r.addr, "v0", true)
			c.gate.open()
			r.awaitIdle(t, "v0")
			gids := r.sameAs(t, "v0", w)
			assert.Equal(t, c.left, gids)
		})
	}
}

// TestReadersOfAnApplyingBase: while the base image is being written, a restore
// of what lies before the target is refused, and of what lies at or behind it
// gives the right image, as do hash and scan.
func TestReadersOfAnApplyingBase(t *testing.T) {
	g := newGate(vfstest.OpWrite, "wb_v0")
	r, w := gated(t, g, 4)
	c, ctx := r.client(), t.Context()
	var hashes []string
	for gid := range meta.Gid(5) {
		h, err := c.BlockHash(ctx, "v0", gid, client.ScanOptions{Bulk: 8})
		if gid == 0 {
			continue // the base is dirty there
		}
		require.NoError(t, err)
		hashes = append(hashes, h.String())
	}
	require.NoError(t, c.Apply(ctx, "v0", 3))
	<-g.reached
	list, err := c.Restorable(ctx, "v0", true)
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.ErrorContains(t, c.Restore(ctx, "v0", 2), "verifyRestorable:bad gid to restore:v0:2")
	_, err = c.BlockHash(ctx, "v0", 2, client.ScanOptions{})
	require.ErrorContains(t, err, "can not be materialized")
	for _, gid := range []meta.Gid{3, 4} {
		h, err := c.BlockHash(ctx, "v0", gid, client.ScanOptions{Bulk: 8})
		require.NoError(t, err)
		assert.Equal(t, hashes[gid-1], h.String())
		require.NoError(t, r.s.restoreOnce(ctx, r.known(t, "v0"), gid))
		assert.True(t, bytes.Equal(w.at[gid], readImage(t, r.s, "v0", gid)))
		require.NoError(t, r.s.cfg.Store.DeleteRestored("v0", gid))
	}
	st, err := c.Actions(ctx, "v0")
	require.NoError(t, err)
	require.Equal(t, wire.ReplRunning, st[0].State)
	g.open()
	r.awaitIdle(t, "v0")
	assert.Equal(t, []meta.Gid{3, 4}, r.sameAs(t, "v0", w))
}

// TestAnApplyPassesAScan: a scan whose base image goes beyond its snapshot says
// so, and gives nothing that looks like success.
func TestAnApplyPassesAScan(t *testing.T) {
	r, w := archived(t, 22, 256)
	for range 3 {
		w.ship(t, r.addr, "v0", false)
	}
	v := r.known(t, "v0")
	sc, err := r.s.openScan(t.Context(), v, 1, w.size)
	require.NoError(t, err)
	defer func() { require.NoError(t, sc.Close()) }()
	p := make([]byte, 64*512)
	_, err = sc.next(p)
	require.NoError(t, err)
	require.NoError(t, r.client().Apply(t.Context(), "v0", 1))
	r.awaitIdle(t, "v0")
	_, err = sc.next(p)
	require.NoError(t, err, "up to the snapshot it may go")
	assert.Equal(t, w.at[1][64*512:128*512], p)
	require.NoError(t, r.client().Apply(t.Context(), "v0", 2))
	r.awaitIdle(t, "v0")
	_, err = sc.next(p)
	assert.ErrorContains(t, err, "the base image is at <|2|>")
}

// TestForceStopBreaksUpkeepOff: within a second, whatever runs; an apply leaves
// a base image that the next one completes.
func TestForceStopBreaksUpkeepOff(t *testing.T) {
	slowly := func(c *Config) { c.ApplySleepPct = 99 }
	r, w := archived(t, 23, 32<<10, slowly)
	for range 3 {
		d, file := w.next(300, true)
		require.NoError(t, w.send(t.Context(), r.addr, "v0", d, file))
	}
	c, ctx := r.client(), t.Context()
	stop := func() {
		t.Helper()
		began := time.Now()
		r.halt(t, "v0", client.StopForce)
		assert.Less(t, time.Since(began), patience/2, "it waited for the end")
		require.NoError(t, c.Start(ctx, "v0", client.RoleNone))
		r.awaitState(t, "v0", fsm.ArchiveArchived)
	}
	require.NoError(t, c.Apply(ctx, "v0", 3))
	stop()
	assert.Contains(t, r.sameAs(t, "v0", w), meta.Gid(3))

	// A scan rests most of the time, so that the stop comes in the middle.
	scanned := make(chan error, 1)
	begun := make(chan struct{}, 1)
	go func() {
		scanned <- c.VirtualFullScan(context.WithoutCancel(ctx), "v0", 3, tell{begun}, client.ScanOptions{Bulk: 1, Size: w.size, SleepPct: 99})
	}()
	<-begun
	stop()
	require.Error(t, <-scanned)

	verified := make(chan error, 1)
	begun = make(chan struct{}, 1) // the scan may have told of itself once more
	go func() {
		_, err := c.Verify(context.WithoutCancel(ctx), "v0", 1, func(uint64, uint64) {
			select {
			case begun <- struct{}{}:
			default:
			}
		})
		verified <- err
	}()
	<-begun
	stop()
	require.ErrorContains(t, <-verified, "force stopped")
	assert.Contains(t, r.sameAs(t, "v0", w), meta.Gid(3))
}

// tell is a writer that tells when something comes.
type tell struct{ begun chan<- struct{} }

func (w tell) Write(p []byte) (int, error) {
	select {
	case w.begun <- struct{}{}:
	default:
	}
	return len(p), nil
}

// TestSnapshotAppliedPastWhileItIsRestored: the copy of the base image is not
// trusted then.
func TestSnapshotAppliedPastWhileItIsRestored(t *testing.T) {
	r, w := archived(t, 24, 64)
	for range 3 {
		w.ship(t, r.addr, "v0", false)
	}
	v := r.known(t, "v0")
	require.NoError(t, v.stillHolds(v.facts().archiveUUID, 1))
	require.NoError(t, v.saveBase(meta.State{Applying: true, B: meta.Snap{B: 0, E: 1}, E: meta.CleanSnap(2), Timestamp: w.time}))
	err := v.stillHolds(v.facts().archiveUUID, 1)
	assert.True(t, walberr.Is(err, walberr.BadState), err)
	require.NoError(t, v.stillHolds(v.facts().archiveUUID, 2))
	assert.Error(t, v.stillHolds(meta.UUID{1}, 2))
}

// TestManyMergedDiffs merges more diffs than are opened at a time, and more
// than two steps take.
func TestManyMergedDiffs(t *testing.T) {
	r, w := archived(t, 25, 64, func(c *Config) { c.MaxOpen = 3 })
	for range 12 {
		w.ship(t, r.addr, "v0", true)
	}
	require.NoError(t, r.client().MergeSize(t.Context(), "v0", 1, 1<<20))
	r.awaitIdle(t, "v0")
	gids := r.sameAs(t, "v0", w)
	assert.Equal(t, []meta.Gid{1, 10, 11, 12}, gids, "nine became one")
	noTemps(t, r.s, "v0")
	require.NoError(t, r.client().Apply(t.Context(), "v0", meta.MaxGid))
	r.awaitIdle(t, "v0")
	assert.Equal(t, []meta.Gid{12}, r.sameAs(t, "v0", w))
}

// TestScanNeedsTooManyDiffs: the option MaxOpenVirt.
func TestScanNeedsTooManyDiffs(t *testing.T) {
	r, w := archived(t, 26, 64, func(c *Config) { c.MaxOpenVirt = 2 })
	for range 3 {
		w.ship(t, r.addr, "v0", false)
	}
	_, err := r.client().BlockHash(t.Context(), "v0", 2, client.ScanOptions{})
	require.NoError(t, err)
	_, err = r.client().BlockHash(t.Context(), "v0", 3, client.ScanOptions{})
	require.ErrorContains(t, err, "snapshot can not be materialized:v0:|3|")
	err = r.client().VirtualFullScan(t.Context(), "v0", 3, &bytes.Buffer{}, client.ScanOptions{Bulk: transfer.MaxBulk})
	require.Error(t, err)
	_, err = r.client().BlockHash(t.Context(), "v0", 3, client.ScanOptions{Bulk: transfer.MaxBulk + 1})
	require.True(t, walberr.Is(err, walberr.Usage), "%v", errors.Unwrap(err))
}
