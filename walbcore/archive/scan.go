package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// scanAttempts is how often a scan is begun whose diffs are replaced before
// they are open.
const scanAttempts = 10

// scanRequest is a parsed bhash or virt-full-scan command.
type scanRequest struct {
	gid  meta.Gid
	bulk block.LB
	size block.LB // 0: all
	pct  int      // of the time to rest
}

// parseScan reads the words behind the volume: gid, and optionally bulk size,
// how much to scan, and the percentage of time to rest.
func parseScan(name string, words []string) (scanRequest, error) {
	req := scanRequest{bulk: transfer.DefaultBulk}
	gid, err := meta.ParseGid(words[0])
	if err != nil {
		return req, err
	}
	req.gid = gid
	for i, word := range words[1:min(len(words), 4)] {
		if i == 2 {
			n, err := strconv.ParseUint(word, 10, 64)
			if err != nil {
				return req, server.Refusef(walberr.Usage, "atoi::convertToUint:%s", word[:min(len(word), 16)])
			}
			if n > 99 {
				return req, server.Refusef(walberr.Range, "%s:scanSleepPct must be within from 0 to 99.:%d", name, n)
			}
			req.pct = int(n)
			continue
		}
		bytes, err := sizeWord(word)
		if err != nil {
			return req, err
		}
		if i == 1 {
			req.size = block.FromBytes(bytes)
			continue
		}
		req.bulk = block.FromBytes(bytes)
		switch {
		case req.bulk == 0:
			return req, server.Refusef(walberr.Range, "parseBulkLb:too small size:%d", bytes)
		case req.bulk > transfer.MaxBulk:
			return req, server.Refusef(walberr.Range, "parseBulkLb:too large size:%d:%d", transfer.MaxBulk.Bytes(), req.bulk)
		}
	}
	return req, nil
}

// scan is a snapshot of a volume that is read from front to back, from base and
// diffs. Nothing is kept out meanwhile: what is applied up to the snapshot is
// under the records of the scan; that something newer is applied, or that the
// volume begins another life, is seen by intact.
type scan struct {
	layers
	size block.LB
	read *wdiff.Scan
}

// layers are what a snapshot is read from.
type layers struct {
	v       *volume
	gid     meta.Gid
	archive meta.UUID // lineage of the base image
	base    image.Image
	diffs   *openDiffs
}

// openScan begins to read a snapshot, up to size blocks.
func (s *Server) openScan(ctx context.Context, v *volume, gid meta.Gid, size block.LB) (*scan, error) {
	l, err := s.openLayers(ctx, v, gid)
	if err != nil {
		return nil, err
	}
	recs := l.diffs.merged(wdiff.DefaultMaxBlocks)
	return &scan{layers: l, size: size, read: wdiff.NewScan(&sparse{ctx: ctx, img: l.base}, size, recs)}, nil
}

// openLayers opens what a snapshot is read from. Where a diff was replaced when
// it was about to be opened, it begins again with the new list.
func (s *Server) openLayers(ctx context.Context, v *volume, gid meta.Gid) (layers, error) {
	for attempt := 1; ; attempt++ {
		l, err := s.tryOpenLayers(v, gid)
		if err == nil || attempt == scanAttempts || !walberr.Is(err, walberr.NotFound) || ctx.Err() != nil {
			return l, err
		}
	}
}

func (s *Server) tryOpenLayers(v *volume, gid meta.Gid) (layers, error) {
	f := v.facts()
	var list []meta.Diff
	var ok bool
	f.view(func(m *meta.Manager) { list, ok = m.ListToScan(f.base, gid, s.cfg.MaxOpenVirt) })
	if !ok {
		return layers{}, server.Refusef(walberr.BadState, "operator():snapshot can not be materialized:%s:|%d|", v.name, gid)
	}
	img, err := v.images.Open(v.name)
	if err != nil {
		return layers{}, err
	}
	o, err := v.openDiffs(list)
	if err != nil {
		return layers{}, errors.Join(err, img.Close())
	}
	return layers{v: v, gid: gid, archive: f.archiveUUID, base: img, diffs: o}, nil
}

