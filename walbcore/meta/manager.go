package meta

import (
	"cmp"
	"slices"
	"sort"

	"walbsh/walbcore/walberr"
)

// Manager knows all diffs of one directory and answers which of them are
// needed for what. It keeps metadata only and touches no file. The zero Manager
// is empty and ready.
//
// It is not safe for concurrent use: the owner's lock guards it. Every list that
// it returns is a copy, in the order of application unless said otherwise.
type Manager struct {
	// diffs is sorted by B.B; equal ones are in the order of insertion.
	diffs []Diff

	// reach[i] is the largest E.B of diffs[:i+1]. So going back from a position,
	// a search for diffs that cover a gid may stop where reach no longer does.
	reach []Gid
}

// NewManager makes a manager of the diffs; none at all is fine. It fails as
// [Manager.Add] does.
func NewManager(diffs []Diff) (*Manager, error) {
	sorted := slices.Clone(diffs)
	slices.SortStableFunc(sorted, func(a, b Diff) int { return cmp.Compare(a.B.B, b.B.B) })
	m := &Manager{}
	for _, d := range sorted {
		if err := m.Add(d); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Add takes a diff in. It refuses one that breaks its invariants, and one with
// the identity of a diff that is there already (code Conflict).
func (m *Manager) Add(d Diff) error {
	if err := d.Check(); err != nil {
		return err
	}
	if _, found := m.Find(d.B, d.E); found {
		return errorf(walberr.Conflict, "MetaDiffManager::add:already exists:%s", d)
	}
	pos := m.behind(d.B.B)
	m.diffs = slices.Insert(m.diffs, pos, d)
	m.rebuildReach(pos)
	return nil
}

// Remove forgets the diffs with the identities of those given, and tells how
// many there were.
func (m *Manager) Remove(diffs ...Diff) int {
	type identity struct{ b, e Snap }
	gone := make(map[identity]bool, len(diffs))
	for _, d := range diffs {
		gone[identity{d.B, d.E}] = true
	}
	return len(m.removeIf(func(d Diff) bool { return gone[identity{d.B, d.E}] }))
}

// removeIf removes and returns, ordered by B.B, what the predicate holds for.
func (m *Manager) removeIf(gone func(Diff) bool) []Diff {
	var removed []Diff
	kept := m.diffs[:0]
	for _, d := range m.diffs {
		if gone(d) {
			removed = append(removed, d)
		} else {
			kept = append(kept, d)
		}
	}
	m.diffs = kept
	m.rebuildReach(0)
	return removed
}

func (m *Manager) rebuildReach(from int) {
	m.reach = slices.Grow(m.reach[:from], len(m.diffs)-from)
	for i := from; i < len(m.diffs); i++ {
		reach := m.diffs[i].E.B
		if i > 0 {
			reach = max(reach, m.reach[i-1])
		}
		m.reach = append(m.reach, reach)
	}
}

// from is the position of the first diff with B.B >= gid.
func (m *Manager) from(gid Gid) int {
	return sort.Search(len(m.diffs), func(i int) bool { return m.diffs[i].B.B >= gid })
}

// behind is the position of the first diff with B.B > gid.
func (m *Manager) behind(gid Gid) int {
	return sort.Search(len(m.diffs), func(i int) bool { return m.diffs[i].B.B > gid })
}

// Find gives the diff from b to e, if there is one.
func (m *Manager) Find(b, e Snap) (Diff, bool) {
	want := Diff{B: b, E: e}
	for _, d := range m.diffs[m.from(b.B):] {
		if d.B.B != b.B {
			break
		}
		if d.Same(want) {
			return d, true
		}
	}
	return Diff{}, false
}

// Len is the number of diffs.
func (m *Manager) Len() int { return len(m.diffs) }

// TotalSize sums the sizes of all diffs in bytes.
func (m *Manager) TotalSize() uint64 { return TotalSize(m.diffs) }

// All lists all diffs by B.B, equal ones in the order of insertion.
func (m *Manager) All() []Diff { return slices.Clone(m.diffs) }

// Between lists the diffs with b <= B.B < e, ordered as [Manager.All] does.
// It is an error if b >= e.
func (m *Manager) Between(b, e Gid) ([]Diff, error) {
	if b >= e {
		return nil, errorf(walberr.Range, "MetaDiffManager::getAll:gid0 >= gid1:%d:%d", b, e)
	}
	return slices.Clone(m.diffs[m.from(b):m.from(e)]), nil
}

// MinMaxGid gives the smallest B.B and the largest E.B, 0 and 0 without diffs.
func (m *Manager) MinMaxGid() (lo, hi Gid) {
	if len(m.diffs) == 0 {
		return 0, 0
	}
	return m.diffs[0].B.B, m.reach[len(m.reach)-1]
}

// ChangeSnapshot makes the snapshot gid explicit or implicit: every diff that
// begins there becomes not mergeable or mergeable. It lists the diffs that it
// really changed, as they are now. Nothing is found for the newest snapshot,
// since no diff begins there.
func (m *Manager) ChangeSnapshot(gid Gid, explicit bool) (changed []Diff, found bool) {
	for i := m.from(gid); i < len(m.diffs) && m.diffs[i].B.B == gid; i++ {
		found = true
		if m.diffs[i].Mergeable == explicit {
			m.diffs[i].Mergeable = !explicit
			changed = append(changed, m.diffs[i])
		}
	}
	return changed, found
}

// GC removes what is not on the way from s to the latest snapshot, and returns it.
func (m *Manager) GC(s Snap) []Diff {
	keep := m.ApplicableList(s)
	return m.removeIf(func(d Diff) bool {
		i := sort.Search(len(keep), func(i int) bool { return keep[i].E.B >= d.E.B })
		return i == len(keep) || !keep[i].Same(d)
	})
}

// GCRange removes the diffs inside the gid range from b to e, except those of
// exactly that range, and returns them.
func (m *Manager) GCRange(b, e Gid) []Diff {
	return m.removeIf(func(d Diff) bool {
		inside := b <= d.B.B && d.E.B <= e
		whole := d.B.B == b && d.E.B == e
		return inside && !whole
	})
}

// EraseBefore removes the diffs that end at or before gid, and returns them.
func (m *Manager) EraseBefore(gid Gid) []Diff {
	return m.removeIf(func(d Diff) bool { return d.E.B <= gid })
}
