package vfstest

import (
	"io"
	"io/fs"
	"path"
	"sync"

	"walbsh/walbcore/vfs"
)

// Op names an operation of a file system or of an open file.
type Op string

// The operations.
const (
	OpOpen     Op = "open"
	OpMkdir    Op = "mkdir"
	OpRename   Op = "rename"
	OpLink     Op = "link"
	OpRemove   Op = "remove"
	OpReadDir  Op = "readdir"
	OpStat     Op = "stat"
	OpChmod    Op = "chmod"
	OpSyncDir  Op = "syncdir"
	OpLock     Op = "lock"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpSync     Op = "sync"
	OpClose    Op = "close"
)

// Changes reports whether the operation may change what a crash leaves behind.
func (o Op) Changes() bool {
	switch o {
	case OpReadDir, OpStat, OpRead, OpClose, OpLock:
		return false
	}
	return true
}

// Hook is asked before every operation. If it returns an error the operation
// does not happen and fails with that error. path is the new name for Rename
// and Link. It is called by whoever uses the file system, maybe concurrently.
type Hook func(op Op, path string) error

// Intercept gives a file system that asks hook before each operation on under.
func Intercept(under vfs.FS, hook Hook) vfs.FS { return &intercepted{under, hook} }

// Rule chooses operations that fail.
type Rule struct {
	Op   Op     // "" is any operation
	Path string // pattern of path.Match for the last element; "" is any
	Skip int    // how many matching operations still succeed
	Fail int    // how many then fail; 0 is all
	Err  error  // what they fail with
}

// Rules makes a hook that fails what one of the rules chooses.
func Rules(rules ...Rule) Hook {
	var mu sync.Mutex
	seen := make([]int, len(rules))
	return func(op Op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		for i, r := range rules {
			if r.Op != "" && r.Op != op {
				continue
			}
			if ok, err := path.Match(r.Path, path.Base(name)); r.Path != "" && (!ok || err != nil) {
				continue
			}
			seen[i]++
			if seen[i] > r.Skip && (r.Fail == 0 || seen[i] <= r.Skip+r.Fail) {
				return r.Err
			}
		}
		return nil
	}
}

type intercepted struct {
	vfs.FS
	hook Hook
}

func (i *intercepted) ask(op Op, name string) error {
	if err := i.hook(op, name); err != nil {
		return &fs.PathError{Op: string(op), Path: name, Err: err}
	}
	return nil
}

func (i *intercepted) Open(name string, flag int, perm fs.FileMode) (vfs.File, error) {
	if err := i.ask(OpOpen, name); err != nil {
		return nil, err
	}
	f, err := i.FS.Open(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &interceptedFile{f, i}, nil
}

func (i *intercepted) Mkdir(name string, perm fs.FileMode) error {
	if err := i.ask(OpMkdir, name); err != nil {
		return err
	}
	return i.FS.Mkdir(name, perm)
}

func (i *intercepted) Rename(oldName, newName string) error {
	if err := i.ask(OpRename, newName); err != nil {
		return err
	}
	return i.FS.Rename(oldName, newName)
}

func (i *intercepted) Link(oldName, newName string) error {
	if err := i.ask(OpLink, newName); err != nil {
		return err
	}
	return i.FS.Link(oldName, newName)
}

func (i *intercepted) Remove(name string) error {
	if err := i.ask(OpRemove, name); err != nil {
		return err
	}
	return i.FS.Remove(name)
}

func (i *intercepted) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := i.ask(OpReadDir, name); err != nil {
		return nil, err
	}
	return i.FS.ReadDir(name)
}

func (i *intercepted) Stat(name string) (fs.FileInfo, error) {
	if err := i.ask(OpStat, name); err != nil {
		return nil, err
	}
	return i.FS.Stat(name)
}

func (i *intercepted) Chmod(name string, mode fs.FileMode) error {
	if err := i.ask(OpChmod, name); err != nil {
		return err
	}
	return i.FS.Chmod(name, mode)
}

func (i *intercepted) SyncDir(name string) error {
	if err := i.ask(OpSyncDir, name); err != nil {
		return err
	}
	return i.FS.SyncDir(name)
}

func (i *intercepted) Lock(name string) (io.Closer, error) {
	if err := i.ask(OpLock, name); err != nil {
		return nil, err
	}
	return i.FS.Lock(name)
}

type interceptedFile struct {
	vfs.File
	fs *intercepted
}

func (f *interceptedFile) Read(p []byte) (int, error) {
	if err := f.fs.ask(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *interceptedFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(OpRead, f.Name()); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *interceptedFile) Write(p []byte) (int, error) {
	if err := f.fs.ask(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *interceptedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.ask(OpWrite, f.Name()); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *interceptedFile) Truncate(size int64) error {
	if err := f.fs.ask(OpTruncate, f.Name()); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *interceptedFile) Sync() error {
	if err := f.fs.ask(OpSync, f.Name()); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *interceptedFile) Close() error {
	if err := f.fs.ask(OpClose, f.Name()); err != nil {
		return err
	}
	return f.File.Close()
}
