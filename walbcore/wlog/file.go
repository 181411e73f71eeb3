package wlog

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// FileHeaderSize is the number of bytes of a wlog file's header.
const FileHeaderSize = 4096

// FileHeader is the header of a wlog file.
type FileHeader struct {
	Checksum uint32 // as found or as last encoded
	Salt     uint32 // of packs and data
	PBS      uint32 // physical block size [bytes], 512 or 4096
	UUID     meta.UUID
	Begin    meta.Lsid // lsid of the first pack
	End      meta.Lsid // an upper bound of the end, [meta.MaxLsid] if unknown
}

// DecodeFileHeader reads and validates the header from the first
// [FileHeaderSize] bytes of p. Errors have code Checksum.
func DecodeFileHeader(p []byte) (FileHeader, error) {
	var h FileHeader
	if len(p) < FileHeaderSize {
		return h, corruptFile("length", fmt.Sprint(len(p)), fmt.Sprint(FileHeaderSize))
	}
	p = p[:FileHeaderSize]
	le := binary.LittleEndian
	if t := le.Uint16(p); t != SectorHeader {
		return h, corruptFile("sector type", fmt.Sprint(t), fmt.Sprint(SectorHeader))
	}
	if v := le.Uint16(p[2:]); v != Version {
		return h, corruptFile("version", fmt.Sprint(v), fmt.Sprint(Version))
	}
	h.Checksum = le.Uint32(p[8:])
	if !checksum.Verify(p, 0) {
		return h, corruptFile("checksum", fmt.Sprintf("%08x", h.Checksum), fmt.Sprintf("%08x", h.Checksum+checksum.Sum(p, 0)))
	}
	h.Salt = le.Uint32(p[12:])
	h.PBS = le.Uint32(p[20:])
	copy(h.UUID[:], p[24:])
	h.Begin = meta.Lsid(le.Uint64(p[40:]))
	h.End = meta.Lsid(le.Uint64(p[48:]))
	return h, h.Validate()
}

// Validate checks the block size and the order of the lsids. Errors have code
// Checksum.
func (h FileHeader) Validate() error {
	if !ValidPBS(h.PBS) {
		return corruptFile("pbs", fmt.Sprint(h.PBS), "512 or 4096")
	}
	if h.Begin >= h.End {
		return corruptFile("lsid range", fmt.Sprintf("%d..%d", h.Begin, h.End), "begin below end")
	}
	return nil
}

// Encode writes the header into the first [FileHeaderSize] bytes of p,
// computes its checksum and stores it in h too.
func (h *FileHeader) Encode(p []byte) {
	p = p[:FileHeaderSize]
	clear(p)
	le := binary.LittleEndian
	le.PutUint16(p, SectorHeader)
	le.PutUint16(p[2:], Version)
	le.PutUint16(p[4:], FileHeaderSize)
	le.PutUint32(p[12:], h.Salt)
	le.PutUint32(p[16:], block.Size)
	le.PutUint32(p[20:], h.PBS)
	copy(p[24:40], h.UUID[:])
	le.PutUint64(p[40:], uint64(h.Begin))
	le.PutUint64(p[48:], uint64(h.End))
	h.Checksum = checksum.Sum(p, 0)
	le.PutUint32(p[8:], h.Checksum)
}

// String prints the header as the original's listings do.
func (h FileHeader) String() string {
	return fmt.Sprintf("wlog_h: ver %3d pbs %4d salt %08x uuid %x lsid %d %d",
		Version, h.PBS, h.Salt, h.UUID[:], h.Begin, h.End)
}

func corruptFile(field, found, expected string) error {
	return walberr.Corrupt("read wlog file header", field+" "+found, expected)
}

// Writer writes a wlog file to a stream. It is not safe for concurrent use.
// After an error every further call gives that error.
type Writer struct {
	w    io.Writer
	h    FileHeader
	next meta.Lsid
	buf  []byte
	err  error
}

// NewWriter writes the file header, which must be valid.
func NewWriter(w io.Writer, h FileHeader) (*Writer, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	f := &Writer{w: w, h: h, next: h.Begin, buf: make([]byte, FileHeaderSize)}
	f.h.Encode(f.buf)
	f.write(f.buf)
	return f, f.err
}

// WritePack writes a pack, which must be valid and have the lsid behind the one
// before; see [Pack.Encode].
func (f *Writer) WritePack(k *Pack) error {
	if f.err != nil {
		return f.err
	}
	if f.err = k.Validate(f.h.PBS); f.err != nil {
		return f.err
	}
	switch {
	case len(k.Records) == 0:
		f.err = corruptPack(k.Lsid, "n_records", "0", "at least 1")
	case k.Lsid != f.next:
		f.err = corruptPack(k.Lsid, "lsid", fmt.Sprint(k.Lsid), fmt.Sprint(f.next))
	}
	if f.err != nil {
		return f.err
	}
	n := (1 + int(k.Total)) * int(f.h.PBS)
	f.buf = slices.Grow(f.buf[:0], n)[:n]
	clear(f.buf) // padding blocks hold whatever is there
	k.Encode(f.buf, f.h.PBS, f.h.Salt)
	f.write(f.buf)
	f.next = k.Next()
	return f.err
}

// Close writes the end block. It does not close the stream.
func (f *Writer) Close() error {
	end := EndPack()
	f.buf = slices.Grow(f.buf[:0], int(f.h.PBS))[:f.h.PBS]
	end.Encode(f.buf, f.h.Salt)
	f.write(f.buf)
	return f.err
}

func (f *Writer) write(p []byte) {
	if f.err == nil {
		_, f.err = f.w.Write(p)
	}
}
