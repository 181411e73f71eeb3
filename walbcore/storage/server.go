package storage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// Devices finds walb devices by their paths, "/dev/walb/NAME". A device stays
// open; it belongs to whoever implements Devices.
type Devices interface {
	// Lookup gives the device of a path. It has code NotFound if there is
	// none.
	Lookup(path string) (wdev.Device, error)
}

// Defaults of the original.
const (
	DefaultWorkers          = 1
	DefaultMaxWlogMB        = 128
	DefaultSnapshotInterval = 10 * time.Second
	DefaultDelay            = 1 * time.Second
	DefaultMaxDelay         = 300 * time.Second
)

// FeatureVolumeIO is the name under which walbsh-features lists the
// walbsh-volume-io protocol.
const FeatureVolumeIO = "volume-io"

// lockFile is held in the base directory as long as the server lives.
const lockFile = "storage.lock"

// Config says how a storage server behaves. Zero values mean the default,
// where there is one.
type Config struct {
	BaseDir  string       // holds one directory per volume; made if missing (one level)
	NodeID   string       // required
	Listener net.Listener // required; the server owns it
	Devices  Devices      // required

	Archive wire.Addr   // where backups go; required
	Proxies []wire.Addr // in order of preference; at least one

	Workers          int           // shipments at a time
	MaxWlogMB        uint64        // log in one shipment [MiB]
	SnapshotInterval time.Duration // between snapshots that the server takes by itself
	Delay, MaxDelay  time.Duration // before a failed shipment is tried again: first, and after doubling
	FullScanLBPerSec block.LB      // limit of backup scans; 0 = none
	Compress         compress.Opt  // of backup scans; default snappy:0:1

	// VolumeIO lets clients read and write volumes with walbsh-volume-io.
	// There is no authentication: whoever reaches the port may.
	VolumeIO bool

	MaxConn       int
	MaxForeground int
	Wire          wire.Options
	Version       string // answer to the version command

	FS  vfs.FS // default vfs.OS
	Log *slog.Logger
	Now func() time.Time // default time.Now
}

func (c *Config) setDefaults() {
	setDefault(&c.Workers, DefaultWorkers)
	setDefault(&c.MaxWlogMB, DefaultMaxWlogMB)
	setDefault(&c.SnapshotInterval, DefaultSnapshotInterval)
	setDefault(&c.Delay, DefaultDelay)
	setDefault(&c.MaxDelay, DefaultMaxDelay)
	setDefault(&c.Compress, compress.Opt{Type: compress.Snappy, CPUs: 1})
	c.Delay = min(c.Delay, c.MaxDelay)
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Server is a storage server.
type Server struct {
	cfg     Config
	core    *server.Server
	lock    io.Closer
	tasks   *server.Queue[string] // volumes to look after
	proxies *proxySet
	watch   chan func(ctx context.Context, wg *sync.WaitGroup) // starts watchers in Serve's scope

	mu   sync.Mutex
	vols map[string]*volume
}

// New loads the volumes in the base directory and makes their server. On an
// error the listener is still the caller's.
func New(cfg Config) (*Server, error) {
	cfg.setDefaults()
	if cfg.NodeID == "" || len(cfg.Proxies) == 0 || cfg.Archive.Host == "" {
		return nil, &walberr.Error{
			Op: "start storage", Server: cfg.NodeID, Code: walberr.Usage,
			Found: "node id, archive or proxies are missing", Expected: "all three",
		}
	}
	if ok, err := vfs.Exists(cfg.FS, cfg.BaseDir); err != nil {
		return nil, err
	} else if !ok {
		if err := vfs.MakeDir(cfg.FS, cfg.BaseDir); err != nil {
			return nil, err
		}
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.BaseDir, lockFile))
	if err != nil {
		return nil, &walberr.Error{
			Op: "start storage", Server: cfg.NodeID, Code: walberr.Conflict, Found: cfg.BaseDir + " is in use", Err: err,
			Hint: "stop the server that runs there, or give another base directory",
		}
	}
	s := &Server{
		cfg:     cfg,
		lock:    lock,
		tasks:   server.NewQueue[string](),
		proxies: newProxySet(cfg.Proxies, cfg.NodeID, cfg.Now),
		watch:   make(chan func(context.Context, *sync.WaitGroup)),
		vols:    map[string]*volume{},
	}
	if err := s.loadAll(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	var features []string
	if cfg.VolumeIO {
		features = append(features, FeatureVolumeIO)
	}
	s.core = server.New(cfg.Listener, server.Config{
		NodeID: cfg.NodeID, HostType: wire.HostStorage, Version: cfg.Version, Features: features,
		MaxConn: cfg.MaxConn, MaxForeground: cfg.MaxForeground, Wire: cfg.Wire, Log: cfg.Log, Now: cfg.Now,
	})
	s.register()
	return s, nil
}

// Addr is the address where the server accepts.
func (s *Server) Addr() net.Addr { return s.core.Addr() }

// Shutdown ends the server; Serve returns when all has ended.
func (s *Server) Shutdown() { s.core.Shutdown() }

// Serve runs the server until ctx ends or it is shut down.
func (s *Server) Serve(ctx context.Context) error {
	defer s.lock.Close()
	return s.core.Serve(ctx)
}

func (s *Server) now() uint64 { return uint64(s.cfg.Now().Unix()) }

// loadAll reads every volume directory.
func (s *Server) loadAll() error {
	entries, err := s.cfg.FS.ReadDir(s.cfg.BaseDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := wire.CheckVolumeName(e.Name()); err != nil {
			return s.loadError(e.Name(), err)
		}
		v := s.makeVolume(e.Name())
		if ok, err := vfs.Exists(s.cfg.FS, v.file("state")); err != nil {
			return s.loadError(e.Name(), err)
		} else if !ok {
			s.cfg.Log.Warn("removing what an interrupted init-vol left: " + v.dir)
			if err := vfs.RemoveAll(s.cfg.FS, v.dir); err != nil {
				return s.loadError(e.Name(), err)
			}
			continue
		}
		state, err := v.load(s.cfg.Devices)
		if err == nil {
			err = v.sm.Set("initializeStorage", state)
		}
		if err == nil {
			_, err = vfs.RemoveTemps(s.cfg.FS, v.dir)
		}
		if err != nil {
			return s.loadError(e.Name(), err)
		}
		s.vols[v.name] = v
	}
	return nil
}

func (s *Server) loadError(vol string, err error) error {
	return &walberr.Error{Op: "start storage", Server: s.cfg.NodeID, Volume: vol, Code: walberr.CodeOf(err), Err: err}
}

func (s *Server) makeVolume(name string) *volume {
	return &volume{
		name: name,
		dir:  filepath.Join(s.cfg.BaseDir, name),
		fsys: s.cfg.FS,
		sm: fsm.NewStorage(fsm.StorageClear, func(from, to fsm.StorageState) {
			s.cfg.Log.Info(fmt.Sprintf("state of %s: %s=>%s", name, from, to))
		}),
	}
}

// volume gives the volume of a name. One that was never initialized is in
// state Clear; remember keeps it, for a command that is about to change that.
func (s *Server) volume(name string, remember bool) (*volume, error) {
	if err := wire.CheckVolumeName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.vols[name]
	if !ok {
		v = s.makeVolume(name)
		if remember {
			s.vols[name] = v
		}
	}
	return v, nil
}

// volumes lists the volumes that are not Clear, by name.
func (s *Server) volumes() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*volume
	for _, name := range slices.Sorted(maps.Keys(s.vols)) {
		if v := s.vols[name]; v.sm.State() != fsm.StorageClear {
			list = append(list, v)
		}
	}
	return list
}

