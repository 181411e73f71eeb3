// Package wdiff holds diff files: what changed on a volume between two
// snapshots. It reads and writes both kinds of file, merges files, and lays
// them over a base image.
//
// All integers are little-endian, structures are packed, LB is a logical block
// of 512 bytes. Checksums are those of package checksum with salt 0. The
// numbers below are frozen: they are what C++ WalB reads and writes.
//
// # File header, 32 bytes, both kinds
//
//	+0   u32  checksum of these 32 bytes
//	+4   u16  version, 2
//	+6   u8   type: 0 sorted, 1 indexed
//	+7   u8   reserved, 0
//	+8   u64  reserved, 0
//	+16  [16] uuid of the log life that the diff comes from
//
// # Sorted file
//
// Records ascend by address over the whole file and do not overlap. Packs are
// not aligned, nothing lies between them.
//
//	header(32) | pack | pack | ... | end pack
//
//	pack = block of 4096 bytes | data of record 0 | data of record 1 | ...
//
//	block:  +0   u32  checksum of the 4096 bytes
//	        +4   u16  n_records, 1..127 (0 in the end pack)
//	        +6   u8   flags: bit 0 end of file
//	        +7   u8   reserved
//	        +8   u32  total_size: sum of data_size
//	        +12  u32  reserved
//	        +16  records of 32 bytes, rest zero
//
//	record: +0   u64  io_address [LB]
//	        +8   u32  io_blocks [LB]
//	        +12  u8   flags: bit 1 all-zero, bit 2 discard; bit 0 is ignored
//	        +13  u8   codec of the data (package compress)
//	        +14  u16  reserved
//	        +16  u32  data_offset from the end of the block [byte]
//	        +20  u32  data_size, stored [byte]; 0 unless normal
//	        +24  u32  checksum of the stored data; 0 unless normal
//	        +28  u32  reserved
//
// A record is normal when neither all-zero nor discard is set. Its data expand
// to exactly io_blocks*512 bytes; data that do not shrink are stored as they
// are with codec 0, whatever the file's codec. A pack is closed when it holds
// 127 records, or when it is not empty and would grow beyond 32 MiB of data.
//
// # Indexed file
//
// Written where IOs arrive in any order and overlap (a proxy receiving a log).
//
//	header(32) | image | image | ... | 0-7 zero bytes | index record(48) * n | super(24)
//
//	image  = the stored data of one whole IO, in order of arrival
//
//	index record: +0  u64 io_address [LB]     +24 u32 data_size of the image [byte]
//	              +8  u32 io_blocks [LB]      +28 u32 io_offset of the piece in the image [LB]
//	              +12 u8  flags               +32 u32 orig_blocks of the image [LB]
//	              +13 u8  codec               +36 u32 reserved
//	              +14 u16 reserved            +40 u32 checksum of the stored image
//	              +16 u64 data_offset of the  +44 u32 checksum of these 48 bytes
//	                      image in the file
//
//	super:        +0  u64 index_offset        +16 u32 reserved
//	              +8  u32 n_records           +20 u32 checksum of these 24 bytes
//	              +12 u32 n_data: IOs added
//
// The index starts at a multiple of 8 and ascends without overlap. Every IO is
// cut at addresses that are multiples of the piece's size, a power of two of at
// most 2048 LB, so that of two pieces that overlap one always covers the other;
// a newer piece replaces what it covers.
//
// # What may come in
//
// The package does no network and opens no file: it works on [io.ReaderAt],
// [io.Reader] and [io.Writer]. The only goroutines are those of [EachPack] and
// [Apply], and both wait for them. Corrupt bytes give a walberr.Error with code
// checksum that names the file, the offset, what was found and what was
// expected. Lengths are bounded before anything is allocated for them.
package wdiff
