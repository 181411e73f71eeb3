package transfer

import (
	"context"
	"io"
	"time"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// ackPatience is how long an answer may take before which the peer makes
// things durable. The original gives it one socket timeout.
const ackPatience = time.Minute

// SendWdiff is the proxy's side of wdiff-transfer. The diffs, oldest first and
// all of the log life in req, are merged while they are sent, their data in the
// given codec. It returns nil when the archive has the merged diff durably
// (ACK): the caller then forgets the diffs. A refusal is a *wire.Refusal whose
// Text is one of the words of the protocol (wire.TooOldDiff, ...) or any text.
func SendWdiff(ctx context.Context, c *wire.Conn, req wire.WdiffRequest, diffs []*wdiff.File, opt compress.Opt, o Options) error {
	defer c.Bind(ctx)()
	req.Encode(c.W)
	if err := ask(c, wire.Accept); err != nil {
		return err
	}
	done := uint64(0)
	err := sendPacks(ctx, c, mergeOf(diffs), opt, func(pack int) {
		done += uint64(pack)
		o.report(c, PhaseDiff, done, 0)
	})
	if err != nil {
		return err
	}
	c.W.U8(wire.CtlEnd)
	return awaitAck(c)
}

// mergeOf overlays diffs, oldest first.
func mergeOf(diffs []*wdiff.File) wdiff.Stream {
	inputs := make([]wdiff.Stream, len(diffs))
	for i, f := range diffs {
		inputs[i] = f.Records()
	}
	return wdiff.Merge(wdiff.DefaultMaxBlocks, inputs...)
}

// ask sends what was written and reads the answer, which must be the word.
func ask(c *wire.Conn, word string) error {
	if err := c.Flush(); err != nil {
		return err
	}
	_, err := wire.Status(c.R, c.Peer(), word)
	return err
}

// awaitAck sends what was written and reads the peer's ACK.
func awaitAck(c *wire.Conn) error {
	if err := c.Flush(); err != nil {
		return err
	}
	defer c.Patience(ackPatience)()
	c.R.Ack()
	return c.R.Err()
}

// WdiffServer is the archive in a wdiff-transfer, for one request.
type WdiffServer interface {
	// Judge decides under the volume's lock, which is not held on return. A
	// word other than wire.Accept is sent as it is and ends the conversation;
	// an error is a refusal with its text. With wire.Accept the move Archived
	// to WdiffRecv is begun.
	Judge(ctx context.Context, req *wire.WdiffRequest) (word string, err error)
	// Create follows "accept": it makes a temporary file in the volume's
	// directory. If it fails, or the conversation ends before, the server rolls
	// the move back when ServeWdiff has returned.
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
	defer c.Bind(ctx)()
	var req wire.WdiffRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	word, err := s.Judge(ctx, &req)
	if err == nil && word == wire.Accept {
		err = checkSize("p2aWdiffTransferServer", req.Size)
	}
	if err != nil {
		return err
	}
	if err := reply(word); err != nil {
		return err
	}
	if word != wire.Accept {
		return c.Finish()
	}
	sink, err := s.Create(ctx)
	if err != nil {
		return err
	}
	err = receiveDiff(ctx, c, sink, "wdiff-transfer of "+req.Volume, req.UUID, req.Size, o)
	if err == nil {
		c.W.Ack()
		err = c.Finish()
	}
	return closing(sink, err)
}

// closing closes what took data in, and keeps the first failure.
func closing(sink io.Closer, err error) error {
	if closeErr := sink.Close(); err == nil {
		return closeErr
	}
	return err
}
