package proxy

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

// TestRecordedSession plays what was recorded at one original proxy, in its
// order. Everything must be equal.
func TestRecordedSession(t *testing.T) {
	r := start(t, newDisk(), nil)
	p := wiretest.New(t, r.Addr().String())
	p.Play(t,
		"proxy-get-host-type", "proxy-get-vol-empty", "proxy-status-all-empty", "proxy-get-latest-snap-all-empty",
		"proxy-status-vol-clear", "proxy-get-state-clear", "proxy-archive-info-list-clear",
		"proxy-archive-info-delete-clear", "proxy-clear-vol-clear", "proxy-kick-clear", "proxy-start-clear",
		"proxy-stop-clear", "proxy-get-is-wdiff-send-error-clear", "proxy-get-proxy-diff-clear",
		"proxy-get-latest-snap-unknown-vol", "proxy-archive-info-get-missing",
		"proxy-get-uuid-no-such-target", "proxy-init-vol-bad-protocol", "proxy-reset-vol-bad-protocol",
		"proxy-snapshot-bad-protocol", "proxy-sleep-0",

		"proxy-archive-info-add", "proxy-archive-info-add-again", "proxy-archive-info-add-2nd",
		"proxy-archive-info-update", "proxy-archive-info-update-new", "proxy-archive-info-list",
		"proxy-archive-info-get", "proxy-archive-info-get-2nd", "proxy-archive-info-get-3rd",
		"proxy-archive-info-delete-missing", "proxy-archive-info-delete",
		"proxy-get-vol", "proxy-get-state-stopped", "proxy-status-all-stopped", "proxy-status-vol-stopped",

		"proxy-start", "proxy-start-again", "proxy-get-state-started", "proxy-archive-info-add-started",
		"proxy-clear-vol-started", "proxy-get-latest-snap-vol", "proxy-get-is-wdiff-send-error",
		"proxy-get-is-wdiff-send-error-bad-archive", "proxy-get-proxy-diff", "proxy-get-proxy-diff-archive",
		"proxy-kick-all", "proxy-kick-vol", "proxy-kick-vol-archive", "proxy-kick-vol-bad-archive",
		"proxy-stop-graceful",
	)
	r.await(t, "v0", "Stopped")
	for _, mode := range []string{"proxy-stop-force", "proxy-stop-other-word", "proxy-stop-empty-ok"} {
		p.Play(t, "proxy-start", mode)
		r.await(t, "v0", "Stopped")
		p.Play(t, "proxy-get-state-after-empty")
	}
	p.Play(t, "proxy-clear-vol", "proxy-get-state-clear", "proxy-get-vol-empty",
		"proxy-archive-info-add", "proxy-archive-info-delete-last", "proxy-get-state-after-last-delete")
}

// TestRecordedRequestsOfOtherClients plays what was recorded with clients that
// send what the original's controller would not.
func TestRecordedRequestsOfOtherClients(t *testing.T) {
	r := start(t, newDisk(), nil)
	wiretest.New(t, r.Addr().String()).Play(t,
		"raw-archive-info-add-bad-hi", "raw-archive-info-add-port0", "raw-archive-info-badcmd",
		"raw-archive-info-empty-name", "raw-archive-info-one-word", "raw-get-state-missing",
		"raw-shutdown-badbool-skip", "raw-start-two-words", "raw-start-zero-words", "raw-status-64", "raw-status-65",
		"raw-status-bad-volid", "raw-status-empty-string", "raw-status-extra-words", "raw-bad-version")

	// A task of a volume that was gone was still queued at the original.
	r.queue.Push(task{"v0", "ar1"}, time.Hour)
	wiretest.New(t, r.Addr().String()).Mask(`timeDiffMs -?\d+`, "timeDiffMs N").Play(t,
		"raw-u32-noncanonical", "raw-u64-noncanonical", "raw-signed-header-84", "raw-empty-ids")
}

// TestRecordedKeepAliveStatus is a recording of a started volume.
func TestRecordedKeepAliveStatus(t *testing.T) {
	r := start(t, newDisk(), func(c *Config) {
		c.Server.Wire.KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 100 * time.Second, Interval: 7 * time.Second, Count: 3}
	})
	p := wiretest.New(t, r.Addr().String())
	p.Play(t, "proxy-archive-info-add", "proxy-start")
	r.awaitNoTasks(t)
	p.Play(t, "proxy-status-all-keepalive")
}

