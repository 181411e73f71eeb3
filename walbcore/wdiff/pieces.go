package wdiff

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
	"sort"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
)

// pieceIndex is the index of an indexed file under construction: pieces that
// do not overlap, each a power of two long, at most limit, and aligned to its
// length. So of two pieces that overlap one always covers the other.
type pieceIndex struct {
	limit   uint32
	images  []storedImage
	buckets map[uint64][]piece // by address / bucketBlocks, each sorted by address
	scratch []piece
}

// bucketBlocks is a multiple of every limit, so no piece crosses a bucket.
const bucketBlocks = 4 * uint64(DefaultMaxBlocks)

// storedImage is one IO that was added.
type storedImage struct {
	kind   Kind
	codec  compress.Type
	blocks uint32 // of the expanded image, 0 unless normal
	size   uint32 // stored bytes, 0 unless normal
	sum    uint32
	offset int64
}

// piece is one index record: blocks [skip, skip+blocks) of an image.
type piece struct {
	addr   uint64
	blocks uint32
	skip   uint32
	image  uint32 // index into images
}

func (p piece) end() uint64 { return p.addr + uint64(p.blocks) }

func newPieceIndex(maxBlocks block.LB) pieceIndex {
	return pieceIndex{limit: floorPow2(uint32(maxBlocks)), buckets: map[uint64][]piece{}}
}

// add puts the pieces of a new IO in, in place of all they cover.
func (x *pieceIndex) add(addr, blocks block.LB, im storedImage) {
	x.images = append(x.images, im)
	whole := piece{addr: uint64(addr), blocks: uint32(blocks), image: uint32(len(x.images) - 1)}
	for p := range x.split(whole) {
		x.insert(p)
	}
}

// split cuts a piece of any place and length into pieces that fit the index,
// in ascending order.
func (x *pieceIndex) split(p piece) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for p.blocks > 0 {
			n := x.limit
			if p.addr&uint64(n-1) != 0 {
				n = 1 << bits.TrailingZeros64(p.addr)
			}
			for n > p.blocks {
				n = floorPow2(p.blocks)
			}
			q := p
			q.blocks = n
			if !yield(q) {
				return
			}
			p.addr += uint64(n)
			p.skip += n
			p.blocks -= n
		}
	}
}

// insert puts one aligned piece in. What it covers vanishes; a larger piece
// that covers it leaves its parts to the left and right.
func (x *pieceIndex) insert(p piece) {
	key := p.addr / bucketBlocks
	b := x.buckets[key]
	i := sort.Search(len(b), func(i int) bool { return b[i].end() > p.addr })
	j := i
	for j < len(b) && b[j].addr < p.end() {
		j++
	}
	repl := x.scratch[:0]
	if i < j && b[i].addr < p.addr {
		left := b[i]
		left.blocks = uint32(p.addr - left.addr)
		repl = slices.AppendSeq(repl, x.split(left))
	}
	repl = append(repl, p)
	if i < j && b[j-1].end() > p.end() {
		right := b[j-1]
		cut := uint32(p.end() - right.addr)
		right.addr, right.skip, right.blocks = p.end(), right.skip+cut, right.blocks-cut
		repl = slices.AppendSeq(repl, x.split(right))
	}
	x.buckets[key] = slices.Replace(b, i, j, repl...)
	x.scratch = repl
}

// all gives the pieces in ascending order.
func (x *pieceIndex) all() iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for _, key := range slices.Sorted(maps.Keys(x.buckets)) {
			for _, p := range x.buckets[key] {
				if !yield(p) {
					return
				}
			}
		}
	}
}

// appendRecord encodes a piece behind b.
func (x *pieceIndex) appendRecord(b []byte, p piece) []byte {
	return indexRecord(b, p.addr, p.blocks, p.skip, &x.images[p.image])
}

// floorPow2 is the largest power of two that is at most n, which is not 0.
func floorPow2(n uint32) uint32 { return 1 << (bits.Len32(n) - 1) }
