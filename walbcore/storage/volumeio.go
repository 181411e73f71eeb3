package storage

import (
	"context"
	"fmt"

	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// volumeIO lets a client use a volume like a disk; see wire.VolumeIORequest.
// It serves one request after the other until the client ends.
func (s *Server) volumeIO(ctx context.Context, r *server.Request) error {
	var name string
	if words := r.R.StrVec(); r.R.Err() != nil {
		return r.R.Err()
	} else if err := server.ExactWords("volumeIOServer", words, 1); err != nil {
		return err
	} else {
		name = words[0]
	}
	v, err := s.volume(name, false)
	if err != nil {
		return err
	}
	v.mu.Lock()
	dev := v.dev
	v.mu.Unlock()
	if dev == nil {
		return &walberr.Error{
			Op: wire.ProtoVolumeIO, Server: s.cfg.NodeID, Volume: name, Code: walberr.NotFound,
			Found: "no such volume", Hint: "see get vol",
		}
	}
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.U64(uint64(dev.Size()))
	// Users of a disk are silent for as long as they like.
	r.SetTimeout(0)
	var buf []byte
	for {
		if err := r.Flush(); err != nil {
			return err
		}
		var req wire.VolumeIORequest
		req.Decode(r.R)
		if err := r.R.Err(); err != nil {
			return err
		}
		if req.Op == wire.IOEnd {
			return r.Finish()
		}
		if n := int(req.DataLen()); cap(buf) < n {
			buf = make([]byte, n)
		}
		buf = buf[:req.DataLen()]
		if req.Op == wire.IOWrite {
			if r.R.Raw(buf); r.R.Err() != nil {
				return r.R.Err()
			}
		}
		if err := doIO(ctx, dev, req, buf); err != nil {
			r.W.Str(wire.RefusalText(err))
			continue
		}
		r.W.Str(wire.OK)
		if req.Op == wire.IORead {
			r.W.Raw(buf)
		}
	}
}

// doIO does one request. buf holds what is written, or takes what is read.
func doIO(ctx context.Context, dev wdev.Disk, req wire.VolumeIORequest, buf []byte) error {
	switch req.Op {
	case wire.IOWrite:
		return dev.WriteAt(ctx, buf, int64(req.Offset))
	case wire.IORead:
		n, err := dev.ReadAt(buf, int64(req.Offset))
		if n == len(buf) {
			return nil
		}
		return err
	case wire.IOFlush:
		return dev.Flush(ctx)
	case wire.IODiscard:
		return dev.Discard(ctx, int64(req.Offset), int64(req.Length))
	}
	return &walberr.Error{Op: wire.ProtoVolumeIO, Code: walberr.Usage, Found: fmt.Sprintf("operation %d", req.Op)}
}
