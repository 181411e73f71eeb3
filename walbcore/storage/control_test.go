package storage

import (
	"encoding/hex"
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
	"walbsh/walbcore/wire/wiretest"
)

func player(t *testing.T, r *rig) *wiretest.Player {
	t.Helper()
	return wiretest.New(t, r.addr).MaskTimes().
		Mask(`action WlogSend \d WlogRemove \d`, "action ACTIONS"). // a task may just be looking
		Mask(`baseDir .*`, "baseDir DIR").
		Mask(`salt [0-9a-f]+`, "salt SALT").
		Mask(`timeToNextCheck -?\d+`, "timeToNextCheck N").
		Mask(`host 127.0.0.1:\d+:\d+`, "host ADDR").
		Mask(`isAvailable \d`, "isAvailable B")
}

// TestRecordedControl plays what the original answered, state by state.
func TestRecordedControl(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.logSize = (30000 + 10) * block.Size // as at the recording
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
	r.await(t, fsm.StorageSyncReady)

	p.Play(t, "storage-start-standby", "storage-status-vol-standby", "storage-clear-vol-standby", "storage-stop-standby")
	r.await(t, fsm.StorageSyncReady)
	p.Play(t, "storage-clear-vol", "storage-get-state-clear", "storage-init-vol-2")
}

// TestRecordedTarget plays what the original answered about a volume that is
// backed up: the device is at the same lsids as the recorded one.
func TestRecordedTarget(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.rig.proxies = append(g.rig.proxies, wire.Addr{Host: "127.0.0.1", Port: 3})
	dev := newFakeDevice()
	dev.afterReset = wdev.Identity{UUID: uuidOf(t, "b5a4d7b6f394de585cde55de830c7ead"), Salt: 0x3dfe7e7b, PBS: 512}
	g.devices = fakeDevices{"/dev/walb/w0": dev}
	g.start(t)
	p := player(t, g.rig)
	shipped := func(gid meta.Gid) {
		t.Helper()
		g.awaitFact(t, "the shipment", func() bool { return g.done(t).Gid == gid })
		g.await(t, fsm.StorageTarget)
	}
	p.Play(t, "storage-init-vol", "storage-full-bkp")
	shipped(1)
	p.Play(t, "storage-status-vol-target", "storage-status-all-target", "storage-get-state-target", "storage-get-uuid",
		"storage-start-target-again", "storage-reset-vol-target", "storage-get-is-overflow", "storage-snapshot-1")
	shipped(2)
	dev.append(156)
	g.proxies[0].refuse(true) // the recorded device had no permanent log yet
	p.Play(t, "storage-snapshot-2")
	g.await(t, fsm.StorageTarget)
	p.Play(t, "storage-get-latest-snap", "storage-get-latest-snap-vol", "storage-get-log-usage",
		"storage-get-log-usage-vol", "storage-status-vol-after-snap")
	g.proxies[0].refuse(false)
	require.NoError(t, g.client().Kick(t.Context(), "", ""))
	shipped(3)
	dev.append(109)
	p.Play(t, "storage-snapshot-3")
	shipped(4)
	dev.checkpoint()
	p.Play(t, "storage-snapshot-4")
	shipped(5)
	p.Play(t, "storage-stop-target")
	g.await(t, fsm.StorageStopped)
	p.Play(t, "storage-snapshot-stopped", "storage-status-vol-stopped", "storage-clear-vol-stopped", "storage-start-standby-stopped",
		"storage-start-target", "storage-stop-target-2")
	g.await(t, fsm.StorageStopped)
	p.Play(t, "storage-reset-vol", "storage-full-bkp")
	shipped(1)
	dev.set(func() { dev.overflow = true })
	g.await(t, fsm.StorageStopped)
	p.Play(t, "storage-get-is-overflow-1", "storage-snapshot-overflow", "storage-start-target-overflow", "storage-stop-overflow")
	g.await(t, fsm.StorageStopped)
	p.Play(t, "storage-reset-vol-gid")
	assert.Equal(t, meta.Gid(100), g.done(t).Gid)
	p.Play(t, "storage-shutdown-force")
}

func uuidOf(t *testing.T, s string) (u meta.UUID) {
	t.Helper()
	p, err := hex.DecodeString(s)
	require.NoError(t, err)
	require.Len(t, p, len(u))
	copy(u[:], p)
	return u
}

// TestRestart: every steady state is there again.
func TestRestart(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(t)
	c := r.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	r.stop()
	r.start(t)
	r.await(t, fsm.StorageSyncReady)
	require.NoError(t, r.client().Start(t.Context(), "v0", client.RoleStandby))
	r.stop()
	r.start(t)
	r.await(t, fsm.StorageStandby)
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
