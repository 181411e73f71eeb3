package archive

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/wire"
)

// childBase tells a child process which base directory to serve.
const childBase = "WALBSH_TEST_ARCHIVE_BASE"

// childMain serves an archive on real files until it is killed, and prints its
// address.
func childMain(base string) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		cfg := testConfig(base)
		cfg.NodeID, cfg.Listener, cfg.SyncInterval = "ar1", l, 64<<10
		var s *Server
		if s, err = New(cfg); err == nil {
			fmt.Println(l.Addr())
			err = s.Serve(context.Background())
		}
	}
	fmt.Println(err)
	return 1
}

// child is an archive in a process of its own, behind a relay.
type child struct {
	base string
	cmd  *exec.Cmd
	*client.Client
	link *simnet.Relay
}

func newChild(t *testing.T) *child {
	t.Helper()
	link, err := simnet.Listen("127.0.0.1:1")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, link.Close()) })
	c := &child{base: t.TempDir(), link: link}
	c.start(t)
	t.Cleanup(func() { c.die(t) })
	return c
}

func (c *child) start(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), childBase+"="+c.base)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	c.cmd = cmd
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	addr := line[:len(line)-1]
	c.link.SetTarget(addr)
	c.link.SetRules()
	c.Client = client.New(addr, client.Options{ID: "ctl0", Timeout: testWire.Timeout})
}

func (c *child) die(t *testing.T) {
	t.Helper()
	require.NoError(t, c.cmd.Process.Kill())
	require.ErrorContains(t, c.cmd.Wait(), "killed")
}

// kill kills the process and starts it again.
func (c *child) kill(t *testing.T) {
	t.Helper()
	c.die(t)
	c.start(t)
}

// killAfter kills it when so many bytes more have come in, and starts it again.
func (c *child) killAfter(t *testing.T, bytes int64) {
	t.Helper()
	seen := c.link.Bytes(simnet.ToServer)
	require.NoError(t, c.link.Await(t.Context(), func([]simnet.Record) bool { return c.link.Bytes(simnet.ToServer) >= seen+bytes }))
	c.kill(t)
}

// slow makes the way to the child so slow that the kill comes in the middle.
func (c *child) slow() { c.link.SetRules(simnet.Rule{Rate: 1 << 20}) }

// sameAs restores every snapshot and compares it with the model.
func (c *child) sameAs(t *testing.T, w *world) (gids []meta.Gid) {
	t.Helper()
	ctx := t.Context()
	list, err := c.Restorable(ctx, "v0", true)
	require.NoError(t, err)
	for _, s := range list {
		require.NoError(t, c.Restore(ctx, "v0", s.Gid))
		require.Eventually(t, func() bool {
			n, err := c.NumAction(ctx, "v0", "Restore")
			return err == nil && n == 0
		}, patience, 1e6)
		path, err := c.GetString(ctx, TargetRestoredPath, "v0", s.Gid.String())
		require.NoError(t, err)
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(w.at[s.Gid], got), "snapshot %d", s.Gid)
		require.NoError(t, c.DelRestored(ctx, "v0", s.Gid))
		gids = append(gids, s.Gid)
	}
	return gids
}

func (c *child) stateIs(t *testing.T, want string) {
	t.Helper()
	state, err := c.State(t.Context(), "v0")
	require.NoError(t, err)
	require.Equal(t, want, state)
}

// TestKilledBackupAndDiffs: what was acknowledged is there, the rest is not,
// and is taken when it comes again.
func TestKilledBackupAndDiffs(t *testing.T) {
	c := newChild(t)
	w := newWorld(5, 2048)
	require.NoError(t, c.InitVol(t.Context(), "v0", ""))
	c.kill(t)
	c.stateIs(t, "SyncReady")

	c.slow()
	ended := make(chan error, 1)
	conn := dial(t, c.link.Addr(), "st0", wire.ProtoFullSync)
	go func() { ended <- w.backupOn(context.Background(), conn, "v0", w) }()
	c.killAfter(t, 150<<10)
	require.Error(t, <-ended)
	require.NoError(t, conn.Close())
	c.stateIs(t, "SyncReady")
	require.NoError(t, w.backup(t.Context(), c.Addr(), "v0"))
	c.kill(t)
	c.stateIs(t, "Archived")

	d, file := w.next(400, false)
	c.slow()
	sent := make(chan error, 1)
	go func() { sent <- w.send(t.Context(), c.link.Addr(), "v0", d, file) }()
	c.killAfter(t, 150<<10)
	require.Error(t, <-sent)
	n, err := c.NumDiff(t.Context(), "v0", client.GidRange{})
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, w.send(t.Context(), c.Addr(), "v0", d, file))
	c.kill(t)
	assert.Equal(t, []meta.Gid{1}, c.sameAs(t, w))
	require.ErrorContains(t, w.send(t.Context(), c.Addr(), "v0", d, file), wire.TooOldDiff)
	require.NoError(t, c.Stop(t.Context(), "v0", client.StopGraceful))
	require.Eventually(t, func() bool {
		state, err := c.State(t.Context(), "v0")
		return err == nil && state == "Stopped"
	}, patience, 1e6)
	c.kill(t)
	c.stateIs(t, "Stopped")
	require.NoError(t, c.ClearVol(t.Context(), "v0"))
	c.kill(t)
	c.stateIs(t, "Clear")
}

// TestKilledDestination: a replication goes on where the destination died.
func TestKilledDestination(t *testing.T) {
	c := newChild(t)
	require.NoError(t, c.InitVol(t.Context(), "v0", ""))
	p := &pair{a0: runMem(t), link: c.link, w: newWorld(6, 2048)}
	require.NoError(t, p.w.backup(t.Context(), p.a0.addr, "v0"))
	p.w.ship(t, p.a0.addr, "v0", false)
	elsewhere := runMem(t, named("ar2"))
	toElsewhere := client.Replication{Dest: addrOf(t, elsewhere.addr), ByGid: true, Value: 1}
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", toElsewhere))
	p.a0.awaitIdle(t, "v0")
	whole := p.a0.known(t, "v0").replRuns()[0].view()
	replicate := func() {
		t.Helper()
		require.NoError(t, p.a0.client().Replicate(t.Context(), "v0",
			client.Replication{Dest: p.dest(t), ByGid: true, Value: uint64(meta.MaxGid)}))
	}
	ended := func() wire.ReplStatus {
		t.Helper()
		p.a0.awaitIdle(t, "v0")
		return p.a0.known(t, "v0").replRuns()[0].view()
	}
	c.slow()
	replicate()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(c.base, "v0", fileFullRepl))
		return err == nil
	}, patience, 1e6, "a part is safe")
	c.kill(t)
	require.Equal(t, wire.ReplFailed, ended().State)
	c.stateIs(t, "SyncReady")
	replicate()
	st := ended()
	require.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Less(t, st.BytesSent, whole.BytesSent, "the part that was safe is not sent again")
	require.Equal(t, []meta.Gid{1}, c.sameAs(t, p.w))

	d, file := p.w.next(400, false)
	require.NoError(t, p.w.send(t.Context(), p.a0.addr, "v0", d, file))
	c.slow()
	replicate()
	c.killAfter(t, 150<<10)
	require.Equal(t, wire.ReplFailed, ended().State)
	c.stateIs(t, "Archived")
	require.Equal(t, []meta.Gid{1}, c.sameAs(t, p.w))
	replicate()
	st = ended()
	require.Equal(t, wire.ReplDone, st.State, st.Error)
	require.Equal(t, []meta.Gid{1, 2}, c.sameAs(t, p.w))
}
