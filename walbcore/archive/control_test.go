package archive

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/client"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a running archive.
type rig struct {
	base string
	addr string
	stop func()
}

// startRig runs an archive on a directory until stop, or the end of the test.
func startRig(t *testing.T, base string, change func(*Config)) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg := Config{
		BaseDir: base, NodeID: "ar0", Listener: l, Discard: wdiff.DiscardZero,
		Wire: wire.Options{Timeout: 10 * time.Second}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	stopped := false
	r := &rig{base: base, addr: l.Addr().String()}
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			assert.NoError(t, <-served)
		}
	}
	t.Cleanup(r.stop)
	return r
}

func (r *rig) client() *client.Client {
	return client.New(r.addr, client.Options{ID: "ctl0", Timeout: 10 * time.Second})
}

// TestRecordedControl plays what the original answered about volumes that have
// no base image.
func TestRecordedControl(t *testing.T) {
	r := startRig(t, t.TempDir(), nil)
	p := wiretest.New(t, r.addr).MaskTimes().Mask(`/srv/ar0|`+r.base, "DIR").Mask(`baseDir .*`, "baseDir DIR")
	p.Play(t,
		"archive-get-host-type-empty", "archive-get-state-clear", "archive-get-base-clear", "archive-get-uuid-clear",
		"archive-get-archive-uuid-clear", "archive-get-applicable-diff-clear", "archive-get-meta-snap-clear",
		"archive-get-meta-state-clear", "archive-get-diff-clear", "archive-get-num-diff-clear", "archive-get-total-diff-size-clear",
		"archive-get-exists-diff-clear", "archive-get-exists-base-image-clear", "archive-get-num-action-clear",
		"archive-get-all-actions-empty", "archive-get-base-all-empty", "archive-get-latest-snap-empty",
		"archive-get-latest-snap-clear", "archive-get-progress-clear", "archive-get-restorable-clear",
		"archive-get-restored-clear", "archive-get-cold-clear", "archive-get-ts-delta-empty",
		"archive-clear-vol-clear", "archive-reset-vol-clear", "archive-del-restored-clear")
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	p.Play(t,
		"archive-get-state-syncready", "archive-get-base-syncready", "archive-get-archive-uuid-syncready",
		"archive-get-applicable-diff-syncready", "archive-get-meta-snap-syncready", "archive-get-meta-state-syncready",
		"archive-get-diff-syncready", "archive-get-num-diff-syncready", "archive-get-exists-diff-syncready",
		"archive-get-exists-base-image-syncready", "archive-get-num-action-syncready", "archive-get-latest-snap-syncready",
		"archive-get-progress-syncready", "archive-get-restorable-syncready", "archive-get-restored-syncready",
		"archive-get-cold-syncready", "archive-status-vol-syncready",
		"archive-init-vol-v1", "archive-reset-vol-syncready", "archive-clear-vol-syncready")
	require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
	p.Play(t, "archive-get-state-clear")
}

// TestRestart: an initialized volume is there again, what was begun is not.
func TestRestart(t *testing.T) {
	base := t.TempDir()
	r := startRig(t, base, nil)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	_, err := New(Config{BaseDir: base, NodeID: "again", Log: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "in use")
	r.stop()
	r = startRig(t, base, nil)
	state, err := r.client().State(t.Context(), "v0")
	require.NoError(t, err)
	assert.Equal(t, "SyncReady", state)
	require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
}
