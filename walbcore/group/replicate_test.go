package group

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

func TestReplicateOnceToAnArchiveThatNeverSawTheVolume(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.implicit[2] = true })
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"a1: init-vol vol", "a0: replicate vol gid 3 " + st.a1.conf.Addr() + " 0 0",
	}, trimReplicate(st.changes()))
	assert.Equal(t, meta.Gid(3), c.Gid)
	assert.Equal(t, gids(0, 1, 3), c.Promised)
	assert.True(t, c.AllPromised)
	assert.Empty(t, c.Missing)
	assert.True(t, c.Counted)
	assert.Equal(t, int64(1<<20+300), c.Sent)
	assert.False(t, c.Joined)
	assert.Equal(t, "gid 3 in "+shortTime(c.Elapsed)+", 1.0 MiB sent in 4 transfers, 3 snapshots restorable", c.String())

	c, err = st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Zero(t, c.Sent, "nothing is new")

	st.locked(func() { st.s0.write() })
	c, err = st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, int64(100), c.Sent, "only what is new")
	assert.Equal(t, meta.Gid(4), c.Gid)
}

// trimReplicate makes replicate commands equal whether or not they carry the
// trailing defaults.
func trimReplicate(trace []string) []string {
	for i, c := range trace {
		if len(c) > 10 && c[4:13] == "replicate" && c[len(c)-4:] != " 0 0" {
			trace[i] = c + " 0 0"
		}
	}
	return trace
}

func TestReplicateOnceFromAnOriginalPromisesOnlyExplicitSnapshots(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a0.original = true
		st.a0.implicit[2] = true
	})
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.False(t, c.AllPromised)
	assert.Equal(t, gids(1, 3), c.Promised)
	assert.False(t, c.Counted)
	assert.Contains(t, c.String(), "only those taken on purpose")
}

func TestReplicateOnceSaysWhatIsMissing(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a1.fill(2) })
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, gids(0, 1), c.Missing)
}

func TestReplicateOnceUpToAGid(t *testing.T) {
	st := newStage(t)
	two, nine := meta.Gid(2), meta.Gid(9)
	c, err := st.replicateOnce(ReplicateOptions{Gid: &two})
	require.NoError(t, err)
	assert.Equal(t, two, c.Gid)
	assert.Equal(t, gids(0, 1, 2), c.Promised)
	st.locked(func() { assert.Equal(t, gids(1, 2), st.a1.snaps) })
	_, err = st.replicateOnce(ReplicateOptions{Gid: &nine})
	assert.Equal(t, walberr.NotFound, errorOf(t, err).Code)
}

// TestReplicateOnceWithNothingBehindTheBase: the original reports a failure
// when the source has applied everything, though all was copied.
func TestReplicateOnceWithNothingBehindTheBase(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.fill(5) })
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(5), c.Gid)
}

func TestReplicateOnceWaitsForMomentaryStates(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() {
		st.a1.fill(0, 1)
		st.a1.state = "WdiffRecv"
	})
	st.later(30*time.Millisecond, func() { st.a1.state = "Archived" })
	_, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)

	st.locked(func() { st.s0.write() })
	st.a0.break_(fault{match: "replicate", refuse: "c2aReplicateServer:exceeds max foreground tasks:2", times: 2})
	st.a1.break_(fault{match: "repl-sync3", refuse: "a2aReplSyncServer:there are running action:Restore:1", times: 2})
	_, err = st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
}

func TestReplicateOnceGivesUpOnABusyArchive(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.a1.break_(fault{match: "repl-sync3", refuse: "a2aReplSyncServer:there are running action:Restore:1"})
	_, err := st.replicateOnce(ReplicateOptions{})
	e := errorOf(t, err)
	assert.Equal(t, walberr.Conflict, e.Code)
	require.ErrorContains(t, err, "there are running action:Restore")
	st.locked(func() { assert.Equal(t, "Clear", st.a1.state, "init-vol is undone as nothing was copied") })
}

