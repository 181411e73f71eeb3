// Package seed proves, sentence by sentence, what the operators' manual
// promises about replicating and synchronizing: on real servers, over real
// sockets, with the test's own model of what was written and its own view of
// what went over the wire.
package seed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/archive"
	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/proxy"
	"walbsh/walbcore/server"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/storage"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	vol        = "vol"
	volumeSize = 64 << 20
	logSize    = 16 << 20
)

// rig is the manual's group: s0, p0, a0, a1. Whoever connects to one of them
// goes through its relay.
type rig struct {
	t      *testing.T
	dir    string
	relays map[string]*simnet.Relay
	layout group.Layout
	g      *group.Group

	s0, p0, a0, a1 group.Server

	disk  *client.Volume
	model []byte // what the volume holds
	rnd   *rand.ChaCha8
}

// newRig starts the servers and backs the volume up to a0, as the manual
// assumes.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), relays: map[string]*simnet.Relay{},
		model: make([]byte, volumeSize), rnd: rand.NewChaCha8([32]byte{7}),
	}
	listeners := map[string]net.Listener{}
	addrs := map[string]wire.Addr{}
	for _, id := range []string{"s0", "p0", "a0", "a1"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		relay, err := simnet.Listen(l.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, relay.Close()) })
		listeners[id], r.relays[id] = l, relay
		host, port, err := net.SplitHostPort(relay.Addr())
		require.NoError(t, err)
		n, err := strconv.ParseUint(port, 10, 16)
		require.NoError(t, err)
		addrs[id] = wire.Addr{Host: host, Port: uint16(n)}
		require.NoError(t, os.Mkdir(filepath.Join(r.dir, id), 0o755))
	}
	srv := func(id string, kind group.Kind) group.Server {
		return group.Server{Name: id, Host: addrs[id].Host, Port: addrs[id].Port, Kind: kind, Dir: filepath.Join(r.dir, id)}
	}
	r.s0, r.p0 = srv("s0", group.Storage), srv("p0", group.Proxy)
	r.a0, r.a1 = srv("a0", group.Archive), srv("a1", group.Archive)
	r.layout = group.Layout{Storages: []group.Server{r.s0}, Proxies: []group.Server{r.p0}, Archives: []group.Server{r.a0, r.a1}}

	devices, err := wdev.OpenDir(filepath.Join(r.dir, "wdev"), wdev.Options{OnFull: wdev.Block, FlushInterval: 20 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, devices.Close()) })
	_, err = devices.Create(t.Context(), wdev.Spec{Name: vol, Size: block.FromBytes(volumeSize), LogSize: logSize})
	require.NoError(t, err)

	log := slog.New(server.NewLogHandler(logTo(t, r.dir), slog.LevelInfo))
	opts := wire.Options{Timeout: 10 * time.Second}
	for _, id := range []string{"a0", "a1"} {
		s, err := archive.New(archive.Config{
			BaseDir: filepath.Join(r.dir, id), NodeID: id, Listener: listeners[id], Discard: wdiff.DiscardZero,
			Wire: opts, Log: log.With(server.NodeKey, id),
		})
		require.NoError(t, err)
		serve(t, s)
	}
	p, err := proxy.New(listeners["p0"], proxy.Config{
		Server: server.Config{NodeID: "p0", Wire: opts, Log: log.With(server.NodeKey, "p0")},
		Base:   filepath.Join(r.dir, "p0"),
	})
	require.NoError(t, err)
	serve(t, p)
	s, err := storage.New(storage.Config{
		BaseDir: filepath.Join(r.dir, "s0"), NodeID: "s0", Listener: listeners["s0"], Devices: devices,
		Archive: addrs["a0"], Proxies: []wire.Addr{addrs["p0"]}, SnapshotInterval: time.Second, VolumeIO: true,
		Wire: opts, Log: log.With(server.NodeKey, "s0"),
	})
	require.NoError(t, err)
	serve(t, s)

	r.g, err = group.New(r.layout, group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.g.Close(context.WithoutCancel(t.Context()))) })
	require.NoError(t, r.g.InitStorage(t.Context(), r.s0, vol, "/dev/walb/"+vol))
	_, err = r.g.FullBackup(t.Context(), r.s0, vol, group.FullBackupOptions{Timeout: time.Minute})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	r.disk, err = r.g.Client(r.s0).OpenVolume(ctx, vol)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.disk.Close() })
	return r
}

