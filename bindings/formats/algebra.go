package formats

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// The values of the algebra are read-only and print as the original prints them.

// snapValue, diffValue and stateValue are values on their way to a script.
type (
	snapValue  struct{ meta.Snap }
	diffValue  struct{ meta.Diff }
	stateValue struct{ meta.State }
)

// LuaValue makes the userdata.
func (v snapValue) LuaValue(L *lua.LState) (lua.LValue, error) { return snapClass.New(L, v.Snap), nil }

// LuaValue makes the userdata.
func (v diffValue) LuaValue(L *lua.LState) (lua.LValue, error) { return diffClass.New(L, v.Diff), nil }

// LuaValue makes the userdata.
func (v stateValue) LuaValue(L *lua.LState) (lua.LValue, error) {
	return stateClass.New(L, v.State), nil
}

// algebraErr gives a refusal of the algebra its place. Its text is the
// original's.
func algebraErr(op string, err error) error {
	if refusal, ok := errors.AsType[*meta.Error](err); ok {
		return &walberr.Error{Op: op, Code: refusal.Code, Found: refusal.Text}
	}
	return err
}

// valueType accepts a value of the algebra. Go type: T.
func valueType[T any](name string) kit.Type {
	return kit.Type{Name: name, From: func(v lua.LValue) (any, error) {
		if ud, ok := v.(*lua.LUserData); ok {
			if value, ok := ud.Value.(T); ok {
				return value, nil
			}
		}
		return nil, kit.Mismatch(name, v)
	}}
}

var (
	snapType = valueType[meta.Snap]("a snapshot")
	diffType = valueType[meta.Diff]("a diff")
)

// diffsType is one diff or a list of them. Go type: []meta.Diff.
var diffsType = kit.Type{
	Name:  "a diff or a list of diffs",
	Table: true,
	From: func(v lua.LValue) (any, error) {
		if d, err := diffType.From(v); err == nil {
			return []meta.Diff{d.(meta.Diff)}, nil
		}
		list, err := kit.List(diffType).From(v)
		if err != nil {
			return nil, err
		}
		var diffs []meta.Diff
		for _, d := range list.([]any) {
			diffs = append(diffs, d.(meta.Diff))
		}
		return diffs, nil
	},
}

func diffsParam(doc string) kit.Param {
	return kit.Param{Name: "diffs", PyName: "diffs", Type: diffsType, Required: true, Doc: doc}
}

func diffParam(doc string) kit.Param {
	return kit.Param{Name: "diff", PyName: "diff", Type: diffType, Required: true, Doc: doc}
}

func diffsOf(a kit.Args) []meta.Diff { return kit.Get[[]meta.Diff](a, "diffs") }
func diffOf(a kit.Args) meta.Diff    { return kit.Get[meta.Diff](a, "diff") }

// timeText is a timestamp as servers print it.
func timeText(ts uint64) string { return meta.PrettyTime(ts) }

var snapClass = &kit.Class[meta.Snap]{
	Name: "snapshot",
	Text: meta.Snap.String,
	Fields: map[string]func(meta.Snap) any{
		"b":     func(s meta.Snap) any { return uint64(s.B) },
		"e":     func(s meta.Snap) any { return uint64(s.E) },
		"clean": func(s meta.Snap) any { return s.IsClean() },
	},
	Methods: map[string]kit.Method[meta.Snap]{
		"same": {
			Params: []kit.Param{{Name: "snap", PyName: "snap", Type: snapType, Required: true, Doc: "another one"}},
			Run: func(_ context.Context, s meta.Snap, a kit.Args) (any, error) {
				return s == kit.Get[meta.Snap](a, "snap"), nil
			},
		},
		"relation": {
			Params: []kit.Param{diffParam("the diff")},
			Run: func(_ context.Context, s meta.Snap, a kit.Args) (any, error) {
				return s.Relation(diffOf(a)).String(), nil
			},
		},
		"can_apply": {
			Params: []kit.Param{diffsParam("applied one after the other")},
			Run: func(_ context.Context, s meta.Snap, a kit.Args) (any, error) {
				return s.CanApply(diffsOf(a)...), nil
			},
		},
		"apply": {
			Params: []kit.Param{diffsParam("applied one after the other")},
			Run: func(_ context.Context, s meta.Snap, a kit.Args) (any, error) {
				behind, err := s.Apply(diffsOf(a)...)
				return snapValue{behind}, algebraErr("snapshot:apply", err)
			},
		},
	},
}

