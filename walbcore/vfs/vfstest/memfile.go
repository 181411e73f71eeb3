package vfstest

import (
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"
	"time"

	"walbsh/walbcore/walberr"
)

const (
	pageSize   = 4096
	sectorSize = 512
)

// content is the bytes of a file. Pages are never changed in place, so that
// copies may share them; a page that is not there is zeros.
type content struct {
	size  int64
	pages map[int64]*[pageSize]byte
}

func (c content) clone() content { return content{c.size, maps.Clone(c.pages)} }

// page gives page i for reading.
func (c content) page(i int64) *[pageSize]byte {
	if p := c.pages[i]; p != nil {
		return p
	}
	return new([pageSize]byte)
}

// write puts p at off, which must lie inside one page.
func (n *node) write(p []byte, off int64) {
	i := off / pageSize
	fresh := *n.now.page(i)
	copy(fresh[off%pageSize:], p)
	if n.now.pages == nil {
		n.now.pages = map[int64]*[pageSize]byte{}
	}
	n.now.pages[i] = &fresh
	n.dirty[i] = true
	n.now.size = max(n.now.size, off+int64(len(p)))
}

func (n *node) truncate(size int64) {
	for i := range n.now.pages {
		if i*pageSize >= size {
			delete(n.now.pages, i)
			n.dirty[i] = true
		}
	}
	if tail := size % pageSize; tail != 0 && n.now.pages[size/pageSize] != nil {
		n.write(make([]byte, pageSize-tail), size)
	}
	n.now.size = size
}

func (n *node) sync() {
	if n.synced.pages == nil {
		n.synced.pages = map[int64]*[pageSize]byte{}
	}
	for i := range n.dirty {
		if p := n.now.pages[i]; p != nil {
			n.synced.pages[i] = p
		} else {
			delete(n.synced.pages, i)
		}
	}
	n.synced.size = n.now.size
	clear(n.dirty)
}

// mix gives a content that a crash may leave behind.
func (n *node) mix(keep func() bool) content {
	mixed := n.synced.clone()
	if mixed.pages == nil {
		mixed.pages = map[int64]*[pageSize]byte{}
	}
	if n.now.size != n.synced.size && keep() {
		mixed.size = n.now.size
	}
	for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
		page, fresh := *n.synced.page(i), n.now.page(i)
		for at := 0; at < pageSize; at += sectorSize {
			if keep() {
				copy(page[at:at+sectorSize], fresh[at:])
			}
		}
		mixed.pages[i] = &page
	}
	// Behind the end there is nothing to come back when the file grows again.
	short := &node{now: mixed, dirty: map[int64]bool{}}
	short.truncate(mixed.size)
	return short.now
}

// memFile is an open file.
type memFile struct {
	fs       *Mem
	node     *node
	name     string
	writable bool
	pos      int64
	closed   bool
}

func (f *memFile) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return nil, f.fail("stat", fs.ErrClosed)
	}
	return f.node.info(path.Base(f.name)), nil
}

func (f *memFile) Read(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.readAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.readAt(p, off)
}

func (f *memFile) readAt(p []byte, off int64) (int, error) {
	switch {
	case f.closed:
		return 0, f.fail("read", fs.ErrClosed)
	case off < 0:
		return 0, f.fail("read", syscall.EINVAL)
	}
	done := 0
	for done < len(p) && off < f.node.now.size {
		page := f.node.now.page(off / pageSize)
		want := min(int64(len(p)-done), f.node.now.size-off)
		k := copy(p[done:done+int(want)], page[off%pageSize:])
		done += k
		off += int64(k)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	n, err := f.writeAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.writeAt(p, off)
}

func (f *memFile) writeAt(p []byte, off int64) (int, error) {
	if err := f.checkWrite("write", off); err != nil {
		return 0, err
	}
	for rest := p; len(rest) > 0; {
		k := min(len(rest), int(pageSize-off%pageSize))
		f.node.write(rest[:k], off)
		off += int64(k)
		rest = rest[k:]
	}
	return len(p), nil
}

func (f *memFile) checkWrite(op string, off int64) error {
	switch {
	case f.closed:
		return f.fail(op, fs.ErrClosed)
	case !f.writable:
		return f.fail(op, syscall.EBADF)
	case off < 0:
		return f.fail(op, syscall.EINVAL)
	}
	return nil
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.checkWrite("truncate", size); err != nil {
		return err
	}
	f.node.truncate(size)
	return nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return f.fail("sync", fs.ErrClosed)
	}
	f.node.sync()
	return nil
}

func (f *memFile) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return f.fail("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

// Lock implements [vfs.FS].
func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.Open(name, syscall.O_RDWR|syscall.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] {
		return nil, &walberr.Error{Op: "lock " + name, Code: walberr.Conflict, Found: "it is locked"}
	}
	m.locks[name] = true
	return &memLock{m, name}, nil
}

type memLock struct {
	fs   *Mem
	name string
}

func (l *memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locks, l.name)
	return nil
}

// info is what Stat says of a node.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (n *node) info(name string) fs.FileInfo { return info{name, n.now.size, n.mode} }

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
