package meta

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// twin is a manager without any cleverness: a list that is searched from end to
// end for every question.
type twin struct{ diffs []Diff }

func (w *twin) add(d Diff) bool {
	for _, o := range w.diffs {
		if o.Same(d) {
			return false
		}
	}
	w.diffs = append(w.diffs, d)
	return true
}

func (w *twin) all() []Diff {
	var list []Diff
	for len(list) < len(w.diffs) {
		var best *Diff
		for i := range w.diffs {
			d := &w.diffs[i]
			if !containsSame(list, *d) && (best == nil || d.B.B < best.B.B) {
				best = d
			}
		}
		list = append(list, *best)
	}
	return list
}

func containsSame(list []Diff, d Diff) bool { return slices.ContainsFunc(list, d.Same) }

func (w *twin) best(gid Gid, fits func(Diff) bool) (Diff, bool) {
	var fitting []Diff
	for _, d := range w.diffs {
		if d.B.B <= gid && gid < d.E.B && fits(d) {
			fitting = append(fitting, d)
		}
	}
	d, err := MaxProgress(fitting)
	return d, err == nil
}

func (w *twin) applicable(s Snap) (Diff, bool) {
	return w.best(s.B, func(d Diff) bool { return s.CanApply(d) })
}

func (w *twin) applicableList(s Snap, last Gid) []Diff {
	var list []Diff
	for {
		d, found := w.applicable(s)
		if !found {
			return list
		}
		next, err := s.Apply(d)
		if err != nil || next.B > last {
			return list
		}
		list, s = append(list, d), next
	}
}

func merges(list []Diff, d Diff) bool {
	sum, _ := MergeAll(list)
	return sum.CanMerge(d) && (d.IsClean() || sum.E.E <= d.E.E)
}

func (w *twin) mergeableList(gid Gid) []Diff {
	var first []Diff
	for _, d := range w.all() {
		if d.B.B >= gid && (len(first) == 0 || d.B.B == first[0].B.B) {
			first = append(first, d)
		}
	}
	if len(first) == 0 {
		return nil
	}
	d, _ := MaxProgress(first)
	list := []Diff{d}
	for {
		sum, _ := MergeAll(list)
		d, found := w.best(sum.E.B, func(d Diff) bool { return merges(list, d) })
		if !found {
			return list
		}
		list = append(list, d)
	}
}

func (w *twin) listToSend(s Snap, size uint64, nr int, stops []Gid) []Diff {
	var list []Diff
	for _, d := range w.applicableList(s, MaxGid) {
		if len(list) > 0 {
			reached, _ := s.Apply(list...)
			full := TotalSize(list)+d.Size > size || nr > 0 && len(list) == nr
			if full || !merges(list, d) || slices.Contains(stops, reached.B) {
				break
			}
		}
		list = append(list, d)
	}
	return list
}

func (w *twin) restorable(base Snap) []Gid {
	var gids []Gid
	list := w.applicableList(base, MaxGid)
	for i := 0; i <= len(list); i++ {
		if s, _ := base.Apply(list[:i]...); s.IsClean() {
			gids = append(gids, s.B)
		}
	}
	return gids
}

// asText makes lists comparable whether they are empty or nil.
func asText(diffs []Diff) []string {
	var list []string
	for _, d := range diffs {
		list = append(list, d.Verbose())
	}
	return list
}

func randomSnap(r *rand.Rand, most Gid) Snap {
	b := Gid(r.Uint64N(uint64(most)))
	if r.IntN(4) > 0 {
		return CleanSnap(b)
	}
	return Snap{B: b, E: b + Gid(r.Uint64N(4))}
}

func randomDiff(r *rand.Rand, most Gid) Diff {
	for {
		d := Diff{
			B: randomSnap(r, most), E: randomSnap(r, most),
			Mergeable: r.IntN(4) > 0, Comp: r.IntN(12) == 0,
			Timestamp: r.Uint64N(1000), Size: r.Uint64N(100),
		}
		short := r.IntN(3) > 0 // mostly chains of short diffs, as from logs
		if short {
			d.E = CleanSnap(d.B.B + 1 + Gid(r.Uint64N(2)))
		}
		if d.Check() == nil {
			return d
		}
	}
}

