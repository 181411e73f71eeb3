package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Options of a [Group]. The zero value is useful.
type Options struct {
	ID      string        // node id that servers see and log; "" = "ctl"
	Timeout time.Duration // for one answer of a server; 0 = [wire.DefaultTimeout]

	// Patience is how long a server that a wait needs may be unreachable
	// before the wait fails; 0 = 15 s.
	Patience time.Duration

	// Busy is how long a command is repeated that a server refuses because of
	// something else that goes on there and will pass; 0 = 60 s.
	Busy time.Duration

	// Retries is how often a question is repeated after a failure; 0 = as
	// the original does ([client.DefaultRetries]), negative = never.
	Retries int

	// Jobs are the options of the owner of running plans: observer, journal
	// and what to do at the end of a job.
	Jobs plan.Options
}

const (
	defaultPatience = 15 * time.Second
	defaultBusy     = 60 * time.Second

	// A server tries to stop a volume for 60 s before it gives up silently.
	defaultStopLimit = 65 * time.Second

	// The server begins only when it has seen our connection close.
	defaultSettle = time.Second
)

// Group is a layout with what is needed to operate it.
type Group struct {
	opts Options
	jobs *plan.Jobs

	stopLimit time.Duration // after which a stop that shows no effect was given up
	settle    time.Duration // within which an accepted command shows its effect

	mu      sync.Mutex
	layout  Layout
	clients map[Server]*client.Client
}

// New makes a group of a layout. Nothing is contacted. The error has the code
// Usage. Call [Group.Close] when done with it.
func New(layout Layout, opts Options) (*Group, error) {
	if err := layout.Validate(); err != nil {
		return nil, err
	}
	if opts.ID == "" {
		opts.ID = "ctl"
	}
	if opts.Timeout == 0 {
		opts.Timeout = wire.DefaultTimeout
	}
	if opts.Patience == 0 {
		opts.Patience = defaultPatience
	}
	if opts.Busy == 0 {
		opts.Busy = defaultBusy
	}
	switch {
	case opts.Retries == 0:
		opts.Retries = client.DefaultRetries
	case opts.Retries < 0:
		opts.Retries = 0
	}
	return &Group{
		opts: opts, jobs: plan.NewJobs(opts.Jobs), layout: layout, clients: map[Server]*client.Client{},
		stopLimit: defaultStopLimit, settle: defaultSettle,
	}, nil
}

// Close takes no more operations, cancels the running ones, and waits until
// all that they changed has been brought back, or ctx ends.
func (g *Group) Close(ctx context.Context) error { return g.jobs.Close(ctx) }

// Jobs is the owner of the running operations.
func (g *Group) Jobs() *plan.Jobs { return g.jobs }

// Layout is the present layout.
func (g *Group) Layout() Layout {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.layout
}

// SetLayout replaces the layout; nothing is compared with the servers. Running
// operations go on with the one they began with. The error has the code Usage.
func (g *Group) SetLayout(l Layout) error {
	if err := l.Validate(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.layout = l
	return nil
}

// Client gives the typed command client of a server, which need not be in the
// layout.
func (g *Group) Client(s Server) *client.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.clients[s]
	if c == nil {
		c = client.New(s.Addr(), client.Options{
			ID: g.opts.ID, Name: s.Name, Timeout: g.opts.Timeout, Retries: g.opts.Retries,
		})
		g.clients[s] = c
	}
	return c
}

// run runs an operation as a job, with a deadline, and waits for it. It gives
// the warnings of a success.
func (g *Group) run(ctx context.Context, timeout time.Duration, spec plan.Spec) ([]string, error) {
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	forward, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	j, err := g.jobs.Start(forward, spec)
	if err != nil {
		return nil, err
	}
	if err := j.Wait(ctx); err != nil {
		return nil, err
	}
	var warnings []string
	for _, w := range j.Info().Warnings {
		warnings = append(warnings, w.Error())
	}
	return warnings, nil
}

// arg checks the kind of a server that was given as an argument.
func arg(op, name string, s Server, kinds ...Kind) error {
	if slices.Contains(kinds, s.Kind) {
		return nil
	}
	want := make([]string, len(kinds))
	for i, k := range kinds {
		want[i] = k.article()
	}
	e := &walberr.Error{
		Op: op, Code: walberr.Usage, Expected: strings.Join(want, " or "),
		Found: fmt.Sprintf("argument %s: %s is %s", name, s.Name, s.Kind.article()),
	}
	if s == (Server{}) {
		e.Found = fmt.Sprintf("argument %s is missing", name)
	}
	return e
}

// article is the kind's name with its article.
func (k Kind) article() string {
	if k == Archive {
		return "an archive"
	}
	return "a " + k.String()
}

// volumeArg checks the form of a volume name.
func volumeArg(op, vol string) error {
	err := wire.CheckVolumeName(vol)
	if err == nil {
		return nil
	}
	e := &walberr.Error{Op: op, Code: walberr.Usage, Found: fmt.Sprintf("argument vol: %q is no volume name", vol)}
	if we, ok := errors.AsType[*walberr.Error](err); ok {
		e.Expected = we.Expected
	}
	return e
}

// firstError gives the first error that is not nil.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
