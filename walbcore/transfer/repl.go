package transfer

import (
	"context"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// ReplParams say what a replication shall do.
type ReplParams struct {
	Volume string
	// ByGid: the replication ends when the destination has reached Gid; it
	// ends there exactly when the diffs allow. Otherwise it goes on while the
	// diffs that the destination lacks weigh more than SizeMB MiB in all.
	ByGid  bool
	Gid    meta.Gid // valid iff ByGid
	SizeMB uint64   // valid iff not ByGid

	ArchiveUUID  meta.UUID    // lineage of our base image
	Resync       bool         // the destination may overwrite its image by comparison; this is not available yet
	DontMerge    bool         // send every diff as it is
	Bulk         block.LB     // of the block stream
	FullCompress compress.Opt // of the block stream
	DiffCompress compress.Opt // of merged diffs
	MaxMerge     uint64       // bytes of diff files merged for one round; at least one file is sent
	MaxFiles     int          // files merged for one round
}

// ReplSource is the source archive in a replication. The action
// ReplSyncAsClient runs all the while, so the base is not applied to; diffs may
// come, and be merged. No lock is held when a method is called.
type ReplSource interface {
	// Accepted: the destination took the volume. The controller is told
	// "accept" and let go here. Called once, first.
	Accepted(ctx context.Context) error
	// Base is the content of the `base` file, UUID that of `uuid`, Size the
	// size of the base image.
	Base(ctx context.Context) (meta.State, error)
	UUID(ctx context.Context) (meta.UUID, error)
	Size(ctx context.Context) (block.LB, error)
	// Image opens the base image, for a full replication. It is closed before
	// the rounds begin.
	Image(ctx context.Context) (SourceImage, error)
	// Diffs is the volume's diffs.
	Diffs() *diffstore.Store
}

// SourceImage is an open image to be read.
type SourceImage interface {
	BlockSource
	io.Closer
}

// ReplResult says what a replication did.
type ReplResult struct {
	Full     bool       // the base image was sent
	Start    block.LB   // block from which it was sent; valid iff Full
	Rounds   int        // diff rounds
	Diffs    int        // diff files that went into them
	Latest   meta.State // of the destination at the end
	Sent     uint64     // bytes on the wire, with the negotiation
	Received uint64
}

// SendRepl is the source's side of repl-sync3. Each diff round carries diffs
// merged into one, up to the limits of p, but a round ends at every gid that
// was restorable at the source when the rounds began, so that it is restorable
// at the destination too. When it returns nil the destination has everything
// durably and has ended well. A refusal is a *wire.Refusal.
//
// The result is valid beside an error too: it says what was done until then.
func SendRepl(ctx context.Context, c *wire.Conn, p ReplParams, src ReplSource, o Options) (ReplResult, error) {
	return ReplResult{}, errNotYet("SendRepl")
}

// ReplServer is the destination archive in a replication, for one connection.
// Where a method takes the volume's lock, the server keeps it until the method
// that is said to release it returns, or ServeRepl does.
type ReplServer interface {
	// Accept judges the volume: limits, stop, no action at all, state SyncReady
	// or Archived; its error is the refusal. It takes the lock. "accept" is
	// sent next.
	Accept(ctx context.Context, volume string) error
	// Offer decides what has to be done: wire.ReplFull if the volume is
	// SyncReady, wire.ReplNone if it is Archived and the lineage is ours. A
	// replication that needs a resync is an error, whose text is sent:
	// ErrResyncNotAllowed unless the offer allows one, else one that says that
	// it is not available. wire.ReplResync is never answered.
	Offer(ctx context.Context, offer wire.ReplOffer) (kind uint32, err error)
	// Full judges the request of a full replication (size and bulk were
	// checked: not 0, the bulk not above MaxBulk) and finds where to begin:
	// behind what full_repl_state says is safe, if that is of the same
	// lineage and base, else at 0. An error is a refusal with its text. "ok"
	// and start are sent next. The lock is still held.
	Full(ctx context.Context, req *wire.ReplFullRequest) (start block.LB, err error)
	// BeginFull: the move SyncReady to FullSync; the lock is released;
	// `archive_uuid` := the offer's, durably; then the image is made (start
	// 0) or grown and prepared behind start.
	BeginFull(ctx context.Context) (FullSink, error)
	// Latest begins a round: it takes the lock and gives the state behind all
	// applicable diffs. It is sent to the source, which decides.
	Latest(ctx context.Context) (meta.State, error)
	// Diff judges a diff round: size, and whether the diff is applicable to
	// Latest. An error is a refusal with its text. On nil the move Archived
	// to ReplSyncAsServer is begun and the lock released. "ok" is sent next,
	// then Create is called.
	Diff(ctx context.Context, req *wire.ReplDiffRequest) error
	// Create makes a temporary file in the volume's directory for the diff
	// of the request. If it fails, the move must be rolled back.
	Create(ctx context.Context) (DiffSink, error)
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

// ErrResyncNotAvailable refuses a replication that would have to overwrite the
// destination, which this server cannot do.
var ErrResyncNotAvailable error = &wire.Error{Text: "resync is required but not available at this server", Err: errResync("it is not available at this server")}

// ServeRepl is the destination's side of repl-sync3. reply sends the first
// status word.
func ServeRepl(ctx context.Context, c *wire.Conn, reply Reply, s ReplServer, o Options) error {
	return errNotYet("ServeRepl")
}
