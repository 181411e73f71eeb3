package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// copyChunk is how much is copied between two looks at the context, in bytes.
const copyChunk = 1 << 20

// file is an [Image] in a file. Only positioned reads and writes are used, so
// the file offset is free for SEEK_DATA.
type file struct {
	f    *os.File
	size block.LB
}

// createFile makes a new file of zeros, durably.
func createFile(path string, size block.LB) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	img := &file{f, size}
	err = f.Truncate(size.Bytes())
	if err == nil {
		err = img.Sync()
	}
	if err == nil {
		err = syncDirOf(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return img, nil
}

func openFile(vol, path string) (*file, error) {
	const op = "open image"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, notFound(op, vol, path, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if n := info.Size(); n == 0 || n%block.Size != 0 || !info.Mode().IsRegular() {
		bad := &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Checksum, Found: fmt.Sprintf("%s, %s, %d bytes", path, info.Mode().Type(), n),
			Expected: fmt.Sprintf("a regular file of one or more blocks of %d bytes", block.Size),
		}
		return nil, errors.Join(bad, f.Close())
	}
	return &file{f, block.FromBytes(info.Size())}, nil
}

// ReadAt implements [Image].
func (m *file) ReadAt(p []byte, off int64) (int, error) { return m.f.ReadAt(p, off) }

// WriteAt implements [Image].
func (m *file) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off > m.size.Bytes()-int64(len(p)) {
		return 0, m.outside("write", fmt.Sprintf("%d bytes at %d", len(p), off))
	}
	return m.f.WriteAt(p, off)
}

func (m *file) outside(op, found string) error {
	return &walberr.Error{
		Op: op + " " + m.f.Name(), Code: walberr.Range, Found: found,
		Expected: fmt.Sprintf("inside %d bytes", m.size.Bytes()),
	}
}

// Close implements [Image].
func (m *file) Close() error { return m.f.Close() }

// Size implements [Image].
func (m *file) Size() block.LB { return m.size }

// Zero implements [Image].
func (m *file) Zero(r block.Range) error {
	if r.Len == 0 {
		return nil
	}
	if !(block.Range{Len: m.size}).Contains(r) {
		return m.outside("zero", "blocks "+r.String())
	}
	// Most of what is zeroed is a hole already, and that is cheap to see.
	if data, _, err := m.stretch(r.Addr.Bytes()); errors.Is(err, unix.ENXIO) || err == nil && data >= r.End().Bytes() {
		return nil
	}
	err := m.control("fallocate", func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Addr.Bytes(), r.Len.Bytes())
	})
	// A device says EINVAL for a range that is not aligned to its own blocks.
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) {
		return m.writeZeros(r)
	}
	return err
}

func (m *file) writeZeros(r block.Range) error {
	zeros := make([]byte, min(r.Len.Bytes(), copyChunk))
	for off, end := r.Addr.Bytes(), r.End().Bytes(); off < end; off += int64(len(zeros)) {
		if _, err := m.f.WriteAt(zeros[:min(int64(len(zeros)), end-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// Clear implements [Image].
func (m *file) Clear() error {
	if err := m.f.Truncate(0); err != nil {
		return err
	}
	return m.f.Truncate(m.size.Bytes())
}

// NextData implements [Image].
func (m *file) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	end := block.Range{Addr: m.size}
	if err := ctx.Err(); err != nil {
		return end, err
	}
	if from >= m.size {
		return end, nil
	}
	data, hole, err := m.stretch(from.Bytes())
	switch {
	case errors.Is(err, unix.ENXIO):
		return end, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, errors.ErrUnsupported): // all is data, as far as is known
		return block.Range{Addr: from, Len: m.size - from}, nil
	case err != nil:
		return end, err
	}
	first := block.FromBytes(data)
	last := min(block.CeilBytes(hole), m.size)
	if first >= last { // behind the image as it was when it was opened
		return end, nil
	}
	return block.Range{Addr: first, Len: last - first}, nil
}

// stretch finds the first bytes [data, hole) of the file at or behind off that
// are not a hole. ENXIO tells that there are none, EINVAL that the file system
// does not know.
func (m *file) stretch(off int64) (data, hole int64, err error) {
	err = m.control("seek", func(fd int) (err error) {
		// Where the two coincide a hole was made in between, and what lies
		// behind it is not known yet.
		for data, hole = off, off; data == hole; {
			if data, err = unix.Seek(fd, data, unix.SEEK_DATA); err != nil {
				return err
			}
			if hole, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		return nil
	})
	return data, hole, err
}

// WriteBack implements [Image].
func (m *file) WriteBack(off, n int64) {
	// A hint: what fails here fails again in Sync, where it counts.
	_ = m.control("sync_file_range", func(fd int) error {
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// Sync implements [Image].
func (m *file) Sync() error { return m.control("fdatasync", unix.Fdatasync) }

// control runs a system call on the file's descriptor, again if a signal
// interrupted it.
func (m *file) control(op string, call func(fd int) error) error {
	rc, err := m.f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := rc.Control(func(fd uintptr) {
		for {
			if err = call(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: m.f.Name(), Err: err}
	}
	return nil
}

// clone makes dst, an empty file of the same size, a copy of src.
func clone(ctx context.Context, dst, src *file) error {
	if err := reflink(dst, src); err == nil {
		return nil
	} else if !cannotReflink(err) {
		return err
	}
	return copyData(ctx, dst, src)
}

// reflink lets dst share all blocks of src.
func reflink(dst, src *file) error {
	var err error
	cerr := src.control("clone", func(from int) error {
		err = dst.control("clone", func(to int) error { return unix.IoctlFileClone(to, from) })
		return nil
	})
	return errors.Join(cerr, err)
}

// cannotReflink tells a file system that cannot share blocks from one that fails.
func cannotReflink(err error) bool {
	for _, e := range []error{errors.ErrUnsupported, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// copyData copies what is not a hole.
func copyData(ctx context.Context, dst, src *file) error {
	buf := make([]byte, copyChunk)
	for at := block.LB(0); ; {
		data, err := src.NextData(ctx, at)
		if err != nil {
			return err
		}
		if data.Len == 0 {
			return nil
		}
		for at = data.Addr; at < data.End(); {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(data.End()-at, copyChunk/block.Size)
			if err := copyChunkAt(dst, src, buf[:n.Bytes()], at.Bytes()); err != nil {
				return err
			}
			at += n
		}
	}
}

// copyChunkAt copies len(p) bytes at off, with p as buffer. Zeros are left out,
// since dst is empty.
func copyChunkAt(dst, src *file, p []byte, off int64) error {
	if _, err := src.ReadAt(p, off); err != nil {
		return err
	}
	if block.IsZero(p) {
		return nil
	}
	if _, err := dst.WriteAt(p, off); err != nil {
		return err
	}
	dst.WriteBack(off, int64(len(p)))
	return nil
}
