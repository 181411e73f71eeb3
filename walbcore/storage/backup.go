package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// backupKind is what tells one kind of backup from the other.
type backupKind struct {
	command  string // as the log names it
	protocol string
	via      fsm.StorageState
	send     func(ctx context.Context, c *wire.Conn, req wire.FullSyncRequest, b *backup) error
}

// fullKind copies the whole volume, and begins a chain of diffs at gid 0.
var fullKind = backupKind{
	command: "full-bkp", protocol: wire.ProtoFullSync, via: fsm.StorageFullSync,
	send: func(ctx context.Context, c *wire.Conn, req wire.FullSyncRequest, b *backup) error {
		return transfer.SendFullBackup(ctx, c, req, b, transfer.Options{})
	},
}

// hashKind sends what differs from the archive's latest image, and goes on
// with the chain that is there.
var hashKind = backupKind{
	command: "hash-bkp", protocol: wire.ProtoHashSync, via: fsm.StorageHashSync,
	send: func(ctx context.Context, c *wire.Conn, req wire.FullSyncRequest, b *backup) error {
		return transfer.SendHashBackup(ctx, c, req, b, transfer.Options{})
	},
}

// backup makes the command for a kind of backup, which brings a volume to the
// archive, and ships its log from then on: words volume and bulk size. It
// answers when the archive has accepted.
func (s *Server) backup(kind backupKind) func(context.Context, *server.Request, []string) error {
	return func(ctx context.Context, r *server.Request, words []string) error {
		return s.backUp(ctx, r, words, kind)
	}
}

func (s *Server) backUp(ctx context.Context, r *server.Request, words []string, kind backupKind) error {
	const name = "backupClient"
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	bulk, err := parseBulk(words[1:])
	if err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	breakable, done := v.breakable(ctx)
	defer done()
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	tx, err := v.sm.Begin(name, fsm.StorageSyncReady, kind.via, fsm.StorageStopped)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	b := &backup{s: s, v: v, r: r, kind: kind, watch: func() { s.watch(ctx, v) }}
	err = b.run(breakable, bulk)
	if err == nil {
		err = tx.Then(fsm.StorageStartTarget, fsm.StorageTarget)
	}
	if err == nil {
		err = v.storeState(fsm.StorageTarget)
	}
	if err != nil {
		b.abandon(context.WithoutCancel(ctx), err)
		return err
	}
	tx.Commit()
	s.tasks.PushForce(v.name, 0)
	r.Log.Info(kind.command + " succeeded:" + v.name)
	return nil
}

// abandon ends what the backup began, and waits for it: no shipment may come
// to its end when the log has begun yet another life.
func (b *backup) abandon(ctx context.Context, cause error) {
	b.s.unwatch(b.v)
	b.v.breakOff(cause)
	_ = b.v.sm.Wait(ctx, func(view fsm.View[fsm.StorageState]) bool { return len(view.Running) == 0 }) // ctx does not end
}

// parseBulk reads the optional bulk size of a backup command.
func parseBulk(words []string) (block.LB, error) {
	if len(words) == 0 {
		return transfer.DefaultBulk, nil
	}
	if words[0] == "" {
		return 0, server.Refusef(walberr.Usage, "Invalid argument.")
	}
	size, err := block.ParseSize(words[0])
	if err != nil {
		return 0, server.Refusef(walberr.Usage, "Invalid suffix charactor.") //nolint:misspell // the original's words
	}
	switch {
	case size < block.Size:
		return 0, server.Refusef(walberr.Range, "parseBackupParam:too small size:%d", size)
	case size > transfer.MaxBulk.Bytes():
		return 0, server.Refusef(walberr.Range, "parseBackupParam:too large size:%d", size)
	}
	return block.FromBytes(size), nil
}

// backup is one backup on its way. It is the transfer's BackupSource and
// HashBackupSource.
type backup struct {
	s     *Server
	v     *volume
	r     *server.Request
	kind  backupKind
	watch func() // watches the device as long as the server runs
}

func (b *backup) run(ctx context.Context, bulk block.LB) error {
	conn, err := b.s.dial(ctx, b.s.cfg.Archive, b.kind.protocol)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // how the backup ended is known by then
	b.v.mu.Lock()
	size := b.v.dev.Size()
	b.v.mu.Unlock()
	req := wire.FullSyncRequest{
		HostType: wire.HostStorage, Volume: b.v.name, Size: size, Timestamp: b.s.now(),
		Bulk: bulk, Compress: b.s.cfg.Compress,
	}
	err = b.kind.send(ctx, conn, req, b)
	var refusal *wire.Refusal
	if errors.As(err, &refusal) && !b.r.Replied() {
		return server.Refusef(walberr.BadState, "backupClient:not accepted by archive:%s:%s", refusal.Server, refusal.Text)
	}
	return err
}

// Accepted lets the controller go: the rest happens without it.
func (b *backup) Accepted(context.Context) error { return b.r.Accept() }

// ResetLog begins the log life that belongs to this backup.
func (b *backup) ResetLog(ctx context.Context) (meta.UUID, error) { return b.ResetLogAt(ctx, 0) }

// ResetLogAt begins it at a gid.
func (b *backup) ResetLogAt(ctx context.Context, gid meta.Gid) (meta.UUID, error) {
	return b.v.resetLog(ctx, gid, b.s.now())
}

// Begun starts to ship what is written while the volume is scanned.
func (b *backup) Begun(context.Context) error {
	b.watch()
	return nil
}

// Source is the device, read at no more than the full scan limit.
func (b *backup) Source(ctx context.Context) (transfer.BlockSource, error) {
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	return &throttled{Disk: b.v.dev, limit: b.s.fullScan, now: b.s.cfg.Now, stopped: ctx.Done()}, nil
}

// Snapshot marks the point from which the backup is clean.
func (b *backup) Snapshot(ctx context.Context) (meta.Gid, error) {
	gid, err := b.takeSnapshot(ctx)
	if err != nil {
		return 0, fmt.Errorf("snapshot at the end of the backup: %w", err)
	}
	b.s.tasks.PushForce(b.v.name, 0)
	return gid, nil
}

func (b *backup) takeSnapshot(ctx context.Context) (meta.Gid, error) {
	if err := b.v.flush(ctx); err != nil {
		return 0, err
	}
	b.v.mu.Lock()
	defer b.v.mu.Unlock()
	return b.v.takeSnapshot(b.s.cfg.MaxWlogMB, b.s.now())
}

// maxScanPause is the longest pause of a scan between two bulks, whatever the
// limit: the archive must not take the storage for dead.
const maxScanPause = time.Second

// throttled is a device that is read no faster than a limit.
type throttled struct {
	wdev.Disk
	limit   func() block.LB // per second, 0 is none; asked for every read
	now     func() time.Time
	stopped <-chan struct{} // closed when the backup gives up

	ready time.Time // when the next read may begin
}

// ReadAt reads when its turn has come, or at once when nobody wants the
// result. It is called from one goroutine.
func (t *throttled) ReadAt(p []byte, off int64) (int, error) {
	limit, now := t.limit(), t.now()
	if limit == 0 {
		return t.Disk.ReadAt(p, off)
	}
	pause := min(t.ready.Sub(now), maxScanPause)
	if pause > 0 {
		turn := time.NewTimer(pause)
		defer turn.Stop()
		select {
		case <-turn.C:
		case <-t.stopped:
		}
		now = now.Add(pause)
	}
	n := float64(block.CeilBytes(int64(len(p))))
	t.ready = now.Add(time.Duration(n / float64(limit) * float64(time.Second)))
	return t.Disk.ReadAt(p, off)
}