// TestRecordedStatusOfAStartedVolume masks the tasks: the original queues some
// that find nothing to send.
func TestRecordedStatusOfAStartedVolume(t *testing.T) {
	r := start(t, newDisk(), nil)
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", "ar0", info("127.0.0.1:1")))
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", "ar1", info("127.0.0.1:1")))
	require.NoError(t, r.client.Start(t.Context(), "v0", client.RoleNone))
	r.queue.Push(task{"v0", "ar0"}, time.Hour)
	r.queue.Push(task{"v0", "ar1"}, 2*time.Hour)
	wiretest.New(t, r.Addr().String()).Mask(`timeDiffMs -?\d+`, "timeDiffMs N").Play(t, "proxy-status-all-started")
}

func TestRecordedAnswersThatDependOnTheMachine(t *testing.T) {
	r := start(t, newDisk(), func(c *Config) {
		c.Server.Version = "version:0.1\tbuild_date:2026-11-25T00:00:00\tlog_version:2"
	})
	wiretest.New(t, r.Addr().String()).MaskTimes().
		Mask(`^\d+$`, "PID").
		Mask(`^version:[\d.]+\t`, "version:V\t").Mask(`\tcommit:.*`, "").
		Play(t, "proxy-get-pid", "proxy-version", "proxy-sleep-0", "proxy-shutdown-graceful")
	r.end()
}

// TestRefusedAddChangesNothing differs from the original, which lets the new
// address take effect.
func TestRefusedAddChangesNothing(t *testing.T) {
	r := start(t, newDisk(), nil)
	p := wiretest.New(t, r.Addr().String())
	p.Play(t, "proxy-add-quirk-1", "proxy-add-quirk-2")
	got, err := r.client.ArchiveInfoGet(t.Context(), "v0", "ar0")
	require.NoError(t, err)
	assert.Equal(t, "127.0.0.1:15200 snappy:0:1 0", got.String())
	r.end()
	r = start(t, r.disk, nil)
	again, err := r.client.ArchiveInfoGet(t.Context(), "v0", "ar0")
	require.NoError(t, err)
	assert.Equal(t, got, again)
}

func TestArchiveNamesThatAreNoFileNamesAreRefused(t *testing.T) {
	r := start(t, newDisk(), nil)
	for _, name := range []string{"", ".", "..", "../x", "a/b", "a\nb", "a\x00b", string(make([]byte, 200))} {
		conn := dial(t, r, wire.ProtoArchiveInfo)
		wire.ArchiveInfoRequest{Words: []string{"add", "v0"}, Name: name, Info: info("127.0.0.1:1")}.Encode(conn.W)
		require.NoError(t, conn.Flush())
		word := conn.R.Str()
		require.NoError(t, conn.R.Err())
		require.NoError(t, conn.Close())
		assert.Contains(t, word, "bad archive name:", "%q", name)
	}
	assert.Empty(t, r.all(), "a refused request leaves no volume behind")
}

func TestAskingForVolumesCostsNothing(t *testing.T) {
	r := start(t, newDisk(), nil)
	for _, name := range []string{"a", "b", "c"} {
		state, err := r.client.State(t.Context(), name)
		require.NoError(t, err)
		assert.Equal(t, "Clear", state)
		require.NoError(t, r.client.Stop(t.Context(), name, client.StopGraceful))
		require.Error(t, r.client.Start(t.Context(), name, client.RoleNone))
	}
	assert.Empty(t, r.all())
}

func TestVolumesAreStartedWithTheServerUnlessTold(t *testing.T) {
	r := start(t, newDisk(), nil)
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", "ar0", info("127.0.0.1:1")))
	r.end()
	r = start(t, r.disk, nil)
	r.await(t, "v0", "Started")
	r.end()
	r = start(t, r.disk, func(c *Config) { c.Stopped = true })
	r.await(t, "v0", "Stopped")
}

func TestOneProxyPerBaseDirectory(t *testing.T) {
	r := start(t, newDisk(), nil)
	_, err := open(t, testConfig(r.disk))
	require.ErrorContains(t, err, "lock")
	r.end()
	start(t, r.disk, nil)
}
