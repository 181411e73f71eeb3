package archive

import (
	"context"
	"errors"
	"slices"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// momentLimit is how long a replication waits for a volume that is just
// receiving a diff. It is well below the peer's timeout.
const momentLimit = 5 * time.Second

// serveRepl takes in a replication from another archive.
func (s *Server) serveRepl(ctx context.Context, r *server.Request) error {
	d := &replDest{s: s, conn: r.Conn}
	defer d.end()
	err := transfer.ServeRepl(ctx, r.Conn, r.Reply, d, transfer.Options{
		SyncInterval: s.cfg.SyncInterval, Progress: d.showProgress,
	})
	if d.v != nil {
		s.logEnd("repl-sync", d.v, err)
	}
	return err
}

// replDest is the transfer's ReplServer. Where the original keeps the volume's
// lock while the source speaks, a transaction is open here: FullSync from the
// acceptance of an empty volume to the end of the full replication, and
// ReplSyncAsServer from the moment the source is told where we stand to the end
// of its round. Between the rounds diffs may come from proxies.
type replDest struct {
	s    *Server
	conn *wire.Conn
	scope
	offer    wire.ReplOffer
	archived bool // the volume was Archived when a resync began
	full     wire.ReplFullRequest
	resync   wire.ReplResyncRequest
	hash     wire.ReplHashRequest
	start    block.LB  // where the full replication begins
	at       meta.Snap // where we stand, as the source was told
	diff     wire.ReplDiffRequest
}

// Accept judges the volume.
func (d *replDest) Accept(ctx context.Context, name string) error {
	const handler = "a2aReplSyncServer"
	v, err := d.s.peerVolume(handler, name)
	if err != nil {
		return err
	}
	release, err := d.s.core.Foreground(handler)
	if err != nil {
		return err
	}
	d.hold(release)
	if err := v.sm.VerifyStop(handler, v.name, fsm.NotStopping); err != nil {
		return err
	}
	// A volume that is receiving a diff is one that is Archived.
	endAction, err := v.startAction(handler, receiving, d.s.now(), fsm.ArchiveSyncReady, fsm.ArchiveArchived, fsm.ArchiveWdiffRecv)
	if err != nil {
		return err
	}
	d.hold(endAction)
	d.tx, err = v.sm.Begin(handler, fsm.ArchiveSyncReady, fsm.ArchiveFullSync, fsm.ArchiveArchived)
	if err != nil {
		// Not empty. That it is Archived does not change while the action runs.
		if err := v.sm.VerifyState(handler, fsm.ArchiveArchived, fsm.ArchiveWdiffRecv); err != nil {
			return err
		}
	}
	d.v = v
	d.hold(func() { v.progress.Store(0) })
	d.bindStop(ctx, d.conn)
	return nil
}

// Offer decides what has to be done.
func (d *replDest) Offer(_ context.Context, offer wire.ReplOffer) (uint32, error) {
	d.offer = offer
	switch {
	case d.tx != nil && offer.Resync && d.hasImage():
		// Nobody comes in between, as the action runs.
		d.tx.Rollback()
		var err error
		d.tx, err = d.v.sm.Begin("a2aReplSyncServer", fsm.ArchiveSyncReady, fsm.ArchiveResync, fsm.ArchiveArchived)
		return wire.ReplResync, err
	case d.tx != nil: // the volume promises nothing
		return wire.ReplFull, nil
	case offer.Resync:
		return wire.ReplResync, nil
	case offer.ArchiveUUID != d.v.facts().archiveUUID:
		return 0, transfer.ErrResyncNotAllowed
	}
	return wire.ReplNone, nil
}

// hasImage reports whether there is a base image, whatever it holds.
func (d *replDest) hasImage() bool {
	_, err := d.v.images.Size(d.v.name)
	return err == nil
}

// Full finds where a full replication may go on.
func (d *replDest) Full(_ context.Context, req *wire.ReplFullRequest) (block.LB, error) {
	d.full = *req
	f := d.v.facts()
	if f.fullRepl == nil || f.archiveUUID != d.offer.ArchiveUUID || !f.fullRepl.Base.Equal(req.Base) {
		return 0, nil
	}
	size, err := d.v.images.Size(d.v.name)
	if err != nil || size != req.Size || f.fullRepl.Progress > size {
		return 0, nil //nolint:nilerr // no image to go on with: a new one is made
	}
	d.start = f.fullRepl.Progress
	return d.start, nil
}

// BeginFull prepares the image. What an earlier life left is removed before
// the lineage is the source's, so that no full_repl_state of one lineage meets
// another.
func (d *replDest) BeginFull(context.Context) (transfer.FullSink, error) {
	if err := d.v.disclaim(); err != nil {
		return nil, err
	}
	if d.start == 0 {
		if err := d.v.removeData(); err != nil {
			return nil, err
		}
	}
	if err := d.v.saveArchiveUUID(d.offer.ArchiveUUID); err != nil {
		return nil, err
	}
	img, err := d.image()
	if err != nil {
		return nil, err
	}
	return &fullSink{Image: img, d: d, began: d.s.now()}, nil
}

// image makes the image, or opens the one to go on with.
func (d *replDest) image() (image.Image, error) {
	if d.start == 0 {
		return d.v.images.Create(d.v.name, d.full.Size)
	}
	return d.v.images.Open(d.v.name)
}

// fullSink takes a full replication in.
type fullSink struct {
	image.Image
	d     *replDest
	began uint64
}

// Checkpoint remembers how far the image is safe.
func (k *fullSink) Checkpoint(_ context.Context, progress block.LB) error {
	return k.d.v.saveFullRepl(wire.FullReplState{Base: k.d.full.Base, Progress: progress, Timestamp: k.began})
}

// Commit makes the volume Archived.
func (k *fullSink) Commit(context.Context) error {
	d := k.d
	if err := d.v.saveBase(meta.NewState(d.full.Base.B, d.full.Base.Timestamp)); err != nil {
		return err
	}
	if err := d.v.saveUUID(d.full.UUID); err != nil {
		return err
	}
	if err := d.v.removeFullRepl(); err != nil {
		return err
	}
	if err := d.v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	d.v.learn(func(f *facts) { f.lastSync = d.s.now() })
	d.v.progress.Store(0)
	d.tx.Commit()
	return nil
}

// Latest begins a round: nothing changes where we stand until its end.
func (d *replDest) Latest(ctx context.Context) (meta.State, error) {
	if err := d.beginMoment(ctx, "runDiffReplServer", fsm.ArchiveReplSyncAsServer, fsm.ArchiveArchived); err != nil {
		return meta.State{}, err
	}
	st := d.v.facts().latest()
	d.at = st.B
	return st, nil
}

// beginMoment begins a move of an Archived volume. It waits a moment for one
// that is receiving a diff.
func (d *replDest) beginMoment(ctx context.Context, name string, via, to fsm.ArchiveState) error {
	ctx, cancel := context.WithTimeout(ctx, momentLimit)
	defer cancel()
	for {
		_, changed := d.v.sm.Watch()
		tx, err := d.v.sm.Begin(name, fsm.ArchiveArchived, via, to)
		if err == nil {
			d.tx = tx
			return nil
		}
		if !slices.Contains([]fsm.ArchiveState{fsm.ArchiveWdiffRecv, fsm.ArchiveArchived}, d.v.sm.State()) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// Diff judges a diff.
func (d *replDest) Diff(_ context.Context, req *wire.ReplDiffRequest) error {
	d.diff = *req
	if err := d.checkSize(req.Size); err != nil {
		return err
	}
	if !d.at.CanApply(req.Diff) {
		return server.Refusef(walberr.BadState, "runDiffReplServer:can not apply:%s:%s", d.at, req.Diff)
	}
	return nil
}

// Create makes the file that the diff is written to.
func (d *replDest) Create(context.Context) (transfer.DiffSink, error) {
	sink, err := d.s.createDiff(d.v, d.diff.Diff, "diff replication")
	if err != nil {
		return nil, err
	}
	return &replSink{diffSink: sink, d: d}, nil
}

// replSink takes the diff of a round in.
type replSink struct {
	diffSink
	d         *replDest
	committed bool
}

// Commit publishes the diff.
func (k *replSink) Commit(ctx context.Context) error {
	if err := k.diffSink.Commit(ctx); err != nil {
		return err
	}
	k.committed = true
	return nil
}

// Close ends the round, and removes the diffs that a published one covers.
func (k *replSink) Close() error {
	err := k.diffSink.Close()
	if k.committed {
		_, gcErr := k.v.facts().diffs.GCRange(k.diff.B.B, k.diff.E.B)
		err = errors.Join(err, gcErr)
	}
	k.d.tx.Commit()
	return err
}

// Stop frees the volume before the source is told that all is well.
func (d *replDest) Stop(context.Context) error {
	d.end()
	return nil
}
