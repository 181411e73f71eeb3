package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxIdleReads is how often a decoder may return neither data nor an error.
const maxIdleReads = 100

// The pools are caches of coder objects, each used by one call at a time.
var (
	zlibWriters [MaxLevel + 1]sync.Pool // *zlibWriter
	zlibReaders sync.Pool               // *zlibReader
	zstdWriters [MaxLevel + 1]sync.Pool // *zstd.Encoder
	zstdReaders sync.Pool               // *zstd.Decoder
	lz4Writers  sync.Pool               // *lz4.Compressor
)

// encode appends to dst, which has length 0. t and level are valid.
func encode(dst, src []byte, t Type, level uint8) ([]byte, error) {
	switch t {
	case Gzip:
		return zlibEncode(dst, src, level)
	case Snappy:
		return s2.EncodeSnappy(grow(dst, s2.MaxEncodedLen(len(src))), src), nil
	case LZMA:
		return xzEncode(dst, src, level)
	case LZ4:
		return lz4Encode(dst, src)
	case Zstd:
		return zstdEncode(dst, src, level)
	default:
		return append(dst, src...), nil
	}
}

// decode writes at most len(dst) bytes and returns the plain size of src. If
// that is larger than len(dst) it may return any larger number.
func decode(dst, src []byte, t Type) (int, error) {
	switch t {
	case None:
		copy(dst, src)
		return len(src), nil
	case Gzip:
		return zlibDecode(dst, src)
	case Snappy:
		n, err := snappy.DecodedLen(src)
		if err != nil || n != len(dst) {
			return n, err
		}
		_, err = snappy.Decode(dst, src)
		return n, err
	case LZMA:
		return xzDecode(dst, src)
	case LZ4:
		return lz4.UncompressBlock(src, dst)
	case Zstd:
		return zstdDecode(dst, src)
	default:
		return 0, fmt.Errorf("unknown codec %d", uint8(t))
	}
}

// grow gives a buffer of length n, in dst's capacity if that is enough.
func grow(dst []byte, n int) []byte {
	if cap(dst) < n {
		return make([]byte, n)
	}
	return dst[:n]
}

// sink collects what a writer writes.
type sink struct{ buf []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.buf = append(s.buf, p...)
	return len(p), nil
}

// readAll fills dst from r and finds out whether r ends there: it returns the
// plain size, or len(dst)+1 if there is more. A truncated source is an error.
func readAll(dst []byte, r io.Reader) (int, error) {
	n := 0
	var more [1]byte
	for idle := 0; idle < maxIdleReads; idle++ {
		p := more[:]
		if n < len(dst) {
			p = dst[n:]
		}
		k, err := r.Read(p)
		n += k
		switch {
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		case n > len(dst):
			return n, nil
		case k > 0:
			idle = 0
		}
	}
	return n, io.ErrNoProgress
}

type zlibWriter struct {
	out sink
	z   *zlib.Writer
}

func zlibEncode(dst, src []byte, level uint8) ([]byte, error) {
	w, _ := zlibWriters[level].Get().(*zlibWriter)
	if w == nil {
		w = &zlibWriter{}
		zl := int(level)
		if zl == 0 {
			zl = 6
		}
		z, err := zlib.NewWriterLevel(&w.out, zl)
		if err != nil {
			return nil, err
		}
		w.z = z
	}
	w.out.buf = dst
	w.z.Reset(&w.out)
	_, err := w.z.Write(src)
	if err == nil {
		err = w.z.Close()
	}
	out := w.out.buf
	w.out.buf = nil
	zlibWriters[level].Put(w)
	return out, err
}

type zlibReader struct {
	in bytes.Reader
	z  io.ReadCloser
}

func zlibDecode(dst, src []byte) (int, error) {
	r, _ := zlibReaders.Get().(*zlibReader)
	if r == nil {
		r = &zlibReader{}
	}
	r.in.Reset(src)
	var err error
	if r.z == nil {
		r.z, err = zlib.NewReader(&r.in)
	} else {
		err = r.z.(zlib.Resetter).Reset(&r.in, nil)
	}
	if err != nil {
		return 0, err
	}
	n, err := readAll(dst, r.z)
	if err == nil && n <= len(dst) && r.in.Len() > 0 {
		err = fmt.Errorf("%d bytes behind the end of the stream", r.in.Len())
	}
	r.in.Reset(nil)
	zlibReaders.Put(r)
	return n, err
}

func lz4Encode(dst, src []byte) ([]byte, error) {
	c, _ := lz4Writers.Get().(*lz4.Compressor)
	if c == nil {
		c = &lz4.Compressor{}
	}
	defer lz4Writers.Put(c)
	dst = grow(dst, lz4.CompressBlockBound(len(src)))
	n, err := c.CompressBlock(src, dst)
	return dst[:n], err
}

func zstdEncode(dst, src []byte, level uint8) ([]byte, error) {
	e, _ := zstdWriters[level].Get().(*zstd.Encoder)
	if e == nil {
		var err error
		e, err = zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(max(1, int(level)))),
			zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true)) // the content size stands in every frame
		if err != nil {
			return nil, err
		}
	}
	defer zstdWriters[level].Put(e)
	return e.EncodeAll(src, dst), nil
}

func zstdDecode(dst, src []byte) (int, error) {
	d, _ := zstdReaders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		d, err = zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecodeAllCapLimit(true)) // never more than dst has room for
		if err != nil {
			return 0, err
		}
	}
	defer zstdReaders.Put(d)
	out, err := d.DecodeAll(src, dst[:0:len(dst)])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return len(dst) + 1, nil
	}
	return len(out), err
}
