package wdev

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

// Spec describes a new device.
type Spec struct {
	Name    string   // see [CheckName]
	Size    block.LB // of the disk
	LogSize int64    // of the log file [bytes]
	PBS     uint32   // physical block size [bytes], 512 or 4096; 0 means 512
}

// prewriteBytes is the largest log that is written with zeros when it is made:
// appending to blocks that the file system knows already takes less time than
// to a hole, at every sync.
const prewriteBytes = 64 << 20

func (s Spec) withDefaults() Spec {
	if s.PBS == 0 {
		s.PBS = 512
	}
	return s
}

// ring is the number of ring blocks [PB] of a log of that size; 0 if there is
// no room for any.
func (s Spec) ring() uint64 {
	blocks, offset := uint64(max(0, s.LogSize))/uint64(s.PBS), ringOffset(s.PBS, 0)
	return max(blocks, offset) - offset
}

func (s Spec) check() error {
	bad := func(found, expected string) error {
		return &walberr.Error{Op: "create device", Code: walberr.Usage, Found: found, Expected: expected}
	}
	if err := CheckName(s.Name); err != nil {
		return err
	}
	if !wlog.ValidPBS(s.PBS) {
		return bad(fmt.Sprintf("physical block size %d", s.PBS), "512 or 4096")
	}
	if s.Size == 0 || !s.Size.Valid() {
		return bad(fmt.Sprintf("size of %d blocks", uint64(s.Size)), "at least 1, below 2^54")
	}
	if s.ring() < MinRing {
		return bad(fmt.Sprintf("log size of %d bytes", s.LogSize),
			fmt.Sprintf("at least %d", (ringOffset(s.PBS, 0)+MinRing)*uint64(s.PBS)))
	}
	return nil
}

var goodName = regexp.MustCompile(`^[0-9A-Za-z_][0-9A-Za-z_.-]*$`)

// CheckName accepts what may name a device: 1 to [MaxName] letters, digits and
// _ . -, the first one a letter, digit or _. The error has code Usage.
func CheckName(name string) error {
	if len(name) > MaxName || !goodName.MatchString(name) {
		return &walberr.Error{
			Op: "name device", Code: walberr.Usage, Found: fmt.Sprintf("%q", name),
			Expected: fmt.Sprintf("1 to %d letters, digits, _ . -", MaxName),
		}
	}
	return nil
}

