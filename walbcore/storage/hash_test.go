package storage

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// hashArchive has one volume, takes hash backups of it, and says where it is.
type hashArchive struct {
	signal
	addr   wire.Addr
	image  *memImage
	latest meta.Snap
	time   uint64
	uuid   meta.UUID
	diffs  []meta.Diff // taken
	closed int         // hash backups that ended
	asked  int         // times that it was asked where it is

	// The play.
	onAccept func() error
	onBegin  func() error
	onCommit func() error
	unknown  bool // it does not know the volume
}

func newHashArchive(t *testing.T, image []byte, latest meta.Snap) *hashArchive {
	t.Helper()
	a := &hashArchive{image: &memImage{data: image}, latest: latest}
	a.addr = serve(t, wire.HostArchive, "ar0", func(s *server.Server) {
		s.HandleTransfer(wire.ProtoHashSync, func(ctx context.Context, r *server.Request) error {
			return transfer.ServeHashBackup(ctx, r.Conn, r.Reply, &hashTaken{a: a}, transfer.Options{})
		})
		s.HandleTransfer(wire.ProtoGatherLatest, func(ctx context.Context, r *server.Request) error {
			return transfer.ServeLatest(ctx, r.Conn, r.Reply, a.where)
		})
	})
	return a
}

func (a *hashArchive) where(vol string) wire.SnapshotInfo {
	info := wire.SnapshotInfo{Volume: vol, Gid: meta.MaxGid, Lsid: meta.MaxLsid}
	a.update(func() {
		a.asked++
		if !a.unknown {
			info.Gid, info.Timestamp = a.latest.B, a.time
		}
	})
	return info
}

// play runs a part of the play, outside the lock.
func (a *hashArchive) play(which *func() error) error {
	a.mu.Lock()
	f := *which
	a.mu.Unlock()
	if f == nil {
		return nil
	}
	return f()
}

func (a *hashArchive) awaitEnded(t *testing.T, n int) {
	t.Helper()
	a.await(t, "the end of the hash backup", func() bool { return a.closed >= n })
}

// hashTaken is one hash backup at a hashArchive.
type hashTaken struct {
	bytes.Buffer
	a    *hashArchive
	req  wire.FullSyncRequest
	uuid meta.UUID
	to   meta.Snap
}

func (h *hashTaken) Accept(_ context.Context, req *wire.FullSyncRequest) (meta.Snap, error) {
	h.req = *req
	return h.a.latest, h.a.play(&h.a.onAccept)
}

func (h *hashTaken) Begin(_ context.Context, uuid meta.UUID) (transfer.HashBackupSink, error) {
	h.uuid = uuid
	return h, h.a.play(&h.a.onBegin)
}

func (h *hashTaken) Old() transfer.BlockSource { return wholeImage{h.a.image} }
func (h *hashTaken) Sync() error               { return nil }

func (h *hashTaken) SetEnd(to meta.Snap) error {
	h.to = to
	return nil
}

func (h *hashTaken) Commit(ctx context.Context) error {
	f, err := wdiff.Open("taken", bytes.NewReader(h.Bytes()), int64(h.Len()))
	if err != nil {
		return err
	}
	if _, err := wdiff.Apply(ctx, f.Records(), h.a.image, wdiff.ApplyOptions{Size: h.req.Size}); err != nil {
		return err
	}
	h.a.update(func() {
		h.a.diffs = append(h.a.diffs, meta.Diff{B: h.a.latest, E: h.to, Timestamp: h.req.Timestamp})
		h.a.latest, h.a.uuid, h.a.time = h.to, h.uuid, h.req.Timestamp
	})
	return h.a.play(&h.a.onCommit)
}

func (h *hashTaken) Close() error {
	h.a.update(func() { h.a.closed++ })
	return nil
}

// wholeImage knows of no holes.
type wholeImage struct{ *memImage }

func (w wholeImage) NextData(_ context.Context, from block.LB) (block.Range, error) {
	size := block.FromBytes(int64(len(w.data)))
	return block.Range{Addr: from, Len: size - from}, nil
}

// hashGroup is a storage with an archive that has the volume as it was once.
func hashGroup(t *testing.T) (*group, *hashArchive) {
	t.Helper()
	a := newHashArchive(t, make([]byte, rigVolumeSize*block.Size), meta.Snap{B: 3, E: 5})
	g := newGroup(t, 1)
	g.rig.archive = a.addr
	g.start(t)
	require.NoError(t, g.client().InitVol(t.Context(), "v0", wdev.PathPrefix+"w0"))
	return g, a
}

