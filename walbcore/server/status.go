package server

import (
	"fmt"

	"walbsh/walbcore/wire"
)

// SocketStatus gives the status lines about a server's connections: the
// timeout of reads and writes in seconds, and keep-alive.
func SocketStatus(o wire.Options) []string {
	keepAlive := "OFF"
	if ka := o.KeepAlive; ka.Enable {
		keepAlive = fmt.Sprintf("ON (idle %d intvl %d cnt %d)", int(ka.Idle.Seconds()), int(ka.Interval.Seconds()), ka.Count)
	}
	return []string{
		fmt.Sprintf("socketTimeout %d", int(o.Timeout.Seconds())),
		"keepAlive " + keepAlive,
	}
}
