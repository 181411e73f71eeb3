package storage

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(childVariable); spec != "" {
		runChild(spec)
		return
	}
	// The tests wait far more than they work: for delays that are the subject,
	// and for disks.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	rigVolumeSize = 8192 // LB
	rigLogSize    = 2 << 20
	patience      = 20 * time.Second // for what must happen
)

// rig is a storage server with one device, w0, and where its files are.
type rig struct {
	base, devDir string
	logSize      int64
	options      wdev.Options
	devices      Devices // instead of those in devDir
	archive      wire.Addr
	proxies      []wire.Addr
	change       func(*Config)

	server *Server
	addr   string
	dev    wdev.Device
	log    logBuffer
	stop   func()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	return &rig{
		base: filepath.Join(dir, "base"), devDir: filepath.Join(dir, "devices"), logSize: rigLogSize,
		options: wdev.Options{FlushInterval: 5 * time.Millisecond},
		archive: wire.Addr{Host: "127.0.0.1", Port: 1}, proxies: []wire.Addr{{Host: "127.0.0.1", Port: 2}},
	}
}

// openDevices opens the directory with the device, which is made if needed.
func (r *rig) openDevices(t *testing.T) *wdev.Dir {
	t.Helper()
	devices, err := wdev.OpenDir(r.devDir, r.options)
	require.NoError(t, err)
	names, err := devices.Names()
	require.NoError(t, err)
	if len(names) == 0 {
		_, err := devices.Create(t.Context(), wdev.Spec{Name: "w0", Size: rigVolumeSize, LogSize: r.logSize})
		require.NoError(t, err)
	}
	return devices
}

func (r *rig) config(devices Devices) Config {
	cfg := Config{
		BaseDir: r.base, NodeID: "st0", Devices: devices, Archive: r.archive, Proxies: r.proxies,
		VolumeIO: true, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1},
		Wire: wire.Options{Timeout: 10 * time.Second}, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	}
	if r.change != nil {
		r.change(&cfg)
	}
	return cfg
}

// start runs the server until stop, or the end of the test.
func (r *rig) start(t *testing.T) {
	t.Helper()
	devices, closeDevices := r.devices, func() error { return nil }
	if devices == nil {
		dir := r.openDevices(t)
		devices, closeDevices = dir, dir.Close
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg := r.config(devices)
	cfg.Listener = l
	r.server, err = New(cfg)
	require.NoError(t, err)
	r.addr = r.server.Addr().String()
	if r.devices == nil {
		r.dev, err = devices.Lookup(wdev.PathPrefix + "w0")
		require.NoError(t, err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-served)
		assert.NoError(t, closeDevices())
	})
	t.Cleanup(r.stop)
}

// open makes a server that is not served, for the sake of its error.
func (r *rig) open(t *testing.T) (*Server, error) {
	t.Helper()
	devices := r.openDevices(t)
	defer devices.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cfg := r.config(devices)
	cfg.Listener = l
	s, err := New(cfg)
	if err == nil {
		require.NoError(t, s.lock.Close())
	}
	return s, err
}

func (r *rig) client() *client.Client {
	return client.New(r.addr, client.Options{ID: "ctl0", Timeout: 10 * time.Second})
}

// volume is volume v0 in the server's memory.
func (r *rig) volume(t *testing.T) *volume {
	t.Helper()
	v, err := r.server.volume("v0", false)
	require.NoError(t, err)
	return v
}

// within gives a context for what must happen.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// await waits until the volume is in the state and nothing runs.
func (r *rig) await(t *testing.T, state fsm.StorageState) {
	t.Helper()
	err := r.volume(t).sm.Wait(within(t), func(v fsm.View[fsm.StorageState]) bool {
		return v.State == state && v.Stop == fsm.NotStopping && len(v.Running) == 0
	})
	require.NoError(t, err, "state %s wanted, %s found; log:\n%s", state, r.volume(t).sm.State(), &r.log)
}

// awaitFact waits for a fact that nobody announces.
func (r *rig) awaitFact(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for ctx := within(t); !fact(); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			require.Fail(t, what+" does not come", "log:\n%s", &r.log)
		}
	}
}

// done is the volume's record of what is shipped, as it is on the disk.
func (r *rig) done(t *testing.T) meta.LsidGid {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(r.base, "v0", "done"))
	require.NoError(t, err)
	var rec meta.LsidGid
	require.NoError(t, wire.Unmarshal(file, func(r *wire.Reader) { rec = r.LsidGid() }))
	return rec
}

// awaitShipped waits until all log is shipped and recorded so.
func (r *rig) awaitShipped(t *testing.T) {
	t.Helper()
	r.awaitFact(t, "the shipment of all log", func() bool {
		v := r.volume(t)
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.done.Lsid == v.dev.Lsids().Latest && len(v.queue.records) == 0
	})
}

// backUp brings volume v0 to Target.
func (r *rig) backUp(t *testing.T) {
	t.Helper()
	c := r.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", wdev.PathPrefix+"w0"))
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	r.await(t, fsm.StorageTarget)
}

// content is what the device holds.
func (r *rig) content(t *testing.T) []byte {
	t.Helper()
	data := make([]byte, rigVolumeSize*block.Size)
	_, err := r.dev.ReadAt(data, 0)
	require.NoError(t, err)
	return data
}

// logBuffer keeps what a server logs.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *logBuffer) count(s string) int { return strings.Count(b.String(), s) }
