package storage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// childVariable makes the test binary a storage server that can be killed.
const childVariable = "WALBSH_STORAGE_CHILD"

type childSpec struct {
	Base, Devices  string
	Archive, Proxy wire.Addr
}

// runChild serves until it is killed, and prints where.
func runChild(spec string) {
	err := func() error {
		var c childSpec
		if err := json.Unmarshal([]byte(spec), &c); err != nil {
			return err
		}
		devices, err := wdev.OpenDir(c.Devices, wdev.Options{FlushInterval: 5 * time.Millisecond, OnFull: wdev.Block})
		if err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s, err := New(Config{
			BaseDir: c.Base, NodeID: "st0", Listener: l, Devices: devices, Archive: c.Archive, Proxies: []wire.Addr{c.Proxy},
			Delay: 10 * time.Millisecond, VolumeIO: true, Wire: wire.Options{Timeout: 10 * time.Second},
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, l.Addr())
		return s.Serve(context.Background())
	}()
	fmt.Fprintln(os.Stderr, "child:", err)
	os.Exit(1)
}

// child is a storage server in a process of its own.
type child struct {
	*client.Client
	cmd  *exec.Cmd
	died chan struct{}
}

func startChild(t *testing.T, spec childSpec, log *logBuffer) *child {
	t.Helper()
	p, err := json.Marshal(spec)
	require.NoError(t, err)
	c := &child{cmd: exec.Command(os.Args[0]), died: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), childVariable+"="+string(p))
	c.cmd.Stderr = log
	out, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.cmd.Start())
	line := bufio.NewScanner(out)
	require.True(t, line.Scan(), "the child did not start: %s", log)
	go func() {
		defer close(c.died)
		_ = c.cmd.Wait() // it ends by being killed
	}()
	t.Cleanup(c.kill)
	c.Client = client.New(line.Text(), client.Options{ID: "ctl0", Timeout: 10 * time.Second})
	return c
}

// kill is kill -9.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended
	<-c.died
}

// awaitState asks until the volume is in the state.
func (c *child) awaitState(t *testing.T, state fsm.StorageState, log *logBuffer) {
	t.Helper()
	for ctx := within(t); ; {
		got, err := c.State(ctx, "v0")
		require.NoError(t, err, "log:\n%s", log)
		if got == state.String() {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			require.Fail(t, "state "+state.String()+" does not come", "it is %s; log:\n%s", got, log)
		}
	}
}

// TestKilledAtAnyTime kills the storage in a backup and while it ships, at the
// moments that leave the most behind. What was acknowledged to the writer is
// never lost, and the archive's image follows in the end.
func TestKilledAtAnyTime(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	a, p := g.archive, g.proxies[0]
	require.NoError(t, g.openDevices(t).Close())
	spec := childSpec{Base: g.base, Devices: g.devDir, Archive: a.addr, Proxy: p.addr}
	log := &g.log
	now := startChild(t, spec, log)
	// killAt kills the present child when the hook is called, and not a later one.
	killAt := func(set func(hook func() error)) {
		victim := now
		set(func() error {
			victim.kill()
			return errPlayed
		})
	}
	// again waits until the child was killed, and starts the next one.
	again := func() {
		t.Helper()
		<-now.died
		a.update(func() { a.onWrite, a.onCommit = nil, nil })
		p.play(func() { p.onWrite, p.onCommit = nil, nil })
		now = startChild(t, spec, log)
	}
	model := make([]byte, rigVolumeSize*block.Size)
	var unknown []int64 // blocks whose write was not acknowledged
	rnd := rand.New(rand.NewPCG(3, 4))
	write := func() error {
		off, data := int64(rnd.IntN(rigVolumeSize/8))*4096, noise(4096)
		vol, err := now.OpenVolume(t.Context(), "v0")
		if err != nil {
			return err
		}
		defer vol.Close()
		if _, err = vol.WriteAt(data, off); err != nil {
			unknown = append(unknown, off)
			return err
		}
		copy(model[off:], data)
		return nil
	}
	require.NoError(t, now.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	for range 50 {
		require.NoError(t, write())
	}

	// In the scan: SyncReady, and again from the beginning.
	killAt(func(hook func() error) {
		a.update(func() { a.onWrite = func(int, int64) error { return hook() } })
	})
	_ = now.FullBackup(t.Context(), "v0", 64<<10) // it may be killed before it answers
	again()
	now.awaitState(t, fsm.StorageSyncReady, log)

	// The archive has the backup and the storage does not know: the same.
	killAt(func(hook func() error) {
		a.update(func() { a.onCommit = func(int) error { return hook() } })
	})
	require.NoError(t, now.FullBackup(t.Context(), "v0", 64<<10))
	again()
	now.awaitState(t, fsm.StorageSyncReady, log)
	require.NoError(t, now.FullBackup(t.Context(), "v0", 64<<10))
	now.awaitState(t, fsm.StorageTarget, log)

	// While it ships: in the stream, and between the proxy's commit and `done`.
	for round := range 4 {
		for range 20 {
			require.NoError(t, write())
		}
		killAt(func(hook func() error) {
			p.play(func() {
				if round%2 == 0 {
					p.onWrite = func(int, int) error { return hook() }
				} else {
					p.onCommit = func(int) error { return hook() }
				}
			})
		})
		_ = write()
		again()
		now.awaitState(t, fsm.StorageTarget, log)
	}

	gid, err := now.Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	p.awaitGid(t, gid)
	vol, err := now.OpenVolume(t.Context(), "v0")
	require.NoError(t, err)
	got := make([]byte, len(model))
	_, err = vol.ReadAt(got, 0)
	require.NoError(t, err)
	require.NoError(t, vol.Close())
	for _, off := range unknown {
		copy(model[off:off+4096], got[off:])
	}
	assert.True(t, bytes.Equal(model, got), "acknowledged writes are there")
	backups := a.backups
	img := backups[len(backups)-1].clone()
	img.apply(t, backups[len(backups)-1].uuid, 0, gid, p.diffs())
	assert.True(t, bytes.Equal(model, img.data), "and at the archive")
	assert.Greater(t, gid, meta.Gid(2))
}
