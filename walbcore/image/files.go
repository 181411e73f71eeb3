package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

// Files is a [Store] of sparse files.
type Files struct{ base string }

// NewFiles makes the store of the server directory base, which must exist, as
// must the directory of every volume. It does no IO.
func NewFiles(base string) *Files { return &Files{base} }

// Path implements [Store].
func (s *Files) Path(vol string) string { return filepath.Join(s.base, vol, baseName(vol)) }

// RestoredPath implements [Store].
func (s *Files) RestoredPath(vol string, gid meta.Gid) string {
	return filepath.Join(s.base, vol, restoredName(vol, gid))
}

// Create implements [Store].
func (s *Files) Create(vol string, size block.LB) (Image, error) {
	const op = "create image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	if err := checkSize(op, vol, size); err != nil {
		return nil, err
	}
	img, err := createFile(s.Path(vol), size)
	if errors.Is(err, fs.ErrExist) {
		return nil, &walberr.Error{Op: op, Volume: vol, Code: walberr.Conflict, Found: s.Path(vol) + " exists"}
	}
	return img, err
}

func checkSize(op, vol string, size block.LB) error {
	if size == 0 || !size.Valid() {
		return &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Range, Found: fmt.Sprintf("size of %d blocks", size),
			Expected: fmt.Sprintf("1 to %d blocks", block.MaxLB),
		}
	}
	return nil
}

// Open implements [Store].
func (s *Files) Open(vol string) (Image, error) {
	if err := checkName("open image", vol); err != nil {
		return nil, err
	}
	return openFile(vol, s.Path(vol))
}

// Size implements [Store].
func (s *Files) Size(vol string) (block.LB, error) {
	img, err := s.Open(vol)
	if err != nil {
		return 0, err
	}
	return img.Size(), img.Close()
}

// Grow implements [Store].
func (s *Files) Grow(vol string, size block.LB) error {
	const op = "grow image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	if err := checkSize(op, vol, size); err != nil {
		return err
	}
	img, err := openFile(vol, s.Path(vol))
	if err != nil {
		return err
	}
	defer func() { _ = img.Close() }()
	switch {
	case size < img.size:
		return &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Range, Found: fmt.Sprintf("%d blocks", size),
			Expected: fmt.Sprintf("at least the %d blocks of %s", img.size, s.Path(vol)),
		}
	case size == img.size:
		return nil
	}
	if err := img.f.Truncate(size.Bytes()); err != nil {
		return err
	}
	return img.Sync()
}

// Delete implements [Store].
func (s *Files) Delete(vol string) error {
	if err := checkName("delete image", vol); err != nil {
		return err
	}
	_, err := remove(s.Path(vol))
	return err
}

// remove unlinks a file durably, if it is there.
func remove(path string) (found bool, err error) {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	return true, syncDirOf(path)
}

func syncDirOf(path string) error { return vfs.OS{}.SyncDir(filepath.Dir(path)) }

// BeginRestore implements [Store].
func (s *Files) BeginRestore(ctx context.Context, vol string, gid meta.Gid) (Image, error) {
	const op = "restore image"
	if err := checkName(op, vol); err != nil {
		return nil, err
	}
	if err := s.refuseRestored(op, vol, gid); err != nil {
		return nil, err
	}
	if err := s.AbortRestore(vol, gid); err != nil {
		return nil, err
	}
	base, err := openFile(vol, s.Path(vol))
	if err != nil {
		return nil, err
	}
	defer func() { _ = base.Close() }()
	img, err := createFile(s.RestoredPath(vol, gid)+tmpSuffix, base.size)
	if err != nil {
		return nil, err
	}
	if err := clone(ctx, img, base); err != nil {
		return nil, errors.Join(err, img.Close(), s.AbortRestore(vol, gid))
	}
	return img, nil
}

func (s *Files) refuseRestored(op, vol string, gid meta.Gid) error {
	path := s.RestoredPath(vol, gid)
	found, err := vfs.Exists(vfs.OS{}, path)
	if err != nil || !found {
		return err
	}
	return &walberr.Error{Op: op, Volume: vol, Code: walberr.Conflict, Found: path + " exists"}
}

// CommitRestore implements [Store].
func (s *Files) CommitRestore(vol string, gid meta.Gid) error {
	const op = "restore image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	if err := s.refuseRestored(op, vol, gid); err != nil {
		return err
	}
	path := s.RestoredPath(vol, gid)
	if err := os.Rename(path+tmpSuffix, path); err != nil {
		return notFound(op, vol, path+tmpSuffix, err)
	}
	return syncDirOf(path)
}

// AbortRestore implements [Store].
func (s *Files) AbortRestore(vol string, gid meta.Gid) error {
	if err := checkName("abort restore", vol); err != nil {
		return err
	}
	_, err := remove(s.RestoredPath(vol, gid) + tmpSuffix)
	return err
}

// Restored implements [Store].
func (s *Files) Restored(vol string) ([]meta.Gid, error) {
	if err := checkName("list restored images", vol); err != nil {
		return nil, err
	}
	gids, err := s.restored(vol, "")
	slices.Sort(gids)
	return gids, err
}

// restored lists the gids of the files wr_VOL_GID with the given suffix.
func (s *Files) restored(vol, suffix string) ([]meta.Gid, error) {
	entries, err := os.ReadDir(filepath.Join(s.base, vol))
	if err != nil {
		return nil, err
	}
	var gids []meta.Gid
	for _, e := range entries {
		if gid, ok := restoredGid(e.Name(), vol, suffix); ok && e.Type().IsRegular() {
			gids = append(gids, gid)
		}
	}
	return gids, nil
}

// OpenRestored implements [Store].
func (s *Files) OpenRestored(vol string, gid meta.Gid) (Image, error) {
	if err := checkName("open restored image", vol); err != nil {
		return nil, err
	}
	return openFile(vol, s.RestoredPath(vol, gid))
}

// DeleteRestored implements [Store].
func (s *Files) DeleteRestored(vol string, gid meta.Gid) error {
	const op = "delete restored image"
	if err := checkName(op, vol); err != nil {
		return err
	}
	path := s.RestoredPath(vol, gid)
	found, err := remove(path)
	if err == nil && !found {
		return notFound(op, vol, path, fs.ErrNotExist)
	}
	return err
}

// RemoveLeftovers implements [Store].
func (s *Files) RemoveLeftovers(vol string) (int, error) {
	if err := checkName("remove unfinished restores", vol); err != nil {
		return 0, err
	}
	gids, err := s.restored(vol, tmpSuffix)
	if err != nil {
		return 0, err
	}
	for i, gid := range gids {
		if err := s.AbortRestore(vol, gid); err != nil {
			return i, err
		}
	}
	return len(gids), nil
}

// notFound gives an error of a missing file the code NotFound, and leaves
// others as they are.
func notFound(op, vol, path string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return &walberr.Error{Op: op, Volume: vol, Code: walberr.NotFound, Found: "no image " + path}
}
