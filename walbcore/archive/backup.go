package archive

import (
	"context"
	"errors"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// serveFullBackup takes in a full backup from a storage.
func (s *Server) serveFullBackup(ctx context.Context, r *server.Request) error {
	b := &fullBackup{s: s}
	defer b.end()
	err := transfer.ServeFullBackup(ctx, r.Conn, r.Reply, b, transfer.Options{
		SyncInterval: s.cfg.SyncInterval,
		Progress: func(p transfer.Progress) {
			if b.v != nil {
				b.v.progress.Store(uint64(block.FromBytes(int64(p.Done))))
			}
		},
	})
	if b.v != nil {
		s.logEnd("dirty-full-sync", b.v, err)
	}
	return err
}

// scope is what a transfer into a volume holds from its acceptance to its end.
type scope struct {
	v       *volume
	tx      *fsm.Tx[fsm.ArchiveState]
	cleanup []func()
}

// end undoes what is not committed. It may be called when nothing began.
func (sc *scope) end() {
	if sc.tx != nil {
		sc.tx.Rollback()
	}
	if sc.v != nil {
		sc.v.progress.Store(0)
	}
	for i := len(sc.cleanup) - 1; i >= 0; i-- {
		sc.cleanup[i]()
	}
	sc.cleanup = nil
}

// bindStop makes a force stop of the volume end the connection.
func (sc *scope) bindStop(ctx context.Context, c *wire.Conn) {
	ctx, release := sc.v.breakable(ctx)
	sc.cleanup = append(sc.cleanup, release, c.Bind(ctx))
}

// fullBackup is the transfer's BackupServer.
type fullBackup struct {
	s *Server
	scope
	req  wire.FullSyncRequest
	uuid meta.UUID
}

// Accept judges the request and begins the move, which shuts everybody else
// out until the end.
func (b *fullBackup) Accept(_ context.Context, req *wire.FullSyncRequest) error {
	const name = "backupServer"
	b.req = *req
	if req.HostType != wire.HostStorage {
		return server.Refusef(walberr.Usage, "%s:invalid hostType:%s", name, req.HostType)
	}
	v, err := b.s.volume(req.Volume, false)
	if err != nil {
		return err
	}
	release, err := b.s.core.Foreground(name)
	if err != nil {
		return err
	}
	b.cleanup = append(b.cleanup, release)
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
	return nil
}

// Begin prepares the image.
func (b *fullBackup) Begin(_ context.Context, uuid meta.UUID) (transfer.BackupSink, error) {
	b.uuid = uuid
	img, err := b.s.emptyImage(b.v, b.req.Size)
	if err != nil {
		return nil, err
	}
	return &backupSink{imageSink: imageSink{img}, b: b}, nil
}

// emptyImage gives a base image of the size that reads as zeros, and removes
// what an earlier life of the volume left. Nothing else runs on the volume.
func (s *Server) emptyImage(v *volume, size block.LB) (image.Image, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.diffs.RemoveAll(); err != nil {
		return nil, err
	}
	if err := v.removeFullRepl(); err != nil {
		return nil, err
	}
	have, err := v.images.Size(v.name)
	switch {
	case walberr.Is(err, walberr.NotFound):
		return v.images.Create(v.name, size)
	case err != nil:
		return nil, err
	case have == size:
		img, err := v.images.Open(v.name)
		if err != nil {
			return nil, err
		}
		return img, img.Clear()
	}
	// An image of another size holds nothing that anybody was promised.
	if err := v.images.Delete(v.name); err != nil {
		return nil, err
	}
	return v.images.Create(v.name, size)
}

// imageSink is an image that a block stream is written to. It is known to read
// as zeros wherever the stream will come.
type imageSink struct {
	image.Image
}

// Zero does nothing: the image reads as zeros there.
func (k *imageSink) Zero(block.Range) error { return nil }

// backupSink takes one full backup in.
type backupSink struct {
	imageSink
	b *fullBackup
}

// Commit makes the volume Archived.
func (k *backupSink) Commit(_ context.Context, snap meta.Snap) error {
	v := k.b.v
	archiveUUID, err := newUUID()
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	err = errors.Join(
		v.saveBase(meta.NewState(snap, k.b.req.Timestamp)),
		v.saveArchiveUUID(archiveUUID),
		v.saveUUID(k.b.uuid))
	if err != nil {
		return err
	}
	if err := v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	v.lastSync = k.b.s.now()
	k.b.tx.Commit()
	return nil
}
