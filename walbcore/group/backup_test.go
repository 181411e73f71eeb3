package group

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// newEmptyStage is a group that knows no volume.
func newEmptyStage(t *testing.T) *stage {
	t.Helper()
	st := newStage(t)
	st.locked(func() {
		st.s0.state, st.s0.gid = "Clear", 0
		st.p0.forget()
		st.p1.forget()
		st.a0.forget()
	})
	return st
}

func (st *stage) backup(ctx context.Context, opt FullBackupOptions) (BackupResult, error) {
	return st.g.FullBackup(ctx, st.s0.conf, vol, opt)
}

func TestInitAndFullBackup(t *testing.T) {
	st := newEmptyStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.InitStorage(ctx, st.s0.conf, vol, "/dev/walb/vol"))
	assert.Equal(t, []string{"s0: init-vol vol /dev/walb/vol", "s0: start vol standby"}, st.changes())
	st.locked(func() { assert.Equal(t, "Standby", st.s0.state) })

	err := st.g.InitStorage(ctx, st.s0.conf, vol, "/dev/walb/vol")
	assert.Equal(t, walberr.BadState, errorOf(t, err).Code)

	r, err := st.backup(ctx, FullBackupOptions{})
	require.NoError(t, err)
	assert.True(t, r.Waited)
	assert.Empty(t, r.Warnings)
	assert.Contains(t, r.String(), "gid ")
	assert.True(t, st.isSynchronizing(t, st.a0))
	st.locked(func() {
		assert.Equal(t, "Target", st.s0.state)
		assert.Equal(t, "Archived", st.a0.state)
	})
	st.locked(func() { st.s0.write() })
	st.eventually(t, func() bool { return st.a0.latest() == st.s0.gid }, "a0 follows")

	_, err = st.backup(ctx, FullBackupOptions{})
	assert.ErrorContains(t, err, "state Target")
}

func TestFullBackupRefusesBeforeItTouches(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(st *stage)
		code    walberr.Code
		text    string
	}{
		{"not initialized", func(st *stage) {}, walberr.NotFound, "init_storage"},
		{"target", func(st *stage) { st.s0.state = "Target" }, walberr.BadState, `stop(s0, "vol")`},
		{"archive holds one", func(st *stage) {
			st.s0.state = "Standby"
			st.a0.fill(0, 1)
		}, walberr.BadState, "it holds a backup already"},
		{"all proxies stopped", func(st *stage) {
			st.s0.state = "Standby"
			st.p0.state, st.p1.state = "Stopped", "Stopped"
		}, walberr.BadState, `start(p0, "vol")`},
		{"a proxy down", func(st *stage) {
			st.s0.state = "Standby"
			st.p1.down = true
		}, walberr.Unreachable, "p1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newEmptyStage(t)
			st.locked(func() { c.prepare(st) })
			_, err := st.backup(context.Background(), FullBackupOptions{})
			assert.Equal(t, c.code, errorOf(t, err).Code)
			require.ErrorContains(t, err, c.text)
			assert.Empty(t, st.changes())
		})
	}
}

func TestFullBackupNoWait(t *testing.T) {
	st := newEmptyStage(t)
	st.locked(func() { st.s0.state = "SyncReady" })
	r, err := st.backup(context.Background(), FullBackupOptions{NoWait: true, Bulk: 4096})
	require.NoError(t, err)
	assert.False(t, r.Waited)
	assert.Equal(t, []string{"s0: full-bkp vol 4096"}, st.changes("full-bkp"))
	assert.Contains(t, r.String(), "s0 backs up to the archive at 127.0.0.1:1:1", "the scripted storage says so")
	st.eventually(t, func() bool { return st.s0.state == "Target" }, "it goes on")
}

func TestFullBackupFailsAndBringsBack(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(st *stage)
		timeout time.Duration
		code    walberr.Code
	}{
		{"backup breaks", func(st *stage) { st.s0.broken = true }, 0, walberr.Unavailable},
		{"refused", func(st *stage) {
			st.s0.faults = []*fault{{match: "full-bkp", refuse: "backupClient:exceeds max foreground tasks:2"}}
		}, 0, walberr.Unavailable},
		{"deadline", func(st *stage) { st.s0.stuck = true }, 150 * time.Millisecond, walberr.Timeout},
		{"a proxy fails", func(st *stage) {
			st.p1.faults = []*fault{{match: "archive-info add", refuse: "something:went wrong", times: 1}}
		}, 0, walberr.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := newEmptyStage(t)
			st.locked(func() {
				st.s0.state = "Standby"
				c.prepare(st)
			})
			_, err := st.backup(context.Background(), FullBackupOptions{Timeout: c.timeout})
			assert.Equal(t, c.code, errorOf(t, err).Code)
			assert.Empty(t, failureOf(t, err).Debts, "%v", err)
			st.locked(func() {
				assert.Equal(t, "Standby", st.s0.state)
				assert.Equal(t, "Clear", st.p0.state)
				assert.Equal(t, "Clear", st.p1.state)
				assert.Equal(t, "Clear", st.a0.state)
			})
		})
	}
}

