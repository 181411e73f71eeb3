package meta

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// Diff describes the change of an image from the snapshot B to the snapshot E.
//
// Invariants: B and E are valid, B.B < E.B, B.E <= E.E, Timestamp <= [MaxTimestamp].
type Diff struct {
	B, E      Snap
	Mergeable bool   // may be merged behind a predecessor: the snapshot at which it begins is implicit
	Comp      bool   // made by comparing images: is never merged, and applies only at exactly B.B
	Timestamp uint64 // time of E, seconds since 1970 UTC
	Size      uint64 // of its file in bytes; 0 = unknown
}

// Check tests the invariants. (The limit of the timestamp is ours: a later one
// would give a file name that the next start of the server cannot read.)
func (d Diff) Check() error {
	if err := d.B.Check(); err != nil {
		return err
	}
	if err := d.E.Check(); err != nil {
		return err
	}
	if d.B.B >= d.E.B {
		return errorf(walberr.Range, "MetaDiff::broken progress constraint for B:%s:%s", d.B, d.E)
	}
	if d.B.E > d.E.E {
		return errorf(walberr.Range, "MetaDiff::broken progress constraint for E:%s:%s", d.B, d.E)
	}
	if d.Timestamp > MaxTimestamp {
		return errorf(walberr.Range, "MetaDiff::timestamp is too large:%d:%d", d.Timestamp, uint64(MaxTimestamp))
	}
	return nil
}

// IsClean reports whether both its snapshots are clean.
func (d Diff) IsClean() bool { return d.B.IsClean() && d.E.IsClean() }

// Same reports whether both go from the same snapshot to the same snapshot.
// That is a diff's identity; flags, timestamp and size do not count.
func (d Diff) Same(o Diff) bool { return d.B == o.B && d.E == o.E }

// Contains reports whether the gid range of o lies inside that of d.
func (d Diff) Contains(o Diff) bool { return d.B.B <= o.B.B && o.E.B <= d.E.B }

// String prints |0,2|-->|1,5|.
func (d Diff) String() string { return d.B.String() + "-->" + d.E.String() }

// Verbose prints the diff with its flags, time and size in brackets.
func (d Diff) Verbose() string {
	return fmt.Sprintf("%s (%s %s %d)", d, d.flags(), FormatTime(d.Timestamp), d.Size)
}

// Line prints the diff as servers list it, for example
// "|2|-->|3| M- 2026-11-23T14:38:18 11712".
func (d Diff) Line() string {
	return fmt.Sprintf("%s %s %s %d", d, d.flags(), PrettyTime(d.Timestamp), d.Size)
}

func (d Diff) flags() string {
	m, c := "-", "-"
	if d.Mergeable {
		m = "M"
	}
	if d.Comp {
		c = "C"
	}
	return m + c
}

// CanMerge reports whether next may be merged behind d.
func (d Diff) CanMerge(next Diff) bool {
	return next.Mergeable && !d.Comp && !next.Comp &&
		d.B.B <= next.B.B && next.B.B <= d.E.B && d.E.B < next.E.B
}

// Merge gives the diff that does what d and then next do. Its size is unknown.
// A dirty next with next.E.E < d.E.E, which no log produces, gives a diff that
// claims less than it may hold; the lists of [Manager] never have such a pair.
func (d Diff) Merge(next Diff) (Diff, error) {
	if !d.CanMerge(next) {
		return Diff{}, errorf(walberr.BadState, "merge:can not merge:%s:%s", d, next)
	}
	return d.merged(next), nil
}

func (d Diff) merged(next Diff) Diff {
	return Diff{B: d.B, E: d.E.behind(next), Mergeable: d.Mergeable, Timestamp: next.Timestamp}
}

// MergeAll merges from the left. One diff alone comes back unchanged; none is an error.
func MergeAll(diffs []Diff) (Diff, error) {
	if len(diffs) == 0 {
		return Diff{}, errorf(walberr.Usage, "merge:empty vector.")
	}
	sum := diffs[0]
	for _, d := range diffs[1:] {
		var err error
		if sum, err = sum.Merge(d); err != nil {
			return Diff{}, err
		}
	}
	return sum, nil
}

// MaxProgress gives the diff that leads furthest: the largest E.B, on a tie the
// largest B.B, on a full tie the first of the list. An empty list is an error.
func MaxProgress(diffs []Diff) (Diff, error) {
	if len(diffs) == 0 {
		return Diff{}, errorf(walberr.NotFound, "getMaxProgressDiff:empty")
	}
	best := diffs[0]
	for _, d := range diffs[1:] {
		if d.leadsFurther(best) {
			best = d
		}
	}
	return best, nil
}

func (d Diff) leadsFurther(o Diff) bool {
	return d.E.B > o.E.B || d.E.B == o.E.B && d.B.B > o.B.B
}

// TotalSize sums the sizes of the diffs in bytes.
func TotalSize(diffs []Diff) uint64 {
	var n uint64
	for _, d := range diffs {
		n += d.Size
	}
	return n
}
