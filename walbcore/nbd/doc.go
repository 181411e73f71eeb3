// Package nbd serves block devices over the Network Block Device protocol, so
// that nbd-client, qemu, nbdcopy, fio and the like can use them. A [Server] has
// exports by name, comes and goes with its context, and waits for all that it
// started. It has no authentication and no TLS: who reaches the address can use
// what is exported.
//
// What may come in: anything, from anywhere. Lengths are bounded before
// memory is taken, a handshake has a time limit, and what makes no sense ends
// the connection.
//
// # Protocol
//
// All numbers are big-endian. Handshake ("fixed newstyle"):
//
//	S: "NBDMAGIC" "IHAVEOPT" u16 1|2 (fixed newstyle, no zeroes)
//	C: u32 flags, of the same bits
//	C: "IHAVEOPT" u32 option u32 length data       again and again
//	S: u64 0x3e889045565a9 u32 option u32 type u32 length data
//
//	option               data                           answer
//	 1 export name       name                           u64 size, u16 flags, 124 zeros unless "no zeroes"; no header
//	 2 abort             -                              ack, close
//	 3 list              -                              server (u32 length, name) for each export, ack
//	 6 info, 7 go        u32 length, name,              info export (u16 0, u64 size, u16 flags),
//	                     u16 count, u16 infos           info block size (u16 3, u32 512, u32 4096, u32 32 MiB), ack
//	 8 structured reply  -                              ack
//	 9 list, 10 set      u32 length, name,              meta context (u32 id, "base:allocation"), ack
//	   meta context      u32 count, (u32 length, query)
//	 others                                             unsupported
//
// After export name or go:
//
//	C: u32 0x25609513 u16 flags u16 type u64 cookie u64 offset u32 length [data]
//	S: u32 0x67446698 u32 error u64 cookie [data]                               simple reply
//	S: u32 0x668e33ef u16 flags u16 type u64 cookie u32 length payload           structured reply
//
// Types: 0 read, 1 write, 2 disconnect, 3 flush, 4 trim, 6 write zeroes, 7 block
// status. Reads and block status are answered by one structured chunk where
// that was negotiated; block status tells holes, as the device knows them.
// Offsets and lengths are multiples of 512. Requests of a connection run beside
// each other; a flush covers the writes that were answered before it.
package nbd
