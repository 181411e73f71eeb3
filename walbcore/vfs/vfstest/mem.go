// Package vfstest holds file systems for tests: [Mem], a disk in memory that
// can lose power, and [Intercept], which watches every operation and makes
// chosen ones fail.
//
// What survives a power loss of a Mem is what POSIX promises and not more:
//
//	file content     as of the last Sync; of what was written or truncated
//	                 since, any set of 512-byte sectors
//	directory entry  as of the last SyncDir of its directory; of the
//	                 creations, renames, links and removals since, any set,
//	                 but a rename happens as a whole
//
// A killed process loses nothing but its locks: after DropLocks its successor
// goes on with the same Mem.
package vfstest

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"walbsh/walbcore/vfs"
)

// Mem is a disk in memory. It is safe for concurrent use. Paths are absolute.
// Symbolic links do not exist.
type Mem struct {
	mu      sync.Mutex
	root    *node
	pending []dirOp // not yet durable, in order
	locks   map[string]bool
}

// node is a file or a directory.
type node struct {
	mode    fs.FileMode
	names   map[string]*node // of a directory, as processes see it; nil for a file
	durable map[string]*node // of a directory, as the last SyncDir left it

	now    content // of a file, as processes see it
	synced content // of a file, as the last Sync left it
	dirty  map[int64]bool
}

// dirOp is one operation on directories: all its changes or none are on the disk.
type dirOp []entryChange

type entryChange struct {
	dir  *node
	name string
	to   *node // nil: the name is gone
}

// NewMem makes an empty disk with the root directory and the given ones, with
// their parents, all of them durable.
func NewMem(dirs ...string) *Mem {
	m := &Mem{root: newDir(), locks: map[string]bool{}}
	for _, d := range dirs {
		at := m.root
		for part := range strings.SplitSeq(path.Clean(d), "/") {
			if part == "" {
				continue
			}
			if at.names[part] == nil {
				at.names[part] = newDir()
				at.durable[part] = at.names[part]
			}
			at = at.names[part]
		}
	}
	return m
}

func newDir() *node {
	return &node{mode: fs.ModeDir | 0o755, names: map[string]*node{}, durable: map[string]*node{}}
}

func newFile(perm fs.FileMode) *node {
	return &node{mode: perm, dirty: map[int64]bool{}}
}

func (n *node) isDir() bool { return n.names != nil }

// Crash gives the disk as it may be found after a loss of power now. The same
// state of rnd gives the same result. m itself goes on unchanged.
func (m *Mem) Crash(rnd *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := chance(rnd)
	entries := map[*node]map[string]*node{}
	entriesOf := func(d *node) map[string]*node {
		if entries[d] == nil {
			entries[d] = maps.Clone(d.durable)
		}
		return entries[d]
	}
	for _, op := range m.pending {
		if !keep() {
			continue
		}
		for _, c := range op {
			setEntry(entriesOf(c.dir), c.name, c.to)
		}
	}

	copies := map[*node]*node{}
	var restore func(n *node) *node
	restore = func(n *node) *node {
		if c := copies[n]; c != nil {
			return c
		}
		c := &node{mode: n.mode}
		copies[n] = c
		if n.isDir() {
			c.names = map[string]*node{}
			for _, name := range slices.Sorted(maps.Keys(entriesOf(n))) {
				c.names[name] = restore(entriesOf(n)[name])
			}
			c.durable = maps.Clone(c.names)
			return c
		}
		c.dirty = map[int64]bool{}
		c.now = n.mix(keep)
		c.synced = c.now.clone()
		return c
	}
	return &Mem{root: restore(m.root), locks: map[string]bool{}}
}

// DropLocks releases all locks, as the end of the process that holds them does.
func (m *Mem) DropLocks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.locks)
}

// chance decides how a crash deals with what was not synced: keep nothing, a
// part, or everything.
func chance(rnd *rand.Rand) func() bool {
	quarters := rnd.IntN(5)
	return func() bool { return rnd.IntN(4) < quarters }
}

func setEntry(dir map[string]*node, name string, to *node) {
	if to == nil {
		delete(dir, name)
		return
	}
	dir[name] = to
}

// change carries out an operation on directories. Called with mu held.
func (m *Mem) change(op ...entryChange) {
	for _, c := range op {
		setEntry(c.dir.names, c.name, c.to)
	}
	m.pending = append(m.pending, op)
}

