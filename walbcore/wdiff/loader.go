package wdiff

import (
	"fmt"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/walberr"
)

// DefaultCache is a good size, in bytes, for the images that a [Loader] keeps.
const DefaultCache = 8 << 20

// Loader reads the data of records. Records that are all of their stored image
// are expanded straight into the caller's buffer; for those that are a part of
// it, the expanded image is kept in a small least-recently-used cache, since
// its other parts are usually wanted next. Safe for concurrent use.
type Loader struct {
	limit int // bytes of images to keep; one image is kept even if larger

	mu     sync.Mutex
	images []loaded // most recently used first
	used   int      // bytes in images

	stored sync.Pool // *[]byte for stored images
}

type loaded struct {
	file   *File
	offset int64
	data   []byte
}

// NewLoader makes a loader that keeps about cache bytes of expanded images.
func NewLoader(cache int) *Loader {
	l := &Loader{limit: cache}
	l.stored.New = func() any { return new([]byte) }
	return l
}

// Stored reads and verifies the stored image of a normal record into buf's
// capacity or a new buffer.
func (l *Loader) Stored(r Record, buf []byte) ([]byte, error) {
	return r.file.stored(r.Image, buf)
}

// Read fills dst with the blocks of the record from block skip of the record
// on; dst is whole blocks that lie inside the record. All-zero and discard
// records read as zeros.
func (l *Loader) Read(dst []byte, r Record, skip block.LB) error {
	blocks := block.LB(len(dst) / block.Size)
	switch {
	case len(dst)%block.Size != 0 || skip > r.Blocks || blocks > r.Blocks-skip:
		return &walberr.Error{
			Op: "read record of a diff", Code: walberr.Range,
			Found:    fmt.Sprintf("%d bytes from block %d", len(dst), skip),
			Expected: fmt.Sprintf("whole blocks inside the %d of the record", r.Blocks),
		}
	case r.Kind != Normal:
		clear(dst)
		return nil
	case blocks == r.Image.Blocks:
		return l.expand(dst, r)
	}
	image, err := l.image(r)
	if err != nil {
		return err
	}
	copy(dst, image[(r.Image.Skip+skip).Bytes():])
	return nil
}

// expand decodes the whole image of a normal record into dst.
func (l *Loader) expand(dst []byte, r Record) error {
	if r.Image.Codec == compress.None && int(r.Image.Size) == len(dst) {
		_, err := r.file.stored(r.Image, dst[:0:len(dst)])
		return err
	}
	buf := l.stored.Get().(*[]byte)
	defer l.stored.Put(buf)
	var err error
	if *buf, err = r.file.stored(r.Image, *buf); err != nil {
		return err
	}
	if err := compress.Decompress(dst, *buf, r.Image.Codec); err != nil {
		return expandError(r.file.name, r.Image.Offset, r.Addr, r.Blocks, err)
	}
	return nil
}

// expandError says which record's data do not expand as they should.
func expandError(name string, off int64, addr, blocks block.LB, err error) error {
	return &walberr.Error{
		Op: "read " + name, Code: walberr.Checksum, Err: err,
		Found:    fmt.Sprintf("data of record %d+%d at offset %d that do not expand", addr, blocks, off),
		Expected: fmt.Sprintf("%d blocks", blocks),
	}
}

// image gives the expanded image of a normal record. It must not be written.
func (l *Loader) image(r Record) ([]byte, error) {
	if data := l.cached(r); data != nil {
		return data, nil
	}
	data := make([]byte, r.Image.Blocks.Bytes())
	if err := l.expand(data, r); err != nil {
		return nil, err
	}
	l.keep(loaded{file: r.file, offset: r.Image.Offset, data: data})
	return data, nil
}

func (l *Loader) cached(r Record) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, im := range l.images {
		if im.file == r.file && im.offset == r.Image.Offset && len(im.data) == int(r.Image.Blocks.Bytes()) {
			copy(l.images[1:i+1], l.images[:i])
			l.images[0] = im
			return im.data
		}
	}
	return nil
}

// keep puts an image in front and drops the oldest above the limit.
func (l *Loader) keep(im loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images = append(l.images, loaded{})
	copy(l.images[1:], l.images)
	l.images[0] = im
	l.used += len(im.data)
	for l.used > l.limit && len(l.images) > 1 {
		last := len(l.images) - 1
		l.used -= len(l.images[last].data)
		l.images[last] = loaded{}
		l.images = l.images[:last]
	}
}
