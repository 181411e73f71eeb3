package archive

import (
	"bytes"
	"context"
	"errors"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// running is work that goes on at a volume until the test lets it end.
type running struct {
	release func()     // lets it end
	ended   chan error // how it ended, seen from outside
	r       *rig       // where it runs
	w       *world     // of the volume
	busy    any        // what the volume shows meanwhile: a state, or an action
}

// works are all kinds of work, each begun on an archive of its own.
var works = map[string]func(t *testing.T) *running{
	"full backup":        startBackup,
	"diff":               startDiff,
	"full replication":   startFullReplication,
	"diff replication":   startDiffReplication,
	"replication source": startReplicationSource,
	"restore":            startRestore,
}

// stuck is a storage that takes its end snapshot when it is let.
type stuck struct {
	*world
	reached, release chan struct{}
}

func (s *stuck) Snapshot(ctx context.Context) (meta.Gid, error) {
	close(s.reached)
	<-s.release
	return s.world.Snapshot(ctx)
}

func startBackup(t *testing.T) *running {
	t.Helper()
	w := newWorld(1, 64)
	s := &stuck{w, make(chan struct{}), make(chan struct{})}
	r := runMem(t)
	k := &running{release: func() { close(s.release) }, ended: make(chan error, 1), r: r, w: w, busy: fsm.ArchiveFullSync}
	c := dial(t, r.addr, "st0", wire.ProtoFullSync)
	t.Cleanup(func() { _ = c.Close() })
	go func() { k.ended <- w.backupOn(t.Context(), c, "v0", s) }()
	<-s.reached
	return k
}

func startDiff(t *testing.T) *running {
	t.Helper()
	r := runMem(t)
	w := newWorld(1, 64)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	d, file := w.next(4, false)
	c := dial(t, r.addr, "px0", wire.ProtoWdiffTransfer)
	t.Cleanup(func() { _ = c.Close() })
	wire.WdiffRequest{Volume: "v0", HostType: wire.HostProxy, UUID: w.uuid, Size: w.size, Diff: d}.Encode(c.W)
	require.NoError(t, c.Flush())
	require.Equal(t, wire.Accept, c.R.Str())
	k := &running{ended: make(chan error, 1), r: r, w: w, busy: fsm.ArchiveWdiffRecv}
	go func() { c.R.Ack(); k.ended <- c.R.Err() }()
	k.release = func() {
		f, err := wdiff.Open("diff", bytes.NewReader(file), int64(len(file)))
		require.NoError(t, err)
		p, err := f.Packs().Next(nil)
		require.NoError(t, err)
		c.W.U8(wire.CtlNext)
		c.W.U64(uint64(len(p)))
		c.W.Raw(p)
		c.W.U8(wire.CtlEnd)
		_ = c.Flush() // fails where the archive has closed
	}
	return k
}

func startFullReplication(t *testing.T) *running {
	t.Helper()
	return startReplication(t, true, false)
}

func startDiffReplication(t *testing.T) *running {
	t.Helper()
	return startReplication(t, false, false)
}

func startReplicationSource(t *testing.T) *running {
	t.Helper()
	return startReplication(t, true, true)
}

// startReplication lets a replication hang in the network.
func startReplication(t *testing.T, full, source bool) *running {
	t.Helper()
	p := newPair(t, 64, 1)
	k := &running{ended: make(chan error, 1), r: p.a1, w: p.w, busy: fsm.ArchiveFullSync, release: func() { p.link.SetRules() }}
	if !full {
		require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
		p.w.ship(t, p.a0.addr, "v0", false)
		k.busy = fsm.ArchiveReplSyncAsServer
	}
	if source {
		k.r, k.busy = p.a0, fsm.ReplSyncAsClient
	}
	seen := p.link.Bytes(simnet.ToServer)
	p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: 1 << 40, Cut: simnet.ToServer, Rate: 20 << 10})
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{Dest: p.dest(t), ByGid: true, Value: uint64(p.w.gid)}))
	require.NoError(t, p.link.Await(t.Context(), func([]simnet.Record) bool { return p.link.Bytes(simnet.ToServer) > seen+40 }))
	p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, Hang: true})
	v := p.a0.known(t, "v0")
	go func() {
		err := v.sm.WaitIdle(t.Context())
		if err == nil && v.replRuns()[0].view().State != wire.ReplDone {
			err = errors.New("the replication failed")
		}
		k.ended <- err
	}()
	return k
}

