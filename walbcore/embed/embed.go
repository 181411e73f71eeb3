package embed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/group"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
)

// Defaults of [Options].
const (
	DefaultVolume  = "vol"
	DefaultSize    = 64 << 20 // bytes
	DefaultLogSize = 16 << 20 // bytes
)

// Options say how a group is opened. The zero value makes a temporary group
// with a volume that is backed up.
type Options struct {
	// Dir keeps the group and is made if missing. Where it holds a group, that
	// one is opened: its sizes and volume are fixed, and other ones are refused
	// with code Conflict. "" means a temporary directory, which Close removes.
	Dir string

	Volume  string // "" = that of the group in Dir, or DefaultVolume
	Size    int64  // of the volume [bytes], a multiple of 512; 0 = as Volume's ""
	LogSize int64  // of the device's log [bytes]; 0 = as Volume's ""

	// Bare leaves the volume alone: its device is there, but no server knows
	// it. Without Bare, Open comes back when a0 can restore a clean snapshot
	// of the volume; once that was reached no later Open touches the volume.
	Bare bool

	// Version is what the servers answer to the version command.
	Version string

	// Advertise gives the address, "host:port", under which the others shall
	// reach the server that listens on addr; nil means addr. It is for relays
	// between the servers. It is called once per server by each Open.
	Advertise func(id, addr string) (string, error)
}

// Group is a running group. Its methods may be called from any goroutine.
type Group struct {
	dir       string
	temporary bool
	volume    string
	version   string
	layout    group.Layout
	lock      io.Closer
	devices   *wdev.Dir
	deviceLog *os.File
	members   []*member

	mu     sync.Mutex // guards the runs of members
	closed bool

	closeOnce sync.Once
	closeErr  error
}

// Open starts a group and comes back when it is ready for use. ctx limits the
// opening only; the group runs until [Group.Close]. Nothing is left running
// after an error. Errors have the code Conflict for a directory that another
// process uses or that holds other files, and for ports that are taken, Usage
// for bad options.
func Open(ctx context.Context, o Options) (*Group, error) {
	g := &Group{version: o.Version, members: newMembers()}
	if err := g.open(ctx, o); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

func (g *Group) open(ctx context.Context, o Options) error {
	if err := g.takeDir(o.Dir); err != nil {
		return err
	}
	st, err := loadState(g.dir, o)
	if err != nil {
		return err
	}
	g.volume = st.Volume
	listeners, err := g.bind(ctx, &st)
	if err != nil {
		return err
	}
	if err := g.lay(ctx, st, o); err != nil {
		closeAll(listeners)
		return err
	}
	for i, m := range slices.Backward(g.members) { // those first to which data flows
		if err := g.launch(m, listeners[i]); err != nil {
			closeAll(listeners[:i])
			return err
		}
	}
	if !o.Bare && !st.Ready {
		if err := g.prepare(ctx); err != nil {
			return err
		}
		st.Ready = true
		return st.save(g.dir)
	}
	return nil
}

// takeDir makes and locks the directory of the group.
func (g *Group) takeDir(dir string) (err error) {
	if dir == "" {
		if g.dir, err = os.MkdirTemp("", "walbsh-"); err != nil {
			return err
		}
		g.temporary = true
	} else {
		if g.dir, err = filepath.Abs(dir); err != nil {
			return err
		}
		if err := checkDir(g.dir); err != nil {
			return err
		}
		if err := os.MkdirAll(g.dir, 0o755); err != nil {
			return err
		}
	}
	g.lock, err = vfs.OS{}.Lock(filepath.Join(g.dir, lockName))
	if walberr.Is(err, walberr.Conflict) {
		return &walberr.Error{
			Op: "open group", Code: walberr.Conflict, Found: g.dir + " is in use by another walbsh",
			Hint: "attach to that group with: walbsh -c " + g.LayoutFile(),
		}
	}
	return err
}

// bind takes the ports of all servers and writes new ones down.
func (g *Group) bind(ctx context.Context, st *state) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	fresh := len(st.Ports) == 0
	if fresh {
		st.Ports = map[string]uint16{}
	}
	for _, m := range g.members {
		var l net.Listener
		if fresh {
			l, err = listenAnywhere(ctx, m.id)
		} else {
			l, err = listenAt(ctx, m.id, st.Ports[m.id])
		}
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
		m.port = portOf(l)
		st.Ports[m.id] = m.port
	}
	if fresh {
		return listeners, st.save(g.dir)
	}
	return listeners, nil
}

