package wlog

import (
	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
)

// Op is what an IO asks for.
type Op uint8

// The operations a log knows. OpFlush makes no record: it ends the pack.
const (
	OpWrite Op = iota
	OpDiscard
	OpFlush
)

// IO is one request to be logged.
type IO struct {
	Op       Op
	Addr     block.LB // place on the device
	Len      block.LB // write: 1..65535, at most the ring; discard: 1..2^32-1; flush: 0
	Data     []byte   // write: Len*512 bytes, not looked at before [Pack.Encode]
	Preflush bool     // write: the pack in the making ends before it
}

// Pack is a pack to be written: a header and the data of its records.
type Pack struct {
	PackHeader
	// Data has one element for each record: the data of a write, not padded
	// to whole blocks, or nil for padding and discard.
	Data [][]byte
}

// Encode lays the pack out in p, which is 1+Total blocks of pbs bytes: header
// and data blocks. It copies the data and computes the checksums, header and
// records, over the copy, so that data which changes meanwhile can not make a
// bad pack. The fill behind a write is zeroed; padding blocks are left alone.
func (k *Pack) Encode(p []byte, pbs uint32, salt uint32) {
	for i := range k.Records {
		r := &k.Records[i]
		if r.Kind != Write {
			continue
		}
		dst := p[int(r.Local)*int(pbs):][:int(r.PB(pbs))*int(pbs)]
		n := copy(dst, k.Data[i])
		clear(dst[n:])
		r.Checksum = checksum.Sum(dst[:n], salt)
	}
	k.PackHeader.Encode(p[:pbs], salt)
}

// Packer distributes IOs over packs by the rules of the original driver. The
// fields are set by the user and not changed. It is safe for concurrent use.
type Packer struct {
	PBS  uint32 // physical block size [bytes]
	Ring uint64 // blocks in the ring [PB]; a write never crosses a multiple of it
	// MaxPack bounds the data of a pack that holds more than one record
	// [PB]; 0 means MaxTotal.
	MaxPack uint64
}

// Pack builds packs for IOs that were queued together, in order, the first at
// lsid latest. It returns them and the lsid behind the last; checksums are
// left to [Pack.Encode].
//
// A pack ends before a flush or an IO with Preflush, when its records or its
// blocks are full, and when a write would take it over MaxPack; a single
// larger write gets a pack of its own. A write that would cross the end of the
// ring is preceded by a padding in the same pack if there is room for one and
// the pack has none yet.
func (k Packer) Pack(ios []IO, latest meta.Lsid) ([]Pack, meta.Lsid) {
	var packs []Pack
	var cur Pack
	cur.Lsid = latest
	closePack := func() {
		if len(cur.Records) > 0 {
			packs = append(packs, cur)
		}
		cur = Pack{PackHeader: PackHeader{Lsid: cur.Next()}}
	}
	for _, io := range ios {
		if io.Op == OpFlush || io.Preflush || k.over(&cur, io) {
			closePack()
		}
		if io.Op == OpFlush {
			continue
		}
		if !k.add(&cur, io) {
			closePack()
			k.add(&cur, io)
		}
	}
	closePack()
	return packs, cur.Lsid
}

// over reports whether the IO takes a pack that has data already over MaxPack.
func (k Packer) over(p *Pack, io IO) bool {
	return io.Op == OpWrite && len(p.Records) > 0 && k.MaxPack > 0 && uint64(p.Total)+PB(io.Len, k.PBS) > k.MaxPack
}

// add appends the IO to the pack, with a padding before it where the ring ends.
// It reports false if the pack is full; the padding may have been added then.
// An empty pack always takes a valid IO.
func (k Packer) add(p *Pack, io IO) bool {
	if len(p.Records) == MaxRecords(k.PBS) {
		return false
	}
	if io.Op == OpDiscard {
		p.append(Record{Kind: Discard, Offset: io.Addr, Size: io.Len}, nil, k.PBS)
		return true
	}
	pb := PB(io.Len, k.PBS)
	if rest := k.Ring - uint64(p.tail())%k.Ring; rest < pb {
		if p.NPadding > 0 || uint64(p.Total)+rest > MaxTotal {
			return false
		}
		p.append(Record{Kind: Padding, Size: block.LB(rest) * block.LB(k.PBS/block.Size)}, nil, k.PBS)
		if len(p.Records) == MaxRecords(k.PBS) {
			return false
		}
	}
	if uint64(p.Total)+pb > MaxTotal {
		return false
	}
	p.append(Record{Kind: Write, Offset: io.Addr, Size: io.Len}, io.Data, k.PBS)
	return true
}

// tail is the lsid behind what the pack holds now, also while it is empty.
func (p *Pack) tail() meta.Lsid { return p.Lsid + 1 + meta.Lsid(p.Total) }

func (p *Pack) append(r Record, data []byte, pbs uint32) {
	r.Local = p.Total + 1
	r.Lsid = p.Lsid + meta.Lsid(r.Local)
	p.Records = append(p.Records, r)
	p.Data = append(p.Data, data)
	p.Total += uint16(r.PB(pbs))
	if r.Kind == Padding {
		p.NPadding++
	}
}
