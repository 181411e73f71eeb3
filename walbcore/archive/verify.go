package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

const (
	verifyChunk = 1 << 20 // bytes of the base image that are read at a time
	verifyBlock = 4096    // bytes; a chunk that cannot be read is read again in these
)

// verify reads all that there is of a volume: words volume and bytes a second.
// Nothing is kept out meanwhile. A diff that is removed before it is read is
// left out; one that comes later is not looked at.
func (s *Server) verify(ctx context.Context, r *server.Request) error {
	const name = "walbsh-verify"
	words, err := r.Words(ctx)
	if err != nil {
		return err
	}
	if err := server.ExactWords(name, words, 2); err != nil {
		return err
	}
	rate, err := meta.ParseGid(words[1]) // a number like others
	if err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, append(fsm.ArchiveActive(), fsm.ArchiveStopped)...); err != nil {
		return err
	}
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	ctx, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	w := &verifier{v: v, r: r, rate: uint64(rate), began: time.Now(), beat: time.Now()}
	if err := w.run(ctx); err != nil {
		r.W.U8(wire.CtlError)
		r.W.Str(wire.RefusalText(err))
		return errors.Join(err, r.Flush())
	}
	if err := w.tell(); err != nil {
		return err
	}
	s.cfg.Log.Info(fmt.Sprintf("verify found %d faults:%s", w.faults, v.name))
	r.W.U8(wire.CtlEnd)
	return r.Finish()
}

// verifier is one run.
type verifier struct {
	v      *volume
	r      *server.Request
	rate   uint64 // bytes a second, 0 = no limit
	began  time.Time
	beat   time.Time // when the client heard of us last
	done   uint64    // bytes
	total  uint64
	faults int
}

func (w *verifier) run(ctx context.Context) error {
	f := w.v.facts()
	diffs := f.diffs.All()
	hurts := f.dependants()
	img, err := w.v.images.Open(w.v.name)
	if err != nil {
		return err
	}
	defer func() { _ = img.Close() }() // nothing was written
	w.total = uint64(img.Size().Bytes()) + meta.TotalSize(diffs)
	if err := w.base(ctx, img, hurts(nil)); err != nil {
		return err
	}
	for _, d := range diffs {
		if err := w.diff(ctx, f.diffs, d, img.Size(), hurts(&d)); err != nil {
			return err
		}
	}
	return nil
}

// dependants gives the function that lists the restorable snapshots that need
// a diff, or, of nil, the base image.
func (f facts) dependants() func(d *meta.Diff) []meta.Gid {
	var all []meta.Gid
	behind := map[[2]meta.Snap]meta.Gid{} // of each diff on the way: the snapshot that it leads to
	f.view(func(m *meta.Manager) {
		for _, r := range m.Restorable(f.base, true) {
			all = append(all, r.Gid)
		}
		for _, d := range m.ApplicableList(f.base.B) {
			behind[[2]meta.Snap{d.B, d.E}] = d.E.B
		}
	})
	return func(d *meta.Diff) []meta.Gid {
		first := meta.Gid(0)
		if d != nil {
			gid, onTheWay := behind[[2]meta.Snap{d.B, d.E}]
			if !onTheWay {
				return nil
			}
			first = gid
		}
		for i, gid := range all {
			if gid >= first {
				return all[i:]
			}
		}
		return nil
	}
}