// logTo is where the servers log; it is shown when the test failed.
func logTo(t *testing.T, dir string) io.Writer {
	t.Helper()
	path := filepath.Join(dir, "servers.log")
	f, err := os.Create(path)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = f.Close()
		if t.Failed() {
			text, _ := os.ReadFile(path)
			lines := strings.Split(string(text), "\n")
			t.Log("the servers' last lines:\n" + strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	return f
}

// serve runs a server until the end of the test.
func serve(t *testing.T, s interface {
	Serve(ctx context.Context) error
}) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
}

// write puts n random bytes at off, into the volume and the model.
func (r *rig) write(off, n int64) {
	r.t.Helper()
	p := r.model[off : off+n]
	_, _ = r.rnd.Read(p)
	_, err := r.disk.WriteAt(p, off)
	require.NoError(r.t, err)
}

// snapshot takes a snapshot and waits until the archives can restore it; it
// gives the gid and a copy of what the volume holds.
func (r *rig) snapshot(archives ...group.Server) (meta.Gid, []byte) {
	r.t.Helper()
	image := bytes.Clone(r.model)
	gid, err := r.g.Snapshot(r.t.Context(), r.s0, vol, archives, time.Minute)
	require.NoError(r.t, err)
	return gid, image
}

// requireImage restores a snapshot and compares the file with the image.
func (r *rig) requireImage(ax group.Server, gid meta.Gid, want []byte) {
	r.t.Helper()
	_, err := r.g.Restore(r.t.Context(), ax, vol, gid, time.Minute)
	require.NoError(r.t, err)
	path := filepath.Join(ax.Dir, vol, fmt.Sprintf("wr_%s_%d", vol, gid))
	got, err := os.ReadFile(path)
	require.NoError(r.t, err)
	require.Len(r.t, got, len(want))
	if !bytes.Equal(want, got) {
		at := 0
		for want[at] == got[at] {
			at++
		}
		require.Failf(r.t, "images differ", "snapshot %d at %s differs from what was written at byte %d", gid, ax, at)
	}
	require.NoError(r.t, r.g.DelRestored(r.t.Context(), ax, vol, gid))
}

// restorable lists the gids that an archive can restore.
func (r *rig) restorable(ax group.Server) []meta.Gid {
	r.t.Helper()
	list, err := r.g.GetRestorable(r.t.Context(), ax, vol, group.ExplicitOnly)
	require.NoError(r.t, err)
	gids := make([]meta.Gid, len(list))
	for i, e := range list {
		gids[i] = e.Gid
	}
	return gids
}

// isSynchronizing asks by name.
func (r *rig) isSynchronizing(ax group.Server) bool {
	r.t.Helper()
	yes, err := r.g.IsSynchronizing(r.t.Context(), ax, vol)
	require.NoError(r.t, err)
	return yes
}

// replBytes is what went to a1 in replications.
func (r *rig) replBytes() int64 {
	var n int64
	for _, rec := range r.relays["a1"].Records() {
		if rec.Protocol == wire.ProtoReplSync {
			n += rec.Bytes[simnet.ToServer]
		}
	}
	return n
}

// command is one command that reached a server.
type command struct {
	at    time.Time
	what  string
	reply string
}

// commands lists those control commands since start that change something, of
// all servers in the order in which they came.
func (r *rig) commands(start time.Time) []string {
	var list []command
	for id, relay := range r.relays {
		for _, rec := range relay.Records() {
			if rec.ClientID != "ctl" || rec.Opened.Before(start) {
				continue
			}
			in := wire.NewReader(bytes.NewReader(rec.Stream(simnet.ToServer)))
			in.Str()
			what := in.Str()
			in.U32()
			switch what {
			case wire.ProtoStop, wire.ProtoStart, wire.ProtoReplicate, wire.ProtoArchiveInfo:
			default:
				continue
			}
			words := in.StrVec()
			if what == wire.ProtoArchiveInfo && (words[0] == wire.InfoList || words[0] == wire.InfoGet) {
				continue
			}
			text := id + " " + what
			switch what {
			case wire.ProtoArchiveInfo:
				text += " " + words[0] + " " + in.Str()
			case wire.ProtoStop:
				text += " " + words[1]
			}
			list = append(list, command{at: rec.Opened, what: text})
		}
	}
	texts := make([]string, 0, len(list))
	for len(list) > 0 {
		first := 0
		for i := range list {
			if list[i].at.Before(list[first].at) {
				first = i
			}
		}
		texts = append(texts, list[first].what)
		list = append(list[:first], list[first+1:]...)
	}
	return texts
}
