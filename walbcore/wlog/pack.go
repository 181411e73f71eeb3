package wlog

import (
	"encoding/binary"
	"fmt"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Kind says what a record does. It is the flags field of the format.
type Kind uint32

// The kinds that valid records have.
const (
	Write   Kind = 1 // data to be written at Offset
	Padding Kind = 3 // blocks up to the end of the ring, to be skipped
	Discard Kind = 5 // Size blocks from Offset are given up
)

// String prints the three letters of the original's listings, E-- EP- E-D.
func (k Kind) String() string {
	b := []byte("---")
	for i, c := range []byte("EPD") {
		if k&(1<<i) != 0 {
			b[i] = c
		}
	}
	return string(b)
}

// Record is one IO of a pack.
type Record struct {
	Checksum uint32    // of the data with the log's salt; 0 for padding and discard
	Kind     Kind      // Write, Padding or Discard
	Offset   block.LB  // place on the device; 0 for padding
	Size     block.LB  // length of the IO, never more than 32 bits
	Local    uint16    // Lsid - lsid of the pack, at least 1
	Lsid     meta.Lsid // of the first data block, or where it would be
}

// HasData reports whether blocks of the log belong to the record: true for
// writes and paddings (a padding's blocks hold nothing of value).
func (r Record) HasData() bool { return r.Kind&4 == 0 }

// PB is the number of physical blocks of log the record takes.
func (r Record) PB(pbs uint32) uint64 {
	if !r.HasData() {
		return 0
	}
	return PB(r.Size, pbs)
}

// Range is the part of the device the record is about; empty for padding.
func (r Record) Range() block.Range {
	if r.Kind == Padding {
		return block.Range{}
	}
	return block.Range{Addr: r.Offset, Len: r.Size}
}

// VerifyData checks the data of a write against the record's checksum. data
// must hold at least Size logical blocks; what lies behind is not looked at.
// Paddings and discards pass. The error has code Checksum.
func (r Record) VerifyData(data []byte, salt uint32) error {
	if r.Kind != Write {
		return nil
	}
	n := int(r.Size) * block.Size
	if len(data) < n {
		return walberr.Corrupt("read log", fmt.Sprintf("%d bytes of data for the record at lsid %d", len(data), r.Lsid), fmt.Sprintf("%d", n))
	}
	if sum := checksum.Sum(data[:n], salt); sum != r.Checksum {
		return walberr.Corrupt("read log", fmt.Sprintf("data checksum %08x at lsid %d", sum, r.Lsid), fmt.Sprintf("%08x", r.Checksum))
	}
	return nil
}

// String prints the record as the original's listings do.
func (r Record) String() string {
	return fmt.Sprintf("wlog_r: lsid %10d %4d io %10d %4d flags %s csum %08x",
		r.Lsid, r.Local, r.Offset, r.Size, r.Kind, r.Checksum)
}

// PackHeader is the header block of a pack.
type PackHeader struct {
	Checksum uint32    // as found or as last encoded
	Total    uint16    // data blocks of the pack [PB], padding included
	Lsid     meta.Lsid // of the header block
	NPadding uint16    // number of padding records, 0 or 1
	Records  []Record
}

// EndPack is the header of the end block.
func EndPack() PackHeader { return PackHeader{Lsid: meta.MaxLsid} }

// IsEnd reports whether h is the end block.
func (h *PackHeader) IsEnd() bool { return h.Lsid == meta.MaxLsid && len(h.Records) == 0 }

// Next is the lsid behind the pack: where the next header is expected. It is
// the pack's own lsid if the pack has no records.
func (h *PackHeader) Next() meta.Lsid {
	if len(h.Records) == 0 {
		return h.Lsid
	}
	return h.Lsid + 1 + meta.Lsid(h.Total)
}

// String prints the header as the original's listings do, without records.
func (h *PackHeader) String() string {
	return fmt.Sprintf("wlog_p: lsid %10d total %4d n_rec %2d n_pad %2d csum %08x",
		h.Lsid, h.Total, len(h.Records), h.NPadding, h.Checksum)
}

// Listing prints the header and its records, one a line.
func (h *PackHeader) Listing() string {
	var b strings.Builder
	b.WriteString(h.String() + "\n")
	for _, r := range h.Records {
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}

// DecodePack reads a pack header from a block of pbs = len(p) bytes and
// validates it. The block of a pack without records (the end block) is not
// checked against its checksum, as in the original. The caller compares
// [PackHeader.Lsid] with the lsid it expects. Errors have code Checksum.
func DecodePack(p []byte, salt uint32) (*PackHeader, error) {
	h := &PackHeader{}
	if err := h.Decode(p, salt); err != nil {
		return nil, err
	}
	return h, nil
}

// Decode is [DecodePack] into h, whose record slice is used again.
// After an error h holds nothing of value.
func (h *PackHeader) Decode(p []byte, salt uint32) error {
	pbs := uint32(len(p))
	if !ValidPBS(pbs) {
		return walberr.Corrupt("read pack header", fmt.Sprintf("a block of %d bytes", len(p)), "512 or 4096")
	}
	le := binary.LittleEndian
	if t := le.Uint16(p[4:]); t != SectorPack {
		return corruptPack(meta.Lsid(le.Uint64(p[8:])), "sector type", fmt.Sprint(t), fmt.Sprint(SectorPack))
	}
	h.Checksum = le.Uint32(p)
	h.Total = le.Uint16(p[6:])
	h.Lsid = meta.Lsid(le.Uint64(p[8:]))
	n := int(le.Uint16(p[16:]))
	h.NPadding = le.Uint16(p[18:])
	if n > MaxRecords(pbs) {
		return corruptPack(h.Lsid, "n_records", fmt.Sprint(n), fmt.Sprintf("at most %d", MaxRecords(pbs)))
	}
	if n > 0 && !checksum.Verify(p, salt) {
		return corruptPack(h.Lsid, "checksum", fmt.Sprintf("%08x", h.Checksum),
			fmt.Sprintf("%08x", h.Checksum+checksum.Sum(p, salt)))
	}
	h.Records = h.Records[:0]
	for i := range n {
		q := p[packHeaderSize+i*recordSize:]
		h.Records = append(h.Records, Record{
			Checksum: le.Uint32(q),
			Kind:     Kind(le.Uint32(q[4:])),
			Offset:   block.LB(le.Uint64(q[8:])),
			Size:     block.LB(le.Uint32(q[16:])),
			Local:    le.Uint16(q[20:]),
			Lsid:     meta.Lsid(le.Uint64(q[24:])),
		})
	}
	return h.Validate(pbs)
}

// Validate checks the rules of the format for blocks of pbs bytes: the fields
// of the header, of every record, and that the records add up to the header.
// Errors have code Checksum.
func (h *PackHeader) Validate(pbs uint32) error {
	if len(h.Records) > MaxRecords(pbs) {
		return corruptPack(h.Lsid, "n_records", fmt.Sprint(len(h.Records)), fmt.Sprintf("at most %d", MaxRecords(pbs)))
	}
	if len(h.Records) == 0 {
		if h.Total != 0 || h.NPadding != 0 {
			return corruptPack(h.Lsid, "total, n_padding", fmt.Sprintf("%d, %d", h.Total, h.NPadding), "0, 0 without records")
		}
		return nil
	}
	if h.Lsid > MaxLsid-1-MaxTotal {
		return corruptPack(h.Lsid, "lsid", fmt.Sprint(h.Lsid), "room for the pack below 2^64-1")
	}
	total, padding := uint64(0), uint16(0)
	for i, r := range h.Records {
		if err := r.validate(h.Lsid, i, total, pbs); err != nil {
			return err
		}
		total += r.PB(pbs)
		if r.Kind == Padding {
			padding++
		}
	}
	if uint64(h.Total) != total {
		return corruptPack(h.Lsid, "total_io_size", fmt.Sprint(h.Total), fmt.Sprintf("%d, the sum of the records", total))
	}
	if padding > 1 || h.NPadding != padding {
		return corruptPack(h.Lsid, "n_padding", fmt.Sprintf("%d with %d padding records", h.NPadding, padding), "the same, 0 or 1")
	}
	return nil
}

func (r Record) validate(pack meta.Lsid, i int, before uint64, pbs uint32) error {
	field := func(name string) string { return fmt.Sprintf("record %d %s", i, name) }
	switch r.Kind {
	case Write:
		if r.Size == 0 || r.Size > MaxIO {
			return corruptPack(pack, field("io_size"), fmt.Sprint(r.Size), "1..65535")
		}
	case Padding:
		if r.Size > MaxIO || r.Size%block.LB(pbs/block.Size) != 0 {
			return corruptPack(pack, field("io_size"), fmt.Sprint(r.Size), "0..65535 in whole physical blocks")
		}
	case Discard:
		if r.Size == 0 || r.Size > MaxDiscard {
			return corruptPack(pack, field("io_size"), fmt.Sprint(r.Size), "1..2^32-1")
		}
	default:
		return corruptPack(pack, field("flags"), fmt.Sprint(uint32(r.Kind)), "1, 3 or 5")
	}
	if r.Kind != Padding && r.Offset > block.MaxLB-r.Size {
		return corruptPack(pack, field("offset"), fmt.Sprint(r.Offset), "a block below 2^54")
	}
	if uint64(r.Local) != 1+before {
		return corruptPack(pack, field("lsid_local"), fmt.Sprint(r.Local), fmt.Sprint(1+before))
	}
	if r.Lsid != pack+meta.Lsid(r.Local) {
		return corruptPack(pack, field("lsid"), fmt.Sprint(r.Lsid), fmt.Sprint(uint64(pack)+uint64(r.Local)))
	}
	return nil
}

// Encode writes the header block into p, whose length is pbs, computes its
// checksum with the salt and stores it in h too. Every byte of p is set. The
// header must be valid for that pbs.
func (h *PackHeader) Encode(p []byte, salt uint32) {
	clear(p)
	le := binary.LittleEndian
	le.PutUint16(p[4:], SectorPack)
	le.PutUint16(p[6:], h.Total)
	le.PutUint64(p[8:], uint64(h.Lsid))
	le.PutUint16(p[16:], uint16(len(h.Records)))
	le.PutUint16(p[18:], h.NPadding)
	for i, r := range h.Records {
		q := p[packHeaderSize+i*recordSize:]
		le.PutUint32(q, r.Checksum)
		le.PutUint32(q[4:], uint32(r.Kind))
		le.PutUint64(q[8:], uint64(r.Offset))
		le.PutUint32(q[16:], uint32(r.Size))
		le.PutUint16(q[20:], r.Local)
		le.PutUint64(q[24:], uint64(r.Lsid))
	}
	h.Checksum = checksum.Sum(p, salt)
	le.PutUint32(p, h.Checksum)
}

// Shrink keeps the first n records, as is done with a pack whose record n was
// torn by a crash. n must be at most the number of records.
func (h *PackHeader) Shrink(n int, pbs uint32) {
	h.Records = h.Records[:n]
	h.Total, h.NPadding = 0, 0
	for _, r := range h.Records {
		h.Total += uint16(r.PB(pbs))
		if r.Kind == Padding {
			h.NPadding++
		}
	}
}

func corruptPack(lsid meta.Lsid, field, found, expected string) error {
	return walberr.Corrupt("read pack header", fmt.Sprintf("%s %s at lsid %d", field, found, lsid), expected)
}