func TestFullBackupThatEndsWellWhileItIsCancelledStays(t *testing.T) {
	st := newEmptyStage(t)
	st.locked(func() {
		st.s0.state = "Standby"
		st.copying = 10 * time.Millisecond
	})
	ctx, interrupt := context.WithCancel(context.Background())
	// The answer to full-bkp is lost, and the caller leaves: the backup itself runs and ends well.
	st.s0.break_(fault{match: "full-bkp", doHang: true, times: 1, happens: func() { st.later(5*time.Millisecond, interrupt) }})
	_, err := st.backup(ctx, FullBackupOptions{})
	require.Error(t, err)
	in := <-st.ended
	for in.Op != "full_backup" {
		in = <-st.ended
	}
	st.eventually(t, func() bool { return st.s0.state == "Target" || st.s0.state == "Standby" }, "it settles")
	st.locked(func() {
		if st.s0.state == "Target" {
			assert.Equal(t, "Started", st.p0.state)
			assert.Equal(t, "Archived", st.a0.state)
			return
		}
		assert.Equal(t, "Clear", st.p0.state)
		assert.Equal(t, "Clear", st.a0.state)
	})
}

func TestFullBackupTakesOtherArchivesOutAndSaysSo(t *testing.T) {
	st := newStage(t)
	_, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	ctx := context.Background()
	require.NoError(t, st.g.Stop(ctx, st.s0.conf, vol, client.StopGraceful))
	require.NoError(t, st.g.Stop(ctx, st.a0.conf, vol, client.StopGraceful))
	require.NoError(t, st.g.Reset(ctx, st.a0.conf, vol))
	r, err := st.backup(ctx, FullBackupOptions{})
	require.NoError(t, err)
	require.Len(t, r.Warnings, 1)
	assert.Contains(t, r.Warnings[0], "a1 no longer synchronizing")
	assert.False(t, st.isSynchronizing(t, st.a1))
	assert.True(t, st.isSynchronizing(t, st.a0))
}

func TestFullBackupLetsNothingWaitFromAnOlderLife(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.s0.state = "SyncReady"
		st.a0.forget()
		st.a0.state = "SyncReady"
		st.p0.queue["a0"] = []meta.Diff{diff(0, 1)}
	})
	_, err := st.backup(context.Background(), FullBackupOptions{})
	require.NoError(t, err)
	assert.Contains(t, st.changes("archive-info delete"), "p0: archive-info delete vol a0")
	assert.True(t, st.isSynchronizing(t, st.a0))
}

func TestStopOfWhatOnlyForceEnds(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.s0.state, st.a0.state, st.s0.stuck = "SyncReady", "SyncReady", true
	})
	ctx := context.Background()
	_, err := st.backup(ctx, FullBackupOptions{NoWait: true})
	require.NoError(t, err)
	err = st.g.Stop(ctx, st.s0.conf, vol, client.StopGraceful)
	require.ErrorContains(t, err, "state FullSync")
	require.ErrorContains(t, err, "with force it is broken off")
	require.NoError(t, st.g.Stop(ctx, st.s0.conf, vol, client.StopForce))
	st.locked(func() { assert.Equal(t, "SyncReady", st.s0.state) })
	err = st.g.Stop(ctx, st.s0.conf, vol, client.StopGraceful)
	assert.ErrorContains(t, err, "nothing runs there")
}

