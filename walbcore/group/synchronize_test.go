package group

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

func TestSynchronizeInTheDocumentsOrder(t *testing.T) {
	st := newStage(t)
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	got := st.changes("stop", "archive-info", "init-vol", "replicate", "start", "kick")
	rank := map[string]int{"stop vol empty": 1, "archive-info add vol a1": 2, "init-vol vol": 3, "replicate": 4, "start vol": 5, "kick": 6}
	var order []int
	for _, c := range got {
		_, command, _ := strings.Cut(c, ": ")
		for prefix, n := range rank {
			if strings.HasPrefix(command, prefix) && !strings.HasPrefix(c, "p0: kick") && !strings.HasPrefix(c, "p1: kick") {
				order = append(order, n)
			}
		}
	}
	assert.Equal(t, []int{1, 1, 2, 2, 3, 4, 5, 5, 6}, order, "%v", got)

	assert.Equal(t, meta.Gid(3), r.Copy.Gid)
	assert.Positive(t, r.Copy.Sent)
	assert.False(t, r.Already)
	assert.Nil(t, r.First)
	assert.Empty(t, r.Warnings)
	require.Len(t, r.Pauses, 2)
	assert.Equal(t, "p0", r.Pauses[0].Proxy)
	assert.Positive(t, r.Standstill())
	assert.Contains(t, r.String(), "synchronizing, proxies stood still for ")

	assert.True(t, st.isSynchronizing(t, st.a0))
	assert.True(t, st.isSynchronizing(t, st.a1))
	st.locked(func() { st.s0.write() })
	st.eventually(t, func() bool { return st.a1.latest() == 4 }, "a1 follows with no further call")
}

func TestSynchronizeAfterReplicateSendsLittleWhileProxiesStandStill(t *testing.T) {
	st := newStage(t)
	r, err := st.g.Replicate(context.Background(), st.a0.conf, vol, st.a1.conf, true, ReplicateOptions{})
	require.NoError(t, err)
	require.NotNil(t, r.First)
	assert.Equal(t, int64(1<<20+300), r.First.Sent)
	assert.Zero(t, r.Copy.Sent)
	got := trimReplicate(st.changes("stop", "replicate"))
	assert.True(t, strings.HasPrefix(got[0], "a0: replicate"), "%v", got)
	assert.True(t, strings.HasPrefix(got[3], "a0: replicate"), "%v", got)
	assert.True(t, st.isSynchronizing(t, st.a1))
}

func TestSynchronizeWhileWritten(t *testing.T) {
	st := newStage(t)
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan struct{})
	go func() {
		defer close(written)
		for ctx.Err() == nil {
			st.locked(func() { st.s0.write() })
			sleep(ctx, time.Millisecond)
		}
	}()
	_, err := st.synchronize(context.Background(), 0)
	cancel()
	<-written
	require.NoError(t, err)
	st.eventually(t, func() bool { return st.a1.latest() == st.s0.gid && st.a0.latest() == st.s0.gid }, "both follow")
	st.locked(func() { assert.Equal(t, st.a0.snaps, st.a1.snaps, "no gap") })
}

func TestSynchronizeTwiceStopsNoProxy(t *testing.T) {
	st := newStage(t)
	_, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	st.changes()
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	assert.True(t, r.Already)
	assert.Empty(t, r.Pauses)
	assert.Empty(t, st.changes("stop", "start", "archive-info"))

	// Other options are a change, for which they stop.
	sync := DefaultSyncOpt()
	sync.Compress = compress.Opt{Type: compress.Zstd, Level: 3, CPUs: 2}
	sync.Delay = 5 * time.Second
	r, err = st.g.Synchronize(context.Background(), st.a0.conf, vol, st.a1.conf, SynchronizeOptions{Sync: &sync})
	require.NoError(t, err)
	assert.False(t, r.Already)
	assert.Len(t, r.Pauses, 2)
	assert.Len(t, st.changes("archive-info update"), 2)
	st.locked(func() {
		assert.Equal(t, wire.ArchiveInfo{
			Addr: info(st.a1.conf).Addr, Compress: sync.Compress, SendDelay: 5,
		}, st.p0.infos["a1"])
	})
	// Given no options, they stay.
	r, err = st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	assert.True(t, r.Already)
	st.locked(func() { assert.Equal(t, uint32(5), st.p1.infos["a1"].SendDelay) })
}

