package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// restoreRound is how many diffs are open at a time when the option MaxOpen
// does not say.
const restoreRound = 256

// round is how many diffs are open at a time for one piece of work.
func (s *Server) round() int {
	if s.cfg.MaxOpen > 0 {
		return s.cfg.MaxOpen
	}
	return restoreRound
}

// openDiffs are open diff files, oldest first.
type openDiffs struct {
	files []*diffstore.File
	diffs []*wdiff.File
}

// openDiffs opens diff files. One that is not listed any more makes an error
// of code NotFound.
func (v *volume) openDiffs(list []meta.Diff) (*openDiffs, error) {
	o := &openDiffs{}
	store := v.facts().diffs
	for _, d := range list {
		if err := o.open(store, d); err != nil {
			return nil, errors.Join(err, o.Close())
		}
	}
	return o, nil
}

func (o *openDiffs) open(store *diffstore.Store, d meta.Diff) error {
	f, err := store.OpenFile(d)
	if err != nil {
		return err
	}
	o.files = append(o.files, f)
	w, err := wdiff.Open(f.Name(), f, int64(f.Diff.Size))
	if err != nil {
		return err
	}
	o.diffs = append(o.diffs, w)
	return nil
}

// Close closes the files.
func (o *openDiffs) Close() error {
	var errs []error
	for _, f := range o.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// merged gives the records of all files, the newest over the others.
func (o *openDiffs) merged(limit block.LB) wdiff.Stream { return mergeFiles(limit, o.diffs) }

func mergeFiles(limit block.LB, files []*wdiff.File) wdiff.Stream {
	streams := make([]wdiff.Stream, len(files))
	for i, f := range files {
		streams[i] = f.Records()
	}
	return wdiff.Merge(limit, streams...)
}

// check reads the files to their ends: every record lies inside the image, and
// what is stored of it is what was written.
func (o *openDiffs) check(ctx context.Context, size block.LB) error {
	load := wdiff.NewLoader(0)
	var buf []byte
	for _, f := range o.diffs {
		recs, last := f.Records(), int64(-1)
		for {
			r, err := recs.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if err == nil && r.End() > size {
				err = server.Refusef(walberr.Range, "applyOpenedDiffs:out of range:%d:%d:%d", r.Addr, r.Blocks, size)
			}
			if err == nil && r.Kind == wdiff.Normal && r.Image.Offset != last {
				last = r.Image.Offset
				buf, err = load.Stored(r, buf)
			}
			if err != nil {
				return fmt.Errorf("check %s: %w", f.Name(), err)
			}
		}
	}
	return nil
}

// writing is one writing of diffs to an image.
type writing struct {
	img     image.Image
	discard wdiff.DiscardMode
	pace    *pace
	reached func(pos block.LB) // is told how far it is, may be nil
}

// write writes records to the image. It does not sync.
func (w writing) write(ctx context.Context, recs wdiff.Stream) error {
	_, err := wdiff.Apply(ctx, &paced{recs, ctx, w}, &flushing{Image: w.img}, wdiff.ApplyOptions{Size: w.img.Size(), Discard: w.discard})
	return err
}

// paced is a stream that rests now and then, and tells how far it is.
type paced struct {
	wdiff.Stream
	ctx context.Context //nolint:containedctx // of the one writing that it is for
	w   writing
}

// Next implements [wdiff.Stream].
func (p *paced) Next() (wdiff.Record, error) {
	if err := p.w.pace.rest(p.ctx); err != nil {
		return wdiff.Record{}, err
	}
	r, err := p.Stream.Next()
	if err == nil && p.w.reached != nil {
		p.w.reached(r.Addr)
	}
	return r, err
}

// flushEvery is how many bytes are written before they are sent to the disk.
const flushEvery = 8 << 20

// flushing is an image whose writing goes to the disk beside, so that the sync
// at the end, which nothing can interrupt, is short.
type flushing struct {
	image.Image

	mu        sync.Mutex
	from, to  int64 // what was written since lies between
	unflushed int64 // bytes
}

// WriteAt implements [image.Image].
func (f *flushing) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.Image.WriteAt(p, off)
	if err == nil {
		f.wrote(off, int64(n))
	}
	return n, err
}

func (f *flushing) wrote(off, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unflushed == 0 {
		f.from, f.to = off, off
	}
	f.from, f.to = min(f.from, off), max(f.to, off+n)
	if f.unflushed += n; f.unflushed >= flushEvery {
		f.WriteBack(f.from, f.to-f.from)
		f.unflushed = 0
	}
}
