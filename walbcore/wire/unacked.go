package wire

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unacked is the number of written bytes that the peer's system has not
// acknowledged; 0 where the transport cannot tell.
func unacked(c net.Conn) int {
	tcp, ok := c.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	err = raw.Control(func(fd uintptr) {
		n, err = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
	})
	if err != nil {
		return 0
	}
	return n
}
