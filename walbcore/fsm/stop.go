package fsm

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// StopState tells whether the volume is being stopped. It lives in memory only.
// The numbers appear in refusals, and may be or-ed where several are accepted.
type StopState uint8

// The stop states.
const (
	NotStopping     StopState = 1
	WaitingForEmpty StopState = 2 // a proxy delivers what it has and takes nothing new
	Stopping        StopState = 4 // waits until running work has ended
	ForceStopping   StopState = 8 // running work is to give up
)

// String prints the word of the status lines; one of them really is spelled so.
func (s StopState) String() string {
	switch s {
	case NotStopping:
		return "NotStopping"
	case WaitingForEmpty:
		return "WAitingForEmpty"
	case Stopping:
		return "Stopping"
	case ForceStopping:
		return "ForceStopping"
	}
	return fmt.Sprintf("StopState(%d)", uint8(s))
}

// StopState gives the current stop state.
func (m *Machine[S]) StopState() StopState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stop
}

// Stop is a stop under way. It belongs to one handler.
type Stop[S State] struct{ m *Machine[S] }

// BeginStop sets the stop state from [NotStopping] to s. It is false, and
// nothing changes, if a stop is under way already.
func (m *Machine[S]) BeginStop(s StopState) (*Stop[S], bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stop != NotStopping {
		return nil, false
	}
	m.setStop(s)
	return &Stop[S]{m: m}, true
}

func (m *Machine[S]) setStop(s StopState) {
	if s == ForceStopping && m.stop != s {
		m.forced++
	}
	m.stop = s
	m.notify()
}

// Become changes the stop state of this stop, for example from
// [WaitingForEmpty] to [Stopping]. It does nothing once the stop has ended.
func (s *Stop[S]) Become(state StopState) {
	if s.m == nil {
		return
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.setStop(state)
}

// End sets the stop state back to [NotStopping]. A second call does nothing.
func (s *Stop[S]) End() {
	s.Become(NotStopping)
	s.m = nil
}

// VerifyStop refuses (Stopped) unless the stop state is one of accepted, which
// may be several or-ed: "handler:verifyStopState:VOL:CURRENT:ACCEPTED", both in decimal.
func (m *Machine[S]) VerifyStop(handler, vol string, accepted StopState) error {
	if stop := m.StopState(); stop&accepted == 0 {
		return errorf(walberr.Stopped, "%s:verifyStopState:%s:%d:%d", handler, vol, stop, accepted)
	}
	return nil
}
