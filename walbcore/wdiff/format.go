package wdiff

import (
	"encoding/binary"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Sizes in bytes and limits of the format.
const (
	HeaderSize     = 32                           // file header
	PackHeaderSize = 4096                         // block at the head of a pack
	MaxPackRecords = 127                          // records in a pack
	MaxPackData    = 32 << 20                     // data in a pack of more than one record
	MaxPackSize    = PackHeaderSize + MaxPackData // a pack in a stream

	recordSize      = 32
	indexRecordSize = 48
	indexSumAt      = 44 // offset of an index record's checksum in it
	superSize       = 24
	superSumAt      = 20 // offset of the super block's checksum in it
	recordsAt       = 16 // offset of record 0 in the pack block
	version         = 2
	flagEnd         = 1 // pack flag
	flagAllZero     = 2 // record flag
	flagDiscard     = 4 // record flag
)

// DefaultMaxBlocks is the longest record, in LB, that servers write.
const DefaultMaxBlocks block.LB = 2048

// MaxImageBlocks is the longest normal record, in LB, that is read: 32 MiB,
// one more block than the longest write that a log can hold. Discard and
// all-zero records have no such limit.
const MaxImageBlocks block.LB = 65536

// Kind says what a record does to its blocks.
type Kind uint8

// The kinds.
const (
	Normal  Kind = iota // the blocks are overwritten with the record's data
	AllZero             // the blocks become zero
	Discard             // the blocks lose their content; they read as zero in a virtual image
)

// String gives "normal", "allzero" or "discard".
func (k Kind) String() string {
	switch k {
	case Normal:
		return "normal"
	case AllZero:
		return "allzero"
	case Discard:
		return "discard"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

func (k Kind) flags() byte {
	switch k {
	case AllZero:
		return flagAllZero
	case Discard:
		return flagDiscard
	}
	return 0
}

// Header is the file header.
type Header struct {
	Indexed bool      // the file is indexed, else sorted
	UUID    meta.UUID // log life of the source volume
}

// Append encodes the header behind b.
func (h Header) Append(b []byte) []byte {
	var p [HeaderSize]byte
	le.PutUint16(p[4:], version)
	if h.Indexed {
		p[6] = 1
	}
	copy(p[16:], h.UUID[:])
	le.PutUint32(p[0:], checksum.Sum(p[:], 0))
	return append(b, p[:]...)
}

// DecodeHeader reads a file header. name says where the bytes come from.
// Reserved bytes are ignored.
func DecodeHeader(name string, p []byte) (Header, error) {
	if len(p) < HeaderSize {
		return Header{}, corrupt(name, 0, fmt.Sprintf("file header cut short at %d bytes", len(p)), "32 bytes")
	}
	p = p[:HeaderSize]
	if err := checkSum(name, 0, "file header", p, 0); err != nil {
		return Header{}, err
	}
	if v := le.Uint16(p[4:]); v != version {
		return Header{}, corrupt(name, 4, fmt.Sprintf("wdiff version %d", v), "2")
	}
	if p[6] > 1 {
		return Header{}, corrupt(name, 6, fmt.Sprintf("wdiff type %d", p[6]), "0 (sorted) or 1 (indexed)")
	}
	return Header{Indexed: p[6] == 1, UUID: meta.UUID(p[16:32])}, nil
}

var le = binary.LittleEndian

// corrupt makes the error about damaged bytes at the offset of the named file
// or stream.
func corrupt(name string, off int64, found, expected string) error {
	return walberr.Corrupt("read "+name, fmt.Sprintf("%s at offset %d", found, off), expected)
}

// checkSum verifies a structure that contains its own checksum, at sumAt in it.
func checkSum(name string, off int64, what string, p []byte, sumAt int) error {
	if sum := checksum.Sum(p, 0); sum != 0 {
		stored := le.Uint32(p[sumAt:])
		return corrupt(name, off, fmt.Sprintf("%s with checksum %08x", what, stored), fmt.Sprintf("%08x", stored+sum))
	}
	return nil
}

// checkData verifies stored data against the checksum in their record.
func checkData(name string, off int64, data []byte, want uint32) error {
	if sum := checksum.Sum(data, 0); sum != want {
		return &DataError{Sum: sum, Err: corrupt(name, off, fmt.Sprintf("data of %d bytes with checksum %08x", len(data), sum), fmt.Sprintf("%08x", want))}
	}
	return nil
}

// DataError says that stored data do not match the checksum in their record.
type DataError struct {
	Sum uint32 // of the data
	Err error  // the full text, with code Checksum
}

// Error gives the full text.
func (e *DataError) Error() string { return e.Err.Error() }

// Unwrap gives the error with the code.
func (e *DataError) Unwrap() error { return e.Err }

// checkOrder demands that a record begins at or behind the end of the one before.
func checkOrder(name string, off int64, addr, blocks, after block.LB) error {
	if addr < after {
		return corrupt(name, off, fmt.Sprintf("record %d+%d", addr, blocks),
			fmt.Sprintf("sorted records that do not overlap, the next at %d or above", after))
	}
	return nil
}

// kindOf judges the flags byte. Bit 0 and unknown bits are ignored.
func kindOf(flags byte) (Kind, bool) {
	switch flags & (flagAllZero | flagDiscard) {
	case 0:
		return Normal, true
	case flagAllZero:
		return AllZero, true
	case flagDiscard:
		return Discard, true
	}
	return 0, false
}

// checkShape judges the fields that both kinds of record share.
func checkShape(name string, off int64, addr, blocks block.LB, kind Kind, codec compress.Type, size uint32) error {
	switch {
	case !addr.Valid() || !(addr + blocks).Valid():
		return corrupt(name, off, fmt.Sprintf("record %d+%d", addr, blocks), "an address whose bytes fit 63 bits")
	case kind != Normal:
		return nil
	case !codec.Valid():
		return corrupt(name, off, fmt.Sprintf("record %d+%d with codec %d", addr, blocks, uint8(codec)), "0 to 5")
	case blocks == 0 || blocks > MaxImageBlocks:
		return corrupt(name, off, fmt.Sprintf("normal record of %d blocks", blocks), fmt.Sprintf("1 to %d", MaxImageBlocks))
	case size > MaxPackData:
		return corrupt(name, off, fmt.Sprintf("record %d+%d with %d bytes of data", addr, blocks, size), fmt.Sprintf("at most %d", MaxPackData))
	}
	return nil
}

// grow gives a slice of n bytes in buf's capacity or in a new buffer.
func grow(buf []byte, n int) []byte {
	if cap(buf) < n {
		return make([]byte, n)
	}
	return buf[:n]
}