func TestAHashBackupGoesOnBehindTheArchivesLatestSnapshot(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	g.write(t, 0, 1<<20)
	g.write(t, 3<<20, 4096)
	before := g.dev.Identity()
	require.NoError(t, g.client().HashBackup(t.Context(), "v0", 64<<10))
	g.await(t, fsm.StorageTarget)
	a.awaitEnded(t, 1)
	assert.NotEqual(t, before.UUID, g.dev.Identity().UUID, "a new log life")
	assert.Equal(t, g.dev.Identity().UUID, a.uuid)
	require.Len(t, a.diffs, 1)
	assert.Equal(t, "|3,5|-->|6,7|", a.diffs[0].String())
	assert.True(t, bytes.Equal(g.content(t), a.image.clone().data))
	// The log of the new life begins where the backup did.
	g.proxies[0].awaitGid(t, 7)
	first := g.proxies[0].diffs()[0]
	assert.Equal(t, meta.CleanSnap(6), first.diff.B)
	assert.Equal(t, a.uuid, first.uuid)
	g.write(t, 8192, 512)
	gid, err := g.client().Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	g.proxies[0].awaitGid(t, gid)
	assert.Equal(t, 1, g.log.count("hash-bkp succeeded:v0"))
}

// TestLogIsShippedDuringAHashBackup: what is written meanwhile goes its way.
func TestLogIsShippedDuringAHashBackup(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	g.change = func(c *Config) { c.SnapshotInterval = time.Nanosecond }
	begun, goOn := make(chan struct{}), make(chan struct{})
	a.update(func() {
		a.onBegin = func() error {
			close(begun)
			<-goOn
			return nil
		}
	})
	require.NoError(t, g.client().HashBackup(t.Context(), "v0", 0))
	<-begun
	g.awaitState(t, fsm.StorageHashSync)
	g.write(t, 4096, 8192)
	g.proxies[0].awaitTaken(t, 1)
	close(goOn)
	g.await(t, fsm.StorageTarget)
	// The scan may have passed the place before the write: then the log has it.
	var latest meta.Snap
	a.update(func() { latest = a.latest })
	g.proxies[0].awaitGid(t, latest.E)
	image := a.image.clone()
	image.apply(t, a.uuid, latest.B, latest.E, g.proxies[0].diffs())
	assert.True(t, bytes.Equal(g.content(t), image.data))
}

// awaitState waits for a state in which something may run.
func (r *rig) awaitState(t *testing.T, state fsm.StorageState) {
	t.Helper()
	require.NoError(t, r.volume(t).sm.Wait(within(t), func(v fsm.View[fsm.StorageState]) bool { return v.State == state }))
}

// TestBrokenHashBackupsCanBeRepeated: the rows of the failure atlas.
func TestBrokenHashBackupsCanBeRepeated(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		play  func(g *group, a *hashArchive)
		taken int // diffs that the archive has after the failure
	}{
		"the archive cannot begin": {play: func(_ *group, a *hashArchive) { a.onBegin = func() error { return errPlayed } }},
		"the last ack is lost":     {taken: 1, play: func(_ *group, a *hashArchive) { a.onCommit = func() error { return errPlayed } }},
		"force stopped": {play: func(g *group, a *hashArchive) {
			a.onBegin = func() error {
				_ = g.client().Stop(context.Background(), "v0", client.StopForce)
				<-time.After(50 * time.Millisecond) // so that the stop meets the scan
				return errPlayed
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, a := hashGroup(t)
			g.write(t, 0, 1<<20)
			a.update(func() { c.play(g, a) })
			require.NoError(t, g.client().HashBackup(t.Context(), "v0", 0))
			g.await(t, fsm.StorageSyncReady)
			a.update(func() { assert.Len(t, a.diffs, c.taken) })
			assert.Empty(t, g.server.tasks.List())
			a.update(func() { a.onBegin, a.onCommit = nil, nil })
			require.NoError(t, g.client().HashBackup(t.Context(), "v0", 0))
			g.await(t, fsm.StorageTarget)
			assert.True(t, bytes.Equal(g.content(t), a.image.clone().data))
			var latest meta.Gid
			a.update(func() { latest = a.latest.E })
			g.proxies[0].awaitGid(t, latest)
			// It is Target after a restart, too.
			g.stop()
			g.start(t)
			g.await(t, fsm.StorageTarget)
		})
	}
}

