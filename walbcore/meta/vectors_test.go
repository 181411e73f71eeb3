package meta

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The rows of testdata/meta_algebra.json were recorded from the original. The
// types below are their shape.

type vecSnap [2]Gid

func (v vecSnap) snap() Snap   { return Snap{B: v[0], E: v[1]} }
func vecOfSnap(s Snap) vecSnap { return vecSnap{s.B, s.E} }
func vecOfGids(b, e Gid) []Gid { return []Gid{b, e} }
func vecOfDiff(d Diff) *vecDiff {
	return &vecDiff{vecOfSnap(d.B), vecOfSnap(d.E), d.Mergeable, d.Comp, d.Timestamp, d.Size}
}

type vecDiff struct {
	B         vecSnap `json:"b"`
	E         vecSnap `json:"e"`
	Mergeable bool    `json:"mergeable"`
	Comp      bool    `json:"comp"`
	Timestamp uint64  `json:"ts"`
	Size      uint64  `json:"size"`
}

func (v *vecDiff) diff() Diff {
	return Diff{B: v.B.snap(), E: v.E.snap(), Mergeable: v.Mergeable, Comp: v.Comp, Timestamp: v.Timestamp, Size: v.Size}
}

func vecOfDiffs(diffs []Diff) []*vecDiff {
	list := []*vecDiff{}
	for _, d := range diffs {
		list = append(list, vecOfDiff(d))
	}
	return list
}

type vecState struct {
	Applying  bool     `json:"applying"`
	B         vecSnap  `json:"b"`
	E         *vecSnap `json:"e,omitempty"`
	Timestamp uint64   `json:"ts"`
}

func (v *vecState) state() State {
	st := NewState(v.B.snap(), v.Timestamp)
	st.Applying = v.Applying
	if v.Applying {
		st.E = v.E.snap()
	}
	return st
}

func vecOfState(st State) *vecState {
	v := &vecState{Applying: st.Applying, B: vecOfSnap(st.B), Timestamp: st.Timestamp}
	if st.Applying {
		e := vecOfSnap(st.E)
		v.E = &e
	}
	return v
}

type vecArgs struct {
	Snap   vecSnap    `json:"snap"`
	B      vecSnap    `json:"b"`
	E      vecSnap    `json:"e"`
	Diff   *vecDiff   `json:"diff"`
	D0     *vecDiff   `json:"d0"`
	D1     *vecDiff   `json:"d1"`
	Outer  *vecDiff   `json:"outer"`
	Inner  *vecDiff   `json:"inner"`
	Diffs  []*vecDiff `json:"diffs"`
	State  *vecState  `json:"state"`
	Gid    Gid        `json:"gid"`
	GidB   Gid        `json:"gid_b"`
	GidE   Gid        `json:"gid_e"`
	Gid0   Gid        `json:"gid0"`
	Gid1   Gid        `json:"gid1"`
	MaxGid Gid        `json:"max_gid"`
	MaxTs  uint64     `json:"max_ts"`
	MaxNr  int        `json:"max_nr"`
	Size   uint64     `json:"max_size"`
	All    bool       `json:"all"`
	Enable bool       `json:"enable"`
	Name   string     `json:"name"`
	Str    string     `json:"str"`
}

func (a *vecArgs) diffs() []Diff {
	var list []Diff
	for _, v := range a.Diffs {
		list = append(list, v.diff())
	}
	return list
}

type object = map[string]any

func removal(m *Manager, removed []Diff) object {
	return object{"removed": vecOfDiffs(removed), "left": vecOfDiffs(m.All())}
}

func okList(list []Diff, ok bool) object {
	if !ok {
		return object{"ok": false}
	}
	return object{"ok": true, "diffs": vecOfDiffs(list)}
}

