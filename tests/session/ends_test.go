package session

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
)

// script is walbsh with a script at work.
type script struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

func startScript(t *testing.T, args ...string) *script {
	t.Helper()
	s := &script{cmd: exec.Command(walbsh, args...)}
	s.cmd.Stderr = &s.stderr
	require.NoError(t, s.cmd.Start())
	t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // it has ended unless the test failed
	return s
}

// end waits for the end and gives the status.
func (s *script) end(t *testing.T) int {
	t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// awaitState waits until the volume is in a state at a server.
func awaitState(t *testing.T, g *daemons.Group, id, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := client.New(g.ListenAddr(id), client.Options{ID: "test", Timeout: patience})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := c.State(ctx, daemons.Volume)
		require.NoError(t, err)
		if got == state {
			return
		}
		<-tick.C
	}
}

const synchronize = "walbc.synchronize(a0, vol, a1, timeoutS)"

// TestSignalsEndScripts: the status tells the signal, and what the script was
// changing is brought back.
func TestSignalsEndScripts(t *testing.T) {
	t.Parallel()
	g, relay := startBehindRelay(t, "a1")
	fill := startScript(t, "-c", g.LayoutFile(), "-e", "group.fill(0, '32m') walbc.snapshot(s0, vol, {a0})")
	require.Zero(t, fill.end(t), "%s", &fill.stderr)
	relay.SetRules(slow)
	for signal, status := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143, syscall.SIGHUP: 129} {
		s := startScript(t, "-c", g.LayoutFile(), "-e", synchronize)
		awaitState(t, g, "p0", fsm.ProxyStopped.String())
		require.NoError(t, s.cmd.Process.Signal(signal))
		assert.Equal(t, status, s.end(t), "%s", &s.stderr)
		awaitState(t, g, "p0", fsm.ProxyStarted.String())
		check := startScript(t, "-c", g.LayoutFile(), "-e", "assert(not walbc.is_synchronizing(a1, vol))")
		assert.Zero(t, check.end(t), "%s", &check.stderr)
	}
}

// TestWhatIsLeftToDo: the proxy dies while it is stopped for a registration,
// and stays dead. The status is 3 and the error names what is to be done.
func TestWhatIsLeftToDo(t *testing.T) {
	t.Parallel()
	g, relay := startBehindRelay(t, "a1")
	relay.SetRules(slow)
	fill := startScript(t, "-c", g.LayoutFile(), "-e", "group.fill(0, '32m') walbc.snapshot(s0, vol, {a0})")
	require.Zero(t, fill.end(t), "%s", &fill.stderr)
	s := startScript(t, "-c", g.LayoutFile(), "-e", "walbc.synchronize(a0, vol, a1, 5)")
	copyBegun(t, relay)
	require.NoError(t, g.Kill("p0"))
	assert.Equal(t, 3, s.end(t))
	text := s.stderr.String()
	assert.Equal(t, 1, strings.Count(text, "\n"), "one line: %s", text)
	for _, part := range []string{"NOT brought back", "when p0 answers again", `del_archive_from_proxy(p0, "vol", a1)`, `start(p0, "vol")`} {
		assert.Contains(t, text, part)
	}

	// What it says helps.
	require.NoError(t, g.Start(t.Context(), "p0"))
	relay.SetRules()
	repair := startScript(t, "-c", g.LayoutFile(), "-e",
		`walbc.del_archive_from_proxy(p0, "vol", a1) if walbc.get_state(p0, vol) == "Stopped" then walbc.start(p0, "vol") end `+
			`assert(not walbc.is_synchronizing(a1, vol)) walbc.snapshot(s0, vol, {a0})`)
	require.Zero(t, repair.end(t), "%s", &repair.stderr)
}

// TestTakenPort: a group that is opened again needs its ports.
func TestTakenPort(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "group")
	first := startScript(t, "--data", dir, "--size", "4m", "-e", "f = io.open('"+dir+"/port', 'w') f:write(p0.port) f:close()")
	require.Zero(t, first.end(t), "%s", &first.stderr)
	port, err := os.ReadFile(filepath.Join(dir, "port"))
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:"+string(port))
	require.NoError(t, err)
	second := startScript(t, "--data", dir, "-e", "print(1)")
	assert.Equal(t, 1, second.end(t))
	assert.Regexp(t, `^walbsh: open group at p0: its port \d+ on 127\.0\.0\.1 is taken by another program; .*\(hint: find it with: .*\n$`, second.stderr.String())
	require.NoError(t, l.Close())
	third := startScript(t, "--data", dir, "-e", "assert(walbc.is_synchronizing(a0, vol))")
	assert.Zero(t, third.end(t), "%s", &third.stderr)
}
