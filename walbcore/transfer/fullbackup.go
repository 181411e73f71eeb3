package transfer

import (
	"context"

	"walbsh/walbcore/meta"
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
	return errNotYet("SendFullBackup")
}

// BackupServer is the archive in a full backup, for one request.
type BackupServer interface {
	// Accept judges the request: limits, stop, actions, state; its error is
	// the refusal. The server takes the volume's lock here and keeps it until
	// Begin returns, or ServeFullBackup does. "accept" is sent next. The size and
	// the bulk were checked before: not 0, not above MaxBulk.
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

// ServeFullBackup is the archive's side of dirty-full-sync3. reply sends the
// first status word (server.Request.Reply).
func ServeFullBackup(ctx context.Context, c *wire.Conn, reply Reply, s BackupServer, o Options) error {
	return errNotYet("ServeFullBackup")
}

// Reply sends a status word and flushes. It is server.Request.Reply, so that
// the server knows that its handler has answered.
type Reply func(word string) error
