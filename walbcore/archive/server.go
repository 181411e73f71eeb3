package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// DefaultMaxFiles is how many diff files one replication round merges at most.
const DefaultMaxFiles = 1000

// FeatureRestoredPath is the name under which walbsh-features lists the get
// target walbsh-restored-path.
const FeatureRestoredPath = "restored-path"

// TargetRestoredPath is a get target of our own: arguments volume and gid; the
// answer is the path of the restored image at the server's host.
const TargetRestoredPath = "walbsh-restored-path"

// lockFile is held in the base directory as long as the server lives.
const lockFile = "walbsh.lock"

// Config says how an archive server behaves. Zero values mean the default,
// where there is one.
type Config struct {
	BaseDir  string       // holds one directory per volume; must exist
	NodeID   string       // required
	Listener net.Listener // required; the server owns it

	VolumeGroup string      // of images in LVM; empty = images in files under BaseDir
	ThinPool    string      // in the volume group; empty = ordinary logical volumes
	Store       image.Store // of the images; default as these say

	// NBD is where exported snapshots are found: "HOST:PORT", or "unix:PATH";
	// default the socket nbd.sock in BaseDir. Nothing listens there before the
	// first export.
	NBD string

	Discard      wdiff.DiscardMode // what discards do to restored images
	MaxFiles     int               // diff files merged for one replication round
	SyncInterval int64             // bytes between checkpoints of a full transfer
	AutoResize   bool              // grow the base image when more arrives
	Compress     compress.Opt      // of replications that do not say; default snappy:0:1

	MaxOpen       int  // diffs open at a time to apply, restore or merge; default 256
	MaxOpenVirt   int  // diffs that a scan may need; 0 = no limit
	ApplySleepPct int  // percentage of the time in which an apply rests, 0 to 99
	KeepOneCold   bool // told in the status; there are no cold snapshots in files

	MaxConn       int
	MaxForeground int
	Wire          wire.Options
	Version       string // answer to the version command

	FS  vfs.FS           // default vfs.OS
	Log *slog.Logger     // required
	Now func() time.Time // default time.Now
}

func (c *Config) setDefaults() {
	if c.MaxFiles == 0 {
		c.MaxFiles = DefaultMaxFiles
	}
	if c.SyncInterval == 0 {
		c.SyncInterval = transfer.DefaultSyncInterval
	}
	if c.Compress == (compress.Opt{}) {
		c.Compress = compress.Opt{Type: compress.Snappy, CPUs: 1}
	}
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Server is an archive server.
type Server struct {
	cfg  Config
	core *server.Server
	lock io.Closer

	exports *exports

	mu   sync.Mutex
	vols map[string]*volume
}

// New loads the volumes in the base directory and makes their server. On an
// error the listener is still the caller's.
func New(cfg Config) (*Server, error) {
	cfg.setDefaults()
	if cfg.NodeID == "" {
		return nil, &walberr.Error{Op: "start archive", Code: walberr.Usage, Found: "no node id"}
	}
	if ok, err := vfs.Exists(cfg.FS, cfg.BaseDir); err != nil {
		return nil, err
	} else if !ok {
		return nil, &walberr.Error{
			Op: "start archive", Server: cfg.NodeID, Code: walberr.NotFound,
			Found: "base directory not found: " + cfg.BaseDir, Hint: "make it, or give another with -b",
		}
	}
	lock, err := cfg.FS.Lock(filepath.Join(cfg.BaseDir, lockFile))
	if err != nil {
		return nil, &walberr.Error{
			Op: "start archive", Server: cfg.NodeID, Code: walberr.Conflict, Found: cfg.BaseDir + " is in use", Err: err,
			Hint: "stop the server that runs there, or give another base directory",
		}
	}
	s := &Server{cfg: cfg, lock: lock, vols: map[string]*volume{}}
	err = s.openStore()
	if err == nil {
		err = s.loadAll()
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	s.core = server.New(cfg.Listener, server.Config{
		NodeID: cfg.NodeID, HostType: wire.HostArchive, Version: cfg.Version,
		Features: []string{wire.FeatureReplStatus, FeatureRestoredPath, wire.FeatureActionStatus, wire.FeatureVerify, wire.FeatureExport},
		MaxConn:  cfg.MaxConn, MaxForeground: cfg.MaxForeground, Wire: cfg.Wire, Log: cfg.Log, Now: cfg.Now,
	})
	s.exports = newExports(s)
	s.register()
	return s, nil
}

// Addr is the address where the server accepts.
func (s *Server) Addr() net.Addr { return s.core.Addr() }

// Shutdown ends the server; Serve returns when all has ended.
func (s *Server) Shutdown() { s.core.Shutdown() }

// Serve runs the server until ctx ends or it is shut down.
func (s *Server) Serve(ctx context.Context) error {
	err := s.core.Serve(ctx)
	return errors.Join(err, s.lock.Close())
}

func (s *Server) now() uint64 { return uint64(s.cfg.Now().Unix()) }

// openStore opens the store of the images. The base directory stays with the
// kind of store that it was first used with.
func (s *Server) openStore() error {
	kind := image.KindFiles
	if s.cfg.VolumeGroup != "" {
		kind = image.KindLVM
	}
	if s.cfg.Store == nil && kind == image.KindLVM {
		lvm, err := image.OpenLVM(s.cfg.VolumeGroup, s.cfg.ThinPool)
		if err != nil {
			return err
		}
		s.cfg.Store = lvm
	}
	if s.cfg.Store == nil {
		s.cfg.Store = image.NewFiles(s.cfg.BaseDir)
	}
	return image.Claim(s.cfg.FS, s.cfg.BaseDir, kind)
}

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
		if wire.CheckVolumeName(e.Name()) != nil {
			s.cfg.Log.Warn("not the directory of a volume, left alone: " + filepath.Join(s.cfg.BaseDir, e.Name()))
			continue
		}
		if err := s.loadOne(e.Name()); err != nil {
			return &walberr.Error{Op: "start archive", Server: s.cfg.NodeID, Volume: e.Name(), Code: walberr.CodeOf(err), Err: err}
		}
	}
	return nil
}

