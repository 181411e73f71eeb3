package wdev

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

const (
	// superOffset is where the super sector lies in a log file [bytes].
	superOffset = 4096
	// superNameSize is the room for the device name, NUL included.
	superNameSize = 32

	// MaxName is the longest name of a device [bytes].
	MaxName = 25
	// MinRing is the smallest ring that a device works with [PB].
	MinRing = 64
)

// Super is the super sector of a log file.
type Super struct {
	Checksum uint32 // as found or as last encoded
	PBS      uint32 // physical block size [bytes], 512 or 4096
	Metadata uint32 // size of a dead area before the ring [PB]; 0 in all new devices
	Salt     uint32 // of pack headers and data
	UUID     meta.UUID
	Name     string    // at most 31 bytes
	Ring     uint64    // size of the ring [PB]
	Oldest   meta.Lsid // log below may be overwritten
	Written  meta.Lsid // log below is on the data file; redo starts here
	Size     block.LB  // size of the disk
}

// RingOffset is where the ring begins [PB].
func (s *Super) RingOffset() uint64 { return ringOffset(s.PBS, s.Metadata) }

func ringOffset(pbs, metadata uint32) uint64 { return uint64(superOffset/pbs) + 2 + uint64(metadata) }

// Position is where the block of an lsid lies in the log file [bytes].
func (s *Super) Position(lsid meta.Lsid) int64 {
	return int64(s.RingOffset()+uint64(lsid)%s.Ring) * int64(s.PBS)
}

// DecodeSuper reads and validates a super sector from a block of pbs = len(p)
// bytes. Errors have code Checksum.
func DecodeSuper(p []byte) (Super, error) {
	var s Super
	if !wlog.ValidPBS(uint32(len(p))) {
		return s, corruptSuper("length", fmt.Sprint(len(p)), "512 or 4096")
	}
	le := binary.LittleEndian
	s.Checksum = le.Uint32(p[4:])
	if t, v := le.Uint16(p), le.Uint16(p[2:]); t != wlog.SectorSuper || v != wlog.Version {
		return s, corruptSuper("type and version", fmt.Sprintf("%d, %d", t, v), fmt.Sprintf("%d, %d", wlog.SectorSuper, wlog.Version))
	}
	if !checksum.Verify(p, 0) {
		return s, corruptSuper("checksum", fmt.Sprintf("%08x", s.Checksum), fmt.Sprintf("%08x", s.Checksum+checksum.Sum(p, 0)))
	}
	if lbs := le.Uint32(p[8:]); lbs != block.Size {
		return s, corruptSuper("logical block size", fmt.Sprint(lbs), fmt.Sprint(block.Size))
	}
	s.PBS = le.Uint32(p[12:])
	if int(s.PBS) != len(p) {
		return s, corruptSuper("physical block size", fmt.Sprint(s.PBS), fmt.Sprint(len(p)))
	}
	s.Metadata = le.Uint32(p[16:])
	s.Salt = le.Uint32(p[20:])
	copy(s.UUID[:], p[24:])
	name, _, ended := bytes.Cut(p[40:40+superNameSize], []byte{0})
	if !ended {
		return s, corruptSuper("name", fmt.Sprintf("%q", name), "a NUL within 32 bytes")
	}
	s.Name = string(name)
	s.Ring = le.Uint64(p[72:])
	s.Oldest = meta.Lsid(le.Uint64(p[80:]))
	s.Written = meta.Lsid(le.Uint64(p[88:]))
	s.Size = block.LB(le.Uint64(p[96:]))
	return s, s.validate()
}

func (s *Super) validate() error {
	if s.Ring == 0 || s.Ring > uint64(block.MaxLB.Bytes())/uint64(s.PBS)-s.RingOffset() {
		return corruptSuper("ring size", fmt.Sprint(s.Ring), "a size that fits a file")
	}
	if !s.Size.Valid() {
		return corruptSuper("device size", fmt.Sprint(uint64(s.Size)), "a size below 2^63 bytes")
	}
	if s.Oldest > s.Written || s.Written > wlog.MaxLsid {
		return corruptSuper("oldest and written lsid", fmt.Sprintf("%d, %d", s.Oldest, s.Written), "in order, below 2^64-1")
	}
	return nil
}

// Encode writes the super sector into p, whose length is PBS, computes its
// checksum and stores it in s too. Every byte of p is set. A name longer than
// 31 bytes is cut.
func (s *Super) Encode(p []byte) {
	clear(p)
	le := binary.LittleEndian
	le.PutUint16(p, wlog.SectorSuper)
	le.PutUint16(p[2:], wlog.Version)
	le.PutUint32(p[8:], block.Size)
	le.PutUint32(p[12:], s.PBS)
	le.PutUint32(p[16:], s.Metadata)
	le.PutUint32(p[20:], s.Salt)
	copy(p[24:40], s.UUID[:])
	copy(p[40:40+superNameSize-1], s.Name)
	le.PutUint64(p[72:], s.Ring)
	le.PutUint64(p[80:], uint64(s.Oldest))
	le.PutUint64(p[88:], uint64(s.Written))
	le.PutUint64(p[96:], uint64(s.Size))
	s.Checksum = checksum.Sum(p, 0)
	le.PutUint32(p[4:], s.Checksum)
}

// Info prints the super sector as the original's tools do, one field a line.
func (s *Super) Info() string {
	return fmt.Sprintf("sectorType: %d\nversion: %d\nchecksum: %d\nlbs: %d\npbs: %d\nmetadataSize: %d\nsalt: %d\nname: %s\n"+
		"ringBufferSize: %d\noldestLsid: %d\nwrittenLsid: %d\ndeviceSize: %d\nringBufferOffset: %d\nuuid: %x\n",
		wlog.SectorSuper, wlog.Version, s.Checksum, block.Size, s.PBS, s.Metadata, s.Salt, s.Name,
		s.Ring, s.Oldest, s.Written, uint64(s.Size), s.RingOffset(), s.UUID[:])
}

func corruptSuper(field, found, expected string) error {
	e := walberr.Corrupt("read super sector", field+" "+found, expected)
	e.Hint = "the file is not a formatted log device, or it is damaged"
	return e
}