// Close closes them.
func (l *layers) Close() error { return errors.Join(l.base.Close(), l.diffs.Close()) }

// next reads the next piece into p. io.EOF is the end.
func (c *scan) next(p []byte) (int, error) {
	n, err := io.ReadFull(c.read, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err == nil {
		err = c.v.stillHolds(c.archive, c.gid)
	}
	return n, err
}

// stillHolds fails when the base image is another one, or has come, or may have
// come, beyond gid: what was read of it since cannot be trusted.
func (v *volume) stillHolds(archive meta.UUID, gid meta.Gid) error {
	f := v.facts()
	at := f.base.B.B
	if f.base.Applying {
		at = f.base.E.B
	}
	readable := append(fsm.ArchiveActive(), fsm.ArchiveStop, fsm.ArchiveStopped, fsm.ArchiveStart)
	if at <= gid && f.archiveUUID == archive && slices.Contains(readable, v.sm.State()) {
		return nil
	}
	return &walberr.Error{
		Op: "read snapshot", Volume: v.name, Code: walberr.BadState, Found: "the base image is at " + f.base.String() + " now",
		Expected: fmt.Sprintf("not beyond gid %d", gid), Hint: "see get restorable",
	}
}

// sparse reads an image and spares its holes. It is for reading from front to
// back, by one goroutine.
type sparse struct {
	ctx  context.Context //nolint:containedctx // of the one scan that it is for
	img  image.Image
	from block.LB    // everything from here to data is a hole
	data block.Range // valid if known
	know bool
}

// ReadAt implements [io.ReaderAt], for whole blocks inside the image.
func (r *sparse) ReadAt(p []byte, off int64) (int, error) {
	pos, end := block.FromBytes(off), block.FromBytes(off+int64(len(p)))
	for at := pos; at < end; {
		if !r.know || at < r.from || at >= r.data.End() && r.data.Len > 0 {
			data, err := r.img.NextData(r.ctx, at)
			if err != nil {
				return int((at - pos).Bytes()), err
			}
			r.from, r.data, r.know = at, data, true
		}
		to := end
		if r.data.Len > 0 {
			to = min(end, r.data.End())
			if at < r.data.Addr {
				to = min(end, r.data.Addr)
			}
		}
		part := p[(at - pos).Bytes():(to - pos).Bytes()]
		if r.data.Len == 0 || at < r.data.Addr {
			clear(part)
		} else if n, err := r.img.ReadAt(part, at.Bytes()); n < len(part) {
			return int((at - pos).Bytes()) + n, err
		}
		at = to
	}
	return len(p), nil
}

// beatEvery is how often a peer that waits for a hash hears of us.
const beatEvery = time.Second

// blockHash computes the block hash of a snapshot: words volume, gid, and
// optionally bulk size, how much to scan, and a number that has no effect. What
// fails behind "accept" is told behind the end byte, at the place of "ok".
func (s *Server) blockHash(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aBlockHashServer"
	if err := server.RequireWords(words, 2); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	req, err := parseScan("parseBlockHashParam", words[1:])
	if err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveActive()...); err != nil {
		return err
	}
	if err := r.Reply(wire.Accept); err != nil {
		return err
	}
	work, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	hash, failure := s.hashSnapshot(work, v, req, func() error {
		r.W.U8(wire.CtlDummy)
		return r.Flush()
	})
	if failure != nil && work.Err() != nil {
		failure = server.Refusef(walberr.Stopped, "%s:force stopped:%s", name, v.name)
	}
	r.W.U8(wire.CtlEnd)
	if failure != nil {
		r.W.Str(wire.RefusalText(failure))
		return errors.Join(failure, r.Finish())
	}
	r.W.Str(wire.OK)
	r.W.Raw(hash[:])
	return r.Finish()
}

