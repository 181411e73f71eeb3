package embed

import (
	"context"
	"path/filepath"

	"walbsh/walbcore/group"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
)

const layoutName = "layout.lua"

// Defaults of [Options].
const (
	DefaultVolume  = "vol"
	DefaultSize    = 64 << 20 // bytes
	DefaultLogSize = 16 << 20 // bytes
)

// IDs are the ids of the servers of a group, in the order in which data flows.
var IDs = []string{"s0", "p0", "a0", "a1"}

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
	layout    group.Layout
}

// Open starts a group and comes back when it is ready for use. ctx limits the
// opening only; the group runs until [Group.Close]. Nothing is left running
// after an error. Errors have the code Conflict for a directory that another
// process uses and for ports that are taken, Usage for bad options.
func Open(_ context.Context, o Options) (*Group, error) {
	return nil, &walberr.Error{Op: "open group", Code: walberr.Unavailable, Found: "no archive server is linked in"}
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

// Stop ends one server, as the shutdown command does, and waits until it has
// ended. The others go on. It is no error if it has ended before. The error is
// that with which the server ended, or NotFound for an unknown id.
func (g *Group) Stop(ctx context.Context, id string) error { return ctx.Err() }

// Start starts a server again that has ended, on its port and its files. The
// error has code BadState if it runs, NotFound for an unknown id.
func (g *Group) Start(id string) error { return nil }

// Close ends all servers, in the order in which data flows, waits until all
// that they did has ended, closes the devices, and removes a temporary
// directory. Operations of package group on the layout must have ended. Later
// calls give the same result.
func (g *Group) Close() error { return nil }
