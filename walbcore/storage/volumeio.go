package storage

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// maxVolumeIO is how many walbsh-volume-io conversations there may be at a
// time: each takes two buffers of up to wire.MaxIO.
const maxVolumeIO = 32

// volumeIO lets a client use a volume like a disk; see wire.VolumeIORequest.
// It serves one request after the other until the client ends.
func (s *Server) volumeIO(ctx context.Context, r *server.Request) error {
	const name = "volumeIOServer"
	words, err := r.Words(ctx)
	if err != nil {
		return err
	}
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	v.mu.Lock()
	dev := v.dev
	v.mu.Unlock()
	if dev == nil {
		return server.Refusef(walberr.NotFound, "%s:bad state:%s", name, v.sm.State())
	}
	if n := s.conversations.Add(1); n > maxVolumeIO {
		s.conversations.Add(-1)
		return server.Refusef(walberr.Unavailable, "%s:exceeds max conversations:%d", name, maxVolumeIO)
	}
	defer s.conversations.Add(-1)
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.U64(uint64(dev.Size()))
	if err := r.Flush(); err != nil {
		return err
	}
	// Users of a disk are silent for as long as they like.
	limit := s.cfg.Wire.Timeout
	r.SetTimeout(0)
	if err := converse(ctx, r.Conn, dev); err != nil {
		return err
	}
	r.SetTimeout(limit)
	return r.Finish()
}

// ioRequest is a request with its data, or with room for that of the answer.
type ioRequest struct {
	wire.VolumeIORequest
	buf []byte
}

// converse answers requests until the client ends. One goroutine reads ahead,
// so that a client that went away is noticed while its write waits for room in
// the log: the write is withdrawn then.
func converse(ctx context.Context, c *wire.Conn, dev wdev.Disk) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer c.Bind(ctx)()
	requests := make(chan ioRequest)
	buffers := make(chan []byte, 2)
	buffers <- nil
	buffers <- nil
	var g errgroup.Group
	part := func(do func() error) {
		g.Go(func() error {
			err := do()
			if err != nil {
				cancel(err)
			}
			return err
		})
	}
	part(func() error {
		defer close(requests)
		return readRequests(ctx, c.R, buffers, requests)
	})
	part(func() error { return answerRequests(ctx, c, dev, requests, buffers) })
	return g.Wait()
}

// readRequests reads requests until the client ends.
func readRequests(ctx context.Context, r *wire.Reader, buffers <-chan []byte, requests chan<- ioRequest) error {
	for {
		var req ioRequest
		req.Decode(r)
		if err := r.Err(); err != nil {
			return err
		}
		if req.Op == wire.IOEnd {
			return nil
		}
		select {
		case req.buf = <-buffers:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n := int(req.DataLen())
		if cap(req.buf) < n {
			req.buf = make([]byte, n)
		}
		req.buf = req.buf[:n]
		if req.Op == wire.IOWrite {
			r.Raw(req.buf)
		}
		if err := r.Err(); err != nil {
			return err
		}
		select {
		case requests <- req:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answerRequests does the requests, one after the other. A refused one does
// not end the conversation.
func answerRequests(ctx context.Context, c *wire.Conn, dev wdev.Disk, requests <-chan ioRequest, buffers chan<- []byte) error {
	for req := range requests {
		err := doIO(ctx, dev, req)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			c.W.Str(wire.RefusalText(err))
		default:
			c.W.Str(wire.OK)
			if req.Op == wire.IORead {
				c.W.Raw(req.buf)
			}
		}
		if err := c.Flush(); err != nil {
			return err
		}
		buffers <- req.buf
	}
	return nil
}

// doIO does one request. Its buffer holds what is written, or takes what is
// read.
func doIO(ctx context.Context, dev wdev.Disk, req ioRequest) error {
	switch req.Op {
	case wire.IOWrite:
		return dev.WriteAt(ctx, req.buf, int64(req.Offset))
	case wire.IORead:
		n, err := dev.ReadAt(req.buf, int64(req.Offset))
		if n == len(req.buf) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return &walberr.Error{
				Op: "read", Code: walberr.Range, Found: fmt.Sprintf("%d bytes at %d", req.Length, req.Offset),
				Expected: fmt.Sprintf("bytes below %d", dev.Size().Bytes()),
			}
		}
		return err
	case wire.IOFlush:
		return dev.Flush(ctx)
	case wire.IODiscard:
		return dev.Discard(ctx, int64(req.Offset), int64(req.Length))
	}
	return &walberr.Error{Op: wire.ProtoVolumeIO, Code: walberr.Usage, Found: fmt.Sprintf("operation %d", req.Op)}
}
