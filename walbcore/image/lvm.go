package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// lvmName is a name that LVM takes for a group or a volume, and not for an
// option.
var lvmName = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]{0,126}$`)

// zeroTag begins the tag of a base image whose blocks from a number on, which
// follows, are still to be zeroed after the image grew.
const zeroTag = "walbsh-zero-from-"

// LVM is a [Store] of logical volumes.
type LVM struct {
	group, pool string // pool is empty for ordinary volumes
	nodes       string // directory of the group's device nodes
	extent      int64  // bytes; all volumes are multiples
	chunk       int64  // bytes of a piece that can be discarded; 0 = none can
	run         command
}

// OpenLVM makes the store of a volume group, and of a thin pool in it unless
// pool is empty. Both must exist; an error has code NotFound otherwise. It
// needs the program lvm, and the right to use it.
func OpenLVM(group, pool string) (*LVM, error) {
	return openLVM(group, pool, filepath.Join("/dev", group), runLVM)
}

func openLVM(group, pool, nodes string, run command) (*LVM, error) {
	const op = "open store"
	for _, name := range []string{group, pool} {
		if name != "" && !lvmName.MatchString(name) || name == "." || name == ".." {
			return nil, &walberr.Error{
				Op: op, Code: walberr.Usage, Found: fmt.Sprintf("%.130q", name), Expected: "the name of a volume group or thin pool",
			}
		}
	}
	s := &LVM{group: group, pool: pool, nodes: nodes, run: run}
	groups, err := run.listGroups()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(groups, func(g volumeGroup) bool { return g.Name == group })
	if i < 0 || groups[i].Extent <= 0 {
		return nil, &walberr.Error{
			Op: op, Code: walberr.NotFound, Found: "no volume group " + strconv.Quote(group), Hint: "vgs shows those that there are",
		}
	}
	s.extent = groups[i].Extent
	if pool == "" {
		return s, nil
	}
	return s, s.openPool(op)
}

// openPool looks at the thin pool. Blocks that were never written must read as
// zeros, or the rest of a chunk would show what it held in another life.
func (s *LVM) openPool(op string) error {
	all, err := s.run.listVolumes(s.group)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v logicalVolume) bool { return v.Name == s.pool && v.isThinPool() })
	if i < 0 {
		return &walberr.Error{
			Op: op, Code: walberr.NotFound, Found: fmt.Sprintf("no thin pool %q in volume group %q", s.pool, s.group),
			Hint: "lvs shows those that there are",
		}
	}
	if all[i].Zero != "zero" {
		return &walberr.Error{
			Op: op, Code: walberr.BadState, Found: "thin pool " + s.full(s.pool) + " does not zero new chunks",
			Hint: "lvchange --zero y " + s.full(s.pool),
		}
	}
	if all[i].Discards != "ignore" {
		s.chunk = all[i].Chunk
	}
	return nil
}

// Group is the name of the volume group.
func (s *LVM) Group() string { return s.group }

// Pool is the name of the thin pool, or empty.
func (s *LVM) Pool() string { return s.pool }

func (s *LVM) node(name string) string { return filepath.Join(s.nodes, name) }

func (s *LVM) full(name string) string { return s.group + "/" + name }

// Path implements [Store].
func (s *LVM) Path(vol string) string { return s.node(baseName(vol)) }

// RestoredPath implements [Store].
func (s *LVM) RestoredPath(vol string, gid meta.Gid) string { return s.node(restoredName(vol, gid)) }

// owns reports whether a volume is one that this store may use.
func (s *LVM) owns(v *logicalVolume) bool { return v.Pool == s.pool && !v.isThinPool() }

// catalog is what a group holds at the moment.
type catalog []logicalVolume

func (s *LVM) list() (catalog, error) {
	all, err := s.run.listVolumes(s.group)
	return all, err
}

func (c catalog) find(name string) *logicalVolume {
	i := slices.IndexFunc(c, func(v logicalVolume) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &c[i]
}

// snapshotsOf lists the ordinary snapshots of a volume, which go when it goes.
func (c catalog) snapshotsOf(name string) []string {
	var names []string
	for _, v := range c {
		if v.Origin == name && v.Pool == "" {
			names = append(names, v.Name)
		}
	}
	return names
}

// lookup finds a volume that this store may use.
func (s *LVM) lookup(c catalog, op, vol, name string) (*logicalVolume, error) {
	v := c.find(name)
	if v != nil && s.owns(v) {
		return v, nil
	}
	e := &walberr.Error{Op: op, Volume: vol, Code: walberr.NotFound, Found: "no logical volume " + s.full(name)}
	if s.pool != "" {
		e.Found += " in thin pool " + s.pool
	}
	if v != nil {
		e.Hint = "there is one of that name, but of another kind; see -tp"
	}
	return nil, e
}

// open opens a volume that this store may use.
func (s *LVM) open(op, vol, name string) (*device, error) {
	c, err := s.list()
	if err != nil {
		return nil, err
	}
	if _, err := s.lookup(c, op, vol, name); err != nil {
		return nil, err
	}
	return s.openNode(name)
}

// openNode opens the device of a volume that is there; one that is not active
// becomes so.
func (s *LVM) openNode(name string) (*device, error) {
	dev, err := openDevice(s.node(name), s.chunk)
	if !errors.Is(err, fs.ErrNotExist) {
		return dev, err
	}
	if _, err := s.run("lvchange", "--yes", "--activate", "y", "--ignoreactivationskip", s.full(name)); err != nil {
		return nil, err
	}
	return openDevice(s.node(name), s.chunk)
}

// Open implements [Store].
func (s *LVM) Open(vol string) (Image, error) {
	const op = "open image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	return asImage(s.open(op, vol, baseName(vol)))
}

func asImage(d *device, err error) (Image, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Size implements [Store]. It asks the kernel, which is quick; LVM is asked
// only where there is no device.
func (s *LVM) Size(vol string) (block.LB, error) {
	const op = "open image"
	if err := checkName(op, vol); err != nil {
		return 0, err
	}
	f, err := os.Open(s.Path(vol))
	if errors.Is(err, fs.ErrNotExist) {
		dev, err := s.open(op, vol, baseName(vol))
		if err != nil {
			return 0, err
		}
		return dev.size, dev.Close()
	}
	if err != nil {
		return 0, err
	}
	n, err := f.Seek(0, io.SeekEnd)
	return block.FromBytes(n), errors.Join(err, f.Close())
}

// extents rounds bytes up to whole extents.
func (s *LVM) extents(n int64) int64 { return (n + s.extent - 1) / s.extent * s.extent }

func bytesWord(n int64) string { return strconv.FormatInt(n, 10) + "b" }

// Create implements [Store].
func (s *LVM) Create(vol string, size block.LB) (Image, error) {
	const op = "create image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	if err := checkSize(op, vol, size); err != nil {
		return nil, err
	}
	n := s.extents(size.Bytes())
	if s.pool == "" && n != size.Bytes() {
		return nil, &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Range, Found: fmt.Sprintf("size of %d bytes", size.Bytes()),
			Expected: fmt.Sprintf("a multiple of the %d bytes of an extent of volume group %s", s.extent, s.group),
			Hint:     "use a thin pool, a group with smaller extents, or a volume of such a size",
		}
	}
	name := baseName(vol)
	c, err := s.list()
	if err != nil {
		return nil, err
	}
	if c.find(name) != nil {
		return nil, s.exists(op, vol, name)
	}
	words := []string{"lvcreate", "--yes", "--name", name}
	if s.pool == "" {
		words = append(words, "--size", bytesWord(n), s.group)
	} else {
		words = append(words, "--type", "thin", "--virtualsize", bytesWord(n), "--thinpool", s.pool, s.group)
	}
	dev, err := s.make(op, vol, name, n, words)
	return asImage(dev, err)
}

func (s *LVM) exists(op, vol, name string) error {
	return &walberr.Error{Op: op, Volume: vol, Code: walberr.Conflict, Found: s.node(name) + " exists"}
}

// make runs the command that makes a volume of n bytes, and opens it. A command
// that failed may have made it all the same: it is removed then.
func (s *LVM) make(op, vol, name string, n int64, words []string) (*device, error) {
	_, err := s.run(words...)
	var dev *device
	if err == nil {
		dev, err = s.openNode(name)
	}
	if err == nil && dev.size.Bytes() != n {
		err = &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Unavailable, Found: fmt.Sprintf("%s of %d bytes", s.node(name), dev.size.Bytes()),
			Expected: strconv.FormatInt(n, 10),
		}
		err = errors.Join(err, dev.Close())
	}
	if err != nil {
		_, removeErr := s.remove(op, vol, name)
		return nil, errors.Join(err, removeErr)
	}
	return dev, nil
}

// remove removes a volume, if this store has it.
func (s *LVM) remove(op, vol, name string) (found bool, err error) {
	c, err := s.list()
	if err != nil {
		return false, err
	}
	return s.removeListed(c, op, vol, name)
}

func (s *LVM) removeListed(c catalog, op, vol, name string) (found bool, err error) {
	if v := c.find(name); v == nil || !s.owns(v) {
		return false, nil
	}
	if err := s.refuseSnapshots(c, op, vol, name); err != nil {
		return true, err
	}
	_, err = s.run("lvremove", "--yes", s.full(name))
	return true, err
}

// refuseSnapshots refuses what a volume with ordinary snapshots cannot do: to
// grow, or to go without them.
func (s *LVM) refuseSnapshots(c catalog, op, vol, name string) error {
	names := c.snapshotsOf(name)
	if len(names) == 0 {
		return nil
	}
	return &walberr.Error{
		Op: op, Volume: vol, Code: walberr.Conflict, Found: s.full(name) + " has the snapshots " + strings.Join(names, ", "),
		Hint: "remove them first: del-restored for those named wr_, lvremove for others",
	}
}

// Delete implements [Store]. Cold snapshots, which C++ WalB may have made of
// the image, go first: it would take them for images of the next life.
func (s *LVM) Delete(vol string) error {
	const op = "delete image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	c, err := s.list()
	if err != nil {
		return err
	}
	for _, v := range c {
		if strings.HasPrefix(v.Name, "wc_"+vol+"_") {
			if _, err := s.removeListed(c, op, vol, v.Name); err != nil {
				return err
			}
		}
	}
	_, err = s.removeListed(c, op, vol, baseName(vol))
	return err
}

// Grow implements [Store]. The new part of an ordinary volume holds what other
// volumes left there. That it is still to be zeroed is written down before it
// becomes visible.
func (s *LVM) Grow(vol string, size block.LB) error {
	const op = "grow image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	if err := checkSize(op, vol, size); err != nil {
		return err
	}
	name := baseName(vol)
	c, err := s.list()
	if err != nil {
		return err
	}
	v, err := s.lookup(c, op, vol, name)
	if err != nil {
		return err
	}
	if err := s.zeroTail(op, vol, v); err != nil {
		return err
	}
	switch n := s.extents(size.Bytes()); {
	case size.Bytes() < v.Size:
		return &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Range, Found: fmt.Sprintf("%d blocks", size),
			Expected: fmt.Sprintf("at least the %d blocks of %s", block.FromBytes(v.Size), s.node(name)),
		}
	case n == v.Size:
		return nil
	case s.pool != "":
		_, err := s.run("lvextend", "--yes", "--size", bytesWord(n), s.full(name))
		return err
	default:
		if err := s.refuseSnapshots(c, op, vol, name); err != nil {
			return err
		}
		v.Tags = zeroTag + strconv.FormatUint(uint64(block.FromBytes(v.Size)), 10)
		if _, err := s.run("lvchange", "--yes", "--addtag", v.Tags, s.full(name)); err != nil {
			return err
		}
		if _, err := s.run("lvextend", "--yes", "--size", bytesWord(n), s.full(name)); err != nil {
			return err
		}
		return s.zeroTail(op, vol, v)
	}
}

// zeroTail zeroes what a Grow made visible, if a tag says that this is still to
// be done, and takes the tag away.
func (s *LVM) zeroTail(op, vol string, v *logicalVolume) error {
	for _, tag := range v.tags() {
		text, ok := strings.CutPrefix(tag, zeroTag)
		if !ok {
			continue
		}
		from, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return &walberr.Error{
				Op: op, Volume: vol, Code: walberr.Checksum, Found: "tag " + tag + " of " + s.full(v.Name), Err: err,
				Hint: "if nothing behind the end of the volume is of use, remove the tag: lvchange --deltag",
			}
		}
		dev, err := s.openNode(v.Name)
		if err != nil {
			return err
		}
		if block.LB(from) < dev.size {
			err = errors.Join(dev.Zero(block.Range{Addr: block.LB(from), Len: dev.size - block.LB(from)}), dev.Sync())
		}
		if err := errors.Join(err, dev.Close()); err != nil {
			return err
		}
		if _, err := s.run("lvchange", "--yes", "--deltag", tag, s.full(v.Name)); err != nil {
			return err
		}
	}
	return nil
}

// BeginRestore implements [Store]. An ordinary snapshot has room for changes of
// 1.2 times the image, so that it never overflows.
func (s *LVM) BeginRestore(ctx context.Context, vol string, gid meta.Gid) (Image, error) {
	const op = "restore image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := s.list()
	if err != nil {
		return nil, err
	}
	name := restoredName(vol, gid)
	if c.find(name) != nil {
		return nil, s.exists(op, vol, name)
	}
	name += tmpSuffix
	if _, err := s.removeListed(c, op, vol, name); err != nil {
		return nil, err
	}
	base, err := s.lookup(c, op, vol, baseName(vol))
	if err != nil {
		return nil, err
	}
	if err := s.settle(base.Name); err != nil {
		return nil, err
	}
	words := []string{"lvcreate", "--yes", "--snapshot", "--name", name}
	if s.pool == "" {
		words = append(words, "--size", bytesWord(s.extents(base.Size/5*6)))
	} else {
		words = append(words, "--setactivationskip", "n")
	}
	return asImage(s.make(op, vol, name, base.Size, append(words, s.full(base.Name))))
}

// settle brings what was written to a volume from the page cache to the device,
// which is what a snapshot is taken of.
func (s *LVM) settle(name string) error {
	dev, err := s.openNode(name)
	if err != nil {
		return err
	}
	return errors.Join(dev.Sync(), dev.Close())
}

// CommitRestore implements [Store].
func (s *LVM) CommitRestore(vol string, gid meta.Gid) error {
	const op = "restore image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	name := restoredName(vol, gid)
	c, err := s.list()
	if err != nil {
		return err
	}
	if c.find(name) != nil {
		return s.exists(op, vol, name)
	}
	if _, err := s.lookup(c, op, vol, name+tmpSuffix); err != nil {
		return err
	}
	_, err = s.run("lvrename", "--yes", s.group, name+tmpSuffix, name)
	return err
}

// AbortRestore implements [Store].
func (s *LVM) AbortRestore(vol string, gid meta.Gid) error {
	const op = "abort restore"
	if err := checkName(op, vol); err != nil {
		return err
	}
	_, err := s.remove(op, vol, restoredName(vol, gid)+tmpSuffix)
	return err
}

// Restored implements [Store].
func (s *LVM) Restored(vol string) ([]meta.Gid, error) {
	if err := checkName("list restored images", vol); err != nil {
		return nil, err
	}
	c, err := s.list()
	if err != nil {
		return nil, err
	}
	return s.restored(c, vol, ""), nil
}

// restored lists the gids of the volumes wr_VOL_GID with the given suffix.
func (s *LVM) restored(c catalog, vol, suffix string) []meta.Gid {
	var gids []meta.Gid
	for _, v := range c {
		if gid, ok := restoredGid(v.Name, vol, suffix); ok && s.owns(&v) {
			gids = append(gids, gid)
		}
	}
	slices.Sort(gids)
	return gids
}

// OpenRestored implements [Store].
func (s *LVM) OpenRestored(vol string, gid meta.Gid) (Image, error) {
	const op = "open restored image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	return asImage(s.open(op, vol, restoredName(vol, gid)))
}

// DeleteRestored implements [Store].
func (s *LVM) DeleteRestored(vol string, gid meta.Gid) error {
	const op = "delete restored image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	name := restoredName(vol, gid)
	found, err := s.remove(op, vol, name)
	if err == nil && !found {
		_, err = s.lookup(nil, op, vol, name)
	}
	return err
}

// RemoveLeftovers implements [Store].
func (s *LVM) RemoveLeftovers(vol string) (int, error) {
	const op = "remove unfinished restores"
	if err := checkName(op, vol); err != nil {
		return 0, err
	}
	c, err := s.list()
	if err != nil {
		return 0, err
	}
	gids := s.restored(c, vol, tmpSuffix)
	for i, gid := range gids {
		if _, err := s.removeListed(c, op, vol, restoredName(vol, gid)+tmpSuffix); err != nil {
			return i, err
		}
	}
	if v := c.find(baseName(vol)); v != nil && s.owns(v) {
		return len(gids), s.zeroTail(op, vol, v)
	}
	return len(gids), nil
}
