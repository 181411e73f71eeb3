package wdiff

import (
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// SortedWriter writes a sorted file: the header at once, packs as they fill,
// the end pack at Close. It holds at most one pack, 32 MiB. It does not own
// the writer under it: syncing and publishing the file is the caller's. Not
// safe for concurrent use. After an error every further call gives that error.
type SortedWriter struct {
	w     io.Writer
	name  string
	limit block.LB // blocks of the volume, 0 if not checked
	pack  packer
	after block.LB // end of the last record
	size  int64    // bytes written
	err   error

	head  packBlock // of the pack that CopyPack takes in
	data  []byte    // stored data of one record
	plain []byte    // the same, expanded
}

// NewSortedWriter writes the header. The name is used in errors. Records that
// reach beyond volume blocks are refused; 0 means that this is not checked.
func NewSortedWriter(w io.Writer, name string, uuid meta.UUID, volume block.LB) (*SortedWriter, error) {
	s := &SortedWriter{w: w, name: name, limit: volume, pack: newPacker(MaxPackData)}
	s.write(Header{UUID: uuid}.Append(nil))
	return s, s.err
}

// Add appends a record. Its data are copied.
func (s *SortedWriter) Add(o *IO) error {
	if s.err != nil {
		return s.err
	}
	if s.err = o.check(s.name, s.after); s.err != nil {
		return s.err
	}
	if s.err = s.checkVolume(0, o.Addr, o.Blocks); s.err != nil {
		return s.err
	}
	if !s.pack.fits(len(o.Data)) {
		s.flush()
	}
	s.pack.add(o, len(o.Data))
	s.after = o.End()
	return s.err
}

// CopyPack takes one pack of size bytes from r, as it comes out of a stream,
// and appends it unchanged. All of it is verified: the size, the block, the
// order of the records in the whole file, their place in the volume, the
// checksum of their data and that these expand to the right size. A pack with
// the end flag or without records is refused. The data pass through a buffer
// of one record, so when an error comes a part of the pack may be written: the
// file is then worthless.
func (s *SortedWriter) CopyPack(r io.Reader, size uint64) error {
	s.flush()
	if s.err == nil {
		s.err = s.copyPack(r, size)
	}
	return s.err
}

func (s *SortedWriter) copyPack(r io.Reader, size uint64) error {
	if size < PackHeaderSize || size > MaxPackSize {
		return corrupt(s.name, s.size, fmt.Sprintf("pack of %d bytes", size), fmt.Sprintf("%d to %d", PackHeaderSize, MaxPackSize))
	}
	h := &s.head
	if _, err := io.ReadFull(r, h.b[:]); err != nil {
		return fmt.Errorf("read pack of %s: %w", s.name, err)
	}
	if err := h.decode(s.name, s.size); err != nil {
		return err
	}
	switch {
	case h.end:
		return corrupt(s.name, s.size, "pack with the end flag inside the stream", "packs of records")
	case h.n == 0:
		return corrupt(s.name, s.size, "pack without records", "at least 1")
	case uint64(h.total)+PackHeaderSize != size:
		return corrupt(s.name, s.size, fmt.Sprintf("pack of %d bytes whose total size is %d", size, h.total), fmt.Sprint(size-PackHeaderSize))
	}
	if err := s.checkRecords(); err != nil {
		return err
	}
	s.write(h.b[:])
	for i := range h.n {
		if s.err != nil {
			return s.err
		}
		if err := s.copyData(r, h.record(i)); err != nil {
			return err
		}
	}
	return s.err
}

// checkRecords judges the records of the present pack block against each other
// and against the volume.
func (s *SortedWriter) checkRecords() error {
	h, sum := &s.head, uint64(0)
	for i := range h.n {
		p := h.record(i)
		at := s.size + int64(recordsAt+i*recordSize)
		if uint64(p.offset) != sum {
			return corrupt(s.name, at, fmt.Sprintf("record %d+%d with data offset %d", p.addr, p.blocks, p.offset), fmt.Sprint(sum))
		}
		if err := checkOrder(s.name, at, p.addr, p.blocks, s.after); err != nil {
			return err
		}
		if err := s.checkVolume(at, p.addr, p.blocks); err != nil {
			return err
		}
		s.after = p.addr + p.blocks
		sum += uint64(p.size)
	}
	if sum != uint64(h.total) {
		return corrupt(s.name, s.size, fmt.Sprintf("pack whose records hold %d bytes", sum), fmt.Sprintf("%d, its total size", h.total))
	}
	return nil
}

func (s *SortedWriter) checkVolume(at int64, addr, blocks block.LB) error {
	if s.limit > 0 && addr+blocks > s.limit {
		return corrupt(s.name, at, fmt.Sprintf("record %d+%d", addr, blocks), fmt.Sprintf("inside the volume of %d blocks", s.limit))
	}
	return nil
}

// copyData takes the data of one record in, verifies and writes them.
func (s *SortedWriter) copyData(r io.Reader, p packRecord) error {
	if p.kind != Normal {
		return nil
	}
	s.data = grow(s.data, int(p.size))
	if _, err := io.ReadFull(r, s.data); err != nil {
		return fmt.Errorf("read pack of %s: %w", s.name, err)
	}
	if err := checkData(s.name, s.size, s.data, p.sum); err != nil {
		return err
	}
	if p.codec != compress.None || block.LB(p.size) != p.blocks*block.Size {
		s.plain = grow(s.plain, int(p.blocks.Bytes()))
		if err := compress.Decompress(s.plain, s.data, p.codec); err != nil {
			return expandError(s.name, s.size, p.addr, p.blocks, err)
		}
	}
	s.write(s.data)
	return nil
}

// Close writes what is pending and the end pack.
func (s *SortedWriter) Close() error {
	s.flush()
	s.write(endPack())
	return s.err
}

// Size is the number of bytes written so far, without a pending pack.
func (s *SortedWriter) Size() int64 { return s.size }

func (s *SortedWriter) flush() {
	if s.pack.n > 0 {
		s.write(s.pack.finish())
		s.pack.reset()
	}
}

func (s *SortedWriter) write(p []byte) {
	if s.err != nil {
		return
	}
	n, err := s.w.Write(p)
	s.size += int64(n)
	if err != nil {
		s.err = fmt.Errorf("write %s: %w", s.name, err)
	}
}

// IndexedWriter writes an indexed file: images as they come, in any order and
// overlapping, the index at Close. Later records replace earlier ones. It
// keeps the index in memory, 24 bytes for each piece. It does not own the
// writer under it. Not safe for concurrent use. After an error every further
// call gives that error.
type IndexedWriter struct {
	w     io.Writer
	name  string
	limit block.LB // blocks of the volume, 0 if not checked
	index pieceIndex
	size  int64 // bytes written
	added uint32
	err   error
}

// NewIndexedWriter writes the header. The name is used in errors. Records that
// reach beyond volume blocks are refused; 0 means that this is not checked.
// The pieces of the index are at most maxBlocks long, 1 to [DefaultMaxBlocks],
// rounded down to a power of two.
func NewIndexedWriter(w io.Writer, name string, uuid meta.UUID, volume, maxBlocks block.LB) (*IndexedWriter, error) {
	if maxBlocks < 1 || maxBlocks > DefaultMaxBlocks {
		return nil, fmt.Errorf("write %s: index pieces of %d blocks, want 1 to %d", name, maxBlocks, DefaultMaxBlocks)
	}
	s := &IndexedWriter{w: w, name: name, limit: volume, index: newPieceIndex(maxBlocks)}
	s.write(Header{Indexed: true, UUID: uuid}.Append(nil))
	return s, s.err
}

// Add appends a record. Its data are written at once.
func (s *IndexedWriter) Add(o *IO) error {
	if s.err != nil {
		return s.err
	}
	if s.err = o.check(s.name, 0); s.err != nil {
		return s.err
	}
	if s.limit > 0 && o.End() > s.limit {
		s.err = corrupt(s.name, s.size, fmt.Sprintf("record %d+%d", o.Addr, o.Blocks), fmt.Sprintf("inside the volume of %d blocks", s.limit))
		return s.err
	}
	im := storedImage{kind: o.Kind, offset: s.size}
	if o.Kind == Normal {
		im.codec, im.blocks, im.size, im.sum = o.Codec, uint32(o.Blocks), uint32(len(o.Data)), o.Sum
		s.write(o.Data)
	}
	s.added++
	s.index.add(o.Addr, o.Blocks, im)
	return s.err
}

// Close writes the padding, the index and the super block.
func (s *IndexedWriter) Close() error {
	s.write(make([]byte, (8-s.size%8)%8))
	at, n := s.size, uint32(0)
	buf := make([]byte, 0, indexReadAhead)
	for p := range s.index.all() {
		if len(buf) == cap(buf) {
			s.write(buf)
			buf = buf[:0]
		}
		buf = s.index.appendRecord(buf, p)
		n++
	}
	s.write(buf)
	s.write(appendSuper(nil, at, n, s.added))
	return s.err
}

// Size is the number of bytes written so far.
func (s *IndexedWriter) Size() int64 { return s.size }

// Added is the number of records added so far.
func (s *IndexedWriter) Added() int { return int(s.added) }

func (s *IndexedWriter) write(p []byte) {
	if s.err != nil {
		return
	}
	n, err := s.w.Write(p)
	s.size += int64(n)
	if err != nil {
		s.err = fmt.Errorf("write %s: %w", s.name, err)
	}
}

// indexRecord encodes one index record behind b.
func indexRecord(b []byte, addr uint64, blocks, skip uint32, im *storedImage) []byte {
	var p [indexRecordSize]byte
	le.PutUint64(p[0:], addr)
	le.PutUint32(p[8:], blocks)
	p[12] = im.kind.flags()
	p[13] = byte(im.codec)
	le.PutUint64(p[16:], uint64(im.offset))
	le.PutUint32(p[24:], im.size)
	le.PutUint32(p[28:], skip)
	le.PutUint32(p[32:], im.blocks)
	le.PutUint32(p[40:], im.sum)
	le.PutUint32(p[44:], checksum.Sum(p[:], 0))
	return append(b, p[:]...)
}
