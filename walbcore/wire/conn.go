package wire

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"walbsh/walbcore/walberr"
)

// DefaultTimeout is the limit of one read or write that the servers and the
// original controller use when told nothing else.
const DefaultTimeout = 10 * time.Second

const (
	bufferSize = 32 << 10        // of each direction; larger raw blocks bypass it
	writePiece = 64 << 10        // one system call; the write timeout begins anew with each
	drainTime  = 1 * time.Second // how long a refused client may go on sending
)

// Options of a connection.
type Options struct {
	// Timeout limits connecting, and each single read and write on its own:
	// it passes only when no byte moved for so long. 0 is no limit.
	Timeout time.Duration
	// KeepAlive, when enabled, replaces the limit of reads and writes by TCP
	// keep-alive probes. Connecting keeps its limit.
	KeepAlive net.KeepAliveConfig
}

// Conn is a connection between two programs of the system. Values are read
// through R and written through W; both are buffered, so [Conn.Flush] or
// [Conn.Finish] must follow the last value written before an answer is
// awaited. One goroutine may read while another one writes.
type Conn struct {
	R *Reader
	W *Writer

	sock *socket
	out  *bufio.Writer
	stop func()
	peer string
}

// NewConn makes a Conn of an accepted or dialled connection and owns it from
// then on. When ctx ends, pending and later reads and writes fail at once with
// the cause of ctx. The caller closes the Conn.
func NewConn(ctx context.Context, c net.Conn, opts Options) *Conn {
	s := &socket{Conn: c, timeout: opts.Timeout}
	if opts.KeepAlive.Enable {
		s.timeout = 0
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetKeepAliveConfig(opts.KeepAlive) // probing is a help; without it the connection still works
		}
	}
	out := bufio.NewWriterSize(s, bufferSize)
	conn := &Conn{
		R:    NewReader(bufio.NewReaderSize(s, bufferSize)),
		W:    NewWriter(out),
		sock: s,
		out:  out,
	}
	conn.stop = conn.Bind(ctx)
	return conn
}

// Bind makes the end of ctx end the connection's reads and writes too, until
// the returned function is called: they fail with the cause of ctx. A
// connection ended so stays ended. It is for work with a shorter life than the
// connection, for example a transfer that may be force stopped:
//
//	defer conn.Bind(ctx)()
func (c *Conn) Bind(ctx context.Context) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		c.sock.abort(context.Cause(ctx))
	})
	return sync.OnceFunc(func() {
		if !stop() {
			<-done
		}
	})
}

// Err is the first failure of either direction, or nil.
func (c *Conn) Err() error {
	if err := c.R.Err(); err != nil {
		return err
	}
	return c.W.Err()
}

// Flush sends what was written. It returns the first failure of W.
func (c *Conn) Flush() error {
	if c.W.err == nil {
		c.W.Fail(c.out.Flush())
	}
	return c.W.err
}

// Close closes the connection. Values not flushed are lost.
func (c *Conn) Close() error {
	c.stop()
	return c.sock.Close()
}

