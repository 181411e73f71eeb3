package meta

import (
	"slices"

	"walbsh/walbcore/walberr"
)

// best gives the max-progress choice among the diffs that cover gid
// (B.B <= gid < E.B) and that fit.
func (m *Manager) best(gid Gid, fits func(*Diff) bool) (Diff, bool) {
	var best Diff
	found := false
	for i := m.behind(gid) - 1; i >= 0 && m.reach[i] > gid; i-- {
		d := &m.diffs[i]
		if d.E.B <= gid || !fits(d) {
			continue
		}
		// Going back, so that the first of full ties comes last.
		if !found || !best.leadsFurther(*d) {
			best, found = *d, true
		}
	}
	return best, found
}

// Applicable gives the diff to apply next to an image at s: among those that
// can be applied the one that leads furthest.
func (m *Manager) Applicable(s Snap) (Diff, bool) {
	return m.best(s.B, func(d *Diff) bool { return s.Relation(*d) == Applicable })
}

// walk follows the applicable diffs from s while step, given the next diff and
// the snapshot behind it, returns true.
func (m *Manager) walk(s Snap, step func(d Diff, behind Snap) bool) {
	for {
		d, found := m.Applicable(s)
		if !found {
			return
		}
		s = s.behind(d)
		if !step(d, s) {
			return
		}
	}
}

// applicableWhile lists the applicable diffs from s up to the first for which ok is false.
// The choice is greedy: another diff is not tried in the place of that one.
func (m *Manager) applicableWhile(s Snap, ok func(d Diff, behind Snap) bool) []Diff {
	var list []Diff
	m.walk(s, func(d Diff, behind Snap) bool {
		if !ok(d, behind) {
			return false
		}
		list = append(list, d)
		return true
	})
	return list
}

// ApplicableList lists the diffs from s to the latest snapshot.
func (m *Manager) ApplicableList(s Snap) []Diff {
	return m.applicableWhile(s, func(Diff, Snap) bool { return true })
}

// ApplicableListByGid lists the diffs from s that lead to snapshots with B <= last.
func (m *Manager) ApplicableListByGid(s Snap, last Gid) []Diff {
	return m.applicableWhile(s, func(_ Diff, behind Snap) bool { return behind.B <= last })
}

// ApplicableListByTime lists the diffs from s with timestamps up to last.
func (m *Manager) ApplicableListByTime(s Snap, last uint64) []Diff {
	return m.applicableWhile(s, func(d Diff, _ Snap) bool { return d.Timestamp <= last })
}

// group collects diffs that merge into one.
type group struct {
	diffs []Diff
	sum   Diff // the merged diff; valid iff there are diffs
}

// add takes d in, unless the group cannot be merged with it.
func (g *group) add(d Diff) bool {
	sum := d
	if len(g.diffs) > 0 {
		if !g.canAdd(&d) {
			return false
		}
		sum = g.sum.merged(d)
	}
	g.diffs = append(g.diffs, d)
	g.sum = sum
	return true
}

// canAdd also looks at the far ends: a receiver would refuse a merged diff that
// ends before it begins, and must not be told less than it gets.
func (g *group) canAdd(d *Diff) bool {
	return g.sum.CanMerge(*d) && (d.IsClean() || g.sum.E.E <= d.E.E)
}

// budget limits a list: at least one diff, at most size bytes, at most nr files.
// With nr <= 0 the number is not limited.
type budget struct {
	size  uint64
	nr    int
	total uint64
	count int
}

// take asks for room for the next diff of the list.
func (b *budget) take(d Diff) bool {
	if b.count > 0 {
		if b.total > b.size || d.Size > b.size-b.total || b.nr > 0 && b.count >= b.nr {
			return false
		}
	}
	b.total += d.Size
	b.count++
	return true
}

func always(Diff) bool { return true }

// MergeableList lists diffs that merge into one: first the one that leads
// furthest among those with the smallest B.B >= gid, then the successors. One
// diff without successor is a list of one.
func (m *Manager) MergeableList(gid Gid) []Diff { return m.mergeableWhile(gid, always) }

// mergeableWhile is MergeableList up to the first diff for which ok is false.
func (m *Manager) mergeableWhile(gid Gid, ok func(Diff) bool) []Diff {
	pos := m.from(gid)
	if pos == len(m.diffs) {
		return nil
	}
	d, err := MaxProgress(m.diffs[pos:m.behind(m.diffs[pos].B.B)])
	found := err == nil
	var g group
	for found && ok(d) && g.add(d) {
		d, found = m.best(g.sum.E.B, g.canAdd)
	}
	return g.diffs
}

// ListToMerge is [Manager.MergeableList], limited to size bytes and nr files
// (nr <= 0: any number). The first diff is always in it. A proxy's list to send is that of gid 0.
func (m *Manager) ListToMerge(gid Gid, size uint64, nr int) []Diff {
	limit := budget{size: size, nr: nr}
	return m.mergeableWhile(gid, limit.take)
}

// ListToMergeGid is [Manager.MergeableList] of b up to the last diff that begins before e.
func (m *Manager) ListToMergeGid(b, e Gid) []Diff {
	return m.mergeableWhile(b, func(d Diff) bool { return d.B.B < e })
}

// ApplicableAndMergeable lists the applicable diffs from s as far as they merge
// into one. It is empty only if nothing is applicable.
func (m *Manager) ApplicableAndMergeable(s Snap) []Diff { return m.sendWhile(s, always, nil) }

