package meta

import (
	"strings"

	"walbsh/walbcore/walberr"
)

// ParseSnap reads |5| or |5,9| from the beginning of s. Text behind the
// closing bar is ignored, as the original does.
func ParseSnap(s string) (Snap, error) {
	snap, _, err := parseSnapAt(s, 0)
	return snap, err
}

// parseSnapAt reads a snapshot at s[pos:] and gives the position behind it.
// Texts of refusals name the whole of s and the position of the wrong item.
func parseSnapAt(s string, pos int) (Snap, int, error) {
	bad := func(pos int) (Snap, int, error) {
		return Snap{}, 0, errorf(walberr.Usage, "parseMetaSnap:bad input string:%s:%d", s, pos)
	}
	if !hasAt(s, pos, "|") {
		return bad(pos)
	}
	pos++
	end := digitsEnd(s, pos)
	b, err := ParseGid(s[pos:end])
	if err != nil {
		return Snap{}, 0, err
	}
	if hasAt(s, end, "|") {
		return CleanSnap(b), end + 1, nil
	}
	if !hasAt(s, end, ",") {
		return bad(pos)
	}
	pos = end + 1
	end = digitsEnd(s, pos)
	if !hasAt(s, end, "|") {
		return bad(pos)
	}
	e, err := ParseGid(s[pos:end])
	if err != nil {
		return Snap{}, 0, err
	}
	snap := Snap{B: b, E: e}
	return snap, end + 1, snap.Check()
}

func hasAt(s string, pos int, sub string) bool {
	return pos <= len(s) && strings.HasPrefix(s[pos:], sub)
}

func digitsEnd(s string, pos int) int {
	for pos < len(s) && '0' <= s[pos] && s[pos] <= '9' {
		pos++
	}
	return pos
}

// parseRangeAt reads snap-->snap.
func parseRangeAt(s string, pos int, where string) (b, e Snap, end int, err error) {
	if b, pos, err = parseSnapAt(s, pos); err != nil {
		return Snap{}, Snap{}, 0, err
	}
	if !hasAt(s, pos, "-->") {
		return Snap{}, Snap{}, 0, errorf(walberr.Usage, "%s:bad input string:%s:%d", where, s, pos)
	}
	e, end, err = parseSnapAt(s, pos+len("-->"))
	return b, e, end, err
}

// ParseDiff reads what [Diff.String] prints: |0,2|-->|1,5| and nothing behind it.
// Flags, time and size of the result are zero.
func ParseDiff(s string) (Diff, error) {
	b, e, end, err := parseRangeAt(s, 0, "parseMetaDiff")
	if err != nil {
		return Diff{}, err
	}
	if end != len(s) {
		return Diff{}, errorf(walberr.Usage, "parseMetaDiff:bad input string:%s:%d", s, end)
	}
	d := Diff{B: b, E: e}
	if err := d.Check(); err != nil {
		return Diff{}, err
	}
	return d, nil
}

// ParseDiffLine reads what [Diff.Line] prints.
func ParseDiffLine(s string) (Diff, error) {
	f := strings.Fields(s)
	if len(f) != 4 || len(f[1]) != 2 {
		return Diff{}, errorf(walberr.Usage, "parseMetaDiff:bad line:%s", s)
	}
	d, err := ParseDiff(f[0])
	if err != nil {
		return Diff{}, err
	}
	if d.Mergeable, err = parseFlag(f[1][0], 'M', s); err != nil {
		return Diff{}, err
	}
	if d.Comp, err = parseFlag(f[1][1], 'C', s); err != nil {
		return Diff{}, err
	}
	if d.Timestamp, err = ParseTime(f[2]); err != nil {
		return Diff{}, err
	}
	d.Size, err = parseUint(f[3])
	return d, err
}

func parseFlag(c, on byte, line string) (bool, error) {
	if c != on && c != '-' {
		return false, errorf(walberr.Usage, "parseMetaDiff:bad line:%s", line)
	}
	return c == on, nil
}

// ParseState reads what [State.String] and [State.Text] print. Where the
// timestamp is missing it is taken to be now, in seconds since 1970 UTC.
func ParseState(s string, now uint64) (State, error) {
	bad := func(pos int) (State, error) {
		return State{}, errorf(walberr.Usage, "strToMetaState:bad input string:%s:%d", s, pos)
	}
	if !hasAt(s, 0, "<") {
		return bad(0)
	}
	b, pos, err := parseSnapAt(s, 1)
	if err != nil {
		return State{}, err
	}
	st := NewState(b, now)
	if !hasAt(s, pos, ">") {
		st.Applying = true
		if _, st.E, pos, err = parseRangeAt(s, 1, "strToMetaState"); err != nil {
			return State{}, err
		}
	}
	if !hasAt(s, pos, ">") {
		return bad(pos)
	}
	pos++
	if pos < len(s) {
		if s[pos] != '-' {
			return bad(pos)
		}
		if st.Timestamp, err = ParseStamp(s[pos+1:]); err != nil {
			return State{}, err
		}
	}
	if err := st.Check(); err != nil {
		return State{}, err
	}
	return st, nil
}

// ParseRestorable reads what [Restorable.String] prints.
func ParseRestorable(s string) (Restorable, error) {
	f := strings.Fields(s)
	if len(f) != 3 || f[2] != "0" && f[2] != "1" {
		return Restorable{}, errorf(walberr.Usage, "parseRestorable:bad line:%s", s)
	}
	gid, err := ParseGid(f[0])
	if err != nil {
		return Restorable{}, err
	}
	ts, err := ParseTime(f[1])
	if err != nil {
		return Restorable{}, err
	}
	return Restorable{Gid: gid, Timestamp: ts, Explicit: f[2] == "1"}, nil
}