func TestSynchronizeLeavesAProxyStoppedOnPurpose(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.p1.state = "Stopped" })
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	require.Len(t, r.Pauses, 1)
	state, archives := st.proxyState(st.p1)
	assert.Equal(t, "Stopped", state)
	assert.ElementsMatch(t, []string{"a0", "a1"}, archives)
	assert.True(t, st.isSynchronizing(t, st.a1))
}

// TestUndoneChangeLeavesAProxyRunningThatAnotherSessionStarted: a proxy was
// stopped when looked at, by another session that starts it again meanwhile.
func TestUndoneChangeLeavesAProxyRunningThatAnotherSessionStarted(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.p1.state = "Stopped" })
	st.a0.break_(fault{match: "replicate", refuse: "disk failure", happens: func() { st.p1.state = "Started" }})
	_, err := st.synchronize(context.Background(), 0)
	require.ErrorContains(t, err, "disk failure")
	for _, p := range []*fakeProxy{st.p0, st.p1} {
		state, archives := st.proxyState(p)
		assert.Equal(t, "Started", state, p.conf.Name)
		assert.Equal(t, []string{"a0"}, archives)
	}
}

func TestSynchronizeSaysWhenAnotherSessionIsInItsWay(t *testing.T) {
	st := newStage(t)
	st.p0.break_(fault{match: "archive-info add", times: 1, refuse: "bad state:Started"})
	_, err := st.synchronize(context.Background(), 0)
	require.ErrorContains(t, err, "bad state:Started")
	assert.Contains(t, errorOf(t, err).Hint, "another session")
}

// TestSynchronizeFillsAGap: an archive that was registered without having been
// brought up to date, as a plain registration does.
func TestSynchronizeFillsAGap(t *testing.T) {
	st := newStage(t)
	require.NoError(t, st.g.StartSynchronizing(context.Background(), st.a1.conf, vol, nil))
	st.locked(func() {
		st.a1.fill(0, 1)
		st.s0.write()
	})
	st.locked(func() { assert.Equal(t, 1, st.p0.waiting()+st.p1.waiting(), "too new for a1") })
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	assert.True(t, r.Already)
	st.eventually(t, func() bool { return st.a1.latest() == 4 && st.p0.waiting()+st.p1.waiting() == 0 }, "it joins")
}

func TestSynchronizeCopiesAgainWhileTheSourceIsBehind(t *testing.T) {
	st := newStage(t)
	require.NoError(t, st.g.StartSynchronizing(context.Background(), st.a1.conf, vol, nil))
	st.locked(func() {
		st.a1.fill(0, 1)
		// What waits for a1 begins behind what the source has: the source gets the rest in a moment.
		st.p0.queue["a1"] = []meta.Diff{diff(5, 6)}
		st.p1.queue["a0"] = []meta.Diff{diff(3, 5)}
	})
	st.later(50*time.Millisecond, func() { st.p1.deliver() })
	_, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	st.locked(func() { assert.Contains(t, st.a1.snaps, meta.Gid(5)) })
}

func TestSynchronizeRefusesBeforeItTouches(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(st *stage)
		code    walberr.Code
		text    string
	}{
		{"destination down", func(st *stage) { st.a1.down = true }, walberr.Unreachable, "synchronize at a1"},
		{"a proxy down", func(st *stage) { st.p1.down = true }, walberr.Unreachable, "synchronize at p1"},
		{"a proxy that does not know the volume", func(st *stage) { st.p1.forget() }, walberr.BadState, `add_archive_to_proxy(p1, "vol", a0)`},
		{"source not synchronizing", func(st *stage) {
			delete(st.p1.infos, "a0")
			st.p1.infos["a9"] = info(st.a1.conf)
		}, walberr.BadState, "a0 is not registered there"},
		{"a stopped proxy holds diffs", func(st *stage) {
			st.p1.state = "Stopped"
			st.p1.queue["a0"] = []meta.Diff{diff(3, 4)}
		}, walberr.BadState, "holds 1 diff for a0"},
		{"another lineage", func(st *stage) {
			st.a1.fill(0, 1)
			st.a1.lineage = meta.UUID{9}
		}, walberr.DifferentUUID, "belongs to another full backup"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := newStage(t)
			st.locked(func() { c.prepare(st) })
			_, err := st.synchronize(context.Background(), 0)
			assert.Equal(t, c.code, errorOf(t, err).Code)
			require.ErrorContains(t, err, c.text)
			assert.Empty(t, st.changes())
		})
	}
}