var diffClass = &kit.Class[meta.Diff]{
	Name: "diff",
	Text: meta.Diff.String,
	Fields: map[string]func(meta.Diff) any{
		"b":         func(d meta.Diff) any { return snapValue{d.B} },
		"e":         func(d meta.Diff) any { return snapValue{d.E} },
		"mergeable": func(d meta.Diff) any { return d.Mergeable },
		"comp":      func(d meta.Diff) any { return d.Comp },
		"clean":     func(d meta.Diff) any { return d.IsClean() },
		"timestamp": func(d meta.Diff) any { return d.Timestamp },
		"time":      func(d meta.Diff) any { return timeText(d.Timestamp) },
		"size":      func(d meta.Diff) any { return d.Size },
		"file_name": func(d meta.Diff) any { return d.FileName() },
		"line":      func(d meta.Diff) any { return d.Line() },
	},
	Methods: map[string]kit.Method[meta.Diff]{
		"same": {
			Params: []kit.Param{diffParam("another one")},
			Run: func(_ context.Context, d meta.Diff, a kit.Args) (any, error) {
				return d.Same(diffOf(a)), nil
			},
		},
		"contains": {
			Params: []kit.Param{diffParam("another one")},
			Run: func(_ context.Context, d meta.Diff, a kit.Args) (any, error) {
				return d.Contains(diffOf(a)), nil
			},
		},
		"can_merge": {
			Params: []kit.Param{diffParam("the next one")},
			Run: func(_ context.Context, d meta.Diff, a kit.Args) (any, error) {
				return d.CanMerge(diffOf(a)), nil
			},
		},
		"merge": {
			Params: []kit.Param{diffParam("the next one")},
			Run: func(_ context.Context, d meta.Diff, a kit.Args) (any, error) {
				sum, err := d.Merge(diffOf(a))
				return diffValue{sum}, algebraErr("diff:merge", err)
			},
		},
	},
}

var stateClass = &kit.Class[meta.State]{
	Name: "base state",
	Text: meta.State.Text,
	Fields: map[string]func(meta.State) any{
		"applying":  func(s meta.State) any { return s.Applying },
		"b":         func(s meta.State) any { return snapValue{s.B} },
		"e":         func(s meta.State) any { return snapValue{s.E} },
		"timestamp": func(s meta.State) any { return s.Timestamp },
		"time":      func(s meta.State) any { return timeText(s.Timestamp) },
	},
	Methods: map[string]kit.Method[meta.State]{
		"can_apply": {
			Params: []kit.Param{diffsParam("applied one after the other")},
			Run: func(_ context.Context, s meta.State, a kit.Args) (any, error) {
				return s.CanApply(diffsOf(a)), nil
			},
		},
		"begin_applying": {
			Params: []kit.Param{diffsParam("applied one after the other")},
			Run: func(_ context.Context, s meta.State, a kit.Args) (any, error) {
				next, err := s.BeginApplying(diffsOf(a))
				return stateValue{next}, algebraErr("base state:begin_applying", err)
			},
		},
		"apply": {
			Params: []kit.Param{diffsParam("applied one after the other")},
			Run: func(_ context.Context, s meta.State, a kit.Args) (any, error) {
				next, err := s.EndApplying(diffsOf(a))
				return stateValue{next}, algebraErr("base state:apply", err)
			},
		},
	},
}

