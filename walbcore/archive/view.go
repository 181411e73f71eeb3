package archive

import (
	"context"
	"errors"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// view is a snapshot that is read in any order, from base and diffs, while
// diffs come, are merged, and are applied up to it: it has its files open, and a
// claim on the base image. Safe for concurrent use. It is an nbd.Device.
type view struct {
	layers
	image   *wdiff.VirtualImage
	release func()
}

// openView opens a snapshot that could be restored. It takes as long as
// reading the heads of the records of the diffs that lead there.
func (s *Server) openView(ctx context.Context, name string, v *volume, gid meta.Gid) (*view, error) {
	release, err := v.claims.hold(name, v.name, gid)
	if err != nil {
		return nil, err
	}
	w, err := s.openClaimed(ctx, name, v, gid)
	if err != nil {
		release()
		return nil, err
	}
	w.release = release
	return w, nil
}

func (s *Server) openClaimed(ctx context.Context, name string, v *volume, gid meta.Gid) (*view, error) {
	if st := v.sm.State(); !isActive(st) {
		return nil, server.Refusef(walberr.BadState, "%s:bad state:%s:%s", name, v.name, st)
	}
	if _, ok := v.toRestore(gid); !ok {
		return nil, server.Refusef(walberr.NotFound, "verifyRestorable:bad gid to restore:%s:%d", v.name, gid)
	}
	l, err := s.openLayers(ctx, v, gid)
	if err != nil {
		return nil, err
	}
	image, err := wdiff.NewVirtualImage(l.base, l.base.Size(), l.diffs.diffs...)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &view{layers: l, image: image}, nil
}

// Close closes the files, and lets the base image go.
func (w *view) Close() error {
	defer w.release()
	return w.layers.Close()
}

// Size is the size of the volume when the snapshot was opened.
func (w *view) Size() block.LB { return w.image.Size() }

// ReadAt reads whole blocks. Should the base image have become another one in
// spite of the claim, as by a command for debugging, it says so instead of
// giving what is wrong.
func (w *view) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.image.ReadAt(p, off)
	if held := w.v.stillHolds(w.archive, w.gid); held != nil {
		return 0, held
	}
	return n, err
}

// NextData implements nbd.Device: holes are those of the base image, and what
// the diffs make zeros.
func (w *view) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	for pos := from; pos < w.Size(); {
		if ctx.Err() != nil {
			return block.Range{}, context.Cause(ctx)
		}
		rec, ok := w.image.NextRecord(pos)
		end := w.Size()
		switch {
		case ok && rec.Addr <= pos && rec.Kind == wdiff.Normal:
			return block.Range{Addr: pos, Len: rec.End() - pos}, nil
		case ok && rec.Addr <= pos:
			pos = rec.End()
			continue
		case ok:
			end = rec.Addr
		}
		data, err := w.base.NextData(ctx, pos)
		if err != nil {
			return block.Range{}, err
		}
		if data.Len > 0 && data.Addr < end {
			return block.Range{Addr: data.Addr, Len: min(data.End(), end) - data.Addr}, nil
		}
		pos = end
	}
	return block.Range{Addr: w.Size()}, nil
}