// sendWhile is ApplicableAndMergeable up to the first diff for which ok is
// false, and up to the first of the ascending stops that is reached.
func (m *Manager) sendWhile(s Snap, ok func(Diff) bool, stops []Gid) []Diff {
	var g group
	m.walk(s, func(d Diff, behind Snap) bool {
		if !ok(d) || !g.add(d) {
			return false
		}
		_, stop := slices.BinarySearch(stops, behind.B)
		return !stop
	})
	return g.diffs
}

// ListToSend is [Manager.ApplicableAndMergeable] of the receiver's snapshot s,
// limited to size bytes and nr files (nr <= 0: any number). The first diff is
// always in it.
func (m *Manager) ListToSend(s Snap, size uint64, nr int) []Diff {
	return m.ListToSendUntil(s, size, nr, nil)
}

// ListToSendUntil is [Manager.ListToSend], and the list ends as soon as it has
// led to one of the stops. So a receiver that starts at a stop, or at a
// snapshot on the way to it, and takes every list as one diff, comes to be at
// each stop on the way. The order of the stops does not matter; ascending is fastest.
func (m *Manager) ListToSendUntil(s Snap, size uint64, nr int, stops []Gid) []Diff {
	if !slices.IsSorted(stops) {
		stops = slices.Sorted(slices.Values(stops))
	}
	limit := budget{size: size, nr: nr}
	return m.sendWhile(s, limit.take, stops)
}

// completion is the shortest applicable list that completes an application
// already begun: empty if none was. It fails if the diffs do not lead to its target.
func (m *Manager) completion(st State) ([]Diff, bool) {
	if st.reachedBy(st.B) {
		return nil, true
	}
	var list []Diff
	reached := false
	m.walk(st.B, func(d Diff, behind Snap) bool {
		list = append(list, d)
		reached = st.reachedBy(behind)
		return !reached
	})
	return list, reached
}

// MinApplicable lists the diffs that must be applied to a base image before it
// can be read: those up to the target, if it is being applied to, otherwise
// none. Where the diffs no longer lead to the target, these are all there are.
func (m *Manager) MinApplicable(st State) []Diff {
	list, _ := m.completion(st)
	return list
}

// LatestState gives the state of the base image after all applicable diffs.
// It is st itself if there are none.
func (m *Manager) LatestState(st State) State { return after(st, m.ApplicableList(st.B)) }

// after is EndApplying for diffs known to be applicable.
func after(st State, diffs []Diff) State {
	for _, d := range diffs {
		st = NewState(st.B.behind(d), d.Timestamp)
	}
	return st
}

// OldestCleanState gives the state of the first clean snapshot from st on.
func (m *Manager) OldestCleanState(st State) (State, error) {
	list, found := m.completion(st)
	st = after(st, list)
	for found && !st.B.IsClean() {
		var d Diff
		if d, found = m.Applicable(st.B); found {
			st = after(st, []Diff{d})
		}
	}
	if !found {
		return State{}, errorf(walberr.NotFound, "MetaDiffManager::getOldestCleanState:there is no clean snapshot.")
	}
	return st, nil
}

// ListToApply lists the diffs that bring a base image to gid or as far as they
// go, at most maxNr of them (maxNr <= 0: any number). The list is never shorter
// than [Manager.MinApplicable]. It is empty if there is nothing to apply.
func (m *Manager) ListToApply(st State, gid Gid, maxNr int) []Diff {
	must, found := m.completion(st)
	if !found {
		return nil
	}
	list := cut(m.ApplicableListByGid(st.B, gid), maxNr)
	if len(list) < len(must) {
		return must
	}
	return list
}

func cut(list []Diff, maxNr int) []Diff {
	if maxNr > 0 && len(list) > maxNr {
		return list[:maxNr]
	}
	return list
}

// Materialize lists the diffs that, laid over the base image, give the snapshot
// gid; none for the base's own gid. It is false if that snapshot cannot be had,
// or if it must be clean and is not.
func (m *Manager) Materialize(st State, gid Gid, mustBeClean bool) ([]Diff, bool) {
	list := m.ApplicableListByGid(st.B, gid)
	s := after(st, list).B
	if s.B != gid || !st.reachedBy(s) || mustBeClean && !s.IsClean() {
		return nil, false
	}
	return list, true
}

// ListToRestore is [Manager.Materialize] of a clean snapshot, cut to maxNr diffs
// (maxNr <= 0: any number); the caller applies them and asks again.
func (m *Manager) ListToRestore(st State, gid Gid, maxNr int) ([]Diff, bool) {
	list, ok := m.Materialize(st, gid, true)
	return cut(list, maxNr), ok
}

// ListToScan is [Manager.Materialize] of any snapshot. It is false if more than
// maxNr diffs are needed (maxNr <= 0: any number).
func (m *Manager) ListToScan(st State, gid Gid, maxNr int) ([]Diff, bool) {
	list, ok := m.Materialize(st, gid, false)
	if maxNr > 0 && len(list) > maxNr {
		return nil, false
	}
	return list, ok
}

// Restorable lists the clean snapshots that [Manager.ListToRestore] accepts,
// ascending. The base image's own comes first, never as an explicit one; the
// newest counts as explicit. Without all, implicit ones are left out.
func (m *Manager) Restorable(st State, all bool) []Restorable {
	must, found := m.completion(st)
	if !found {
		return nil
	}
	diffs := m.ApplicableList(st.B)[len(must):]
	st = after(st, must)
	var list []Restorable
	emit := func(explicit bool) {
		if st.B.IsClean() {
			list = append(list, Restorable{Gid: st.B.B, Timestamp: st.Timestamp, Explicit: explicit})
		}
	}
	emit(false)
	for i, d := range diffs {
		st = after(st, []Diff{d})
		explicit := i == len(diffs)-1 || !diffs[i+1].Mergeable
		if all || explicit {
			emit(explicit)
		}
	}
	return list
}
