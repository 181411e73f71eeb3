package fsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func codeOf(t *testing.T, err error) walberr.Code {
	t.Helper()
	var refusal *Error
	require.ErrorAs(t, err, &refusal)
	return refusal.Code
}

func TestOneTransactionAtATime(t *testing.T) {
	m := NewArchive(ArchiveArchived, nil)
	tx, err := m.Begin("first", ArchiveArchived, ArchiveWdiffRecv, ArchiveArchived)
	require.NoError(t, err)
	_, err = m.Begin("second", ArchiveArchived, ArchiveHashSync, ArchiveArchived)
	assert.EqualError(t, err, "second:StateMachineTransaction:tryChange:already called:WdiffRecv:Archived:HashSync")
	assert.Equal(t, walberr.Conflict, codeOf(t, err))
	err = m.Set("debug", ArchiveStopped)
	assert.EqualError(t, err, "debug:StateMachineTransaction:tryChange:already called:WdiffRecv:WdiffRecv:Stopped")
	tx.Commit()

	// An ended transaction cannot touch a later one.
	later, err := m.Begin("third", ArchiveArchived, ArchiveStop, ArchiveStopped)
	require.NoError(t, err)
	tx.Rollback()
	tx.Commit()
	assert.Equal(t, ArchiveStop, m.State())
	assert.Equal(t, walberr.Internal, codeOf(t, tx.Then(ArchiveStart, ArchiveArchived)))
	later.Commit()
	assert.Equal(t, ArchiveStopped, m.State())
}

func TestThenGoesOnWithoutAnOpenMoment(t *testing.T) {
	for _, commit := range []bool{true, false} {
		var moves []string
		m := NewStorage(StorageSyncReady, func(from, to StorageState) {
			moves = append(moves, fmt.Sprintf("%s=>%s", from, to))
		})
		tx, err := m.Begin("backupClient", StorageSyncReady, StorageFullSync, StorageStopped)
		require.NoError(t, err)
		assert.Equal(t, walberr.Internal, codeOf(t, tx.Then(StorageStopTarget, StorageStopped)))
		assert.Equal(t, StorageFullSync, m.State(), "a refused Then changes nothing")
		require.NoError(t, tx.Then(StorageStartTarget, StorageTarget))
		assert.Equal(t, StorageStartTarget, m.State())
		want := []string{"SyncReady=>FullSync", "FullSync=>Stopped", "Stopped=>StartTarget"}
		if commit {
			tx.Commit()
			want = append(want, "StartTarget=>Target")
		} else {
			tx.Rollback()
			want = append(want, "StartTarget=>SyncReady")
		}
		assert.Equal(t, want, moves)
	}
}

func TestSet(t *testing.T) {
	m := NewArchive(ArchiveClear, nil)
	require.NoError(t, m.Set("h", ArchiveStopped))
	assert.Equal(t, ArchiveStopped, m.State())
	err := m.Set("c2aSetStateServer", ArchiveWdiffRecv)
	assert.EqualError(t, err, "c2aSetStateServer:bad state:WdiffRecv")
	assert.Equal(t, ArchiveStopped, m.State())
}

func TestVerifyState(t *testing.T) {
	m := NewArchive(ArchiveStopped, nil)
	assert.NoError(t, m.VerifyState("h", ArchiveArchived, ArchiveStopped))
	err := m.VerifyState("h", ArchiveActive()...)
	assert.EqualError(t, err, "h:bad state:Stopped")
	assert.Equal(t, walberr.BadState, codeOf(t, err))
	assert.EqualError(t, m.VerifyState("", ArchiveArchived), "bad state:Stopped")
}