// closeAll closes listeners on which nobody accepted yet.
func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // nobody is told of a failure that loses nothing
	}
}

// lay makes everything that the servers need.
func (g *Group) lay(ctx context.Context, st state, o Options) error {
	if err := g.makeLayout(o.Advertise); err != nil {
		return err
	}
	if err := g.openDevices(ctx, st); err != nil {
		return err
	}
	for _, m := range g.members {
		if err := os.Mkdir(g.baseDir(m.id), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if err := (vfs.OS{}).SyncDir(g.dir); err != nil {
		return err
	}
	return g.saveLayout()
}

// openDevices opens the devices of s0 and makes that of the volume if it is
// not there.
func (g *Group) openDevices(ctx context.Context, st state) error {
	var err error
	if g.deviceLog, err = openLog(filepath.Join(g.dir, "wdev.log")); err != nil {
		return err
	}
	g.devices, err = wdev.OpenDir(filepath.Join(g.dir, "wdev"), wdev.Options{
		OnFull: wdev.Block, Logger: slog.New(server.NewLogHandler(g.deviceLog, slog.LevelInfo)),
	})
	if err != nil {
		return err
	}
	names, err := g.devices.Names()
	if err != nil || slices.Contains(names, st.Volume) {
		return err
	}
	_, err = g.devices.Create(ctx, wdev.Spec{Name: st.Volume, Size: block.FromBytes(st.Size), LogSize: st.LogSize})
	return err
}

// Layout lists the servers with their directories on this machine. The
// archives are a0, the primary, and a1.
func (g *Group) Layout() group.Layout { return g.layout }

// Volume is the name of the group's volume.
func (g *Group) Volume() string { return g.volume }

// Device is the path of the volume's device as init-vol takes it,
// "/dev/walb/VOLUME".
func (g *Group) Device() string { return wdev.PathPrefix + g.volume }

// Dir is the group's directory, an absolute path.
func (g *Group) Dir() string { return g.dir }

// Temporary reports whether Close removes the directory.
func (g *Group) Temporary() bool { return g.temporary }

// LayoutFile is the path of the layout file with which a second program
// attaches to the group.
func (g *Group) LayoutFile() string { return filepath.Join(g.dir, layoutName) }

// LogFile is the path of the log of a server.
func (g *Group) LogFile(id string) string { return filepath.Join(g.dir, id+".log") }

// Close ends all servers, in the order in which data flows, waits until all
// that they did has ended, closes the devices, and removes a temporary
// directory. Operations of package group on the layout must have ended. Later
// calls give the same result.
func (g *Group) Close() error {
	g.closeOnce.Do(func() { g.closeErr = g.close() })
	return g.closeErr
}

func (g *Group) close() error {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	var errs []error
	for _, m := range g.members {
		if err := g.Stop(context.Background(), m.id); err != nil {
			errs = append(errs, fmt.Errorf("server %s: %w", m.id, err))
		}
	}
	if g.devices != nil {
		errs = append(errs, g.devices.Close())
	}
	if g.deviceLog != nil {
		errs = append(errs, g.deviceLog.Close())
	}
	if g.temporary {
		errs = append(errs, os.RemoveAll(g.dir))
	}
	if g.lock != nil {
		errs = append(errs, g.lock.Close())
	}
	return errors.Join(errs...)
}
