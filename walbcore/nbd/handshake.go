package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"walbsh/walbcore/walberr"
)

var be = binary.BigEndian

// conn is one connection.
type conn struct {
	s   *Server
	net net.Conn
	r   *bufio.Reader

	writing sync.Mutex // held while a reply is written

	// What the handshake found out.
	noZeroes   bool
	structured bool
	contextOf  string // export of which block status was negotiated
	export     Export
	leave      func() // lets the export go; nil as long as there is none
	status     bool   // block status was negotiated of this export
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{s: s, net: nc, r: bufio.NewReaderSize(nc, 64<<10)}
}

// run serves the connection. A client that ends it in order is no error.
func (c *conn) run(ctx context.Context) error {
	defer func() {
		if c.leave != nil {
			c.leave()
		}
	}()
	if err := c.net.SetDeadline(time.Now().Add(c.s.cfg.Handshake)); err != nil {
		return err
	}
	chosen, err := c.handshake()
	if err != nil || !chosen {
		return err
	}
	if err := c.net.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c.status = c.structured && c.contextOf == c.export.Name
	return c.transmit(ctx)
}

// handshake reports whether an export was chosen; otherwise the client has
// gone.
func (c *conn) handshake() (chosen bool, err error) {
	hello := be.AppendUint16([]byte(magicServer+magicOption), fixedNewstyle|noZeroes)
	if _, err := c.net.Write(hello); err != nil {
		return false, err
	}
	var head [16]byte
	if err := c.fill(head[:4]); err != nil {
		return false, err
	}
	flags := be.Uint32(head[:])
	if flags&^(fixedNewstyle|noZeroes) != 0 {
		return false, walberr.Corrupt("nbd handshake", fmt.Sprintf("client flags %#x", flags), "bits of 3")
	}
	c.noZeroes = flags&noZeroes != 0
	for {
		if err := c.fill(head[:]); err != nil {
			return false, err
		}
		if string(head[:8]) != magicOption {
			return false, walberr.Corrupt("nbd option", fmt.Sprintf("magic %x", head[:8]), magicOption)
		}
		option, length := be.Uint32(head[8:]), be.Uint32(head[12:])
		if length > maxOption {
			_ = c.reply(option, repErrTooBig, nil) // the end either way
			return false, walberr.Corrupt("nbd option", fmt.Sprintf("%d bytes", length), fmt.Sprintf("at most %d", maxOption))
		}
		data := make([]byte, length)
		if err := c.fill(data); err != nil {
			return false, err
		}
		switch option {
		case optExportName:
			return true, c.exportName(string(data))
		case optAbort:
			return false, c.reply(option, repAck, nil)
		}
		chosen, err := c.option(option, data)
		if err != nil || chosen {
			return chosen, err
		}
	}
}

// fill reads len(p) bytes. That the client has gone is io.EOF between messages,
// and io.ErrUnexpectedEOF inside.
func (c *conn) fill(p []byte) error {
	_, err := io.ReadFull(c.r, p)
	return err
}

// reply answers an option.
func (c *conn) reply(option, kind uint32, data []byte) error {
	b := be.AppendUint64(make([]byte, 0, 20+len(data)), magicReply)
	b = be.AppendUint32(b, option)
	b = be.AppendUint32(b, kind)
	b = be.AppendUint32(b, uint32(len(data)))
	_, err := c.net.Write(append(b, data...))
	return err
}

// exportName chooses an export in the old way, which knows no refusal but the
// end of the connection.
func (c *conn) exportName(name string) error {
	if !c.enter(name) {
		return &walberr.Error{Op: "nbd export", Code: walberr.NotFound, Found: fmt.Sprintf("no export %.80q", name)}
	}
	b := be.AppendUint64(nil, uint64(c.export.Device.Size().Bytes()))
	b = be.AppendUint16(b, c.flags(&c.export))
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := c.net.Write(b)
	return err
}

func (c *conn) enter(name string) (ok bool) {
	c.export, c.leave, ok = c.s.enter(name, c)
	return ok
}

// flags tells what an export can do.
func (c *conn) flags(e *Export) uint16 {
	// Every connection works on the same device, without caches of its own.
	f := uint16(flagHasFlags | flagSendFlush | flagMultiConn)
	if c.structured {
		f |= flagSendDF
	}
	if _, ok := e.writable(); ok {
		return f | flagSendFUA | flagSendTrim | flagSendWriteZeroes
	}
	return f | flagReadOnly
}

