package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"walbsh/walbcore/archive"
	"walbsh/walbcore/group"
	"walbsh/walbcore/proxy"
	"walbsh/walbcore/server"
	"walbsh/walbcore/storage"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// snapshotInterval is how long the storage waits between two snapshots that it
// takes by itself: a user shall see a write arrive soon.
const snapshotInterval = time.Second

// member is one server of the group, running or not.
type member struct {
	id   string
	kind group.Kind
	port uint16
	run  *run // the latest; nil before the first. Guarded by Group.mu
}

// run is one life of a server.
type run struct {
	server serving
	done   chan struct{}
	err    error // valid once done is closed
}

// serving is what the three servers have in common.
type serving interface {
	Serve(ctx context.Context) error
	Shutdown()
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// newMembers gives the servers in the order in which data flows.
func newMembers() []*member {
	return []*member{
		{id: "s0", kind: group.Storage},
		{id: "p0", kind: group.Proxy},
		{id: "a0", kind: group.Archive},
		{id: "a1", kind: group.Archive},
	}
}

// find gives the member of an id.
func (g *Group) find(id string) (*member, error) {
	i := slices.IndexFunc(g.members, func(m *member) bool { return m.id == id })
	if i < 0 {
		return nil, &walberr.Error{Op: "embedded group", Code: walberr.NotFound, Found: fmt.Sprintf("no server %q", id)}
	}
	return g.members[i], nil
}

// baseDir is the base directory of a server.
func (g *Group) baseDir(id string) string { return filepath.Join(g.dir, id) }

// launch makes a server on its listener, which it owns from then on whatever
// happens, and runs it. g.mu is held, or nobody else knows g yet.
func (g *Group) launch(m *member, l net.Listener) error {
	file, err := openLog(g.LogFile(m.id))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	log := slog.New(server.NewLogHandler(file, slog.LevelInfo))
	s, err := g.makeServer(m, l, log)
	if err != nil {
		return errors.Join(err, l.Close(), file.Close())
	}
	r := &run{server: s, done: make(chan struct{})}
	m.run = r
	go func() {
		defer close(r.done)
		r.err = errors.Join(s.Serve(context.Background()), file.Close())
	}()
	return nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// makeServer makes a server as `walbsh serve` would, save for what the package
// comment names.
func (g *Group) makeServer(m *member, l net.Listener, log *slog.Logger) (serving, error) {
	socket := wire.Options{Timeout: wire.DefaultTimeout}
	switch m.kind {
	case group.Storage:
		s, err := storage.New(storage.Config{
			BaseDir: g.baseDir(m.id), NodeID: m.id, Listener: l, Devices: g.devices,
			Archive: addrOf(g.layout.Archives[0]), Proxies: []wire.Addr{addrOf(g.layout.Proxies[0])},
			SnapshotInterval: snapshotInterval, VolumeIO: true,
			Wire: socket, Version: g.version, Log: log,
		})
		return s, err
	case group.Proxy:
		s, err := proxy.New(l, proxy.Config{
			Base:   g.baseDir(m.id),
			Server: server.Config{NodeID: m.id, Wire: socket, Version: g.version, Log: log},
		})
		return s, err
	default:
		s, err := archive.New(archive.Config{
			BaseDir: g.baseDir(m.id), NodeID: m.id, Listener: l, Discard: wdiff.DiscardZero,
			Wire: socket, Version: g.version, Log: log,
		})
		return s, err
	}
}

func addrOf(s group.Server) wire.Addr { return wire.Addr{Host: s.Host, Port: s.Port} }

// Stop ends one server, as the shutdown command does, and waits until it has
// ended. The others go on. It is no error if it has ended before. The error is
// that with which the server ended, or NotFound for an unknown id.
func (g *Group) Stop(ctx context.Context, id string) error {
	m, err := g.find(id)
	if err != nil {
		return err
	}
	g.mu.Lock()
	r := m.run
	g.mu.Unlock()
	if r == nil {
		return nil
	}
	r.server.Shutdown()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Start starts a server again that has ended, on its port and its files. The
// error has code BadState if it runs or the group is closed, NotFound for an
// unknown id.
func (g *Group) Start(ctx context.Context, id string) error {
	m, err := g.find(id)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || m.run != nil && !m.run.ended() {
		return &walberr.Error{Op: "start server", Server: id, Code: walberr.BadState, Found: "it runs, or the group is closed"}
	}
	l, err := listenAt(ctx, id, m.port)
	if err != nil {
		return err
	}
	return g.launch(m, l)
}
