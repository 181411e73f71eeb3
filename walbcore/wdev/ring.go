package wdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

// ring is a log file with the geometry of its super sector.
type ring struct {
	f file
	Super
}

// readBlocks reads len(p)/PBS blocks of log at lsid.
func (r ring) readBlocks(lsid meta.Lsid, p []byte) error {
	return r.pieces(lsid, p, func(p []byte, off int64) error {
		if _, err := r.f.ReadAt(p, off); err != nil {
			return fmt.Errorf("read %d bytes of log at byte %d: %w", len(p), off, unexpectedEOF(err))
		}
		return nil
	})
}

// writeBlocks writes len(p)/PBS blocks of log at lsid.
func (r ring) writeBlocks(lsid meta.Lsid, p []byte) error {
	return r.pieces(lsid, p, func(p []byte, off int64) error {
		_, err := r.f.WriteAt(p, off)
		return err
	})
}

// pieces cuts blocks at the ring end.
func (r ring) pieces(lsid meta.Lsid, p []byte, do func(p []byte, off int64) error) error {
	for len(p) > 0 {
		room := (r.Ring - uint64(lsid)%r.Ring) * uint64(r.PBS)
		n := min(uint64(len(p)), room)
		if err := do(p[:n], r.Position(lsid)); err != nil {
			return err
		}
		p = p[n:]
		lsid += meta.Lsid(n / uint64(r.PBS))
	}
	return nil
}

// header reads the pack header at lsid. It has code Checksum if there is none
// with that lsid, which is the end of the log.
func (r ring) header(lsid meta.Lsid) (*wlog.PackHeader, error) {
	p := make([]byte, r.PBS)
	if err := r.readBlocks(lsid, p); err != nil {
		return nil, err
	}
	h, err := wlog.DecodePack(p, r.Salt)
	if err != nil {
		return nil, err
	}
	if h.Lsid != lsid || len(h.Records) == 0 {
		return nil, walberr.Corrupt("read log", fmt.Sprintf("pack header with lsid %d and %d records", h.Lsid, len(h.Records)),
			fmt.Sprintf("one with lsid %d and records", lsid))
	}
	return h, nil
}

// hasHeader reports whether a valid pack header lies at lsid.
func (r ring) hasHeader(lsid meta.Lsid) (bool, error) {
	_, err := r.header(lsid)
	if walberr.Is(err, walberr.Checksum) {
		return false, nil
	}
	return err == nil, err
}

// writeSuper writes s to the log file and makes it durable.
func writeSuper(f file, s *Super) error {
	p := make([]byte, s.PBS)
	s.Encode(p)
	if _, err := f.WriteAt(p, superOffset); err != nil {
		return fmt.Errorf("write super sector: %w", err)
	}
	return f.Sync()
}

// readSuper reads the super sector, whose size it finds by the block size it
// names.
func readSuper(f io.ReaderAt) (Super, error) {
	p := make([]byte, 4096)
	n, err := f.ReadAt(p, superOffset)
	if err != nil && !errors.Is(err, io.EOF) {
		return Super{}, err
	}
	if n == len(p) && binary.LittleEndian.Uint32(p[12:]) == 4096 {
		return DecodeSuper(p)
	}
	return DecodeSuper(p[:min(n, 512)])
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
