package meta

import (
	"math"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// The lines of testdata/recorded_lines.txt were sent by the original's servers.
func TestRecordedLinesPrintAsTheyWereRead(t *testing.T) {
	data, err := os.ReadFile("testdata/recorded_lines.txt")
	require.NoError(t, err)
	count := map[string]int{}
	for line := range strings.Lines(string(data)) {
		kind, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		count[kind]++
		var got string
		var err error
		switch kind {
		case "diff":
			var d Diff
			d, err = ParseDiffLine(text)
			got = d.Line()
		case "state":
			var st State
			st, err = ParseState(text, 0)
			got = st.Text()
		case "restorable":
			var r Restorable
			r, err = ParseRestorable(text)
			got = r.String()
		case "lsidgid":
			got = reprintLsidGid(t, text)
		}
		require.NoError(t, err, line)
		assert.Equal(t, text, got)
	}
	assert.Equal(t, map[string]int{"diff": 33, "state": 11, "restorable": 8, "lsidgid": 22}, count)
}

func reprintLsidGid(t *testing.T, text string) string {
	t.Helper()
	f := strings.Fields(text)
	require.Len(t, f, 9)
	ts, err := ParseTime(f[2])
	require.NoError(t, err)
	lsid, err := ParseLsid(f[6])
	require.NoError(t, err)
	gid, err := ParseGid(f[8])
	require.NoError(t, err)
	return LsidGid{Timestamp: ts, Mergeable: f[4] == "1", Lsid: lsid, Gid: gid}.String()
}

// The chain of a recorded volume: base <|0,1|>, five explicit snapshots.
func TestRecordedVolumeIsRestorableAsRecorded(t *testing.T) {
	base, err := ParseState("<|0,1|>-20261123143959", 0)
	require.NoError(t, err)
	var diffs []Diff
	for _, line := range []string{
		"|4|-->|5| -- 2026-11-23T14:40:05 4128",
		"|0|-->|1| -- 2026-11-23T14:40:00 4128",
		"|1|-->|2| -- 2026-11-23T14:40:00 4128",
		"|2|-->|3| -- 2026-11-23T14:40:00 11712",
		"|3|-->|4| -- 2026-11-23T14:40:01 11109",
	} {
		d, err := ParseDiffLine(line)
		require.NoError(t, err)
		diffs = append(diffs, d)
	}
	m, err := NewManager(diffs)
	require.NoError(t, err)
	var got []string
	for _, r := range m.Restorable(base, false) {
		got = append(got, r.String())
	}
	assert.Equal(t, []string{
		"1 2026-11-23T14:40:00 1",
		"2 2026-11-23T14:40:00 1",
		"3 2026-11-23T14:40:00 1",
		"4 2026-11-23T14:40:01 1",
		"5 2026-11-23T14:40:05 1",
	}, got)
	assert.Equal(t, "<|5|>-20261123144005", m.LatestState(base).Text())
	assert.EqualValues(t, 4128*3+11712+11109, m.TotalSize())
}

func TestDefaultsPrintAsRecorded(t *testing.T) {
	assert.Equal(t, "|18446744073709551615|", NoSnap().String())
	assert.Equal(t, "18446744073709551615", MaxLsid.String())
	assert.Equal(t, "<|18446744073709551615|>-19700101000000", NewState(NoSnap(), 0).Text())
	assert.NoError(t, NewState(NoSnap(), 0).Check())
	assert.Equal(t, "LsidGid timestamp --- isMergeable 1 lsid 0 gid 0", LsidGid{Mergeable: true}.String())
}

func TestParseRefusals(t *testing.T) {
	num := func(s string) error { _, err := ParseGid(s); return err }
	snap := func(s string) error { _, err := ParseSnap(s); return err }
	diff := func(s string) error { _, err := ParseDiff(s); return err }
	line := func(s string) error { _, err := ParseDiffLine(s); return err }
	state := func(s string) error { _, err := ParseState(s, 1); return err }
	rest := func(s string) error { _, err := ParseRestorable(s); return err }
	name := func(s string) error { _, err := ParseFileName(s); return err }
	stamp := func(s string) error { _, err := ParseStamp(s); return err }
	pretty := func(s string) error { _, err := ParseTime(s); return err }
	uuid := func(s string) error { _, err := ParseUUID(s); return err }
	for _, c := range []struct {
		parse func(string) error
		in    string
		want  string
	}{
		{num, "", "atoi::convertToUint:"},
		{num, "+1", "atoi::convertToUint:+1"},
		{num, "1 ", "atoi::convertToUint:1 "},
		{num, "12345678901234567890123", "atoi::convertToUint:1234567890123456"},
		{num, "18446744073709551616", "atoi::convertToUint:1844674407370955"},
		{snap, "", "parseMetaSnap:bad input string::0"},
		{snap, "|18446744073709551616|", "atoi::convertToUint:1844674407370955"},
		{snap, "|1,|", "atoi::convertToUint:"},
		{diff, "|1|->|2|", "parseMetaDiff:bad input string:|1|->|2|:3"},
		{diff, "|1|-->|2|x", "parseMetaDiff:bad input string:|1|-->|2|x:9"},
		{diff, "|2|-->|2|", "MetaDiff::broken progress constraint for B:|2|:|2|"},
		{line, "|1|-->|2| -- 2026-11-23T14:40:05", "parseMetaDiff:bad line:|1|-->|2| -- 2026-11-23T14:40:05"},
		{line, "|1|-->|2| X- 2026-11-23T14:40:05 1", "parseMetaDiff:bad line:|1|-->|2| X- 2026-11-23T14:40:05 1"},
		{line, "|1|-->|2| -M 2026-11-23T14:40:05 1", "parseMetaDiff:bad line:|1|-->|2| -M 2026-11-23T14:40:05 1"},
		{line, "|1|-->|2| -- yesterday 1", "invalid time string."},
		{line, "|1|-->|2| -- --- x", "atoi::convertToUint:x"},
		{state, "", "strToMetaState:bad input string::0"},
		{state, "<|1|-|2|>", "strToMetaState:bad input string:<|1|-|2|>:4"},
		{state, "<|1|-->|2|", "strToMetaState:bad input string:<|1|-->|2|:10"},
		{state, "<|1|>-", "invalid time string."},
		{rest, "5 ---", "parseRestorable:bad line:5 ---"},
		{rest, "5 --- 2", "parseRestorable:bad line:5 --- 2"},
		{rest, "x --- 1", "atoi::convertToUint:x"},
		{rest, "5 2026 1", "invalid time string."},
		{name, "20231114221320xM--0-1.wdiff", "parseDiffFileName:invalid timestamp str:20231114221320xM--0-1.wdiff"},
		{name, "20231114221320-M-x0-1.wdiff", "parseDiffFileName:must be - at 17th char:20231114221320-M-x0-1.wdiff"},
		{name, "20231114221320-M--0-1.wdifx", "parseDiffFileName:wrong suffix:20231114221320-M--0-1.wdifx"},
		{name, "20231114221320-M--0-18446744073709551616.wdiff", "parseDiffFileName:wrong digit value:20231114221320-M--0-18446744073709551616.wdiff:1"},
		{stamp, "19691231235959", "invalid time string."},
		{stamp, "99991231235960", "invalid time string."},
		{stamp, "18991231235959", "year must be between 1900 and 9999."},
		{stamp, "20230011000000", "mon must be between 1 and 12."},
		{stamp, "20230132000000", "mday must be between 1 and 31."},
		{stamp, "20230131240000", "hour must be between 0 and 23."},
		{stamp, "20230131006000", "min must be between 0 and 59."},
		{stamp, "20230131000061", "sec must be between 0 and 60."},
		{stamp, "2023013100000x", "invalid time string."},
		{pretty, "2026-11-23T14:40:05.5", "invalid time string."},
		{pretty, "1969-12-31T23:59:59", "invalid time string."},
		{uuid, "00", "strToBinary:bad size:00:32"},
		{uuid, strings.Repeat("g", 32), "strToBinary:bad hex digit:" + strings.Repeat("g", 32)},
	} {
		assert.EqualError(t, c.parse(c.in), c.want, "%q", c.in)
	}
}

func TestTextIdentities(t *testing.T) {
	r := newRand(t)
	for range 2000 {
		d := randomDiff(r, 1<<r.UintN(63)+2)
		d.Timestamp, d.Size = r.Uint64N(MaxTimestamp+1), r.Uint64()

		snap, err := ParseSnap(d.E.String())
		require.NoError(t, err)
		assert.Equal(t, d.E, snap)

		named, err := ParseFileName(d.FileName())
		require.NoError(t, err)
		named.Size = d.Size
		assert.Equal(t, d, named)
		assert.True(t, IsFileName(d.FileName()))

		listed, err := ParseDiffLine(d.Line())
		require.NoError(t, err)
		assert.Equal(t, d, listed)

		for _, st := range []State{NewState(d.B, d.Timestamp), {Applying: true, Timestamp: d.Timestamp, B: d.B, E: d.E}} {
			got, err := ParseState(st.Text(), 0)
			require.NoError(t, err)
			assert.Equal(t, st, got)
			got, err = ParseState(st.String(), 77)
			require.NoError(t, err)
			assert.True(t, st.Equal(got))
			assert.EqualValues(t, 77, got.Timestamp)
		}
	}
}

func TestUUID(t *testing.T) {
	const text = "0123456789abcdeffedcba9876543210"
	u, err := ParseUUID(strings.ToUpper(text))
	require.NoError(t, err)
	assert.Equal(t, text, u.String())
	assert.False(t, u.IsZero())
	assert.True(t, UUID{}.IsZero())
}

func TestIsFileName(t *testing.T) {
	for name, want := range map[string]bool{
		"20231114221320-M--0-1.wdiff":     true,
		"x.wdiff":                         true,
		".wdiff":                          false,
		"20231114221320-M--0-1.wdiff.bak": false,
		"tmp123456":                       false,
	} {
		assert.Equal(t, want, IsFileName(name), name)
	}
}

func TestTimesBeyondTheCalendarDoNotPanic(t *testing.T) {
	for _, ts := range []uint64{MaxTimestamp + 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64} {
		assert.NotPanics(t, func() { _ = FormatTime(ts) + FormatStamp(ts) })
		d := Diff{B: CleanSnap(0), E: CleanSnap(1), Timestamp: ts}
		err := d.Check()
		var refusal *Error
		require.ErrorAs(t, err, &refusal)
		assert.Equal(t, walberr.Range, refusal.Code)
	}
}