// before is what the proxies must be again after a failure.
func (st *stage) before(t *testing.T) {
	t.Helper()
	for _, p := range []*fakeProxy{st.p0, st.p1} {
		state, archives := st.proxyState(p)
		assert.Equal(t, "Started", state, p.conf.Name)
		assert.Equal(t, []string{"a0"}, archives, p.conf.Name)
	}
	assert.False(t, st.isSynchronizing(t, st.a1))
	st.locked(func() { st.s0.write() })
	st.eventually(t, func() bool { return st.a0.latest() == st.s0.gid }, "a0 follows")
}

func TestSynchronizeFailsAtAStep(t *testing.T) {
	for _, at := range []struct{ server, command string }{
		{"p0", "stop"},
		{"p1", "stop"},
		{"p0", "archive-info add"},
		{"p1", "archive-info add"},
		{"a1", "init-vol"},
		{"a0", "replicate"},
		{"p0", "start"},
		{"p1", "start"},
	} {
		for _, f := range []fault{
			{refuse: "something:went wrong", times: 1},
			{drop: true, times: 1},
			{hang: true, times: 1},
			{doHang: true, times: 1},
		} {
			if (f.hang || f.doHang) && (at.server == "p0" || at.server == "a1") {
				continue // as at p1, and these take their time
			}
			f.match = at.command
			name := fmt.Sprintf("%s %s refuse=%t drop=%t hang=%t doHang=%t", at.server, at.command, f.refuse != "", f.drop, f.hang, f.doHang)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				st := newStage(t)
				for _, s := range st.servers {
					if s.conf.Name == at.server {
						s.break_(f)
					}
				}
				_, err := st.synchronize(context.Background(), 0)
				if err == nil {
					// A lost connection may be made good within the operation: start and replicate are asked again.
					assert.Contains(t, []string{"start", "replicate"}, at.command)
					assert.Empty(t, f.refuse)
					assert.True(t, st.isSynchronizing(t, st.a1))
					return
				}
				e := errorOf(t, err)
				assert.Equal(t, "synchronize", e.Op)
				assert.Equal(t, "vol", e.Volume)
				assert.Equal(t, at.server, e.Server)
				assert.NotEmpty(t, failureOf(t, err).Step)
				assert.Empty(t, failureOf(t, err).Debts)
				st.before(t)
			})
		}
	}
}

func TestSynchronizeCopyFails(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.fail = "no space left on device" })
	_, err := st.synchronize(context.Background(), 0)
	require.ErrorContains(t, err, "no space left on device")
	st.before(t)
	st.locked(func() { st.a0.fail = "" })
	_, err = st.synchronize(context.Background(), 0)
	require.NoError(t, err)
}

func TestSynchronizeDestinationDies(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.a0.break_(fault{match: "replicate", times: 1, happens: func() { st.later(time.Millisecond, func() { st.a1.down = true }) }})
	_, err := st.synchronize(context.Background(), 0)
	require.Error(t, err)
	assert.Contains(t, []string{"a0", "a1"}, errorOf(t, err).Server)
	st.before(t)
}

func TestSynchronizeDeadline(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.a0.stuck = true })
	began := time.Now()
	_, err := st.synchronize(context.Background(), 500*time.Millisecond)
	assert.Less(t, time.Since(began), 5*time.Second)
	e := errorOf(t, err)
	assert.Equal(t, walberr.Timeout, e.Code)
	require.ErrorContains(t, err, "(copy a0 to a1) failed")
	require.ErrorContains(t, err, "brought back: ")
	require.ErrorContains(t, err, "bring p0 back to Started with a0")
	st.before(t)
	st.locked(func() { st.a0.stuck = false })
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	assert.True(t, st.isSynchronizing(t, st.a1))
	_ = r
}

func TestSynchronizeInterruptedAnywhere(t *testing.T) {
	for _, at := range []struct{ server, command string }{
		{"p0", "stop"}, {"p1", "stop"}, {"p1", "archive-info add"}, {"a1", "init-vol"}, {"a0", "replicate"}, {"p1", "start"}, {"s0", "kick"},
	} {
		t.Run(at.server+" "+at.command, func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			ctx, interrupt := context.WithCancel(context.Background())
			defer interrupt()
			for _, s := range st.servers {
				if s.conf.Name == at.server {
					s.break_(fault{match: at.command, times: 1, happens: interrupt})
				}
			}
			_, err := st.synchronize(ctx, 0)
			if err == nil {
				return // it came too late
			}
			assert.Equal(t, walberr.Canceled, walberr.CodeOf(err))
			in := <-st.ended
			assert.Empty(t, failureOf(t, in.Err).Debts)
			st.before(t)
		})
	}
}

