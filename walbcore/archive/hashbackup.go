package archive

import (
	"context"
	"errors"
	"fmt"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// serveHashBackup takes in a hash backup from a storage.
func (s *Server) serveHashBackup(ctx context.Context, r *server.Request) error {
	b := &hashBackup{s: s, conn: r.Conn}
	defer b.end()
	err := transfer.ServeHashBackup(ctx, r.Conn, r.Reply, b, transfer.Options{
		SyncInterval: s.cfg.SyncInterval, Progress: b.showProgress,
	})
	if b.v != nil {
		s.logEnd("dirty-hash-sync", b.v, err)
	}
	return err
}

// hashBackup is the transfer's HashBackupServer.
type hashBackup struct {
	s    *Server
	conn *wire.Conn
	scope
	req  wire.FullSyncRequest
	from meta.Snap // the latest snapshot, which stays it until the end
	uuid meta.UUID
}

// Accept judges the request and begins the move: no diff comes until the end.
// An image that is too small is refused here, before the storage throws its log
// away.
func (b *hashBackup) Accept(ctx context.Context, req *wire.FullSyncRequest) (meta.Snap, error) {
	const name = "backupServer"
	b.req = *req
	v, err := b.s.peerVolume(name, req.Volume)
	if err != nil {
		return meta.Snap{}, err
	}
	release, err := b.s.core.Foreground(name)
	if err != nil {
		return meta.Snap{}, err
	}
	b.hold(release)
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return meta.Snap{}, err
	}
	if err := v.sm.VerifyNoAction(name); err != nil {
		return meta.Snap{}, err
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveArchived); err != nil {
		return meta.Snap{}, err
	}
	b.tx, err = v.sm.Begin(name, fsm.ArchiveArchived, fsm.ArchiveHashSync, fsm.ArchiveArchived)
	if err != nil {
		return meta.Snap{}, err
	}
	b.v = v
	b.hold(func() { v.progress.Store(0) })
	b.bindStop(ctx, b.conn)
	size, err := b.s.fit(v, req.Size)
	if err != nil {
		return meta.Snap{}, err
	}
	if size < req.Size {
		return meta.Snap{}, server.Refusef(walberr.BadState, "%s:bad sizeLb:%d:%d", name, req.Size, size)
	}
	b.from = v.facts().latest().B
	return b.from, nil
}

// Begin opens what is compared, and the file that the differences go to.
func (b *hashBackup) Begin(ctx context.Context, uuid meta.UUID) (transfer.HashBackupSink, error) {
	b.uuid = uuid
	compared, err := b.s.createCompared(ctx, b.v, b.from.B)
	if err != nil {
		return nil, err
	}
	compared.what = "hash backup"
	compared.diff = meta.Diff{B: b.from, Mergeable: !b.from.IsClean(), Timestamp: b.req.Timestamp}
	return &hashBackupSink{comparedSink: compared, b: b}, nil
}

// comparedSink takes the differences to an image of ours in.
type comparedSink struct {
	diffSink
	old *snapshotImage
}

// createCompared opens the image at gid, and makes a temporary file.
func (s *Server) createCompared(ctx context.Context, v *volume, gid meta.Gid) (comparedSink, error) {
	old, err := s.openSnapshot(ctx, v, gid)
	if err != nil {
		return comparedSink{}, err
	}
	sink, err := s.createDiff(v, meta.Diff{}, "")
	if err != nil {
		return comparedSink{}, errors.Join(err, old.Close())
	}
	return comparedSink{diffSink: sink, old: old}, nil
}

// Old is the image that is compared with.
func (k *comparedSink) Old() transfer.BlockSource { return k.old }

// Commit publishes the diff. It is none that a proxy sent.
func (k *comparedSink) Commit(context.Context) error {
	if _, err := k.v.facts().diffs.Replace(k.TempFile, k.diff); err != nil {
		return err
	}
	k.s.cfg.Log.Info(fmt.Sprintf("%s succeeded:%s:%s", k.what, k.v.name, k.diff))
	return nil
}

// Close removes what was not published.
func (k *comparedSink) Close() error { return errors.Join(k.old.Close(), k.diffSink.Close()) }

// hashBackupSink takes one hash backup in.
type hashBackupSink struct {
	comparedSink
	b *hashBackup
}

// SetEnd tells where the diff leads.
func (k *hashBackupSink) SetEnd(to meta.Snap) error {
	k.diff.E = to
	return k.diff.Check()
}

// Commit publishes the diff, and takes the storage's new log life as ours. When
// it is interrupted between the two the backup is to be repeated, which begins
// behind the diff.
func (k *hashBackupSink) Commit(ctx context.Context) error {
	if err := k.comparedSink.Commit(ctx); err != nil {
		return err
	}
	if err := k.v.saveUUID(k.b.uuid); err != nil {
		return err
	}
	if err := k.v.saveState(fsm.ArchiveArchived); err != nil {
		return err
	}
	k.v.learn(func(f *facts) { f.lastSync = k.s.now() })
	k.b.tx.Commit()
	k.b.end()
	return nil
}

// serveLatest tells a storage where we are with its volumes.
func (s *Server) serveLatest(ctx context.Context, r *server.Request) error {
	err := transfer.ServeLatest(ctx, r.Conn, r.Reply, s.latestOf)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		s.cfg.Log.Info("gather-latest-snap: nothing to answer:" + refusal.Text)
		return nil // the storage could not even ask
	}
	return err
}

// latestOf is where we are with a volume of any name.
func (s *Server) latestOf(name string) wire.SnapshotInfo {
	info := wire.SnapshotInfo{Volume: name, Gid: meta.MaxGid, Lsid: meta.MaxLsid}
	v, err := s.volume(name, false)
	if err != nil {
		return info // a name that no volume can have
	}
	if st := v.sm.State(); !isActive(st) && st != fsm.ArchiveStopped {
		return info
	}
	latest := v.facts().latest()
	info.Gid, info.Timestamp = latest.B.B, latest.Timestamp
	return info
}
