package fsm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"walbsh/walbcore/walberr"
)

// State is what the state enums of the three servers have in common.
type State interface {
	comparable
	fmt.Stringer  // the name on the wire and in the file "state"
	Steady() bool // not a temporary state of a move
}

// Move is one row of a table of states: From and To are steady, Via is the
// temporary state between them.
type Move[S State] struct {
	From, Via, To S
}

// Machine is the live state of one volume.
type Machine[S State] struct {
	table   []Move[S]
	actions []Action // the known actions, in the order in which refusals name them
	observe func(from, to S)

	mu      sync.Mutex
	state   S
	tx      *Tx[S] // the open transaction, or nil; if nil, state is steady
	running map[Action]int
	stop    StopState
	forced  uint64        // times that stop became ForceStopping
	changed chan struct{} // closed and set to nil at the next change; nil while nobody asked
}

func newMachine[S State](table []Move[S], actions []Action, initial S, observe func(from, to S)) *Machine[S] {
	return &Machine[S]{
		table:   table,
		actions: actions,
		observe: observe,
		state:   initial,
		running: make(map[Action]int),
		stop:    NotStopping,
	}
}

// View is a consistent copy of a machine.
type View[S State] struct {
	State   S
	Stop    StopState
	Running map[Action]int // counts of the actions that run, without zeros

	// Forced counts the force stops so far. A stop that waits for nothing is
	// over at once: who shall be broken off by it but is not waited for sees it
	// by this.
	Forced uint64
}

// TotalRunning is the number of running actions of any name.
func (v View[S]) TotalRunning() int {
	n := 0
	for _, count := range v.Running {
		n += count
	}
	return n
}

// Idle reports whether the state is steady and no action runs: what a stop waits for.
func (v View[S]) Idle() bool { return v.State.Steady() && len(v.Running) == 0 }

// View copies the machine.
func (m *Machine[S]) View() View[S] {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.view()
}

func (m *Machine[S]) view() View[S] {
	return View[S]{State: m.state, Stop: m.stop, Running: maps.Clone(m.running), Forced: m.forced}
}

// State gives the current state, which may be a temporary one.
func (m *Machine[S]) State() S {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Watch copies the machine, and gives a channel that is closed at the next
// change of state, actions or stop state after that copy.
func (m *Machine[S]) Watch() (View[S], <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changed == nil {
		m.changed = make(chan struct{})
	}
	return m.view(), m.changed
}

func (m *Machine[S]) notify() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Wait returns nil as soon as cond holds, or the cause of ctx's end. cond runs
// on the caller's goroutine, once at first and once after changes; it gets a copy.
func (m *Machine[S]) Wait(ctx context.Context, cond func(View[S]) bool) error {
	for {
		view, changed := m.Watch()
		if cond(view) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// WaitIdle is [Machine.Wait] for [View.Idle].
func (m *Machine[S]) WaitIdle(ctx context.Context) error { return m.Wait(ctx, View[S].Idle) }

// VerifyState refuses (BadState) unless the current state is one of allowed.
// The text is "handler:bad state:STATE", and "bad state:STATE" without handler.
func (m *Machine[S]) VerifyState(handler string, allowed ...S) error {
	state := m.State()
	if slices.Contains(allowed, state) {
		return nil
	}
	if handler != "" {
		handler += ":"
	}
	return errorf(walberr.BadState, "%sbad state:%s", handler, state)
}

// Set puts the volume into a steady state, without a move: at the start of the
// server and for the debug command. It is refused (Conflict) while a
// transaction is open.
func (m *Machine[S]) Set(handler string, state S) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tx != nil {
		return alreadyCalled(handler, m.state, m.state, state)
	}
	if !state.Steady() {
		return errorf(walberr.Usage, "%s:bad state:%s", handler, state)
	}
	m.enter(state)
	return nil
}

func (m *Machine[S]) enter(state S) {
	from := m.state
	m.state = state
	if m.observe != nil {
		m.observe(from, state)
	}
	m.notify()
}

func alreadyCalled[S State](handler string, current, from, via S) error {
	return errorf(walberr.Conflict, "%s:StateMachineTransaction:tryChange:already called:%s:%s:%s", handler, current, from, via)
}

func (m *Machine[S]) hasMove(from, via, to S) bool {
	return slices.Contains(m.table, Move[S]{From: from, Via: via, To: to})
}

// Tx is an open transaction: the volume is in a temporary state. It ends with
// the first Commit or Rollback; later ones do nothing, so that
// "defer tx.Rollback()" is right after every Begin. A Tx belongs to one handler.
type Tx[S State] struct {
	m        *Machine[S]
	from, to S
}

// Begin opens a transaction: the volume leaves from, is now in via, and Commit
// will bring it to to. It is refused if another one is open (Conflict), if the
// current state is not from, or if the table has no such move (BadState).
// The refusals name the handler, the current state, from and via.
func (m *Machine[S]) Begin(handler string, from, via, to S) (*Tx[S], error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tx != nil {
		return nil, alreadyCalled(handler, m.state, from, via)
	}
	if m.state != from || !m.hasMove(from, via, to) {
		return nil, errorf(walberr.BadState, "%s:StateMachineTransaction:bad state:%s:%s:%s", handler, m.state, from, via)
	}
	m.tx = &Tx[S]{m: m, from: from, to: to}
	m.enter(via)
	return m.tx, nil
}

// Then goes through the steady state where Commit would have ended, and at once
// on to the next temporary state, in one step that nobody sees the middle of.
// The transaction stays open: Commit now brings the volume to to, Rollback still
// to where it began. It is an Internal error if the table has no such move or the
// transaction has ended.
func (t *Tx[S]) Then(via, to S) error {
	m := t.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tx != t || !m.hasMove(t.to, via, to) {
		return errorf(walberr.Internal, "StateMachineTransaction:no such move:%s:%s:%s:%s", m.state, t.to, via, to)
	}
	m.enter(t.to)
	m.enter(via)
	t.to = to
	return nil
}

// Commit brings the volume to the steady state that Begin or Then named. Do it
// after that state is on stable storage.
func (t *Tx[S]) Commit() { t.end(t.to) }

// Rollback brings the volume back to the state in which the transaction began.
func (t *Tx[S]) Rollback() { t.end(t.from) }

func (t *Tx[S]) end(state S) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if t.m.tx != t {
		return
	}
	t.m.tx = nil
	t.m.enter(state)
}

// RollbackTo makes Rollback bring the volume to another steady state from now
// on: when what it was before is no longer so.
func (t *Tx[S]) RollbackTo(state S) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.from = state
}
