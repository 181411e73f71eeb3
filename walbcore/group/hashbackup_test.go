package group

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func (st *stage) hashBackup(opt FullBackupOptions) (BackupResult, error) {
	return st.g.HashBackup(context.Background(), st.s0.conf, vol, opt)
}

// newHashStage is a stage whose storage lost its log, with a1 synchronizing.
func newHashStage(t *testing.T) *stage {
	t.Helper()
	st := newStage(t)
	st.locked(func() {
		st.a1.fill(0, 1, 2, 3)
		st.a1.lineage = st.a0.lineage
		for _, p := range []*fakeProxy{st.p0, st.p1} {
			i := info(st.a1.conf)
			i.SendDelay = 7
			p.infos["a1"] = i
		}
		st.s0.state = "Stopped"
	})
	return st
}

func TestAHashBackupPutsTheOtherArchivesBack(t *testing.T) {
	st := newHashStage(t)
	r, err := st.hashBackup(FullBackupOptions{Bulk: 4096})
	require.NoError(t, err)
	assert.True(t, r.Waited)
	assert.GreaterOrEqual(t, r.Gid, meta.Gid(4), "the scan ended at 4; log may have come since")
	assert.Equal(t, []string{"a1"}, r.PutBack)
	assert.Empty(t, r.Warnings)
	assert.Equal(t, []string{"s0: reset-vol vol", "s0: hash-bkp vol 4096", "a1: dbg-set-uuid vol 01000000000000000000000000000000"},
		st.changes("reset-vol", "hash-bkp", "dbg-set-uuid"))
	for _, ax := range []*fakeArchive{st.a0, st.a1} {
		assert.True(t, st.isSynchronizing(t, ax))
	}
	st.locked(func() {
		assert.EqualValues(t, 7, st.p0.infos["a1"].SendDelay, "registered as before")
		assert.Equal(t, st.a0.life, st.a1.life)
	})
	for _, p := range []*fakeProxy{st.p0, st.p1} {
		state, _ := st.proxyState(p)
		assert.Equal(t, "Started", state)
	}
	st.locked(func() { st.s0.write() })
	st.eventually(t, func() bool { return st.a0.latest() == st.s0.gid && st.a1.latest() == st.s0.gid }, "both follow")
}

func TestArchivesThatCannotBePutBackAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(st *stage)
		opt     FullBackupOptions
		text    string
	}{
		"it has more than the primary": {
			prepare: func(st *stage) { st.a1.snaps = append(st.a1.snaps, 4) },
			text:    `a1 no longer synchronizing: it has |4|, which the primary never got; replicate(a0, "vol", a1, true, {do_resync=true}) compares it`,
		},
		"it is of another lineage": {
			prepare: func(st *stage) { st.a1.lineage = meta.UUID{9} },
			text:    "its data belongs to another full backup",
		},
		"it is down":   {prepare: func(st *stage) { st.a1.down = true }, text: `; replicate(a0, "vol", a1, true) makes it follow again`},
		"nobody waits": {prepare: func(*stage) {}, opt: FullBackupOptions{NoWait: true}, text: "the backup was not waited for"},
		"not in a layout": {prepare: func(st *stage) {
			for _, p := range []*fakeProxy{st.p0, st.p1} {
				p.infos["a7"] = p.infos["a1"]
				delete(p.infos, "a1")
			}
		}, text: "a7 no longer synchronizing: it is not in the layout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newHashStage(t)
			st.locked(func() { c.prepare(st) })
			r, err := st.hashBackup(c.opt)
			require.NoError(t, err)
			assert.Empty(t, r.PutBack)
			assert.Contains(t, r.String(), c.text)
			st.locked(func() { st.a1.down = false })
			assert.True(t, st.isSynchronizing(t, st.a0))
			assert.False(t, st.isSynchronizing(t, st.a1))
		})
	}
}

func TestHashBackupRefusesBeforeItTouches(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(st *stage)
		text    string
	}{
		"target":             {func(st *stage) { st.s0.state = "Target" }, `stop(s0, "vol")`},
		"nothing to compare": {func(st *stage) { st.a0.forget(); st.a0.state = "SyncReady" }, `full_backup(s0, "vol")`},
		"archive stopped":    {func(st *stage) { st.a0.state = "Stopped" }, `start(a0, "vol")`},
	} {
		t.Run(name, func(t *testing.T) {
			st := newHashStage(t)
			st.locked(func() { c.prepare(st) })
			_, err := st.hashBackup(FullBackupOptions{})
			assert.Equal(t, walberr.BadState, errorOf(t, err).Code)
			require.ErrorContains(t, err, c.text)
			assert.Empty(t, st.changes())
		})
	}
}

func TestHashBackupFailsAndBringsBack(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(st *stage)
		timeout time.Duration
		code    walberr.Code
	}{
		"it breaks": {func(st *stage) { st.s0.broken = true }, 0, walberr.Unavailable},
		"refused": {func(st *stage) {
			st.s0.faults = []*fault{{match: "hash-bkp", refuse: "backupClient:exceeds max foreground tasks:2"}}
		}, 0, walberr.Unavailable},
		"deadline": {func(st *stage) { st.s0.stuck = true }, 150 * time.Millisecond, walberr.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newHashStage(t)
			st.locked(func() {
				st.s0.state = "Standby"
				c.prepare(st)
			})
			_, err := st.hashBackup(FullBackupOptions{Timeout: c.timeout})
			assert.Equal(t, c.code, errorOf(t, err).Code)
			assert.Empty(t, failureOf(t, err).Debts, "%v", err)
			st.locked(func() {
				assert.Equal(t, "Standby", st.s0.state)
				assert.Equal(t, "Archived", st.a0.state)
			})
			for _, ax := range []*fakeArchive{st.a0, st.a1} {
				assert.True(t, st.isSynchronizing(t, ax), ax.conf.Name)
			}
		})
	}
}

// TestAResyncIsJudgedByWhatItDid: a destination of another lineage has the gid
// before the copy, too.
func TestAResyncIsJudgedByWhatItDid(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a1.fill(0, 1, 2, 3)
		st.a1.lineage = meta.UUID{9}
		st.a0.fail = "stream:read"
	})
	_, err := st.replicateOnce(ReplicateOptions{Resync: true})
	require.Error(t, err)
	_, err = st.replicateOnce(ReplicateOptions{})
	assert.Equal(t, walberr.DifferentUUID, errorOf(t, err).Code)
	require.ErrorContains(t, err, "do_resync")
}
