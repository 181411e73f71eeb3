package wire

import (
	"bytes"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// Message is a structure that knows its form on the wire or in a file. Decode
// leaves a failure in the Reader and the message undefined.
type Message interface {
	Encode(w *Writer)
	Decode(r *Reader)
}

// Marshal gives the bytes that encode writes; they are the content of a small
// file, or a message on its own:
//
//	wire.Marshal(info.Encode)
//	wire.Marshal(func(w *wire.Writer) { w.Str("SyncReady") })
func Marshal(encode func(w *Writer)) []byte {
	var b bytes.Buffer
	encode(NewWriter(&b)) // a buffer takes everything
	return b.Bytes()
}

// Unmarshal gives p to decode and answers the failure, if any. Bytes behind
// the values are ignored, as the original does when it loads a file.
func Unmarshal(p []byte, decode func(r *Reader)) error {
	r := NewReader(bytes.NewReader(p))
	decode(r)
	return r.Err()
}

// ArchiveInfo says where and how a proxy sends to an archive. It is the body
// of archive-info add and update, the answer of archive-info get, and the
// content of a proxy's NAME.archive file.
//
//	str host | u16 port | cmpr | u32 delay
type ArchiveInfo struct {
	Addr      Addr
	Compress  compress.Opt
	SendDelay uint32 // how long received diffs wait before they are sent, in seconds
}

// Encode writes the info.
func (m ArchiveInfo) Encode(w *Writer) {
	w.Addr(m.Addr)
	w.CompressOpt(m.Compress)
	w.U32(m.SendDelay)
}

// Decode reads the info and checks address and compression.
func (m *ArchiveInfo) Decode(r *Reader) {
	m.Addr = r.Addr()
	m.Compress = r.CompressOpt()
	m.SendDelay = r.U32()
}

// String prints the info as the original's controller does, "host:port type:level:cpus delay".
func (m ArchiveInfo) String() string {
	return fmt.Sprintf("%s %s %d", m.Addr, m.Compress, m.SendDelay)
}

// Sub-commands of archive-info.
const (
	InfoAdd    = "add"
	InfoUpdate = "update"
	InfoGet    = "get"
	InfoDelete = "delete"
	InfoList   = "list"
)

// ArchiveInfoRequest is the body of archive-info.
//
//	vector [sub, volume] | all but list: str name | add, update: ArchiveInfo
type ArchiveInfoRequest struct {
	Words []string    // sub-command and volume; a server judges their number and content
	Name  string      // of the archive; valid iff NeedsName
	Info  ArchiveInfo // valid iff NeedsInfo
}

// Sub is the sub-command, "" when the words do not hold one.
func (m ArchiveInfoRequest) Sub() string {
	if len(m.Words) != 2 {
		return ""
	}
	return m.Words[0]
}

// NeedsName reports whether the sub-command is followed by the archive's name.
func (m ArchiveInfoRequest) NeedsName() bool {
	switch m.Sub() {
	case InfoAdd, InfoUpdate, InfoGet, InfoDelete:
		return true
	}
	return false
}

// NeedsInfo reports whether the name is followed by an [ArchiveInfo].
func (m ArchiveInfoRequest) NeedsInfo() bool {
	return m.Sub() == InfoAdd || m.Sub() == InfoUpdate
}

// Encode writes the request.
func (m ArchiveInfoRequest) Encode(w *Writer) {
	w.StrVec(m.Words)
	if m.NeedsName() {
		w.Str(m.Name)
	}
	if m.NeedsInfo() {
		m.Info.Encode(w)
	}
}

// Decode reads the request. Behind words that are not understood nothing is read.
func (m *ArchiveInfoRequest) Decode(r *Reader) {
	m.Words = r.StrVec()
	if m.NeedsName() {
		m.Name = r.StrMax(maxID)
	}
	if m.NeedsInfo() {
		m.Info.Decode(r)
	}
}

// FullSyncRequest opens a dirty-full-sync3 or a dirty-hash-sync2, from storage
// to archive.
//
//	str hosttype | str volume | u64 size | u64 time | u64 bulk | cmpr
type FullSyncRequest struct {
	HostType  string // must be [HostStorage]
	Volume    string
	Size      block.LB // of the volume
	Timestamp uint64   // of the backup, Unix seconds
	Bulk      block.LB // blocks per frame; the last one may be shorter
	Compress  compress.Opt
}

// Encode writes the request.
func (m FullSyncRequest) Encode(w *Writer) {
	w.Str(m.HostType)
	w.Str(m.Volume)
	w.U64(uint64(m.Size))
	w.U64(m.Timestamp)
	w.U64(uint64(m.Bulk))
	w.CompressOpt(m.Compress)
}

// Decode reads the request.
func (m *FullSyncRequest) Decode(r *Reader) {
	m.HostType = r.StrMax(maxID)
	m.Volume = r.StrMax(maxID)
	m.Size = block.LB(r.U64())
	m.Timestamp = r.U64()
	m.Bulk = block.LB(r.U64())
	m.Compress = r.CompressOpt()
}

// WlogRequest opens a wlog-transfer, from storage to proxy.
//
//	str volume | uuid | u32 pbs | u32 salt | u64 size | u64 maxlog
type WlogRequest struct {
	Volume   string
	UUID     meta.UUID // of the log's life
	PBS      uint32    // physical block size of the log, in bytes
	Salt     uint32    // of the log's checksums
	Size     block.LB  // of the volume
	MaxLogPB uint64    // most log that will follow, in physical blocks
}

// Encode writes the request.
func (m WlogRequest) Encode(w *Writer) {
	w.Str(m.Volume)
	w.UUID(m.UUID)
	w.U32(m.PBS)
	w.U32(m.Salt)
	w.U64(uint64(m.Size))
	w.U64(m.MaxLogPB)
}

// Decode reads the request.
func (m *WlogRequest) Decode(r *Reader) {
	m.Volume = r.StrMax(maxID)
	m.UUID = r.UUID()
	m.PBS = r.U32()
	m.Salt = r.U32()
	m.Size = block.LB(r.U64())
	m.MaxLogPB = r.U64()
}

// WdiffRequest opens a wdiff-transfer, from proxy to archive.
//
//	str volume | str hosttype | uuid | u32 0 | u64 size | diff
type WdiffRequest struct {
	Volume   string
	HostType string    // [HostProxy]; a tool may send [HostArchive]
	UUID     meta.UUID // of the log's life
	Size     block.LB  // of the volume
	Diff     meta.Diff // what follows
}

// Encode writes the request.
func (m WdiffRequest) Encode(w *Writer) {
	w.Str(m.Volume)
	w.Str(m.HostType)
	w.UUID(m.UUID)
	w.U32(0)
	w.U64(uint64(m.Size))
	w.Diff(m.Diff)
}

// Decode reads the request. The unused number may hold anything.
func (m *WdiffRequest) Decode(r *Reader) {
	m.Volume = r.StrMax(maxID)
	m.HostType = r.StrMax(maxID)
	m.UUID = r.UUID()
	r.U32()
	m.Size = block.LB(r.U64())
	m.Diff = r.Diff()
}

// ReplOffer is what a repl-sync3 client says after its volume was accepted.
//
//	uuid | bool resync
type ReplOffer struct {
	ArchiveUUID meta.UUID // lineage of the client's base image
	Resync      bool      // the server's image may be overwritten by comparison
}

// Encode writes the offer.
func (m ReplOffer) Encode(w *Writer) {
	w.UUID(m.ArchiveUUID)
	w.Bool(m.Resync)
}

// Decode reads the offer.
func (m *ReplOffer) Decode(r *Reader) {
	m.ArchiveUUID = r.UUID()
	m.Resync = r.Bool()
}

// ReplFullRequest opens the full replication of a repl-sync3. The server
// answers "ok" and, as u64, the block to begin with.
//
//	u64 size | u64 bulk | state | uuid | cmpr
type ReplFullRequest struct {
	Size     block.LB // of the base image
	Bulk     block.LB // blocks per frame; the last one may be shorter
	Base     meta.State
	UUID     meta.UUID // of the log's life
	Compress compress.Opt
}

// Encode writes the request.
func (m ReplFullRequest) Encode(w *Writer) {
	w.U64(uint64(m.Size))
	w.U64(uint64(m.Bulk))
	w.State(m.Base)
	w.UUID(m.UUID)
	w.CompressOpt(m.Compress)
}

// Decode reads the request.
func (m *ReplFullRequest) Decode(r *Reader) {
	m.Size = block.LB(r.U64())
	m.Bulk = block.LB(r.U64())
	m.Base = r.State()
	m.UUID = r.UUID()
	m.Compress = r.CompressOpt()
}

// ReplDiffRequest opens a diff round of a repl-sync3. The server answers "ok".
//
//	u64 size | u32 0 | uuid | diff
type ReplDiffRequest struct {
	Size block.LB  // of the base image
	UUID meta.UUID // of the log's life, as in the diff file
	Diff meta.Diff // what follows
}

// Encode writes the request.
func (m ReplDiffRequest) Encode(w *Writer) {
	w.U64(uint64(m.Size))
	w.U32(0)
	w.UUID(m.UUID)
	w.Diff(m.Diff)
}

// Decode reads the request. The unused number may hold anything.
func (m *ReplDiffRequest) Decode(r *Reader) {
	m.Size = block.LB(r.U64())
	r.U32()
	m.UUID = r.UUID()
	m.Diff = r.Diff()
}

// FullReplState is the content of an archive's full_repl_state file: how far
// a full replication that it received had come.
//
//	state | u64 progress | u64 time
type FullReplState struct {
	Base      meta.State // the state that the finished image will have
	Progress  block.LB   // blocks that are safely in the image
	Timestamp uint64     // when the replication began, Unix seconds
}

// Encode writes the state.
func (m FullReplState) Encode(w *Writer) {
	w.State(m.Base)
	w.U64(uint64(m.Progress))
	w.U64(m.Timestamp)
}

// Decode reads the state.
func (m *FullReplState) Decode(r *Reader) {
	m.Base = r.State()
	m.Progress = block.LB(r.U64())
	m.Timestamp = r.U64()
}
