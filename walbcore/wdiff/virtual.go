package wdiff

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// VirtualImage is a base image with diffs laid over it, as it would read after
// they were applied: all-zero and discard records read as zeros. It keeps the
// heads of the merged records in memory, about 100 bytes each, and reads data
// when they are asked for. Safe for concurrent use if the base is. It does not
// own the base nor the files.
type VirtualImage struct {
	base io.ReaderAt
	size block.LB
	recs []Record
	load *Loader
}

// NewVirtualImage lays the diffs, oldest first, over a base of size blocks. The
// parts of records beyond the size are left out.
func NewVirtualImage(base io.ReaderAt, size block.LB, diffs ...*File) (*VirtualImage, error) {
	v := &VirtualImage{base: base, size: size, load: NewLoader(DefaultCache)}
	inputs := make([]Stream, len(diffs))
	for i, f := range diffs {
		inputs[i] = f.Records()
	}
	m := Merge(0, inputs...)
	for {
		r, err := m.Next()
		if errors.Is(err, io.EOF) {
			return v, nil
		}
		if err != nil {
			return nil, err
		}
		if r.Addr >= size {
			return v, nil
		}
		v.recs = append(v.recs, r.cut(r.Addr, min(r.End(), size)))
	}
}

// Size is the size of the image.
func (v *VirtualImage) Size() block.LB { return v.size }

// ReadAt implements [io.ReaderAt]. Offset and length are multiples of 512.
func (v *VirtualImage) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off%block.Size != 0 || len(p)%block.Size != 0 {
		return 0, &walberr.Error{
			Op: "read virtual image", Code: walberr.Range,
			Found: fmt.Sprintf("%d bytes at offset %d", len(p), off), Expected: "multiples of 512",
		}
	}
	n := 0
	pos, end := block.FromBytes(off), block.FromBytes(off)+block.FromBytes(int64(len(p)))
	i := sort.Search(len(v.recs), func(i int) bool { return v.recs[i].End() > pos })
	for pos < min(end, v.size) {
		next := min(end, v.size)
		var err error
		if i < len(v.recs) && v.recs[i].Addr <= pos {
			r := v.recs[i]
			next = min(next, r.End())
			err = v.load.Read(p[n:][:(next-pos).Bytes()], r, pos-r.Addr)
			i++
		} else {
			if i < len(v.recs) {
				next = min(next, v.recs[i].Addr)
			}
			err = readBase(v.base, p[n:][:(next-pos).Bytes()], pos)
		}
		if err != nil {
			return n, err
		}
		n += int((next - pos).Bytes())
		pos = next
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readBase fills p with the blocks of a base image from block pos on.
func readBase(base io.ReaderAt, p []byte, pos block.LB) error {
	n, err := base.ReadAt(p, pos.Bytes())
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read base image at block %d: %w", pos, err)
}

// NextRecord gives the first record, or what is visible of it, that ends
// behind from; false if there is none. Everything between from and its Addr
// reads as the base does.
func (v *VirtualImage) NextRecord(from block.LB) (Record, bool) {
	i := sort.Search(len(v.recs), func(i int) bool { return v.recs[i].End() > from })
	if i == len(v.recs) {
		return Record{}, false
	}
	return v.recs[i], true
}

// Touched reports whether a record lies in the range: if none does the range
// reads as the base does.
func (v *VirtualImage) Touched(r block.Range) bool {
	i := sort.Search(len(v.recs), func(i int) bool { return v.recs[i].End() > r.Addr })
	return i < len(v.recs) && v.recs[i].Addr < r.End()
}
