package meta

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seeds adds the recorded inputs of one operation.
func seeds(f *testing.F, op string) {
	f.Helper()
	data, err := os.ReadFile("testdata/meta_algebra.json")
	require.NoError(f, err)
	var file struct {
		Rows []struct {
			Op   string
			Args struct{ Str, Name string }
		}
	}
	require.NoError(f, json.Unmarshal(data, &file))
	for _, row := range file.Rows {
		if row.Op == op {
			f.Add(row.Args.Str + row.Args.Name)
		}
	}
}

func FuzzParseSnap(f *testing.F) {
	seeds(f, "parse_snap")
	f.Fuzz(func(t *testing.T, s string) {
		snap, err := ParseSnap(s)
		if err != nil {
			return
		}
		require.NoError(t, snap.Check())
		again, err := ParseSnap(snap.String())
		require.NoError(t, err)
		assert.Equal(t, snap, again)
	})
}

func FuzzParseState(f *testing.F) {
	seeds(f, "parse_state")
	f.Fuzz(func(t *testing.T, s string) {
		st, err := ParseState(s, 1700000000)
		if err != nil {
			return
		}
		require.NoError(t, st.Check())
		again, err := ParseState(st.Text(), 0)
		require.NoError(t, err)
		assert.Equal(t, st, again)
	})
}

func FuzzParseFileName(f *testing.F) {
	seeds(f, "parse_diff_file_name")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseFileName(s)
		if err != nil {
			return
		}
		require.NoError(t, d.Check())
		again, err := ParseFileName(d.FileName())
		require.NoError(t, err)
		assert.Equal(t, d, again)
	})
}

func FuzzParseLines(f *testing.F) {
	f.Add("|2|-->|3,5| M- 2026-11-23T14:38:18 11712")
	f.Add("5 2026-11-23T14:40:05 1")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDiffLine(s); err == nil {
			require.NoError(t, d.Check())
			again, err := ParseDiffLine(d.Line())
			require.NoError(t, err)
			assert.Equal(t, d, again)
		}
		if r, err := ParseRestorable(s); err == nil {
			again, err := ParseRestorable(r.String())
			require.NoError(t, err)
			assert.Equal(t, r, again)
		}
	})
}