// option answers the options that do not end the handshake by themselves, and
// reports whether an export was chosen.
func (c *conn) option(option uint32, data []byte) (chosen bool, err error) {
	switch option {
	case optList:
		return false, c.list(data)
	case optInfo, optGo:
		return c.info(option, data)
	case optStructured:
		if len(data) > 0 {
			return false, c.reply(option, repErrInvalid, nil)
		}
		c.structured = true
		return false, c.reply(option, repAck, nil)
	case optListContext, optSetContext:
		return false, c.contexts(option, data)
	}
	return false, c.reply(option, repErrUnsup, nil)
}

func (c *conn) list(data []byte) error {
	if len(data) > 0 {
		return c.reply(optList, repErrInvalid, nil)
	}
	for _, name := range c.s.names() {
		if err := c.reply(optList, repServer, appendText(nil, name)); err != nil {
			return err
		}
	}
	return c.reply(optList, repAck, nil)
}

func appendText(b []byte, s string) []byte {
	return append(be.AppendUint32(b, uint32(len(s))), s...)
}

// info answers about an export; go also chooses it.
func (c *conn) info(option uint32, data []byte) (chosen bool, err error) {
	p := parser{data}
	name := p.text()
	n := p.u16()
	wanted := make(map[uint16]bool)
	for range n {
		if p.bad() {
			break
		}
		wanted[p.u16()] = true
	}
	if p.bad() || len(p.b) > 0 {
		return false, c.reply(option, repErrInvalid, nil)
	}
	e, ok := c.s.lookup(name)
	if ok && option == optGo {
		if ok = c.enter(name); ok {
			e = c.export
		}
	}
	if !ok {
		return false, c.reply(option, repErrUnknown, []byte("no such export"))
	}
	about := be.AppendUint16(nil, infoExport)
	about = be.AppendUint64(about, uint64(e.Device.Size().Bytes()))
	about = be.AppendUint16(about, c.flags(&e))
	sizes := be.AppendUint16(nil, infoBlockSize)
	for _, n := range []uint32{512, preferredLen, maxPayload} {
		sizes = be.AppendUint32(sizes, n)
	}
	err = errors.Join(c.reply(option, repInfo, about), c.reply(option, repInfo, sizes))
	if wanted[infoDescription] && e.Description != "" {
		err = errors.Join(err, c.reply(option, repInfo, append(be.AppendUint16(nil, infoDescription), e.Description...)))
	}
	return option == optGo, errors.Join(err, c.reply(option, repAck, nil))
}

// contexts answers about meta contexts; set also chooses them for the export
// that a later go names.
func (c *conn) contexts(option uint32, data []byte) error {
	p := parser{data}
	name := p.text()
	n := p.u32()
	match := option == optListContext && n == 0
	for range n {
		if p.bad() {
			break
		}
		query := p.text()
		match = match || query == contextName || option == optListContext && query == "base:"
	}
	if p.bad() || len(p.b) > 0 || !c.structured {
		return c.reply(option, repErrInvalid, nil)
	}
	if _, ok := c.s.lookup(name); !ok {
		return c.reply(option, repErrUnknown, []byte("no such export"))
	}
	id := uint32(0)
	if option == optSetContext {
		id, c.contextOf = contextID, ""
	}
	if match {
		if option == optSetContext {
			c.contextOf = name
		}
		if err := c.reply(option, repContext, append(be.AppendUint32(nil, id), contextName...)); err != nil {
			return err
		}
	}
	return c.reply(option, repAck, nil)
}

// parser takes the data of an option apart. After something is wrong it is
// bad, and gives zeros.
type parser struct{ b []byte }

func (p *parser) bad() bool { return p.b == nil }

func (p *parser) take(n int) []byte {
	if n > len(p.b) {
		p.b = nil
		return nil
	}
	taken := p.b[:n:n]
	p.b = p.b[n:]
	return taken
}

func (p *parser) u16() uint16 {
	if b := p.take(2); b != nil {
		return be.Uint16(b)
	}
	return 0
}

func (p *parser) u32() uint32 {
	if b := p.take(4); b != nil {
		return be.Uint32(b)
	}
	return 0
}

// text is a length and as many bytes.
func (p *parser) text() string {
	n := p.u32()
	if n > maxName {
		p.b = nil
	}
	return string(p.take(int(n)))
}
