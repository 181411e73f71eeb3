package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sync/semaphore"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// request is one request of a client.
type request struct {
	flags, kind uint16
	cookie      uint64
	off         uint64
	length      uint32
	data        []byte // of a write
}

func parseRequest(b []byte) (request, error) {
	if magic := be.Uint32(b); magic != magicRequest {
		return request{}, walberr.Corrupt("nbd request", fmt.Sprintf("magic %#x", magic), fmt.Sprintf("%#x", magicRequest))
	}
	return request{
		flags: be.Uint16(b[4:]), kind: be.Uint16(b[6:]), cookie: be.Uint64(b[8:]), off: be.Uint64(b[16:]), length: be.Uint32(b[24:]),
	}, nil
}

// cost is how much memory a request may take, in bytes.
func (r *request) cost() int64 {
	if r.kind == cmdRead || r.kind == cmdWrite {
		return max(leastCost, int64(r.length))
	}
	return leastCost
}

// blocks is the range of a request, which was checked.
func (r *request) blocks() block.Range {
	return block.Range{Addr: block.FromBytes(int64(r.off)), Len: block.FromBytes(int64(r.length))}
}

// transmit serves requests until the client says goodbye, or something ends
// the connection. It waits for what it began.
func (c *conn) transmit(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	room := semaphore.NewWeighted(maxInFlight)
	var head [requestSize]byte
	for {
		if err := c.fill(head[:]); err != nil {
			if errors.Is(err, io.EOF) { // without goodbye, as many do
				return nil
			}
			return err
		}
		req, err := parseRequest(head[:])
		if err != nil {
			return err
		}
		if req.kind == cmdDisconnect {
			return nil
		}
		if req.length > maxPayload && req.kind == cmdWrite {
			return walberr.Corrupt("nbd write", fmt.Sprintf("%d bytes", req.length), fmt.Sprintf("at most %d", maxPayload))
		}
		refused := c.check(&req)
		if refused != 0 && req.kind != cmdWrite {
			if err := c.fail(&req, refused); err != nil {
				return err
			}
			continue
		}
		if err := room.Acquire(ctx, req.cost()); err != nil {
			return context.Cause(ctx)
		}
		if req.kind == cmdWrite {
			req.data = make([]byte, req.length)
			if err := c.fill(req.data); err != nil {
				return err
			}
		}
		running.Go(func() {
			defer room.Release(req.cost())
			err := c.fail(&req, refused)
			if refused == 0 {
				err = c.serve(ctx, &req)
			}
			if err != nil {
				_ = c.net.Close() // ends the reading of requests too
			}
		})
	}
}

// check gives the error with which a request is refused, or 0.
func (c *conn) check(r *request) uint32 {
	size := uint64(c.export.Device.Size().Bytes())
	inside := r.off <= size && uint64(r.length) <= size-r.off
	whole := r.off%block.Size == 0 && r.length%block.Size == 0
	_, writable := c.export.writable()
	allowed := uint16(cmdFUA)
	switch r.kind {
	case cmdFlush:
		return 0
	case cmdRead:
		if r.length > maxPayload {
			return errOverflow
		}
		if c.structured {
			allowed |= cmdDF
		}
	case cmdBlockStatus:
		if allowed |= cmdReqOne; !c.status || r.length == 0 {
			return errInvalid
		}
	case cmdWriteZeroes:
		allowed |= cmdNoHole
		fallthrough
	case cmdWrite, cmdTrim:
		if !writable {
			return errPerm
		}
		if !inside {
			return errNoSpace
		}
	default:
		return errInvalid
	}
	if !inside || !whole || r.flags&^allowed != 0 {
		return errInvalid
	}
	return 0
}

// serve does a request that was checked, and answers it. An error means that
// the connection is broken.
func (c *conn) serve(ctx context.Context, r *request) error {
	switch r.kind {
	case cmdRead:
		return c.read(r)
	case cmdBlockStatus:
		return c.blockStatus(ctx, r)
	}
	if err := c.change(r); err != nil {
		return c.failed(r, err)
	}
	return c.send(simple(r, 0))
}

