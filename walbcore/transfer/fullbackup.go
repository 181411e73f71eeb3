package transfer

import (
	"context"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// BackupSource is the storage in a full backup. The methods are called in
// the order in which they stand here, each once, without any lock held. An
// error of any ends the backup.
type BackupSource interface {
	// Accepted: the archive took the request. The controller is told
	// "accept" and let go here, before the log is reset.
	Accepted(ctx context.Context) error
	// ResetLog begins a new log life at gid 0 and returns its uuid. On return
	// the device's log is reset and `done`, `queue`, `uuid` and `state` are
	// durable, in this order. The archive waits meanwhile for at most its
	// timeout.
	ResetLog(ctx context.Context) (meta.UUID, error)
	// Begun: the archive has begun. Monitoring and log shipping start, and
	// run beside the block stream.
	Begun(ctx context.Context) error
	// Source gives the volume. What was written to it before this call is
	// seen; what is written later is in the log.
	Source(ctx context.Context) (BlockSource, error)
	// Snapshot takes an explicit snapshot when the archive has all blocks,
	// durable in the queue on return, and gives its gid.
	Snapshot(ctx context.Context) (meta.Gid, error)
}

// SendFullBackup is the storage's side of dirty-full-sync3, behind the
// negotiation. When it returns nil the archive is Archived: the caller closes
// the connection and makes the volume a target. The caller has begun the move
// SyncReady to FullSync before, and rolls it back (and ends the monitoring) on
// an error. A refusal is a *wire.Refusal; SendFullBackup has called nothing
// then.
func SendFullBackup(ctx context.Context, c *wire.Conn, req wire.FullSyncRequest, src BackupSource, o Options) error {
	defer c.Bind(ctx)()
	req.Encode(c.W)
	if err := ask(c, wire.Accept); err != nil {
		return err
	}
	if err := src.Accepted(ctx); err != nil {
		return err
	}
	uuid, err := src.ResetLog(ctx)
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
	stream := BlockStream{Size: req.Size, Bulk: req.Bulk, Compress: req.Compress}
	if err := SendBlocks(ctx, c, volume, stream, o); err != nil {
		return err
	}
	if err := awaitAck(c); err != nil {
		return err
	}
	gid, err := src.Snapshot(ctx)
	if err != nil {
		return err
	}
	c.W.Snap(meta.Snap{B: 0, E: gid})
	return awaitAck(c)
}

// BackupServer is the archive in a full backup, for one request.
type BackupServer interface {
	// Accept judges the request: limits, stop, actions, state; its error is
	// the refusal. The server takes the volume's lock here and keeps it until
	// Begin returns, or ServeFullBackup does. "accept" is sent next. Host type,
	// size and bulk were checked before: the sizes are not 0, the bulk is not
	// above MaxBulk.
	Accept(ctx context.Context, req *wire.FullSyncRequest) error
	// Begin follows the storage's uuid and our ACK for it: the move SyncReady
	// to FullSync, then the lock is released, the file `state` is looked at,
	// and the base image is made or prepared. The storage sends already.
	Begin(ctx context.Context, uuid meta.UUID) (BackupSink, error)
}

// BackupSink takes one full backup in.
type BackupSink interface {
	BlockSink
	// Commit ends the backup: the image was written and synced, the ACK for
	// the data sent, and snap {0, gidE} has come. On return durable, in this
	// order: `base` (not applying, the request's timestamp, snap), a new
	// random `archive_uuid`, `uuid`, `state` = Archived; and the move is
	// committed. The last ACK follows.
	Commit(ctx context.Context, snap meta.Snap) error
	// Close is called once, whatever happened; without a successful Commit it
	// rolls the move back. The image is left as it is.
	Close() error
}

// Reply sends a status word and flushes. It is server.Request.Reply, so that
// the server knows that its handler has answered.
type Reply func(word string) error

// ServeFullBackup is the archive's side of dirty-full-sync3. reply sends the
// first status word (server.Request.Reply).
func ServeFullBackup(ctx context.Context, c *wire.Conn, reply Reply, s BackupServer, o Options) error {
	defer c.Bind(ctx)()
	var req wire.FullSyncRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	if err := checkFullSync(&req); err != nil {
		return err
	}
	if err := s.Accept(ctx, &req); err != nil {
		return err
	}
	if err := reply(wire.Accept); err != nil {
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
	return closing(sink, receiveBackup(ctx, c, sink, &req, o))
}

func checkFullSync(req *wire.FullSyncRequest) error {
	const where = "backupServer"
	switch {
	case req.HostType != wire.HostStorage:
		return refusal(walberr.Usage, "%s:invalid hostType:%s", where, req.HostType)
	case req.Bulk == 0:
		return refusal(walberr.Usage, "%s:bulkLb is zero", where)
	case req.Bulk > MaxBulk:
		return refusal(walberr.Range, "%s:too large bulkLb:%d:%d", where, req.Bulk, MaxBulk)
	}
	return checkSize(where, req.Size)
}

func receiveBackup(ctx context.Context, c *wire.Conn, sink BackupSink, req *wire.FullSyncRequest, o Options) error {
	stream := BlockStream{Size: req.Size, Bulk: req.Bulk, Compress: req.Compress}
	if err := ReceiveBlocks(ctx, c, sink, stream, nil, o); err != nil {
		return err
	}
	c.W.Ack()
	if err := c.Flush(); err != nil {
		return err
	}
	snap, err := awaitEnd(c)
	if err != nil {
		return err
	}
	if snap.B != 0 {
		return violation("dirty-full-sync3 of "+req.Volume, "end snapshot "+snap.String(), "one that begins at gid 0")
	}
	if err := sink.Commit(ctx, snap); err != nil {
		return err
	}
	c.W.Ack()
	return c.Finish()
}
