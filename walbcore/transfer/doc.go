// Package transfer holds the conversations in which servers move data, both
// sides of each: full and hash backup (storage to archive), log shipping
// (storage to proxy), diff shipping (proxy to archive), replication (archive to
// archive), and the question for latest snapshots (storage to archive).
//
// A role is one function. It starts behind the negotiation, on a [wire.Conn],
// and returns when the conversation is over. It knows bytes and order, nothing
// else: states, locks, files and policy belong to the server, which gives the
// role a small interface and is called back in the order that the protocol
// demands. The doc comment of every method says when it is called, what the
// peer is told before and after, and what must be durable when it returns.
//
//	function              runs at             peer
//	SendFullBackup        storage             ServeFullBackup
//	ServeFullBackup       archive             SendFullBackup
//	SendHashBackup        storage             ServeHashBackup
//	ServeHashBackup       archive             SendHashBackup
//	OfferWlog, SendWlog   storage             ServeWlog
//	ServeWlog             proxy               SendWlog
//	SendWdiff             proxy               ServeWdiff
//	ServeWdiff            archive             SendWdiff
//	SendRepl              archive (source)    ServeRepl
//	ServeRepl             archive (dest.)     SendRepl
//	AskLatest             storage             ServeLatest
//	ServeLatest           archive             AskLatest
//
// # Ending early
//
// A force stop is the end of ctx: reads and writes of the connection fail at
// once, the role waits for its goroutines, closes what it opened and returns
// the cause of ctx. It never sends a word about it; the caller closes the
// connection and the peer sees it broken. Every other failure ends the same
// way. A graceful stop is not looked at: the caller waits.
//
// A refusal by the peer is a *[wire.Refusal] with its text. A refusal by our
// side is the error that an interface's method returned: before the first
// status word a Serve function just returns it, and the server sends its text
// (that is what server handlers do with an error before they replied); later
// ones are sent by the role where the protocol has a place for them.
//
// An answer for which the peer has to make something durable first may take a
// minute, and while images are compared a side may be silent for 47 s; any other
// silence ends the role after the connection's own limit.
//
// # Streams
//
// Block stream (full backup, full replication), one frame for each bulk from
// the first block to the end of the volume, the last one may be shorter; there
// is no end mark:
//
//	zero bulk    u64 0
//	other        u64 size (> 0) | u32 checksum of the compressed bytes | size bytes
//
// Log stream; a unit is a pack header or the data of a record, whole PBs:
//
//	00 | u32 compressed size, 0 if stored | u32 plain size | bytes      snappy
//	01 end | 02 the sender failed
//
// Pack stream (package wdiff, sorted packs that are never marked as the end):
//
//	00 | u64 size | pack                          01 end
//
// Hash stream (hash backup, resync, hash round): the images of both sides are
// compared bulk by bulk, both directions run at the same time. Hashes are those
// of [checksum.Murmur3], one for each bulk in order; the last one may be shorter.
//
//	old image -> new    00 | 16 bytes of hash         01 end | 02 it cannot be read
//	new image -> old    03 for each bulk compared | 00 | u64 size | pack
//	                    01 end, behind all bulks | 02 the sender failed
//
// A record of a pack is one bulk that differs. A pack is sent when it is full,
// or reaches 256 MiB from its first record, or at the end. Holes of either
// image are not read: the hash of a zero bulk is computed once.
//
// # What may come in
//
// Any bytes from the peer: lengths are bounded before memory is given, packs
// and log packs are verified as a whole, and nothing unverified is committed.
// Memory is bounded by about 32 MiB for each transfer, whatever the size of
// the volume.
package transfer
