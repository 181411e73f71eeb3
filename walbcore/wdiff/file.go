package wdiff

import (
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/meta"
)

// File is an open diff file of either kind. It keeps no records in memory and
// is safe for concurrent use. It does not own the reader under it.
type File struct {
	name      string
	r         io.ReaderAt
	size      int64 // of the file
	header    Header
	headerSum uint32 // checksum as the header has it
	index     int64  // offset of the index; valid iff header.Indexed
	indexEnd  int64  // offset of the super block; valid iff header.Indexed
}

// Open reads the header of a diff file, and of an indexed one the super block.
// The name is used in errors; size is the file's size in bytes.
func Open(name string, r io.ReaderAt, size int64) (*File, error) {
	f := &File{name: name, r: r, size: size}
	var buf [HeaderSize]byte
	n := min(size, HeaderSize)
	if err := f.read(buf[:n], 0, "file header"); err != nil {
		return nil, err
	}
	h, err := DecodeHeader(name, buf[:n])
	if err != nil {
		return nil, err
	}
	f.header, f.headerSum = h, le.Uint32(buf[:])
	if h.Indexed {
		if err := f.openIndex(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// Name is the name that Open was given.
func (f *File) Name() string { return f.name }

// Size is the size of the file in bytes.
func (f *File) Size() int64 { return f.size }

// Header is the file's header.
func (f *File) Header() Header { return f.header }

// UUID is the log life that the diff comes from.
func (f *File) UUID() meta.UUID { return f.header.UUID }

// Records gives the records of the file from the first on. Every call gives an
// independent stream. The order of the records is checked: a file that is not
// sorted is corrupt, as is a sorted file without its end pack.
func (f *File) Records() Stream {
	if f.header.Indexed {
		return &indexCursor{file: f, off: f.index}
	}
	return &packCursor{file: f, off: HeaderSize}
}

// Packs gives the packs of a sorted file as they are. It is nil for an indexed file.
func (f *File) Packs() *Packs {
	if f.header.Indexed {
		return nil
	}
	return &Packs{c: packCursor{file: f, off: HeaderSize}}
}

// read fills p from the offset; what names the thing that lies there.
func (f *File) read(p []byte, off int64, what string) error {
	if len(p) == 0 {
		return nil
	}
	n, err := f.r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return corrupt(f.name, off, fmt.Sprintf("%s cut short at %d bytes", what, n), fmt.Sprintf("%d bytes", len(p)))
	}
	return fmt.Errorf("read %s of %s at offset %d: %w", what, f.name, off, err)
}

// stored reads and verifies the stored image of a normal record into buf's
// capacity or a new buffer.
func (f *File) stored(img Image, buf []byte) ([]byte, error) {
	buf = grow(buf, int(img.Size))
	if err := f.read(buf, img.Offset, "record data"); err != nil {
		return nil, err
	}
	if err := checkData(f.name, img.Offset, buf, img.Sum); err != nil {
		return nil, err
	}
	return buf, nil
}