// newRand prints its seed, so that a failure can be run again.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestManagerAgreesWithTwin(t *testing.T) {
	r := newRand(t)
	for range 20 {
		most := Gid(6 + r.Uint64N(40))
		m, w := &Manager{}, &twin{}
		for range r.IntN(60) {
			d := randomDiff(r, most)
			assert.Equal(t, w.add(d), m.Add(d) == nil, "add %s", d)
			if r.IntN(10) == 0 && len(w.diffs) > 0 {
				gone := w.diffs[r.IntN(len(w.diffs))]
				w.diffs = slices.DeleteFunc(w.diffs, gone.Same)
				assert.Equal(t, 1, m.Remove(gone))
			}
		}
		require.Equal(t, asText(w.all()), asText(m.All()))
		again, err := NewManager(w.diffs)
		require.NoError(t, err)
		require.Equal(t, asText(m.All()), asText(again.All()), "order of insertion")

		for gid := range most + 3 {
			s := Snap{B: gid, E: gid + Gid(r.Uint64N(3))}
			st := NewState(s, 7)
			size, nr := r.Uint64N(300), r.IntN(5)
			stops := []Gid{Gid(r.Uint64N(uint64(most))), Gid(r.Uint64N(uint64(most)))}
			last := Gid(r.Uint64N(uint64(most)))

			require.Equal(t, w.applicableList(s, MaxGid), m.ApplicableList(s), "%s from %s", w.diffs, s)
			require.Equal(t, w.applicableList(s, last), m.ApplicableListByGid(s, last), "%s from %s", w.diffs, s)
			require.Equal(t, w.mergeableList(gid), m.MergeableList(gid), "%s from %d", w.diffs, gid)
			require.Equal(t, w.listToSend(s, size, nr, nil), m.ListToSend(s, size, nr), "%s from %s", w.diffs, s)
			require.Equal(t, w.listToSend(s, size, nr, stops), m.ListToSendUntil(s, size, nr, stops), "%s from %s", w.diffs, s)

			var gids []Gid
			for _, e := range m.Restorable(st, true) {
				gids = append(gids, e.Gid)
				_, ok := m.Materialize(st, e.Gid, true)
				assert.True(t, ok, "%s is restorable from %s", e, st)
			}
			require.Equal(t, w.restorable(s), gids, "%s from %s", w.diffs, s)
		}

		var lo, hi Gid
		for i, d := range w.diffs {
			if i == 0 || d.B.B < lo {
				lo = d.B.B
			}
			hi = max(hi, d.E.B)
		}
		gotLo, gotHi := m.MinMaxGid()
		assert.Equal(t, []Gid{lo, hi}, []Gid{gotLo, gotHi})

		start := CleanSnap(Gid(r.Uint64N(uint64(most))))
		keep := w.applicableList(start, MaxGid)
		removed := m.GC(start)
		assert.Equal(t, len(keep), m.Len())
		assert.Len(t, removed, len(w.diffs)-len(keep))
		assert.Equal(t, keep, m.ApplicableList(start))
	}
}

func TestEveryListMergesAndApplies(t *testing.T) {
	r := newRand(t)
	for range 2000 {
		m := &Manager{}
		for range r.IntN(25) {
			_ = m.Add(randomDiff(r, 12)) // a second one of the same range is refused
		}
		s := randomSnap(r, 12)
		for _, list := range [][]Diff{m.ApplicableAndMergeable(s), m.MergeableList(s.B), m.ListToMergeGid(s.B, s.B+4)} {
			if len(list) == 0 {
				continue
			}
			sum, err := MergeAll(list)
			require.NoError(t, err)
			assert.NoError(t, sum.Check(), "%v", list)
		}
		next := s
		for _, d := range m.ApplicableList(s) {
			before := next
			var err error
			next, err = next.Apply(d)
			require.NoError(t, err)
			assert.NoError(t, next.Check())
			assert.Greater(t, next.B, before.B, "progress is strict")
		}
	}
}
