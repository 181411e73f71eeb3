package embed

import (
	"context"
	"errors"
	"fmt"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/group"
	"walbsh/walbcore/walberr"
)

// prepare brings the volume to where a0 can restore a clean snapshot of it. It
// looks at the facts, so that it goes on where an earlier one was interrupted.
func (g *Group) prepare(ctx context.Context) (err error) {
	ops, err := group.New(g.layout, group.Options{ID: "embed"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ops.Close(context.WithoutCancel(ctx))) }()
	if err := g.backUp(ctx, ops); err != nil {
		return &walberr.Error{
			Op: "open group", Volume: g.volume, Code: walberr.CodeOf(err),
			Found: "the first full backup failed", Err: err,
			Hint: fmt.Sprintf("the logs in %s say more; --bare opens the group without touching the volume", g.dir),
		}
	}
	return nil
}

func (g *Group) backUp(ctx context.Context, ops *group.Group) error {
	s0, a0 := g.layout.Storages[0], g.layout.Archives[0]
	atStorage, err := ops.Client(s0).State(ctx, g.volume)
	if err != nil {
		return err
	}
	atArchive, err := ops.Client(a0).State(ctx, g.volume)
	if err != nil {
		return err
	}
	if atStorage == fsm.StorageClear.String() {
		if err := ops.InitStorage(ctx, s0, g.volume, g.Device()); err != nil {
			return err
		}
	}
	if atArchive == fsm.ArchiveClear.String() || atArchive == fsm.ArchiveSyncReady.String() {
		_, err = ops.FullBackup(ctx, s0, g.volume, group.FullBackupOptions{})
		return err
	}
	// An earlier backup was accepted, but nobody saw its end.
	_, err = ops.Snapshot(ctx, s0, g.volume, g.layout.Archives[:1], 0)
	return err
}
