package meta

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// Snap tells how new an image is: at least as new as B, nothing newer than E.
//
// Invariant: B <= E.
type Snap struct {
	B Gid
	E Gid
}

// CleanSnap is the consistent point in time g.
func CleanSnap(g Gid) Snap { return Snap{B: g, E: g} }

// NoSnap is what an image that was never synchronized is at: (MaxGid, MaxGid).
func NoSnap() Snap { return CleanSnap(MaxGid) }

// Check tests the invariant.
func (s Snap) Check() error {
	if s.B > s.E {
		return errorf(walberr.Range, "MetaSnap::check:must be gidB <= gidE:%d:%d", s.B, s.E)
	}
	return nil
}

// IsClean reports whether the snapshot is one consistent point in time.
func (s Snap) IsClean() bool { return s.B == s.E }

// String prints |5| or |5,9|.
func (s Snap) String() string {
	if s.IsClean() {
		return fmt.Sprintf("|%d|", s.B)
	}
	return fmt.Sprintf("|%d,%d|", s.B, s.E)
}

// Relation of a diff to a snapshot. The numbers appear in texts on the wire.
type Relation int

// The relations. Anything but Applicable means that the diff cannot be applied.
const (
	Applicable    Relation = 0
	TooOld        Relation = 1 // the image has all of it already
	TooNew        Relation = 2 // a predecessor is missing
	NotApplicable Relation = 3 // a compared diff that begins elsewhere
)

// String prints applicable, too-old, too-new or not-applicable.
func (r Relation) String() string {
	switch r {
	case Applicable:
		return "applicable"
	case TooOld:
		return "too-old"
	case TooNew:
		return "too-new"
	}
	return "not-applicable"
}

// Relation tells how d stands to an image at s. Only the B parts matter: a diff
// may begin before the snapshot, since applying known data again does no harm.
func (s Snap) Relation(d Diff) Relation {
	switch {
	case d.Comp && d.B.B == s.B:
		return Applicable
	case d.Comp:
		return NotApplicable
	case d.B.B > s.B:
		return TooNew
	case d.E.B <= s.B:
		return TooOld
	}
	return Applicable
}

// CanApply reports whether the diffs can be applied one after the other.
// No diffs at all can always be applied.
func (s Snap) CanApply(diffs ...Diff) bool {
	_, err := s.Apply(diffs...)
	return err == nil
}

// Apply gives the snapshot behind the diffs, applied one after the other. It
// fails at the first one that is not applicable.
func (s Snap) Apply(diffs ...Diff) (Snap, error) {
	for _, d := range diffs {
		if s.Relation(d) != Applicable {
			return Snap{}, errorf(walberr.BadState, "apply:can not apply:%s:%s", s, d)
		}
		s = s.behind(d)
	}
	return s, nil
}

// behind is the snapshot behind an applicable diff.
func (s Snap) behind(d Diff) Snap {
	if d.IsClean() {
		return Snap{B: d.E.B, E: max(d.E.B, s.E)}
	}
	return d.E
}
