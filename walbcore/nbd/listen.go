package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"walbsh/walbcore/walberr"
)

// unixPrefix begins the address of a unix socket.
const unixPrefix = "unix:"

// Listen makes a listener at "HOST:PORT", where an empty host means every
// address, or at a unix socket, "unix:PATH", which only its owner may use. A
// socket that an ended process left there is replaced: the caller knows that no
// other process serves it.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, unixPrefix)
	network, where, config := "tcp", addr, net.ListenConfig{}
	if ok {
		if err := removeSocket(path); err != nil {
			return nil, err
		}
		network, where, config.Control = "unix", path, ownersOnly
	}
	l, err := config.Listen(ctx, network, where)
	if err != nil {
		bad := &walberr.Error{Op: "listen for nbd", Code: walberr.Unavailable, Found: addr, Err: err}
		if errors.Is(err, unix.EINVAL) && ok {
			bad.Hint = "the path of a socket has at most 107 bytes: give a shorter one, or HOST:PORT"
		}
		return nil, bad
	}
	return l, nil
}

// removeSocket removes a socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return &walberr.Error{
			Op: "listen for nbd", Code: walberr.Conflict, Found: fmt.Sprintf("%s, %s", path, info.Mode()),
			Expected: "a socket, or nothing",
		}
	}
	return os.Remove(path)
}

// ownersOnly sets the mode of a socket before it has a name, so that there is
// no moment when others may use it.
func ownersOnly(_, _ string, raw syscall.RawConn) error {
	var err error
	cerr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(cerr, err)
}

// URI is how clients find an export at an address of ours. An address that
// means every address of this machine becomes localhost.
func URI(addr net.Addr, name string) string {
	u := url.URL{Scheme: "nbd", Path: "/" + name}
	switch a := addr.(type) {
	case *net.UnixAddr:
		u.Scheme, u.RawQuery = "nbd+unix", "socket="+strings.ReplaceAll(url.QueryEscape(a.Name), "%2F", "/")
		return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery
	case *net.TCPAddr:
		u.Host = a.String()
		if a.IP.IsUnspecified() {
			u.Host = fmt.Sprintf("localhost:%d", a.Port)
		}
	}
	return u.String()
}
