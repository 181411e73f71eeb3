package transfer

import (
	"context"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// ReplServer is the destination archive in a replication, for one connection.
// Where a method takes the volume's lock, the server keeps it until the method
// that is said to release it returns, or ServeRepl does.
type ReplServer interface {
	// Accept judges the volume: limits, stop, no action at all, state SyncReady
	// or Archived; its error is the refusal. It takes the lock. "accept" is
	// sent next.
	Accept(ctx context.Context, volume string) error
	// Offer decides what has to be done: wire.ReplFull if the volume is
	// SyncReady, or wire.ReplResync if a resync is offered and there is an
	// image; wire.ReplNone if it is Archived and the lineage is ours, or
	// wire.ReplResync if a resync is offered. A replication that needs a
	// resync which is not offered is ErrResyncNotAllowed, whose text is sent.
	Offer(ctx context.Context, offer wire.ReplOffer) (kind uint32, err error)
	// Full judges the request of a full replication (checked before: size
	// and bulk are not 0, the bulk is not above MaxBulk, the base is not
	// applying) and finds where to begin: behind what full_repl_state says is
	// safe, if that is of the same lineage and base, else at 0. An error is a
	// refusal with its text. "ok" and start are sent next. The lock is still
	// held.
	Full(ctx context.Context, req *wire.ReplFullRequest) (start block.LB, err error)
	// BeginFull: the move SyncReady to FullSync; the lock is released;
	// `archive_uuid` := the offer's, durably; then the image is made (start
	// 0) or grown and prepared behind start.
	BeginFull(ctx context.Context) (FullSink, error)
	// Resync judges the request of a resync (checked before: size and bulk,
	// the base is not applying). An error is a refusal with its text. On nil
	// the move to Resync is begun and the lock released. "ok" is sent next.
	Resync(ctx context.Context, req *wire.ReplResyncRequest) error
	// BeginResync opens the base image, whatever it is at, to be compared,
	// and makes a temporary file. Commit of the sink turns the base image
	// into the one of the request: on its return the image is durable, all
	// diffs and restored images of the old one are gone, `base`, `uuid`,
	// `archive_uuid` and `state` = Archived are durable, and the move is
	// committed. Without it the volume is what it was before. If BeginResync
	// fails the server rolls the move back when ServeRepl has returned.
	BeginResync(ctx context.Context) (CompareSink, error)
	// Latest begins a round: it takes the lock and gives the state behind all
	// applicable diffs. It is sent to the source, which decides.
	Latest(ctx context.Context) (meta.State, error)
	// Diff judges a diff round: size (checked before: not 0), and whether the diff is applicable to
	// Latest. An error is a refusal with its text. On nil the move Archived
	// to ReplSyncAsServer is begun and the lock released. "ok" is sent next,
	// then Create is called.
	Diff(ctx context.Context, req *wire.ReplDiffRequest) error
	// Create makes a temporary file in the volume's directory for the diff
	// of the request. If it fails, or the connection does before, the server
	// rolls the move back when ServeRepl has returned.
	Create(ctx context.Context) (DiffSink, error)
	// Hash judges a hash round, as Diff does (checked before: size and bulk).
	// BeginHash is then as Create; it opens the image of Latest as well.
	// Commit of its sink makes `uuid` durable, behind the diff.
	Hash(ctx context.Context, req *wire.ReplHashRequest) error
	BeginHash(ctx context.Context) (CompareSink, error)
	// Stop: the source ended the rounds. The lock is released; the last ACK
	// is sent next.
	Stop(ctx context.Context) error
}

// FullSink takes a full replication in.
type FullSink interface {
	BlockSink
	// Checkpoint is called every Options.SyncInterval bytes, when everything
	// below progress is written and synced: full_repl_state is made durable
	// with it, so that a later replication may begin there.
	Checkpoint(ctx context.Context, progress block.LB) error
	// Commit ends the full replication: the image was written and synced, the
	// ACK sent. On return, under the lock and durable in this order: `base`,
	// `uuid`, full_repl_state removed, `state` = Archived; and the move is
	// committed.
	Commit(ctx context.Context) error
	// Close is called once, whatever happened; without a successful Commit it
	// rolls the move back. Image and full_repl_state stay.
	Close() error
}

// ErrResyncNotAllowed refuses a replication that would have to overwrite the
// destination. Its text is the original's.
var ErrResyncNotAllowed error = &wire.Error{Text: "resync is required but not allowed", Err: errResync("the source does not allow it")}

// ServeRepl is the destination's side of repl-sync3. reply sends the first
// status word.
func ServeRepl(ctx context.Context, c *wire.Conn, reply Reply, s ReplServer, o Options) error {
	defer c.Bind(ctx)()
	words := c.R.StrVec()
	if err := c.R.Err(); err != nil {
		return err
	}
	if len(words) != 1 {
		return refusal(walberr.Usage, "a2aReplSyncServer:bad size:%d:1", len(words))
	}
	volume := words[0]
	if err := s.Accept(ctx, volume); err != nil {
		return err
	}
	if err := reply(wire.Accept); err != nil {
		return err
	}
	var offer wire.ReplOffer
	offer.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	kind, err := s.Offer(ctx, offer)
	if err != nil {
		return refuse(c, err)
	}
	c.W.Str(wire.Accept)
	c.W.U32(kind)
	if err := c.Flush(); err != nil {
		return err
	}
	switch kind {
	case wire.ReplFull:
		err = serveFull(ctx, c, s, o)
	case wire.ReplResync:
		err = serveResync(ctx, c, volume, s, o)
	}
	if err != nil {
		return err
	}
	for {
		more, err := serveRound(ctx, c, volume, s, o)
		if err != nil || !more {
			return err
		}
	}
}

// refuse sends the refusal where the source waits for a word, and gives it back.
func refuse(c *wire.Conn, reason error) error {
	_ = c.Refuse(reason) // if it cannot be sent, the closed connection tells the source
	return reason
}

func serveFull(ctx context.Context, c *wire.Conn, s ReplServer, o Options) error {
	var req wire.ReplFullRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	if err := checkFull(&req); err != nil {
		return refuse(c, err)
	}
	start, err := s.Full(ctx, &req)
	if err != nil {
		return refuse(c, err)
	}
	if start > req.Size {
		return violation("repl-sync3", fmt.Sprintf("start at block %d", start), fmt.Sprintf("at most %d, the size", req.Size))
	}
	c.W.Str(wire.OK)
	c.W.U64(uint64(start))
	if err := c.Flush(); err != nil {
		return err
	}
	sink, err := s.BeginFull(ctx)
	if err != nil {
		return err
	}
	return closing(sink, receiveFull(ctx, c, sink, &req, start, o))
}

func checkFull(req *wire.ReplFullRequest) error {
	const where = "runFullReplServer"
	if err := checkSizes(where, req.Size, req.Bulk); err != nil {
		return err
	}
	return checkBase(where, req.Base)
}

// checkSizes judges the sizes in a request of a replication.
func checkSizes(where string, size, bulk block.LB) error {
	switch {
	case size == 0 || !size.Valid():
		return refusal(walberr.Range, "%s:bad sizeLb:%d", where, size)
	case bulk == 0:
		return refusal(walberr.Range, "%s:bulkLb is zero", where)
	case bulk > MaxBulk:
		return refusal(walberr.Range, "%s:too large bulkLb:%d:%d", where, bulk, MaxBulk)
	}
	return nil
}

// checkBase judges the state that a base image shall be at.
func checkBase(where string, base meta.State) error {
	if base.Applying || base.B.B == meta.MaxGid {
		return refusal(walberr.BadState, "%s:bad metaSt:%s", where, base)
	}
	return nil
}

func receiveFull(ctx context.Context, c *wire.Conn, sink FullSink, req *wire.ReplFullRequest, start block.LB, o Options) error {
	stream := BlockStream{Size: req.Size, Start: start, Bulk: req.Bulk, Compress: req.Compress}
	if err := ReceiveBlocks(ctx, c, sink, stream, sink.Checkpoint, o); err != nil {
		return err
	}
	c.W.Ack()
	if err := c.Flush(); err != nil {
		return err
	}
	return sink.Commit(ctx)
}

// serveRound does what the source chooses next. It is false after the end.
func serveRound(ctx context.Context, c *wire.Conn, volume string, s ReplServer, o Options) (more bool, err error) {
	st, err := s.Latest(ctx)
	if err != nil {
		return false, err
	}
	c.W.State(st)
	if err := c.Flush(); err != nil {
		return false, err
	}
	round := c.R.U32()
	if err := c.R.Err(); err != nil {
		return false, err
	}
	switch round {
	case wire.RoundStop:
		if err := s.Stop(ctx); err != nil {
			return false, err
		}
		c.W.Ack()
		return false, c.Finish()
	case wire.RoundDiff:
		return true, serveDiff(ctx, c, volume, s, o)
	case wire.RoundHash:
		return true, serveHash(ctx, c, volume, s, o)
	}
	return false, violation("repl-sync3 of "+volume, fmt.Sprintf("round %d", round), "0, 1 or 2")
}

func serveDiff(ctx context.Context, c *wire.Conn, volume string, s ReplServer, o Options) error {
	var req wire.ReplDiffRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	if err := checkSize("runDiffReplServer", req.Size); err != nil {
		return refuse(c, err)
	}
	if err := s.Diff(ctx, &req); err != nil {
		return refuse(c, err)
	}
	c.W.Str(wire.OK)
	if err := c.Flush(); err != nil {
		return err
	}
	sink, err := s.Create(ctx)
	if err != nil {
		return err
	}
	err = receiveDiff(ctx, c, sink, "repl-sync3 of "+volume, req.UUID, req.Size, o)
	if err == nil {
		c.W.Ack()
		err = c.Flush()
	}
	return closing(sink, err)
}
