package storage

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a storage server with one device, w0, and where its files are.
type rig struct {
	base, devDir string
	archive      wire.Addr
	proxies      []wire.Addr
	full         wdev.FullPolicy

	addr string
	dev  wdev.Device
	stop func()
}

const rigVolumeSize = 8192 // LB

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{
		base: filepath.Join(dir, "base"), devDir: filepath.Join(dir, "devices"),
		archive: wire.Addr{Host: "127.0.0.1", Port: 1}, proxies: []wire.Addr{{Host: "127.0.0.1", Port: 2}},
	}
	devices := r.openDevices(t)
	_, err := devices.Create(t.Context(), wdev.Spec{Name: "w0", Size: rigVolumeSize, LogSize: (30000 + 10) * block.Size})
	require.NoError(t, err)
	require.NoError(t, devices.Close())
	return r
}

func (r *rig) openDevices(t *testing.T) *wdev.Dir {
	t.Helper()
	devices, err := wdev.OpenDir(r.devDir, wdev.Options{OnFull: r.full, FlushInterval: 5 * time.Millisecond})
	require.NoError(t, err)
	return devices
}

// start runs the server until stop, or the end of the test.
func (r *rig) start(t *testing.T) {
	t.Helper()
	devices := r.openDevices(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, err := New(Config{
		BaseDir: r.base, NodeID: "st0", Listener: l, Devices: devices, Archive: r.archive, Proxies: r.proxies,
		SnapshotInterval: time.Second, VolumeIO: true, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1},
		Wire: wire.Options{Timeout: 10 * time.Second}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	require.NoError(t, err)
	r.addr = l.Addr().String()
	r.dev, err = devices.Lookup(wdev.PathPrefix + "w0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		assert.NoError(t, <-served)
		assert.NoError(t, devices.Close())
	}
	t.Cleanup(r.stop)
}

func (r *rig) client() *client.Client {
	return client.New(r.addr, client.Options{ID: "ctl0", Timeout: 10 * time.Second})
}

// await waits until the volume is in the state.
func (r *rig) await(t *testing.T, state string) {
	t.Helper()
	require.Eventually(t, func() bool {
		got, err := r.client().State(t.Context(), "v0")
		return err == nil && got == state
	}, 10*time.Second, 2*time.Millisecond, "state %s", state)
}

func player(t *testing.T, r *rig) *wiretest.Player {
	return wiretest.New(t, r.addr).MaskTimes().
		Mask(`baseDir .*`, "baseDir DIR").
		Mask(`salt [0-9a-f]+`, "salt SALT").
		Mask(`timeToNextCheck -?\d+`, "timeToNextCheck N").
		Mask(`host 127.0.0.1:\d+:\d+`, "host ADDR").
		Mask(`isAvailable \d`, "isAvailable B")
}

// TestRecordedControl plays what the original answered, state by state.
func TestRecordedControl(t *testing.T) {
	r := newRig(t)
	r.proxies = append(r.proxies, wire.Addr{Host: "127.0.0.1", Port: 3})
	r.start(t)
	p := player(t, r)

	p.Play(t,
		"storage-get-host-type-empty", "storage-get-state-clear", "storage-get-vol-empty", "storage-status-vol-clear",
		"storage-status-all-empty", "storage-get-latest-snap-empty", "storage-get-latest-snap-clear",
		"storage-get-log-usage-empty", "storage-get-log-usage-clear", "storage-get-is-overflow-clear",
		"storage-get-uuid-clear", "storage-get-ts-delta-empty", "storage-kick", "storage-kick-words-ignored",
		"storage-reset-vol_v0-clear", "storage-clear-vol_v0-clear", "storage-snapshot_v0-clear", "storage-stop_v0-clear",
		"storage-stop_v0_empty-clear", "storage-start_v0-clear", "storage-start_v0_xxx-clear",
		"storage-init-vol_v0-clear", "storage-init-vol_v0_~dev~null-clear", "storage-init-vol_v0_~dev~walb~none-clear")

	p.Play(t, "storage-init-vol", "storage-init-vol-again", "storage-init-vol-same-wdev", "storage-get-vol",
		"storage-status-vol-syncready", "storage-start-target-syncready", "storage-snapshot-syncready",
		"storage-get-is-overflow", "storage-stop-syncready")
	r.await(t, "SyncReady")

	p.Play(t, "storage-start-standby", "storage-status-vol-standby", "storage-clear-vol-standby", "storage-stop-standby")
	r.await(t, "SyncReady")
	p.Play(t, "storage-clear-vol", "storage-get-state-clear", "storage-init-vol-2")
}

// TestRestart: every steady state is there again.
func TestRestart(t *testing.T) {
	r := newRig(t)
	r.start(t)
	c := r.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	r.stop()
	r.start(t)
	r.await(t, "SyncReady")
	require.NoError(t, r.client().Start(t.Context(), "v0", client.RoleStandby))
	r.stop()
	r.start(t)
	r.await(t, "Standby")
	vol, err := r.client().OpenVolume(t.Context(), "v0")
	require.NoError(t, err)
	_, err = vol.WriteAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	require.NoError(t, vol.Close())
	require.NoError(t, r.dev.Flush(t.Context()))
	require.Eventually(t, func() bool {
		l := r.dev.Lsids()
		return l.Written == l.Latest
	}, 10*time.Second, 2*time.Millisecond)
	require.NoError(t, r.dev.Checkpoint(t.Context()))
	require.Eventually(t, func() bool {
		l := r.dev.Lsids()
		return l.Oldest == l.PrevWritten && l.Oldest > 0
	}, 10*time.Second, 5*time.Millisecond, "a standby gives its log up")
}
