package session

import (
	"fmt"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
	"walbsh/walbcore/simnet"
)

// startGroup starts a group of processes, with the volume known to the storage
// and backed up, as an embedded one has it. It ends with the test.
func startGroup(t *testing.T, o daemons.Options) *daemons.Group {
	t.Helper()
	o.Walbsh = walbsh
	g, err := daemons.New(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, g.Close())
		if t.Failed() {
			t.Log(g.LogTails(20))
		}
	})
	require.NoError(t, g.StartAll(t.Context()))
	backup := exec.CommandContext(t.Context(), walbsh, "-c", g.LayoutFile(), "-e",
		fmt.Sprintf("walbc.init_storage(s0, vol, %q) walbc.full_backup(s0, vol)", daemons.Device))
	out, err := backup.CombinedOutput()
	require.NoError(t, err, "full backup: %s", out)
	return g
}

// startBehindRelay starts a small group in which everybody reaches one server
// through a relay.
func startBehindRelay(t *testing.T, id string) (*daemons.Group, *simnet.Relay) {
	t.Helper()
	var relay *simnet.Relay
	g := startGroup(t, daemons.Options{
		Dir: t.TempDir(), Size: 32 << 20, LogSize: 16 << 20,
		Advertise: func(server, addr string) (string, error) {
			if server != id {
				return addr, nil
			}
			var err error
			if relay, err = simnet.Listen(addr); err != nil {
				return "", err
			}
			t.Cleanup(func() { assert.NoError(t, relay.Close()) })
			return relay.Addr(), nil
		},
	})
	return g, relay
}
