package archive

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire/wiretest"
)

func TestRecordedUpkeepOfNothing(t *testing.T) {
	r := run(t, testConfig(t.TempDir()))
	p := player(t, r)
	p.Play(t, "archive-apply-clear", "archive-bhash-clear", "archive-dbg-reload-metadata-clear", "archive-dbg-set-base-clear",
		"archive-dbg-set-state-clear", "archive-dbg-set-uuid-clear", "archive-del-cold-clear", "archive-disable-snapshot-clear",
		"archive-enable-snapshot-clear", "archive-gc-diff-clear", "archive-merge-clear", "archive-resize-clear",
		"archive-virt-full-scan-clear", "raw-merge-3-words", "raw-merge-bad-range", "raw-merge-bad-type",
		"raw-virt-full-scan-bad-pct", "raw-dbg-set-base-bad", "raw-dbg-set-uuid-short")
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	p.Play(t, "archive-apply-syncready", "archive-bhash-syncready", "archive-gc-diff-syncready", "archive-merge-syncready",
		"archive-resize-syncready")
}

func TestRecordedUpkeepOfStoppedVolumes(t *testing.T) {
	disk := newDisk()
	v := archivedVolume(t)
	v.state, v.size = fsm.ArchiveStopped, 18432
	v.put(t, disk, "v0")
	r := run(t, memConfig(disk))
	player(t, r).Play(t, "archive-apply-stopped", "archive-bhash-stopped", "archive-disable-snapshot-stopped", "archive-merge-stopped",
		"archive-gc-diff-stopped", "archive-resize-stopped")
	size, err := r.client().VolSize(t.Context(), "v0")
	require.NoError(t, err)
	assert.Equal(t, block.LB(10<<20/512), size)
}

func TestRecordedUpkeepWhileAStopWaits(t *testing.T) {
	disk := newDisk()
	v := archivedVolume(t)
	v.put(t, disk, "v0")
	r := run(t, memConfig(disk))
	p := player(t, r)
	end, err := r.known(t, "v0").sm.StartAction("test", fsm.Resize)
	require.NoError(t, err)
	p.Play(t, "archive-merge-while-resizing")
	end()
	tx, err := r.known(t, "v0").sm.Begin("test", fsm.ArchiveArchived, fsm.ArchiveWdiffRecv, fsm.ArchiveArchived)
	require.NoError(t, err)
	require.NoError(t, r.client().Stop(t.Context(), "v0", client.StopGraceful))
	p.Play(t, "archive-apply-stopping", "archive-merge-stopping", "archive-resize-stopping", "archive-dbg-reload-metadata-stopping",
		"archive-disable-snapshot-stopping", "archive-gc-diff-action")
	tx.Rollback()
	r.awaitState(t, "v0", fsm.ArchiveStopped)
}

// archived makes an archive on which v0 is at a full backup.
func archived(t *testing.T, seed uint64, size block.LB, change ...func(*Config)) (*rig, *world) {
	t.Helper()
	r, w := runMem(t, change...), newWorld(seed, size)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	return r, w
}

func TestRecordedUpkeep(t *testing.T) {
	r, w := archived(t, 1, 8192)
	p := player(t, r).Mask(` \d+$`, " SIZE")
	p.Play(t, "archive-apply-bad-gid")
	for range 5 {
		w.ship(t, r.addr, "v0", false)
	}
	p.Play(t, "archive-merge-none", "archive-disable-snapshot", "archive-get-restorable-disabled", "archive-get-diff-disabled",
		"archive-enable-snapshot", "archive-enable-snapshot-missing", "archive-disable-snapshot-2", "archive-merge")
	r.awaitIdle(t, "v0")
	assert.Equal(t, []meta.Gid{3, 4, 5}, r.sameAs(t, "v0", w))
	p.Play(t, "archive-get-diff-merged", "archive-merge-gid", "archive-gc-diff", "archive-dbg-reload-metadata", "archive-get-diff-merged",
		"archive-apply")
	r.awaitIdle(t, "v0")
	assert.Equal(t, []meta.Gid{3, 4, 5}, r.sameAs(t, "v0", w))
	assert.Equal(t, meta.CleanSnap(3), r.known(t, "v0").facts().base.B)

	p.Play(t, "archive-resize-same", "archive-resize", "archive-resize-zeroclear")
	r.awaitIdle(t, "v0")
	p.Play(t, "archive-resize-zeroclear-long")
	r.awaitIdle(t, "v0")
	p.Play(t, "archive-del-cold-again")
	size, err := r.client().VolSize(t.Context(), "v0")
	require.NoError(t, err)
	assert.Equal(t, block.LB(20<<20/512), size)
	player(t, r).Mask("/dev/vg0/wb_v0|DIR/v0/wb_v0", "IMAGE").Play(t, "archive-resize-shrink")
}