// hashSnapshot computes the hash, and calls beat about once a second.
func (s *Server) hashSnapshot(ctx context.Context, v *volume, req scanRequest, beat func() error) (sum checksum.Hash, err error) {
	size, err := v.images.Size(v.name)
	if err != nil {
		return sum, err
	}
	if req.size > size {
		return sum, server.Refusef(walberr.Range, "getBlockHash:Specified device size is too large:%d:%d", req.size, size)
	}
	if req.size > 0 {
		size = req.size
	}
	sc, err := s.openScan(ctx, v, req.gid, size)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, sc.Close()) }()
	hash := checksum.NewBulks(int(req.bulk.Bytes()), 0)
	p := make([]byte, req.bulk.Bytes())
	for last := time.Now(); ; {
		if ctx.Err() != nil {
			return sum, context.Cause(ctx)
		}
		n, err := sc.next(p)
		if errors.Is(err, io.EOF) {
			return hash.Sum(), nil
		}
		if err != nil {
			return sum, err
		}
		_, _ = hash.Write(p[:n]) // cannot fail
		if time.Since(last) >= beatEvery {
			if err := beat(); err != nil {
				return sum, err
			}
			last = time.Now()
		}
	}
}

// goodbye is how long a broken off scan may take to tell its client.
const goodbye = 500 * time.Millisecond

// virtFullScan sends a snapshot: words volume, gid, and optionally bulk size,
// how much to send, and the percentage of time to rest.
func (s *Server) virtFullScan(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aVirtualFullScan"
	if err := server.RequireWords(words, 2); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	req, err := parseScan("parseVirtualFullScanParam", words[1:])
	if err != nil {
		return err
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	if err := v.sm.VerifyState(name, fsm.ArchiveActive()...); err != nil {
		return err
	}
	if err := r.Reply(wire.Accept); err != nil {
		return err
	}
	work, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	late, release2 := after(work, goodbye)
	defer release2()
	defer r.Bind(late)()
	err = s.sendScan(work, r, v, req)
	if err != nil && work.Err() != nil {
		r.W.U8(wire.CtlError)
		_ = r.Flush() // it is over anyway
	}
	s.logEnd(fmt.Sprintf("virt-full-scan of %d", req.gid), v, err)
	return err
}

// after gives a context that ends d after ctx. The returned function must be
// called; it waits for the watcher.
func after(ctx context.Context, d time.Duration) (context.Context, func()) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-ctx.Done():
			if pause(late, d) == nil {
				cancel(context.Cause(ctx))
			}
		case <-late.Done():
		}
	}()
	return late, func() {
		cancel(context.Canceled)
		<-watched
	}
}

// sendScan sends size, pieces and end, and waits until the client has them.
func (s *Server) sendScan(ctx context.Context, r *server.Request, v *volume, req scanRequest) (err error) {
	size, err := v.images.Size(v.name)
	if err != nil {
		return err
	}
	if req.size > size {
		return server.Refusef(walberr.Range, "virtualFullScanServer:Specified size is too large:%d:%d", req.size, size)
	}
	if req.size > 0 {
		size = req.size
	}
	r.W.U64(uint64(size))
	if err := r.Flush(); err != nil {
		return err
	}
	sc, err := s.openScan(ctx, v, req.gid, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sc.Close()) }()
	pace := newPace(req.pct)
	p, enc := make([]byte, req.bulk.Bytes()), []byte(nil)
	for {
		if err := pace.rest(ctx); err != nil {
			return err
		}
		n, err := sc.next(p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		r.W.U8(wire.CtlNext)
		if block.IsZero(p[:n]) {
			r.W.U64(0)
			continue
		}
		if enc, err = compress.Compress(enc, p[:n], compress.Snappy, 0); err != nil {
			return err
		}
		r.W.U64(uint64(len(enc)))
		r.W.Raw(enc)
		if err := r.W.Err(); err != nil {
			return err
		}
	}
	r.W.U8(wire.CtlEnd)
	if err := r.Flush(); err != nil {
		return err
	}
	r.R.Ack()
	if err := r.R.Err(); err != nil {
		return err
	}
	r.W.Str(wire.OK)
	return r.Finish()
}
