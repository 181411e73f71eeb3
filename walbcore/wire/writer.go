package wire

import (
	"encoding/binary"
	"io"
)

// Writer encodes values one after another in the canonical form. The first
// failure is kept: it is what Err answers, and from then on nothing is written.
//
// A Writer belongs to one goroutine at a time.
type Writer struct {
	dst io.Writer
	err error
	pos uint64
	buf [9]byte
}

// NewWriter makes a Writer to dst. Every value is one small Write, so a dst
// with costly writes should be buffered.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// Err is the first failure, or nil; see [Reader.Err].
func (w *Writer) Err() error { return w.err }

// Fail keeps err as the failure unless there is one already.
func (w *Writer) Fail(err error) {
	if w.err == nil && err != nil {
		w.err = err
	}
}

// Pos is the number of bytes written so far.
func (w *Writer) Pos() uint64 { return w.pos }

// Write writes raw bytes; it makes a Writer an [io.Writer].
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.dst.Write(p)
	w.pos += uint64(n)
	w.Fail(err)
	return n, err
}

// Raw writes p without a length.
func (w *Writer) Raw(p []byte) {
	_, _ = w.Write(p) // a failure is kept in Err
}

// Bool writes a byte 0 or 1.
func (w *Writer) Bool(v bool) {
	if v {
		w.U8(1)
	} else {
		w.U8(0)
	}
}

// U8 writes a byte.
func (w *Writer) U8(v uint8) {
	w.buf[0] = v
	w.Raw(w.buf[:1])
}

// U16 writes two raw bytes.
func (w *Writer) U16(v uint16) {
	binary.LittleEndian.PutUint16(w.buf[:], v)
	w.Raw(w.buf[:2])
}

// U32 writes a variable integer of 32 bits.
func (w *Writer) U32(v uint32) { w.integer(int64(int32(v)), uint64(v)) }

// U64 writes a variable integer of 64 bits.
func (w *Writer) U64(v uint64) { w.integer(int64(v), v) }

// integer writes a variable integer given as signed and as unsigned value of
// its own width.
func (w *Writer) integer(signed int64, v uint64) {
	var size int
	var head uint8
	switch {
	case signed == int64(int8(signed)):
		if b := uint8(signed); b < 0x80 || b > 0x87 {
			w.U8(b)
			return
		}
		head, size = 0x84, 1
	case v < 1<<8:
		head, size = 0x80, 1
	case v < 1<<16:
		head, size = 0x81, 2
	case signed == int64(int16(signed)):
		head, size = 0x85, 2
	case v < 1<<32:
		head, size = 0x82, 4
	case signed == int64(int32(signed)):
		head, size = 0x86, 4
	default:
		head, size = 0x83, 8
	}
	w.buf[0] = head
	binary.LittleEndian.PutUint64(w.buf[1:], v)
	w.Raw(w.buf[:1+size])
}

// Str writes a string.
func (w *Writer) Str(s string) {
	w.U64(uint64(len(s)))
	if w.err != nil {
		return
	}
	n, err := io.WriteString(w.dst, s)
	w.pos += uint64(n)
	w.Fail(err)
}

// StrVec writes a vector of strings.
func (w *Writer) StrVec(v []string) {
	w.U64(uint64(len(v)))
	for _, s := range v {
		w.Str(s)
	}
}

// Ack writes an acknowledgement.
func (w *Writer) Ack() { w.U32(ackValue) }
