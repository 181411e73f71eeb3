package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/walberr"
)

// waitGrace is how long [Job.Wait] stays after its context ended: most jobs
// have little to bring back, and then the waiter gets the real end.
const waitGrace = 150 * time.Millisecond

// keepEnded is the number of ended jobs that [Jobs.List] remembers.
const keepEnded = 16

// State is where a job stands.
type State string

// The states of a job.
const (
	Building State = "building" // facts are gathered, nothing was changed yet
	Running  State = "running"  // the forward part runs
	Undoing  State = "undoing"  // the compensation runs
	Done     State = "done"     // reached its end
	Failed   State = "failed"   // did not; whatever could be was brought back
)

// Spec says what a job shall do.
type Spec struct {
	Op     string
	Volume string // "" when the operation is not about one volume

	// Shared lets the job run beside others on the same volume: for
	// operations that change no registration, run state or base image.
	Shared bool

	// Build gathers the facts and makes the plan. It changes nothing. For a
	// job that is not shared it is called when the volume is already claimed.
	Build func(ctx context.Context) (*Plan, error)
}

// Info describes a job at a moment.
type Info struct {
	ID       uint64
	Op       string
	Volume   string
	State    State
	Step     string // running step or compensation, the latest begun when there are several
	Server   string // its server
	Began    time.Time
	Ended    time.Time // zero while it runs
	Err      error     // result; valid when State is Done (nil) or Failed
	Warnings []error

	// Detached tells that who waited for the job had left before it ended, so
	// that nobody has seen its result.
	Detached bool
}

// Options configure a [Jobs]. The zero value is useful.
type Options struct {
	Observer Observer   // takes the events of jobs that bring no observer of their own
	Journal  Journal    // nil means [NoJournal]
	OnEnd    func(Info) // called once for every job, after it ended, from its goroutine
}

// Jobs owns running plans. It is safe for concurrent use.
type Jobs struct {
	opts Options

	hard     context.Context //nolint:containedctx // of the owner, not of a call: it ends when even compensations shall end
	hardStop context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	closed bool
	last   uint64
	jobs   []*Job // running ones and the last ended ones, by number
	owner  map[string]*Job
}

// Job is one running or ended plan. It is safe for concurrent use.
type Job struct {
	id     uint64
	spec   Spec
	began  time.Time
	cancel context.CancelCauseFunc
	done   chan struct{}

	observeMu sync.Mutex // one event at a time
	observer  Observer

	mu       sync.Mutex
	state    State
	step     string
	server   string
	ended    time.Time
	err      error
	warnings []error
	waiters  int
	left     bool // a waiter left while the job ran
	detached bool
}

// NewJobs makes an owner of jobs. Call [Jobs.Close] when done with it.
func NewJobs(opts Options) *Jobs {
	if opts.Journal == nil {
		opts.Journal = NoJournal{}
	}
	hard, stop := context.WithCancel(context.Background())
	return &Jobs{opts: opts, hard: hard, hardStop: stop, owner: map[string]*Job{}}
}

// Start begins a job and returns at once. The forward part ends when ctx ends
// or when [Job.Cancel] is called. It fails with code conflict when another
// exclusive job runs on the volume, and with code stopped after [Jobs.Close].
func (js *Jobs) Start(ctx context.Context, spec Spec) (*Job, error) {
	observer := js.opts.Observer
	if o, ok := ctx.Value(observerKey{}).(Observer); ok {
		observer = o
	}
	ctx, cancel := context.WithCancelCause(ctx)
	j := &Job{
		spec: spec, began: time.Now(), cancel: cancel, done: make(chan struct{}),
		observer: observer, state: Building,
	}
	if err := js.admit(j); err != nil {
		cancel(nil)
		return nil, err
	}
	go func() {
		defer js.wg.Done()
		defer cancel(nil)
		js.finish(j, js.run(ctx, j))
	}()
	return j, nil
}

// Run starts a job and waits for it.
func (js *Jobs) Run(ctx context.Context, spec Spec) error {
	j, err := js.Start(ctx, spec)
	if err != nil {
		return err
	}
	return j.Wait(ctx)
}

// admit registers the job and claims its volume.
func (js *Jobs) admit(j *Job) error {
	js.mu.Lock()
	defer js.mu.Unlock()
	if js.closed {
		return &walberr.Error{
			Op: j.spec.Op, Volume: j.spec.Volume, Code: walberr.Stopped, Found: "the session is closing",
		}
	}
	exclusive := j.spec.Volume != "" && !j.spec.Shared
	if exclusive {
		if o := js.owner[j.spec.Volume]; o != nil {
			in := o.Info()
			return &walberr.Error{
				Op: j.spec.Op, Volume: j.spec.Volume, Code: walberr.Conflict,
				Found: fmt.Sprintf("job %d (%s) is %s on this volume", in.ID, in.Op, in.State),
				Hint:  "wait until it has ended, then call again",
			}
		}
		js.owner[j.spec.Volume] = j
	}
	js.last++
	j.id = js.last
	js.jobs = append(js.jobs, j)
	js.wg.Add(1)
	return nil
}

