package wire

import (
	"fmt"
	"math"

	"walbsh/walbcore/walberr"
)

// ProtoVolumeIO is our own: a client reads and writes a volume at a storage. A
// storage offers it when told so, and then lists it among its features.
const ProtoVolumeIO = "walbsh-volume-io"

// Operations of a VolumeIORequest.
const (
	IOEnd     uint8 = 0 // the client has finished
	IOWrite   uint8 = 1
	IORead    uint8 = 2
	IOFlush   uint8 = 3 // what was acknowledged survives a power cut
	IODiscard uint8 = 4
)

// MaxIO is the most data that one request of walbsh-volume-io carries [bytes].
const MaxIO = 4 << 20

// VolumeIORequest is one request of a walbsh-volume-io conversation:
//
//	client                                    server
//	strvec [volume]                       ->
//	                                      <-  str "ok" or refusal, u64 size of the volume [LB]
//	u8 op | u64 offset | u64 length | data ->            repeated
//	                                      <-  str "ok" or refusal, data
//	u8 0 | u64 0 | u64 0                  ->
//
// Offset and length are bytes and multiples of 512. A write carries length
// bytes of data, the answer to a read too; both have at most MaxIO. A refusal
// of one request does not end the conversation.
type VolumeIORequest struct {
	Op     uint8
	Offset uint64
	Length uint64
}

// DataLen is the number of bytes of data that the request or its answer
// carries.
func (m VolumeIORequest) DataLen() uint64 {
	if m.Op == IOWrite || m.Op == IORead {
		return m.Length
	}
	return 0
}

// Encode writes the request.
func (m VolumeIORequest) Encode(w *Writer) {
	w.U8(m.Op)
	w.U64(m.Offset)
	w.U64(m.Length)
}

// Decode reads the request, and refuses operations and sizes that do not
// exist.
func (m *VolumeIORequest) Decode(r *Reader) {
	m.Op, m.Offset, m.Length = r.U8(), r.U64(), r.U64()
	bad := func(what string, value uint64, expected string) {
		r.Fail(walberr.Corrupt(ProtoVolumeIO, fmt.Sprintf("%s %d", what, value), expected))
	}
	switch {
	case r.Err() != nil:
	case m.Op > IODiscard:
		bad("operation", uint64(m.Op), "0 to 4")
	case m.DataLen() > MaxIO:
		bad("length", m.Length, fmt.Sprintf("at most %d", MaxIO))
	case m.Offset > math.MaxInt64 || m.Length > math.MaxInt64-m.Offset:
		bad("offset", m.Offset, "a range within 63 bits")
	}
}
