// Package image keeps an archive's images: per volume one base image, and
// images restored from it. Which kind of store a server directory is used with
// is decided once (Claim):
//
//	<base>/walbsh-store     "files" or "lvm", and a newline
//
// Both kinds use the names that C++ WalB gives to its logical volumes:
//
//	wb_VOL                  base image
//	wr_VOL_GID              image restored to the snapshot GID (decimal)
//	wr_VOL_GID_tmp          being restored; garbage after a crash
//
// Files keeps them in the volume's directory, <base>/VOL/. An image file is as
// long as the volume, in blocks of 512 bytes, and sparse: a hole reads as zeros
// and costs neither space nor time. A restored image shares its blocks with the
// base image where the file system can (reflink).
//
// LVM keeps them as logical volumes of one volume group, /dev/GROUP/NAME, thin
// ones of one pool if a pool is given, else ordinary ones. Others than these
// are never looked at. A restored image is a snapshot of the base image. Nothing
// that LVM knows is remembered here: it is asked every time, so that there is
// no memory that could be wrong. Images are whole extents of the group. A thin
// base image is rounded up to them; an ordinary one must have the size asked
// for. Cold snapshots, wc_VOL_GID, are neither made nor used; those that C++ WalB
// made are removed together with the base image.
//
// What may come in: volume names of any origin, they are checked before they
// become paths or words of a command; ranges of any origin, they are checked
// against the size. No command goes through a shell.
package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Store is an archive's images. All methods are safe for concurrent use, as
// far as the caller keeps these apart: nobody deletes or writes a base image
// that another restores from, and one image is restored by one caller.
//
// Errors have the codes NotFound (no such image), Conflict (it is there
// already, or others depend on it), Range (a size or range is impossible),
// Usage (a name is impossible) and Unavailable (a command of LVM failed);
// others are those of the operating system.
type Store interface {
	// Create makes the base image of a volume, durably. size must not be 0;
	// the image may be larger where the store knows only certain sizes. What
	// it holds is unknown: the caller writes or zeroes every block. An image
	// that could not be made leaves nothing behind.
	Create(vol string, size block.LB) (Image, error)
	// Open opens the base image.
	Open(vol string) (Image, error)
	// Size is the size of the base image.
	Size(vol string) (block.LB, error)
	// Grow makes the base image larger, durably, and perhaps larger than asked
	// for; the new part is zeros. The same size is a success, a smaller one an
	// error with code Range. Images that are open keep their size.
	Grow(vol string, size block.LB) error
	// Delete removes the base image, durably. It is no error if there is none.
	Delete(vol string) error

	// BeginRestore makes a writable copy of the base image as it is now,
	// named as temporary; a leftover of that name is removed first. It
	// fails with code Conflict if gid is restored already. Where it really
	// has to copy it can be cancelled, and leaves nothing behind then.
	BeginRestore(ctx context.Context, vol string, gid meta.Gid) (Image, error)
	// CommitRestore gives the copy its final name, durably. The caller has
	// synced and closed it before.
	CommitRestore(vol string, gid meta.Gid) error
	// AbortRestore removes the copy. It is no error if there is none.
	AbortRestore(vol string, gid meta.Gid) error
	// Restored lists the gids of the restored images, ascending.
	Restored(vol string) ([]meta.Gid, error)
	// OpenRestored opens a restored image.
	OpenRestored(vol string, gid meta.Gid) (Image, error)
	// DeleteRestored removes a restored image, durably.
	DeleteRestored(vol string, gid meta.Gid) error
	// RemoveLeftovers removes the copies that a crash left unfinished, and
	// returns how many there were. It also completes a Grow. Only at start.
	RemoveLeftovers(vol string) (int, error)

	// Path is where the base image is found on this host.
	Path(vol string) string
	// RestoredPath is where a restored image is found on this host.
	RestoredPath(vol string, gid meta.Gid) string
}

// Image is an open image. Methods may be called concurrently; overlapping
// writes take effect in some order.
type Image interface {
	// ReadAt reads at a byte offset; holes read as zeros. Behind the end it
	// gives io.EOF.
	io.ReaderAt
	// WriteAt writes at a byte offset. It never makes the image longer: a
	// write that crosses the end writes nothing and fails with code Range.
	io.WriterAt
	// Close releases the image. It does not sync.
	io.Closer
	// Size is the size when the image was opened.
	Size() block.LB
	// Zero makes a range read as zeros, by giving up its space where the
	// file system can.
	Zero(r block.Range) error
	// Clear makes the whole image read as zeros and gives up its space.
	Clear() error
	// NextData finds the first range at or behind from that may hold
	// anything but zeros; everything between from and its Addr reads as
	// zeros. At the end the range is empty, with Addr = Size().
	NextData(ctx context.Context, from block.LB) (block.Range, error)
	// WriteBack starts writing a byte range to the disk without waiting, so
	// that a later Sync has little left to do. It is a hint and cannot fail.
	WriteBack(off, n int64)
	// Sync makes everything written before durable (fdatasync).
	Sync() error
}

const tmpSuffix = "_tmp"

func baseName(vol string) string { return "wb_" + vol }

func restoredName(vol string, gid meta.Gid) string { return restoredPrefix(vol) + gid.String() }

func restoredPrefix(vol string) string { return "wr_" + vol + "_" }

// restoredGid reads the gid from a name that restoredName gave, with a suffix
// behind it.
func restoredGid(name, vol, suffix string) (meta.Gid, bool) {
	text, ok := strings.CutPrefix(name, restoredPrefix(vol))
	if !ok {
		return 0, false
	}
	text, ok = strings.CutSuffix(text, suffix)
	gid, err := meta.ParseGid(text)
	return gid, ok && err == nil && gid.String() == text
}

// MaxNameLen is the longest volume name in characters.
const MaxNameLen = 64

// checkName refuses what is no volume name: 1 to 64 characters of 0-9, a-z,
// A-Z and -.
func checkName(op, vol string) error {
	ok := len(vol) > 0 && len(vol) <= MaxNameLen
	for i := 0; ok && i < len(vol); i++ {
		c := vol[i]
		ok = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-'
	}
	if ok {
		return nil
	}
	return &walberr.Error{
		Op: op, Code: walberr.Usage, Found: fmt.Sprintf("volume name %.80q", vol),
		Expected: fmt.Sprintf("1 to %d characters of 0-9 a-z A-Z -", MaxNameLen),
	}
}
