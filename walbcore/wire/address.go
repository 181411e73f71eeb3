package wire

import (
	"net"
	"strconv"
	"strings"

	"walbsh/walbcore/walberr"
)

// Addr is a server's address as configuration and requests hold it.
type Addr struct {
	Host string // name or address
	Port uint16
}

// ParseAddr reads "host:port", split at the first colon; an IPv6 address can
// only stand here by name. The failure is an [*Error] with the original's words.
func ParseAddr(s string) (Addr, error) {
	host, port, ok := strings.Cut(s, ":")
	if !ok {
		return Addr{}, badAddr("parseAddrPort:parse error:"+s, s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, badAddr("atoi::convertToUint:"+port[:min(len(port), 16)], s)
	}
	a := Addr{Host: host, Port: uint16(n)}
	return a, a.Check()
}

// Check refuses an empty host and port 0.
func (a Addr) Check() error {
	switch {
	case a.Host == "":
		return badAddr("AddrPort::verify:addr is empty", a.String())
	case a.Port == 0:
		return badAddr("AddrPort::verify:port must not be 0", a.String())
	}
	return nil
}

// String prints host:port as the original does, without brackets.
func (a Addr) String() string { return a.Host + ":" + strconv.Itoa(int(a.Port)) }

// DialString is the form that [Dial] takes.
func (a Addr) DialString() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// Addr reads an address and checks it.
func (r *Reader) Addr() Addr {
	a := Addr{Host: r.StrMax(maxID), Port: r.U16()}
	r.judge("address", a.Check())
	return a
}

// Addr writes an address.
func (w *Writer) Addr(a Addr) {
	w.Str(a.Host)
	w.U16(a.Port)
}

func badAddr(text, found string) error {
	return &Error{
		Text: text,
		Err:  &walberr.Error{Op: "address", Code: walberr.Usage, Found: strconv.Quote(found), Expected: "host:port"},
	}
}
