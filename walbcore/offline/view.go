package offline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/image"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// Base is an image that is read; image.Image is one.
type Base interface {
	io.ReaderAt
	Size() block.LB
	wdiff.DataFinder
}

// OpenBase opens the image at path, a regular file.
func OpenBase(path string) (image.Image, error) {
	in, err := Open(path) // says what is wrong with it
	if err == nil {
		err = in.Close()
	}
	if err != nil {
		return nil, err
	}
	return image.OpenPath(path, false)
}

// Base takes the input for an image. Nothing is known about its holes.
func (in *Input) Base() (Base, error) {
	if in.Size == 0 || in.Size%block.Size != 0 {
		return nil, &walberr.Error{
			Op: "open image", Code: walberr.Range, Found: fmt.Sprintf("%s has %d bytes", in.Name, in.Size),
			Expected: fmt.Sprintf("one or more blocks of %d bytes", block.Size),
		}
	}
	return inputBase{in}, nil
}

type inputBase struct{ *Input }

func (b inputBase) Size() block.LB { return block.FromBytes(b.Input.Size) }

// NextData implements [wdiff.DataFinder].
func (b inputBase) NextData(_ context.Context, from block.LB) (block.Range, error) {
	return block.Range{Addr: from, Len: b.Size() - from}, nil
}

// View is an image with diffs laid over it, the oldest first, as it would read
// after they were applied with discards as zeros. It is read once, from front
// to back.
type View struct {
	base  Base
	scan  *wdiff.Scan
	meter *Meter // of the image's bytes; nil counts nothing
}

// NewView lays the diffs over the base. A record that covers the first block
// behind the base is refused with the code Range: the base is not the one that
// the diffs belong to. What lies wholly behind it is left out.
func NewView(ctx context.Context, base Base, diffs []*Input, meter *Meter) (*View, error) {
	streams := make([]wdiff.Stream, len(diffs))
	for i, in := range diffs {
		f, err := in.diff()
		if err == nil {
			err = checkFits(ctx, f, base.Size())
		}
		if err != nil {
			return nil, err
		}
		streams[i] = bound(ctx, f.Records())
	}
	return &View{base: base, meter: meter, scan: wdiff.NewScan(base, base.Size(), wdiff.Merge(0, streams...))}, nil
}

func checkFits(ctx context.Context, f *wdiff.File, size block.LB) error {
	for recs := bound(ctx, f.Records()); ; {
		r, err := recs.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case r.Addr <= size && r.End() > size:
			return &walberr.Error{
				Op: "lay " + f.Name() + " over an image", Code: walberr.Range, Found: fmt.Sprintf("record %d+%d", r.Addr, r.Blocks),
				Expected: fmt.Sprintf("blocks below the image's %d", size),
			}
		}
	}
}

// Size is the size of the image.
func (v *View) Size() block.LB { return v.base.Size() }

// read goes through the image: zeros is called for blocks that surely are
// zeros, and counts them; data for the others, with bytes that are valid
// during the call.
func (v *View) read(ctx context.Context, zeros func(n block.LB) error, data func(p []byte) error) error {
	buf := make([]byte, chunkSize)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := v.scan.SkipZeros(ctx, v.base)
		if err == nil && n > 0 {
			err = zeros(n)
		}
		if err != nil {
			return err
		}
		got, err := v.scan.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		v.meter.Add(int64(got))
		if err := data(buf[:got]); err != nil {
			return err
		}
	}
}

// WriteTo writes the image to w.
func (v *View) WriteTo(ctx context.Context, w io.Writer) error {
	empty := make([]byte, chunkSize)
	write := func(p []byte) error {
		_, err := w.Write(p)
		return err
	}
	return v.read(ctx, func(n block.LB) error {
		for left := n.Bytes(); left > 0; left -= chunkSize {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(left, chunkSize)
			if err := write(empty[:n]); err != nil {
				return err
			}
			v.meter.Add(n)
		}
		return nil
	}, write)
}

// WriteFile makes the image a sparse file at path, as [WriteFile] does.
func (v *View) WriteFile(ctx context.Context, path string) error {
	return replaceFile(path, func(f *vfs.TempFile) error {
		if err := f.Truncate(v.Size().Bytes()); err != nil {
			return err
		}
		at := int64(0)
		return v.read(ctx, func(n block.LB) error {
			at += n.Bytes()
			v.meter.Add(n.Bytes())
			return nil
		}, func(p []byte) error {
			err := writeData(f, p, at)
			at += int64(len(p))
			return err
		})
	})
}

// sparseUnit is how large a hole is at least [bytes].
const sparseUnit = 64 << 10

// writeData writes p at an offset of a file of zeros, without the zeros.
func writeData(f io.WriterAt, p []byte, at int64) error {
	for len(p) > 0 {
		n := min(len(p), sparseUnit)
		if !block.IsZero(p[:n]) {
			if _, err := f.WriteAt(p[:n], at); err != nil {
				return err
			}
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// ImageHash is what identifies the content of an image.
type ImageHash struct {
	Size   block.LB
	SHA256 string // 64 hexadecimal digits
	Blocks string // block hash as of the archive's command bhash, 32 digits; "" if none was asked for
}

// MaxBulk is the largest size of bulks for a block hash.
const MaxBulk = 1 << 30 / block.Size

// Hash reads the image and hashes it. bulk is the size of the block hash's
// bulks, at most [MaxBulk]; 0 makes none.
func (v *View) Hash(ctx context.Context, bulk block.LB) (ImageHash, error) {
	if bulk > MaxBulk {
		return ImageHash{}, &walberr.Error{
			Op: "hash image", Code: walberr.Usage, Found: fmt.Sprintf("bulks of %d blocks", bulk), Expected: fmt.Sprintf("at most %d", uint64(MaxBulk)),
		}
	}
	sum := sha256.New()
	var w io.Writer = sum
	var bulks *checksum.Bulks
	if bulk > 0 {
		bulks = checksum.NewBulks(int(bulk.Bytes()), 0)
		w = io.MultiWriter(sum, bulks)
	}
	if err := v.WriteTo(ctx, w); err != nil {
		return ImageHash{}, err
	}
	h := ImageHash{Size: v.Size(), SHA256: hex.EncodeToString(sum.Sum(nil))}
	if bulks != nil {
		h.Blocks = bulks.Sum().String()
	}
	return h, nil
}
