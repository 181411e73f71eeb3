package transfer

import (
	"context"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// HashBackupSource is the storage in a hash backup. The methods are called in
// the order in which they stand here, each once, without any lock held. An
// error of any ends the backup.
type HashBackupSource interface {
	// Accepted is that of [BackupSource].
	Accepted(ctx context.Context) error
	// ResetLogAt is ResetLog of [BackupSource], with the gid at which the new
	// log life begins: one behind the archive's latest snapshot.
	ResetLogAt(ctx context.Context, gid meta.Gid) (meta.UUID, error)
	// Begun, Source and Snapshot are those of [BackupSource].
	Begun(ctx context.Context) error
	Source(ctx context.Context) (BlockSource, error)
	Snapshot(ctx context.Context) (meta.Gid, error)
}

// SendHashBackup is the storage's side of dirty-hash-sync2, behind the
// negotiation: only what differs from the archive's latest image is sent. When
// it returns nil the archive has the difference as a diff: the caller closes the
// connection and makes the volume a target. The caller has begun the move
// SyncReady to HashSync before, and rolls it back (and ends the monitoring) on
// an error. A refusal is a *wire.Refusal; nothing was called then.
func SendHashBackup(ctx context.Context, c *wire.Conn, req wire.FullSyncRequest, src HashBackupSource, o Options) error {
	defer c.Bind(ctx)()
	req.Encode(c.W)
	if err := ask(c, wire.Accept); err != nil {
		return err
	}
	if err := src.Accepted(ctx); err != nil {
		return err
	}
	from := c.R.Snap()
	if err := c.R.Err(); err != nil {
		return err
	}
	if from.E >= meta.MaxGid-1 {
		return violation("dirty-hash-sync2 of "+req.Volume, "latest snapshot "+from.String(), "one with gids behind it")
	}
	begin := from.E + 1
	uuid, err := src.ResetLogAt(ctx, begin)
	if err != nil {
		return err
	}
	c.W.UUID(uuid)
	if err := awaitAck(c); err != nil {
		return err
	}
	if err := src.Begun(ctx); err != nil {
		return err
	}
	volume, err := src.Source(ctx)
	if err != nil {
		return err
	}
	if err := SendDifferences(ctx, c, volume, hashStreamOf(&req), o); err != nil {
		return err
	}
	gid, err := src.Snapshot(ctx)
	if err != nil {
		return err
	}
	c.W.Snap(meta.Snap{B: begin, E: gid})
	return awaitAck(c)
}

// hashStreamOf is the stream of a hash backup. Its seed is the time.
func hashStreamOf(req *wire.FullSyncRequest) HashStream {
	return HashStream{Size: req.Size, Bulk: req.Bulk, Seed: uint32(req.Timestamp), Compress: req.Compress, Phase: PhaseHash}
}

// HashBackupServer is the archive in a hash backup, for one request.
type HashBackupServer interface {
	// Accept judges the request, as [BackupServer] does: limits, stop,
	// actions, state Archived, size. It gives the latest snapshot, at which
	// the volume stays until the end. "accept" and the snapshot are sent next.
	Accept(ctx context.Context, req *wire.FullSyncRequest) (from meta.Snap, err error)
	// Begin follows the storage's uuid and our ACK for it: the move Archived
	// to HashSync has begun, here or in Accept, and the image of the latest
	// snapshot is opened, and a temporary file made in the volume's directory.
	Begin(ctx context.Context, uuid meta.UUID) (HashBackupSink, error)
}

// HashBackupSink takes one hash backup in.
type HashBackupSink interface {
	// Commit publishes the file as the diff from the latest snapshot to the
	// end, with the request's timestamp, mergeable unless the latest snapshot
	// is clean. On return durable, in this order: the diff, `uuid`, `state`;
	// and the move is committed. The ACK follows.
	CompareSink
	// SetEnd tells to which snapshot the diff leads, after the last of it has
	// come and before Commit. An error ends the backup.
	SetEnd(to meta.Snap) error
}

// ServeHashBackup is the archive's side of dirty-hash-sync2. reply sends the
// first status word.
func ServeHashBackup(ctx context.Context, c *wire.Conn, reply Reply, s HashBackupServer, o Options) error {
	defer c.Bind(ctx)()
	var req wire.FullSyncRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	if err := checkFullSync(&req); err != nil {
		return err
	}
	from, err := s.Accept(ctx, &req)
	if err != nil {
		return err
	}
	if err := reply(wire.Accept); err != nil {
		return err
	}
	c.W.Snap(from)
	if err := c.Flush(); err != nil {
		return err
	}
	uuid, err := awaitUUID(c)
	if err != nil {
		return err
	}
	sink, err := s.Begin(ctx, uuid)
	if err != nil {
		return err
	}
	return closing(sink, receiveHashBackup(ctx, c, sink, &req, from, uuid, o))
}

// awaitUUID reads the uuid of the storage's new log life, and acknowledges it.
func awaitUUID(c *wire.Conn) (meta.UUID, error) {
	restore := c.Patience(ackPatience) // the storage resets its log
	uuid := c.R.UUID()
	restore()
	if err := c.R.Err(); err != nil {
		return uuid, err
	}
	c.W.Ack()
	return uuid, c.Flush()
}

func receiveHashBackup(ctx context.Context, c *wire.Conn, sink HashBackupSink, req *wire.FullSyncRequest, from meta.Snap, uuid meta.UUID, o Options) error {
	op := "dirty-hash-sync2 of " + req.Volume
	if err := receiveCompared(ctx, c, sink, op, uuid, hashStreamOf(req), o); err != nil {
		return err
	}
	to, err := awaitEnd(c)
	if err != nil {
		return err
	}
	if to.B <= from.E || to.B == meta.MaxGid {
		return violation(op, "end snapshot "+to.String(), "one behind "+from.String())
	}
	if err := sink.SetEnd(to); err != nil {
		return err
	}
	if err := sink.Commit(ctx); err != nil {
		return err
	}
	c.W.Ack()
	return c.Finish()
}

// awaitEnd reads the snapshot that a storage takes at the end of a backup.
func awaitEnd(c *wire.Conn) (meta.Snap, error) {
	defer c.Patience(ackPatience)()
	snap := c.R.Snap()
	return snap, c.R.Err()
}
