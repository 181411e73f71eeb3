package repl

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// pollReader reads from a file descriptor and can be woken: a Read that waits,
// and every later one, then gives io.EOF. A blocking read of a terminal could
// not be ended and would eat the next key.
type pollReader struct {
	fd         int
	wakeR      int // readable once woken
	wakeW      int
	beforeRead func() // called before waiting
	afterRead  func() // called when bytes were read
	once       sync.Once
	atEnd      atomic.Bool // a Read has failed; there are no more bytes
}

func newPollReader(fd int) (*pollReader, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	return &pollReader{fd: fd, wakeR: p[0], wakeW: p[1]}, nil
}

// Read waits for bytes or for a wake.
func (r *pollReader) Read(p []byte) (int, error) {
	r.beforeRead()
	n, err := r.read(p)
	if err != nil {
		r.atEnd.Store(true)
		return n, err
	}
	r.afterRead()
	return n, nil
}

func (r *pollReader) read(p []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}, {Fd: int32(r.wakeR), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return 0, err
		}
		if fds[1].Revents != 0 {
			return 0, io.EOF
		}
		n, err := unix.Read(r.fd, p)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EIO):
			return 0, io.EOF // the terminal hung up
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		if n = dropNUL(p[:n]); n > 0 {
			return n, nil
		}
	}
}

// dropNUL removes zero bytes, which readline takes for the end of input, and
// gives the number of bytes left. Ctrl-Space sends one, and so does a Ctrl-D
// that was typed before the terminal went into raw mode.
func dropNUL(p []byte) int {
	n := 0
	for _, b := range p {
		if b != 0 {
			p[n] = b
			n++
		}
	}
	return n
}

// wake ends the present Read and all later ones.
func (r *pollReader) wake() {
	r.once.Do(func() {
		_, _ = unix.Write(r.wakeW, []byte{0}) // an empty pipe has room for a byte
	})
}

// Close does nothing: readline calls it at times of its own choosing.
func (r *pollReader) Close() error { return nil }

// release closes the pipe. No Read may be running.
func (r *pollReader) release() error {
	return errors.Join(unix.Close(r.wakeR), unix.Close(r.wakeW))
}
