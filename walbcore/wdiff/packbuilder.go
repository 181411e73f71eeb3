package wdiff

import "walbsh/walbcore/block"

// PackBuilder collects records for a stream of packs whose sender decides when
// a pack goes out. It holds one pack in memory, at most [MaxPackSize]. Not safe
// for concurrent use. Records are given in the order of a sorted file; the
// receiver checks that.
type PackBuilder struct {
	pack  packer
	first block.LB
}

// NewPackBuilder makes an empty one.
func NewPackBuilder() *PackBuilder { return &PackBuilder{pack: newPacker(MaxPackData)} }

// Len is the number of records in the pack.
func (b *PackBuilder) Len() int { return b.pack.n }

// First is the address of the first record; valid iff Len is not 0.
func (b *PackBuilder) First() block.LB { return b.first }

// Add copies a record into the pack. It is false, and nothing is added, if the
// pack is full: then it has to be taken first.
func (b *PackBuilder) Add(o *IO) bool {
	if !b.pack.fits(len(o.Data)) {
		return false
	}
	if b.pack.n == 0 {
		b.first = o.Addr
	}
	b.pack.add(o, len(o.Data))
	return true
}

// Take seals the pack and calls use with its bytes, which are valid during the
// call only, and begins a new one.
func (b *PackBuilder) Take(use func(pack []byte) error) error {
	err := use(b.pack.finish())
	b.pack.reset()
	return err
}