// slowStore begins restores when it is let.
type slowStore struct {
	image.Store
	once             sync.Once
	reached, release chan struct{}
}

func (s *slowStore) BeginRestore(ctx context.Context, vol string, gid meta.Gid) (image.Image, error) {
	s.once.Do(func() { close(s.reached) })
	select {
	case <-s.release:
		return s.Store.BeginRestore(ctx, vol, gid)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func startRestore(t *testing.T) *running {
	t.Helper()
	s := &slowStore{reached: make(chan struct{}), release: make(chan struct{})}
	r := runMem(t, func(c *Config) { s.Store = c.Store; c.Store = s })
	w := newWorld(1, 64)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	w.ship(t, r.addr, "v0", false)
	require.NoError(t, r.client().Restore(t.Context(), "v0", 1))
	<-s.reached
	k := &running{release: func() { close(s.release) }, ended: make(chan error, 1), r: r, w: w, busy: fsm.Restore}
	v := r.known(t, "v0")
	go func() {
		err := v.sm.WaitIdle(t.Context())
		if gids, _ := s.Restored("v0"); err == nil && len(gids) == 0 {
			err = errors.New("nothing was restored")
		}
		k.ended <- err
	}()
	return k
}

// shown demands that the volume shows what runs.
func (k *running) shown(t *testing.T) {
	t.Helper()
	k.r.await(t, "v0", func(v fsm.View[fsm.ArchiveState]) bool {
		if a, ok := k.busy.(fsm.Action); ok {
			return v.Running[a] == 1
		}
		return v.State == k.busy
	})
}

// TestGracefulStopWaits: what runs goes on to its end, nothing new begins, and
// then the volume is stopped.
func TestGracefulStopWaits(t *testing.T) {
	for name, start := range works {
		t.Run(name, func(t *testing.T) {
			k := start(t)
			k.shown(t)
			c := k.r.client()
			require.NoError(t, c.Stop(t.Context(), "v0", client.StopGraceful))
			require.ErrorContains(t, c.Stop(t.Context(), "v0", client.StopForce), "already under stopping")
			require.ErrorContains(t, k.w.backup(t.Context(), k.r.addr, "v0"), "verifyStopState:v0:4:1")
			require.ErrorContains(t, c.Restore(t.Context(), "v0", 1), "verifyStopState:v0:4:1")
			k.shown(t)
			k.release()
			require.NoError(t, <-k.ended)
			k.r.awaitState(t, "v0", fsm.ArchiveStopped)
			_, state := inspect(t, reload(t, k.r), "v0")
			assert.Equal(t, fsm.ArchiveStopped, state)
		})
	}
}

// TestForceStopBreaksOff: what runs ends, and leaves nothing behind.
func TestForceStopBreaksOff(t *testing.T) {
	for name, start := range works {
		t.Run(name, func(t *testing.T) {
			k := start(t)
			k.shown(t)
			require.NoError(t, k.r.client().Stop(t.Context(), "v0", client.StopForce))
			k.r.awaitIdle(t, "v0")
			k.r.awaitNoStop(t, "v0")
			k.release()
			require.Error(t, <-k.ended)
			want := fsm.ArchiveStopped
			if k.busy == fsm.ArchiveFullSync {
				want = fsm.ArchiveSyncReady
			}
			noTemps(t, k.r.s, "v0")
			s := reload(t, k.r)
			_, state := inspect(t, s, "v0")
			assert.Equal(t, want, state)
			if want == fsm.ArchiveStopped {
				offline(t, s, "v0", k.w)
			}
		})
	}
}

// TestShutdownBreaksOff: the same, of the whole server.
func TestShutdownBreaksOff(t *testing.T) {
	for name, start := range works {
		t.Run(name, func(t *testing.T) {
			k := start(t)
			k.shown(t)
			require.NoError(t, k.r.client().Shutdown(t.Context(), false))
			k.r.stop()
			k.release()
			require.Error(t, <-k.ended)
			noTemps(t, k.r.s, "v0")
		})
	}
}

// noTemps demands that nothing half done is left in a volume's directory.
func noTemps(t *testing.T, s *Server, vol string) {
	t.Helper()
	entries, err := s.cfg.FS.ReadDir(path.Join(memBase, vol))
	require.NoError(t, err)
	for _, e := range entries {
		assert.False(t, vfs.IsTempName(e.Name()) || strings.HasSuffix(e.Name(), "_tmp"), e.Name())
	}
}