// SyncDir implements [vfs.FS].
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.lookupDir("sync", name)
	if err != nil {
		return err
	}
	// Operations on several directories drag the earlier ones on those along.
	dirs := map[*node]bool{d: true}
	var rest []dirOp
	due := make([]bool, len(m.pending))
	for i, op := range slices.Backward(m.pending) {
		due[i] = slices.ContainsFunc(op, func(c entryChange) bool { return dirs[c.dir] })
		for _, c := range op {
			dirs[c.dir] = dirs[c.dir] || due[i]
		}
	}
	for i, op := range m.pending {
		if !due[i] {
			rest = append(rest, op)
			continue
		}
		for _, c := range op {
			setEntry(c.dir.durable, c.name, c.to)
		}
	}
	m.pending = rest
	return nil
}

// lookup finds what path names. Called with mu held.
func (m *Mem) lookup(op, name string) (*node, error) {
	n := m.root
	for part := range strings.SplitSeq(path.Clean(name), "/") {
		if part == "" {
			continue
		}
		if !n.isDir() {
			return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
		}
		next := n.names[part]
		if next == nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
		}
		n = next
	}
	return n, nil
}

func (m *Mem) lookupDir(op, name string) (*node, error) {
	n, err := m.lookup(op, name)
	if err == nil && !n.isDir() {
		err = &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
	}
	return n, err
}

// parent finds the directory that holds, or would hold, name.
func (m *Mem) parent(op, name string) (dir *node, base string, err error) {
	dir, err = m.lookupDir(op, path.Dir(path.Clean(name)))
	return dir, path.Base(path.Clean(name)), err
}

// Open implements [vfs.FS].
func (m *Mem) Open(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("open", name)
	if err != nil {
		return nil, err
	}
	n := dir.names[base]
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	case n == nil:
		n = newFile(perm)
		m.change(entryChange{dir, base, n})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EEXIST}
	case n.isDir():
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	writable := flag&(os.O_RDWR|os.O_WRONLY) != 0
	if flag&os.O_TRUNC != 0 && writable {
		n.truncate(0)
	}
	return &memFile{fs: m, node: n, name: name, writable: writable}, nil
}

// Mkdir implements [vfs.FS].
func (m *Mem) Mkdir(name string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("mkdir", name)
	if err != nil {
		return err
	}
	if dir.names[base] != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.EEXIST}
	}
	n := newDir()
	n.mode = fs.ModeDir | perm
	m.change(entryChange{dir, base, n})
	return nil
}

// Rename implements [vfs.FS].
func (m *Mem) Rename(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) error {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	n, err := m.lookup("rename", oldName)
	if err != nil {
		return err
	}
	from, oldBase, err := m.parent("rename", oldName)
	if err != nil {
		return err
	}
	to, newBase, err := m.parent("rename", newName)
	if err != nil {
		return err
	}
	target := to.names[newBase]
	switch {
	case target == nil:
	case target == n:
		return nil // two names of one file: both stay
	case target.isDir() != n.isDir():
		return fail(syscall.EISDIR)
	case target.isDir() && len(target.names) > 0:
		return fail(syscall.ENOTEMPTY)
	}
	m.change(entryChange{from, oldBase, nil}, entryChange{to, newBase, n})
	return nil
}

// Link implements [vfs.FS].
func (m *Mem) Link(oldName, newName string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("link", oldName)
	if err != nil {
		return err
	}
	to, base, err := m.parent("link", newName)
	if err != nil {
		return err
	}
	switch {
	case n.isDir():
		return &os.LinkError{Op: "link", Old: oldName, New: newName, Err: syscall.EPERM}
	case to.names[base] != nil:
		return &os.LinkError{Op: "link", Old: oldName, New: newName, Err: syscall.EEXIST}
	}
	m.change(entryChange{to, base, n})
	return nil
}

// Remove implements [vfs.FS].
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("remove", name)
	if err != nil {
		return err
	}
	if n.isDir() && len(n.names) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	m.change(entryChange{dir, base, nil})
	return nil
}

// ReadDir implements [vfs.FS].
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.lookupDir("readdir", name)
	if err != nil {
		return nil, err
	}
	var list []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(d.names)) {
		list = append(list, fs.FileInfoToDirEntry(d.names[base].info(base)))
	}
	return list, nil
}

// Stat implements [vfs.FS].
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(name)), nil
}

// Chmod implements [vfs.FS]. Modes are durable at once.
func (m *Mem) Chmod(name string, mode fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("chmod", name)
	if err != nil {
		return err
	}
	n.mode = n.mode.Type() | mode.Perm()
	return nil
}
