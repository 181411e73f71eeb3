package archive

import (
	"context"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Hash judges a hash round.
func (d *replDest) Hash(_ context.Context, req *wire.ReplHashRequest) error {
	d.hash = *req
	if err := d.checkSize(req.Size); err != nil {
		return err
	}
	if !d.at.CanApply(req.Diff) {
		return server.Refusef(walberr.BadState, "runHashReplServer:diff is not applicable:%s:%s", d.at, req.Diff)
	}
	return nil
}

// BeginHash opens our latest image, and makes the file that the differences go
// to.
func (d *replDest) BeginHash(ctx context.Context) (transfer.CompareSink, error) {
	compared, err := d.s.createCompared(ctx, d.v, d.at.B)
	if err != nil {
		return nil, err
	}
	compared.what, compared.diff = "hash replication", d.hash.Diff
	return &replHashSink{comparedSink: compared, d: d}, nil
}

// replHashSink takes the differences of a round in.
type replHashSink struct {
	comparedSink
	d *replDest
}

// Commit publishes the diff, and takes the source's log life as ours.
func (k *replHashSink) Commit(ctx context.Context) error {
	if err := k.comparedSink.Commit(ctx); err != nil {
		return err
	}
	if err := k.v.saveUUID(k.d.hash.UUID); err != nil {
		return err
	}
	k.v.learn(func(f *facts) { f.lastSync = k.s.now() })
	k.d.tx.Commit()
	return nil
}

// Close ends the round.
func (k *replHashSink) Close() error {
	err := k.comparedSink.Close()
	k.v.progress.Store(0)
	k.d.tx.Rollback()
	return err
}

// Snapshot opens the image at a snapshot, to be compared.
func (a *replSource) Snapshot(ctx context.Context, s meta.Snap) (transfer.SourceImage, error) {
	img, err := a.s.openSnapshot(ctx, a.v, s.B)
	if err != nil {
		return nil, err
	}
	return img, nil
}
