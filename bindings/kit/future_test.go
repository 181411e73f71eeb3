package kit

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

// work is Go work that waits to be let go, with a result of its own.
type work struct {
	release chan struct{}
	result  any
	err     error
}

func (w *work) run(ctx context.Context) (any, error) {
	select {
	case <-w.release:
		return w.result, w.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func newWork(result any, err error) *work {
	return &work{release: make(chan struct{}), result: result, err: err}
}

func TestFuture(t *testing.T) {
	fs := NewFutures(t.Context(), nil)
	defer fs.Close()
	w := newWork(5, nil)
	f := fs.Go("replicate_once", w.run)
	assert.False(t, f.Done())
	require.NoError(t, f.Err())
	assert.Equal(t, "replicate_once", f.Name())

	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gaveUp)
	_, err := f.Wait(ctx)
	require.ErrorIs(t, err, gaveUp)
	require.ErrorIs(t, fs.Wait(ctx), gaveUp)
	assert.False(t, f.Done(), "the end of a wait is not the end of the work")

	close(w.release)
	result, err := f.Wait(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 5, result)
	assert.True(t, f.Done())
	require.NoError(t, fs.Wait(t.Context()))
}

func TestFutureCancel(t *testing.T) {
	fs := NewFutures(t.Context(), nil)
	defer fs.Close()
	f := fs.Go("replicate_once", newWork(nil, nil).run)
	f.Cancel()
	_, err := f.Wait(t.Context())
	assert.True(t, walberr.Is(err, walberr.Canceled), "%v", err)
	assert.Equal(t, err, f.Err())
}

func TestFuturesTellWhoFailed(t *testing.T) {
	ended := make(chan *Future, 10)
	fs := NewFutures(t.Context(), func(f *Future) { ended <- f })
	defer fs.Close()
	refused := errors.New("refused")
	a, b, c := newWork(1, nil), newWork(nil, refused), newWork(nil, errors.New("seen"))
	fs.Go("a", a.run)
	close(a.release)
	assert.Equal(t, "a", (<-ended).Name())

	fc := fs.Go("c", c.run)
	close(c.release)
	<-ended
	_, err := fc.Wait(t.Context())
	require.EqualError(t, err, "seen")

	fs.Go("b", b.run)
	close(b.release)
	assert.Equal(t, refused, (<-ended).Err())
	err = fs.Wait(t.Context())
	require.ErrorIs(t, err, refused)
	require.EqualError(t, err, "background b: refused", "what somebody has seen is not told again")
	require.NoError(t, fs.Wait(t.Context()))
	assert.Empty(t, fs.pending)
}

func TestFuturePanics(t *testing.T) {
	fs := NewFutures(t.Context(), nil)
	defer fs.Close()
	_, err := fs.Go("boom", func(context.Context) (any, error) { panic("a defect") }).Wait(t.Context())
	var p *vm.PanicError
	require.ErrorAs(t, err, &p)
	assert.Contains(t, p.Stack, "future_test.go")
}

func TestFuturesCloseWaits(t *testing.T) {
	fs := NewFutures(t.Context(), nil)
	ended := false
	fs.Go("slow", func(ctx context.Context) (any, error) {
		<-ctx.Done()
		ended = true // compensation
		return nil, nil
	})
	fs.Close()
	assert.True(t, ended)
}

func TestFuturesInLua(t *testing.T) {
	v, _ := newVM(t)
	L := v.State()
	fs := NewFutures(t.Context(), nil)
	defer fs.Close()
	class := FutureClass()
	start := func(name string, w *work) {
		v.SetGlobal(name, class.New(L, fs.Go("replicate_once", w.run)))
	}
	ok, bad, slow := newWork(Values{"gid", 7}, nil), newWork(nil, &walberr.Error{Op: "replicate_once", Code: walberr.BadState}), newWork(nil, nil)
	start("ok", ok)
	start("bad", bad)
	start("slow", slow)
	v.SetGlobal("parallel", L.NewFunction(Func("parallel", Parallel)))

	assert.Equal(t, "future replicate_once (running)", eval(t, v, "slow"))
	assert.Equal(t, "false", eval(t, v, "slow:done()"))
	assert.Equal(t, "timeout", eval(t, v, "select(2, pcall(slow.wait, slow, 0)).code"))
	require.ErrorContains(t, fails(t, v, "slow:wait(0)"), "replicate_once: still running (hint: the work goes on: wait again, or end it with :cancel())")
	require.ErrorContains(t, fails(t, v, "slow:wait('soon')"), "future:wait: argument 1 (timeoutS) wants seconds")
	close(ok.release)
	close(bad.release)
	assert.Equal(t, "gid", eval(t, v, "ok:wait()"))
	assert.Equal(t, "7", eval(t, v, "select(2, ok:wait{timeout_s = 60})"))
	assert.Equal(t, "bad_state", eval(t, v, "select(2, pcall(bad.wait, bad)).code"))
	assert.Equal(t, "failed done running", eval(t, v, "bad.state .. ' ' .. ok.state .. ' ' .. slow.state"))
	assert.Equal(t, "gid gid", eval(t, v, "(function() local r = parallel{ok, again = ok} return r[1] .. ' ' .. r.again end)()"))
	require.ErrorContains(t, fails(t, v, "parallel{ok, bad}"), "replicate_once: bad_state")
	require.ErrorContains(t, fails(t, v, "parallel{ok, 5}"), "wants a future at key 2, got the number 5")
	require.ErrorContains(t, fails(t, v, "parallel(5)"), "wants a table of futures, got the number 5")

	// Ctrl-C ends the wait, not the work.
	gaveUp := errors.New("interrupted")
	v.SetGlobal("interrupt", L.NewFunction(func(*lua.LState) int {
		v.Interrupt(gaveUp)
		return 0
	}))
	for _, wait := range []string{"slow:wait()", "parallel{slow}"} {
		require.ErrorIs(t, v.Run("test", "pcall(function() interrupt() end) "+wait), gaveUp)
		v.Reset()
	}
	assert.Equal(t, "false", eval(t, v, "slow:done()"))
	require.NoError(t, v.Run("test", "slow:cancel()"))
	assert.Equal(t, "canceled", eval(t, v, "select(2, pcall(slow.wait, slow)).code"))
}

// TestInterruptedWait has the interrupt come while the VM's goroutine waits.
func TestInterruptedWait(t *testing.T) {
	v, _ := newVM(t)
	fs := NewFutures(t.Context(), nil)
	defer fs.Close()
	gaveUp := errors.New("interrupted")
	f := fs.Go("slow", newWork(nil, nil).run)
	v.SetGlobal("slow", FutureClass().New(v.State(), f))
	go func() {
		for {
			f.mu.Lock()
			waiting := f.waiting
			f.mu.Unlock()
			if waiting > 0 {
				v.Interrupt(gaveUp)
				return
			}
			runtime.Gosched()
		}
	}()
	require.ErrorIs(t, v.Run("test", "slow:wait()"), gaveUp)
	assert.False(t, f.Done())
}
