// Package diffstore keeps the diff files of one directory together with what
// they mean: an archive's volume, a proxy's received diffs, or the diffs that
// wait for one archive.
//
//	<dir>/YYYYMMDDhhmmss-MC-<gids>.wdiff    one diff; the name says which (package meta)
//	<dir>/tmpXXXXXX                         being written
//	anything else                           belongs to someone else and is left alone
//
// # Rules
//
//   - One directory holds at most one diff per identity (B, E). This is checked
//     before a file gets its name, since two such files would keep the server
//     from starting.
//   - A diff that is listed is durable: file synced, renamed, directory synced.
//     So [Store.Add], [Store.Replace] and [Store.LinkTo] may be acknowledged
//     when they return nil.
//   - Removing forgets first and unlinks then; what could not be unlinked is
//     tried again before the next change. Files that were opened before stay
//     readable.
//   - When anything else fails, the list says what it said before.
//
// What may come in: diffs whose invariants hold ([meta.Diff.Check] is asked),
// directories written by this package or by the original. The content of the
// files is the business of the callers.
package diffstore

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

// Store is the diffs of one directory. It is safe for concurrent use. Only one
// store may be open on a directory; it holds no file open itself.
type Store struct {
	fs  vfs.FS
	dir string

	// op is held while the directory is changed or a file is opened, and is
	// taken before mu. It serialises slow disk work without keeping readers
	// of the list waiting. Nobody holds the op of two stores.
	op sync.Mutex
	// stale are names of diff files that are not listed and could not be
	// unlinked. Nothing is published before they are gone. Guarded by op.
	stale map[string]bool

	mu    sync.RWMutex // guards what follows
	list  *meta.Manager
	files map[identity]entry
	gen   uint64 // generation of the last published file
}

// identity is what makes two diffs the same ([meta.Diff.Same]).
type identity struct{ b, e meta.Snap }

// entry is the file of a diff.
type entry struct {
	name string // in the directory; for an original's file not always Diff.FileName
	gen  uint64 // changes when the file is replaced
}

func idOf(d meta.Diff) identity { return identity{d.B, d.E} }

// ExistsError refuses a diff whose identity is in the store already. Nothing
// was changed. Its text is the original's. Its code is Conflict.
type ExistsError struct {
	Existing meta.Diff // as it is listed
	Path     string    // of its file
}

// Error gives the text.
func (e *ExistsError) Error() string {
	return "MetaDiffManager::add:already exists:" + e.Existing.String()
}

// Unwrap gives the classification.
func (e *ExistsError) Unwrap() error {
	return &walberr.Error{Op: "add diff", Code: walberr.Conflict, Found: e.Path}
}

// Open scans dir, which must exist. A file name that ends like a diff's and
// cannot be read, or two files of one identity, is an error of code Checksum
// that names the files. Temporary files are left alone (see RemoveTemps).
func Open(fsys vfs.FS, dir string) (*Store, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{fs: fsys, dir: dir, stale: map[string]bool{}, files: map[identity]entry{}}
	var diffs []meta.Diff
	for _, e := range entries {
		if !e.Type().IsRegular() || !meta.IsFileName(e.Name()) {
			continue
		}
		d, err := meta.ParseFileName(e.Name())
		if err != nil {
			return nil, &walberr.Error{
				Op: "scan " + dir, Code: walberr.Checksum, Err: err,
				Hint: "move the file " + e.Name() + " out of the directory",
			}
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		d.Size = uint64(info.Size())
		if other, found := s.files[idOf(d)]; found {
			return nil, &walberr.Error{
				Op: "scan " + dir, Code: walberr.Checksum,
				Found:    fmt.Sprintf("%s and %s, both %s", other.name, e.Name(), d),
				Expected: "one file per diff",
				Hint:     "move the one that belongs to an older log life out of the directory",
			}
		}
		s.gen++
		s.files[idOf(d)] = entry{e.Name(), s.gen}
		diffs = append(diffs, d)
	}
	s.list, err = meta.NewManager(diffs)
	if err != nil {
		return nil, fmt.Errorf("scan %s: %w", dir, err)
	}
	return s, nil
}

// Dir is the directory.
func (s *Store) Dir() string { return s.dir }

// View lets fn look at the list. It must not change it, keep it, or call the
// store; lists that it gets from the manager are its own.
func (s *Store) View(fn func(*meta.Manager)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn(s.list)
}

// All lists the diffs ordered by B.B.
func (s *Store) All() []meta.Diff {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.list.All()
}

// find gives the listed diff with d's identity, and its file.
func (s *Store) find(d meta.Diff) (meta.Diff, entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	listed, found := s.list.Find(d.B, d.E)
	return listed, s.files[idOf(d)], found
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// File is a diff file opened for reading. It stays readable whatever happens
// to the store.
type File struct {
	vfs.File
	Diff meta.Diff // as it was listed when it was opened
	gen  uint64
}

// OpenFile opens the file of the diff with d's identity. It fails with code
// NotFound if it is not listed (any more): then the caller chooses anew. It
// waits for a change of the directory that is under way, so that file and list
// agree.
func (s *Store) OpenFile(d meta.Diff) (*File, error) {
	s.op.Lock()
	defer s.op.Unlock()
	listed, e, found := s.find(d)
	if !found {
		return nil, s.notFound("open diff", d)
	}
	f, err := s.fs.Open(s.path(e.name), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &File{File: f, Diff: listed, gen: e.gen}, nil
}

func (s *Store) notFound(op string, d meta.Diff) error {
	return &walberr.Error{Op: op, Code: walberr.NotFound, Found: "no diff " + d.String() + " in " + s.dir}
}

// CreateTemp makes a temporary file in the directory, to be given to Add or
// Replace, or aborted.
func (s *Store) CreateTemp() (*vfs.TempFile, error) { return vfs.CreateTemp(s.fs, s.dir) }

// RemoveTemps unlinks the temporary files of the directory and returns how
// many there were. Only at start: none of them may be in use.
func (s *Store) RemoveTemps() (int, error) { return vfs.RemoveTemps(s.fs, s.dir) }
