package meta

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// clean makes a mergeable clean diff of 10 bytes.
func clean(b, e Gid) Diff {
	return Diff{B: CleanSnap(b), E: CleanSnap(e), Mergeable: true, Timestamp: uint64(e), Size: 10}
}

// chain makes clean diffs from gid to gid.
func chain(gids ...Gid) []Diff {
	var list []Diff
	for i := 1; i < len(gids); i++ {
		list = append(list, clean(gids[i-1], gids[i]))
	}
	return list
}

func newManager(t testing.TB, diffs ...Diff) *Manager {
	t.Helper()
	m, err := NewManager(diffs)
	require.NoError(t, err)
	return m
}

func gids(list []Restorable) []Gid {
	var out []Gid
	for _, r := range list {
		out = append(out, r.Gid)
	}
	return out
}

func TestManagerRefusals(t *testing.T) {
	for _, c := range []struct {
		d    Diff
		code walberr.Code
		text string
	}{
		{clean(0, 1), walberr.Conflict, "MetaDiffManager::add:already exists:|0|-->|1|"},
		{clean(1, 1), walberr.Range, "MetaDiff::broken progress constraint for B:|1|:|1|"},
		{Diff{B: Snap{2, 1}, E: CleanSnap(3)}, walberr.Range, "MetaSnap::check:must be gidB <= gidE:2:1"},
		{Diff{B: CleanSnap(1), E: Snap{3, 2}}, walberr.Range, "MetaSnap::check:must be gidB <= gidE:3:2"},
		{Diff{B: CleanSnap(1), E: CleanSnap(2), Timestamp: MaxTimestamp + 1}, walberr.Range, "MetaDiff::timestamp is too large:253402300800:253402300799"},
	} {
		m := newManager(t, clean(0, 1))
		err := m.Add(c.d)
		require.EqualError(t, err, c.text)
		var refusal *Error
		require.ErrorAs(t, err, &refusal)
		assert.Equal(t, c.code, refusal.Code)
		assert.Equal(t, 1, m.Len(), "a refused diff leaves no trace")

		_, err = NewManager([]Diff{clean(0, 1), c.d})
		assert.EqualError(t, err, c.text)
	}
}

func TestManagerFindAndRemove(t *testing.T) {
	d := clean(1, 2)
	m := newManager(t, clean(0, 1), d, clean(1, 3))
	got, found := m.Find(d.B, d.E)
	assert.True(t, found)
	assert.Equal(t, d, got)
	other := d
	other.Mergeable, other.Size = false, 0
	assert.Equal(t, 1, m.Remove(other, other), "identity is the range alone")
	assert.Equal(t, 0, m.Remove(d))
	_, found = m.Find(d.B, d.E)
	assert.False(t, found)
	assert.Equal(t, 2, m.Len())
	require.NoError(t, m.Add(d))
	assert.Equal(t, []Diff{clean(0, 1), clean(1, 3), d}, m.All())
}

func TestListsAreCopies(t *testing.T) {
	m := newManager(t, chain(0, 1, 2)...)
	all := m.All()
	between, err := m.Between(0, 2)
	require.NoError(t, err)
	all[0].Mergeable, between[1].Mergeable = false, false
	assert.Equal(t, chain(0, 1, 2), m.All())
}

func TestListLimits(t *testing.T) {
	m := newManager(t, chain(0, 1, 2, 3, 4)...)
	for _, c := range []struct {
		size uint64
		nr   int
		want int
	}{
		{0, 0, 1},
		{19, 0, 1},
		{20, 0, 2},
		{39, 0, 3},
		{40, 0, 4},
		{math.MaxUint64, 3, 3},
		{math.MaxUint64, 0, 4},
		{0, 3, 1},
	} {
		assert.Len(t, m.ListToMerge(0, c.size, c.nr), c.want, "%+v", c)
		assert.Len(t, m.ListToSend(CleanSnap(0), c.size, c.nr), c.want, "%+v", c)
	}

	huge := chain(0, 1, 2)
	huge[0].Size, huge[1].Size = math.MaxUint64-1, math.MaxUint64
	m = newManager(t, huge...)
	assert.Len(t, m.ListToMerge(0, math.MaxUint64, 0), 1, "the sum does not wrap around")
}

func TestListToMergeGid(t *testing.T) {
	m := newManager(t, chain(0, 1, 2, 3, 4)...)
	assert.Equal(t, chain(1, 2, 3), m.ListToMergeGid(1, 3))
	assert.Equal(t, chain(1, 2), m.ListToMergeGid(1, 2))
	assert.Empty(t, m.ListToMergeGid(1, 1))
	assert.Empty(t, m.ListToMergeGid(4, 9))
}