func TestSynchronizeInterruptedReturnsAtOnceAndTheJobGoesOn(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { // the drain hangs, since a0 takes nothing
		st.giveUp = time.Second
		st.a0.state = "WdiffRecv"
		st.p0.queue["a0"] = []meta.Diff{diff(3, 4)}
		st.s0.gid = 4
	})
	ctx, interrupt := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := st.synchronize(ctx, 0)
		result <- err
	}()
	st.eventually(t, func() bool { return st.p0.state == "WaitForEmpty" }, "p0 drains")
	interrupt()
	err := <-result
	f := failureOf(t, err)
	assert.NotZero(t, f.Job)
	require.ErrorContains(t, err, fmt.Sprintf("job %d goes on", f.Job))
	st.locked(func() { assert.Equal(t, "WaitForEmpty", st.p0.state) })
	_, err = st.synchronize(context.Background(), 0)
	assert.Equal(t, walberr.Conflict, errorOf(t, err).Code)

	in := <-st.ended
	assert.True(t, in.Detached)
	assert.Empty(t, failureOf(t, in.Err).Debts)
	st.locked(func() { st.a0.state = "Archived" })
	st.before(t)
}

// TestSynchronizeInterruptedBeforeTheStopBegins: the proxy has accepted the
// stop and still takes a log. It must not be left alone as running.
func TestSynchronizeInterruptedBeforeTheStopBegins(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() { st.p0.busy = 200 * time.Millisecond })
	ctx, interrupt := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := st.synchronize(ctx, 0)
		result <- err
	}()
	st.eventually(t, func() bool { return st.p0.stopping && st.p0.state == "Started" }, "the stop waits")
	interrupt()
	require.Error(t, <-result)
	in := <-st.ended
	assert.Empty(t, failureOf(t, in.Err).Debts)
	st.locked(func() { assert.False(t, st.p0.stopping, "the stop is over") })
	st.before(t)
}

func TestSynchronizeSeesAtOnceThatAProxyGaveUp(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.locked(func() {
		st.a0.state = "WdiffRecv"
		st.p0.queue["a0"] = []meta.Diff{diff(3, 4), diff(4, 5)}
		st.s0.gid = 5
	})
	_, err := st.synchronize(context.Background(), 0)
	e := errorOf(t, err)
	assert.Equal(t, walberr.Unavailable, e.Code)
	assert.Equal(t, "p0", e.Server)
	require.ErrorContains(t, err, "gave up the stop and runs again: 2 diffs for a0")
	st.locked(func() { st.a0.state = "Archived" })
	st.before(t)
}

func TestSynchronizeNamesWhatCouldNotBeBroughtBack(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	st.p1.break_(fault{match: "start", kill: true})
	_, err := st.synchronize(context.Background(), 0)
	f := failureOf(t, err)
	assert.Equal(t, walberr.Unreachable, walberr.CodeOf(err))
	require.Len(t, f.Debts, 1)
	assert.Equal(t, "p1", f.Debts[0].Server)
	require.ErrorContains(t, err, `when p1 answers again: del_archive_from_proxy(p1, "vol", a1), start(p1, "vol") unless it runs`)
	state, archives := st.proxyState(st.p0)
	assert.Equal(t, "Started", state)
	assert.Equal(t, []string{"a0"}, archives)

	st.p1.heal()
	require.NoError(t, st.g.DelArchiveFromProxy(context.Background(), st.p1.conf, vol, st.a1.conf, false))
	require.NoError(t, st.g.Start(context.Background(), st.p1.conf, vol))
	st.before(t)
}

func TestSynchronizeKickFailureIsAWarning(t *testing.T) {
	st := newStage(t)
	st.s0.break_(fault{match: "kick", drop: true})
	r, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	require.Len(t, r.Warnings, 1)
	assert.Contains(t, r.Warnings[0], "kick at s0")
	assert.True(t, st.isSynchronizing(t, st.a1))
}