// runWatchers owns the goroutines that watch devices, and begins with those of
// the volumes that were shipping or discarding log when the server ended.
func (s *Server) runWatchers(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, v := range s.volumes() {
		if st := v.sm.State(); st == fsm.StorageTarget || st == fsm.StorageStandby {
			s.beginWatch(ctx, &wg, v)
		}
	}
	for {
		select {
		case begin := <-s.watch:
			begin(ctx, &wg)
		case <-ctx.Done():
			return nil
		}
	}
}

// monitor watches the volume's device from now on, and queues a first task.
func (s *Server) monitor(ctx context.Context, v *volume) error {
	begun := make(chan struct{})
	select {
	case s.watch <- func(ctx context.Context, wg *sync.WaitGroup) {
		s.beginWatch(ctx, wg, v)
		close(begun)
	}:
		<-begun
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// monitorDelay lets writes that come close together go in one shipment.
const monitorDelay = 100 * time.Millisecond

func (s *Server) beginWatch(ctx context.Context, wg *sync.WaitGroup, v *volume) {
	ctx, cancel := context.WithCancel(ctx)
	v.mu.Lock()
	if v.unmonitor != nil {
		v.unmonitor()
	}
	v.unmonitor = cancel
	dev := v.dev
	v.mu.Unlock()
	s.tasks.PushForce(v.name, 0)
	wg.Go(func() {
		for {
			changed := dev.Changed()
			if ctx.Err() != nil {
				return
			}
			if v.workIsDue() {
				s.tasks.Push(v.name, monitorDelay)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
}

// workIsDue reports whether the device has log that wants to be shipped or
// given up.
func (v *volume) workIsDue() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.dev.Lsids()
	return v.dev.Overflowed() || l.Permanent > v.done.Lsid || min(v.done.Lsid, l.PrevWritten) > l.Oldest
}

// unmonitorVolume stops watching the device and drops the volume's tasks.
func (s *Server) unmonitorVolume(v *volume) {
	v.mu.Lock()
	if v.unmonitor != nil {
		v.unmonitor()
		v.unmonitor = nil
	}
	v.retry = 0
	v.mu.Unlock()
	s.tasks.Remove(func(name string) bool { return name == v.name })
}
