package wire

import (
	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// ReplResyncRequest opens the resync of a repl-sync3: the server's base image
// becomes that of the client by comparison. The server answers "ok".
//
//	u64 size | u64 bulk | state | uuid | uuid | cmpr | u32 seed
type ReplResyncRequest struct {
	Size        block.LB   // of the client's image
	Bulk        block.LB   // blocks per hash; the last one may be shorter
	Base        meta.State // what the server's image will be at
	UUID        meta.UUID  // of the log's life
	ArchiveUUID meta.UUID  // lineage of the client's image
	Compress    compress.Opt
	Seed        uint32 // of the hashes
}

// Encode writes the request.
func (m ReplResyncRequest) Encode(w *Writer) {
	w.U64(uint64(m.Size))
	w.U64(uint64(m.Bulk))
	w.State(m.Base)
	w.UUID(m.UUID)
	w.UUID(m.ArchiveUUID)
	w.CompressOpt(m.Compress)
	w.U32(m.Seed)
}

// Decode reads the request.
func (m *ReplResyncRequest) Decode(r *Reader) {
	m.Size = block.LB(r.U64())
	m.Bulk = block.LB(r.U64())
	m.Base = r.State()
	m.UUID = r.UUID()
	m.ArchiveUUID = r.UUID()
	m.Compress = r.CompressOpt()
	m.Seed = r.U32()
}

// ReplHashRequest opens a hash round of a repl-sync3: what differs between the
// server's latest image and one of the client's follows as a diff. The server
// answers "ok".
//
//	u64 size | u64 bulk | diff | uuid | cmpr | u32 seed
type ReplHashRequest struct {
	Size     block.LB // of the client's image
	Bulk     block.LB // blocks per hash; the last one may be shorter
	Diff     meta.Diff
	UUID     meta.UUID // of the log's life
	Compress compress.Opt
	Seed     uint32 // of the hashes
}

// Encode writes the request.
func (m ReplHashRequest) Encode(w *Writer) {
	w.U64(uint64(m.Size))
	w.U64(uint64(m.Bulk))
	w.Diff(m.Diff)
	w.UUID(m.UUID)
	w.CompressOpt(m.Compress)
	w.U32(m.Seed)
}

// Decode reads the request.
func (m *ReplHashRequest) Decode(r *Reader) {
	m.Size = block.LB(r.U64())
	m.Bulk = block.LB(r.U64())
	m.Diff = r.Diff()
	m.UUID = r.UUID()
	m.Compress = r.CompressOpt()
	m.Seed = r.U32()
}

// SnapshotInfo tells where a server is with a volume, in gather-latest-snap.
//
//	str volume | u64 gid | u64 time | u64 lsid
type SnapshotInfo struct {
	Volume    string
	Gid       meta.Gid  // [meta.MaxGid] where the server has no snapshot of the volume
	Timestamp uint64    // of Gid, Unix seconds; 0 where there is none
	Lsid      meta.Lsid // an archive knows none and says [meta.MaxLsid]
}

// Encode writes the info.
func (m SnapshotInfo) Encode(w *Writer) {
	w.Str(m.Volume)
	w.U64(uint64(m.Gid))
	w.U64(m.Timestamp)
	w.U64(uint64(m.Lsid))
}

// Decode reads the info. A volume without a name is refused.
func (m *SnapshotInfo) Decode(r *Reader) {
	m.Volume = r.StrMax(maxID)
	if m.Volume == "" && r.Err() == nil {
		r.Fail(malformed("SnapshotInfo:volId is empty", "an empty volume name", "a name"))
	}
	m.Gid = meta.Gid(r.U64())
	m.Timestamp = r.U64()
	m.Lsid = meta.Lsid(r.U64())
}
