package wdev

import (
	"context"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
)

// PathPrefix is how every device path begins, in commands and in the files
// that servers keep: "/dev/walb/NAME".
const PathPrefix = "/dev/walb/"

// Disk is the side of a walb device that applications see.
//
// All methods are safe for concurrent use. Offsets and lengths are bytes and
// must be multiples of 512 inside [0, Size()), else the error has code Usage
// or Range. Overlapping writes and discards take effect in the order in which
// they were called if the calls do not overlap in time, else in some order.
//
// Durability: what was acknowledged survives the end of the process. It
// survives a power cut once a later Flush, or the WriteThrough itself, has
// returned. After a power cut the acknowledged writes that are gone are the
// last ones: no write survives an older one that did not, and none is torn
// inside a physical block; a write of more than 1 MiB may be cut between its
// pieces.
//
// After an IO error of the log or data file the device is read-only: reads go
// on, everything else fails with code Unavailable until it is opened again.
// After Close everything fails with code Stopped.
type Disk interface {
	// Size is the size of the disk [LB]. It changes only by Resize.
	Size() block.LB
	// ReadAt reads len(p) bytes at off. It sees every write and discard
	// acknowledged before the call (discarded blocks read as zeros), and may
	// mix old and new where others write at the same time. It does not wait
	// for writers. A read behind the end gives io.EOF as io.ReaderAt wants.
	io.ReaderAt
	// WriteAt writes p at off. It returns when the log has the write. It
	// waits while too much is pending or the log is full (OnFull Block);
	// cancelling ctx ends that wait, and the write did not happen, or only
	// its first pieces of 1 MiB. p is not used after the return.
	WriteAt(ctx context.Context, p []byte, off int64) error
	// WriteThrough is WriteAt and a Flush of this write (FUA). Cancelling ctx
	// leaves open whether the write happened.
	WriteThrough(ctx context.Context, p []byte, off int64) error
	// Flush makes everything acknowledged before the call permanent.
	Flush(ctx context.Context) error
	// Discard gives up n bytes at off: they read as zeros from then on.
	Discard(ctx context.Context, off, n int64) error
	// NextData finds the first range at or behind from that may hold
	// anything but zeros. Everything between from and its Addr reads as
	// zeros, as far as writes acknowledged before the call are concerned. It
	// is conservative: what is pending counts as data. At the end the range
	// is empty, with Addr = Size().
	NextData(ctx context.Context, from block.LB) (block.Range, error)
}

// Device is a walb device: a disk with a log of everything written to it. It
// is what a storage server works with.
//
// Methods that take a context give up with its error when it is cancelled
// while they wait; they do not wait for anything but IO unless said.
type Device interface {
	Disk

	// Name is NAME in the device's path /dev/walb/NAME.
	Name() string
	// Identity tells the log life: it changes by ResetLog only.
	Identity() Identity
	// Lsids is a consistent snapshot of all positions of the log.
	Lsids() Lsids
	// LogCapacity is the size of the ring [PB]. It changes by ResetLog only.
	LogCapacity() uint64
	// Overflowed reports whether log that was not given up by SetOldest has
	// been overwritten since the last ResetLog or start.
	Overflowed() bool
	// Changed returns a channel that is closed at the next change of Lsids
	// other than Latest and Completed, of Identity, Size or Overflowed, and
	// when the device fails or is closed. To wait for a fact: take the
	// channel, look at the fact, receive, look again.
	Changed() <-chan struct{}
	// Err is nil while the device works, else why it accepts no more writes.
	Err() error

	// ReadLog reads the physical blocks [lsid, lsid+len(p)/PBS) of log into
	// p. They must lie in [Oldest, Permanent], else the error has code
	// Range. It has code Unavailable if they were overwritten meanwhile.
	ReadLog(ctx context.Context, lsid meta.Lsid, p []byte) error
	// SetOldest gives up the log below lsid. It must be a pack boundary in
	// [Oldest, PrevWritten], else the error has code Range and nothing
	// changes. Durable on return.
	SetOldest(ctx context.Context, lsid meta.Lsid) error
	// Checkpoint makes PrevWritten what Written is now; Written itself
	// follows Permanent by itself.
	Checkpoint(ctx context.Context) error
	// ResetLog begins a new log life: all lsids 0, new uuid and salt,
	// Overflowed false; the disk's content stays. It waits until all that
	// was written is on the data file; writers wait meanwhile, reads go on.
	// A log file that grew is taken over in full, one that shrank is
	// refused.
	ResetLog(ctx context.Context) error
	// Resize makes the disk larger. The same size is a success, a smaller
	// one an error with code Range. Durable on return.
	Resize(ctx context.Context, size block.LB) error
}

// Identity tells one log life from another and how its blocks are laid out.
type Identity struct {
	UUID meta.UUID
	Salt uint32 // of pack headers and data
	PBS  uint32 // physical block size [bytes], 512 or 4096
}

// Lsids are the positions of a log, in physical blocks since the log life
// began. All are pack boundaries, and always
// Oldest ≤ PrevWritten ≤ Written ≤ Permanent ≤ Flush ≤ Completed ≤ Latest.
type Lsids struct {
	Latest      meta.Lsid // where the next pack goes; everything acknowledged lies below
	Completed   meta.Lsid // below: written to the log, maybe only to its cache
	Flush       meta.Lsid // below: a sync was begun
	Permanent   meta.Lsid // below: on stable storage, may be read and shipped
	Written     meta.Lsid // below: written to the data file, maybe only to its cache
	PrevWritten meta.Lsid // below: checkpointed, redo starts here
	Oldest      meta.Lsid // below: given up
}

// Usage is the number of physical blocks that hold log, Latest - Oldest. It
// is larger than the capacity after an overflow.
func (l Lsids) Usage() uint64 { return uint64(l.Latest - l.Oldest) }