func TestRefusedHashBackups(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	id := g.dev.Identity()
	a.update(func() { a.onAccept = func() error { return server.Refusef("", "backupServer:bad state:SyncReady") } })
	err := g.client().HashBackup(t.Context(), "v0", 0)
	require.ErrorContains(t, err, "backupClient:not accepted by archive:ar0:backupServer:bad state:SyncReady")
	g.await(t, fsm.StorageSyncReady)
	assert.Equal(t, id, g.dev.Identity(), "the log was not reset")
	require.ErrorContains(t, g.client().HashBackup(t.Context(), "v9", 0), "bad state:Clear:SyncReady:HashSync")
	require.ErrorContains(t, g.client().HashBackup(t.Context(), "v0", 511), "parseBackupParam:too small size:511")
	player(t, g.rig).Play(t, "storage-hash-bkp-refused-by-archive")
}

// TestRecordedHashBackup plays the controls of the recordings.
func TestRecordedHashBackup(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	a.update(func() { a.latest, a.time = meta.CleanSnap(3), 1 })
	p := player(t, g.rig)
	p.Play(t, "storage-get-ts-delta-empty", "storage-set-full-scan-bps", "storage-set-full-scan-bps-K", "storage-set-full-scan-bps-0")
	p.Play(t, "storage-hash-bkp")
	g.await(t, fsm.StorageTarget)
	g.awaitFact(t, "the shipment", func() bool { return g.done(t).Gid == 5 })
	a.update(func() { a.latest, a.time = meta.CleanSnap(5), g.done(t).Timestamp })
	require.NoError(t, g.server.gather(t.Context()))
	p.Play(t, "storage-get-ts-delta")
}

func TestTsDelta(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	c := g.client()
	require.NoError(t, g.server.gather(t.Context()))
	assert.Zero(t, a.asked, "there is nothing to ask about")
	require.NoError(t, c.HashBackup(t.Context(), "v0", 0))
	g.await(t, fsm.StorageTarget)
	g.awaitFact(t, "the shipment", func() bool { return g.done(t).Gid == 7 })
	done := g.done(t)
	a.update(func() { a.latest, a.time = meta.CleanSnap(2), done.Timestamp-30 })
	require.NoError(t, g.server.gather(t.Context()))
	list, err := c.TsDeltas(t.Context())
	require.NoError(t, err)
	want := client.TsDelta{
		Volume: "v0", Dest: "ar0", Kind: "storage", DestKind: "archive", Gid: 7, Timestamp: done.Timestamp,
		DestGid: 2, DestTimestamp: done.Timestamp - 30, Delta: 30,
	}
	assert.Equal(t, []client.TsDelta{want}, list)
	// The archive does not know the volume.
	a.update(func() { a.unknown = true })
	require.NoError(t, g.server.gather(t.Context()))
	list, err = c.TsDeltas(t.Context())
	require.NoError(t, err)
	want.DestGid, want.DestTimestamp, want.Delta = meta.MaxGid, 0, 0
	assert.Equal(t, []client.TsDelta{want}, list)
	// A failure leaves what was known.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no network"))
	require.Error(t, g.server.gather(ctx))
	again, err := c.TsDeltas(t.Context())
	require.NoError(t, err)
	assert.Equal(t, list, again)
}

// TestTheScanLimitChangesWhileABackupRuns: also to none.
func TestTheScanLimitChangesWhileABackupRuns(t *testing.T) {
	t.Parallel()
	g, a := hashGroup(t)
	g.write(t, 0, 4<<20)
	c := g.client()
	require.NoError(t, c.SetFullScanBps(t.Context(), 1<<10))
	lines, err := c.Status(t.Context(), "")
	require.NoError(t, err)
	assert.Contains(t, lines, "fullScanLbPerSec 2")
	require.NoError(t, c.HashBackup(t.Context(), "v0", 0))
	g.awaitState(t, fsm.StorageHashSync)
	assert.Empty(t, a.diffs)
	require.NoError(t, c.SetFullScanBps(t.Context(), 0))
	g.await(t, fsm.StorageTarget)
	assert.Equal(t, "Invalid suffix charactor.", refusalOf(t, g.rig, wire.ProtoSetFullScan, "x")) //nolint:misspell // the original's words
}
