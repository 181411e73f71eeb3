package wdiff

import (
	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
)

// Record is one record of a file, without its data. A [Loader] reads the data
// when they are wanted. It is a plain value and stays valid while the file it
// came from stays open.
type Record struct {
	Addr   block.LB // first block
	Blocks block.LB // length; below 2^32
	Kind   Kind
	Image  Image // valid iff Kind is Normal

	file *File
}

// Image says where a normal record's data lie: they are Record.Blocks blocks
// from block Skip of a stored image that expands to Blocks blocks.
type Image struct {
	Codec  compress.Type
	Blocks block.LB // size of the expanded image, at most [MaxImageBlocks]
	Skip   block.LB // where the record begins in it; Skip + Record.Blocks <= Blocks
	Offset int64    // where the stored image begins in the file, in bytes
	Size   uint32   // size of the stored image in bytes
	Sum    uint32   // checksum of the stored image
}

// End is the first block behind the record.
func (r Record) End() block.LB { return r.Addr + r.Blocks }

// Range is the record's blocks.
func (r Record) Range() block.Range { return block.Range{Addr: r.Addr, Len: r.Blocks} }

// Whole reports whether the record is all of its stored image, so that the
// stored bytes can be passed on as they are. False for non-normal records.
func (r Record) Whole() bool {
	return r.Kind == Normal && r.Image.Skip == 0 && r.Image.Blocks == r.Blocks
}

// File is the file that the record came from.
func (r Record) File() *File { return r.file }

// cut gives the part of the record inside [from, to), which must be inside the record.
func (r Record) cut(from, to block.LB) Record {
	if r.Kind == Normal {
		r.Image.Skip += from - r.Addr
	}
	r.Addr, r.Blocks = from, to-from
	return r
}

// Stream gives records that ascend by address and do not overlap.
type Stream interface {
	// Next gives the next record. The error is io.EOF behind the last one; an
	// error is final. Not safe for concurrent use.
	Next() (Record, error)
}

// IO is one record together with its data in stored form, as writers take it.
type IO struct {
	Addr   block.LB
	Blocks block.LB
	Kind   Kind
	Codec  compress.Type // None unless Kind is Normal
	Data   []byte        // stored form; empty unless Kind is Normal
	Sum    uint32        // checksum of Data; 0 unless Kind is Normal
}

// NewIO makes the record of a write of whole blocks: all-zero if every byte is
// zero, else normal, compressed with opt when that makes it smaller. The
// result's Data lie in buf's capacity, in a new buffer, or are data itself.
func NewIO(addr block.LB, data, buf []byte, opt compress.Opt) (IO, error) {
	io := IO{Addr: addr, Blocks: block.FromBytes(int64(len(data)))}
	if block.IsZero(data) {
		io.Kind = AllZero
		return io, nil
	}
	stored, codec, err := compress.CompressOrStore(buf, data, opt.Type, opt.Level)
	if err != nil {
		return IO{}, err
	}
	io.Codec, io.Data, io.Sum = codec, stored, checksum.Sum(stored, 0)
	return io, nil
}

// End is the first block behind the record.
func (o *IO) End() block.LB { return o.Addr + o.Blocks }
