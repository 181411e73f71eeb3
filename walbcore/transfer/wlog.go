package transfer

import (
	"context"
	"io"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// LogReader reads a log device by lsid. wdev.Device is one.
type LogReader interface {
	// ReadLog reads the physical blocks [lsid, lsid+len(p)/pbs) into p.
	ReadLog(ctx context.Context, lsid meta.Lsid, p []byte) error
}

// WlogStretch is the log that one wlog-transfer carries.
type WlogStretch struct {
	Begin meta.Lsid // first log pack
	// Limit is where the stretch ends at the latest; a pack that reaches
	// behind it is left for the next transfer. At most the permanent lsid.
	Limit meta.Lsid
	// MaxPB is the largest number of blocks, header included, that a single
	// pack may have; a larger one is an error.
	MaxPB uint64
	// Diff describes the diff that the log from Begin up to reached makes.
	// It is clean.
	Diff func(reached meta.Lsid) meta.Diff
}

// OfferWlog asks a proxy to take log. A refusal is a *wire.Refusal: the caller
// closes the connection and asks the next proxy, as after any other error.
func OfferWlog(ctx context.Context, c *wire.Conn, req wire.WlogRequest) error {
	return errNotYet("OfferWlog")
}

// SendWlog sends the log after OfferWlog returned nil on the same connection,
// and returns the lsid that was reached once the proxy has the diff durably
// (ACK). The caller then makes `done` durable. Packs and data are verified as
// they are read; the first failure ends the transfer at once. An error of a
// log that is broken on the device itself is a *BrokenLogError.
func SendWlog(ctx context.Context, c *wire.Conn, req wire.WlogRequest, log LogReader, s WlogStretch, o Options) (reached meta.Lsid, err error) {
	return 0, errNotYet("SendWlog")
}

// BrokenLogError says that the log on the device cannot be shipped: a pack
// header or the data of a record are invalid.
type BrokenLogError struct {
	Lsid  meta.Lsid // of the pack
	Block []byte    // the header block as it was read, to be kept for inspection
	Err   error     // what is wrong
}

// Error gives the cause with its place.
func (e *BrokenLogError) Error() string {
	return "log pack at lsid " + e.Lsid.String() + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *BrokenLogError) Unwrap() error { return e.Err }

// WlogServer is the proxy in a wlog-transfer, for one request.
type WlogServer interface {
	// Accept judges the request: limits, disk space, stop, state; its error
	// is the refusal. On return of nil the move Started to WlogRecv is
	// begun and the volume's lock is not held. "accept" is sent next.
	Accept(ctx context.Context, req *wire.WlogRequest) error
	// Create makes a temporary file in `received` for an indexed diff.
	Create(ctx context.Context) (WlogSink, error)
}

// WlogSink takes the diff of one wlog-transfer in: an indexed wdiff file.
// Write is called from one goroutine at a time, Sync may run beside it.
type WlogSink interface {
	io.Writer
	Sync() error
	// Commit publishes the completely written file as d, which is clean. On
	// return: durable in `received`, linked into and durable in every
	// `sendto`, registered, removed from `received`, `size` raised if the
	// request's is larger, and the move committed. The ACK follows at once,
	// and with it the storage may begin its next transfer.
	Commit(ctx context.Context, d meta.Diff) error
	// Close is called once, whatever happened; without a successful Commit it
	// removes the temporary file and rolls the move back.
	Close() error
}

// ServeWlog is the proxy's side of wlog-transfer. reply sends the first status
// word.
func ServeWlog(ctx context.Context, c *wire.Conn, reply Reply, s WlogServer, o Options) error {
	return errNotYet("ServeWlog")
}