func TestSnapshotWaitsAtTheArchives(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	_, err := st.g.Snapshot(ctx, st.s0.conf, vol, []Server{st.a0.conf, st.a1.conf}, 0)
	require.ErrorContains(t, err, "it is not synchronizing")
	assert.Empty(t, st.changes("snapshot"), "refused before it is taken")

	gid, err := st.g.Snapshot(ctx, st.s0.conf, vol, []Server{st.a0.conf}, 0)
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(4), gid)
	st.locked(func() { assert.Equal(t, gid, st.a0.latest()) })

	gid, err = st.g.SnapshotNbk(ctx, st.s0.conf, vol)
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(5), gid)
	require.NoError(t, st.g.WaitForRestorable(ctx, st.a0.conf, vol, gid, 0))

	st.locked(func() { st.a0.state = "WdiffRecv" }) // takes nothing
	gid, err = st.g.Snapshot(ctx, st.s0.conf, vol, []Server{st.a0.conf}, 200*time.Millisecond)
	assert.Equal(t, walberr.Timeout, errorOf(t, err).Code)
	assert.Equal(t, meta.Gid(6), gid, "the gid is told with the error")
	require.ErrorContains(t, err, "gid 6")

	st.locked(func() { st.a0.state = "Archived"; st.a0.fill(9) })
	err = st.g.WaitForRestorable(ctx, st.a0.conf, vol, 6, 0)
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)

	st.locked(func() { st.s0.state = "Standby" })
	_, err = st.g.Snapshot(ctx, st.s0.conf, vol, []Server{st.a0.conf}, 0)
	assert.ErrorContains(t, err, "state Standby; expected state Target")
}

func TestSnapshotBesideARunningOperation(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	done := make(chan error, 1)
	go func() {
		_, err := st.replicateOnce(ReplicateOptions{})
		done <- err
	}()
	st.eventually(t, func() bool { return st.a0.actions["ReplSyncAsClient"] == 1 }, "the copy runs")
	_, err := st.g.Snapshot(context.Background(), st.s0.conf, vol, []Server{st.a0.conf}, 0)
	require.NoError(t, err)
	st.locked(func() { st.a0.stuck = false })
	require.NoError(t, <-done)
}

func TestRestoreAndDelRestored(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	ax := st.a0.conf
	ax.Dir = "/data/a0"
	r, err := st.g.Restore(ctx, ax, vol, 2, 0)
	require.NoError(t, err)
	assert.Equal(t, Restored{Gid: 2, Name: "wr_vol_2", Path: "/data/a0/vol/wr_vol_2"}, r)
	st.locked(func() { st.a0.volumeGroup = "vg0" })
	r, err = st.g.GetRestoredPath(ctx, ax, vol, 2)
	require.NoError(t, err)
	assert.Equal(t, "/dev/vg0/wr_vol_2", r.Path, "whatever directory the layout tells")
	st.locked(func() { st.a0.volumeGroup = "" })
	_, err = st.g.Restore(ctx, ax, vol, 2, 0)
	assert.Equal(t, walberr.Conflict, errorOf(t, err).Code)
	require.ErrorContains(t, err, `del_restored(a0, "vol", 2)`)
	_, err = st.g.Restore(ctx, ax, vol, 7, 0)
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
	require.ErrorContains(t, err, "one of 0 1 2 3")
	list, err := st.g.GetRestored(ctx, ax, vol)
	require.NoError(t, err)
	assert.Equal(t, gids(2), list)

	require.NoError(t, st.g.DelRestored(ctx, ax, vol, 2))
	err = st.g.DelRestored(ctx, ax, vol, 2)
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
	_, err = st.g.GetRestored(ctx, ax, "vool")
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)

	st.locked(func() { st.a0.fail = "no space" })
	_, err = st.g.Restore(ctx, ax, vol, 1, 0)
	require.ErrorContains(t, err, "the restore ended without an image")

	st.locked(func() { st.a0.fail = "" })
	st.a0.break_(fault{match: "restore", refuse: "c2aRestoreServer:there are running action:Resize:1", times: 2})
	_, err = st.g.Restore(ctx, ax, vol, 1, 0)
	require.NoError(t, err)
}

func TestStopAndStart(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	for _, s := range []Server{st.s0.conf, st.p0.conf, st.a0.conf} {
		before, err := st.g.GetState(ctx, s, vol)
		require.NoError(t, err)
		require.NoError(t, st.g.Stop(ctx, s, vol, client.StopGraceful))
		state, err := st.g.GetState(ctx, s, vol)
		require.NoError(t, err)
		assert.Equal(t, "Stopped", state)
		st.changes()
		require.NoError(t, st.g.Stop(ctx, s, vol, client.StopForce), "stopped already")
		assert.Empty(t, st.changes())
		require.NoError(t, st.g.Start(ctx, s, vol))
		state, err = st.g.GetState(ctx, s, vol)
		require.NoError(t, err)
		assert.Equal(t, before, state)
		err = st.g.Start(ctx, s, vol)
		assert.Equal(t, walberr.BadState, errorOf(t, err).Code)
		require.ErrorContains(t, err, "it runs already")
		err = st.g.Stop(ctx, s, "vool", client.StopGraceful)
		assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
		require.ErrorContains(t, err, "did you mean vol?")
	}
	err := st.g.Stop(ctx, st.s0.conf, vol, client.StopEmpty)
	require.EqualError(t, err, `stop: argument mode: "empty" for a storage; expected graceful, force, or for a proxy empty`)
	require.NoError(t, st.g.Stop(ctx, st.p0.conf, vol, client.StopEmpty))
	before, err := st.g.StopNbk(ctx, st.p1.conf, vol, client.StopForce)
	require.NoError(t, err)
	assert.Equal(t, "Started", before)
	require.NoError(t, st.g.WaitForStopped(ctx, st.p1.conf, vol, before, 0))
}

