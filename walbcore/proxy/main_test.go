package proxy

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/client"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBase = "/srv/px"

// rig is a proxy that runs on a disk in memory, with a client for it.
type rig struct {
	*Server
	disk   *vfstest.Mem
	client *client.Client
	end    func() // shuts the proxy down and waits
}

func newDisk() *vfstest.Mem { return vfstest.NewMem("/srv") }

// testConfig is a configuration on the disk.
func testConfig(disk *vfstest.Mem) Config {
	return Config{
		Server: server.Config{
			NodeID: "px0",
			Wire:   wire.Options{Timeout: 10 * time.Second},
			Log:    slog.New(slog.DiscardHandler),
		},
		Base:      testBase,
		FS:        disk,
		FreeSpace: func() (uint64, error) { return 1 << 40, nil },
	}
}

// open makes a proxy that does not serve yet.
func open(t *testing.T, config Config) (*Server, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, err := New(listener, config)
	if err != nil {
		require.NoError(t, listener.Close())
	}
	return s, err
}

// start runs a proxy; change adapts its configuration.
func start(t *testing.T, disk *vfstest.Mem, change func(*Config)) *rig {
	t.Helper()
	config := testConfig(disk)
	if change != nil {
		change(&config)
	}
	s, err := open(t, config)
	require.NoError(t, err)
	return serve(t, s, disk)
}

func serve(t *testing.T, s *Server, disk *vfstest.Mem) *rig {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background()) }()
	end := sync.OnceFunc(func() {
		s.Shutdown()
		require.NoError(t, <-served)
	})
	t.Cleanup(end)
	c := client.New(s.Addr().String(), client.Options{ID: "ctl0", Timeout: 10 * time.Second})
	return &rig{s, disk, c, end}
}

// await waits until the volume is in the state.
func (r *rig) await(t *testing.T, vol, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	v := r.find(vol)
	for v.state.State().String() != state {
		select {
		case <-v.watch():
		case <-ctx.Done():
			require.Fail(t, "the volume does not become "+state, "it is %s", v.state.State())
		}
	}
}

func info(addr string) wire.ArchiveInfo {
	a, err := wire.ParseAddr(addr)
	if err != nil {
		panic(err)
	}
	info := wire.ArchiveInfo{Addr: a}
	info.Compress.Type, info.Compress.CPUs = 2, 1
	return info
}

// awaitNoTasks waits until no transfer is queued.
func (r *rig) awaitNoTasks(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(r.queue.List()) == 0 }, 10*time.Second, time.Millisecond)
}

// dial opens a conversation with the proxy.
func dial(t *testing.T, r *rig, protocol string) *wire.Conn {
	t.Helper()
	c, err := wire.Dial(t.Context(), r.Addr().String(), wire.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = wire.ClientHello(c, "ctl0", protocol)
	require.NoError(t, err)
	return c
}
