package archive

import (
	"log/slog"
	"path"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

func player(t *testing.T, r *rig) *wiretest.Player {
	t.Helper()
	return wiretest.New(t, r.addr).MaskTimes().Mask(`/srv/ar0|`+r.s.cfg.BaseDir, "DIR").Mask(`baseDir .*`, "baseDir DIR").
		Mask(`volumeGroup .*`, "volumeGroup VG").Mask(`(last\w+Time) \S+`, "$1 TIME")
}

// TestRecordedControl plays what the original answered about volumes that have
// no base image.
func TestRecordedControl(t *testing.T) {
	r := run(t, testConfig(t.TempDir()))
	p := player(t, r)
	p.Play(t,
		"archive-get-host-type-empty", "archive-get-state-clear", "archive-get-base-clear", "archive-get-uuid-clear",
		"archive-get-archive-uuid-clear", "archive-get-applicable-diff-clear", "archive-get-meta-snap-clear",
		"archive-get-meta-state-clear", "archive-get-diff-clear", "archive-get-num-diff-clear", "archive-get-total-diff-size-clear",
		"archive-get-exists-diff-clear", "archive-get-exists-base-image-clear", "archive-get-num-action-clear",
		"archive-get-all-actions-empty", "archive-get-base-all-empty", "archive-get-latest-snap-empty",
		"archive-get-latest-snap-clear", "archive-get-progress-clear", "archive-get-restorable-clear",
		"archive-get-restored-clear", "archive-get-cold-clear", "archive-get-ts-delta-empty",
		"archive-get-vol-empty", "archive-get-vol-size-clear", "archive-status-vol-clear",
		"archive-clear-vol-clear", "archive-reset-vol-clear", "archive-del-restored-clear", "archive-restore-clear",
		"archive-start-clear", "archive-stop-clear", "archive-stop-empty", "raw-archive-init-vol-two-words",
		"archive-init-vol")
	p.Play(t,
		"archive-get-state-syncready", "archive-get-base-syncready", "archive-get-uuid-syncready", "archive-get-archive-uuid-syncready",
		"archive-get-applicable-diff-syncready", "archive-get-meta-snap-syncready", "archive-get-meta-state-syncready",
		"archive-get-diff-syncready", "archive-get-num-diff-syncready", "archive-get-total-diff-size-syncready",
		"archive-get-exists-diff-syncready", "archive-get-exists-base-image-syncready", "archive-get-num-action-syncready",
		"archive-get-latest-snap-syncready", "archive-get-progress-syncready", "archive-get-restorable-syncready",
		"archive-get-restored-syncready", "archive-get-cold-syncready", "archive-get-vol-size-syncready", "archive-status-vol-syncready",
		"archive-restore-syncready", "archive-start-syncready", "archive-init-vol-again", "archive-stop-syncready")
	r.awaitNoStop(t, "v0")
	p.Play(t,
		"archive-init-vol-v1", "archive-reset-vol-syncready", "archive-clear-vol-syncready")
	require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
	p.Play(t, "archive-get-state-clear")
}

// TestRestart: an initialized volume is there again.
func TestRestart(t *testing.T) {
	base := t.TempDir()
	r := run(t, testConfig(base))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	_, err := New(Config{BaseDir: base, NodeID: "again", Log: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "in use")
	r.stop()
	r = run(t, testConfig(base))
	assert.Equal(t, "SyncReady", r.state(t, "v0"))
	require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
}

// recordedVolume is a volume of the recordings, as its files say.
type recordedVolume struct {
	state       fsm.ArchiveState
	base        meta.State
	uuid        meta.UUID
	archiveUUID meta.UUID
	size        block.LB // of the base image, unless the state is SyncReady
	diffs       []meta.Diff
}

func mustUUID(t *testing.T, s string) meta.UUID {
	t.Helper()
	u, err := meta.ParseUUID(s)
	require.NoError(t, err)
	return u
}

// recordedTime is a time of the recordings.
func recordedTime(t *testing.T, s string) uint64 {
	t.Helper()
	ts, err := meta.ParseTime("2026-11-23T" + s)
	require.NoError(t, err)
	return ts
}

// put writes the volume's files; those of the diffs have nothing but their size.
func (v recordedVolume) put(t *testing.T, disk *vfstest.Mem, vol string) {
	t.Helper()
	dir := path.Join(memBase, vol)
	require.NoError(t, image.Claim(disk, memBase, image.KindFiles))
	require.NoError(t, vfs.MakeDir(disk, dir))
	for name, encode := range map[string]func(w *wire.Writer){
		fileState:       func(w *wire.Writer) { w.Str(v.state.String()) },
		fileBase:        func(w *wire.Writer) { w.State(v.base) },
		fileUUID:        func(w *wire.Writer) { w.UUID(v.uuid) },
		fileArchiveUUID: func(w *wire.Writer) { w.UUID(v.archiveUUID) },
	} {
		require.NoError(t, vfs.WriteFile(disk, path.Join(dir, name), wire.Marshal(encode)))
	}
	for _, d := range v.diffs {
		require.NoError(t, vfs.WriteFile(disk, path.Join(dir, d.FileName()), make([]byte, d.Size)))
	}
	if v.state == fsm.ArchiveSyncReady {
		return
	}
	img, err := (&memStore{disk}).Create(vol, v.size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
}

func cleanDiff(b, e meta.Gid, timestamp, size uint64) meta.Diff {
	return meta.Diff{B: meta.CleanSnap(b), E: meta.CleanSnap(e), Timestamp: timestamp, Size: size}
}

// archivedVolume is the volume of the recordings named archived.
func archivedVolume(t *testing.T) recordedVolume {
	t.Helper()
	at40 := recordedTime(t, "14:40:00")
	return recordedVolume{
		state: fsm.ArchiveArchived, size: 8192,
		uuid: mustUUID(t, "b5a4d7b6f394de585cde55de830c7ead"), archiveUUID: mustUUID(t, "1ee78815ae060e53d9d8cd296e2ffa97"),
		base: meta.NewState(meta.Snap{B: 0, E: 1}, recordedTime(t, "14:39:59")),
		diffs: []meta.Diff{
			cleanDiff(0, 1, at40, 4128), cleanDiff(1, 2, at40, 4128), cleanDiff(2, 3, at40, 11712),
			cleanDiff(3, 4, at40+1, 11109), cleanDiff(4, 5, at40+5, 4128),
		},
	}
}

func TestRecordedControlOfArchivedVolumes(t *testing.T) {
	disk := newDisk()
	archivedVolume(t).put(t, disk, "v0")
	player(t, run(t, memConfig(disk))).Play(t,
		"archive-get-applicable-diff-2-archived", "archive-get-applicable-diff-archived", "archive-get-archive-uuid-archived",
		"archive-get-base-all-archived-all", "archive-get-base-archived", "archive-get-cold-archived", "archive-get-diff-0-2-archived",
		"archive-get-diff-1-archived", "archive-get-diff-archived", "archive-get-exists-base-image-archived",
		"archive-get-exists-diff-0-0-1-1-archived", "archive-get-exists-diff-7-7-9-9-archived",
		"archive-get-latest-snap-archived-all", "archive-get-latest-snap-archived", "archive-get-meta-snap-2-archived",
		"archive-get-meta-snap-archived", "archive-get-meta-state-0-2-archived", "archive-get-meta-state-0-archived",
		"archive-get-meta-state-1-2-archived", "archive-get-meta-state-1-archived",
		"archive-get-num-action-Foo-archived", "archive-get-num-action-Merge-archived", "archive-get-num-action-ReplSyncAsClient-archived",
		"archive-get-num-diff-1-3-archived", "archive-get-num-diff-archived", "archive-get-progress-archived",
		"archive-get-restorable-all-archived", "archive-get-restorable-archived",
		"archive-get-restored-archived", "archive-get-state-archived", "archive-get-total-diff-size-archived",
		"archive-get-ts-delta-archived-all", "archive-get-uuid-archived", "archive-get-vol-archived-all", "archive-get-vol-size-archived",
		"archive-status-vol-archived", "archive-clear-vol-archived", "archive-init-vol-archived", "archive-reset-vol-archived",
		"archive-start-archived", "archive-restore-bad-gid", "archive-replicate-no-server")
}

func TestRecordedControlOfStoppedVolumes(t *testing.T) {
	disk := newDisk()
	v := archivedVolume(t)
	v.state, v.size = fsm.ArchiveStopped, 18432
	v.base = meta.NewState(meta.CleanSnap(3), recordedTime(t, "14:40:00"))
	at40 := recordedTime(t, "14:40:18")
	dirty := meta.Diff{B: meta.CleanSnap(6), E: meta.Snap{B: 7, E: 8}, Timestamp: at40 + 1, Size: 143513}
	v.diffs = append(v.diffs[3:], cleanDiff(5, 6, at40, 4128), dirty, cleanDiff(7, 8, at40+1, 4128))
	v.put(t, disk, "v0")
	r := run(t, memConfig(disk))
	p := player(t, r)
	p.Play(t,
		"archive-get-base-stopped", "archive-get-exists-diff-stopped", "archive-get-latest-snap-stopped", "archive-get-restorable-stopped",
		"archive-get-restored-stopped", "archive-get-uuid-stopped", "archive-status-vol-stopped", "archive-restore-stopped",
		"archive-stop-stopped")
	r.awaitNoStop(t, "v0")
	p.Play(t, "archive-start", "archive-get-state-archived", "archive-get-diff-after-hash", "archive-get-restorable-after-hash",
		"archive-stop-force")
	r.awaitState(t, "v0", fsm.ArchiveStopped)
}

// TestRefusedQuestions: these words the original's controller does not let pass.
func TestRefusedQuestions(t *testing.T) {
	disk := newDisk()
	archivedVolume(t).put(t, disk, "v0")
	r := run(t, memConfig(disk))
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"diff", "v0", "2", "2"}, "parseVolIdAndGidRangeParamForGet:bad gid range:2:2"},
		{[]string{"diff", "v0", "x"}, "atoi::convertToUint:x"},
		{[]string{"exists-diff", "v0", "9", "9", "7", "7"}, "MetaDiff::broken progress constraint for B:|9|:|7|"},
		{[]string{"exists-diff", "v0", "9"}, "missing required params: 1 4"},
		{[]string{"meta-state", "v0", "2"}, "bad isApplying parameter. specify 0 or 1.:2"},
		{[]string{"meta-state", "v0"}, "missing required params: 0 1"},
		{[]string{"restorable", "v0", "xx"}, "parseRestorableParamForGet:bad opt:xx"},
		{[]string{"state", "v_0"}, "bad volId format: bad character:v_0:_"},
		{[]string{"state", ""}, "required parameter is empty: 0 1"},
		{[]string{"state"}, "missing required params: 0 1"},
		{[]string{"walbsh-restored-path", "v0", "3"}, "no image " + memBase + "/v0/wr_v0_3"},
	} {
		_, err := r.client().GetStrings(t.Context(), c.words[0], c.words[1:]...)
		assert.ErrorContains(t, err, c.want, "%v", c.words)
	}
}

