package plan

import (
	"context"
	"time"
)

// EventKind tells what an [Event] is about.
type EventKind int

// The kinds of events, in the order in which a job emits them.
const (
	StepBegin EventKind = iota + 1 // a step's action is about to begin
	StepBytes                      // a step reported its amounts; see Event.Bytes
	StepEnd                        // a step ended; Err is nil on success
	Warned                         // something went wrong that does not stop the plan; Err says what
	UndoBegin                      // a compensation is about to begin
	UndoEnd                        // a compensation ended; Err is nil on success
	JobEnd                         // the job ended; Err is its result
)

var eventNames = [...]string{
	StepBegin: "step-begin", StepBytes: "step-bytes", StepEnd: "step-end", Warned: "warned",
	UndoBegin: "undo-begin", UndoEnd: "undo-end", JobEnd: "job-end",
}

// String gives a short name for logs.
func (k EventKind) String() string {
	if k <= 0 || int(k) >= len(eventNames) {
		return "unknown"
	}
	return eventNames[k]
}

// Bytes are the amounts of a step that moves data.
type Bytes struct {
	Done  int64   // bytes of the work that are done
	Total int64   // bytes of the whole work as far as known, 0 = unknown
	Wire  int64   // bytes sent over the network so far, 0 = unknown
	Rate  float64 // bytes of Done per second, smoothed; filled by the executor
}

// Left estimates the time until Done reaches Total; 0 when it cannot be told.
func (b Bytes) Left() time.Duration {
	if b.Rate <= 0 || b.Total <= b.Done {
		return 0
	}
	return time.Duration(float64(b.Total-b.Done) / b.Rate * float64(time.Second))
}

// Event is one piece of progress of a job.
type Event struct {
	Job     uint64 // number of the job
	Op      string
	Volume  string
	Kind    EventKind
	Step    string        // name of the step, or of the compensation for UndoBegin and UndoEnd
	Server  string        // server of the step
	Stage   int           // stage of the step, from 1
	Stages  int           // number of stages of the plan
	Elapsed time.Duration // since the step (for JobEnd: the job) began
	Bytes   Bytes         // for StepBytes
	Err     error         // for StepEnd, Warned, UndoEnd, JobEnd
}

// Observer takes the events of a job. It is called from the job's goroutines,
// one call at a time per job, and must not block.
type Observer func(Event)

type observerKey struct{}

// WithObserver makes jobs that are started with the returned context report
// to o instead of to their owner's observer.
func WithObserver(ctx context.Context, o Observer) context.Context {
	return context.WithValue(ctx, observerKey{}, o)
}

type stepKey struct{}

// Report tells how far a step's action is. It does nothing outside of a step,
// so functions may call it whether or not they run under a plan. The Rate is
// ignored; the executor works it out.
func Report(ctx context.Context, b Bytes) {
	if s, ok := ctx.Value(stepKey{}).(*running); ok {
		s.report(b)
	}
}

// Warn records something that went wrong without stopping the plan: it is
// reported at once and kept in the job's warnings. It does nothing outside of
// a step.
func Warn(ctx context.Context, err error) {
	if s, ok := ctx.Value(stepKey{}).(*running); ok {
		s.exec.warn(s, err)
	}
}