func TestRecordedDebugging(t *testing.T) {
	disk := newDisk()
	archivedVolume(t).put(t, disk, "v0")
	r := run(t, memConfig(disk))
	p := player(t, r)
	p.Play(t, "archive-dbg-set-state-bad", "archive-dbg-set-state-stopped")
	p.Play(t, "archive-get-state-after-dbg", "archive-dbg-set-state", "archive-dbg-set-uuid", "archive-dbg-set-base")
	want, err := meta.ParseState("<|2|-->|3,5|>-20200101000000", 0)
	require.NoError(t, err)
	s := reload(t, r)
	f, state := inspect(t, s, "v0")
	assert.Equal(t, want, f.base)
	assert.Equal(t, mustUUID(t, "000102030405060708090a0b0c0d0e0f"), f.uuid)
	assert.Equal(t, fsm.ArchiveArchived, state)
}

// TestRecordedScans: the same image gives the same bytes and hashes.
func TestRecordedScans(t *testing.T) {
	disk := newDisk()
	v := archivedVolume(t)
	v.diffs = nil
	v.put(t, disk, "v0")
	cfg := memConfig(disk)
	cfg.MaxForeground = 1
	w := &world{uuid: v.uuid, size: v.size, rnd: newWorld(1, 1).rnd, time: v.base.Timestamp, at: map[meta.Gid][]byte{}}
	whole := "archive-virt-full-scan-blockdev"
	w.image = wiretest.Scanned(recordedBytes(t, whole))
	img, err := cfg.Store.Open("v0")
	require.NoError(t, err)
	_, err = img.WriteAt(w.image, 0)
	require.NoError(t, err)
	require.NoError(t, img.Sync())
	require.NoError(t, img.Close())
	r := run(t, cfg)
	for range 2 {
		d, file := w.next(0, false)
		require.NoError(t, w.send(t.Context(), r.addr, "v0", d, file))
	}
	p := player(t, r)
	p.Play(t, "archive-bhash", "archive-bhash-bulk-size", "archive-bhash-bad-gid", "archive-bhash-too-large",
		"archive-virt-full-scan", whole, "archive-virt-full-scan-too-large")
	release, err := r.s.core.Foreground("test")
	require.NoError(t, err)
	p.Play(t, "archive-virt-full-scan-fg-limit")
	release()

	var got bytes.Buffer
	require.NoError(t, r.client().VirtualFullScan(t.Context(), "v0", 2, &got, client.ScanOptions{}))
	assert.True(t, bytes.Equal(w.image, got.Bytes()))
	hash, err := r.client().BlockHash(t.Context(), "v0", 1, client.ScanOptions{})
	require.NoError(t, err)
	assert.Equal(t, "8364ea436c9766031de3bb613a28623a", hash.String())
	_, err = r.client().BlockHash(t.Context(), "v0", 9, client.ScanOptions{})
	assert.ErrorContains(t, err, "snapshot can not be materialized:v0:|9|")
}

// recordedBytes gives a recording as arguments of wiretest.Scanned.
func recordedBytes(t *testing.T, name string) (testing.TB, []byte, []byte) {
	t.Helper()
	request, answer := wiretest.New(t, "").Recorded(t, name)
	return t, request, answer
}
