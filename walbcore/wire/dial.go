package wire

import (
	"context"
	"errors"
	"net"
	"os"
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
	if opts.Timeout > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, opts.Timeout, errConnectTimeout)
		defer cancel()
		return dial(ctx, limited, host, port, opts)
	}
	return dial(ctx, ctx, host, port, opts)
}

// errConnectTimeout is the cause of a connect that took too long.
var errConnectTimeout = errors.New("connect timeout")

// dial connects under limited and binds the connection to ctx.
func dial(ctx, limited context.Context, host, port string, opts Options) (*Conn, error) {
	addr := net.JoinHostPort(host, port)
	ip, err := lookup(limited, host)
	if err != nil {
		return nil, dialError(limited, addr, "SocketAddr:set:"+host+":"+port+":"+err.Error(), err)
	}
	d := net.Dialer{KeepAlive: -1}
	target := net.JoinHostPort(ip, port)
	c, err := d.DialContext(limited, "tcp", target)
	if err != nil {
		text := "Socket::connect:bad socket:" + err.Error()
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			text = "Socket::connect:bad socket:" + errnoText(errno)
		}
		if errors.Is(context.Cause(limited), errConnectTimeout) || errors.Is(err, os.ErrDeadlineExceeded) {
			text = "Socket:connect:timeout:" + target
		}
		return nil, dialError(limited, addr, text, err)
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

// dialError describes a failed connect; the end of the caller's own context
// is told as its cause.
func dialError(ctx context.Context, addr, text string, err error) error {
	e := &walberr.Error{Op: "connect", Server: addr, Code: walberr.Unreachable, Err: err}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errConnectTimeout):
		e.Code, e.Found, e.Err = walberr.Timeout, "no answer", os.ErrDeadlineExceeded
	case cause != nil:
		return cause
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
