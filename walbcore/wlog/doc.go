// Package wlog reads and writes the log of a walb device: log packs, as they
// lie in the ring of a log device, travel from storage to proxy and are kept
// in wlog files.
//
// An lsid counts physical blocks (PB, pbs bytes, 512 or 4096) of log since the
// device was formatted or reset. A pack is a header block and the data blocks
// of its records, contiguous in lsids:
//
//	lsid          +1                 +1+n0        +1+n0+n1
//	| pack header | data of record 0 | data of 1  | next pack header …
//
// Everything is little-endian; LB is a logical block of 512 bytes.
//
// # Pack header: one PB, the rest zero
//
//	off size field
//	  0    4 checksum of the PB with the log's salt
//	  4    2 sector type, 3
//	  6    2 total_io_size: data of this pack [PB], padding included
//	  8    8 lsid of this block
//	 16    2 n_records, at most (pbs-24)/32: 15 or 127
//	 18    2 n_padding, 0 or 1
//	 20    4 0
//	 24   32 per record
//
// # Record: 32 bytes
//
//	off size field
//	  0    4 checksum of the first io_size*512 data bytes with the salt;
//	         0 for padding and discard
//	  4    4 flags: 1 exist (always), 2 padding, 4 discard
//	  8    8 offset on the device [LB], 0 for padding
//	 16    4 io_size [LB]: write 1..65535, padding 0..65535 and whole PBs,
//	         discard 1..2^32-1
//	 20    2 lsid - lsid of the pack
//	 22    2 0
//	 24    8 lsid of the first data block
//
// A write takes ceil(io_size*512/pbs) blocks; what lies behind io_size*512
// bytes in the last one is undefined and not covered by the checksum. A
// padding fills the ring up to its end, where a write would not fit; its
// blocks are undefined. A discard takes no block: its lsid is that of the data
// that follows it.
//
// The next pack's lsid is lsid + 1 + total_io_size. The log ends where no
// valid header with the expected lsid is found. The end block, in files only,
// is a header with lsid 2^64-1 and no records.
//
// # wlog file: header, packs, end block (may be missing)
//
//	off size field of the 4096-byte header, the rest zero
//	  0    2 sector type, 4
//	  2    2 version, 2
//	  4    2 header size, 4096
//	  6    2 0
//	  8    4 checksum of the 4096 bytes with salt 0
//	 12    4 salt of packs and data
//	 16    4 512
//	 20    4 pbs
//	 24   16 uuid
//	 40    8 begin lsid
//	 48    8 end lsid, may be larger than the real end, 2^64-1 if unknown
//
// These formats are frozen: disks and peers hold them.
//
// What may come in: any bytes. Decoding moves bytes and checks every rule
// above; nothing is allocated beyond the length of the input.
package wlog

import (
	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
)

// Sector types, the u16 that tells blocks of a log apart.
const (
	SectorSuper  = 1 // super sector of a log device
	SectorPack   = 3 // pack header
	SectorHeader = 4 // header of a wlog file
)

// Version is the version of the log format, in super sectors and file headers.
const Version = 2

const (
	// MaxIO is the longest write or padding a record can hold.
	MaxIO block.LB = 65535
	// MaxDiscard is the longest discard a record can hold.
	MaxDiscard block.LB = 1<<32 - 1
	// MaxTotal is the largest number of data blocks of a pack [PB].
	MaxTotal = 65535
	// MaxLsid is the largest lsid of a block. The value above it, all ones,
	// marks the end block and "no lsid".
	MaxLsid = meta.MaxLsid - 1
)

const (
	packHeaderSize = 24
	recordSize     = 32
)

// ValidPBS reports whether pbs is a physical block size of the format.
func ValidPBS(pbs uint32) bool { return pbs == 512 || pbs == 4096 }

// MaxRecords is the number of records a pack header of pbs bytes can hold.
func MaxRecords(pbs uint32) int { return int(pbs-packHeaderSize) / recordSize }

// PB is the number of physical blocks of pbs bytes that n logical blocks of
// data take, rounded up.
func PB(n block.LB, pbs uint32) uint64 {
	per := block.LB(pbs / block.Size)
	return uint64(n/per) + uint64(min(n%per, 1))
}
