package meta

import "walbsh/walbcore/walberr"

// State of a base image.
type State struct {
	Applying  bool   // diffs are being applied: the image is somewhere between B and E
	Timestamp uint64 // of the snapshot, seconds since 1970 UTC
	B         Snap   // what the image is at, or was at before the application began

	// E is the snapshot that the image will be at. Valid iff Applying, then
	// B.B < E.B; otherwise it equals B.
	E Snap
}

// NewState is the state of an image at s, with nothing being applied.
func NewState(s Snap, timestamp uint64) State { return State{Timestamp: timestamp, B: s, E: s} }

// Check tests the invariants. The E parts of the two snapshots are not compared.
func (st State) Check() error {
	if err := st.B.Check(); err != nil {
		return err
	}
	if err := st.E.Check(); err != nil {
		return err
	}
	if st.Applying && st.B.B >= st.E.B {
		return errorf(walberr.Range, "MetaState::broken progress constraint:%s:%s", st.B, st.E)
	}
	return nil
}

// Equal compares Applying, B and, while applying, E. The timestamp does not count.
func (st State) Equal(o State) bool {
	return st.Applying == o.Applying && st.B == o.B && (!st.Applying || st.E == o.E)
}

// String prints <|5|> or <|3|-->|4,6|>, without the timestamp.
func (st State) String() string {
	if st.Applying {
		return "<" + st.B.String() + "-->" + st.E.String() + ">"
	}
	return "<" + st.B.String() + ">"
}

// Text prints the state with its timestamp, <|5|>-20231114221320.
func (st State) Text() string { return st.String() + "-" + FormatStamp(st.Timestamp) }

// CanApply reports whether the diffs can be applied, and lead at least to the
// target of an application already begun.
func (st State) CanApply(diffs []Diff) bool {
	s, err := st.B.Apply(diffs...)
	return err == nil && st.reachedBy(s)
}

func (st State) reachedBy(s Snap) bool { return !st.Applying || st.E.B <= s.B }

// BeginApplying gives the state to store before the diffs are written to the
// image. A target set earlier is replaced. Without diffs nothing changes.
func (st State) BeginApplying(diffs []Diff) (State, error) {
	if len(diffs) == 0 {
		return st, nil
	}
	s, err := st.B.Apply(diffs...)
	if err != nil {
		return State{}, err
	}
	st.Applying, st.E, st.Timestamp = true, s, diffs[len(diffs)-1].Timestamp
	return st, st.Check()
}

// EndApplying gives the state of the image after the diffs are in it.
// Without diffs nothing changes.
func (st State) EndApplying(diffs []Diff) (State, error) {
	if len(diffs) == 0 {
		return st, nil
	}
	s, err := st.B.Apply(diffs...)
	if err != nil {
		return State{}, err
	}
	return NewState(s, diffs[len(diffs)-1].Timestamp), nil
}