// algebraVerbs are the verbs that make values of the algebra.
func algebraVerbs() []kit.Verb {
	text := func(doc string) kit.Param {
		return kit.Param{Name: "text", PyName: "text", Type: kit.String, Required: true, Doc: doc}
	}
	return []kit.Verb{
		{
			Name:    "snap",
			Summary: "make a snapshot of its text",
			Doc: "It has b, e and clean, and the methods relation(diff), can_apply(diffs), apply(diffs) and same(snap). relation gives " +
				"applicable, too-old, too-new or not-applicable.",
			Params: []kit.Param{{Name: "text", PyName: "text", Type: snapTextType, Required: true, Doc: "|5| or |5,9|, or a gid"}},
			Tier:   kit.Query,
			Result: "the snapshot",
			Run: func(_ context.Context, a kit.Args) (any, error) {
				s, err := meta.ParseSnap(kit.Get[string](a, "text"))
				return snapValue{s}, algebraErr("formats.snap", err)
			},
		},
		{
			Name:    "diff",
			Summary: "make the description of a diff of its text",
			Doc: "It has b, e, mergeable, comp, clean, timestamp, time, size, file_name and line, and the methods can_merge(diff), " +
				"merge(diff), contains(diff) and same(diff), which compares b and e alone.",
			Params: []kit.Param{
				text("|0|-->|1|, a line as servers list diffs, or the name of a diff file"),
				{Name: "mergeable", PyName: "isMergeable", Type: kit.Bool, Doc: "set the flag, whatever the text says"},
				{Name: "comp", PyName: "isCompDiff", Type: kit.Bool, Doc: "set the flag, whatever the text says"},
				{Name: "timestamp", PyName: "timestamp", Type: kit.Uint64, Doc: "set the time, in seconds since 1970"},
				{Name: "size", PyName: "size", Type: kit.Uint64, Doc: "set the size, in bytes"},
			},
			Tier:   kit.Query,
			Result: "the diff",
			Run: func(_ context.Context, a kit.Args) (any, error) {
				d, err := parseDiff(a)
				return diffValue{d}, algebraErr("formats.diff", err)
			},
		},
		{
			Name:    "state",
			Summary: "make the state of a base image of its text",
			Doc: "It has applying, b, e, timestamp and time, and the methods can_apply(diffs), begin_applying(diffs), which gives the " +
				"state while they are written, and apply(diffs), which gives the state afterwards.",
			Params: []kit.Param{text("<|5|>, <|3|-->|4,6|> or either with -YYYYMMDDhhmmss behind it; without that the time is now")},
			Tier:   kit.Query,
			Result: "the state",
			Run: func(_ context.Context, a kit.Args) (any, error) {
				s, err := meta.ParseState(kit.Get[string](a, "text"), uint64(time.Now().Unix()))
				return stateValue{s}, algebraErr("formats.state", err)
			},
		},
		{
			Name:    "merge",
			Summary: "compute what several diffs are, merged into one",
			Doc:     "From the left. Fails with the code bad_state where two cannot be merged.",
			Params:  []kit.Param{diffsParam("in the order of their application")},
			Tier:    kit.Query,
			Result:  "the diff",
			Run: func(_ context.Context, a kit.Args) (any, error) {
				d, err := meta.MergeAll(diffsOf(a))
				return diffValue{d}, algebraErr("formats.merge", err)
			},
		},
	}
}

// snapTextType is the text of a snapshot, or the gid of a clean one. Go type:
// string, the text.
var snapTextType = kit.Type{
	Name: "the text of a snapshot, or a gid",
	From: func(v lua.LValue) (any, error) {
		if s, ok := v.(lua.LString); ok && strings.HasPrefix(string(s), "|") {
			return string(s), nil
		}
		gid, err := kit.ToU64(v)
		if err != nil {
			return nil, kit.Mismatch("the text of a snapshot, such as |5| or |5,9|, or a gid", v)
		}
		return fmt.Sprintf("|%d|", gid), nil
	},
}

func parseDiff(a kit.Args) (meta.Diff, error) {
	text := kit.Get[string](a, "text")
	parse := meta.ParseDiff
	switch {
	case strings.HasSuffix(text, meta.FileSuffix):
		text, parse = filepath.Base(text), meta.ParseFileName
	case strings.Contains(text, " "):
		parse = meta.ParseDiffLine
	}
	d, err := parse(text)
	if err != nil {
		return meta.Diff{}, err
	}
	if a.Given("mergeable") {
		d.Mergeable = kit.Get[bool](a, "mergeable")
	}
	if a.Given("comp") {
		d.Comp = kit.Get[bool](a, "comp")
	}
	if a.Given("timestamp") {
		d.Timestamp = kit.Get[uint64](a, "timestamp")
	}
	if a.Given("size") {
		d.Size = kit.Get[uint64](a, "size")
	}
	return d, d.Check()
}
