package transfer

import (
	"context"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/wire"
)

// Limits of a block stream.
const (
	// MaxBulk is the largest bulk that is sent or taken: 4 MiB, what the
	// original's commands allow.
	MaxBulk block.LB = 8192
	// DefaultBulk is the bulk of commands that do not say: 256 KiB.
	DefaultBulk block.LB = 512
	// DefaultSyncInterval is how many bytes a receiver takes between two
	// checkpoints.
	DefaultSyncInterval int64 = 1 << 30
)

// BlockSource is a volume or image that is read block by block. The methods
// are called from one goroutine. wdev.Disk and image.Image are such.
type BlockSource interface {
	io.ReaderAt
	// NextData finds the first range at or behind from that may hold
	// anything but zeros; everything between from and its Addr reads as
	// zeros. At the end the range is empty, with Addr the size of the source.
	NextData(ctx context.Context, from block.LB) (block.Range, error)
}

// BlockSink is an image that is written block by block; image.Image is one.
// WriteAt, Zero and WriteBack are called from several goroutines at once, on
// ranges that do not overlap; Sync may run beside them.
type BlockSink interface {
	io.WriterAt
	// Zero makes the range read as zeros. It is called for every zero part of
	// the stream, neighbouring ones joined: on an image that is known to be
	// empty it may do nothing.
	Zero(r block.Range) error
	// WriteBack starts writing a range to the disk without waiting, so that a
	// later Sync has little left to do. It is a hint.
	WriteBack(off, n int64)
	// Sync makes everything written before durable.
	Sync() error
}

// BlockStream is the shape of a block stream, as both sides agreed on it.
type BlockStream struct {
	Size     block.LB     // of the volume
	Start    block.LB     // first block of the stream, at most Size
	Bulk     block.LB     // blocks per frame, 1 to MaxBulk
	Compress compress.Opt // CPUs is the number of goroutines that (de)compress
}

// Options are what every role takes beside its own parameters. The zero value
// is fine.
type Options struct {
	// Progress is told how far the transfer is, from one goroutine at a
	// time, not more often than once for each bulk, pack or log pack. It must
	// not block.
	Progress func(Progress)
	// SyncInterval is the number of bytes between checkpoints of a receiver;
	// 0 means DefaultSyncInterval.
	SyncInterval int64
}

func (o Options) syncInterval() int64 {
	if o.SyncInterval <= 0 {
		return DefaultSyncInterval
	}
	return o.SyncInterval
}

func (o Options) report(c *wire.Conn, phase Phase, done, total uint64) {
	if o.Progress != nil {
		o.Progress(Progress{Phase: phase, Done: done, Total: total, Sent: c.BytesOut(), Received: c.BytesIn()})
	}
}

// Progress says how far a transfer is.
type Progress struct {
	Phase Phase
	// Done and Total count the phase's work in bytes: of the volume in a
	// block or hash stream (Done is where everything below is sent, written or compared), of
	// diff files in a replication's rounds, of log in a log stream. Total is
	// 0 where it is not known.
	Done, Total uint64
	// Sent and Received are the bytes on the wire since the connection began.
	Sent, Received uint64
}

// Phase is the part of a transfer that is running.
type Phase string

// The phases.
const (
	PhaseFull   Phase = "full"   // block stream
	PhaseHash   Phase = "hash"   // hash stream
	PhaseResync Phase = "resync" // hash stream of a resync
	PhaseDiff   Phase = "diff"   // pack stream
	PhaseLog    Phase = "log"    // log stream
)