// TestRecordedControlWhileAStopWaits plays what is answered while a stop waits
// for a running action.
func TestRecordedControlWhileAStopWaits(t *testing.T) {
	disk := newDisk()
	v := archivedVolume(t)
	v.archiveUUID, v.size, v.diffs = mustUUID(t, "fcc46cb0d3a466111591c554cbeb5bdc"), 40960, v.diffs[:4]
	v.put(t, disk, "v0")
	cfg := memConfig(disk)
	cfg.Wire.Timeout = 10 * time.Second // which the status shows
	r := run(t, cfg)
	end, err := r.known(t, "v0").sm.StartAction("test", fsm.Resize)
	require.NoError(t, err)
	require.NoError(t, r.client().Stop(t.Context(), "v0", client.StopGraceful))
	p := player(t, r)
	p.Play(t,
		"archive-status-all-stopping", "archive-status-vol-stopping", "archive-get-restorable-stopping", "archive-get-restored-stopping",
		"archive-get-num-action-resize", "archive-del-restored-stopping", "archive-restore-stopping", "archive-replicate-stopping",
		"archive-stop-again-stopping")
	assert.Equal(t, "Archived", r.state(t, "v0"), "the refused stop leaves the first one alone")
	end()
	r.awaitState(t, "v0", fsm.ArchiveStopped)
}