// Format makes the two files of a new device, all zero, and makes their
// content durable (the names in their directory are the caller's care). The
// files must not exist, else the error has code Conflict.
func Format(ctx context.Context, logPath, dataPath string, spec Spec) error {
	spec = spec.withDefaults()
	if err := spec.check(); err != nil {
		return err
	}
	dataFile, err := openFile(dataPath, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer func() { _ = dataFile.Close() }()
	logFile, err := openFile(logPath, os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer func() { _ = logFile.Close() }()
	if err := format(ctx, logFile, dataFile, spec); err != nil {
		return &walberr.Error{Op: "create device", Code: walberr.Unavailable, Err: err}
	}
	return nil
}

// format is Format on empty files with a spec that was checked.
func format(ctx context.Context, logFile, dataFile file, spec Spec) error {
	if err := dataFile.Truncate(spec.Size.Bytes()); err != nil {
		return err
	}
	if err := dataFile.Sync(); err != nil {
		return err
	}
	if err := logFile.Truncate(spec.LogSize); err != nil {
		return err
	}
	if spec.LogSize <= prewriteBytes {
		if err := writeZeros(logFile, 0, spec.LogSize); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s := Super{PBS: spec.PBS, Name: spec.Name, Ring: spec.ring(), Size: spec.Size}
	s.UUID, s.Salt = newIdentity()
	return writeSuper(logFile, &s)
}

// Dir is a directory of devices, NAME/log and NAME/data for each. It owns
// those that it opened. All methods are safe for concurrent use.
type Dir struct {
	path string
	opt  Options

	mu     sync.Mutex
	open   map[string]*Userspace
	closed bool
}

// newSuffix marks the directory of a device that is being created.
const newSuffix = ".new~"

// OpenDir uses a directory, which is made if it does not exist (its parent
// must). Devices are opened with opt when they are first asked for.
func OpenDir(path string, opt Options) (*Dir, error) {
	err := os.Mkdir(path, 0o755)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, &walberr.Error{Op: "open device directory", Code: walberr.Unavailable, Err: err}
	}
	return &Dir{path: path, opt: opt, open: map[string]*Userspace{}}, nil
}

// NameOf is NAME of a device path /dev/walb/NAME. The error has code Usage and
// holds the original's text as Found.
func NameOf(path string) (string, error) {
	name, ok := strings.CutPrefix(path, PathPrefix)
	if !ok || CheckName(name) != nil {
		return "", &walberr.Error{
			Op: "look up device", Code: walberr.Usage, Found: "getWdevNameFromWdevPath:bad name:" + path,
			Expected: PathPrefix + "NAME",
		}
	}
	return name, nil
}

// Names lists the devices in the directory, sorted.
func (d *Dir) Names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, &walberr.Error{Op: "list devices", Code: walberr.Unavailable, Err: err}
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && CheckName(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Create makes and opens a new device. It is there in full or, after a crash,
// not at all. A device of that name gives an error with code Conflict.
func (d *Dir) Create(ctx context.Context, spec Spec) (*Userspace, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := spec.withDefaults().check(); err != nil {
		return nil, err
	}
	final := filepath.Join(d.path, spec.Name)
	if _, err := os.Lstat(final); err == nil {
		return nil, &walberr.Error{Op: "create device", Code: walberr.Conflict, Found: final + " is there already"}
	}
	making := final + newSuffix
	if err := d.make(ctx, making, final, spec); err != nil {
		return nil, errors.Join(err, os.RemoveAll(making))
	}
	return d.lookup(ctx, spec.Name)
}

func (d *Dir) make(ctx context.Context, making, final string, spec Spec) error {
	fail := func(err error) error {
		return &walberr.Error{Op: "create device", Code: walberr.Unavailable, Err: err}
	}
	if err := os.RemoveAll(making); err != nil { // left over by a crash
		return fail(err)
	}
	if err := os.Mkdir(making, 0o755); err != nil {
		return fail(err)
	}
	if err := Format(ctx, filepath.Join(making, "log"), filepath.Join(making, "data"), spec); err != nil {
		return err
	}
	if err := syncDir(making); err != nil {
		return fail(err)
	}
	if err := os.Rename(making, final); err != nil {
		return fail(err)
	}
	if err := syncDir(d.path); err != nil {
		return fail(err)
	}
	return nil
}

// Open gives the device of that name, opening it if it is not open yet.
// NotFound if there is none; else as [Open].
func (d *Dir) Open(ctx context.Context, name string) (*Userspace, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lookup(ctx, name)
}

// Lookup is Open by device path, /dev/walb/NAME. It takes no context: once
// begun, opening is not given up.
func (d *Dir) Lookup(path string) (Device, error) {
	name, err := NameOf(path)
	if err != nil {
		return nil, err
	}
	dev, err := d.Open(context.Background(), name)
	if err != nil {
		return nil, err
	}
	return dev, nil
}

func (d *Dir) lookup(ctx context.Context, name string) (*Userspace, error) {
	if d.closed {
		return nil, &walberr.Error{Op: "open device", Code: walberr.Stopped, Found: "the device directory is closed"}
	}
	if dev := d.open[name]; dev != nil {
		return dev, nil
	}
	if err := CheckName(name); err != nil {
		return nil, err
	}
	dir := filepath.Join(d.path, name)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		names, _ := d.Names()
		return nil, &walberr.Error{
			Op: "open device", Code: walberr.NotFound, Found: "no device " + name + " in " + d.path,
			Hint: "there are: " + strings.Join(names, " "),
		}
	}
	dev, err := Open(ctx, name, filepath.Join(dir, "log"), filepath.Join(dir, "data"), d.opt)
	if err != nil {
		return nil, err
	}
	d.open[name] = dev
	return dev, nil
}

// Close closes all devices that are open. Errors are joined.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var names []string
	for name := range d.open {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		errs = append(errs, d.open[name].Close())
	}
	clear(d.open)
	return errors.Join(errs...)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