func TestSynchronizeDryRun(t *testing.T) {
	st := newStage(t)
	var shown string
	ctx := plan.WithDryRun(context.Background(), func(p *plan.Plan) { shown = p.String() })
	_, err := st.synchronize(ctx, 0)
	require.NoError(t, err)
	assert.Empty(t, st.changes())
	assert.Equal(t, `synchronize vol:
  1. stop p0 when it is empty  [on failure: bring p0 back to Started with a0]
     stop p1 when it is empty  [on failure: bring p1 back to Started with a0]
  2. add a1 at p0
     add a1 at p1
  3. init the volume at a1  [on failure: clear the volume at a1 if nothing was copied]
  4. copy a0 to a1
  5. start p0
     start p1
  6. kick s0  [a failure is only a warning]
  7. check that a1 is synchronizing
`, shown)
}

func TestIsSynchronizing(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	assert.True(t, st.isSynchronizing(t, st.a0))
	assert.False(t, st.isSynchronizing(t, st.a1))

	st.locked(func() { st.p1.infos["a1"] = info(st.a1.conf) })
	_, err := st.g.IsSynchronizing(ctx, st.a1.conf, vol)
	require.EqualError(t, err, "is_synchronizing volume vol: a1 is registered at p1 but not at p0; "+
		"expected the same at all proxies (hint: synchronize or stop_synchronizing makes it whole)")
	assert.Equal(t, walberr.BadState, walberr.CodeOf(err))

	_, err = st.g.IsSynchronizing(ctx, st.a1.conf, "vool")
	assert.Equal(t, walberr.NotFound, walberr.CodeOf(err))
	require.ErrorContains(t, err, "did you mean vol?")

	_, err = st.g.IsSynchronizing(ctx, st.p0.conf, vol)
	require.EqualError(t, err, "is_synchronizing: argument ax: p0 is a proxy; expected an archive")

	st.locked(func() { st.p0.down = true })
	_, err = st.g.IsSynchronizing(ctx, st.a1.conf, vol)
	assert.Equal(t, walberr.Unreachable, walberr.CodeOf(err))
	assert.Equal(t, "p0", errorOf(t, err).Server)
	st.locked(func() { st.p1.down = true })
	_, err = st.g.IsSynchronizing(ctx, st.a1.conf, vol)
	assert.Equal(t, "p0, p1", errorOf(t, err).Server)

	none, err := New(Layout{Archives: []Server{st.a0.conf}}, Options{})
	require.NoError(t, err)
	_, err = none.IsSynchronizing(ctx, st.a0.conf, vol)
	assert.Equal(t, walberr.Usage, walberr.CodeOf(err))
	require.NoError(t, none.Close(ctx))
}

func TestIsSynchronizingMakesAMixedStateWhole(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.p1.infos["a1"] = info(st.a1.conf) })
	_, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	assert.True(t, st.isSynchronizing(t, st.a1))
	assert.Equal(t, []string{"p0: archive-info add vol a1"}, st.changes("archive-info"))
}

func TestStopSynchronizing(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	_, err := st.synchronize(ctx, 0)
	require.NoError(t, err)
	st.changes()
	r, err := st.g.StopSynchronizing(ctx, st.a1.conf, vol)
	require.NoError(t, err)
	assert.Equal(t, []string{"p0", "p1"}, r.Removed)
	assert.Empty(t, r.Warnings)
	got := st.changes()
	slices.Sort(got[0:2])
	slices.Sort(got[2:4])
	slices.Sort(got[4:6])
	assert.Equal(t, []string{
		"p0: stop vol force", "p1: stop vol force",
		"p0: archive-info delete vol a1", "p1: archive-info delete vol a1",
		"p0: start vol", "p1: start vol", "s0: kick",
	}, got)
	assert.False(t, st.isSynchronizing(t, st.a1))
	assert.True(t, st.isSynchronizing(t, st.a0))
	list, err := st.g.GetRestorable(ctx, st.a1.conf, vol, ExplicitOnly)
	require.NoError(t, err)
	assert.Len(t, list, 4, "it keeps its data")

	st.locked(func() { st.s0.write() })
	st.eventually(t, func() bool { return st.a0.latest() == 4 }, "a0 follows")
	st.locked(func() { assert.Equal(t, meta.Gid(3), st.a1.latest(), "a1 does not") })
	_, err = st.replicateOnce(ReplicateOptions{})
	require.NoError(t, err)
	st.locked(func() { assert.Equal(t, meta.Gid(4), st.a1.latest()) })

	st.changes()
	r, err = st.g.StopSynchronizing(ctx, st.a1.conf, vol)
	require.NoError(t, err)
	assert.Empty(t, r.Removed)
	assert.Equal(t, "was not synchronizing", r.String())
	assert.Empty(t, st.changes())

	_, err = st.g.StopSynchronizing(ctx, st.a1.conf, "vool")
	assert.Error(t, err)
}

