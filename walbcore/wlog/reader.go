package wlog

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Reader reads a wlog file from a stream, pack by pack. Its memory is bounded
// by the largest IO, 32 MiB. It is not safe for concurrent use.
//
//	for {
//		pack, err := r.Next()  // io.EOF: end of the log
//		for {
//			rec, data, err := r.Record()  // io.EOF: end of the pack
//		}
//	}
//
// Errors about bytes have code Checksum and name the file, the offset in it
// and the field.
type Reader struct {
	Header FileHeader

	name   string
	src    io.Reader
	off    int64 // offset in the file of what src gives next
	dataAt int64 // offset of the data that Record gave last
	pack   PackHeader
	packAt int64     // offset of pack
	next   int       // record of pack to be read next
	expect meta.Lsid // lsid of the next pack
	done   bool
	why    error
	header []byte // a pack header block
	data   []byte // data of the current record
}

// NewReader reads the file header. name is what errors call the file; off is
// the offset in it of the first byte of src, which is not 0 for a log behind
// another one. It fails with code Checksum if the header is not valid; a read
// error other than the end of the stream comes back as it is.
func NewReader(name string, src io.Reader, off int64) (*Reader, error) {
	r := &Reader{name: name, src: src, off: off}
	var p [FileHeaderSize]byte
	n, err := r.read(p[:])
	if err != nil && !shortRead(err) {
		return nil, err
	}
	if r.Header, err = DecodeFileHeader(p[:n]); err != nil {
		return nil, r.located(err, "file header", off)
	}
	r.expect, r.header = r.Header.Begin, make([]byte, r.Header.PBS)
	return r, nil
}

// read fills p from src and counts.
func (r *Reader) read(p []byte) (int, error) {
	n, err := io.ReadFull(r.src, p)
	r.off += int64(n)
	return n, err
}

// located says in which structure of the file, and where, something is wrong.
func (r *Reader) located(err error, what string, off int64) error {
	e, ok := errors.AsType[*walberr.Error](err)
	if !ok {
		return err
	}
	return walberr.Corrupt("read "+r.name, fmt.Sprintf("%s in the %s at offset %d", e.Found, what, off), e.Expected)
}

// Next reads the next pack header; records of the previous pack that were not
// asked for are skipped without a check. It returns io.EOF at the end of the
// log, which is the end block, the end of the stream, or any block that is not
// the valid header of the expected lsid: [Reader.Ended] tells which. The
// result is valid until the next call.
func (r *Reader) Next() (*PackHeader, error) {
	for r.next < len(r.pack.Records) {
		if err := r.skip(); err != nil {
			return nil, err
		}
	}
	if r.done {
		return nil, io.EOF
	}
	for {
		err := r.readHeader()
		if err != nil {
			r.pack.Records = r.pack.Records[:0]
			r.next = 0
			return nil, err
		}
		if len(r.pack.Records) > 0 {
			r.next = 0
			r.expect = r.pack.Next()
			return &r.pack, nil
		}
		// A header without records takes no lsid: the same one comes again.
	}
}

func (r *Reader) readHeader() error {
	r.packAt = r.off
	if n, err := r.read(r.header); err != nil {
		if shortRead(err) {
			return r.end(walberr.Corrupt("read "+r.name,
				fmt.Sprintf("end of file after %d bytes of the block at offset %d, lsid %d", n, r.packAt, r.expect), "a pack header or the end block"))
		}
		return err
	}
	err := r.pack.Decode(r.header, r.Header.Salt)
	switch {
	case err == nil && r.pack.IsEnd():
		return r.end(nil)
	case err == nil && r.pack.Lsid != r.expect:
		err = walberr.Corrupt("", fmt.Sprintf("lsid %d", r.pack.Lsid), fmt.Sprint(r.expect))
	}
	if err != nil {
		return r.end(r.located(err, "pack header", r.packAt))
	}
	return nil
}

func (r *Reader) end(why error) error {
	r.done, r.why = true, why
	return io.EOF
}

// Record reads the next record of the current pack with its data: Size*512
// bytes for a write, nil for padding and discard. The data is checked and
// valid until the next call. It returns io.EOF at the end of the pack. Data
// that is cut off or does not match its checksum is an error with code
// Checksum. The reader can not be used after it, unless it is a [*DataError].
func (r *Reader) Record() (Record, []byte, error) {
	if r.next >= len(r.pack.Records) {
		return Record{}, nil, io.EOF
	}
	rec := r.pack.Records[r.next]
	if rec.Kind != Write {
		return rec, nil, r.skip()
	}
	r.dataAt = r.off
	if err := r.readData(int(rec.PB(r.Header.PBS)) * int(r.Header.PBS)); err != nil {
		return rec, nil, r.cutOff(rec, r.dataAt, err)
	}
	r.next++
	if err := rec.VerifyData(r.data, r.Header.Salt); err != nil {
		return rec, nil, &DataError{Sum: checksum.Sum(r.data[:rec.Size.Bytes()], r.Header.Salt), Err: r.located(err, "record data", r.dataAt)}
	}
	return rec, r.data[:int(rec.Size)*block.Size], nil
}

// DataError says that data of a record do not match its checksum. The reader
// stands behind them and can go on.
type DataError struct {
	Sum uint32 // checksum of the data with the log's salt
	Err error  // the full text, with code Checksum
}

// Error gives the full text.
func (e *DataError) Error() string { return e.Err.Error() }

// Unwrap gives the error with the code.
func (e *DataError) Unwrap() error { return e.Err }

// readData reads n bytes. The buffer grows with what arrives, not with what is
// announced.
func (r *Reader) readData(n int) error {
	const step = 1 << 20
	r.data = r.data[:0]
	for len(r.data) < n {
		have := len(r.data)
		r.data = slices.Grow(r.data, min(n-have, step))[:have+min(n-have, step)]
		if _, err := r.read(r.data[have:]); err != nil {
			return err
		}
	}
	return nil
}

// skip passes over the data of the next record.
func (r *Reader) skip() error {
	rec := r.pack.Records[r.next]
	r.next++
	at, n := r.off, int64(rec.PB(r.Header.PBS))*int64(r.Header.PBS)
	done, err := io.CopyN(io.Discard, r.src, n)
	r.off += done
	if err != nil {
		return r.cutOff(rec, at, err)
	}
	return nil
}

// cutOff is the error of data, at an offset, that could not be read.
func (r *Reader) cutOff(rec Record, at int64, err error) error {
	if !shortRead(err) {
		return err
	}
	return walberr.Corrupt("read "+r.name, fmt.Sprintf("end of file after %d bytes of the record data at offset %d, lsid %d", r.off-at, at, rec.Lsid),
		fmt.Sprintf("%d bytes", rec.PB(r.Header.PBS)*uint64(r.Header.PBS)))
}

// End is the lsid behind the last pack that [Reader.Next] returned.
func (r *Reader) End() meta.Lsid { return r.expect }

// Offset is the offset in the file of the first byte that was not read yet.
// After Next returned io.EOF that is behind the block that ended the log.
func (r *Reader) Offset() int64 { return r.off }

// DataOffset is the offset in the file of the data that [Reader.Record]
// returned last; valid if that was a write.
func (r *Reader) DataOffset() int64 { return r.dataAt }

// Ended tells why the log ended where it did: nil for an end block, else what
// was found in its place. Valid after Next returned io.EOF. The original's
// tools take all of these for the normal end.
func (r *Reader) Ended() error { return r.why }

func shortRead(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
