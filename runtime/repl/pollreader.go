package repl

import (
	"errors"
	"io"
	"sync"

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
		r.afterRead()
		return n, nil
	}
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