func TestActions(t *testing.T) {
	m := NewArchive(ArchiveArchived, nil)
	require.NoError(t, m.VerifyNoAction("h"))
	endMerge, err := m.StartAction("h", Merge, ArchiveConflicts(Merge)...)
	require.NoError(t, err)
	endRestore, err := m.StartAction("h", Restore, ArchiveConflicts(Restore)...)
	require.NoError(t, err)

	_, err = m.StartAction("h", Apply, ArchiveConflicts(Apply)...)
	assert.EqualError(t, err, "h:there are running action:Restore:1")
	assert.Equal(t, walberr.Conflict, codeOf(t, err))
	assert.EqualError(t, m.VerifyNone("h", Resize, Merge), "h:there are running action:Merge:1")
	assert.NoError(t, m.VerifyNone("h"))
	assert.EqualError(t, m.VerifyNoAction("h"), "h:there are running action:Merge:1", "in the order of the status line")
	assert.Zero(t, m.Running(Apply), "a refused action is not counted")
	assert.Equal(t, 2, m.View().TotalRunning())

	endMerge()
	endMerge()
	assert.Zero(t, m.Running(Merge))
	assert.EqualError(t, m.VerifyNoAction("h"), "h:there are running action:Restore:1")
	endRestore()
	assert.True(t, m.View().Idle())
}

func TestActionsAtAProxyAreNamedByArchives(t *testing.T) {
	m := NewProxy(ProxyStarted, nil)
	var ends []func()
	for _, archive := range []Action{"a1", "a0", "a1"} {
		end, err := m.StartAction("h", archive)
		require.NoError(t, err)
		ends = append(ends, end)
	}
	assert.EqualError(t, m.VerifyNoAction("h"), "h:there are running action:a0:1")
	assert.EqualError(t, m.VerifyNone("h", "a1"), "h:there are running action:a1:2")
	for _, end := range ends {
		end()
	}
	assert.NoError(t, m.VerifyNoAction("h"))
}

func TestExclusiveActionStartsOnce(t *testing.T) {
	m := NewStorage(StorageTarget, nil)
	var started atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := m.StartAction("h", WlogSend, StorageActions()...); err == nil {
				started.Add(1)
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, 1, started.Load())
}

func TestStop(t *testing.T) {
	m := NewProxy(ProxyStarted, nil)
	assert.Equal(t, NotStopping, m.StopState())
	stop, ok := m.BeginStop(WaitingForEmpty)
	require.True(t, ok)
	_, ok = m.BeginStop(ForceStopping)
	assert.False(t, ok)
	assert.Equal(t, WaitingForEmpty, m.StopState(), "a refused stop changes nothing")
	assert.NoError(t, m.VerifyStop("h", "vol", NotStopping|WaitingForEmpty))

	stop.Become(Stopping)
	err := m.VerifyStop("h", "vol", NotStopping|WaitingForEmpty)
	assert.EqualError(t, err, "h:verifyStopState:vol:4:3")
	assert.Equal(t, walberr.Stopped, codeOf(t, err))
	stop.End()
	assert.Equal(t, NotStopping, m.StopState())

	later, ok := m.BeginStop(ForceStopping)
	require.True(t, ok)
	stop.End()
	stop.Become(Stopping)
	assert.Equal(t, ForceStopping, m.StopState(), "an ended stop cannot touch a later one")
	later.End()
}

func TestWaitIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewArchive(ArchiveArchived, nil)
		end, err := m.StartAction("h", Restore)
		require.NoError(t, err)
		tx, err := m.Begin("h", ArchiveArchived, ArchiveWdiffRecv, ArchiveArchived)
		require.NoError(t, err)

		var idle atomic.Bool
		go func() {
			assert.NoError(t, m.WaitIdle(t.Context()))
			idle.Store(true)
		}()
		synctest.Wait()
		assert.False(t, idle.Load())
		end()
		synctest.Wait()
		assert.False(t, idle.Load(), "the state is not steady")
		tx.Commit()
		synctest.Wait()
		assert.True(t, idle.Load())
	})
}