func TestStopThatIsGivenUp(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a0.state = "WdiffRecv"
		st.p0.queue["a0"] = append(st.p0.queue["a0"], diff(3, 4))
	})
	err := st.g.Stop(context.Background(), st.p0.conf, vol, client.StopEmpty)
	assert.Equal(t, walberr.Unavailable, errorOf(t, err).Code)
	require.ErrorContains(t, err, "the stop was given up, state Started")

	// An archive in which something runs: it never begins to stop.
	err = st.g.Stop(context.Background(), st.a0.conf, vol, client.StopGraceful)
	assert.ErrorContains(t, err, "the stop was given up, state WdiffRecv")
}

func TestClearAndReset(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.Clear(ctx, st.a0.conf, vol))
	require.NoError(t, st.g.Clear(ctx, st.a0.conf, vol), "cleared already")
	require.NoError(t, st.g.Clear(ctx, st.s0.conf, vol))
	assert.Equal(t, []string{
		"a0: stop vol force", "a0: clear-vol vol",
		"s0: stop vol force", "s0: reset-vol vol", "s0: clear-vol vol",
	}, st.changes())
	err := st.g.Reset(ctx, st.a0.conf, vol)
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)

	st.locked(func() { st.a0.fill(0, 1) })
	st.a0.break_(fault{match: "clear-vol", refuse: "lv is in use"})
	err = st.g.Clear(ctx, st.a0.conf, vol)
	require.Error(t, err)
	st.locked(func() { assert.Equal(t, "Archived", st.a0.state, "it runs again") })
	err = st.g.Reset(ctx, st.a0.conf, vol)
	assert.Equal(t, walberr.BadState, errorOf(t, err).Code)
}

func TestKick(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.KickStorages(ctx))
	require.NoError(t, st.g.KickProxy(ctx, vol, st.a0.conf))
	st.locked(func() { st.p0.down = true })
	err := st.g.Kick(ctx, st.p0.conf, st.p1.conf)
	assert.Equal(t, "p0", errorOf(t, err).Server)
	assert.ElementsMatch(t, []string{
		"s0: kick", "p0: kick vol a0", "p1: kick vol a0", "p1: kick",
	}, st.changes(), "one that is down does not keep the others from it")
	assert.Error(t, st.g.Kick(ctx, st.a0.conf))
}

func TestStatus(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	s, err := st.g.Status(ctx, vol)
	require.NoError(t, err)
	require.Len(t, s.Archives, 2)
	assert.Equal(t, "Target", s.Storages[0].State)
	assert.Equal(t, int64(1536), s.Storages[0].LogUsed)
	assert.Equal(t, meta.Gid(3), s.Storages[0].LatestGid)
	require.Len(t, s.Proxies[0].Archives, 1)
	assert.Equal(t, "snappy:0:1", s.Proxies[0].Archives[0].Compress)
	assert.True(t, s.Archives[0].Synchronizing)
	assert.Equal(t, gids(0, 1, 2, 3), s.Archives[0].Restorable)
	assert.Equal(t, int64(1<<20), s.Archives[0].Size)
	assert.False(t, s.Archives[1].Synchronizing)
	assert.Equal(t, "Clear", s.Archives[1].State)
	require.NoError(t, s.Archives[1].Err)

	st.locked(func() {
		st.p0.down = true
		st.p1.infos["a1"] = info(st.a1.conf)
	})
	s, err = st.g.Status(ctx, vol)
	require.NoError(t, err)
	assert.Equal(t, walberr.Unreachable, walberr.CodeOf(s.Proxies[0].Err))
	assert.True(t, s.Archives[1].Synchronizing, "at all that answer")
	st.locked(func() { st.p0.down = false })
	s, err = st.g.Status(ctx, vol)
	require.NoError(t, err)
	assert.True(t, s.Archives[1].Partly)

	_, err = st.g.Status(ctx, "vool")
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
	names, err := st.g.Volumes(ctx)
	require.NoError(t, err)
	assert.Equal(t, []string{vol}, names)
}
