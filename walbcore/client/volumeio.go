package client

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Volume is a volume at a storage, used like a disk. Its methods may be called
// from any goroutine; requests go one after the other, and wait as long as the
// storage makes them: a write for room in the log, for example. The end of the
// context of OpenVolume ends that. After a failure of the connection every
// method fails.
type Volume struct {
	server string
	size   block.LB
	fail   func(error) error // gives an error its shape

	mu   sync.Mutex
	conn *wire.Conn
}

// OpenVolume opens a volume at a storage that offers walbsh-volume-io. The
// connection ends with ctx or Close.
func (c *Client) OpenVolume(ctx context.Context, vol string) (*Volume, error) {
	cmd := command{name: wire.ProtoVolumeIO, volume: vol}
	if err := c.checked(cmd); err != nil {
		return nil, err
	}
	conn, err := wire.Dial(ctx, c.addr, wire.Options{
		Timeout: c.opts.Timeout,
		// In place of a limit for answers: a storage that is gone is noticed.
		KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 4},
	})
	if err != nil {
		return nil, c.failure(ctx, cmd, c.label(), false, err)
	}
	conn.SetTimeout(c.opts.Timeout)
	id, err := wire.ClientHello(conn, c.opts.ID, cmd.name)
	v := &Volume{server: id, conn: conn}
	v.fail = func(err error) error { return c.failure(ctx, cmd, cmp.Or(id, c.label()), id != "", err) }
	if err == nil {
		conn.W.StrVec([]string{vol})
		err = conn.Flush()
	}
	if err == nil {
		_, err = wire.Status(conn.R, id, wire.OK)
	}
	if err == nil {
		v.size, err = block.LB(conn.R.U64()), conn.R.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, v.fail(err)
	}
	conn.SetTimeout(0)
	return v, nil
}

// Size is the size of the volume when it was opened.
func (v *Volume) Size() block.LB { return v.size }

// ReadAt reads len(p) bytes at off; both are multiples of 512. At the end of
// the volume it is short, with io.EOF.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if err := v.aligned(off, int64(len(p))); err != nil {
		return 0, err
	}
	short := false
	if left := v.size.Bytes() - off; int64(len(p)) > left {
		p, short = p[:max(left, 0)], true
	}
	done, err := v.each(wire.IORead, p, off)
	if err == nil && short {
		err = io.EOF
	}
	return done, err
}

// WriteAt writes p at off; both are multiples of 512. On return the log has
// it: it survives the end of the storage, and a power cut after Flush. What
// does not lie inside the volume is refused as a whole, with code Range.
func (v *Volume) WriteAt(p []byte, off int64) (int, error) {
	if err := v.inside(off, int64(len(p))); err != nil {
		return 0, err
	}
	return v.each(wire.IOWrite, p, off)
}

// each reads or writes p in as many requests as it takes.
func (v *Volume) each(op uint8, p []byte, off int64) (done int, err error) {
	for done < len(p) {
		part := p[done:min(len(p), done+wire.MaxIO)]
		if err := v.do(op, off+int64(done), int64(len(part)), part); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

// Flush makes everything written before durable.
func (v *Volume) Flush() error { return v.do(wire.IOFlush, 0, 0, nil) }

// Discard gives up n bytes at off, both multiples of 512: they read as zeros
// from then on.
func (v *Volume) Discard(off, n int64) error {
	if err := v.inside(off, n); err != nil {
		return err
	}
	return v.do(wire.IODiscard, off, n, nil)
}

// aligned refuses what is not whole blocks.
func (v *Volume) aligned(off, n int64) error {
	if off >= 0 && n >= 0 && off%block.Size == 0 && n%block.Size == 0 {
		return nil
	}
	return v.fail(&walberr.Error{
		Op: "use", Code: walberr.Usage, Found: fmt.Sprintf("%d bytes at %d", n, off), Expected: fmt.Sprintf("multiples of %d", block.Size),
	})
}

// inside refuses what is not whole blocks of the volume.
func (v *Volume) inside(off, n int64) error {
	if err := v.aligned(off, n); err != nil {
		return err
	}
	if size := v.size.Bytes(); off > size || n > size-off {
		return v.fail(&walberr.Error{
			Op: "use", Code: walberr.Range, Found: fmt.Sprintf("%d bytes at %d", n, off), Expected: fmt.Sprintf("at most up to %d", size),
		})
	}
	return nil
}

// Close ends the conversation, after the requests that are under way.
func (v *Volume) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	wire.VolumeIORequest{Op: wire.IOEnd}.Encode(v.conn.W)
	err := v.conn.Flush()
	if closeErr := v.conn.Close(); err == nil {
		err = closeErr
	}
	return err
}

// do sends one request and takes its answer. data is sent by a write and
// filled by a read.
func (v *Volume) do(op uint8, off, n int64, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	wire.VolumeIORequest{Op: op, Offset: uint64(off), Length: uint64(n)}.Encode(v.conn.W)
	if op == wire.IOWrite {
		v.conn.W.Raw(data)
	}
	if err := v.conn.Flush(); err != nil {
		return v.fail(err)
	}
	if _, err := wire.Status(v.conn.R, v.server, wire.OK); err != nil {
		return v.fail(err)
	}
	if op == wire.IORead {
		v.conn.R.Raw(data)
	}
	if err := v.conn.R.Err(); err != nil {
		return v.fail(err)
	}
	return nil
}
