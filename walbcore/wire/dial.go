package wire

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"

	"walbsh/walbcore/walberr"
)

// Dial connects to addr, "host:port" with a numeric port. The name is looked
// up as IPv4 first and as IPv6 when that fails; the first address is taken.
// ctx limits connecting and is bound to the connection; see [NewConn].
//
// Failures are [*Error] values with the code Unreachable, or Timeout.
func Dial(ctx context.Context, addr string, opts Options) (*Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, &Error{
			Text: "parseSocketAddr:parse error:" + addr,
			Err:  &walberr.Error{Op: "connect", Server: addr, Code: walberr.Usage, Found: err.Error(), Expected: "host:port"},
		}
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if opts.Timeout > 0 {
		limited, cancel = context.WithTimeout(ctx, opts.Timeout)
	}
	defer cancel()
	ip, err := lookup(limited, host)
	if err != nil {
		return nil, dialError(ctx, addr, "SocketAddr:set:"+host+":"+port+":"+err.Error(), err)
	}
	target := net.JoinHostPort(ip, port)
	d := net.Dialer{KeepAlive: -1} // probes only as opts say
	c, err := d.DialContext(limited, "tcp", target)
	if err != nil {
		return nil, dialError(ctx, addr, connectText(target, err), err)
	}
	return NewConn(ctx, c, opts), nil
}

// lookup gives the first address of host, IPv4 before IPv6.
func lookup(ctx context.Context, host string) (string, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host)
	if err != nil || len(ips) == 0 {
		ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip6", host)
	}
	if err != nil {
		return "", err
	}
	return ips[0].String(), nil
}

// connectText is the original's text for a failed connect to target.
func connectText(target string, err error) string {
	if isTimeout(err) {
		return "Socket:connect:timeout:" + target
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return "Socket::connect:bad socket:" + errnoText(errno)
	}
	return "Socket::connect:bad socket:" + err.Error()
}

func isTimeout(err error) bool {
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}

// dialError describes a failed connect to addr. Where ctx, the caller's, has
// ended, that is the reason.
func dialError(ctx context.Context, addr, text string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &walberr.Error{Op: "connect", Server: addr, Code: walberr.Unreachable, Err: err}
	if isTimeout(err) {
		e.Code = walberr.Timeout
	}
	return &Error{Text: text, Err: e}
}

// errnoText prints a system error as the original does, "Connection refused(111)".
func errnoText(errno syscall.Errno) string {
	s := errno.Error()
	if s != "" {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return s + "(" + strconv.Itoa(int(errno)) + ")"
}
