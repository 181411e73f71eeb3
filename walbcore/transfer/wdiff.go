package transfer

import (
	"context"
	"io"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// SendWdiff is the proxy's side of wdiff-transfer. The diffs, oldest first and
// all of the log life in req, are merged while they are sent, their data in the
// given codec. It returns nil when the archive has the merged diff durably
// (ACK): the caller then forgets the diffs. A refusal is a *wire.Refusal whose
// Text is one of the words of the protocol (wire.TooOldDiff, ...) or any text.
func SendWdiff(ctx context.Context, c *wire.Conn, req wire.WdiffRequest, diffs []*wdiff.File, opt compress.Opt, o Options) error {
	return errNotYet("SendWdiff")
}

// WdiffServer is the archive in a wdiff-transfer, for one request.
type WdiffServer interface {
	// Judge decides under the volume's lock, which is not held on return. A
	// word other than wire.Accept is sent as it is and ends the conversation;
	// an error is a refusal with its text. With wire.Accept the move Archived
	// to WdiffRecv is begun.
	Judge(ctx context.Context, req *wire.WdiffRequest) (word string, err error)
	// Create follows "accept": it makes a temporary file in the volume's
	// directory. If it fails, the move must be rolled back.
	Create(ctx context.Context) (DiffSink, error)
}

// DiffSink takes one diff in: a sorted wdiff file. Write is called from one
// goroutine at a time, Sync may run beside it.
type DiffSink interface {
	io.Writer
	// Sync makes durable what was written before the call.
	Sync() error
	// Commit publishes the completely written file under the name of the diff
	// that was announced. Its identity is checked before it gets its name. On
	// return: file, name and directory are durable, it is listed, the latest
	// state is moved on. In a wdiff-transfer the move is committed as well.
	// The ACK follows.
	Commit(ctx context.Context) error
	// Close is called once, whatever happened, after the ACK if there was
	// one. Without a successful Commit it removes the temporary file and
	// rolls the move back. In a replication, after a Commit, it removes the
	// diffs that the new one covers, and commits the move.
	Close() error
}

// ServeWdiff is the archive's side of wdiff-transfer. reply sends the first
// status word.
func ServeWdiff(ctx context.Context, c *wire.Conn, reply Reply, s WdiffServer, o Options) error {
	return errNotYet("ServeWdiff")
}
