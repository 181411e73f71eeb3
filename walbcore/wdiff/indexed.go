package wdiff

import (
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
)

// openIndex reads the super block. Its counts are not used, but the index it
// points to must lie in the file and consist of whole records.
func (f *File) openIndex() error {
	f.indexEnd = f.size - superSize
	if f.indexEnd < HeaderSize {
		return corrupt(f.name, 0, fmt.Sprintf("indexed file of %d bytes", f.size), "at least 56")
	}
	var b [superSize]byte
	if err := f.read(b[:], f.indexEnd, "index super block"); err != nil {
		return err
	}
	if err := checkSum(f.name, f.indexEnd, "index super block", b[:], superSumAt); err != nil {
		return err
	}
	off := le.Uint64(b[0:])
	if off < HeaderSize || off > uint64(f.indexEnd) || (uint64(f.indexEnd)-off)%indexRecordSize != 0 {
		return corrupt(f.name, f.indexEnd, fmt.Sprintf("index offset %d", off),
			fmt.Sprintf("32 to %d, whole records of 48 bytes before the super block", f.indexEnd))
	}
	f.index = int64(off)
	return nil
}

// indexCursor walks over the index of an indexed file, a few records per read.
type indexCursor struct {
	file  *File
	off   int64    // offset of the next record in the file
	buf   []byte   // records read ahead
	space []byte   // backing of buf
	after block.LB // end of the record before
	err   error    // final
}

const indexReadAhead = 85 * indexRecordSize

// Next implements [Stream].
func (c *indexCursor) Next() (Record, error) {
	if c.err == nil && len(c.buf) == 0 {
		c.err = c.fill()
	}
	if c.err != nil {
		return Record{}, c.err
	}
	r, err := decodeIndexRecord(c.file, c.off, c.buf[:indexRecordSize])
	if err == nil {
		err = checkOrder(c.file.name, c.off, r.Addr, r.Blocks, c.after)
	}
	if err != nil {
		c.err = err
		return Record{}, err
	}
	c.buf = c.buf[indexRecordSize:]
	c.off += indexRecordSize
	c.after = r.End()
	return r, nil
}

func (c *indexCursor) fill() error {
	left := c.file.indexEnd - c.off
	if left == 0 {
		return io.EOF
	}
	c.space = grow(c.space, int(min(left, indexReadAhead)))
	if err := c.file.read(c.space, c.off, "index"); err != nil {
		return err
	}
	c.buf = c.space
	return nil
}

func decodeIndexRecord(f *File, off int64, b []byte) (Record, error) {
	kind, ok := kindOf(b[12])
	if !ok {
		return Record{}, corrupt(f.name, off, "index record that is all-zero and discard", "one of them")
	}
	r := Record{
		Addr:   block.LB(le.Uint64(b[0:])),
		Blocks: block.LB(le.Uint32(b[8:])),
		Kind:   kind,
		file:   f,
	}
	codec, size := compress.Type(b[13]), le.Uint32(b[24:])
	if err := checkShape(f.name, off, r.Addr, r.Blocks, kind, codec, size); err != nil {
		return Record{}, err
	}
	if kind != Normal {
		return r, nil
	}
	// Only normal records are verified: the checksum of the others may be stale.
	if err := checkSum(f.name, off, "index record", b, indexSumAt); err != nil {
		return Record{}, err
	}
	data := le.Uint64(b[16:])
	r.Image = Image{
		Codec:  codec,
		Skip:   block.LB(le.Uint32(b[28:])),
		Blocks: block.LB(le.Uint32(b[32:])),
		Offset: int64(data),
		Size:   size,
		Sum:    le.Uint32(b[40:]),
	}
	switch {
	case data < HeaderSize || data > uint64(f.index) || uint64(size) > uint64(f.index)-data:
		return Record{}, corrupt(f.name, off, fmt.Sprintf("index record whose image is %d bytes at %d", size, data),
			fmt.Sprintf("inside 32 to %d", f.index))
	case r.Image.Blocks > MaxImageBlocks:
		return Record{}, corrupt(f.name, off, fmt.Sprintf("index record with an image of %d blocks", r.Image.Blocks),
			fmt.Sprintf("at most %d", MaxImageBlocks))
	case r.Image.Skip+r.Blocks > r.Image.Blocks:
		return Record{}, corrupt(f.name, off, fmt.Sprintf("index record of blocks %d+%d of its image", r.Image.Skip, r.Blocks),
			fmt.Sprintf("at most %d blocks", r.Image.Blocks))
	}
	return r, nil
}

// appendSuper encodes the super block behind b.
func appendSuper(b []byte, index int64, records, data uint32) []byte {
	var p [superSize]byte
	le.PutUint64(p[0:], uint64(index))
	le.PutUint32(p[8:], records)
	le.PutUint32(p[12:], data)
	le.PutUint32(p[20:], checksum.Sum(p[:], 0))
	return append(b, p[:]...)
}
