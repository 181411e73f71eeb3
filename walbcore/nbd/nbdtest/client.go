// Package nbdtest is a small NBD client for tests: one request at a time, and
// nothing hidden. What may come in: the URI of a server under test.
package nbdtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
)

var be = binary.BigEndian

// Client is a connection to an export.
type Client struct {
	net.Conn
	Bytes int64  // size of the export
	Flags uint16 // of the export

	cookie uint64
}

// Types of requests, as [Client.Do] takes them.
const (
	Read        = 0
	Write       = 1
	Flush       = 3
	Trim        = 4
	WriteZeroes = 6
	BlockStatus = 7
)

// FUA is the flag of a write that is durable when it is answered.
const FUA = 1

// Extent is a run of bytes, of data or a hole.
type Extent struct {
	Bytes uint32
	Hole  bool
}

// Error is an error that the server answered with its number.
type Error uint32

// Error gives the number.
func (e Error) Error() string { return fmt.Sprintf("nbd error %d", uint32(e)) }

// Raw connects to the server of a URI, and reads its greeting and answers it.
func Raw(ctx context.Context, uri string) (nc net.Conn, name string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, "", err
	}
	var d net.Dialer
	switch u.Scheme {
	case "nbd":
		nc, err = d.DialContext(ctx, "tcp", u.Host)
	case "nbd+unix":
		nc, err = d.DialContext(ctx, "unix", u.Query().Get("socket"))
	default:
		err = errors.New("no URI of nbd: " + uri)
	}
	if err != nil {
		return nil, "", err
	}
	var hello [18]byte
	if _, err := io.ReadFull(nc, hello[:]); err != nil {
		return nil, "", errors.Join(err, nc.Close())
	}
	if string(hello[:16]) != "NBDMAGICIHAVEOPT" || be.Uint16(hello[16:]) != 3 {
		return nil, "", errors.Join(fmt.Errorf("greeting %x", hello), nc.Close())
	}
	_, err = nc.Write(be.AppendUint32(nil, 3))
	return nc, strings.TrimPrefix(u.Path, "/"), err
}

// Dial opens the export of a URI, with structured replies and block status.
func Dial(ctx context.Context, uri string) (*Client, error) {
	nc, name, err := Raw(ctx, uri)
	if err != nil {
		return nil, err
	}
	c := &Client{Conn: nc}
	if err := c.open(name); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

func (c *Client) open(name string) error {
	if _, err := Option(c, 8, nil); err != nil {
		return err
	}
	text := func(b []byte, s string) []byte { return append(be.AppendUint32(b, uint32(len(s))), s...) }
	query := text(be.AppendUint32(text(nil, name), 1), "base:allocation")
	if _, err := Option(c, 10, query); err != nil {
		return err
	}
	infos, err := Option(c, 7, be.AppendUint16(text(nil, name), 0))
	if err != nil {
		return err
	}
	for _, info := range infos {
		if be.Uint16(info) == 0 {
			c.Bytes, c.Flags = int64(be.Uint64(info[2:])), be.Uint16(info[10:])
		}
	}
	return nil
}

// Option sends an option, and gives the data of the answers before the last one.
func Option(nc net.Conn, option uint32, data []byte) (answers [][]byte, err error) {
	b := be.AppendUint32(be.AppendUint32([]byte("IHAVEOPT"), option), uint32(len(data)))
	if _, err := nc.Write(append(b, data...)); err != nil {
		return nil, err
	}
	for {
		var head [20]byte
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return nil, err
		}
		body := make([]byte, be.Uint32(head[16:]))
		if _, err := io.ReadFull(nc, body); err != nil {
			return nil, err
		}
		switch kind := be.Uint32(head[12:]); {
		case kind == 1:
			return answers, nil
		case kind > 1<<31:
			return nil, Error(kind)
		}
		answers = append(answers, body)
	}
}

// Do performs a request, and gives what the answer carries.
func (c *Client) Do(kind, flags uint16, off int64, length uint32, data []byte) ([]byte, error) {
	c.cookie++
	b := be.AppendUint32(nil, 0x25609513)
	b = be.AppendUint16(be.AppendUint16(b, flags), kind)
	b = be.AppendUint64(be.AppendUint64(b, c.cookie), uint64(off))
	if _, err := c.Write(append(be.AppendUint32(b, length), data...)); err != nil {
		return nil, err
	}
	var head [20]byte
	if _, err := io.ReadFull(c, head[:16]); err != nil {
		return nil, err
	}
	if be.Uint64(head[8:]) != c.cookie {
		return nil, fmt.Errorf("answer %x to request %d", head[:16], c.cookie)
	}
	if be.Uint32(head[:]) == 0x67446698 {
		if n := be.Uint32(head[4:]); n != 0 {
			return nil, Error(n)
		}
		return nil, nil
	}
	if _, err := io.ReadFull(c, head[16:]); err != nil {
		return nil, err
	}
	payload := make([]byte, be.Uint32(head[16:]))
	if _, err := io.ReadFull(c, payload); err != nil {
		return nil, err
	}
	if be.Uint16(head[6:]) > 1<<15 {
		return nil, Error(be.Uint32(payload))
	}
	return payload, nil
}

// ReadAt implements [io.ReaderAt].
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	got, err := c.Do(Read, 0, off, uint32(len(p)), nil)
	if err != nil {
		return 0, err
	}
	if len(got) != 8+len(p) || be.Uint64(got) != uint64(off) {
		return 0, fmt.Errorf("a read of %d bytes gave a chunk of %d", len(p), len(got))
	}
	return copy(p, got[8:]), nil
}

// WriteAt implements [io.WriterAt].
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	_, err := c.Do(Write, 0, off, uint32(len(p)), p)
	return len(p), err
}

// Extents asks for the block status of a range, and gives one answer's worth.
func (c *Client) Extents(off int64, length uint32) ([]Extent, error) {
	p, err := c.Do(BlockStatus, 0, off, length, nil)
	if err != nil {
		return nil, err
	}
	var list []Extent
	for p = p[4:]; len(p) >= 8; p = p[8:] {
		list = append(list, Extent{be.Uint32(p), be.Uint32(p[4:]) != 0})
	}
	return list, nil
}
