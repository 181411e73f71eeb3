package archive

import (
	"context"
	"errors"
	"fmt"
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
		SyncInterval: s.cfg.SyncInterval,
		Progress: func(p transfer.Progress) {
			if d.v != nil && p.Phase == transfer.PhaseFull {
				d.v.progress.Store(uint64(block.FromBytes(int64(p.Done))))
			}
		},
	})
	if d.v != nil {
		s.logEnd("repl-sync", d.v, err)
	}
	return err
}

// replDest is the transfer's ReplServer. The volume's lock is not held between
// its methods: what may not happen meanwhile is kept out by the moves that
// BeginFull and Diff make.
type replDest struct {
	s    *Server
	conn *wire.Conn
	scope
	offer wire.ReplOffer
	full  wire.ReplFullRequest
	diff  wire.ReplDiffRequest
	start block.LB
}

// Accept judges the volume.
func (d *replDest) Accept(ctx context.Context, name string) error {
	const handler = "a2aReplSyncServer"
	v, err := d.s.volume(name, false)
	if err != nil {
		return err
	}
	release, err := d.s.core.Foreground(handler)
	if err != nil {
		return err
	}
	d.cleanup = append(d.cleanup, release)
	if err := v.sm.VerifyStop(handler, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.sm.VerifyNoAction(handler); err != nil {
		return err
	}
	awaitMoment(ctx, v)
	if err := v.sm.VerifyState(handler, fsm.ArchiveSyncReady, fsm.ArchiveArchived); err != nil {
		return err
	}
	d.v = v
	d.bindStop(ctx, d.conn)
	return nil
}

// awaitMoment waits a little for a volume that is only for a moment in another
// state than Archived.
func awaitMoment(ctx context.Context, v *volume) {
	ctx, cancel := context.WithTimeout(ctx, momentLimit)
	defer cancel()
	_ = v.sm.Wait(ctx, func(view fsm.View[fsm.ArchiveState]) bool {
		return view.State != fsm.ArchiveWdiffRecv && view.State != fsm.ArchiveReplSyncAsServer
	})
}

// Offer decides what has to be done.
func (d *replDest) Offer(_ context.Context, offer wire.ReplOffer) (uint32, error) {
	d.offer = offer
	if d.v.sm.State() == fsm.ArchiveSyncReady {
		return wire.ReplFull, nil
	}
	d.v.mu.Lock()
	same := d.v.archiveUUID == offer.ArchiveUUID
	d.v.mu.Unlock()
	switch {
	case same && !offer.Resync:
		return wire.ReplNone, nil
	case offer.Resync:
		return 0, transfer.ErrResyncNotAvailable
	}
	return 0, transfer.ErrResyncNotAllowed
}

// Full judges a full replication, and finds where it may go on.
func (d *replDest) Full(_ context.Context, req *wire.ReplFullRequest) (block.LB, error) {
	d.full = *req
	if req.Base.Applying {
		return 0, server.Refusef(walberr.BadState, "runFullReplServer:the base image of the source is being applied to:%s", req.Base)
	}
	d.v.mu.Lock()
	defer d.v.mu.Unlock()
	st := d.v.fullRepl
	if st == nil || d.v.archiveUUID != d.offer.ArchiveUUID || !st.Base.Equal(req.Base) || st.Progress > req.Size {
		return 0, nil
	}
	if size, err := d.v.images.Size(d.v.name); err != nil || size != req.Size {
		return 0, nil
	}
	d.start = st.Progress
	return d.start, nil
}

// BeginFull makes the move and prepares the image.
func (d *replDest) BeginFull(context.Context) (transfer.FullSink, error) {
	tx, err := d.v.sm.Begin("runFullReplServer", fsm.ArchiveSyncReady, fsm.ArchiveFullSync, fsm.ArchiveArchived)
	if err != nil {
		return nil, err
	}
	d.tx = tx
	var img image.Image
	if d.start == 0 {
		// This also removes full_repl_state, before the lineage changes that
		// it belongs to.
		img, err = d.s.emptyImage(d.v, d.full.Size)
	} else {
		img, err = d.v.images.Open(d.v.name)
		if err == nil {
			err = img.Zero(block.Range{Addr: d.start, Len: d.full.Size - d.start})
		}
	}
	if err == nil {
		d.v.mu.Lock()
		err = d.v.saveArchiveUUID(d.offer.ArchiveUUID)
		d.v.mu.Unlock()
	}
	if err != nil {
		if img != nil {
			err = errors.Join(err, img.Close())
		}
		return nil, err
	}
	return &fullSink{imageSink: imageSink{img}, d: d, began: d.s.now()}, nil
}

// fullSink takes a full replication in.
type fullSink struct {
	imageSink
	d     *replDest
	began uint64
}

// Checkpoint remembers how far the image is safe.
func (k *fullSink) Checkpoint(_ context.Context, progress block.LB) error {
	v := k.d.v
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.saveFullRepl(wire.FullReplState{Base: k.d.full.Base, Progress: progress, Timestamp: k.began})
}

// Commit makes the volume Archived.
func (k *fullSink) Commit(context.Context) error {
	v := k.d.v
	v.mu.Lock()
	defer v.mu.Unlock()
	base := k.d.full.Base
	base.E = base.B
	if err := v.saveBase(base); err != nil {
		return err
	}
	if err := v.saveUUID(k.d.full.UUID); err != nil {
		return err
	}
	if err := v.removeFullRepl(); err != nil {
		return err
	}
	if err := v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	v.lastSync = k.d.s.now()
	k.d.tx.Commit()
	return nil
}

// Latest is where the destination stands.
func (d *replDest) Latest(context.Context) (meta.State, error) { return d.v.latest(), nil }

// Diff judges a diff and makes the move.
func (d *replDest) Diff(ctx context.Context, req *wire.ReplDiffRequest) error {
	const handler = "runDiffReplServer"
	d.diff = *req
	awaitMoment(ctx, d.v)
	tx, err := d.v.sm.Begin(handler, fsm.ArchiveArchived, fsm.ArchiveReplSyncAsServer, fsm.ArchiveArchived)
	if err != nil {
		return err
	}
	d.tx = tx
	if err := d.judgeDiff(handler); err != nil {
		tx.Rollback()
		return err
	}
	return nil
}

func (d *replDest) judgeDiff(handler string) error {
	smaller, err := d.s.isSmaller(d.v, d.diff.Size)
	if err != nil {
		return err
	}
	if smaller {
		own, _ := d.v.images.Size(d.v.name)
		return server.Refusef(walberr.BadState, "verifyVolumeSize:volume size is smaller than the received size:%s:%d:%d", d.v.name, d.diff.Size, own)
	}
	if latest := d.v.latest().B; !latest.CanApply(d.diff.Diff) {
		return server.Refusef(walberr.BadState, "%s:can not apply:%s:%s", handler, latest, d.diff.Diff)
	}
	return nil
}

// Create makes the file that the diff is written to.
func (d *replDest) Create(context.Context) (transfer.DiffSink, error) {
	tmp, err := d.v.diffs.CreateTemp()
	if err != nil {
		return nil, err
	}
	listed := false
	return &diffSink{
		TempFile: tmp, v: d.v, diff: d.diff.Diff,
		committed: func() {
			listed = true
			d.v.mu.Lock()
			d.v.lastWdiff = d.s.now()
			d.v.mu.Unlock()
			d.s.cfg.Log.Info(fmt.Sprintf("diff replication succeeded:%s:%s", d.v.name, d.diff.Diff))
		},
		closed: func() error {
			if !listed {
				d.tx.Rollback()
				return nil
			}
			_, err := d.v.diffs.GCRange(d.diff.Diff.B.B, d.diff.Diff.E.B)
			d.tx.Commit()
			return err
		},
	}, nil
}

// Stop ends the rounds.
func (d *replDest) Stop(context.Context) error { return nil }
