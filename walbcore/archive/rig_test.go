package archive

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

func TestMain(m *testing.M) {
	if base := os.Getenv(childBase); base != "" {
		os.Exit(childMain(base))
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

var testWire = wire.Options{Timeout: time.Minute} // more than patience: what ends in time ends for a reason

// rig is a running archive.
type rig struct {
	s    *Server
	addr string
	stop func() // ends it and waits; more than once does no harm
}

// testConfig is the configuration of the archive ar0 on a directory of this machine.
func testConfig(base string) Config {
	return Config{
		BaseDir: base, NodeID: "ar0", Discard: wdiff.DiscardZero,
		Wire: testWire, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// memBase is the base directory on disks in memory.
const memBase = "/srv/ar0"

func newDisk() *vfstest.Mem { return vfstest.NewMem(memBase) }

// memConfig is the configuration of an archive on a disk in memory.
func memConfig(disk *vfstest.Mem) Config {
	c := testConfig(memBase)
	c.FS, c.Store = disk, &memStore{disk}
	return c
}

// withListener gives a configuration a port of its own.
func withListener(t *testing.T, cfg Config) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Listener = l
	return cfg
}

// run runs an archive until stop, or the end of the test.
func run(t *testing.T, cfg Config) *rig {
	t.Helper()
	s, err := New(withListener(t, cfg))
	require.NoError(t, err)
	return serve(t, s)
}

func serve(t *testing.T, s *Server) *rig {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	r := &rig{s: s, addr: s.Addr().String()}
	r.stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-served)
	})
	t.Cleanup(r.stop)
	return r
}

// runMem runs an archive on a disk in memory, with an empty volume v0.
func runMem(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	cfg := memConfig(newDisk())
	for _, f := range change {
		f(&cfg)
	}
	r := run(t, cfg)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	return r
}

func named(id string) func(*Config) { return func(c *Config) { c.NodeID = id } }

func (r *rig) client() *client.Client {
	return client.New(r.addr, client.Options{ID: "ctl0", Timeout: 10 * time.Second})
}

// known gives a volume that the archive knows.
func (r *rig) known(t *testing.T, vol string) *volume {
	t.Helper()
	v, err := r.s.volume(vol, false)
	require.NoError(t, err)
	return v
}

// await waits until a volume is as cond says.
func (r *rig) await(t *testing.T, vol string, cond func(fsm.View[fsm.ArchiveState]) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, r.known(t, vol).sm.Wait(ctx, cond))
}

func (r *rig) awaitState(t *testing.T, vol string, state fsm.ArchiveState) {
	t.Helper()
	r.await(t, vol, func(v fsm.View[fsm.ArchiveState]) bool { return v.State == state })
}

func (r *rig) awaitIdle(t *testing.T, vol string) {
	t.Helper()
	r.await(t, vol, fsm.View[fsm.ArchiveState].Idle)
}

// awaitNoStop waits until no stop is under way.
func (r *rig) awaitNoStop(t *testing.T, vol string) {
	t.Helper()
	r.await(t, vol, func(v fsm.View[fsm.ArchiveState]) bool { return v.Stop == fsm.NotStopping })
}

// halt stops a volume and waits until it is stopped.
func (r *rig) halt(t *testing.T, vol string, mode client.StopMode) {
	t.Helper()
	require.NoError(t, r.client().Stop(t.Context(), vol, mode))
	r.awaitState(t, vol, fsm.ArchiveStopped)
}

func (r *rig) latest(t *testing.T, vol string) meta.Snap {
	t.Helper()
	s, err := r.client().MetaSnap(t.Context(), vol, meta.MaxGid)
	require.NoError(t, err)
	return s
}

func (r *rig) state(t *testing.T, vol string) string {
	t.Helper()
	s, err := r.client().State(t.Context(), vol)
	require.NoError(t, err)
	return s
}