func TestReplicateOnceJoinsARunningCopy(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	gid, err := st.g.ReplicateOnceNbk(context.Background(), st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(3), gid)
	st.changes()

	_, err = st.g.ReplicateOnceNbk(context.Background(), st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	assert.Equal(t, walberr.Conflict, errorOf(t, err).Code)

	asked := 0 // once to join the copy, then to watch it
	st.a0.break_(fault{match: "get num-action", times: 2, happens: func() {
		if asked++; asked == 2 {
			st.later(time.Millisecond, func() { st.a0.stuck = false })
		}
	}})
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.True(t, c.Joined)
	assert.Empty(t, st.changes(), "no command was needed")
	assert.Positive(t, c.Sent)
	require.NoError(t, st.g.WaitForReplicated(context.Background(), st.a0.conf, vol, st.a1.conf, gid, 0))
}

func TestReplicateOnceGoesOnAfterAJoinedCopyThatFellShort(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	_, err := st.g.ReplicateOnceNbk(context.Background(), st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	require.NoError(t, err)
	st.locked(func() { st.s0.write() })
	st.later(20*time.Millisecond, func() { st.a0.stuck = false })
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(4), c.Gid)
	st.locked(func() { assert.Equal(t, meta.Gid(4), st.a1.latest()) })
}

func TestReplicateOnceTellsTheRealError(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.fail = "verifyVolumeSize:volume size is smaller than the received size:vol:8:4" })
	_, err := st.replicateOnce(ReplicateOptions{})
	require.ErrorContains(t, err, "volume size is smaller")
	assert.Equal(t, "a0", errorOf(t, err).Server)
	f := failureOf(t, err)
	assert.Equal(t, "copy a0 to a1", f.Step)

	st.locked(func() { st.a0.original = true })
	g := st.newGroup(t)
	_, err = g.ReplicateOnce(context.Background(), st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	require.ErrorContains(t, err, "the copy ended with a1 in state SyncReady, gid 3 not reached")
	assert.ErrorContains(t, err, "the logs of a0 and a1 say why")
}

func TestWaitForReplicated(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	wait := func(gid meta.Gid, timeout time.Duration) error {
		return st.g.WaitForReplicated(context.Background(), st.a0.conf, vol, st.a1.conf, gid, timeout)
	}
	require.ErrorContains(t, wait(3, 0), "not reached", "nothing runs")
	st.locked(func() { st.a1.fill(3) })
	require.NoError(t, wait(3, 0))
	st.locked(func() {
		st.a0.stuck = true
		st.s0.write()
	})
	_, err := st.g.ReplicateOnceNbk(context.Background(), st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	require.NoError(t, err)
	err = wait(4, 200*time.Millisecond)
	assert.Equal(t, walberr.Timeout, errorOf(t, err).Code)
	assert.ErrorContains(t, err, "joins it")
}

func TestReplicateOnceRefusesBeforeItTouches(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(st *stage)
		call    func(st *stage) error
		code    walberr.Code
		text    string
	}{
		{"a storage as source", nil, func(st *stage) error {
			_, err := st.g.ReplicateOnce(context.Background(), st.s0.conf, vol, st.a1.conf, ReplicateOptions{})
			return err
		}, walberr.Usage, "replicate_once: argument aSrc: s0 is a storage; expected an archive"},
		{"no destination", nil, func(st *stage) error {
			_, err := st.g.ReplicateOnce(context.Background(), st.a0.conf, vol, Server{}, ReplicateOptions{})
			return err
		}, walberr.Usage, "argument aDst is missing"},
		{"to itself", nil, func(st *stage) error {
			_, err := st.g.ReplicateOnce(context.Background(), st.a0.conf, vol, st.a0.conf, ReplicateOptions{})
			return err
		}, walberr.Usage, "both a0"},
		{"bad volume name", nil, func(st *stage) error {
			_, err := st.g.ReplicateOnce(context.Background(), st.a0.conf, "bad_name", st.a1.conf, ReplicateOptions{})
			return err
		}, walberr.Usage, `argument vol: "bad_name"`},
		{"unknown volume", nil, func(st *stage) error {
			_, err := st.g.ReplicateOnce(context.Background(), st.a0.conf, "voll", st.a1.conf, ReplicateOptions{})
			return err
		}, walberr.NotFound, "replicate_once at a0 volume voll: a0 does not know this volume (hint: did you mean vol?)"},
		{"source without backup", func(st *stage) { st.a0.state = "SyncReady" }, nil, walberr.BadState, "the source is in state SyncReady"},
		{"nothing restorable", func(st *stage) { st.a0.base, st.a0.snaps = meta.MaxGid, nil }, nil, walberr.BadState, "nothing is restorable"},
		{"destination stopped", func(st *stage) {
			st.a1.fill(0, 1)
			st.a1.state = "Stopped"
		}, nil, walberr.BadState, `start(a1, "vol")`},
		{"another lineage", func(st *stage) {
			st.a1.fill(0, 1)
			st.a1.lineage = meta.UUID{9}
		}, nil, walberr.DifferentUUID, "belongs to another full backup"},
		{"too small", func(st *stage) {
			st.a1.fill(0, 1)
			st.a1.size = 1024
		}, nil, walberr.BadState, "image of 512k; expected at least 1m"},
		{"destination down", func(st *stage) { st.a1.down = true }, nil, walberr.Unreachable, "replicate_once at a1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t)
			if c.prepare != nil {
				st.locked(func() { c.prepare(st) })
			}
			call := c.call
			if call == nil {
				call = func(st *stage) error {
					_, err := st.replicateOnce(ReplicateOptions{})
					return err
				}
			}
			err := call(st)
			assert.Equal(t, c.code, errorOf(t, err).Code)
			require.ErrorContains(t, err, c.text)
			assert.NotContains(t, err.Error(), "\n")
			assert.Empty(t, st.changes())
		})
	}
}

