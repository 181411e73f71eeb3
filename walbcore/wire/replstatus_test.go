package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func TestReplStatusLine(t *testing.T) {
	s := ReplStatus{
		Dest: "a1", Addr: "127.0.0.1:10201", State: ReplFailed, Kind: "diff", Gid: meta.MaxGid, Rounds: 2,
		BytesSent: 4711, BytesTotal: 1 << 63, LBDone: 16, LBTotal: 64, Error: "first\nsecond\tthird: 4",
		Started: 1700000000123, Ended: 1700000000456,
	}
	line := s.String()
	assert.NotContains(t, line, "\n")
	got, err := ParseReplStatus(line)
	require.NoError(t, err)
	s.Error = "first second third: 4"
	assert.Equal(t, s, got)

	got, err = ParseReplStatus("state:running\tdest:a1\tsomething:new")
	require.NoError(t, err)
	assert.Equal(t, ReplStatus{State: ReplRunning, Dest: "a1"}, got)
}

func TestReplStatusRefusals(t *testing.T) {
	for _, line := range []string{"", "dest", "dest:a1", "state:walking", "state:done\tgid:-1", "state:done\trounds:x"} {
		_, err := ParseReplStatus(line)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(err), "%q", line)
	}
}

func FuzzParseReplStatus(f *testing.F) {
	f.Add(ReplStatus{State: ReplDone, Dest: "a1", Gid: 3}.String())
	f.Add("state:running\tgid:")
	f.Fuzz(func(t *testing.T, line string) {
		s, err := ParseReplStatus(line)
		if err != nil || strings.ContainsAny(s.Dest+s.Addr+s.Kind, "\n\r") {
			return
		}
		again, err := ParseReplStatus(s.String())
		require.NoError(t, err)
		s.Error = strings.NewReplacer("\n", " ", "\r", " ").Replace(s.Error)
		assert.Equal(t, s, again)
	})
}
