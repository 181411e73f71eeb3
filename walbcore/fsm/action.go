package fsm

import (
	"maps"
	"slices"
	"sync"

	"walbsh/walbcore/walberr"
)

// Action is work that runs beside the states of a volume and is counted. At a
// proxy its name is that of the archive to which is sent.
type Action string

// Running is how many actions of this name run.
func (m *Machine[S]) Running(a Action) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running[a]
}

// StartAction counts the action as running until end is called (more than once
// does no harm). It is refused, in the same step, while one of the conflicts
// runs, as [Machine.VerifyNone] does.
func (m *Machine[S]) StartAction(handler string, a Action, conflicts ...Action) (end func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.verifyNone(handler, conflicts); err != nil {
		return nil, err
	}
	m.running[a]++
	m.notify()
	return sync.OnceFunc(func() { m.endAction(a) }), nil
}

func (m *Machine[S]) endAction(a Action) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running[a]--
	if m.running[a] == 0 {
		delete(m.running, a)
	}
	m.notify()
}

// VerifyNone refuses (Conflict) while one of the actions runs. The text,
// "handler:there are running action:NAME:COUNT", names the first of the list that does.
func (m *Machine[S]) VerifyNone(handler string, actions ...Action) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.verifyNone(handler, actions)
}

// VerifyNoAction refuses as [Machine.VerifyNone] does while any action runs.
func (m *Machine[S]) VerifyNoAction(handler string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.verifyNone(handler, m.actions); err != nil {
		return err
	}
	return m.verifyNone(handler, slices.Sorted(maps.Keys(m.running)))
}

func (m *Machine[S]) verifyNone(handler string, actions []Action) error {
	for _, a := range actions {
		if n := m.running[a]; n > 0 {
			return errorf(walberr.Conflict, "%s:there are running action:%s:%d", handler, a, n)
		}
	}
	return nil
}