// Finish ends a conversation whose last word is ours: it flushes, closes the
// sending direction, and waits for the peer to close. It fails when a byte
// comes instead or the peer does not close within the read timeout. It does
// not close the Conn.
func (c *Conn) Finish() error {
	if err := c.Flush(); err != nil {
		return err
	}
	if err := c.sock.closeWrite(); err != nil {
		return err
	}
	n, err := c.R.Read(c.R.buf[:1])
	switch {
	case n > 0:
		return malformed("Socket:waitForClose:readSome:bad size:1",
			fmt.Sprintf("byte %02x behind the end of the conversation", c.R.buf[0]), "the peer to close")
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// Refuse tells the peer why its request is not done, at the place of a status
// word, and ends the conversation: the text is sent, and what the peer sent
// in vain is read away for a moment, since closing with unread bytes would
// destroy the text on its way. It does not close the Conn.
func (c *Conn) Refuse(reason error) error {
	c.W.Str(RefusalText(reason))
	if err := c.Flush(); err != nil {
		return err
	}
	if err := c.sock.closeWrite(); err != nil {
		return err
	}
	c.sock.drain()
	return nil
}

// BytesIn is the number of bytes received from the network.
func (c *Conn) BytesIn() uint64 { return c.sock.in.Load() }

// BytesOut is the number of bytes sent to the network.
func (c *Conn) BytesOut() uint64 { return c.sock.out.Load() }

// RemoteAddr is the peer's network address.
func (c *Conn) RemoteAddr() net.Addr { return c.sock.RemoteAddr() }

// SetTimeout changes the limit of each read and write from now on; 0 is none.
// It must not run beside a read or write.
func (c *Conn) SetTimeout(d time.Duration) { c.sock.timeout = d }

// Patience raises the limit of each read and write to d, until restore is
// called: for answers before which the peer may rightly be silent for long. It
// leaves a longer limit, or none, as it is. It must not run beside a read or
// write.
func (c *Conn) Patience(d time.Duration) (restore func()) {
	before := c.sock.timeout
	if before != 0 {
		c.sock.timeout = max(before, d)
	}
	return func() { c.sock.timeout = before }
}

// Peer is the node id that the other side told in its hello, "" before that.
func (c *Conn) Peer() string { return c.peer }

// socket is a net.Conn whose every read and write has its own deadline, and
// that can be ended for a cause.
type socket struct {
	net.Conn
	timeout time.Duration
	in, out atomic.Uint64

	mu    sync.Mutex
	cause error // why the socket was ended, or nil
}

// abort ends all reads and writes, now and later, with cause.
func (s *socket) abort(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause == nil {
		s.cause = cause
		_ = s.SetDeadline(time.Unix(1, 0)) // fails only on a closed socket, whose calls fail anyway
	}
}

// arm sets the deadline of the coming call by set, or answers why there must
// be none.
func (s *socket) arm(set func(time.Time) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	if s.timeout == 0 {
		return set(time.Time{})
	}
	return set(time.Now().Add(s.timeout))
}

// why answers the cause of the end where there is one, else err.
func (s *socket) why(err error) error {
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return err
}

func (s *socket) Read(p []byte) (int, error) {
	if err := s.arm(s.SetReadDeadline); err != nil {
		return 0, err
	}
	n, err := s.Conn.Read(p)
	s.in.Add(uint64(n))
	return n, s.why(err)
}

func (s *socket) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if err := s.arm(s.SetWriteDeadline); err != nil {
			return done, err
		}
		before := unacked(s.Conn)
		n, err := s.Conn.Write(p[done:min(done+writePiece, len(p))])
		done += n
		s.out.Add(uint64(n))
		if errors.Is(err, os.ErrDeadlineExceeded) && unacked(s.Conn) < before+n {
			// The peer takes bytes, only so slowly that the system, which waits for
			// a third of its buffer to be free, did not let us go on in time.
			continue
		}
		if err != nil {
			return done, writeError(s.why(err))
		}
	}
	return done, nil
}

// writeError gives a failed write its text and code; the cause with which a
// connection was ended passes as it is.
func writeError(err error) error {
	e := &walberr.Error{Op: "send", Code: walberr.Unreachable, Err: err}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e.Code = walberr.Timeout
		e.Found = "the peer takes no bytes"
		return &Error{Text: "Socket:write:Resource temporarily unavailable(11)", Err: e}
	}
	return ioError("Socket:write", e, err)
}

// closeWrite ends the sending direction where the transport can do so alone.
func (s *socket) closeWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// drain reads and forgets until the peer closes or drainTime passed.
func (s *socket) drain() {
	s.mu.Lock()
	ended := s.cause != nil
	if !ended {
		ended = s.SetReadDeadline(time.Now().Add(drainTime)) != nil
	}
	s.mu.Unlock()
	if !ended {
		_, _ = io.Copy(io.Discard, s.Conn) // how it ends does not matter: the conversation is over
	}
}
