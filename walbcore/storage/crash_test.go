package storage

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
)

// crashPoint is the disk as a power cut may leave it, and what must then be
// there.
type crashPoint struct {
	what   string
	disk   *vfstest.Mem
	states []fsm.StorageState // possible ones
	taken  meta.Gid           // largest gid that the proxy has
	acked  meta.Gid           // of the last snapshot that was acknowledged in this log life; 0 = none
}

// TestPowerLossAtAnyTime cuts the power before every change of the disk, in
// all commands and shipments. The next start always succeeds, in the state
// before or after the command; what was acknowledged is there.
func TestPowerLossAtAnyTime(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	dev := newFakeDevice()
	devices := fakeDevices{"/dev/walb/w0": dev}
	disk := vfstest.NewMem("/srv")
	var mu sync.Mutex // guards now and points
	now := crashPoint{what: "start", states: []fsm.StorageState{fsm.StorageClear}}
	var points []crashPoint
	rnd := rand.New(rand.NewPCG(5, 6))
	hook := func(op vfstest.Op, path string) error {
		if !op.Changes() {
			return nil
		}
		taken := g.proxies[0].diffs()
		mu.Lock()
		defer mu.Unlock()
		p := now
		p.what = fmt.Sprintf("%s, before %s of %s", now.what, op, path)
		p.states = slices.Clone(now.states)
		for _, d := range taken {
			p.taken = max(p.taken, d.diff.E.B)
		}
		for range 5 {
			p.disk = disk.Crash(rnd)
			points = append(points, p)
		}
		return nil
	}
	g.base, g.devices = "/srv/st0", devices
	g.change = func(c *Config) { c.FS = vfstest.Intercept(disk, hook) }
	g.start(t)
	c := g.client()

	step := func(what string, to fsm.StorageState, do func() error) {
		t.Helper()
		mu.Lock()
		now.what = what
		now.states = append(now.states, to)
		mu.Unlock()
		require.NoError(t, do(), what)
		g.await(t, to)
		mu.Lock()
		defer mu.Unlock()
		now.states = []fsm.StorageState{to}
	}
	ship := func() {
		t.Helper()
		dev.append(10)
		dev.permanent()
		g.awaitFact(t, "the shipment", func() bool {
			v := g.volume(t)
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.done.Lsid == dev.Lsids().Latest && len(v.queue.records) == 0
		})
		dev.checkpoint()
	}
	snapshot := func() error {
		gid, err := c.Snapshot(t.Context(), "v0")
		mu.Lock()
		defer mu.Unlock()
		now.acked = gid
		return err
	}
	ctx := t.Context()
	step("init-vol", fsm.StorageSyncReady, func() error { return c.InitVol(ctx, "v0", "/dev/walb/w0") })
	mu.Lock()
	now.states = append(now.states, fsm.StorageTarget)
	mu.Unlock()
	step("full-bkp", fsm.StorageTarget, func() error { return c.FullBackup(ctx, "v0", 0) })
	ship()
	step("snapshot", fsm.StorageTarget, snapshot)
	dev.append(20)
	step("snapshot", fsm.StorageTarget, snapshot)
	ship()
	step("stop", fsm.StorageStopped, func() error { return c.Stop(ctx, "v0", client.StopGraceful) })
	step("snapshot", fsm.StorageStopped, snapshot)
	step("start target", fsm.StorageTarget, func() error { return c.Start(ctx, "v0", client.RoleTarget) })
	ship()
	step("stop", fsm.StorageStopped, func() error { return c.Stop(ctx, "v0", client.StopForce) })
	mu.Lock()
	now.acked = 0
	mu.Unlock()
	step("reset-vol", fsm.StorageSyncReady, func() error { return c.ResetVol(ctx, "v0") })
	step("start standby", fsm.StorageStandby, func() error { return c.Start(ctx, "v0", client.RoleStandby) })
	step("stop", fsm.StorageSyncReady, func() error { return c.Stop(ctx, "v0", client.StopGraceful) })
	step("clear-vol", fsm.StorageClear, func() error { return c.ClearVol(ctx, "v0") })
	g.stop()

	require.Greater(t, len(points), 500)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, p := range points {
		cfg := g.config(devices)
		cfg.FS, cfg.Listener, cfg.Log = p.disk, l, slog.New(slog.DiscardHandler)
		s, err := New(cfg)
		require.NoError(t, err, p.what)
		v, err := s.volume("v0", false)
		require.NoError(t, err)
		state := v.sm.State()
		require.Contains(t, p.states, state, p.what)
		if state == fsm.StorageClear {
			assert.Empty(t, s.devices, p.what)
			continue
		}
		assert.Equal(t, map[string]string{"/dev/walb/w0": "v0"}, s.devices, p.what)
		if state == fsm.StorageTarget || state == fsm.StorageStopped {
			require.LessOrEqual(t, v.done.Gid, p.taken, "%s: nothing is done that a proxy does not have", p.what)
			require.GreaterOrEqual(t, v.latest().Gid, p.acked, "%s: a snapshot is lost", p.what)
		}
	}
}
