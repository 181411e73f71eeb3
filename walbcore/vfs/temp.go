package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"walbsh/walbcore/walberr"
)

const (
	tempPrefix  = "tmp"
	tempNameLen = 9
	tempLetters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	tempTries   = 100
)

// IsTempName reports whether a directory entry's name is that of a temporary
// file: it starts with "tmp" and has exactly 9 characters.
func IsTempName(name string) bool {
	return len(name) == tempNameLen && name[:len(tempPrefix)] == tempPrefix
}

// TempFile is a file that has no final name yet. It ends with Commit or Abort;
// Abort after Commit does nothing, so that it can be deferred.
type TempFile struct {
	File
	fs   FS
	dir  string
	path string
	done bool
}

// CreateTemp makes a temporary file in dir, mode 0600, open for reading and
// writing.
func CreateTemp(fsys FS, dir string) (*TempFile, error) {
	for try := 0; ; try++ {
		path := filepath.Join(dir, tempName())
		f, err := fsys.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			return &TempFile{File: f, fs: fsys, dir: dir, path: path}, nil
		}
		if !errors.Is(err, fs.ErrExist) || try == tempTries {
			return nil, err
		}
	}
}

func tempName() string {
	name := []byte(tempPrefix)
	for len(name) < tempNameLen {
		name = append(name, tempLetters[rand.IntN(len(tempLetters))])
	}
	return string(name)
}

// Dir is the directory that holds the file.
func (t *TempFile) Dir() string { return t.dir }

// Commit publishes the file as name in its directory: sync, close, rename,
// chmod 0644, sync of the directory. A file of that name is replaced.
//
// After an error nothing may be acknowledged. If the error came before the
// rename the temporary file is removed; if it came after it, published is
// true: the name stands for the new file, but may not survive a power loss.
func (t *TempFile) Commit(name string) (published bool, err error) {
	if t.done {
		return false, fs.ErrClosed
	}
	if err := t.Sync(); err != nil {
		return false, errors.Join(err, t.Abort())
	}
	t.done = true
	final := filepath.Join(t.dir, name)
	err = t.Close()
	if err == nil {
		err = t.fs.Rename(t.path, final)
	}
	if err != nil {
		return false, errors.Join(err, t.fs.Remove(t.path))
	}
	if err := t.fs.Chmod(final, 0o644); err != nil {
		return true, err
	}
	return true, t.fs.SyncDir(t.dir)
}

// Abort closes and removes the file. It does nothing after Commit or Abort.
func (t *TempFile) Abort() error {
	if t.done {
		return nil
	}
	t.done = true
	return errors.Join(t.Close(), t.fs.Remove(t.path))
}

// WriteFile publishes data as path, as [TempFile.Commit] does: readers and
// crashes see the old content or the new one, never a mixture. When it
// returns nil the new content is durable.
func WriteFile(fsys FS, path string, data []byte) error {
	t, err := CreateTemp(fsys, filepath.Dir(path))
	if err != nil {
		return err
	}
	if _, err := t.Write(data); err != nil {
		return errors.Join(err, t.Abort())
	}
	_, err = t.Commit(filepath.Base(path))
	return err
}

// RemoveTemps unlinks every temporary file in dir ([IsTempName]) and returns
// how many there were. Only the owner of the directory may call it, while it
// has no temporary file open there. Directories are left alone.
func RemoveTemps(fsys FS, dir string) (int, error) {
	list, err := fsys.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range list {
		if e.IsDir() || !IsTempName(e.Name()) {
			continue
		}
		if err := fsys.Remove(filepath.Join(dir, e.Name())); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// ReadFile returns the whole content of a file of at most limit bytes. A
// longer file is corrupt (code Checksum).
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, walberr.Corrupt("read "+path, fmt.Sprintf("more than %d bytes", limit), "a smaller file")
	}
	return data, nil
}

// Exists reports whether there is something at path.
func Exists(fsys FS, path string) (bool, error) {
	_, err := fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// MakeDir makes a directory, mode 0755, durably. Its parent must exist.
func MakeDir(fsys FS, path string) error {
	if err := fsys.Mkdir(path, 0o755); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// RemoveAll removes path and everything below it, durably. It is no error if
// nothing is there. Symbolic links are removed, not followed, except that path
// itself may be one. It is not atomic: after a crash any part may remain.
func RemoveAll(fsys FS, path string) error {
	info, err := fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := removeTree(fsys, path, info.IsDir()); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

func removeTree(fsys FS, path string, isDir bool) error {
	if isDir {
		list, err := fsys.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := removeTree(fsys, filepath.Join(path, e.Name()), e.IsDir()); err != nil {
				return err
			}
		}
	}
	if err := fsys.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// TempLink is a second name, still a temporary one, of an existing file. It
// ends with Commit or Abort; Abort after Commit does nothing.
type TempLink struct {
	fs   FS
	dir  string
	path string
	done bool
}

// LinkTemp gives the file oldName a temporary name in dir.
func LinkTemp(fsys FS, oldName, dir string) (*TempLink, error) {
	for try := 0; ; try++ {
		path := filepath.Join(dir, tempName())
		err := fsys.Link(oldName, path)
		if err == nil {
			return &TempLink{fs: fsys, dir: dir, path: path}, nil
		}
		if !errors.Is(err, fs.ErrExist) || try == tempTries {
			return nil, err
		}
	}
}

// Commit publishes the file as name in the directory of the temporary name and
// syncs the directory. A file of that name is replaced. Errors are as those of
// [TempFile.Commit].
func (t *TempLink) Commit(name string) (published bool, err error) {
	if t.done {
		return false, fs.ErrClosed
	}
	if err := t.fs.Rename(t.path, filepath.Join(t.dir, name)); err != nil {
		return false, errors.Join(err, t.Abort())
	}
	// Renaming between two names of one file does nothing and keeps both.
	t.done = true
	if err := t.fs.Remove(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	return true, t.fs.SyncDir(t.dir)
}

// Abort removes the temporary name. It does nothing after Commit or Abort.
func (t *TempLink) Abort() error {
	if t.done {
		return nil
	}
	t.done = true
	return t.fs.Remove(t.path)
}
