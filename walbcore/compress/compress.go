// Package compress holds the codecs of diff records and of transfer packets.
//
//	code  name    stored form
//	0     none    as it is
//	1     gzip    zlib stream (RFC 1950), not a gzip file
//	2     snappy  raw snappy block, no framing
//	3     lzma    .xz container: one stream, LZMA2, CRC64
//	4     lz4     raw LZ4 block, no frame, no size prefix
//	5     zstd    one zstd frame with its content size
//
// Nothing stores the plain size with the data: a decoder is told how many
// bytes must come out, and anything else is corrupt. Compressed bytes need not
// equal those of another implementation, they only must decode to the same.
//
// What may come in: bytes of any origin. [Decompress] never writes past dst,
// and its memory is bounded by len(dst) and len(src), not by what a header
// claims. All functions are safe for concurrent use; encoders and decoders are
// pooled, so that nothing but the xz codec allocates in steady state.
package compress

import (
	"fmt"
	"strconv"
	"strings"

	"walbsh/walbcore/walberr"
)

// Type is a codec as it is numbered on the wire and on disk.
type Type uint8

// The codecs.
const (
	None   Type = 0
	Gzip   Type = 1
	Snappy Type = 2
	LZMA   Type = 3
	LZ4    Type = 4
	Zstd   Type = 5
)

// MaxLevel is the highest compression level of an [Opt].
const MaxLevel = 9

var names = [...]string{"none", "gzip", "snappy", "lzma", "lz4", "zstd"}

// Valid reports whether the number names a codec.
func (t Type) Valid() bool { return int(t) < len(names) }

// String is the codec's name as it stands in options, or "type(N)".
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("type(%d)", uint8(t))
	}
	return names[t]
}

// ParseType reads a codec's name, in lower case. The error is an [OptError].
func ParseType(s string) (Type, error) {
	for i, n := range names {
		if n == s {
			return Type(i), nil
		}
	}
	return 0, OptError("parseCompressionType:wrong type:" + s)
}

// OptError says what is wrong with a compression option. Its text is the one
// that C++ WalB sends over the wire.
type OptError string

func (e OptError) Error() string { return string(e) }

// Opt is a compression option, "snappy:0:1" in text.
type Opt struct {
	Type  Type
	Level uint8 // 0 is the codec's default; 1..9 fast to small; ignored by none, snappy and lz4
	CPUs  uint8 // number of threads that compress, 1..255
}

// String prints the option as TYPE:LEVEL:CPUS.
func (o Opt) String() string {
	return fmt.Sprintf("%s:%d:%d", o.Type, o.Level, o.CPUs)
}

// ParseOpt reads an option, split at its first two colons, and validates it.
// The error is an [OptError].
func ParseOpt(s string) (Opt, error) {
	parts := strings.SplitN(s, ":", 3)
	if len(parts) < 3 {
		return Opt{}, OptError("parseCompressOpt:parse error:" + s)
	}
	t, err := ParseType(parts[0])
	if err != nil {
		return Opt{}, err
	}
	o := Opt{Type: t}
	for _, f := range []struct {
		text string
		to   *uint8
	}{{parts[1], &o.Level}, {parts[2], &o.CPUs}} {
		v, err := strconv.ParseUint(f.text, 10, 8)
		if err != nil {
			return Opt{}, OptError("atoi::convertToUint:" + f.text[:min(len(f.text), 16)])
		}
		*f.to = uint8(v)
	}
	return o, o.Validate()
}

// Validate refuses an unknown codec, a level above [MaxLevel] and 0 threads.
// The error is an [OptError].
func (o Opt) Validate() error {
	switch {
	case !o.Type.Valid():
		return OptError("CompressOpt::verify:invalid type:" + string([]byte{byte(o.Type)}))
	case o.Level > MaxLevel:
		return OptError("CompressOpt::verify:invalid level:" + string([]byte{o.Level}))
	case o.CPUs == 0:
		return OptError("CompressOpt::verify:invalid num cpu:\x00")
	}
	return nil
}

// Compress encodes src into the capacity of dst (its length is ignored, nil is
// fine, it must not overlap src) and returns the encoded bytes, which may lie
// in a larger new buffer. The result may be longer than src. None copies.
// Level is that of [Opt]. The error has code Usage: an unknown codec, a level
// out of range, or an empty src.
func Compress(dst, src []byte, t Type, level uint8) ([]byte, error) {
	if !t.Valid() || level > MaxLevel || len(src) == 0 {
		return nil, &walberr.Error{
			Op: "compress", Code: walberr.Usage,
			Found:    fmt.Sprintf("codec %s, level %d, %d bytes", t, level, len(src)),
			Expected: "codec 0..5, level 0..9 and at least one byte",
		}
	}
	return encode(dst[:0], src, t, level)
}

// CompressOrStore encodes src as diff records want it: if the result is not
// strictly smaller than src, or t is None, it returns src itself and None.
// Otherwise the result lies in dst's capacity or a new buffer, as for
// [Compress], and the codec is t.
//
//nolint:revive // OrStore alone would not say what it does
func CompressOrStore(dst, src []byte, t Type, level uint8) ([]byte, Type, error) {
	if t == None || len(src) == 0 {
		return src, None, nil
	}
	out, err := Compress(dst, src, t, level)
	if err != nil {
		return nil, None, err
	}
	if len(out) >= len(src) {
		return src, None, nil
	}
	return out, t, nil
}

// Decompress decodes src into dst, whose length is the exact plain size. The
// buffers must not overlap. The error has code Checksum: src is broken, or its
// plain size differs from len(dst); the content of dst is then undefined.
func Decompress(dst, src []byte, t Type) error {
	n, err := decode(dst, src, t)
	if err != nil {
		return &walberr.Error{
			Op: "decompress " + t.String(), Code: walberr.Checksum,
			Found:    fmt.Sprintf("%d bytes that do not decode", len(src)),
			Expected: fmt.Sprintf("%d plain bytes", len(dst)), Err: err,
		}
	}
	if n != len(dst) {
		return walberr.Corrupt("decompress "+t.String(),
			fmt.Sprintf("%d plain bytes", n), fmt.Sprintf("%d plain bytes", len(dst)))
	}
	return nil
}
