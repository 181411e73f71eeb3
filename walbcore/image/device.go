package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// zeroStep is how much of a device is zeroed by one system call, in bytes.
const zeroStep = 64 << 20

// device is an [Image] on a block device. It goes through the page cache, which
// all that have the device open share.
type device struct {
	file
	// chunk is the size in bytes of the pieces that a discard makes read as
	// zeros, if it holds them whole; 0 if a discard promises nothing.
	chunk int64
}

func openDevice(path string, chunk int64) (*device, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd) // a device has no size that Stat would know
	if err == nil && (size == 0 || size%block.Size != 0) {
		err = &walberr.Error{
			Op: "open image", Code: walberr.Checksum, Found: fmt.Sprintf("%s, %d bytes", path, size),
			Expected: fmt.Sprintf("one or more blocks of %d bytes", block.Size),
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &device{file{f, block.FromBytes(size)}, chunk}, nil
}

// Zero implements [Image].
func (d *device) Zero(r block.Range) error {
	if r.Len == 0 {
		return nil
	}
	if !(block.Range{Len: d.size}).Contains(r) {
		return d.outside("zero", "blocks "+r.String())
	}
	from, to := r.Addr.Bytes(), r.End().Bytes()
	first, last := d.wholeChunks(from, to)
	if first >= last {
		return d.writeOut(from, to)
	}
	switch err := d.discard(first, last); {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.ENOTTY):
		return d.writeOut(from, to)
	case err != nil:
		return err
	}
	return errors.Join(d.writeOut(from, first), d.writeOut(last, to))
}

// wholeChunks gives the chunks inside a range of bytes.
func (d *device) wholeChunks(from, to int64) (first, last int64) {
	if d.chunk == 0 {
		return 0, 0
	}
	return (from + d.chunk - 1) / d.chunk * d.chunk, to / d.chunk * d.chunk
}

// discard gives up whole chunks.
func (d *device) discard(from, to int64) error {
	extent := [2]uint64{uint64(from), uint64(to - from)}
	return d.control("discard", func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&extent))); errno != 0 {
			return errno
		}
		return nil
	})
}

// writeOut makes a range of bytes read as zeros without giving up its space.
func (d *device) writeOut(from, to int64) error {
	for ; from < to; from += zeroStep {
		n := min(to-from, zeroStep)
		err := d.control("zero", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, from, n)
		})
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) { // EINVAL: not aligned to the device's own blocks
			err = d.writeZeros(block.Range{Addr: block.FromBytes(from), Len: block.FromBytes(n)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Clear implements [Image].
func (d *device) Clear() error { return d.Zero(block.Range{Len: d.size}) }
