// Package plan runs operations that need more than one command: a [Plan] is
// a value, an ordered list of stages of [Step]s, each with a precondition, an
// action, a compensation and a check that the action took effect. One
// executor runs every plan and gives all of them progress, deadlines,
// cancellation, compensation in reverse order, and an error that says what
// failed, what was brought back and what could not be.
//
// A plan runs inside a [Job], and jobs are owned by a [Jobs], which allows one
// exclusive plan per volume. Who starts a job may leave it: its forward part is
// then cancelled, and the compensation goes on in the job, reported when it
// ends. [Jobs.Close] waits for all of them.
//
// The package knows no server and no protocol. Steps bring their own
// functions; only walberr comes in.
package plan

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// DefaultUndoTimeout bounds the whole compensation of a plan that names no
// bound of its own. It is longer than the 60 s + 60 s after which a server
// gives up a stop, since a compensation may have to wait for that.
const DefaultUndoTimeout = 150 * time.Second

// Step is one action of a plan at one server.
//
// Every function gets a context that ends with the plan's forward part (Pre,
// Do, Verify) or with the compensation's own bound (Undo), must return soon
// after it ended, and may be nil.
type Step struct {
	Name   string // what it does, in a few words: "stop p0 when empty"
	Server string // name of the server it acts on, "" if there is none

	// Pre checks that the action may begin. When it fails, the action is not
	// begun and this step is not undone; earlier ones are.
	Pre func(ctx context.Context) error

	// Do acts. It may call [Report] and [Warn] with its context.
	Do func(ctx context.Context) error

	// Verify checks that the action took effect.
	Verify func(ctx context.Context) error

	// Undo brings back what was before Do, whether Do succeeded, failed
	// or was cut in the middle: it looks at the facts, and does nothing where
	// nothing has to be done. UndoName says what it does ("start p0 again").
	Undo     func(ctx context.Context) error
	UndoName string

	// Lenient makes a failure of the step a warning; the plan goes on.
	Lenient bool

	// Final marks the point of no return: once the step has succeeded, neither
	// it nor any step before it is undone.
	Final bool
}

// Stage is a group of steps that run at the same time. The first failure
// cancels the others of the stage.
type Stage []Step

// Plan is an operation ready to run. Build it with [New] and [Plan.Then].
type Plan struct {
	Op     string // operation as its user knows it: "synchronize"
	Volume string // volume it is about, "" if there is none
	Stages []Stage

	// UndoTimeout bounds the whole compensation; 0 means [DefaultUndoTimeout].
	UndoTimeout time.Duration
}

// New makes a plan without steps.
func New(op, volume string) *Plan { return &Plan{Op: op, Volume: volume} }

// Then appends one stage: the given steps run at the same time, after
// everything that was appended before. No steps append nothing.
func (p *Plan) Then(steps ...Step) *Plan {
	if len(steps) > 0 {
		p.Stages = append(p.Stages, steps)
	}
	return p
}

// String lists the steps of the plan, one a line, numbered by stage: what a
// dry run prints.
func (p *Plan) String() string {
	var b strings.Builder
	b.WriteString(p.Op)
	if p.Volume != "" {
		b.WriteString(" " + p.Volume)
	}
	b.WriteString(":\n")
	for i, stage := range p.Stages {
		for j, s := range stage {
			num := "   "
			if j == 0 {
				num = fmt.Sprintf("%2d.", i+1)
			}
			fmt.Fprintf(&b, " %s %s", num, s.Name)
			if s.UndoName != "" {
				fmt.Fprintf(&b, "  [on failure: %s]", s.UndoName)
			}
			if s.Lenient {
				b.WriteString("  [a failure is only a warning]")
			}
			if s.Final {
				b.WriteString("  [no way back from here]")
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

type dryRunKey struct{}

// WithDryRun makes jobs that are started with the returned context build their
// plan, show it, and end with success without having acted.
func WithDryRun(ctx context.Context, show func(*Plan)) context.Context {
	return context.WithValue(ctx, dryRunKey{}, show)
}
