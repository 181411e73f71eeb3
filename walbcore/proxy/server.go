package proxy

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
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Defaults of the original.
const (
	DefaultMaxSendMiB    = 128
	DefaultMaxSendFiles  = 1000
	DefaultSendWorkers   = 1
	DefaultRetryDelay    = time.Second
	DefaultMaxRetryDelay = 300 * time.Second
	DefaultRetryTimeout  = 1800 * time.Second
)

const (
	brokenDelay = time.Second // before a send that failed without an answer is tried again
	lockName    = "walbsh.lock"
)

// Config says how a proxy behaves. Base and the required fields of Server must
// be set; zero values elsewhere mean the default.
type Config struct {
	// Server is the configuration of the common part; HostType is set here.
	Server server.Config
	Base   string // directory of the volumes; made when it does not exist
	FS     vfs.FS // nil means the operating system's

	Stopped bool // volumes are not started with the server

	MaxSendMiB   uint64 // most diff data in one transfer, in MiB; one file is always sent
	MaxSendFiles int    // most diff files in one transfer
	SendWorkers  int    // transfers to archives at a time

	RetryDelay    time.Duration // after the first refusal; doubled with each further one
	MaxRetryDelay time.Duration
	// RetryTimeout ends retrying of refusals that need an operator when no log
	// came for so long; see the archive's error flag.
	RetryTimeout time.Duration

	// FreeSpace tells how many bytes are free for received logs; nil asks the
	// file system of Base.
	FreeSpace func() (uint64, error)
}

// Server is a proxy.
type Server struct {
	config Config
	fs     vfs.FS
	log    *slog.Logger
	core   *server.Server
	queue  *server.Queue[task]
	lock   io.Closer

	mu      sync.Mutex
	volumes map[string]*volume
}

// task is the key of a queued transfer.
type task struct{ volume, archive string }

// New loads all volumes and starts them, unless Stopped is set. The server
// will accept from listener, which stays the caller's if New fails.
//
// A directory whose content cannot be understood is an error: the server must
// not begin with a part of what it has.
func New(listener net.Listener, config Config) (*Server, error) {
	config.setDefaults()
	s := &Server{
		config:  config,
		fs:      config.FS,
		log:     config.Server.Log,
		queue:   server.NewQueue[task](),
		volumes: make(map[string]*volume),
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	s.core = server.New(listener, config.Server)
	s.core.Background(func(ctx context.Context) error {
		return s.queue.Run(ctx, s.config.SendWorkers, s.send)
	})
	s.registerCommands()
	s.registerTargets()
	s.core.HandleStatus(s.status)
	s.core.HandleTransfer(wire.ProtoWlogTransfer, s.wlogTransfer)
	return s, nil
}

func (c *Config) setDefaults() {
	c.Server.HostType = wire.HostProxy
	if c.FS == nil {
		c.FS = vfs.OS{}
	}
	if c.FreeSpace == nil {
		base := c.Base
		c.FreeSpace = func() (uint64, error) { return freeSpace(base) }
	}
	setDefault(&c.MaxSendMiB, DefaultMaxSendMiB)
	setDefault(&c.MaxSendFiles, DefaultMaxSendFiles)
	setDefault(&c.SendWorkers, DefaultSendWorkers)
	setDefault(&c.RetryDelay, DefaultRetryDelay)
	setDefault(&c.MaxRetryDelay, DefaultMaxRetryDelay)
	setDefault(&c.RetryTimeout, DefaultRetryTimeout)
	c.RetryDelay = min(c.RetryDelay, c.MaxRetryDelay)
	if c.Server.Now == nil {
		c.Server.Now = time.Now
	}
}

func setDefault[T comparable](value *T, def T) {
	var zero T
	if *value == zero {
		*value = def
	}
}

func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// open takes the base directory and loads what is in it.
func (s *Server) open() (err error) {
	if err := vfs.MakeDir(s.fs, s.config.Base); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if s.lock, err = s.fs.Lock(filepath.Join(s.config.Base, lockName)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()
	names, err := s.directories()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := wire.CheckVolumeName(name); err != nil {
			s.log.Warn("not a volume: " + filepath.Join(s.config.Base, name))
			continue
		}
		if err := s.openVolume(name); err != nil {
			return fmt.Errorf("initializeProxy:start failed:%s:%w", name, err)
		}
	}
	return nil
}

func (s *Server) openVolume(name string) error {
	v, err := s.load(name)
	if err != nil {
		return err
	}
	s.volumes[name] = v
	if s.config.Stopped || v.state.State() != fsm.ProxyStopped {
		return nil
	}
	if len(v.archives) == 0 {
		s.log.Warn("not started, as it has diffs but no archive: " + name)
		return nil
	}
	return s.startVolume(v)
}

// directories lists the names of the directories in the base directory.
func (s *Server) directories() ([]string, error) {
	entries, err := s.fs.ReadDir(s.config.Base)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Addr is the address where the proxy accepts.
func (s *Server) Addr() net.Addr { return s.core.Addr() }

// Shutdown ends the proxy; see [server.Server.Shutdown].
func (s *Server) Shutdown() { s.core.Shutdown() }

// Serve runs the proxy until ctx ends or it is shut down; see
// [server.Server.Serve].
func (s *Server) Serve(ctx context.Context) error {
	return errors.Join(s.core.Serve(ctx), s.lock.Close())
}

// find gives the volume of a name. One that is not known is Clear and is not
// remembered, so that asking for names costs nothing.
func (s *Server) find(name string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.volumes[name]; ok {
		return v
	}
	return s.newVolume(name, fsm.ProxyClear)
}

// obtain gives the volume of a name, which is remembered from then on.
func (s *Server) obtain(name string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.volumes[name]
	if !ok {
		v = s.newVolume(name, fsm.ProxyClear)
		s.volumes[name] = v
	}
	return v
}

// all lists the volumes in the order of their names.
func (s *Server) all() []*volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*volume
	for _, name := range slices.Sorted(maps.Keys(s.volumes)) {
		list = append(list, s.volumes[name])
	}
	return list
}

// now is the present time in Unix seconds.
func (s *Server) now() uint64 { return uint64(s.config.Server.Now().Unix()) }

// errForceStopped is the cause with which the work of a volume is broken off.
var errForceStopped error = &walberr.Error{Op: "stop", Code: walberr.Stopped, Found: "force stopped"}
