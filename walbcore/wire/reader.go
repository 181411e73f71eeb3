package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"walbsh/walbcore/walberr"
)

// Bounds that the reader sets; the protocol itself has none.
const (
	MaxStr   = 64 << 20 // bytes in a string, and in all strings of one vector together
	MaxCount = 1 << 20  // elements of a vector
)

// growStep is how much memory a length from the wire gets at once before the
// bytes are there.
const growStep = 64 << 10

// Reader decodes values one after another. The first failure is kept: it is
// what Err answers, and from then on every method returns zero values without
// reading. So a whole message is read first and Err is looked at once.
//
// A Reader belongs to one goroutine at a time.
type Reader struct {
	src io.Reader
	err error
	pos uint64
	buf [8]byte
}

// NewReader makes a Reader of src. It reads no byte further than the values
// asked for, so a src with costly reads should be buffered.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Err is the first failure, or nil. It is an [*Error] with the code Checksum
// for malformed values, Unreachable for an early end, Timeout for silence;
// or the cause of the context that ended the connection.
func (r *Reader) Err() error { return r.err }

// Fail keeps err as the failure unless there is one already. Message decoders
// use it for values that are well formed but not allowed.
func (r *Reader) Fail(err error) {
	if r.err == nil && err != nil {
		r.err = err
	}
}

// Pos is the number of bytes consumed so far.
func (r *Reader) Pos() uint64 { return r.pos }

// Read reads raw bytes for streaming consumers; it makes a Reader an
// [io.Reader]. It returns io.EOF at the clean end of the stream without
// keeping it as a failure.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.src.Read(p)
	r.pos += uint64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Fail(readError(err, "Socket:readSome", r.pos, len(p)-n))
		return n, r.err
	}
	return n, err
}

// Raw fills p.
func (r *Reader) Raw(p []byte) { r.fill(p, "Socket:read:readSize is zero") }

// fill reads len(p) bytes; eofText is the original's text for an early end.
func (r *Reader) fill(p []byte, eofText string) bool {
	if r.err != nil {
		return false
	}
	n, err := io.ReadFull(r.src, p)
	r.pos += uint64(n)
	if err != nil {
		if len(p) == n {
			return true
		}
		r.err = readError(err, eofText, r.pos, len(p)-n)
		return false
	}
	return true
}

// value fills the first n bytes of the scratch buffer.
func (r *Reader) value(n int) []byte {
	if !r.fill(r.buf[:n], "stream:read") {
		return nil
	}
	return r.buf[:n]
}

// Bool reads a byte; any non-zero one is true.
func (r *Reader) Bool() bool { return r.U8() != 0 }

// U8 reads a byte.
func (r *Reader) U8() uint8 {
	if b := r.value(1); b != nil {
		return b[0]
	}
	return 0
}

// U16 reads two raw bytes.
func (r *Reader) U16() uint16 {
	if b := r.value(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// U32 reads a variable integer of 32 bits. Eight-byte forms are refused.
func (r *Reader) U32() uint32 { return uint32(r.integer(4)) }

// U64 reads a variable integer of 64 bits.
func (r *Reader) U64() uint64 { return r.integer(8) }

// integer reads a variable integer for a target of width bytes, sign-extended
// to 64 bits where its form says so.
func (r *Reader) integer(width int) uint64 {
	head := r.U8()
	if r.err != nil {
		return 0
	}
	if head < 0x80 || head > 0x87 {
		return uint64(int64(int8(head)))
	}
	size := 1 << (head & 3)
	if size > width {
		r.err = malformed(
			"loadVariableInt:bad header:"+string([]byte{head}),
			fmt.Sprintf("integer header %02x at byte %d", head, r.pos-1), "an integer of 32 bits")
		return 0
	}
	b := r.value(size)
	if b == nil {
		return 0
	}
	signed := head >= 0x84
	switch size {
	case 1:
		if signed {
			return uint64(int64(int8(b[0])))
		}
		return uint64(b[0])
	case 2:
		v := binary.LittleEndian.Uint16(b)
		if signed {
			return uint64(int64(int16(v)))
		}
		return uint64(v)
	case 4:
		v := binary.LittleEndian.Uint32(b)
		if signed {
			return uint64(int64(int32(v)))
		}
		return uint64(v)
	}
	return binary.LittleEndian.Uint64(b)
}

// Str reads a string of at most [MaxStr] bytes.
func (r *Reader) Str() string { return r.StrMax(MaxStr) }

// StrMax reads a string of at most limit bytes.
func (r *Reader) StrMax(limit uint64) string {
	n := r.U64()
	if r.err != nil {
		return ""
	}
	if n > limit {
		text := "std::bad_alloc"
		if n >= 1<<62 {
			text = "basic_string::_M_replace_aux"
		}
		r.err = malformed(text, fmt.Sprintf("string of %d bytes at byte %d", n, r.pos), fmt.Sprintf("at most %d", limit))
		return ""
	}
	if n <= growStep {
		p := make([]byte, n)
		if !r.fill(p, "stream:read") {
			return ""
		}
		return string(p)
	}
	var p []byte
	for done := uint64(0); done < n; {
		step := min(n-done, max(growStep, done))
		p = append(p, make([]byte, step)...)
		if !r.fill(p[done:], "stream:read") {
			return ""
		}
		done += step
	}
	return string(p)
}

// Count reads the count of a vector, at most limit.
func (r *Reader) Count(limit uint64) int {
	n := r.U64()
	if r.err != nil {
		return 0
	}
	if n > limit || n > math.MaxInt {
		r.err = malformed("vector::reserve", fmt.Sprintf("vector of %d elements at byte %d", n, r.pos), fmt.Sprintf("at most %d", limit))
		return 0
	}
	return int(n)
}

// StrVec reads a vector of strings, within [MaxCount] and [MaxStr]. It is nil
// when empty.
func (r *Reader) StrVec() []string {
	n := r.Count(MaxCount)
	var v []string
	room := uint64(MaxStr)
	for range n {
		s := r.StrMax(room)
		if r.err != nil {
			return nil
		}
		room -= uint64(len(s))
		v = append(v, s)
	}
	return v
}

// Ack reads an acknowledgement.
func (r *Reader) Ack() {
	at := r.pos
	if v := r.U32(); r.err == nil && v != ackValue {
		r.err = malformed("could not receive an acknowledgement message.",
			fmt.Sprintf("value %08x at byte %d", v, at), fmt.Sprintf("an acknowledgement, %08x", ackValue))
	}
}

// ackValue reads "walb" in little endian.
const ackValue uint32 = 0x626c6177

// malformed makes the error for bytes that are not the value asked for.
func malformed(text, found, expected string) *Error {
	return &Error{Text: text, Err: walberr.Corrupt("receive", found, expected)}
}

// readError gives a failed read its text and code. Errors that say why a
// connection was ended (see [NewConn]) pass as they are.
func readError(err error, eofText string, pos uint64, missing int) error {
	e := &walberr.Error{Op: "receive", Code: walberr.Unreachable, Err: err}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.Found = fmt.Sprintf("the stream ends at byte %d, %d missing", pos, missing)
		return &Error{Text: eofText, Err: e}
	case errors.Is(err, os.ErrDeadlineExceeded):
		e.Code = walberr.Timeout
		e.Found = fmt.Sprintf("silence at byte %d, %d missing", pos, missing)
		return &Error{Text: fmt.Sprintf("Socket:readSome:Resource temporarily unavailable(11):%d", missing), Err: e}
	}
	return ioError("Socket:readSome", e, err)
}
