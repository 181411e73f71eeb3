package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// snapshotImage is the image at a snapshot, to be compared: it is read once,
// from front to back. It is a transfer.SourceImage.
type snapshotImage struct {
	*scan
	pos       block.LB // everything before was read or passed over
	exclusive bool     // nobody else touches the volume, whatever its state is
	failed    bool     // it could not be read
}

// openSnapshot opens the image at a snapshot, clean or not.
func (s *Server) openSnapshot(ctx context.Context, v *volume, gid meta.Gid) (*snapshotImage, error) {
	size, err := v.images.Size(v.name)
	if err != nil {
		return nil, err
	}
	sc, err := s.openScan(ctx, v, gid, size)
	if err != nil {
		return nil, err
	}
	return &snapshotImage{scan: sc}, nil
}

// NextData passes over what reads as zeros. How far the data behind reaches is
// not looked for.
func (i *snapshotImage) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	if from > i.pos {
		return block.Range{}, i.outOfOrder(from)
	}
	n, err := i.read.SkipZeros(ctx, i.base)
	i.pos += n
	i.failed = i.failed || err != nil && ctx.Err() == nil
	if err != nil || i.pos == i.size {
		return block.Range{Addr: i.size}, err
	}
	return block.Range{Addr: i.pos, Len: 1}, i.check()
}

// check fails when what was read cannot be trusted.
func (i *snapshotImage) check() error {
	if i.exclusive {
		return nil
	}
	return i.v.stillHolds(i.archive, i.gid)
}

// ReadAt reads what comes next. The part of it that was passed over is zeros.
func (i *snapshotImage) ReadAt(p []byte, off int64) (int, error) {
	at := block.FromBytes(off)
	passed := (i.pos - min(i.pos, at)).Bytes()
	if at > i.pos || passed > int64(len(p)) {
		return 0, i.outOfOrder(at)
	}
	clear(p[:passed])
	if passed == int64(len(p)) {
		return len(p), nil
	}
	n, err := io.ReadFull(i.read, p[passed:])
	i.pos += block.FromBytes(int64(n))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		i.failed = true
		return int(passed) + n, err
	}
	return int(passed) + n, i.check()
}

func (i *snapshotImage) outOfOrder(at block.LB) error {
	return &walberr.Error{
		Op: "read snapshot", Volume: i.v.name, Code: walberr.Internal,
		Found: fmt.Sprintf("block %d", at), Expected: fmt.Sprintf("%d, from front to back", i.pos),
	}
}
