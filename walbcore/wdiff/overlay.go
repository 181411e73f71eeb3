package wdiff

import (
	"io"
	"slices"
	"sort"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
)

// Overlay puts records of any order one over the other, the newest wins, and
// gives them sorted. So a log becomes a sorted diff.
//
// The result is as if each record had been put into a map of intervals,
// replacing what it covers. A record longer than the limit is cut at multiples
// of the limit from its own start, all kinds alike, and keeps these cuts when a
// newer record takes a part out of it.
//
// It keeps record heads in memory, about 100 bytes each, and no data.
type Overlay struct {
	limit block.LB
	run   []span // newest records: sorted, without overlaps, at most maxRun
	runs  []Stream
}

// maxRun bounds the records that one insertion may have to move. Full runs are
// merged at the end, as files are.
const maxRun = 1024

// span is a record, or what newer records left of it.
type span struct {
	Record
	origin block.LB // where the whole record began: its cuts count from here
}

// NewOverlay makes an empty one. limit is the longest record that comes out, 0
// for none.
func NewOverlay(limit block.LB) *Overlay { return &Overlay{limit: limit} }

// Add puts a record over all earlier ones. Records of 0 blocks are dropped.
func (o *Overlay) Add(r Record) {
	if r.Blocks == 0 {
		return
	}
	i := sort.Search(len(o.run), func(i int) bool { return o.run[i].End() > r.Addr })
	j := i
	for j < len(o.run) && o.run[j].Addr < r.End() {
		j++
	}
	var parts [3]span
	repl := parts[:0]
	if i < j && o.run[i].Addr < r.Addr {
		s := o.run[i]
		repl = append(repl, span{s.cut(s.Addr, r.Addr), s.origin})
	}
	repl = append(repl, span{r, r.Addr})
	if i < j && o.run[j-1].End() > r.End() {
		s := o.run[j-1]
		repl = append(repl, span{s.cut(r.End(), s.End()), s.origin})
	}
	o.run = slices.Replace(o.run, i, j, repl...)
	if len(o.run) >= maxRun {
		o.seal()
	}
}

func (o *Overlay) seal() {
	o.runs = append(o.runs, &spans{list: slices.Clip(o.run), limit: o.limit})
	o.run = nil
}

// Records gives the result, once. Nothing can be added afterwards.
func (o *Overlay) Records() Stream {
	o.seal()
	return Merge(0, o.runs...)
}

// spans gives sorted spans as records no longer than the limit.
type spans struct {
	list  []span
	limit block.LB
}

// Next implements [Stream].
func (s *spans) Next() (Record, error) {
	if len(s.list) == 0 {
		return Record{}, io.EOF
	}
	head := &s.list[0]
	end := head.End()
	if s.limit > 0 {
		end = min(end, head.Addr+s.limit-(head.Addr-head.origin)%s.limit)
	}
	r := head.cut(head.Addr, end)
	if head.Record = head.cut(end, head.End()); head.Blocks == 0 {
		s.list = s.list[1:]
	}
	return r, nil
}

// Raw makes a source of data for [File.Record] of bytes that are no diff file,
// for example a log. Its other methods give nothing.
func Raw(name string, r io.ReaderAt, size int64) *File { return &File{name: name, r: r, size: size} }

// Record makes a record whose data are blocks*512 plain bytes at an offset of
// the file, with the checksum sum (salt 0). The caller knows that they lie
// inside the file and that blocks is 1 to [MaxImageBlocks].
func (f *File) Record(addr, blocks block.LB, offset int64, sum uint32) Record {
	return Record{
		Addr: addr, Blocks: blocks, Kind: Normal, file: f,
		Image: Image{Codec: compress.None, Blocks: blocks, Offset: offset, Size: uint32(blocks.Bytes()), Sum: sum},
	}
}

// Inside gives the records of s that lie inside an image of size blocks, and
// calls outside for each that reaches beyond its end, which is left out as a
// whole.
func Inside(s Stream, size block.LB, outside func(Record)) Stream {
	return &insideOnly{s: s, size: size, outside: outside}
}

type insideOnly struct {
	s       Stream
	size    block.LB
	outside func(Record)
}

// Next implements [Stream].
func (s *insideOnly) Next() (Record, error) {
	for {
		r, err := s.s.Next()
		if err != nil || r.End() <= s.size {
			return r, err
		}
		s.outside(r)
	}
}
