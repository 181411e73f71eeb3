package archive

import (
	"errors"
	"math/rand/v2"
	"path"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
)

// faults makes chosen changes of a disk fail.
type faults struct {
	mu   sync.Mutex
	hits func(op vfstest.Op, name string) bool // nil: none
}

// set chooses the changes, by the operation and the last element of the path.
func (f *faults) set(hits func(op vfstest.Op, name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hits = hits
}

func (f *faults) hook(op vfstest.Op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hits != nil && f.hits(op, path.Base(name)) {
		return syscall.EIO
	}
	return nil
}

// runFaulty runs an archive on a disk with faults, with a base image and two
// diffs in v0.
func runFaulty(t *testing.T) (*rig, *vfstest.Mem, *world, *faults) {
	t.Helper()
	fail := &faults{}
	disk := newDisk()
	fs := vfstest.Intercept(disk, fail.hook)
	r := runMem(t, func(c *Config) {
		c.FS, c.Store = fs, &memStore{fs}
	})
	w := newWorld(1, 48)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	w.ship(t, r.addr, "v0", false)
	w.ship(t, r.addr, "v0", false)
	return r, disk, w, fail
}

// TestResetThatFailsHalfWay: once the volume is said to be empty it is not
// taken for full again, and what it held does not come back in its next life.
func TestResetThatFailsHalfWay(t *testing.T) {
	for _, at := range []string{"wr_v0_1", "wb_v0"} {
		r, _, _, fail := runFaulty(t)
		c := r.client()
		require.NoError(t, c.Restore(t.Context(), "v0", 1))
		r.awaitIdle(t, "v0")
		r.halt(t, "v0", client.StopGraceful)
		fail.set(func(op vfstest.Op, name string) bool { return op == vfstest.OpRemove && name == at })
		require.ErrorContains(t, c.ResetVol(t.Context(), "v0"), "input/output error")
		require.ErrorContains(t, c.Start(t.Context(), "v0", ""), "c2aStartServer:StateMachineTransaction:bad state:SyncReady:")
		fail.set(nil)
		w := newWorld(2, 40)
		require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
		restored, err := c.Restored(t.Context(), "v0")
		require.NoError(t, err)
		assert.Empty(t, restored)
		diffs, err := c.Diffs(t.Context(), "v0", client.GidRange{})
		require.NoError(t, err)
		assert.Empty(t, diffs)
		w.ship(t, r.addr, "v0", false)
		assert.Equal(t, []meta.Gid{1}, r.sameAs(t, "v0", w))
	}
}

// TestBackupWhoseEndIsUncertain: the file `state` says Archived, but whether
// that is durable is unknown, so nobody is told. A next try that does not come
// to its end must not be found Archived.
func TestBackupWhoseEndIsUncertain(t *testing.T) {
	r, disk, _, fail := runFaulty(t)
	r.halt(t, "v0", client.StopGraceful)
	require.NoError(t, r.client().ResetVol(t.Context(), "v0"))
	// The first state that is written is SyncReady, the second one Archived.
	written := 0
	fail.set(func(op vfstest.Op, name string) bool {
		if op == vfstest.OpRename && name == fileState {
			written++
		}
		return written == 2 && op == vfstest.OpSyncDir
	})
	first := newWorld(2, 48)
	require.Error(t, first.backup(t.Context(), r.addr, "v0"))
	fail.set(nil)
	assert.Equal(t, "SyncReady", r.state(t, "v0"))

	second := newWorld(3, 48)
	s := &stuck{second, make(chan struct{}), make(chan struct{})}
	conn := dial(t, r.addr, "st0", wire.ProtoFullSync)
	ended := make(chan error, 1)
	go func() { ended <- second.backupOn(t.Context(), conn, "v0", s) }()
	<-s.reached
	found := disk.Crash(rand.New(rand.NewPCG(1, 1)))
	again, err := New(memConfig(found))
	require.NoError(t, err)
	_, state := inspect(t, again, "v0")
	assert.Equal(t, fsm.ArchiveSyncReady, state)
	require.NoError(t, again.lock.Close())
	close(s.release)
	require.NoError(t, <-ended)
	require.NoError(t, conn.Close())
}

// TestCoveredDiffsAreRemoved: a diff that a round brings takes the place of
// those that it covers.
func TestCoveredDiffsAreRemoved(t *testing.T) {
	p := newPair(t, 64, 1)
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	d2, file2 := p.w.next(4, true)
	d3, file3 := p.w.next(4, true)
	merged, err := d2.Merge(d3)
	require.NoError(t, err)
	require.NoError(t, p.w.send(t.Context(), p.a1.addr, "v0", d2, file2))
	require.NoError(t, p.w.send(t.Context(), p.a0.addr, "v0", merged, file2, file3))
	st := p.replicate(t, p.w.gid)
	require.Equal(t, wire.ReplDone, st.State, st.Error)
	diffs, err := p.a1.client().Diffs(t.Context(), "v0", client.GidRange{})
	require.NoError(t, err)
	require.Len(t, diffs, 2)
	assert.True(t, diffs[1].Same(merged))
	assert.Equal(t, []meta.Gid{1, 3}, p.a1.sameAs(t, "v0", p.w))
}

// TestFailuresOfTheDiskReachThePeer: nothing is acknowledged that is not there.
func TestFailuresOfTheDiskReachThePeer(t *testing.T) {
	for _, op := range []vfstest.Op{vfstest.OpWrite, vfstest.OpSync, vfstest.OpRename, vfstest.OpChmod, vfstest.OpSyncDir} {
		r, disk, w, fail := runFaulty(t)
		d, file := w.next(4, false)
		fail.set(func(o vfstest.Op, _ string) bool { return o == op })
		err := w.send(t.Context(), r.addr, "v0", d, file)
		fail.set(nil)
		require.Error(t, err, op)
		_, refused := errors.AsType[*wire.Refusal](err)
		assert.False(t, refused, "after accept the connection is closed")
		assert.Equal(t, meta.CleanSnap(2), r.latest(t, "v0"), op)
		found, err := New(memConfig(disk.Crash(rand.New(rand.NewPCG(1, 1)))))
		require.NoError(t, err, op)
		offline(t, found, "v0", w)
		require.NoError(t, found.lock.Close())
		require.NoError(t, w.send(t.Context(), r.addr, "v0", d, file), op)
		assert.Equal(t, []meta.Gid{1, 2, 3}, r.sameAs(t, "v0", w))
	}
}