// change does the requests that write. An export that is only read has nothing
// to flush.
func (c *conn) change(r *request) (err error) {
	w, ok := c.export.writable()
	if !ok {
		return nil
	}
	switch r.kind {
	case cmdWrite:
		_, err = w.WriteAt(r.data, int64(r.off))
	case cmdTrim, cmdWriteZeroes:
		err = w.Zero(r.blocks())
	}
	if err == nil && (r.kind == cmdFlush || r.flags&cmdFUA != 0) {
		err = w.Sync()
	}
	return err
}

func (c *conn) read(r *request) error {
	p := make([]byte, r.length)
	if n, err := c.export.Device.ReadAt(p, int64(r.off)); n < len(p) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return c.failed(r, err)
	}
	if !c.structured {
		return c.send(simple(r, 0), p)
	}
	if len(p) == 0 { // a chunk of data has one byte at least
		return c.send(chunk(r, 0, 0))
	}
	return c.send(be.AppendUint64(chunk(r, chunkData, 8+len(p)), r.off), p)
}

// blockStatus tells of data and holes, as far as one answer reaches.
func (c *conn) blockStatus(ctx context.Context, r *request) error {
	most := maxExtents
	if r.flags&cmdReqOne != 0 {
		most = 1
	}
	list, err := extents(ctx, c.export.Device, r.blocks(), most)
	if err != nil {
		return c.failed(r, err)
	}
	b := be.AppendUint32(chunk(r, chunkBlockStatus, 4+8*len(list)), contextID)
	for _, e := range list {
		b = be.AppendUint32(b, uint32(e.blocks.Bytes()))
		b = be.AppendUint32(b, e.kind)
	}
	return c.send(b)
}

// extent is a run of blocks of one kind.
type extent struct {
	blocks block.LB
	kind   uint32
}

// extents lists at most so many runs from the begin of a range on, inside it.
func extents(ctx context.Context, d Device, r block.Range, most int) ([]extent, error) {
	var list []extent
	add := func(blocks block.LB, kind uint32) {
		switch n := len(list); {
		case blocks == 0:
		case n > 0 && list[n-1].kind == kind:
			list[n-1].blocks += blocks
		default:
			list = append(list, extent{blocks, kind})
		}
	}
	for pos := r.Addr; pos < r.End() && len(list) <= most; {
		data, err := d.NextData(ctx, pos)
		if err != nil {
			return nil, err
		}
		if data.Len == 0 {
			data.Addr = r.End()
		}
		from, to := min(data.Addr, r.End()), min(data.End(), r.End())
		add(from-pos, extentHole)
		add(to-from, extentData)
		pos = to
	}
	return list[:min(len(list), most)], nil
}

// failed answers with the error of a device, which goes to the log.
func (c *conn) failed(r *request, err error) error {
	c.s.cfg.Log.Error(fmt.Sprintf("nbd: export %s: request %d of %d bytes at %d failed: %s", c.export.Name, r.kind, r.length, r.off, err))
	return c.fail(r, errIO)
}

// fail answers with an error of the protocol.
func (c *conn) fail(r *request, number uint32) error {
	if number == 0 {
		return nil
	}
	if !c.structured || r.kind != cmdRead && r.kind != cmdBlockStatus {
		return c.send(simple(r, number))
	}
	b := be.AppendUint32(chunk(r, chunkError, 6), number)
	return c.send(be.AppendUint16(b, 0)) // no text
}

func simple(r *request, number uint32) []byte {
	b := be.AppendUint32(make([]byte, 0, 16), magicSimple)
	return be.AppendUint64(be.AppendUint32(b, number), r.cookie)
}

// chunk is the head of the only chunk of a structured reply.
func chunk(r *request, kind uint16, length int) []byte {
	b := be.AppendUint32(make([]byte, 0, 64), magicChunk)
	b = be.AppendUint16(be.AppendUint16(b, chunkDone), kind)
	return be.AppendUint32(be.AppendUint64(b, r.cookie), uint32(length))
}

// send writes a reply in one piece.
func (c *conn) send(parts ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	buffers := net.Buffers(parts)
	_, err := buffers.WriteTo(c.net)
	return err
}
