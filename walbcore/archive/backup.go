package archive

import (
	"context"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/wire"
)

// scope is what a transfer into a volume holds from its acceptance to its end.
type scope struct {
	v       *volume
	tx      *fsm.Tx[fsm.ArchiveState]
	cleanup []func()
}

// hold makes end call f, in reverse order.
func (sc *scope) hold(f func()) { sc.cleanup = append(sc.cleanup, f) }

// end rolls back what is not committed and lets everything go. It may be
// called when nothing began, and again.
func (sc *scope) end() {
	if sc.tx != nil {
		sc.tx.Rollback()
	}
	for _, f := range slices.Backward(sc.cleanup) {
		f()
	}
	sc.cleanup = nil
}

// bindStop makes a force stop of the volume end the connection.
func (sc *scope) bindStop(ctx context.Context, c *wire.Conn) {
	ctx, release := sc.v.breakable(ctx)
	sc.hold(release)
	sc.hold(c.Bind(ctx))
}

// showProgress shows the progress of a block or hash stream.
func (sc *scope) showProgress(p transfer.Progress) {
	if sc.v != nil && (p.Phase == transfer.PhaseFull || p.Phase == transfer.PhaseHash) {
		sc.v.progress.Store(uint64(block.FromBytes(int64(p.Done))))
	}
}

// serveFullBackup takes in a full backup from a storage.
func (s *Server) serveFullBackup(ctx context.Context, r *server.Request) error {
	b := &fullBackup{s: s, conn: r.Conn}
	defer b.end()
	err := transfer.ServeFullBackup(ctx, r.Conn, r.Reply, b, transfer.Options{
		SyncInterval: s.cfg.SyncInterval, Progress: b.showProgress,
	})
	if b.v != nil {
		s.logEnd("dirty-full-sync", b.v, err)
	}
	return err
}

// fullBackup is the transfer's BackupServer.
type fullBackup struct {
	s    *Server
	conn *wire.Conn
	scope
	req  wire.FullSyncRequest
	uuid meta.UUID
}

// Accept judges the request and begins the move, which shuts everybody else
// out until the end.
func (b *fullBackup) Accept(ctx context.Context, req *wire.FullSyncRequest) error {
	const name = "backupServer"
	b.req = *req
	v, err := b.s.peerVolume(name, req.Volume)
	if err != nil {
		return err
	}
	release, err := b.s.core.Foreground(name)
	if err != nil {
		return err
	}
	b.hold(release)
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveSyncReady); err != nil {
		return err
	}
	b.tx, err = v.sm.Begin(name, fsm.ArchiveSyncReady, fsm.ArchiveFullSync, fsm.ArchiveArchived)
	if err != nil {
		return err
	}
	b.v = v
	b.hold(func() { v.progress.Store(0) })
	b.bindStop(ctx, b.conn)
	return nil
}

// Begin prepares the image.
func (b *fullBackup) Begin(_ context.Context, uuid meta.UUID) (transfer.BackupSink, error) {
	b.uuid = uuid
	if err := b.v.disclaim(); err != nil {
		return nil, err
	}
	if err := b.v.removeData(); err != nil {
		return nil, err
	}
	img, err := b.v.images.Create(b.v.name, b.req.Size)
	if err != nil {
		return nil, err
	}
	return &backupSink{Image: img, b: b}, nil
}

// disclaim makes sure that the volume promises nothing before its image is
// touched: the last writing of the file may have failed when it was there.
func (v *volume) disclaim() error { return v.saveState(fsm.ArchiveSyncReady) }

// backupSink takes one full backup in.
type backupSink struct {
	image.Image
	b *fullBackup
}

// Commit makes the volume Archived.
func (k *backupSink) Commit(_ context.Context, snap meta.Snap) error {
	b := k.b
	archiveUUID, err := newUUID()
	if err != nil {
		return err
	}
	if err := b.v.saveBase(meta.NewState(snap, b.req.Timestamp)); err != nil {
		return err
	}
	if err := b.v.saveArchiveUUID(archiveUUID); err != nil {
		return err
	}
	if err := b.v.saveUUID(b.uuid); err != nil {
		return err
	}
	if err := b.v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	b.v.learn(func(f *facts) { f.lastSync = b.s.now() })
	b.tx.Commit()
	b.end()
	return nil
}
