package wdiff

import (
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
)

// packBlock is the decoded block at the head of a pack. Its records are read
// from the bytes one by one.
type packBlock struct {
	b     [PackHeaderSize]byte
	n     int    // records
	end   bool   // end of file
	total uint32 // total_size
}

// packRecord is one record of a pack block.
type packRecord struct {
	addr   block.LB
	blocks block.LB
	kind   Kind
	codec  compress.Type
	offset uint32 // of the data behind the block
	size   uint32 // of the stored data, 0 unless normal
	sum    uint32 // of the stored data
}

// decode judges the filled block as a whole: checksum, counts and each record
// by itself. Order and offsets are the caller's. off is where the block lies.
func (p *packBlock) decode(name string, off int64) error {
	if err := checkSum(name, off, "pack header", p.b[:], 0); err != nil {
		return err
	}
	p.n = int(le.Uint16(p.b[4:]))
	p.end = p.b[6]&flagEnd != 0
	p.total = le.Uint32(p.b[8:])
	if p.n > MaxPackRecords {
		return corrupt(name, off, fmt.Sprintf("pack of %d records", p.n), fmt.Sprintf("at most %d", MaxPackRecords))
	}
	for i := range p.n {
		at := off + int64(recordsAt+i*recordSize)
		kind, ok := kindOf(p.flags(i))
		if !ok {
			return corrupt(name, at, "record that is all-zero and discard", "one of them")
		}
		r := p.record(i)
		if err := checkShape(name, at, r.addr, r.blocks, kind, r.codec, r.size); err != nil {
			return err
		}
	}
	return nil
}

func (p *packBlock) flags(i int) byte { return p.b[recordsAt+i*recordSize+12] }

// record gives record i of a decoded block.
func (p *packBlock) record(i int) packRecord {
	b := p.b[recordsAt+i*recordSize:][:recordSize]
	r := packRecord{
		addr:   block.LB(le.Uint64(b[0:])),
		blocks: block.LB(le.Uint32(b[8:])),
		codec:  compress.Type(b[13]),
		offset: le.Uint32(b[16:]),
		size:   le.Uint32(b[20:]),
		sum:    le.Uint32(b[24:]),
	}
	r.kind, _ = kindOf(b[12])
	if r.kind != Normal {
		r.codec, r.size, r.sum = compress.None, 0, 0
	}
	return r
}

// packCursor walks over the packs and records of a sorted file.
type packCursor struct {
	file  *File
	block packBlock
	off   int64    // where the next pack begins
	start int64    // where the present pack begins
	data  int64    // where the next record's data begin
	next  int      // next record of the present pack
	packs int      // packs seen, the empty first one included
	after block.LB // end of the record before
	err   error    // final
}

// Next implements [Stream].
func (c *packCursor) Next() (Record, error) {
	for c.err == nil && c.next == c.block.n {
		c.err = c.nextPack()
	}
	if c.err != nil {
		return Record{}, c.err
	}
	r, err := c.record()
	if err != nil {
		c.err = err
		return Record{}, err
	}
	return r, nil
}

// nextPack reads the block at c.off. The error is io.EOF at the end pack.
func (c *packCursor) nextPack() error {
	if left := c.file.size - c.off; left < PackHeaderSize {
		return corrupt(c.file.name, c.off, fmt.Sprintf("%d bytes where a pack header is due", left), "4096")
	}
	if err := c.file.read(c.block.b[:], c.off, "pack header"); err != nil {
		return err
	}
	if err := c.block.decode(c.file.name, c.off); err != nil {
		return err
	}
	c.packs++
	if c.block.end {
		return io.EOF
	}
	// An empty pack is never written, but every reader skips it in front.
	if c.block.n == 0 && c.packs > 1 {
		return corrupt(c.file.name, c.off, "pack without records", "at least 1")
	}
	c.start, c.next = c.off, 0
	c.data = c.off + PackHeaderSize
	size := int64(0)
	for i := range c.block.n {
		size += int64(c.block.record(i).size)
	}
	c.off = c.data + size
	return nil
}

func (c *packCursor) record() (Record, error) {
	p := c.block.record(c.next)
	at := c.start + int64(recordsAt+c.next*recordSize)
	name := c.file.name
	if want := c.data - c.start - PackHeaderSize; int64(p.offset) != want {
		return Record{}, corrupt(name, at, fmt.Sprintf("record %d+%d with data offset %d", p.addr, p.blocks, p.offset), fmt.Sprint(want))
	}
	if err := checkOrder(name, at, p.addr, p.blocks, c.after); err != nil {
		return Record{}, err
	}
	if left := c.file.size - c.data; int64(p.size) > left {
		return Record{}, corrupt(name, at, fmt.Sprintf("record %d+%d with %d bytes of data", p.addr, p.blocks, p.size),
			fmt.Sprintf("at most %d, the rest of the file", max(left, 0)))
	}
	r := Record{Addr: p.addr, Blocks: p.blocks, Kind: p.kind, file: c.file}
	if p.kind == Normal {
		r.Image = Image{Codec: p.codec, Blocks: p.blocks, Offset: c.data, Size: p.size, Sum: p.sum}
	}
	c.data += int64(p.size)
	c.after = r.End()
	c.next++
	return r, nil
}

// Packs walks over the packs of a sorted file, to pass them on unchanged. Each
// pack is verified as a whole before it is given out, except that its data are
// not expanded.
type Packs struct {
	c packCursor
}

// Next reads the next pack, block and data, into buf's capacity or a new
// buffer. A pack holds at most 127 records of at most 32 MiB each, and is
// refused when it does not fit [MaxPackSize], the limit of a stream. The error
// is io.EOF behind the last pack.
func (p *Packs) Next(buf []byte) ([]byte, error) {
	c := &p.c
	for c.err == nil {
		if c.err = c.nextPack(); c.err == nil && c.block.n > 0 {
			pack, err := p.load(buf)
			c.err = err
			return pack, err
		}
	}
	return nil, c.err
}

func (p *Packs) load(buf []byte) ([]byte, error) {
	c := &p.c
	size := c.off - c.start
	if size > MaxPackSize {
		return nil, corrupt(c.file.name, c.start, fmt.Sprintf("pack of %d bytes", size), fmt.Sprintf("at most %d", MaxPackSize))
	}
	if got := int64(c.block.total) + PackHeaderSize; got != size {
		return nil, corrupt(c.file.name, c.start, fmt.Sprintf("pack whose total size makes %d bytes", got), fmt.Sprint(size))
	}
	buf = grow(buf, int(size))
	copy(buf, c.block.b[:])
	for c.next < c.block.n {
		r, err := c.record()
		if err != nil {
			return nil, err
		}
		if r.Kind != Normal {
			continue
		}
		part := buf[r.Image.Offset-c.start:][:r.Image.Size]
		if _, err := c.file.stored(r.Image, part[:0:len(part)]); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// endPack gives the block that ends a sorted file.
func endPack() []byte {
	b := make([]byte, PackHeaderSize)
	b[6] = flagEnd
	le.PutUint32(b[0:], checksum.Sum(b, 0))
	return b
}
