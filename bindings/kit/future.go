package kit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

// Futures owns the Go work that scripts started in the background. It may be
// used from many goroutines.
type Futures struct {
	ctx    context.Context //nolint:containedctx // the parent of all work; Go has no caller to take it from
	cancel context.CancelCauseFunc
	ended  func(*Future)
	wg     sync.WaitGroup

	mu      sync.Mutex
	pending []*Future // unfinished, or failed without anybody having seen it
}

// Future is one piece of background work. It may be used from many goroutines.
type Future struct {
	name   string
	cancel context.CancelCauseFunc
	done   chan struct{}
	result any // valid once done is closed
	err    error

	mu       sync.Mutex
	waiting  int
	observed bool // its result, or its error, was handed to somebody
}

// NewFutures makes an owner whose work runs under ctx. ended, if not nil, is
// called for each future that ends while nobody waits for it, on the future's
// goroutine.
func NewFutures(ctx context.Context, ended func(*Future)) *Futures {
	f := &Futures{ended: ended}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	return f
}

// Go starts work. A panic in it becomes its error. After Close the work gets a
// cancelled context.
func (fs *Futures) Go(name string, work func(ctx context.Context) (any, error)) *Future {
	ctx, cancel := context.WithCancelCause(fs.ctx)
	f := &Future{name: name, cancel: cancel, done: make(chan struct{})}
	fs.mu.Lock()
	fs.pending = append(fs.pending, f)
	fs.mu.Unlock()
	fs.wg.Go(func() {
		defer cancel(context.Canceled)
		f.result, f.err = protect(ctx, name, work)
		close(f.done)
		fs.settle()
		f.mu.Lock()
		alone := f.waiting == 0
		f.mu.Unlock()
		if alone && fs.ended != nil {
			fs.ended(f)
		}
	})
	return f
}

func protect(ctx context.Context, name string, work func(context.Context) (any, error)) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: %w", name, &vm.PanicError{Value: p, Stack: string(debug.Stack())})
		}
	}()
	return work(ctx)
}

// settle forgets the futures that need no more attention.
func (fs *Futures) settle() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	kept := fs.pending[:0]
	for _, f := range fs.pending {
		if !f.Done() || f.unseenFailure() {
			kept = append(kept, f)
		}
	}
	clear(fs.pending[len(kept):])
	fs.pending = kept
}

// Wait waits for all unfinished work and gives, joined, the failures that
// nobody has seen yet. It returns early with ctx's cause.
func (fs *Futures) Wait(ctx context.Context) error {
	fs.mu.Lock()
	pending := append([]*Future(nil), fs.pending...)
	fs.mu.Unlock()
	var failures []error
	for _, f := range pending {
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if f.unseenFailure() {
			_, err := f.observe()
			failures = append(failures, fmt.Errorf("background %s: %w", f.name, err))
		}
	}
	fs.settle()
	return errors.Join(failures...)
}

// Close cancels all work and waits until it has ended.
func (fs *Futures) Close() {
	fs.cancel(context.Canceled)
	fs.wg.Wait()
}

// Name tells what the future does.
func (f *Future) Name() string { return f.name }

// Done reports whether the work has ended.
func (f *Future) Done() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// Err is how the work failed, nil if it succeeded or goes on.
func (f *Future) Err() error {
	if f.Done() {
		return f.err
	}
	return nil
}

// Cancel asks the work to end and does not wait for it.
func (f *Future) Cancel() {
	f.cancel(&walberr.Error{Op: f.name, Code: walberr.Canceled, Found: "cancelled"})
}

// Wait waits for the end of the work and gives its result. If ctx ends first
// the work goes on and the error is ctx's cause.
func (f *Future) Wait(ctx context.Context) (any, error) {
	f.mu.Lock()
	f.waiting++
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.waiting--
		f.mu.Unlock()
	}()
	select {
	case <-f.done:
		return f.observe()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (f *Future) observe() (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observed = true
	return f.result, f.err
}

// unseenFailure reports whether the work failed and nobody was told.
func (f *Future) unseenFailure() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.Done() && f.err != nil && !f.observed
}

func (f *Future) state() string {
	switch {
	case !f.Done():
		return "running"
	case f.err != nil:
		return "failed"
	}
	return "done"
}

// FutureClass is the userdata of futures: f:wait(timeoutS), f:done(),
// f:cancel(), f.name, f.state.
func FutureClass() *Class[*Future] {
	return &Class[*Future]{
		Name: "future",
		Text: func(f *Future) string { return "future " + f.name + " (" + f.state() + ")" },
		Fields: map[string]func(*Future) any{
			"name":  func(f *Future) any { return f.name },
			"state": func(f *Future) any { return f.state() },
		},
		Methods: map[string]Method[*Future]{
			"done": {Run: func(_ context.Context, f *Future, _ Args) (any, error) { return f.Done(), nil }},
			"cancel": {Run: func(_ context.Context, f *Future, _ Args) (any, error) {
				f.Cancel()
				return nil, nil
			}},
			"wait": {
				Params: []Param{{Name: "timeout_s", PyName: "timeoutS", Type: Seconds, Doc: "how long to wait; without it, until the end"}},
				Run:    waitFuture,
			},
		},
	}
}

func waitFuture(ctx context.Context, f *Future, a Args) (any, error) {
	if !a.Given("timeout_s") {
		return f.Wait(ctx)
	}
	late := &walberr.Error{
		Op: f.name, Code: walberr.Timeout, Found: "still running",
		Hint: "the work goes on: wait again, or end it with :cancel()",
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Get[time.Duration](a, "timeout_s"), late)
	defer cancel()
	return f.Wait(ctx)
}

// Parallel is the Lua function parallel{f, g, ...}: it waits for all the
// futures in a table and gives a table with their results under the same keys.
// If some failed it raises the failure of the first, once all have ended.
func Parallel(L *lua.LState) (int, error) {
	t, ok := L.Get(1).(*lua.LTable)
	if !ok {
		return 0, refuse("parallel", Mismatch("a table of futures", L.Get(1)))
	}
	class := FutureClass()
	results := L.NewTable()
	var failure error
	var keys []lua.LValue
	t.ForEach(func(k, _ lua.LValue) { keys = append(keys, k) })
	for _, k := range keys {
		f, ok := class.From(t.RawGet(k))
		if !ok {
			return 0, refuse("parallel", Mismatch("a future at key "+k.String(), t.RawGet(k)))
		}
		result, err := f.Wait(L.Context())
		if L.Context().Err() != nil {
			return 0, context.Cause(L.Context())
		}
		if err != nil {
			if failure == nil {
				failure = err
			}
			continue
		}
		if list, ok := result.(Values); ok && len(list) > 0 {
			result = list[0]
		}
		value, err := ToLua(L, result)
		if err != nil {
			return 0, err
		}
		results.RawSet(k, value)
	}
	if failure != nil {
		return 0, failure
	}
	L.Push(results)
	return 1, nil
}