func TestStopSynchronizingOfAProxyStoppedOnPurpose(t *testing.T) {
	st := newStage(t)
	_, err := st.synchronize(context.Background(), 0)
	require.NoError(t, err)
	st.locked(func() { st.p1.state = "Stopped" })
	_, err = st.g.StopSynchronizing(context.Background(), st.a1.conf, vol)
	require.NoError(t, err)
	state, archives := st.proxyState(st.p1)
	assert.Equal(t, "Stopped", state)
	assert.Equal(t, []string{"a0"}, archives)
}

func TestStopSynchronizingThePrimarySaysWhatIsLost(t *testing.T) {
	st := newStage(t)
	st.locked(func() {
		st.a0.state = "WdiffRecv"
		st.p0.queue["a0"] = []meta.Diff{diff(3, 4)}
	})
	r, err := st.g.StopSynchronizing(context.Background(), st.a0.conf, vol)
	require.NoError(t, err)
	text := r.String()
	assert.Contains(t, text, "1 diff that waited at p0 for a0 dropped")
	assert.Contains(t, text, "p0 has no archive left for the volume and forgot it")
	assert.Contains(t, text, "a0 is the primary")
	state, _ := st.proxyState(st.p0)
	assert.Equal(t, "Clear", state)
}

func TestStopSynchronizingFailsInTheMiddle(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("diffs lost=%t", lost), func(t *testing.T) {
			t.Parallel()
			st := newStage(t)
			_, err := st.synchronize(context.Background(), 0)
			require.NoError(t, err)
			st.p1.break_(fault{match: "start", refuse: "something:went wrong", times: 1})
			st.locked(func() {
				if lost {
					st.a1.state = "Stopped"
					st.p0.queue["a1"] = []meta.Diff{diff(3, 4)}
				}
			})
			_, err = st.g.StopSynchronizing(context.Background(), st.a1.conf, vol)
			require.Error(t, err)
			f := failureOf(t, err)
			for _, p := range []*fakeProxy{st.p0, st.p1} {
				state, _ := st.proxyState(p)
				assert.Equal(t, "Started", state)
			}
			if !lost {
				assert.Empty(t, f.Debts)
				assert.True(t, st.isSynchronizing(t, st.a1), "nothing was lost: as before")
				return
			}
			require.Len(t, f.Debts, 1)
			require.ErrorContains(t, err, "stays without 1 diff for a1, which were lost with the removal")
			_, archives := st.proxyState(st.p0)
			assert.Equal(t, []string{"a0"}, archives, "a gap is not hidden")
		})
	}
}

func TestAddAndDelArchiveAtOneProxy(t *testing.T) {
	st := newStage(t)
	ctx := context.Background()
	require.NoError(t, st.g.AddArchiveToProxy(ctx, st.p1.conf, vol, st.a1.conf, true, nil))
	state, archives := st.proxyState(st.p1)
	assert.Equal(t, "Started", state)
	assert.ElementsMatch(t, []string{"a0", "a1"}, archives)
	st.changes()
	require.NoError(t, st.g.AddArchiveToProxy(ctx, st.p1.conf, vol, st.a1.conf, true, nil))
	assert.Empty(t, st.changes(), "it is as wanted")
	require.NoError(t, st.g.DelArchiveFromProxy(ctx, st.p1.conf, vol, st.a1.conf, true))
	assert.Equal(t, []string{"p1: stop vol empty", "p1: archive-info delete vol a1", "p1: start vol"},
		st.changes("stop", "archive-info", "start"))

	st.locked(func() { st.p1.forget() })
	require.NoError(t, st.g.AddArchiveToProxy(ctx, st.p1.conf, vol, st.a0.conf, false, nil))
	state, _ = st.proxyState(st.p1)
	assert.Equal(t, "Stopped", state)
	require.NoError(t, st.g.AddArchiveToProxy(ctx, st.p1.conf, vol, st.a0.conf, true, nil))
	state, _ = st.proxyState(st.p1)
	assert.Equal(t, "Started", state)
}
