package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func TestActionStatusLines(t *testing.T) {
	for _, s := range []ActionStatus{
		{Action: "Apply", State: ReplRunning, Gid: 8, Done: 1, Total: 2, Started: 1700000000123},
		{Action: "Merge", State: ReplFailed, Gid: meta.MaxGid, Error: "no: such file", Ended: 5},
	} {
		got, err := ParseActionStatus(s.String())
		require.NoError(t, err)
		assert.Equal(t, s, got)
	}
	got, err := ParseActionStatus("state:done\tnew:field\terror:a:b")
	require.NoError(t, err)
	assert.Equal(t, ActionStatus{State: ReplDone, Error: "a:b"}, got)
	assert.NotContains(t, ActionStatus{Error: "two\nlines\tand a tab"}.String(), "\n")
	for _, bad := range []string{"", "state", "state:odd", "state:done\tgid:x", "state:done\tdone:-1", "state:done\tended:1.5"} {
		_, err := ParseActionStatus(bad)
		assert.True(t, walberr.Is(err, walberr.Checksum), "%q: %v", bad, err)
	}
}

func TestFaultLines(t *testing.T) {
	for _, f := range []Fault{
		{What: FaultBase, Addr: 16, Blocks: 8, Hurts: []meta.Gid{1, 2, 5}, Error: "input/output error"},
		{What: "20231114221321-M--0-1.wdiff", Error: "short"},
	} {
		got, err := ParseFault(f.String())
		require.NoError(t, err)
		assert.Equal(t, f, got)
	}
	for _, bad := range []string{"what", "addr:x", "blocks:-1", "hurts:1,,2"} {
		_, err := ParseFault(bad)
		assert.True(t, walberr.Is(err, walberr.Checksum), "%q: %v", bad, err)
	}
}

func FuzzArchiveLines(f *testing.F) {
	f.Add(ActionStatus{Action: "Apply", State: ReplDone, Gid: 1}.String())
	f.Add(Fault{What: FaultBase, Hurts: []meta.Gid{3}}.String())
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := ParseActionStatus(line); err == nil {
			again, err := ParseActionStatus(s.String())
			require.NoError(t, err)
			require.Equal(t, s.Gid, again.Gid)
		}
		if s, err := ParseFault(line); err == nil {
			again, err := ParseFault(s.String())
			require.NoError(t, err)
			require.Equal(t, s.Hurts, again.Hurts)
		}
	})
}
