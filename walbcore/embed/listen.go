package embed

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"

	"walbsh/walbcore/walberr"
)

// host is where all servers listen.
const host = "127.0.0.1"

// New ports are taken from here: below them are well-known ones, above them
// those that the system gives to outgoing connections.
const (
	firstPort = 20000
	lastPort  = 32000
	portTries = 200
)

// listenAt binds the port that a server had before.
func listenAt(ctx context.Context, id string, port uint16) (net.Listener, error) {
	l, err := listen(ctx, port)
	if err == nil {
		return l, nil
	}
	e := &walberr.Error{Op: "open group", Server: id, Code: walberr.Unavailable, Err: err}
	if errors.Is(err, syscall.EADDRINUSE) {
		e.Code = walberr.Conflict
		e.Found = fmt.Sprintf("its port %d on %s is taken by another program", port, host)
		e.Hint = fmt.Sprintf("find it with: ss -ltnp 'sport = :%d'; end it and open the group again "+
			"(the group keeps its ports, since p0 has the addresses of archives on disk)", port)
	}
	return nil, e
}

// listenAnywhere binds a port that is free.
func listenAnywhere(ctx context.Context, id string) (net.Listener, error) {
	for try := 0; ; try++ {
		l, err := listen(ctx, uint16(firstPort+rand.IntN(lastPort-firstPort)))
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || try == portTries {
			return nil, &walberr.Error{
				Op: "open group", Server: id, Code: walberr.Unavailable,
				Found: fmt.Sprintf("no port from %d to %d on %s can be taken", firstPort, lastPort, host), Err: err,
			}
		}
	}
}

func listen(ctx context.Context, port uint16) (net.Listener, error) {
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
}

func portOf(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }
