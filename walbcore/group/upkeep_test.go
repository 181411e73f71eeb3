package group

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// upkeep does what an archive does with the images and diffs it has.
func (a *fakeArchive) upkeep(name string, words []string) reply {
	gid := func(i int) meta.Gid {
		g, _ := meta.ParseGid(words[i])
		return g
	}
	act := func(action string, do func()) reply {
		a.actions[action]++
		return accept(func() {
			a.w.later(3*time.Millisecond, func() {
				a.actions[action]--
				if a.fail == "" {
					do()
				}
			})
		})
	}
	switch name {
	case wire.ProtoApply:
		return act("Apply", func() {
			for len(a.snaps) > 0 && a.snaps[0] <= gid(1) {
				a.base, a.snaps = a.snaps[0], a.snaps[1:]
			}
		})
	case wire.ProtoMerge:
		return act("Merge", func() {
			a.snaps = slices.DeleteFunc(a.snaps, func(g meta.Gid) bool { return g > gid(1) && g < gid(3) })
		})
	case wire.ProtoResize:
		size, _ := block.ParseSize(words[1])
		a.size = uint64(block.FromBytes(size))
		return ok()
	case wire.ProtoDisableSnapshot, wire.ProtoEnableSnapshot:
		for i := range words[1:] {
			a.implicit[gid(i+1)] = name == wire.ProtoDisableSnapshot
		}
		return ok()
	case wire.ProtoGCDiff:
		a.garbage = nil
		return ok()
	}
	return refuse("findServerHandler:bad protocol:" + name + ":")
}

// chain is the diffs from the base to the newest snapshot.
func (a *fakeArchive) chain() []meta.Diff {
	at := a.base
	var list []meta.Diff
	for _, s := range a.snaps {
		d := diff(at, s)
		d.Mergeable = a.implicit[at]
		list, at = append(list, d), s
	}
	return list
}

// upkeepTarget answers about the base image and the diffs.
func (a *fakeArchive) upkeepTarget(target string, args []string) reply {
	diffs := append(a.chain(), a.garbage...)
	switch target {
	case wire.TargetBase:
		st := meta.NewState(meta.CleanSnap(a.base), stamp)
		return str(st.Text())
	case wire.TargetApplicableDiff:
		last := meta.MaxGid
		if len(args) > 1 {
			last, _ = meta.ParseGid(args[1])
		}
		return diffLines(slices.DeleteFunc(a.chain(), func(d meta.Diff) bool { return d.E.B > last }))
	case wire.TargetDiff:
		return diffLines(diffs)
	case wire.TargetNumDiff:
		return num(uint64(len(diffs)))
	case wire.TargetActions:
		if a.fail != "" {
			return lines([]wire.ActionStatus{{Action: "Apply", State: wire.ReplFailed, Error: a.fail}})
		}
		return vec(nil)
	}
	return refuse("runGetCommandServer:no such target:" + target)
}

func diffLines(diffs []meta.Diff) reply {
	out := make([]string, len(diffs))
	for i, d := range diffs {
		out[i] = d.Line()
	}
	return vec(out)
}

func TestApply(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	r, err := st.g.Apply(ctx, st.a0.conf, vol, 2, 0)
	require.NoError(t, err)
	assert.Equal(t, gids(0, 1), r.Lost)
	assert.Contains(t, r.String(), "base image at gid 2")
	assert.Contains(t, r.String(), "gone: 0 1")
	st.locked(func() { assert.Equal(t, meta.Gid(2), st.a0.base) })
	r, err = st.g.Apply(ctx, st.a0.conf, vol, 2, 0)
	require.NoError(t, err, "it is there already")
	assert.Empty(t, r.Lost)
	assert.Len(t, st.changes("apply"), 1)
}

func TestApplyRefusesBeforeItTouches(t *testing.T) {
	for name, c := range map[string]struct {
		gid     meta.Gid
		prepare func(st *stage)
		code    walberr.Code
		text    string
	}{
		"unknown gid":   {9, func(*stage) {}, walberr.NotFound, "one of 1 2 3"},
		"behind us":     {0, func(st *stage) { st.a0.base, st.a0.snaps = 1, gids(2, 3) }, walberr.NotFound, "beyond gid 0"},
		"not active":    {2, func(st *stage) { st.a0.state = "Stopped" }, walberr.BadState, "state Stopped"},
		"unknown":       {2, func(st *stage) { st.a0.forget() }, walberr.NotFound, "does not know this volume"},
		"nobody answer": {2, func(st *stage) { st.a0.down = true }, walberr.Unreachable, "a0"},
	} {
		t.Run(name, func(t *testing.T) {
			st := newStage(t)
			st.locked(func() { c.prepare(st) })
			_, err := st.g.Apply(context.Background(), st.a0.conf, vol, c.gid, 0)
			assert.Equal(t, c.code, errorOf(t, err).Code)
			require.ErrorContains(t, err, c.text)
			assert.Empty(t, st.changes())
		})
	}
}

func TestApplyWaitsForWhatIsInTheWay(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a0.faults = []*fault{{match: "apply", refuse: "c2aApplyServer:there are running action:Merge:1", times: 3}}
	})
	_, err := st.g.Apply(context.Background(), st.a0.conf, vol, 3, 0)
	require.NoError(t, err)
	assert.Len(t, st.changes("apply"), 4)
}

// TestApplyJoinsOneThatRuns: it is waited for, however long it takes, and not
// begun again.
func TestApplyJoinsOneThatRuns(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a0.actions["Apply"] = 1
		st.later(400*time.Millisecond, func() {
			st.a0.actions["Apply"] = 0
			st.a0.base, st.a0.snaps = 3, nil
		})
	})
	_, err := st.g.Apply(context.Background(), st.a0.conf, vol, 3, 0)
	require.NoError(t, err)
	assert.Empty(t, st.changes())
}

func TestApplyThatFails(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.fail = "the disk is broken" })
	_, err := st.g.Apply(context.Background(), st.a0.conf, vol, 3, 0)
	assert.Equal(t, walberr.Unavailable, errorOf(t, err).Code)
	require.ErrorContains(t, err, "the disk is broken")
	st.locked(func() { st.a0.original = true })
	st.g = st.newGroup(t)
	_, err = st.g.Apply(context.Background(), st.a0.conf, vol, 3, 0)
	require.ErrorContains(t, err, "the log of a0 says why")
}

func TestMerge(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	_, err := st.g.Merge(ctx, st.a0.conf, vol, 0, 3, 0)
	require.ErrorContains(t, err, "the snapshot 1 is an explicit one")
	require.ErrorContains(t, err, `disable_snapshot(a0, "vol", {1})`)
	_, err = st.g.Merge(ctx, st.a0.conf, vol, 0, 9, 0)
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
	_, err = st.g.Merge(ctx, st.a0.conf, vol, 3, 3, 0)
	assert.Equal(t, walberr.Usage, errorOf(t, err).Code)
	assert.Empty(t, st.changes())

	require.NoError(t, st.g.DisableSnapshots(ctx, st.a0.conf, vol, gids(1, 2)))
	r, err := st.g.Merge(ctx, st.a0.conf, vol, 0, 3, 0)
	require.NoError(t, err)
	assert.Equal(t, 3, r.Merged)
	assert.Equal(t, gids(1, 2), r.Lost)
	assert.Contains(t, r.String(), "3 diffs merged into 0-->3")
	r, err = st.g.Merge(ctx, st.a0.conf, vol, 0, 3, 0)
	require.NoError(t, err)
	assert.Equal(t, "0-->3 is one diff already", r.String())
	assert.Len(t, st.changes("merge"), 1)
}

func TestChangeSnapshots(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.DisableSnapshots(ctx, st.a0.conf, vol, gids(1, 2)))
	require.NoError(t, st.g.EnableSnapshots(ctx, st.a0.conf, vol, gids(2)))
	st.locked(func() { assert.Equal(t, map[meta.Gid]bool{1: true, 2: false}, st.a0.implicit) })
	err := st.g.EnableSnapshots(ctx, st.a0.conf, vol, gids(1, 3))
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
	require.ErrorContains(t, err, "no diff begins at 3")
	assert.Equal(t, walberr.Usage, errorOf(t, st.g.EnableSnapshots(ctx, st.a0.conf, vol, nil)).Code)
	assert.Len(t, st.changes("enable-snapshot"), 1, "refused before anything was sent")
}

func TestGCDiff(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.garbage = []meta.Diff{diff(7, 8), diff(8, 9)} })
	n, err := st.g.GCDiff(context.Background(), st.a0.conf, vol)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	n, err = st.g.GCDiff(context.Background(), st.a0.conf, vol)
	require.NoError(t, err)
	assert.Zero(t, n)
}

func TestResizeArchive(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.ResizeArchive(ctx, st.a0.conf, vol, 2048, false), "it has the size")
	err := st.g.ResizeArchive(ctx, st.a0.conf, vol, 1024, false)
	assert.Equal(t, walberr.Range, errorOf(t, err).Code)
	assert.Equal(t, walberr.Usage, errorOf(t, st.g.ResizeArchive(ctx, st.a0.conf, vol, 0, false)).Code)
	assert.Empty(t, st.changes())
	require.NoError(t, st.g.ResizeArchive(ctx, st.a0.conf, vol, 4096, true))
	assert.Equal(t, []string{"a0: resize vol 2m zeroclear"}, st.changes())
}

func TestVerifyNeedsAnArchiveOfOurs(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.original = true })
	_, err := st.g.Verify(context.Background(), st.a0.conf, vol, 0, 0)
	require.ErrorContains(t, err, "is an original")
	_, err = st.g.BlockHash(context.Background(), st.p0.conf, vol, 1, 0, 0)
	assert.Equal(t, walberr.Usage, errorOf(t, err).Code)
	_, err = st.g.Client(st.a0.conf).BlockHash(context.Background(), vol, 1, client.ScanOptions{SleepPct: 100})
	assert.Equal(t, walberr.Usage, errorOf(t, err).Code)
}
