package plan

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// hanging is the spec of a job whose step blocks until its context ends, and
// whose compensation blocks until release is closed or its own context ends.
func hanging(volume string, begun chan<- struct{}, release <-chan struct{}) Spec {
	return Spec{Op: "hang", Volume: volume, Build: func(context.Context) (*Plan, error) {
		return New("hang", volume).Then(Step{
			Name: "wait", Server: "a1",
			Do: func(ctx context.Context) error {
				close(begun)
				<-ctx.Done()
				return context.Cause(ctx)
			},
			UndoName: "repair p0",
			Undo: func(ctx context.Context) error {
				select {
				case <-release:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			},
		}), nil
	}}
}

func empty(op, volume string) Spec {
	return Spec{Op: op, Volume: volume, Build: func(context.Context) (*Plan, error) { return New(op, volume), nil }}
}

func TestWaiterLeavesAndTheJobGoesOn(t *testing.T) {
	ended := make(chan Info, 1)
	js := NewJobs(Options{OnEnd: func(i Info) { ended <- i }})
	begun, release := make(chan struct{}), make(chan struct{})
	ctx, interrupt := context.WithCancel(context.Background())
	j, err := js.Start(ctx, hanging("vol", begun, release))
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() { result <- j.Wait(ctx) }()
	<-begun
	interrupt()
	err = <-result
	f := failureOf(t, err)
	assert.Equal(t, j.ID(), f.Job)
	assert.Equal(t, walberr.Canceled, walberr.CodeOf(err))
	require.ErrorContains(t, err, "job 1 goes on")
	assert.Equal(t, Undoing, j.Info().State)
	assert.Equal(t, "repair p0", j.Info().Step)

	_, err = js.Start(context.Background(), empty("other", "vol"))
	assert.Equal(t, walberr.Conflict, walberr.CodeOf(err), "the volume is still claimed")

	close(release)
	in := <-ended
	assert.True(t, in.Detached)
	assert.Equal(t, Failed, in.State)
	assert.Equal(t, []string{"repair p0"}, failureOf(t, in.Err).Undone)
	require.NoError(t, js.Run(context.Background(), empty("other", "vol")))
	assert.False(t, (<-ended).Detached)
	require.NoError(t, js.Close(context.Background()))
}

func TestWaiterStaysWhenTheEndIsNear(t *testing.T) {
	js := NewJobs(Options{})
	begun, release := make(chan struct{}), make(chan struct{})
	close(release)
	ctx, interrupt := context.WithCancel(context.Background())
	j, err := js.Start(ctx, hanging("vol", begun, release))
	require.NoError(t, err)
	<-begun
	interrupt()
	f := failureOf(t, j.Wait(ctx))
	assert.Zero(t, f.Job)
	assert.Equal(t, []string{"repair p0"}, f.Undone)
	require.NoError(t, js.Close(context.Background()))
}

func TestOneExclusivePlanPerVolume(t *testing.T) {
	js := NewJobs(Options{})
	begun, release := make(chan struct{}), make(chan struct{})
	close(release)
	j, err := js.Start(context.Background(), hanging("vol", begun, release))
	require.NoError(t, err)
	<-begun
	err = js.Run(context.Background(), empty("synchronize", "vol"))
	assert.Equal(t, walberr.Conflict, walberr.CodeOf(err))
	require.ErrorContains(t, err, "synchronize volume vol: job 1 (hang) is running on this volume")
	assert.NoError(t, js.Run(context.Background(), empty("synchronize", "other")))
	assert.NoError(t, js.Run(context.Background(), empty("kick", "")))
	shared := empty("snapshot", "vol")
	shared.Shared = true
	require.NoError(t, js.Run(context.Background(), shared))
	j.Cancel(nil)
	<-j.Done()
	assert.NoError(t, js.Run(context.Background(), empty("synchronize", "vol")))
	require.NoError(t, js.Close(context.Background()))
}

func TestBuildFailureHasTheShape(t *testing.T) {
	js := NewJobs(Options{})
	err := js.Run(context.Background(), Spec{Op: "replicate_once", Volume: "vol", Build: func(context.Context) (*Plan, error) {
		return nil, &walberr.Error{
			Op: "get state", Server: "a1", Volume: "vol", Code: walberr.Unreachable, Found: "connection refused", Hint: "start a1",
		}
	}})
	require.EqualError(t, err, "replicate_once at a1 volume vol: get state: connection refused (hint: start a1)")
	assert.Equal(t, walberr.Unreachable, walberr.CodeOf(err))
	assert.Empty(t, failureOf(t, err).Step)
	require.NoError(t, js.Close(context.Background()))
}

func TestCloseWaitsForCompensations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := NewJobs(Options{})
		begun, release := make(chan struct{}), make(chan struct{})
		j, err := js.Start(context.Background(), hanging("vol", begun, release))
		require.NoError(t, err)
		<-begun
		closed := make(chan error, 1)
		go func() { closed <- js.Close(context.Background()) }()
		synctest.Wait()
		assert.Equal(t, Undoing, j.Info().State)
		err = js.Run(context.Background(), empty("late", "other"))
		assert.Equal(t, walberr.Stopped, walberr.CodeOf(err))
		close(release)
		require.NoError(t, <-closed)
		assert.Empty(t, failureOf(t, j.Info().Err).Debts)
	})
}

func TestCloseCutsCompensationsAtItsOwnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		js := NewJobs(Options{})
		begun := make(chan struct{})
		j, err := js.Start(context.Background(), hanging("vol", begun, nil))
		require.NoError(t, err)
		<-begun
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, js.Close(ctx), context.DeadlineExceeded)
		f := failureOf(t, j.Info().Err)
		require.Len(t, f.Debts, 1)
		assert.Contains(t, f.Error(), "NOT brought back (repair p0): context canceled")
	})
}

func TestListKeepsRunningAndTheLastEnded(t *testing.T) {
	js := NewJobs(Options{})
	begun, release := make(chan struct{}), make(chan struct{})
	close(release)
	j, err := js.Start(context.Background(), hanging("vol", begun, release))
	require.NoError(t, err)
	<-begun
	for range keepEnded + 5 {
		require.NoError(t, js.Run(context.Background(), empty("kick", "")))
	}
	list := js.List()
	require.Len(t, list, keepEnded+1)
	assert.Equal(t, j.ID(), list[0].ID)
	assert.Equal(t, Running, list[0].State)
	assert.Equal(t, uint64(keepEnded+6), list[len(list)-1].ID)
	assert.Equal(t, Done, list[len(list)-1].State)
	require.NoError(t, js.Close(context.Background()))
	assert.Equal(t, Failed, j.Info().State)
}

func TestCancelCauseIsTold(t *testing.T) {
	js := NewJobs(Options{})
	begun, release := make(chan struct{}), make(chan struct{})
	close(release)
	j, err := js.Start(context.Background(), hanging("vol", begun, release))
	require.NoError(t, err)
	<-begun
	why := errors.New("the operator changed her mind")
	j.Cancel(why)
	err = j.Wait(context.Background())
	require.ErrorIs(t, err, why)
	assert.Equal(t, walberr.Canceled, walberr.CodeOf(err))
	require.NoError(t, js.Close(context.Background()))
}
