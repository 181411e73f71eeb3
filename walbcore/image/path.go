package image

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// OpenPath opens an image that belongs to no store: a regular file or a block
// device at any path. Its size must be one or more whole blocks. A device is
// opened for writing only while nobody else uses it, a file system for example.
//
// Errors have the codes NotFound, Usage (neither file nor device), Range (the
// size) and Conflict (in use); others are those of the operating system.
func OpenPath(path string, writable bool) (Image, error) {
	const op = "open image"
	info, err := os.Stat(path)
	if err != nil {
		return nil, notFound(op, "", path, err)
	}
	device := info.Mode()&os.ModeType == os.ModeDevice
	if !device && !info.Mode().IsRegular() {
		return nil, &walberr.Error{Op: op, Code: walberr.Usage, Found: path + " is neither a regular file nor a block device"}
	}
	flag := os.O_RDONLY
	if writable {
		flag = os.O_RDWR
		if device {
			flag |= unix.O_EXCL
		}
	}
	f, err := os.OpenFile(path, flag, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, &walberr.Error{Op: op, Code: walberr.Conflict, Found: path + " is in use", Err: err, Hint: "is it mounted?"}
	}
	if err != nil {
		return nil, notFound(op, "", path, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil && (size == 0 || size%block.Size != 0) {
		err = &walberr.Error{
			Op: op, Code: walberr.Range, Found: fmt.Sprintf("%s has %d bytes", path, size),
			Expected: fmt.Sprintf("one or more blocks of %d bytes", block.Size),
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &file{f, block.FromBytes(size)}, nil
}
