package archive

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

// memStore keeps images on a vfs.FS, under the names of image.Files, so that
// they share the fate of the other files when a disk in memory loses power.
type memStore struct{ fs vfs.FS }

func (s *memStore) Path(vol string) string { return path.Join(memBase, vol, "wb_"+vol) }

func (s *memStore) RestoredPath(vol string, gid meta.Gid) string {
	return path.Join(memBase, vol, "wr_"+vol+"_"+gid.String())
}

func (s *memStore) create(name string, size block.LB) (image.Image, error) {
	f, err := s.fs.Open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size.Bytes()); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return &memImage{f, size}, s.fs.SyncDir(path.Dir(name))
}

func (s *memStore) open(name string) (image.Image, error) {
	f, err := s.fs.Open(name, os.O_RDWR, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &walberr.Error{Op: "open image", Code: walberr.NotFound, Found: "no image " + name}
		}
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &memImage{f, block.FromBytes(info.Size())}, nil
}

func (s *memStore) remove(name string) error {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.fs.SyncDir(path.Dir(name))
}

func (s *memStore) Create(vol string, size block.LB) (image.Image, error) {
	return s.create(s.Path(vol), size)
}

func (s *memStore) Open(vol string) (image.Image, error) { return s.open(s.Path(vol)) }

func (s *memStore) Size(vol string) (block.LB, error) {
	img, err := s.Open(vol)
	if err != nil {
		return 0, err
	}
	return img.Size(), img.Close()
}

func (s *memStore) Grow(vol string, size block.LB) error {
	img, err := s.Open(vol)
	if err != nil {
		return err
	}
	defer img.Close()
	f := img.(*memImage)
	return errors.Join(f.Truncate(size.Bytes()), f.Sync())
}

func (s *memStore) Delete(vol string) error { return s.remove(s.Path(vol)) }

func (s *memStore) BeginRestore(ctx context.Context, vol string, gid meta.Gid) (image.Image, error) {
	if err := s.AbortRestore(vol, gid); err != nil {
		return nil, err
	}
	base, err := s.Open(vol)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	img, err := s.create(s.RestoredPath(vol, gid)+"_tmp", base.Size())
	if err != nil {
		return nil, err
	}
	p := make([]byte, base.Size().Bytes())
	if _, err := base.ReadAt(p, 0); err != nil {
		return nil, err
	}
	_, err = img.WriteAt(p, 0)
	return img, errors.Join(err, ctx.Err())
}

func (s *memStore) CommitRestore(vol string, gid meta.Gid) error {
	name := s.RestoredPath(vol, gid)
	return errors.Join(s.fs.Rename(name+"_tmp", name), s.fs.SyncDir(path.Dir(name)))
}

func (s *memStore) AbortRestore(vol string, gid meta.Gid) error {
	return s.remove(s.RestoredPath(vol, gid) + "_tmp")
}

func (s *memStore) list(vol string) (done, leftovers []meta.Gid, err error) {
	entries, err := s.fs.ReadDir(path.Join(memBase, vol))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		text, ok := strings.CutPrefix(e.Name(), "wr_"+vol+"_")
		if !ok {
			continue
		}
		text, left := strings.CutSuffix(text, "_tmp")
		gid, err := meta.ParseGid(text)
		if err != nil {
			return nil, nil, err
		}
		if left {
			leftovers = append(leftovers, gid)
		} else {
			done = append(done, gid)
		}
	}
	slices.Sort(done)
	return done, leftovers, nil
}

func (s *memStore) Restored(vol string) ([]meta.Gid, error) {
	done, _, err := s.list(vol)
	return done, err
}

func (s *memStore) OpenRestored(vol string, gid meta.Gid) (image.Image, error) {
	return s.open(s.RestoredPath(vol, gid))
}

func (s *memStore) DeleteRestored(vol string, gid meta.Gid) error {
	return s.remove(s.RestoredPath(vol, gid))
}

func (s *memStore) RemoveLeftovers(vol string) (int, error) {
	_, leftovers, err := s.list(vol)
	for _, gid := range leftovers {
		err = errors.Join(err, s.AbortRestore(vol, gid))
	}
	return len(leftovers), err
}

// memImage is an image of a memStore.
type memImage struct {
	vfs.File
	size block.LB
}

func (m *memImage) Size() block.LB { return m.size }

func (m *memImage) Zero(r block.Range) error {
	_, err := m.WriteAt(make([]byte, r.Len.Bytes()), r.Addr.Bytes())
	return err
}

func (m *memImage) Clear() error { return m.Zero(block.Range{Len: m.size}) }

func (m *memImage) NextData(_ context.Context, from block.LB) (block.Range, error) {
	return block.Range{Addr: from, Len: m.size - from}, nil
}

func (m *memImage) WriteBack(_, _ int64) {}

// brokenSync is a store whose images cannot be synced.
type brokenSync struct{ image.Store }

func (s brokenSync) Open(vol string) (image.Image, error) {
	img, err := s.Store.Open(vol)
	return unsynced{img}, err
}

type unsynced struct{ image.Image }

func (unsynced) Sync() error { return errors.New("input/output error") }
