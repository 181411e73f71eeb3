package wdiff

import (
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
)

// packer builds one pack in memory.
type packer struct {
	buf   []byte // block and data
	n     int    // records
	limit int    // bytes that a pack may weigh
	used  int    // weight of the records so far
}

// newPacker makes an empty packer for packs of at most limit bytes.
func newPacker(limit int) packer {
	p := packer{limit: limit}
	p.reset()
	return p
}

func (p *packer) reset() {
	p.buf = grow(p.buf, PackHeaderSize)
	clear(p.buf)
	p.n, p.used = 0, 0
}

// fits reports whether a record of the weight, in bytes, goes into this pack:
// the first one always does.
func (p *packer) fits(weight int) bool {
	return p.n == 0 || p.n < MaxPackRecords && p.used+weight <= p.limit
}

// add appends a record that fits.
func (p *packer) add(o *IO, weight int) {
	b := p.buf[recordsAt+p.n*recordSize:][:recordSize]
	le.PutUint64(b[0:], uint64(o.Addr))
	le.PutUint32(b[8:], uint32(o.Blocks))
	b[12] = o.Kind.flags()
	le.PutUint32(b[16:], uint32(len(p.buf)-PackHeaderSize))
	if o.Kind == Normal {
		b[13] = byte(o.Codec)
		le.PutUint32(b[20:], uint32(len(o.Data)))
		le.PutUint32(b[24:], o.Sum)
		p.buf = append(p.buf, o.Data...)
	}
	p.n++
	p.used += weight
}

// finish seals the pack and gives its bytes, which are valid until reset.
func (p *packer) finish() []byte {
	le.PutUint16(p.buf[4:], uint16(p.n))
	le.PutUint32(p.buf[8:], uint32(len(p.buf)-PackHeaderSize))
	le.PutUint32(p.buf[0:], 0)
	le.PutUint32(p.buf[0:], checksum.Sum(p.buf[:PackHeaderSize], 0))
	return p.buf
}

// check refuses a record that readers would refuse, or that does not begin at
// or behind the end of the one before.
func (o *IO) check(name string, after block.LB) error {
	if err := checkShape(name, 0, o.Addr, o.Blocks, o.Kind, o.Codec, uint32(min(len(o.Data), MaxPackData+1))); err != nil {
		return err
	}
	if o.Blocks > maxBlocks32 {
		return corrupt(name, 0, fmt.Sprintf("record %d+%d", o.Addr, o.Blocks), "below 2^32 blocks")
	}
	return checkOrder(name, 0, o.Addr, o.Blocks, after)
}

const maxBlocks32 block.LB = 1<<32 - 1
