package transfer

import (
	"context"
	"fmt"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// resync is the source's side of a resync: the destination's base image becomes
// what ours is at now, by comparison.
func (r *replSender) resync(ctx context.Context) error {
	var state meta.State
	var err error
	r.src.Diffs().View(func(m *meta.Manager) { state, err = r.base.EndApplying(m.MinApplicable(r.base)) })
	if err != nil {
		return err
	}
	req := wire.ReplResyncRequest{
		Bulk: r.p.Bulk, Base: state, ArchiveUUID: r.p.ArchiveUUID, Compress: r.p.FullCompress, Seed: uint32(state.Timestamp),
	}
	if req.Size, err = r.src.Size(ctx); err != nil {
		return err
	}
	if req.UUID, err = r.src.UUID(ctx); err != nil {
		return err
	}
	req.Encode(r.c.W)
	if err := ask(r.c, wire.OK); err != nil {
		return err
	}
	r.result.Resync = true
	return r.compare(ctx, state.B, resyncStream(&req))
}

// decideHash chooses a hash round: the destination, at srv, is behind our base
// image, so no diff leads on from there; one is made by comparison.
func (r *replSender) decideHash(srv meta.Snap) (round uint32, err error) {
	r.src.Diffs().View(func(m *meta.Manager) { r.target, err = m.OldestCleanState(r.base) })
	if err == nil && srv.B < r.target.B.B {
		return wire.RoundHash, nil
	}
	return wire.RoundStop, &walberr.Error{
		Op: "replicate", Server: r.c.Peer(), Volume: r.p.Volume, Code: walberr.TooNewDiff, Err: err,
		Found:    fmt.Sprintf("could not execute hash-repl: the destination at %s, the source's base image at %s", srv, r.base.B),
		Expected: "a clean snapshot at the source behind the destination",
		Hint:     "wait until the source has one (see get restorable), then replicate again",
	}
}

// hash is the hash round.
func (r *replSender) hash(ctx context.Context, srv meta.Snap) error {
	var err error
	target := r.target
	req := wire.ReplHashRequest{
		Bulk: r.p.Bulk, Compress: r.p.FullCompress, Seed: uint32(target.Timestamp),
		Diff: meta.Diff{B: srv, E: target.B, Mergeable: true, Comp: true, Timestamp: target.Timestamp},
	}
	if req.Size, err = r.src.Size(ctx); err != nil {
		return err
	}
	if req.UUID, err = r.src.UUID(ctx); err != nil {
		return err
	}
	r.c.W.U32(wire.RoundHash)
	req.Encode(r.c.W)
	if err := ask(r.c, wire.OK); err != nil {
		return err
	}
	r.result.Hashed++
	return r.compare(ctx, target.B, hashRoundStream(&req))
}

func resyncStream(req *wire.ReplResyncRequest) HashStream {
	return HashStream{Size: req.Size, Bulk: req.Bulk, Seed: req.Seed, Compress: req.Compress, Phase: PhaseResync}
}

func hashRoundStream(req *wire.ReplHashRequest) HashStream {
	return HashStream{Size: req.Size, Bulk: req.Bulk, Seed: req.Seed, Compress: req.Compress, Phase: PhaseHash}
}

// compare sends what of a snapshot is not as at the destination.
func (r *replSender) compare(ctx context.Context, s meta.Snap, stream HashStream) error {
	img, err := r.src.Snapshot(ctx, s)
	if err != nil {
		return err
	}
	return closing(img, SendDifferences(ctx, r.c, img, stream, r.o))
}

// serveResync is the destination's side of a resync.
func serveResync(ctx context.Context, c *wire.Conn, volume string, s ReplServer, o Options) error {
	const where = "runResyncReplServer"
	var req wire.ReplResyncRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	err := checkSizes(where, req.Size, req.Bulk)
	if err == nil {
		err = checkBase(where, req.Base)
	}
	if err == nil {
		err = s.Resync(ctx, &req)
	}
	if err != nil {
		return refuse(c, err)
	}
	c.W.Str(wire.OK)
	if err := c.Flush(); err != nil {
		return err
	}
	sink, err := s.BeginResync(ctx)
	if err != nil {
		return err
	}
	return closing(sink, receiveImage(ctx, c, sink, "repl-sync3 (resync) of "+volume, req.UUID, resyncStream(&req), o))
}

// receiveImage takes the differences in and commits them. The next state tells
// the source that it is done; there is no ACK.
func receiveImage(ctx context.Context, c *wire.Conn, sink CompareSink, op string, uuid meta.UUID, stream HashStream, o Options) error {
	if err := receiveCompared(ctx, c, sink, op, uuid, stream, o); err != nil {
		return err
	}
	return sink.Commit(ctx)
}

// serveHash is the destination's side of a hash round.
func serveHash(ctx context.Context, c *wire.Conn, volume string, s ReplServer, o Options) error {
	const where = "runHashReplServer"
	var req wire.ReplHashRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	err := checkSizes(where, req.Size, req.Bulk)
	if err == nil && !req.Diff.Comp {
		err = refusal(walberr.Usage, "%s:not a compared diff:%s", where, req.Diff)
	}
	if err == nil {
		err = s.Hash(ctx, &req)
	}
	if err != nil {
		return refuse(c, err)
	}
	c.W.Str(wire.OK)
	if err := c.Flush(); err != nil {
		return err
	}
	sink, err := s.BeginHash(ctx)
	if err != nil {
		return err
	}
	return closing(sink, receiveImage(ctx, c, sink, "repl-sync3 (hash) of "+volume, req.UUID, hashRoundStream(&req), o))
}