func TestListToSendUntil(t *testing.T) {
	m := newManager(t, chain(0, 1, 2, 3, 4, 6)...)
	for _, c := range []struct {
		from  Gid
		stops []Gid
		want  []Diff
	}{
		{0, nil, chain(0, 1, 2, 3, 4, 6)},
		{0, []Gid{0}, chain(0, 1, 2, 3, 4, 6)}, // the start is no stop
		{0, []Gid{3, 0, 2}, chain(0, 1, 2)},
		{2, []Gid{0, 2, 3}, chain(2, 3)},
		{3, []Gid{0, 2, 3}, chain(3, 4, 6)},
		{3, []Gid{5}, chain(3, 4, 6)}, // nothing leads to 5
		{6, []Gid{6}, nil},
	} {
		assert.Equal(t, c.want, m.ListToSendUntil(CleanSnap(c.from), 1000, 0, c.stops), "%+v", c)
	}
	stops := []Gid{3, 0, 2}
	m.ListToSendUntil(CleanSnap(0), 1000, 0, stops)
	assert.Equal(t, []Gid{3, 0, 2}, stops, "the caller's slice is not sorted in place")
}

func TestGroupsNeverLoseTheFarEnd(t *testing.T) {
	far := Diff{B: CleanSnap(0), E: Snap{1, 9}, Mergeable: true}
	near := Diff{B: Snap{1, 5}, E: Snap{6, 7}, Mergeable: true}
	m := newManager(t, far, near)
	assert.Equal(t, []Diff{far}, m.MergeableList(0))
	assert.Equal(t, []Diff{far}, m.ApplicableAndMergeable(CleanSnap(0)))
}

func TestApplyingBaseIsReadableOnlyBehindItsTarget(t *testing.T) {
	applying := State{Applying: true, B: CleanSnap(0), E: CleanSnap(3), Timestamp: 9}

	m := newManager(t, chain(0, 1, 2, 3, 4)...)
	assert.Equal(t, chain(0, 1, 2, 3), m.MinApplicable(applying))
	assert.Equal(t, []Gid{3, 4}, gids(m.Restorable(applying, true)))
	_, ok := m.Materialize(applying, 2, false)
	assert.False(t, ok)
	assert.Equal(t, chain(0, 1, 2, 3), m.ListToApply(applying, 1, 1))

	// 2-->3 was replaced by a longer diff: the way leads past the target.
	m = newManager(t, append(chain(0, 1, 2), clean(2, 5))...)
	assert.Equal(t, append(chain(0, 1, 2), clean(2, 5)), m.MinApplicable(applying))
	assert.Equal(t, []Gid{5}, gids(m.Restorable(applying, true)))
	_, ok = m.Materialize(applying, 2, false)
	assert.False(t, ok, "the image may hold data of 3 already")
	_, ok = m.Materialize(applying, 5, true)
	assert.True(t, ok)
	assert.Equal(t, append(chain(0, 1, 2), clean(2, 5)), m.ListToApply(applying, 2, 0))

	// 2-->3 is gone: nothing can be read.
	m = newManager(t, chain(0, 1, 2)...)
	assert.Empty(t, m.Restorable(applying, true))
	assert.Empty(t, m.ListToApply(applying, 9, 0))
	_, ok = m.Materialize(applying, 2, false)
	assert.False(t, ok)
	_, err := m.OldestCleanState(applying)
	assert.EqualError(t, err, "MetaDiffManager::getOldestCleanState:there is no clean snapshot.")
}

func TestStateRefusals(t *testing.T) {
	st := NewState(CleanSnap(0), 1)
	for _, f := range []func([]Diff) (State, error){st.BeginApplying, st.EndApplying} {
		_, err := f(chain(1, 2))
		assert.EqualError(t, err, "apply:can not apply:|0|:|1|-->|2|")
	}
	assert.False(t, st.CanApply(chain(1, 2)))
	assert.ErrorContains(t, State{B: Snap{2, 1}}.Check(), "2:1")
	assert.ErrorContains(t, State{E: Snap{3, 1}}.Check(), "3:1")
	assert.True(t, st.Equal(State{B: st.B, E: CleanSnap(8), Timestamp: 2}), "neither E nor the time counts")
	assert.False(t, st.Equal(State{Applying: true, B: st.B, E: CleanSnap(8)}))
}

func BenchmarkManager(b *testing.B) {
	const n = 10000
	var diffs []Diff
	for i := range Gid(n) {
		diffs = append(diffs, clean(i, i+1))
	}
	m := newManager(b, diffs...)
	base := NewState(CleanSnap(0), 1)
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			newManager(b, diffs...)
		}
	})
	b.Run("restorable", func(b *testing.B) {
		for b.Loop() {
			m.Restorable(base, true)
		}
	})
	b.Run("listToSend", func(b *testing.B) {
		for b.Loop() {
			m.ListToSend(CleanSnap(n/2), 100, 100)
		}
	})
	b.Run("gc", func(b *testing.B) {
		for b.Loop() {
			m.GC(CleanSnap(0))
		}
	})
}
