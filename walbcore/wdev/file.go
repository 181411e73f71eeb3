package wdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/walberr"
)

// file is what the engine needs of its two files. Reads and writes may run
// concurrently. Sync makes everything written before it durable.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	// Size is the present length [bytes].
	Size() (int64, error)
	Truncate(size int64) error
	// Zero makes n bytes at off read as zeros, without room on disk where
	// possible.
	Zero(off, n int64) error
	// NextData finds the first stretch of data [begin, end) at or behind
	// off; io.EOF if there is none.
	NextData(off int64) (begin, end int64, err error)
}

// openFile opens a device file for reading and writing and locks it for as
// long as it is open.
func openFile(path string, flag int) (*osFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flag, 0o644)
	if err != nil {
		code := walberr.Unavailable
		switch {
		case errors.Is(err, fs.ErrNotExist):
			code = walberr.NotFound
		case errors.Is(err, fs.ErrExist):
			code = walberr.Conflict
		}
		return nil, &walberr.Error{Op: "open device file", Code: code, Err: err}
	}
	o := &osFile{File: f}
	if err := o.control(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		_ = f.Close()
		return nil, &walberr.Error{
			Op: "open device file", Code: walberr.Conflict, Found: path + " is locked", Err: err,
			Hint: "another process has the device open; a device has one owner",
		}
	}
	return o, nil
}

type osFile struct{ *os.File }

// control runs a system call on the descriptor, again while it is interrupted.
func (f *osFile) control(call func(fd int) error) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = rc.Control(func(fd uintptr) {
		for cerr = call(int(fd)); errors.Is(cerr, unix.EINTR); {
			cerr = call(int(fd))
		}
	})
	if err != nil {
		return err
	}
	return cerr
}

// Close gives the lock up at once. To close alone is not enough: a child
// process that was being started at that moment still has the descriptor.
func (f *osFile) Close() error {
	err := f.control(func(fd int) error { return unix.Flock(fd, unix.LOCK_UN) })
	return errors.Join(err, f.File.Close())
}

func (f *osFile) Sync() error {
	if err := f.control(unix.Fdatasync); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", f.Name())
	}
	return st.Size(), nil
}

const zeroChunk = 1 << 20

func (f *osFile) Zero(off, n int64) error {
	err := f.control(func(fd int) error {
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, off, n)
	}
	if err != nil {
		return &fs.PathError{Op: "punch hole", Path: f.Name(), Err: err}
	}
	return nil
}

func writeZeros(f io.WriterAt, off, n int64) error {
	zeros := make([]byte, min(n, zeroChunk))
	for n > 0 {
		m := min(n, int64(len(zeros)))
		if _, err := f.WriteAt(zeros[:m], off); err != nil {
			return err
		}
		off, n = off+m, n-m
	}
	return nil
}

// NextData asks the file system. The shared file offset that it moves is used
// by nobody else: all reads and writes name their offset.
func (f *osFile) NextData(off int64) (begin, end int64, err error) {
	err = f.control(func(fd int) (err error) {
		// Where the two coincide a hole was made in between, and what lies
		// behind it is not known yet.
		for begin, end = off, off; begin == end; {
			if begin, err = unix.Seek(fd, begin, unix.SEEK_DATA); err != nil {
				return err
			}
			if end, err = unix.Seek(fd, begin, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return begin, end, nil
	case errors.Is(err, unix.ENXIO):
		return 0, 0, io.EOF
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // no such seek here: everything is data
		size, err := f.Size()
		if err == nil && off >= size {
			err = io.EOF
		}
		return off, size, err
	}
	return 0, 0, &fs.PathError{Op: "seek data", Path: f.Name(), Err: err}
}
