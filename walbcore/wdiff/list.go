package wdiff

import (
	"fmt"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
)

// Entry is a record as its bytes say, for listings. Unlike in a [Record], what
// readers do not look at is kept.
type Entry struct {
	Indexed    bool  // it is of an indexed file
	At         int64 // where it lies in the file
	Addr       block.LB
	Blocks     block.LB
	AllZero    bool
	Discard    bool
	Codec      compress.Type
	DataOffset uint64 // sorted: from the end of the pack's block, indexed: in the file; bytes
	DataSize   uint32 // bytes
	Sum        uint32 // of the stored data

	OrigBlocks uint32 // indexed: blocks of the whole image
	Skip       uint32 // indexed: where the record begins in it, in blocks
	RecordSum  uint32 // indexed: checksum of the record itself
}

// String prints the entry as the original's listings do, fields apart by tabs:
//
//	wdiff_sorted_rec:  addr blocks codec data_offset data_size checksum ZD
//	wdiff_indexed_rec: addr blocks codec data_offset data_size orig_blocks io_offset checksum record_checksum ZD
func (e Entry) String() string {
	flags := []byte("--")
	if e.AllZero {
		flags[0] = 'Z'
	}
	if e.Discard {
		flags[1] = 'D'
	}
	if e.Indexed {
		return fmt.Sprintf("wdiff_indexed_rec:\t%d\t%d\t%s\t%d\t%d\t%d\t%d\t%08x\t%08x\t%s",
			e.Addr, e.Blocks, e.Codec, e.DataOffset, e.DataSize, e.OrigBlocks, e.Skip, e.Sum, e.RecordSum, flags)
	}
	return fmt.Sprintf("wdiff_sorted_rec:\t%d\t%d\t%s\t%d\t%d\t%08x\t%s",
		e.Addr, e.Blocks, e.Codec, e.DataOffset, e.DataSize, e.Sum, flags)
}

// Entries walks over a file as [File.Records] does and also tells how each
// record lies in it. It is not safe for concurrent use.
type Entries struct {
	cursor interface {
		Stream
		entry() Entry
	}
}

// Entries gives the records of the file from the first on.
func (f *File) Entries() *Entries {
	if f.header.Indexed {
		return &Entries{&indexCursor{file: f, off: f.index}}
	}
	return &Entries{&packCursor{file: f, off: HeaderSize}}
}

// Next gives the next record and its entry. Errors are those of [Stream].
func (s *Entries) Next() (Record, Entry, error) {
	r, err := s.cursor.Next()
	if err != nil {
		return Record{}, Entry{}, err
	}
	return r, s.cursor.entry(), nil
}

// entry is the record that Next gave last.
func (c *packCursor) entry() Entry {
	i := c.next - 1
	b := c.block.b[recordsAt+i*recordSize:][:recordSize]
	e := sharedEntry(b)
	e.At = c.start + int64(recordsAt+i*recordSize)
	e.DataOffset, e.DataSize, e.Sum = uint64(le.Uint32(b[16:])), le.Uint32(b[20:]), le.Uint32(b[24:])
	return e
}

func (c *indexCursor) entry() Entry {
	at, b := c.last()
	e := sharedEntry(b)
	e.Indexed, e.At = true, at
	e.DataOffset, e.DataSize = le.Uint64(b[16:]), le.Uint32(b[24:])
	e.Skip, e.OrigBlocks = le.Uint32(b[28:]), le.Uint32(b[32:])
	e.Sum, e.RecordSum = le.Uint32(b[40:]), le.Uint32(b[44:])
	return e
}

// last gives the offset and the bytes of the record that Next gave last.
func (c *indexCursor) last() (int64, []byte) {
	return c.off - indexRecordSize, c.space[len(c.space)-len(c.buf)-indexRecordSize:][:indexRecordSize]
}

// sharedEntry reads the fields that both kinds of record begin with.
func sharedEntry(b []byte) Entry {
	return Entry{
		Addr: block.LB(le.Uint64(b[0:])), Blocks: block.LB(le.Uint32(b[8:])),
		AllZero: b[12]&flagAllZero != 0, Discard: b[12]&flagDiscard != 0, Codec: compress.Type(b[13]),
	}
}

// HeaderSum is the checksum of the file header, as it stands there.
func (f *File) HeaderSum() uint32 { return f.headerSum }

// HeaderText prints the file header as the original's listings do, in five lines.
func (f *File) HeaderText() string {
	kind := "sorted"
	if f.header.Indexed {
		kind = "indexed"
	}
	return fmt.Sprintf("wdiff_h:\n  checksum: %08x\n  version: %d\n  type: %s\n  uuid: %s\n", f.headerSum, version, kind, f.header.UUID)
}

// Text prints the statistics as the original's listings do, in eight lines.
func (s Stats) Text() string {
	var b strings.Builder
	for _, f := range []struct {
		name  string
		value any
	}{
		{"wdiffNr", s.Files},
		{"normalNr", s.Normal},
		{"allZeroNr", s.AllZero},
		{"discardNr", s.Discard},
		{"normalLb", s.NormalLB},
		{"allZeroLb", s.AllZeroLB},
		{"discardLb", s.DiscardLB},
		{"dataSize", s.DataSize},
	} {
		fmt.Fprintf(&b, "wdiff_stat: %s %d\n", f.name, f.value)
	}
	return b.String()
}
