package wdiff

import (
	"context"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// Scan reads a base image with diffs laid over it from front to back, as it
// would read after they were applied: all-zero and discard records read as
// zeros. It holds one record of each diff and the images of a Loader, however
// large image and diffs are; where any block is wanted at any time there is
// [VirtualImage]. It does not own the base nor the files. Not safe for
// concurrent use.
type Scan struct {
	base io.ReaderAt
	size block.LB
	recs Stream
	load *Loader
	pos  block.LB
	rec  Record // the next one that ends behind pos; valid if have
	have bool
	end  bool // there are no further records
}

// NewScan begins a scan of an image of size blocks; recs are the records over
// it, merged ([Merge]). Parts of records beyond the size are left out.
func NewScan(base io.ReaderAt, size block.LB, recs Stream) *Scan {
	return &Scan{base: base, size: size, recs: recs, load: NewLoader(DefaultCache)}
}

// Read fills p, whose length is a multiple of 512, with the next blocks. It is
// short only at the end of the image, and then io.EOF.
func (s *Scan) Read(p []byte) (int, error) {
	if len(p)%block.Size != 0 {
		return 0, &walberr.Error{
			Op: "scan image", Code: walberr.Range, Found: fmt.Sprintf("%d bytes", len(p)), Expected: "a multiple of 512",
		}
	}
	n := 0
	for n < len(p) && s.pos < s.size {
		if err := s.advance(); err != nil {
			return n, err
		}
		end := min(s.size, s.pos+block.FromBytes(int64(len(p)-n)))
		inside := s.have && s.rec.Addr <= s.pos
		switch {
		case inside:
			end = min(end, s.rec.End())
		case s.have:
			end = min(end, s.rec.Addr)
		}
		part := p[n:][:(end - s.pos).Bytes()]
		var err error
		if inside {
			err = s.load.Read(part, s.rec, s.pos-s.rec.Addr)
		} else {
			err = readBase(s.base, part, s.pos)
		}
		if err != nil {
			return n, err
		}
		n += len(part)
		s.pos = end
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// DataFinder knows where an image may hold data; image.Image is one.
type DataFinder interface {
	// NextData finds the first range at or behind from that may hold
	// anything but zeros. At the end the range is empty.
	NextData(ctx context.Context, from block.LB) (block.Range, error)
}

// SkipZeros passes over the blocks that surely read as zeros from here on:
// those of all-zero and discard records, and where no record lies the holes
// of the base. It gives their number, which is 0 where data may come next.
func (s *Scan) SkipZeros(ctx context.Context, base DataFinder) (block.LB, error) {
	from := s.pos
	for s.pos < s.size {
		if err := s.advance(); err != nil {
			return s.pos - from, err
		}
		end := s.size
		if s.have && s.rec.Addr <= s.pos {
			if s.rec.Kind == Normal {
				break
			}
			s.pos = min(end, s.rec.End())
			continue
		}
		if s.have {
			end = min(end, s.rec.Addr)
		}
		data, err := base.NextData(ctx, s.pos)
		if err != nil {
			return s.pos - from, err
		}
		if data.Len > 0 {
			end = min(end, data.Addr)
		}
		if end == s.pos {
			break
		}
		s.pos = end
	}
	return s.pos - from, nil
}

// advance takes the record that covers pos or comes behind it.
func (s *Scan) advance() error {
	for !s.end && (!s.have || s.rec.End() <= s.pos) {
		r, err := s.recs.Next()
		if errors.Is(err, io.EOF) {
			s.have, s.end = false, true
			return nil
		}
		if err != nil {
			return err
		}
		s.rec, s.have = r, true
	}
	return nil
}
