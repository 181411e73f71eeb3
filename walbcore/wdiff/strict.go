package wdiff

import (
	"errors"
	"fmt"
	"io"
)

// StrictRecords is [File.Records] for those who ask whether the file is as a
// writer left it. It also refuses what readers pass over: an empty pack, a
// pack whose total size is wrong, records in the end pack, bytes behind it; an
// index that is not aligned, a wrong number of index records, a bad checksum
// of an index record without data.
func (f *File) StrictRecords() Stream {
	if f.header.Indexed {
		return &strictIndex{c: indexCursor{file: f, off: f.index}}
	}
	return &strictPacks{c: packCursor{file: f, off: HeaderSize}}
}

// strictPacks looks at each pack as the cursor enters it.
type strictPacks struct {
	c     packCursor
	start int64 // where the pack begins that was looked at last
}

// Next implements [Stream].
func (s *strictPacks) Next() (Record, error) {
	c := &s.c
	r, err := c.Next()
	switch {
	case err == nil && c.start != s.start:
		c.err = s.checkPack()
	case errors.Is(err, io.EOF):
		c.err = s.checkEnd()
	}
	if err = c.err; err != nil {
		return Record{}, err
	}
	return r, nil
}

// checkPack looks at the pack that the cursor has just entered.
func (s *strictPacks) checkPack() error {
	c := &s.c
	if err := s.checkFirst(c.start); err != nil {
		return err
	}
	s.start = c.start
	if size := c.off - c.start - PackHeaderSize; int64(c.block.total) != size {
		return corrupt(c.file.name, c.start, fmt.Sprintf("pack with total size %d", c.block.total),
			fmt.Sprintf("%d, the sum of its records", size))
	}
	return nil
}

// checkFirst refuses the one empty pack that cursors skip: before the first
// pack, which begins at off.
func (s *strictPacks) checkFirst(off int64) error {
	if s.start == 0 && off != HeaderSize {
		return corrupt(s.c.file.name, HeaderSize, "pack without records", "at least 1")
	}
	return nil
}

// checkEnd looks at the end pack. It gives io.EOF if that is fine.
func (s *strictPacks) checkEnd() error {
	c := &s.c
	if err := s.checkFirst(c.off); err != nil {
		return err
	}
	end := c.off + PackHeaderSize
	switch {
	case c.block.n != 0 || c.block.total != 0:
		return corrupt(c.file.name, c.off, fmt.Sprintf("end pack with %d records and total size %d", c.block.n, c.block.total), "0 and 0")
	case c.file.size != end:
		return corrupt(c.file.name, end, fmt.Sprintf("%d bytes behind the end pack", c.file.size-end), "none")
	}
	return io.EOF
}

// strictIndex looks at the super block before the first record.
type strictIndex struct {
	c       indexCursor
	started bool
}

// Next implements [Stream].
func (s *strictIndex) Next() (Record, error) {
	c := &s.c
	if !s.started {
		s.started = true
		c.err = s.checkSuper()
	}
	r, err := c.Next()
	if err != nil {
		return Record{}, err
	}
	at, b := c.last()
	if c.err = checkSum(c.file.name, at, "index record", b, indexSumAt); c.err != nil {
		return Record{}, c.err
	}
	return r, nil
}

func (s *strictIndex) checkSuper() error {
	f := s.c.file
	var b [superSize]byte
	if err := f.read(b[:], f.indexEnd, "index super block"); err != nil {
		return err
	}
	n := (f.indexEnd - f.index) / indexRecordSize
	switch {
	case f.index%8 != 0:
		return corrupt(f.name, f.indexEnd, fmt.Sprintf("index offset %d", f.index), "a multiple of 8")
	case int64(le.Uint32(b[8:])) != n:
		return corrupt(f.name, f.indexEnd, fmt.Sprintf("super block with %d index records", le.Uint32(b[8:])), fmt.Sprint(n))
	}
	return nil
}