func TestReplicateOnceInterrupted(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	ctx, interrupt := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := st.g.ReplicateOnce(ctx, st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
		result <- err
	}()
	st.eventually(t, func() bool { return st.a0.actions["ReplSyncAsClient"] == 1 }, "the copy runs")
	interrupt()
	err := <-result
	assert.Equal(t, walberr.Canceled, walberr.CodeOf(err))
	st.changes()
	st.locked(func() { assert.NotEqual(t, "Clear", st.a1.state, "a running copy is left alone") })

	<-st.ended
	asked := 0 // once to join the copy, then to watch it
	st.a0.break_(fault{match: "get num-action", times: 2, happens: func() {
		if asked++; asked == 2 {
			st.later(time.Millisecond, func() { st.a0.stuck = false })
		}
	}})
	c, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	assert.True(t, c.Joined)
}

func TestReplicateOnceDeadline(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	_, err := st.replicateOnce(ReplicateOptions{Timeout: 250 * time.Millisecond})
	assert.Equal(t, walberr.Timeout, errorOf(t, err).Code)
	assert.ErrorContains(t, err, "step 2 of 2 (copy a0 to a1) failed")
}

func TestReplicateOnceSurvivesAMomentWithoutTheSource(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.copying = 60 * time.Millisecond })
	st.a0.break_(fault{match: "get num-action", drop: true, times: 3})
	_, err := st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
}

func TestReplicateOnceSourceDies(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	st.later(30*time.Millisecond, func() { st.a0.down = true })
	_, err := st.replicateOnce(ReplicateOptions{})
	assert.Equal(t, walberr.Unreachable, errorOf(t, err).Code)
	assert.Equal(t, "a0", errorOf(t, err).Server)
}

func TestReplicateOnceDestinationDies(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.copying = 30 * time.Millisecond })
	st.a0.break_(fault{match: "replicate", times: 1, happens: func() { st.later(time.Millisecond, func() { st.a1.down = true }) }})
	_, err := st.replicateOnce(ReplicateOptions{})
	assert.Equal(t, walberr.Unreachable, errorOf(t, err).Code)
	assert.Equal(t, "a1", errorOf(t, err).Server)
}

func TestProgressOfACopy(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.copying = 30 * time.Millisecond })
	var seen []plan.Bytes
	ctx := plan.WithObserver(context.Background(), func(e plan.Event) {
		if e.Kind == plan.StepBytes {
			seen = append(seen, e.Bytes)
		}
	})
	_, err := st.g.ReplicateOnce(ctx, st.a0.conf, vol, st.a1.conf, ReplicateOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, seen)
	assert.Equal(t, int64(2048*512), seen[len(seen)-1].Total)
	assert.Equal(t, int64(1<<20), seen[len(seen)-1].Wire)
}

func TestReplicateWithoutSynchronizingIsReplicateOnce(t *testing.T) {
	st := newStage(t)
	r, err := st.g.Replicate(context.Background(), st.a0.conf, vol, st.a1.conf, false, ReplicateOptions{})
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(3), r.Copy.Gid)
	assert.False(t, st.isSynchronizing(t, st.a1))
	assert.Empty(t, st.changes("stop", "archive-info"))
}

func TestInitIsNotUndoneUnderACopyThatHasJustBegun(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	st.locked(func() {
		st.a1.state = "SyncReady"
		st.a0.actions["ReplSyncAsClient"] = 1
	})
	undo := st.g.newCopier("replicate_once", st.a0.conf, vol, st.a1.conf, ReplicateOptions{}).initStep().Undo
	require.NoError(t, undo(ctx))
	st.locked(func() {
		assert.Equal(t, "SyncReady", st.a1.state)
		st.a0.actions["ReplSyncAsClient"] = 0
	})
	require.NoError(t, undo(ctx))
	st.locked(func() { assert.Equal(t, "Clear", st.a1.state) })
	require.NoError(t, undo(ctx), "nothing is left to do")
}