// TestRecordedControlOfRestores plays the life of restored images.
func TestRecordedControlOfRestores(t *testing.T) {
	r := runMem(t, func(c *Config) { c.MaxForeground = 1 })
	w := newWorld(1, 128)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range 5 {
		w.ship(t, r.addr, "v0", false)
	}
	p := player(t, r)
	p.Play(t, "archive-restore-bad-gid", "archive-restore")
	r.awaitIdle(t, "v0")
	p.Play(t, "archive-get-restored", "archive-restore-again", "archive-del-restored", "archive-del-restored-again", "archive-restore-tmp")
	r.awaitIdle(t, "v0")
	p.Play(t, "archive-get-restored-3", "archive-del-restored-3")
	release, err := r.s.core.Foreground("test")
	require.NoError(t, err)
	p.Play(t, "archive-restore-fg-limit")
	release()
	p.Play(t, "archive-restore")
	r.awaitIdle(t, "v0")
	p.Play(t, "archive-stop")
	r.awaitState(t, "v0", fsm.ArchiveStopped)
	p.Play(t, "archive-get-restored", "archive-reset-vol", "archive-get-state-syncready", "archive-status-vol-syncready", "archive-clear-vol")
	_, err = r.s.cfg.FS.Stat(path.Join(memBase, "v0"))
	require.Error(t, err, "nothing is left")
}
