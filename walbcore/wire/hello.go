package wire

import (
	"fmt"
	"slices"

	"walbsh/walbcore/walberr"
)

// Bounds of the strings in a hello.
const (
	maxID       = 4096
	maxProtocol = 4096
)

// Hello is what a client says first.
type Hello struct {
	ClientID string // node id of the client, may be empty
	Protocol string // name of the command
	Version  uint32 // must be [Version]
}

// Encode writes the hello.
func (h Hello) Encode(w *Writer) {
	w.Str(h.ClientID)
	w.Str(h.Protocol)
	w.U32(h.Version)
}

// Decode reads the hello.
func (h *Hello) Decode(r *Reader) {
	h.ClientID = r.StrMax(maxID)
	h.Protocol = r.StrMax(maxProtocol)
	h.Version = r.U32()
}

// ClientHello opens a conversation as client: it says who is calling and for
// which protocol, and answers the server's id. A server that will not speak
// it is a [*Refusal].
func ClientHello(c *Conn, clientID, protocol string) (serverID string, err error) {
	Hello{ClientID: clientID, Protocol: protocol, Version: Version}.Encode(c.W)
	if err := c.Flush(); err != nil {
		return "", err
	}
	serverID = c.R.StrMax(maxID)
	c.peer = serverID
	_, err = Status(c.R, serverID, OK)
	return serverID, err
}

// ServerHello opens a conversation as server: it reads the hello, tells the
// server's id, and answers "ok" when the version is right and known answers
// true for the protocol's name. Otherwise it sends the refusal and returns it
// as error; the caller only closes.
func ServerHello(c *Conn, serverID string, known func(protocol string) bool) (Hello, error) {
	var h Hello
	h.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return h, refuse(c, err)
	}
	c.peer = h.ClientID
	c.W.Str(serverID)
	if h.Version != Version {
		return h, refuse(c, &Error{
			Text: fmt.Sprintf("run1stNegotiateAsServer:version differ c/s:%d:%d", h.Version, Version),
			Err: &walberr.Error{
				Op: "hello", Code: walberr.Usage,
				Found: fmt.Sprintf("protocol version %d of client %q", h.Version, h.ClientID), Expected: fmt.Sprint(Version),
			},
		})
	}
	if !known(h.Protocol) {
		return h, refuse(c, &Error{
			Text: "findServerHandler:bad protocol:" + h.Protocol + ":" + h.ClientID,
			Err: &walberr.Error{
				Op: "hello", Code: walberr.Usage,
				Found: fmt.Sprintf("unknown protocol %q of client %q", h.Protocol, h.ClientID),
			},
		})
	}
	c.W.Str(OK)
	return h, c.Flush()
}

// refuse sends the refusal and gives its reason back; a failure to send it
// changes nothing about the reason.
func refuse(c *Conn, reason error) error {
	_ = c.Refuse(reason)
	return reason
}

// Status reads a status word of the peer named server and answers it when it
// is one of want. Any other string is a [*Refusal] with that text.
func Status(r *Reader, server string, want ...string) (string, error) {
	word := r.Str()
	if err := r.Err(); err != nil {
		return "", err
	}
	if slices.Contains(want, word) {
		return word, nil
	}
	return "", NewRefusal(server, word)
}