// checked gives v, or the error.
func checked[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

func checkedDiff(d Diff, err error) (any, error)    { return checked(vecOfDiff(d), err) }
func checkedState(st State, err error) (any, error) { return checked(vecOfState(st), err) }
func checkedSnap(s Snap, err error) (any, error)    { return checked(vecOfSnap(s), err) }

var algebraOps = map[string]func(a *vecArgs) (any, error){
	"new_snap":        func(a *vecArgs) (any, error) { return checkedSnap(a.Snap.snap(), a.Snap.snap().Check()) },
	"relation":        func(a *vecArgs) (any, error) { return a.Snap.snap().Relation(a.Diff.diff()).String(), nil },
	"apply_snap":      func(a *vecArgs) (any, error) { return checkedSnap(a.Snap.snap().Apply(a.Diff.diff())) },
	"apply_snap_list": func(a *vecArgs) (any, error) { return checkedSnap(a.Snap.snap().Apply(a.diffs()...)) },
	"can_merge":       func(a *vecArgs) (any, error) { return a.D0.diff().CanMerge(a.D1.diff()), nil },
	"merge":           func(a *vecArgs) (any, error) { return checkedDiff(a.D0.diff().Merge(a.D1.diff())) },
	"merge_list":      func(a *vecArgs) (any, error) { return checkedDiff(MergeAll(a.diffs())) },
	"contains":        func(a *vecArgs) (any, error) { return a.Outer.diff().Contains(a.Inner.diff()), nil },
	"max_progress":    func(a *vecArgs) (any, error) { return checkedDiff(MaxProgress(a.diffs())) },
	"state_can_apply": func(a *vecArgs) (any, error) { return a.State.state().CanApply(a.diffs()), nil },
	"begin_applying":  func(a *vecArgs) (any, error) { return checkedState(a.State.state().BeginApplying(a.diffs())) },
	"end_applying":    func(a *vecArgs) (any, error) { return checkedState(a.State.state().EndApplying(a.diffs())) },

	"new_diff": func(a *vecArgs) (any, error) {
		d := Diff{B: a.B.snap(), E: a.E.snap()}
		return checkedDiff(d, d.Check())
	},
	"new_state": func(a *vecArgs) (any, error) {
		st := State{Applying: true, B: a.B.snap(), E: a.E.snap()}
		return checkedState(st, st.Check())
	},

	"diff_file_name":       func(a *vecArgs) (any, error) { return a.Diff.diff().FileName(), nil },
	"parse_diff_file_name": func(a *vecArgs) (any, error) { return checkedDiff(ParseFileName(a.Name)) },
	"snap_str":             func(a *vecArgs) (any, error) { return a.Snap.snap().String(), nil },
	"diff_str":             func(a *vecArgs) (any, error) { return a.Diff.diff().String(), nil },
	"diff_str_verbose":     func(a *vecArgs) (any, error) { return a.Diff.diff().Verbose(), nil },
	"state_str":            func(a *vecArgs) (any, error) { return a.State.state().String(), nil },
	"state_str_ts":         func(a *vecArgs) (any, error) { return a.State.state().Text(), nil },
	"parse_snap":           func(a *vecArgs) (any, error) { return checkedSnap(ParseSnap(a.Str)) },
	"parse_state":          func(a *vecArgs) (any, error) { return checkedState(ParseState(a.Str, 0)) },
}

// managerOps run on a manager of the row's diffs.
var managerOps = map[string]func(m *Manager, a *vecArgs) (any, error){
	"mgr_add_all": func(m *Manager, a *vecArgs) (any, error) { return vecOfDiffs(m.All()), nil },
	"mgr_applicable_list": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ApplicableList(a.Snap.snap())), nil
	},
	"mgr_applicable_by_gid": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ApplicableListByGid(a.Snap.snap(), a.MaxGid)), nil
	},
	"mgr_applicable_by_time": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ApplicableListByTime(a.Snap.snap(), a.MaxTs)), nil
	},
	"mgr_mergeable_list": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.MergeableList(a.Gid)), nil
	},
	"mgr_applicable_and_mergeable": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ApplicableAndMergeable(a.Snap.snap())), nil
	},
	"mgr_min_applicable": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.MinApplicable(a.State.state())), nil
	},
	"mgr_latest_state": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfState(m.LatestState(a.State.state())), nil
	},
	"mgr_oldest_clean_state": func(m *Manager, a *vecArgs) (any, error) {
		return checkedState(m.OldestCleanState(a.State.state()))
	},
	"mgr_restorable": func(m *Manager, a *vecArgs) (any, error) {
		list := []object{}
		for _, r := range m.Restorable(a.State.state(), a.All) {
			list = append(list, object{"gid": r.Gid, "ts": r.Timestamp, "explicit": r.Explicit})
		}
		return list, nil
	},
	"mgr_list_to_apply": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ListToApply(a.State.state(), a.Gid, a.MaxNr)), nil
	},
	"mgr_list_to_restore": func(m *Manager, a *vecArgs) (any, error) {
		return okList(m.ListToRestore(a.State.state(), a.Gid, a.MaxNr)), nil
	},
	"mgr_list_to_scan": func(m *Manager, a *vecArgs) (any, error) {
		return okList(m.ListToScan(a.State.state(), a.Gid, a.MaxNr)), nil
	},
	"files_list_to_send": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ListToSend(a.Snap.snap(), a.Size, a.MaxNr)), nil
	},
	"files_list_to_send_proxy": func(m *Manager, a *vecArgs) (any, error) {
		return vecOfDiffs(m.ListToMerge(0, a.Size, a.MaxNr)), nil
	},
	"mgr_change_snapshot": func(m *Manager, a *vecArgs) (any, error) {
		changed, found := m.ChangeSnapshot(a.Gid, a.Enable)
		return object{"found": found, "changed": vecOfDiffs(changed)}, nil
	},
	"mgr_gc":           func(m *Manager, a *vecArgs) (any, error) { return removal(m, m.GC(a.Snap.snap())), nil },
	"mgr_gc_range":     func(m *Manager, a *vecArgs) (any, error) { return removal(m, m.GCRange(a.GidB, a.GidE)), nil },
	"mgr_erase_before": func(m *Manager, a *vecArgs) (any, error) { return removal(m, m.EraseBefore(a.Gid)), nil },
	"mgr_get_all": func(m *Manager, a *vecArgs) (any, error) {
		list, err := m.Between(a.Gid0, a.Gid1)
		return checked(vecOfDiffs(list), err)
	},
	"mgr_min_max_gid": func(m *Manager, a *vecArgs) (any, error) { return vecOfGids(m.MinMaxGid()), nil },
}