func (s *Server) loadOne(name string) error {
	v := s.makeVolume(name)
	ok, err := vfs.Exists(s.cfg.FS, v.file(fileState))
	if err != nil {
		return err
	}
	if !ok {
		return s.removeRemnant(v)
	}
	state, err := v.load()
	if err == nil {
		state, err = s.completeResync(context.Background(), v, state)
	}
	if err == nil {
		err = v.recover(state, v.facts())
	}
	if err != nil {
		return err
	}
	if err := v.sm.Set("initArchiveData", state); err != nil {
		return err
	}
	s.vols[name] = v
	return nil
}

// removeRemnant removes a directory without a state, unless more than an
// interruption can have left is in it.
func (s *Server) removeRemnant(v *volume) error {
	remnant, err := v.isRemnant()
	if err != nil {
		return err
	}
	if !remnant {
		return &walberr.Error{
			Op: "load " + v.dir, Volume: v.name, Code: walberr.Checksum, Found: "no file " + fileState, Expected: "the directory of a volume",
			Hint: "restore the file, or move the directory out of the base directory",
		}
	}
	s.cfg.Log.Warn("removing what an interrupted init-vol or clear-vol left: " + v.dir)
	return vfs.RemoveAll(s.cfg.FS, v.dir)
}

func (s *Server) makeVolume(name string) *volume {
	return &volume{
		name:   name,
		dir:    filepath.Join(s.cfg.BaseDir, name),
		fsys:   s.cfg.FS,
		images: s.cfg.Store,
		sm: fsm.NewArchive(fsm.ArchiveClear, func(from, to fsm.ArchiveState) {
			s.cfg.Log.Info(fmt.Sprintf("state of %s: %s=>%s", name, from, to))
		}),
	}
}

// volume gives the volume of a name that a controller said. One that was never
// initialized is in state Clear; remember keeps it, for a command that is about
// to change that.
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

// peerVolume gives the volume of a name that another server said, to be
// refused by the handler. A name that no volume can have is that of a volume
// in state Clear, as with the original, which does not check it.
func (s *Server) peerVolume(handler, name string) (*volume, error) {
	v, err := s.volume(name, false)
	if err != nil {
		return nil, server.Refusef(walberr.BadState, "%s:bad state:%s", handler, fsm.ArchiveClear)
	}
	return v, nil
}

// volumes lists the volumes that are not Clear, by name.
func (s *Server) volumes() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*volume
	for _, name := range slices.Sorted(maps.Keys(s.vols)) {
		if v := s.vols[name]; v.sm.State() != fsm.ArchiveClear {
			list = append(list, v)
		}
	}
	return list
}

// isActive reports whether the volume has a base image that can be read.
func isActive(st fsm.ArchiveState) bool { return slices.Contains(fsm.ArchiveActive(), st) }
