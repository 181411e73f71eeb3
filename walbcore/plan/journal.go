package plan

import "context"

// Entry is what a [Journal] is told before an action or a compensation begins.
type Entry struct {
	Job    uint64
	Op     string
	Volume string
	Stage  int    // from 1; 0 for the entry that ends the plan
	Step   string // name of the step, or of its compensation
	Server string
	Undo   bool // a compensation is about to begin
	End    bool // the plan ended and owes nothing: everything was done, or everything was brought back
}

// Journal is told what is about to happen, so that a controller that died in
// the middle of a plan can be made good by the next one.
type Journal interface {
	// Record returns once the entry is durable. An error before an action
	// stops the plan; before a compensation and at the end it is a warning.
	// It is called from several goroutines when a stage has several steps.
	Record(ctx context.Context, e Entry) error
}

// NoJournal keeps nothing.
type NoJournal struct{}

// Record does nothing.
func (NoJournal) Record(context.Context, Entry) error { return nil }