func runVector(op string, a *vecArgs) (any, error) {
	if f := algebraOps[op]; f != nil {
		return f(a)
	}
	m := &Manager{}
	for _, d := range a.diffs() {
		if err := m.Add(d); err != nil {
			return nil, err
		}
	}
	return managerOps[op](m, a)
}

// canonical brings a value to the form in which json compares equal.
func canonical(t *testing.T, v any) any {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var out any
	require.NoError(t, dec.Decode(&out))
	return out
}

func TestRecordedAlgebra(t *testing.T) {
	data, err := os.ReadFile("testdata/meta_algebra.json")
	require.NoError(t, err)
	var file struct {
		Rows []struct {
			ID     int             `json:"id"`
			Op     string          `json:"op"`
			Args   vecArgs         `json:"args"`
			Result json.RawMessage `json:"result"`
			Note   string          `json:"note"`
		} `json:"rows"`
	}
	require.NoError(t, json.Unmarshal(data, &file))
	require.Len(t, file.Rows, 243)
	for _, row := range file.Rows {
		require.True(t, algebraOps[row.Op] != nil || managerOps[row.Op] != nil, "row %d: unknown op %s", row.ID, row.Op)
		got, err := runVector(row.Op, &row.Args)
		if err != nil {
			got = object{"error": err.Error()}
			var refusal *Error
			assert.ErrorAs(t, err, &refusal, "row %d", row.ID)
		}
		assert.Equal(t, canonical(t, row.Result), canonical(t, got), "row %d %s: %s", row.ID, row.Op, row.Note)
	}
}
