package plan

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/walberr"
)

// exec is one run of one plan.
type exec struct {
	plan    *Plan
	job     *Job
	journal Journal

	// begun holds, for each stage that ran since the last final step, the
	// steps whose action was begun: what a failure has to undo.
	begun [][]*running

	mu     sync.Mutex // guards what follows, while steps of a stage run
	undone []string
	debts  []Debt
}

// running is one step, or one compensation, at work.
type running struct {
	exec  *exec
	step  *Step
	stage int
	since time.Time

	mu    sync.Mutex
	meter meter
}

// stepFailure is the failure that ended the forward part.
type stepFailure struct {
	step  *Step
	stage int
	err   error
}

// run runs the plan: forward under ctx, and when that fails, its compensation
// under a context of its own that ends only with its bound or with hard.
func (x *exec) run(ctx, hard context.Context) error {
	f := x.forward(ctx)
	if f == nil {
		x.end(ctx)
		return nil
	}
	uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), x.undoTimeout())
	defer cancel()
	defer context.AfterFunc(hard, cancel)()
	x.compensate(uctx)
	if len(x.debts) == 0 {
		x.end(ctx)
	}
	return x.failure(ctx, f)
}

func (x *exec) undoTimeout() time.Duration {
	if x.plan.UndoTimeout > 0 {
		return x.plan.UndoTimeout
	}
	return DefaultUndoTimeout
}

// end tells the journal that the plan owes nothing.
func (x *exec) end(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	err := x.journal.Record(ctx, Entry{Job: x.job.id, Op: x.plan.Op, Volume: x.plan.Volume, End: true})
	if err != nil {
		x.warn(&running{exec: x, step: &Step{Name: "end"}}, err)
	}
}

// forward runs the stages until one fails.
func (x *exec) forward(ctx context.Context) *stepFailure {
	for i, stage := range x.plan.Stages {
		begun, f := x.runStage(ctx, i, stage)
		x.begun = append(x.begun, begun)
		if f != nil {
			return f
		}
		for _, s := range stage {
			if s.Final {
				x.begun = nil
			}
		}
	}
	return nil
}

// runStage runs the steps of a stage at the same time and waits for all of
// them. It returns those whose action was begun, and the first failure.
func (x *exec) runStage(ctx context.Context, index int, stage Stage) ([]*running, *stepFailure) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		begun []*running
		first *stepFailure
	)
	for i := range stage {
		r := &running{exec: x, step: &stage[i], stage: index}
		wg.Go(func() {
			wasBegun, err := r.run(ctx)
			mu.Lock()
			defer mu.Unlock()
			if wasBegun {
				begun = append(begun, r)
			}
			if err == nil {
				return
			}
			if r.step.Lenient && ctx.Err() == nil {
				x.warn(r, err)
				return
			}
			if first == nil {
				first = &stepFailure{step: r.step, stage: index, err: err}
				cancel()
			}
		})
	}
	wg.Wait()
	return begun, first
}

// run does one step and reports whether its action was begun.
func (r *running) run(ctx context.Context) (begun bool, err error) {
	s := r.step
	r.since = time.Now()
	ctx = context.WithValue(ctx, stepKey{}, r)
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	r.emit(Event{Kind: StepBegin})
	defer func() { r.emit(Event{Kind: StepEnd, Err: err}) }()
	if s.Pre != nil {
		if err := guard(ctx, s.Pre); err != nil {
			return false, err
		}
	}
	if err := r.exec.journal.Record(ctx, r.entry(s.Name, false)); err != nil {
		return false, err
	}
	if s.Do != nil {
		if err := guard(ctx, s.Do); err != nil {
			return true, err
		}
	}
	if s.Verify != nil {
		if err := guard(ctx, s.Verify); err != nil {
			return true, err
		}
	}
	return true, nil
}

// compensate undoes what was begun, the latest stage first. A compensation
// that fails does not stop the others.
func (x *exec) compensate(ctx context.Context) {
	x.job.setState(Undoing)
	for _, stage := range slices.Backward(x.begun) {
		var wg sync.WaitGroup
		for _, r := range stage {
			if r.step.Undo != nil {
				wg.Go(func() { r.undo(ctx) })
			}
		}
		wg.Wait()
	}
}

// undo runs the compensation of one step.
func (r *running) undo(ctx context.Context) {
	s, x := r.step, r.exec
	name := s.UndoName
	if name == "" {
		name = "undo " + s.Name
	}
	u := &running{exec: x, step: &Step{Name: name, Server: s.Server}, stage: r.stage, since: time.Now()}
	u.emit(Event{Kind: UndoBegin})
	ctx = context.WithValue(ctx, stepKey{}, u)
	if err := x.journal.Record(ctx, u.entry(name, true)); err != nil {
		x.warn(u, err)
	}
	err := guard(ctx, s.Undo)
	u.emit(Event{Kind: UndoEnd, Err: err})
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.debts = append(x.debts, Debt{Step: name, Server: s.Server, Err: err})
		return
	}
	x.undone = append(x.undone, name)
}

// guard calls a step's function; a panic in it is a defect of this program
// that must not keep the other proxies of a plan from being started again.
func guard(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &walberr.Error{Op: "plan", Code: walberr.Internal, Found: fmt.Sprintf("panic: %v", p)}
		}
	}()
	return fn(ctx)
}

func (r *running) entry(name string, undo bool) Entry {
	return Entry{
		Job: r.exec.job.id, Op: r.exec.plan.Op, Volume: r.exec.plan.Volume,
		Stage: r.stage + 1, Step: name, Server: r.step.Server, Undo: undo,
	}
}

// emit completes the event with the step's fields and passes it on.
func (r *running) emit(e Event) {
	e.Step, e.Server, e.Stage, e.Stages = r.step.Name, r.step.Server, r.stage+1, len(r.exec.plan.Stages)
	if !r.since.IsZero() {
		e.Elapsed = time.Since(r.since)
	}
	r.exec.job.emit(e)
}

func (r *running) report(b Bytes) {
	r.mu.Lock()
	b.Rate = r.meter.rate(time.Now(), b.Done)
	r.mu.Unlock()
	r.emit(Event{Kind: StepBytes, Bytes: b})
}

func (x *exec) warn(r *running, err error) {
	x.job.addWarning(err)
	r.emit(Event{Kind: Warned, Err: err})
}

// meter smooths the rate of a growing count.
type meter struct {
	at    time.Time
	done  int64
	value float64
}

// meterInterval is the shortest time over which a rate is taken.
const meterInterval = 100 * time.Millisecond

// rate takes the count at a time and gives the smoothed growth per second.
func (m *meter) rate(now time.Time, done int64) float64 {
	if m.at.IsZero() || done < m.done {
		m.at, m.done, m.value = now, done, 0
		return 0
	}
	dt := now.Sub(m.at)
	if dt < meterInterval {
		return m.value
	}
	latest := float64(done-m.done) / dt.Seconds()
	if m.value == 0 {
		m.value = latest
	} else {
		m.value += 0.3 * (latest - m.value)
	}
	m.at, m.done = now, done
	return m.value
}