func TestWaitEndsWithTheCause(t *testing.T) {
	m := NewProxy(ProxyStarted, nil)
	cause := errors.New("the caller gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	err := m.Wait(ctx, func(v View[ProxyState]) bool { return v.State == ProxyStopped })
	assert.ErrorIs(t, err, cause)
	assert.NoError(t, m.Wait(ctx, View[ProxyState].Idle), "what holds already needs no waiting")
}

func TestEveryKindOfChangeIsTold(t *testing.T) {
	m := NewProxy(ProxyStarted, nil)
	told := func(what string, change func()) {
		_, changed := m.Watch()
		change()
		select {
		case <-changed:
		default:
			assert.Fail(t, "not told", what)
		}
	}
	var tx *Tx[ProxyState]
	var stop *Stop[ProxyState]
	var end func()
	told("begin", func() { tx, _ = m.Begin("", ProxyStarted, ProxyWlogRecv, ProxyStarted) })
	told("rollback", func() { tx.Rollback() })
	told("begin", func() { tx, _ = m.Begin("", ProxyStarted, ProxyStop, ProxyStopped) })
	told("then", func() { _ = tx.Then(ProxyStart, ProxyStarted) })
	told("commit", func() { tx.Commit() })
	told("action", func() { end, _ = m.StartAction("", "a0") })
	told("end of action", func() { end() })
	told("stop", func() { stop, _ = m.BeginStop(WaitingForEmpty) })
	told("become", func() { stop.Become(Stopping) })
	told("end of stop", func() { stop.End() })
	told("set", func() { _ = m.Set("", ProxyStopped) })

	_, changed := m.Watch()
	_ = m.Set("", ProxyStop)
	_, _ = m.Begin("", ProxyStarted, ProxyStop, ProxyStopped)
	tx.Commit()
	end()
	stop.End()
	select {
	case <-changed:
		assert.Fail(t, "told of a change that did not happen")
	default:
	}
}

// Many handlers fight over one volume; a view must be consistent at any time,
// and the one who waits for idleness must not miss it.
func TestConcurrentHandlers(t *testing.T) {
	m := NewArchive(ArchiveArchived, nil)
	var wg sync.WaitGroup
	var inside atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 200 {
				tx, err := m.Begin("h", ArchiveArchived, ArchiveWdiffRecv, ArchiveArchived)
				if err == nil {
					assert.EqualValues(t, 1, inside.Add(1))
					inside.Add(-1)
					tx.Commit()
				}
				if end, err := m.StartAction("h", Restore, Restore); err == nil {
					assert.Equal(t, 1, m.View().Running[Restore])
					end()
				}
				if err := m.WaitIdle(t.Context()); !assert.NoError(t, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	assert.True(t, m.View().Idle())
	assert.Equal(t, ArchiveArchived, m.State())
}

func TestViewIsACopy(t *testing.T) {
	m := NewProxy(ProxyStarted, nil)
	end, err := m.StartAction("h", "a0")
	require.NoError(t, err)
	view := m.View()
	view.Running["a0"] = 7
	end()
	assert.Equal(t, 7, view.TotalRunning())
	assert.Zero(t, m.Running("a0"))
	assert.Equal(t, View[ProxyState]{State: ProxyStarted, Stop: NotStopping, Running: map[Action]int{}}, m.View())
}

// TestRollbackTo: what began as Archived ends as something else when it fails.
func TestRollbackTo(t *testing.T) {
	m := NewArchive(ArchiveArchived, nil)
	tx, err := m.Begin("resync", ArchiveArchived, ArchiveStop, ArchiveStopped)
	require.NoError(t, err)
	require.NoError(t, tx.Then(ArchiveResetVol, ArchiveSyncReady))
	require.NoError(t, tx.Then(ArchiveResync, ArchiveArchived))
	assert.Equal(t, ArchiveResync, m.State())
	tx.RollbackTo(ArchiveSyncReady)
	tx.Rollback()
	assert.Equal(t, ArchiveSyncReady, m.State())
	tx, err = m.Begin("resync", ArchiveSyncReady, ArchiveResync, ArchiveArchived)
	require.NoError(t, err)
	tx.RollbackTo(ArchiveSyncReady)
	tx.Commit()
	assert.Equal(t, ArchiveArchived, m.State())
}