// run builds and executes the plan of a job.
func (js *Jobs) run(ctx context.Context, j *Job) error {
	var p *Plan
	err := guard(ctx, func(ctx context.Context) (err error) {
		p, err = j.spec.Build(ctx)
		return err
	})
	if err != nil {
		return &Failure{Err: outer(ctx, j.spec.Op, j.spec.Volume, "", "", err)}
	}
	if show, ok := ctx.Value(dryRunKey{}).(func(*Plan)); ok {
		show(p)
		return nil
	}
	j.setState(Running)
	x := &exec{plan: p, job: j, journal: js.opts.Journal}
	return x.run(ctx, js.hard)
}

// finish records the end of a job and lets its volume go.
func (js *Jobs) finish(j *Job, err error) {
	j.mu.Lock()
	j.ended, j.err, j.state = time.Now(), err, Done
	if err != nil {
		j.state = Failed
	}
	j.detached = j.left && j.waiters == 0
	j.mu.Unlock()

	js.mu.Lock()
	if js.owner[j.spec.Volume] == j {
		delete(js.owner, j.spec.Volume)
	}
	js.forget()
	js.mu.Unlock()

	close(j.done)
	j.emit(Event{Kind: JobEnd, Err: err, Elapsed: j.ended.Sub(j.began)})
	if js.opts.OnEnd != nil {
		js.opts.OnEnd(j.Info())
	}
}

// forget drops the oldest ended jobs beyond keepEnded. js.mu is held.
func (js *Jobs) forget() {
	ended := 0
	for i, j := range slices.Backward(js.jobs) {
		if j.Info().Ended.IsZero() {
			continue
		}
		if ended++; ended > keepEnded {
			js.jobs = slices.Delete(js.jobs, i, i+1)
		}
	}
}

// List describes the running jobs and the last ended ones, by number.
func (js *Jobs) List() []Info {
	js.mu.Lock()
	defer js.mu.Unlock()
	out := make([]Info, len(js.jobs))
	for i, j := range js.jobs {
		out[i] = j.Info()
	}
	return out
}

// Close takes no more jobs, cancels the forward part of the running ones, and
// waits until all have ended, compensations included. When ctx ends before,
// the compensations are cut too and the error is that of ctx.
func (js *Jobs) Close(ctx context.Context) error {
	js.mu.Lock()
	js.closed = true
	running := slices.Clone(js.jobs)
	js.mu.Unlock()
	for _, j := range running {
		j.Cancel(context.Canceled)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		js.wg.Wait()
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	js.hardStop()
	<-ended
	return err
}

// ID is the job's number, from 1.
func (j *Job) ID() uint64 { return j.id }

// Done is closed when the job has ended, compensation included.
func (j *Job) Done() <-chan struct{} { return j.done }

// Cancel ends the forward part; the compensation follows. A nil cause means
// [context.Canceled].
func (j *Job) Cancel(cause error) { j.cancel(cause) }

// Wait waits for the end of the job and gives its result. When ctx ends first,
// Wait cancels the job's forward part and returns after a moment with a
// [Failure] of which Job is the job's number: its compensation goes on.
func (j *Job) Wait(ctx context.Context) error {
	j.mu.Lock()
	j.waiters++
	j.mu.Unlock()
	select {
	case <-j.done:
	case <-ctx.Done():
		j.Cancel(context.Cause(ctx))
		timer := time.NewTimer(waitGrace)
		defer timer.Stop()
		select {
		case <-j.done:
		case <-timer.C:
		}
	}
	j.mu.Lock()
	j.waiters--
	ended := !j.ended.IsZero()
	j.left = j.left || !ended
	err := j.err
	j.mu.Unlock()
	if ended {
		return err
	}
	return j.abandoned(context.Cause(ctx))
}

// abandoned makes the error of a waiter that leaves a running job.
func (j *Job) abandoned(cause error) error {
	in := j.Info()
	code := walberr.Canceled
	if errors.Is(cause, context.DeadlineExceeded) {
		code = walberr.Timeout
	}
	return &Failure{
		Step: in.Step,
		Job:  in.ID,
		Err: &walberr.Error{
			Op: in.Op, Server: in.Server, Volume: in.Volume, Code: code,
			Found: fmt.Sprintf("interrupted in step (%s)", in.Step),
			Hint:  fmt.Sprintf("job %d goes on bringing back what it changed, and its end is reported", in.ID),
			Err:   cause,
		},
	}
}

// Info describes the job now.
func (j *Job) Info() Info {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Info{
		ID: j.id, Op: j.spec.Op, Volume: j.spec.Volume, State: j.state, Step: j.step, Server: j.server,
		Began: j.began, Ended: j.ended, Err: j.err, Warnings: slices.Clone(j.warnings), Detached: j.detached,
	}
}

func (j *Job) setState(s State) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state = s
}

func (j *Job) addWarning(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.warnings = append(j.warnings, err)
}

// emit notes the running step and passes the event to the observer.
func (j *Job) emit(e Event) {
	e.Job, e.Op, e.Volume = j.id, j.spec.Op, j.spec.Volume
	if e.Kind == StepBegin || e.Kind == UndoBegin {
		j.mu.Lock()
		j.step, j.server = e.Step, e.Server
		j.mu.Unlock()
	}
	if j.observer == nil {
		return
	}
	j.observeMu.Lock()
	defer j.observeMu.Unlock()
	j.observer(e)
}