// base reads the base image. Holes are sound.
func (w *verifier) base(ctx context.Context, img image.Image, hurts []meta.Gid) error {
	buf := make([]byte, verifyChunk)
	for pos := block.LB(0); pos < img.Size(); {
		data, err := img.NextData(ctx, pos)
		if err != nil {
			return err
		}
		if data.Len == 0 {
			data.Addr = img.Size()
		}
		w.done += uint64((data.Addr - pos).Bytes())
		for pos = data.Addr; pos < data.End(); {
			n := min(data.End()-pos, verifyChunk/block.Size)
			if err := w.chunk(img, buf[:n.Bytes()], pos, hurts); err != nil {
				return err
			}
			pos += n
			if err := w.step(ctx, uint64(n.Bytes())); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunk reads a part of the base image, and tells which blocks it could not.
func (w *verifier) chunk(img io.ReaderAt, p []byte, pos block.LB, hurts []meta.Gid) error {
	if _, err := img.ReadAt(p, pos.Bytes()); err == nil {
		return nil
	}
	bad := wire.Fault{What: wire.FaultBase, Hurts: hurts}
	for len(p) > 0 {
		part := p[:min(len(p), verifyBlock)]
		n := block.FromBytes(int64(len(part)))
		_, err := img.ReadAt(part, pos.Bytes())
		switch {
		case err != nil && bad.Blocks > 0:
			bad.Blocks += n
		case err != nil:
			bad.Addr, bad.Blocks, bad.Error = pos, n, err.Error()
		case bad.Blocks > 0:
			if err := w.fault(bad); err != nil {
				return err
			}
			bad.Blocks = 0
		}
		p, pos = p[len(part):], pos+n
	}
	if bad.Blocks > 0 {
		return w.fault(bad)
	}
	return nil
}

// diff reads a diff: its structure, the checksums, and whether the data expand.
func (w *verifier) diff(ctx context.Context, store *diffstore.Store, d meta.Diff, size block.LB, hurts []meta.Gid) error {
	f, err := store.OpenFile(d)
	if walberr.Is(err, walberr.NotFound) {
		w.total -= d.Size
		return nil
	}
	end := w.done + d.Size // heads, and what cannot be read, count too
	defer func() { w.done = end }()
	whole := wire.Fault{What: d.FileName(), Blocks: size, Hurts: hurts}
	if err != nil {
		whole.Error = err.Error()
		return w.fault(whole)
	}
	defer func() { _ = f.Close() }() // nothing was written
	file, err := wdiff.Open(f.Name(), f, int64(f.Diff.Size))
	if err != nil {
		whole.Error = err.Error()
		return w.fault(whole)
	}
	return w.records(ctx, file, whole)
}

func (w *verifier) records(ctx context.Context, file *wdiff.File, rest wire.Fault) error {
	recs, load, size := file.Records(), wdiff.NewLoader(wdiff.DefaultCache), rest.Blocks
	var buf []byte
	for {
		r, err := recs.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			rest.Error = err.Error()
			return w.fault(rest)
		}
		if r.Kind == wdiff.Normal {
			if n := int(r.Blocks.Bytes()); cap(buf) < n {
				buf = make([]byte, n)
			}
			err = load.Read(buf[:r.Blocks.Bytes()], r, 0)
		}
		if err == nil && r.End() > size {
			err = fmt.Errorf("the record reaches beyond the volume of %d blocks", size)
		}
		if err != nil {
			bad := rest
			bad.Addr, bad.Blocks, bad.Error = r.Addr, r.Blocks, err.Error()
			if err := w.fault(bad); err != nil {
				return err
			}
		}
		rest.Addr = r.End()
		rest.Blocks = max(size, r.End()) - r.End()
		if err := w.step(ctx, uint64(r.Image.Size)); err != nil {
			return err
		}
	}
}

// fault tells the client of one.
func (w *verifier) fault(f wire.Fault) error {
	w.faults++
	w.r.W.U8(wire.CtlNext)
	w.r.W.Str(f.String())
	return w.r.Flush()
}

// step counts what was read, keeps to the rate, and tells the client now and
// then.
func (w *verifier) step(ctx context.Context, n uint64) error {
	w.done = min(w.done+n, w.total)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for {
		if time.Since(w.beat) >= beatEvery {
			if err := w.tell(); err != nil {
				return err
			}
		}
		if w.rate == 0 {
			return nil
		}
		ahead := time.Duration(float64(w.done)/float64(w.rate)*float64(time.Second)) - time.Since(w.began)
		if ahead < time.Millisecond {
			return nil
		}
		if err := pause(ctx, min(ahead, beatEvery)); err != nil {
			return err
		}
	}
}

// tell tells the client how far it is.
func (w *verifier) tell() error {
	w.beat = time.Now()
	w.r.W.U8(wire.CtlDummy)
	w.r.W.U64(w.done)
	w.r.W.U64(w.total)
	return w.r.Flush()
}
