// Package wire is the language that WalB's programs speak over TCP, and the
// serializer of the small files that servers keep: integers, strings and
// structures ([Reader], [Writer]), connections with timeouts ([Conn]), the
// opening of a conversation ([ClientHello], [ServerHello]) and a type for
// every message.
//
// It moves bytes and judges their form. What a message means, and which
// answer is right, is the business of the servers and of package client.
//
// # A conversation
//
// One command per connection. There is no framing and no encryption: values
// follow one another.
//
//	client                                server
//	str clientID | str protocol | u32 1   ->
//	                                      <- str serverID | str "ok" or refusal text
//	body of the request                   ->
//	                                      <- str "ok", "accept" or refusal text, then values
//	                                      <- half-close
//	close                                 ->
//
// # Values
//
// Everything is little endian and nothing is aligned or padded.
//
//	bool, u8          1 byte; a bool is written 0 or 1, any non-zero byte is true
//	u16               2 bytes, fixed
//	u32, u64, sizes   variable integer, 1 to 9 bytes
//	str               u64 length, then that many raw bytes
//	vector            u64 count, then the elements
//	uuid              16 raw bytes
//	time              u64 Unix seconds
//	size              u64 in logical blocks of 512 bytes, unless named otherwise
//	structure         its fields in order, nothing around them
//
// A variable integer begins with a header byte:
//
//	80 81 82 83   1, 2, 4, 8 bytes follow, zero-extended
//	84 85 86 87   1, 2, 4, 8 bytes follow, sign-extended
//	00..7f        the value itself, 0..127
//	88..ff        the value itself as a signed byte, -120..-1, sign-extended
//
// The writer takes the first of these that holds the value x of W bits:
// x as a signed byte (84 in front when the byte is 80..87); 80; 81; 85; 82;
// 86; 83. So the all-ones value of either width is the single byte ff. The
// reader takes any form, except 83 and 87 for 32-bit targets.
//
// Structures begin with a constant and hold:
//
//	snap     11 03 | u64 gidB | u64 gidE
//	diff     12 03 | bool mergeable | bool comp | u64 timestamp | snap B | snap E | u64 size in bytes
//	state    13 03 | bool applying | u64 timestamp | snap B | snap E
//	lsidgid  14 03 | bool mergeable | u64 timestamp | u64 lsid | u64 gid
//	cmpr     u8 type | u8 level | u8 cpus
//	ack      82 77 61 6c 62
package wire

// Version is the protocol version, sent in every hello. There is no other.
const Version uint32 = 1

// Words that stand where a status is expected. Any other string is a refusal.
const (
	OK              = "ok"                // done
	Accept          = "accept"            // work goes on after the reply
	TooNewDiff      = "too-new-diff"      // wdiff-transfer: a predecessor is missing
	TooOldDiff      = "too-old-diff"      // wdiff-transfer: already contained
	DifferentUUID   = "different-uuid"    // wdiff-transfer: another log life
	StoppedWord     = "stopped"           // wdiff-transfer: the archive volume is stopped
	WdiffRecvWord   = "wdiff-recv"        // wdiff-transfer: another proxy is sending
	SyncingWord     = "syncing"           // wdiff-transfer: a full or hash backup runs
	ArchiveNotFound = "archive-not-found" // wdiff-transfer: the volume directory is missing
	SmallerLvSize   = "smaller-lv-size"   // wdiff-transfer: the archive image is too small
)

// Host types: answers to get host-type, and the sender's kind in transfers.
const (
	HostStorage = "storage"
	HostProxy   = "proxy"
	HostArchive = "archive"
)

// Control bytes stand between the units of a transfer stream.
const (
	CtlNext  uint8 = 0 // a unit follows
	CtlEnd   uint8 = 1 // no more units
	CtlError uint8 = 2 // the sender failed
	CtlDummy uint8 = 3 // keeps the peer's timeout from passing
)

// Protocol names: the second string of a hello.
const (
	ProtoStatus      = "status"
	ProtoGet         = "get"
	ProtoVersion     = "version"
	ProtoSleep       = "sleep"
	ProtoShutdown    = "shutdown"
	ProtoInitVol     = "init-vol"
	ProtoClearVol    = "clear-vol"
	ProtoResetVol    = "reset-vol"
	ProtoStart       = "start"
	ProtoStop        = "stop"
	ProtoKick        = "kick"
	ProtoFullBkp     = "full-bkp"
	ProtoHashBkp     = "hash-bkp"
	ProtoSetFullScan = "set-full-scan-bps"
	ProtoSnapshot    = "snapshot"
	ProtoArchiveInfo = "archive-info"
	ProtoRestore     = "restore"
	ProtoDelRestored = "del-restored"
	ProtoReplicate   = "replicate"

	ProtoFullSync      = "dirty-full-sync3"   // storage to archive
	ProtoHashSync      = "dirty-hash-sync2"   // storage to archive
	ProtoWlogTransfer  = "wlog-transfer"      // storage to proxy
	ProtoWdiffTransfer = "wdiff-transfer"     // proxy to archive
	ProtoReplSync      = "repl-sync3"         // archive to archive
	ProtoGatherLatest  = "gather-latest-snap" // storage to archive

	// ProtoFeatures is our own: it asks which extensions a peer has. An
	// original refuses it as a bad protocol.
	ProtoFeatures = "walbsh-features"
)

// Kinds of replication that a repl-sync3 server answers after the offer.
const (
	ReplFull   uint32 = 0
	ReplResync uint32 = 1
	ReplNone   uint32 = 2 // straight to the rounds
)

// Rounds that a repl-sync3 client chooses after each state of the server.
const (
	RoundStop uint32 = 0
	RoundHash uint32 = 1
	RoundDiff uint32 = 2
)
