package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// Readable is what an [Overlay] lies over: an image that is only read.
type Readable interface {
	io.ReaderAt
	Size() block.LB
	NextData(ctx context.Context, from block.LB) (block.Range, error)
}

// Overlay is a writable image over one that is never written: what is written
// goes to a sparse file without a name, which is gone when the overlay is
// closed, or with its process. It remembers which blocks are its own, in about
// 600 bytes of memory for each 2 MiB that are written to. Safe for concurrent use.
type Overlay struct {
	base Readable
	top  *file

	mu    sync.RWMutex           // held for writing while blocks change
	pages map[block.LB]*pageBits // by address / pageBlocks
	// all is the entry of pages that are the overlay's own as a whole, so that
	// large zeroed ranges take little memory. It never changes.
	all *pageBits
}

// pageBlocks is how many blocks one entry of the map is about: 2 MiB.
const pageBlocks = 4096

// pageBits has a bit for each block that is the overlay's own.
type pageBits [pageBlocks / 64]uint64

// NewOverlay makes an overlay, with its file in a directory. The base stays the
// caller's, who closes it later.
func NewOverlay(dir string, base Readable) (*Overlay, error) {
	f, err := nameless(dir)
	if err != nil {
		return nil, err
	}
	top := &file{f, base.Size()}
	if err := f.Truncate(base.Size().Bytes()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	o := &Overlay{base: base, top: top, pages: map[block.LB]*pageBits{}, all: new(pageBits)}
	for i := range o.all {
		o.all[i] = ^uint64(0)
	}
	return o, nil
}

// nameless makes a file in a directory that nothing is left of, whatever happens.
func nameless(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil || !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, unix.EISDIR) {
		return f, err
	}
	// The file system cannot do it, so the file has a name for a moment.
	if f, err = os.CreateTemp(dir, "tmp*"); err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Close throws away what was written.
func (o *Overlay) Close() error { return o.top.Close() }

// Size is the size of the base.
func (o *Overlay) Size() block.LB { return o.base.Size() }

// own reports whether the block at is the overlay's own, and where the run of
// blocks of the same kind ends, at the latest at end. The lock is held.
func (o *Overlay) own(at, end block.LB) (own bool, runEnd block.LB) {
	for pos := at; pos < end; {
		page, i := pos/pageBlocks, pos%pageBlocks
		bits := o.pages[page]
		next := pos + 1
		is := false
		switch bits {
		case nil:
			next = (page + 1) * pageBlocks
		case o.all:
			is, next = true, (page+1)*pageBlocks
		default:
			is = bits[i/64]>>(i%64)&1 == 1
		}
		if pos > at && is != own {
			return own, pos
		}
		own, pos = is, next
	}
	return own, end
}

// take makes blocks the overlay's own. The lock is held for writing.
func (o *Overlay) take(r block.Range) {
	for pos := r.Addr; pos < r.End(); {
		page, i := pos/pageBlocks, pos%pageBlocks
		bits := o.pages[page]
		switch whole := i == 0 && r.End()-pos >= pageBlocks; {
		case whole || bits == o.all:
			o.pages[page] = o.all
			pos = (page + 1) * pageBlocks
			continue
		case bits == nil:
			bits = new(pageBits)
			o.pages[page] = bits
		}
		bits[i/64] |= 1 << (i % 64)
		pos++
	}
}

// whole gives the blocks of a byte range, which must be whole ones inside.
func (o *Overlay) whole(op string, p []byte, off int64) (block.Range, error) {
	size := o.Size().Bytes()
	if off < 0 || off%block.Size != 0 || len(p)%block.Size != 0 || off > size || int64(len(p)) > size-off {
		return block.Range{}, &walberr.Error{
			Op: op + " overlay", Code: walberr.Range, Found: fmt.Sprintf("%d bytes at %d", len(p), off),
			Expected: fmt.Sprintf("whole blocks inside %d bytes", size),
		}
	}
	return block.Range{Addr: block.FromBytes(off), Len: block.FromBytes(int64(len(p)))}, nil
}

// ReadAt reads whole blocks inside the image.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	r, err := o.whole("read", p, off)
	if err != nil {
		return 0, err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for pos := r.Addr; pos < r.End(); {
		own, end := o.own(pos, r.End())
		from := io.ReaderAt(o.base)
		if own {
			from = o.top
		}
		part := p[(pos - r.Addr).Bytes():(end - r.Addr).Bytes()]
		if n, err := from.ReadAt(part, pos.Bytes()); n < len(part) {
			return int((pos - r.Addr).Bytes()) + n, err
		}
		pos = end
	}
	return len(p), nil
}

// WriteAt writes whole blocks inside the image.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	r, err := o.whole("write", p, off)
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if n, err := o.top.WriteAt(p, off); err != nil {
		return n, err
	}
	o.take(r)
	return len(p), nil
}

// Zero makes a range read as zeros.
func (o *Overlay) Zero(r block.Range) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.top.Zero(r); err != nil {
		return err
	}
	o.take(r)
	return nil
}

// Sync does nothing: what is written shall not outlive the process.
func (o *Overlay) Sync() error { return nil }

// window is how far NextData looks at a time: 1 GiB.
const window = 512 * pageBlocks

// NextData finds data as [Image] does.
func (o *Overlay) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	for pos := from; pos < o.Size(); {
		own, end := o.own(pos, min(o.Size(), pos+window))
		layer := o.base
		if own {
			layer = o.top
		}
		data, err := layer.NextData(ctx, pos)
		if err != nil {
			return block.Range{Addr: o.Size()}, err
		}
		if data.Len > 0 && data.Addr < end {
			return block.Range{Addr: data.Addr, Len: min(data.End(), end) - data.Addr}, nil
		}
		pos = end
	}
	return block.Range{Addr: o.Size()}, nil
}
