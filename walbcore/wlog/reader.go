package wlog

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"walbsh/walbcore/block"
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
type Reader struct {
	Header FileHeader

	src    io.Reader
	pack   PackHeader
	next   int       // record of pack to be read next
	expect meta.Lsid // lsid of the next pack
	done   bool
	why    error
	header []byte // a pack header block
	data   []byte // data of the current record
}

// NewReader reads the file header. It fails with code Checksum if that is not
// valid; a read error other than the end of the stream comes back as it is.
func NewReader(src io.Reader) (*Reader, error) {
	var p [FileHeaderSize]byte
	n, err := io.ReadFull(src, p[:])
	if err != nil && !shortRead(err) {
		return nil, err
	}
	h, err := DecodeFileHeader(p[:n])
	if err != nil {
		return nil, err
	}
	return &Reader{Header: h, src: src, expect: h.Begin, header: make([]byte, h.PBS)}, nil
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
	if _, err := io.ReadFull(r.src, r.header); err != nil {
		if shortRead(err) {
			return r.end(walberr.Corrupt("read wlog file", fmt.Sprintf("end of file at lsid %d", r.expect), "an end block"))
		}
		return err
	}
	if err := r.pack.Decode(r.header, r.Header.Salt); err != nil {
		return r.end(err)
	}
	if r.pack.IsEnd() {
		return r.end(nil)
	}
	if r.pack.Lsid != r.expect {
		return r.end(corruptPack(r.pack.Lsid, "lsid", fmt.Sprint(r.pack.Lsid), fmt.Sprint(r.expect)))
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
// Checksum; the reader can not be used after it.
func (r *Reader) Record() (Record, []byte, error) {
	if r.next >= len(r.pack.Records) {
		return Record{}, nil, io.EOF
	}
	rec := r.pack.Records[r.next]
	if rec.Kind != Write {
		return rec, nil, r.skip()
	}
	if err := r.readData(int(rec.PB(r.Header.PBS)) * int(r.Header.PBS)); err != nil {
		return rec, nil, r.cutOff(rec, err)
	}
	r.next++
	if err := rec.VerifyData(r.data, r.Header.Salt); err != nil {
		return rec, nil, err
	}
	return rec, r.data[:int(rec.Size)*block.Size], nil
}

// readData reads n bytes. The buffer grows with what arrives, not with what is
// announced.
func (r *Reader) readData(n int) error {
	const step = 1 << 20
	r.data = r.data[:0]
	for len(r.data) < n {
		have := len(r.data)
		r.data = slices.Grow(r.data, min(n-have, step))[:have+min(n-have, step)]
		if _, err := io.ReadFull(r.src, r.data[have:]); err != nil {
			return err
		}
	}
	return nil
}

// skip passes over the data of the next record.
func (r *Reader) skip() error {
	rec := r.pack.Records[r.next]
	r.next++
	n := int64(rec.PB(r.Header.PBS)) * int64(r.Header.PBS)
	if _, err := io.CopyN(io.Discard, r.src, n); err != nil {
		return r.cutOff(rec, err)
	}
	return nil
}

func (r *Reader) cutOff(rec Record, err error) error {
	if !shortRead(err) {
		return err
	}
	return walberr.Corrupt("read wlog file", fmt.Sprintf("end of file inside the data of the record at lsid %d", rec.Lsid),
		fmt.Sprintf("%d physical blocks", rec.PB(r.Header.PBS)))
}

// End is the lsid behind the last pack that [Reader.Next] returned.
func (r *Reader) End() meta.Lsid { return r.expect }

// Ended tells why the log ended where it did: nil for an end block, else what
// was found in its place. Valid after Next returned io.EOF. The original's
// tools take all of these for the normal end.
func (r *Reader) Ended() error { return r.why }

func shortRead(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
