package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	DefaultTsDeltaInterval  = 60 * time.Second
	DefaultDelay            = 1 * time.Second
	DefaultMaxDelay         = 300 * time.Second
)

// FeatureVolumeIO is the name under which walbsh-features lists the
// walbsh-volume-io protocol.
const FeatureVolumeIO = "volume-io"

// lockFile is held in the base directory as long as the server lives.
const lockFile = "walbsh.lock"

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
	MaxWlogMB        uint64        // log in one shipment [MiB]; a pack that is larger is never shipped, and wdev makes some of 1 MiB and a block
	SnapshotInterval time.Duration // between snapshots that the server takes by itself
	Delay, MaxDelay  time.Duration // before a failed shipment is tried again: first, and the limit of doubling
	FullScanLBPerSec block.LB      // limit of backup scans at the start; 0 = none
	TsDeltaInterval  time.Duration // between questions to the archive where it is with the volumes
	Compress         compress.Opt  // of backup scans; default snappy:0:1

	// VolumeIO lets clients read and write volumes with walbsh-volume-io.
	// There is no authentication: whoever reaches the port may.
	VolumeIO bool

	MaxConn       int          // see server.Config
	MaxForeground int          // see server.Config
	Wire          wire.Options // of connections in both directions
	Version       string       // answer to the version command

	FS  vfs.FS           // default vfs.OS
	Log *slog.Logger     // required
	Now func() time.Time // clock of timestamps; default time.Now
}

func (c *Config) setDefaults() {
	setDefault(&c.Workers, DefaultWorkers)
	setDefault(&c.MaxWlogMB, DefaultMaxWlogMB)
	setDefault(&c.SnapshotInterval, DefaultSnapshotInterval)
	setDefault(&c.TsDeltaInterval, DefaultTsDeltaInterval)
	setDefault(&c.Delay, DefaultDelay)
	setDefault(&c.MaxDelay, DefaultMaxDelay)
	setDefault(&c.Compress, compress.Opt{Type: compress.Snappy, CPUs: 1})
	c.MaxDelay = max(c.MaxDelay, c.Delay)
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

func (c *Config) check() error {
	var missing []string
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"node id", c.NodeID != ""},
		{"listener", c.Listener != nil},
		{"devices", c.Devices != nil},
		{"archive", c.Archive.Host != ""},
		{"proxies", len(c.Proxies) > 0},
		{"log", c.Log != nil},
	} {
		if !f.ok {
			missing = append(missing, f.name)
		}
	}
	if missing != nil {
		return &walberr.Error{Op: "start storage", Server: c.NodeID, Code: walberr.Usage, Found: "no " + strings.Join(missing, ", no ")}
	}
	return nil
}

// Server is a storage server.
type Server struct {
	cfg      Config
	core     *server.Server
	lock     io.Closer
	tasks    *server.Queue[string] // volumes to look after
	proxies  *proxySet
	watchers sync.WaitGroup // goroutines that watch devices

	conversations atomic.Int32  // of walbsh-volume-io that run
	scanLimit     atomic.Uint64 // of backup scans, in blocks per second; 0 = none
	gathered      gathered      // what the archive said last

	mu      sync.Mutex
	vols    map[string]*volume
	devices map[string]string // device path -> the volume that has it
}

// New loads the volumes in the base directory and makes their server. On an
// error the listener is still the caller's.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
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
		vols:    map[string]*volume{},
		devices: map[string]string{},
	}
	s.proxies = newProxySet(cfg.Proxies, cfg.NodeID, cfg.Now, s.retryNow)
	s.scanLimit.Store(uint64(cfg.FullScanLBPerSec))
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

// Serve runs the server until ctx ends or it is shut down. It is called once.
func (s *Server) Serve(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, s.lock.Close()) }()
	watching, end := context.WithCancel(ctx)
	defer s.watchers.Wait()
	defer end()
	for _, v := range s.volumes() {
		if st := v.sm.State(); st == fsm.StorageTarget || st == fsm.StorageStandby {
			s.watch(watching, v)
		}
	}
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
		if err := s.load(e.Name()); err != nil {
			return &walberr.Error{Op: "start storage", Server: s.cfg.NodeID, Volume: e.Name(), Code: walberr.CodeOf(err), Err: err}
		}
	}
	return nil
}

func (s *Server) load(name string) error {
	if err := wire.CheckVolumeName(name); err != nil {
		return err
	}
	v := s.makeVolume(name)
	if ok, err := vfs.Exists(s.cfg.FS, v.file("state")); err != nil {
		return err
	} else if !ok {
		return s.removeRemains(v)
	}
	state, err := v.load(s.cfg.Devices)
	if err != nil {
		return err
	}
	if other := s.claim(v.path, name); other != "" {
		return &walberr.Error{
			Op: "load " + v.dir, Code: walberr.Conflict, Found: fmt.Sprintf("device %s is that of volume %s too", v.path, other),
			Hint: "they would take each other's log away: move one of the two out of " + s.cfg.BaseDir,
		}
	}
	if err := v.sm.Set("initializeStorage", state); err != nil {
		return err
	}
	if _, err := vfs.RemoveTemps(s.cfg.FS, v.dir); err != nil {
		return err
	}
	s.vols[name] = v
	return nil
}

// removeRemains removes a directory without state. Nothing but the files of a
// volume may be in it: then an init-vol or a clear-vol was interrupted.
func (s *Server) removeRemains(v *volume) error {
	entries, err := s.cfg.FS.ReadDir(v.dir)
	if err != nil {
		return err
	}
	ours := func(e fs.DirEntry) bool {
		return !e.IsDir() && (slices.Contains(volumeFiles[:], e.Name()) || vfs.IsTempName(e.Name()) ||
			strings.HasPrefix(e.Name(), brokenPackFile))
	}
	for _, e := range entries {
		if !ours(e) {
			return &walberr.Error{
				Op: "load " + v.dir, Code: walberr.Conflict, Found: fmt.Sprintf("no file state, but %q", e.Name()), Expected: "a volume",
				Hint: "every directory in the base directory is a volume: move this one elsewhere, or give another base directory",
			}
		}
	}
	s.cfg.Log.Warn("removing what an interrupted init-vol or clear-vol left: " + v.dir)
	return vfs.RemoveAll(s.cfg.FS, v.dir)
}

func (s *Server) makeVolume(name string) *volume {
	return &volume{
		name: name,
		dir:  filepath.Join(s.cfg.BaseDir, name),
		fsys: s.cfg.FS,
		sm: fsm.NewStorage(fsm.StorageClear, func(from, to fsm.StorageState) {
			s.cfg.Log.Info(fmt.Sprintf("state of %s: %s=>%s", name, from, to))
		}),
		breakers: map[*breaker]bool{},
	}
}

// claim gives a device to a volume. If another volume has it, that one is
// named and nothing changes: two volumes on one log would each give up what
// the other still needs.
func (s *Server) claim(path, vol string) (other string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, taken := s.devices[path]; taken && other != vol {
		return other
	}
	s.devices[path] = vol
	return ""
}

// release gives a device back.
func (s *Server) release(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices, path)
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
