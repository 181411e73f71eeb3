package simnet

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// link is one relayed connection. For each direction one goroutine reads and
// one writes, with a bounded queue between them, so that latency costs no
// bandwidth.
type link struct {
	relay  *Relay
	client *net.TCPConn
	dead   <-chan struct{} // closed by die
	die    func()          // called by cut

	// Guarded by relay.mu.
	server *net.TCPConn // nil until joined
	record Record
	kept   int    // bytes in record.Chunks
	hello  []byte // the client's first bytes, until the names are known
}

// parcel is a piece of a stream on its way.
type parcel struct {
	data []byte
	due  time.Time
}

const (
	parcelSize  = 64 << 10
	parcelQueue = 64
	maxHello    = 1 << 10
)

// connected notes the connection to the target; false when the link was cut
// meanwhile.
func (l *link) connected(server *net.TCPConn) bool {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	l.server = server
	return !l.record.Cut
}

// run relays both directions until both ended or the link is cut.
func (l *link) run() {
	var both sync.WaitGroup
	for _, d := range []Dir{ToServer, ToClient} {
		from, to := l.client, l.server
		if d == ToClient {
			from, to = to, from
		}
		queue := make(chan parcel, parcelQueue)
		both.Go(func() { l.receive(d, from, queue) })
		both.Go(func() { l.deliver(d, to, queue) })
	}
	both.Wait()
}

// receive reads one direction, records it and queues it for delivery.
func (l *link) receive(d Dir, from *net.TCPConn, queue chan<- parcel) {
	defer close(queue)
	buf := make([]byte, parcelSize)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			data := append([]byte(nil), buf[:n]...)
			rule := l.relay.rule(l.note(d, data))
			if rule.Refuse {
				l.cut(true)
				return
			}
			select {
			case queue <- parcel{data, time.Now().Add(rule.Latency)}:
			case <-l.dead:
				return
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.cut(true)
			return
		}
	}
}

// deliver writes one direction as the rules say and passes its end on.
func (l *link) deliver(d Dir, to *net.TCPConn, queue <-chan parcel) {
	for p := range queue {
		if !l.pass(d, to, p) {
			return
		}
	}
	if _, ok := l.released(); !ok {
		return
	}
	if err := to.CloseWrite(); err != nil {
		l.cut(true)
		return
	}
	l.update(func() { l.record.Ended[d] = true })
}

// pass delivers one parcel; false when the link is dead.
func (l *link) pass(d Dir, to *net.TCPConn, p parcel) bool {
	rule, ok := l.released()
	if !ok || !l.sleep(time.Until(p.due)) {
		return false
	}
	data := p.data
	last := false
	if rule.CutAfter > 0 && d == rule.Cut {
		left := max(0, rule.CutAfter-l.delivered(d))
		if last = int64(len(data)) >= left; last {
			data = data[:left]
		}
	}
	if rule.Rate > 0 && !l.sleep(time.Duration(int64(len(data))*int64(time.Second)/rule.Rate)) {
		return false
	}
	n, err := to.Write(data)
	l.relay.bytes[d].Add(int64(n))
	l.update(func() { l.record.Bytes[d] += int64(n) })
	if last || err != nil {
		l.cut(rule.Reset || err != nil)
		return false
	}
	return true
}

// released waits while a rule says Hang and gives the present rule; false
// when the link is dead.
func (l *link) released() (Rule, bool) {
	for {
		l.relay.mu.Lock()
		changed := l.relay.changed
		protocol := l.record.Protocol
		l.relay.mu.Unlock()
		rule := l.relay.rule(protocol)
		if !rule.Hang {
			return rule, l.sleep(0)
		}
		select {
		case <-changed:
		case <-l.dead:
			return rule, false
		}
	}
}

// sleep waits; false when the link is dead.
func (l *link) sleep(d time.Duration) bool {
	if d <= 0 {
		select {
		case <-l.dead:
			return false
		default:
			return true
		}
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.dead:
		return false
	}
}

func (l *link) delivered(d Dir) int64 {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	return l.record.Bytes[d]
}

// cut closes both sides; with reset the peers see a TCP reset.
func (l *link) cut(reset bool) {
	l.update(func() {
		if l.record.Cut || l.record.Done() {
			return
		}
		l.record.Cut = true
		l.record.Ended = [2]bool{true, true}
		l.die()
		for _, conn := range []*net.TCPConn{l.client, l.server} {
			if conn == nil {
				continue
			}
			if reset {
				_ = conn.SetLinger(0)
			}
			_ = conn.Close()
		}
	})
}

// note records a chunk and gives the protocol name as far as it is known.
func (l *link) note(d Dir, data []byte) (protocol string) {
	l.update(func() {
		if keep := min(len(data), RecordLimit-l.kept); keep > 0 {
			l.record.Chunks = append(l.record.Chunks, Chunk{d, data[:keep]})
			l.kept += keep
		}
		if d == ToServer && l.record.Protocol == "" && len(l.hello) < maxHello {
			l.hello = append(l.hello, data...)
			if id, name, ok := parseHello(l.hello); ok {
				l.record.ClientID, l.record.Protocol = id, name
				l.hello = nil
			}
		}
		protocol = l.record.Protocol
	})
	return protocol
}

// update changes the record and wakes those who await events.
func (l *link) update(change func()) {
	l.relay.mu.Lock()
	defer l.relay.mu.Unlock()
	change()
	l.relay.notify()
}

// parseHello reads the two strings a WalB client begins with. Lengths of 256
// and more are taken for another protocol.
func parseHello(b []byte) (clientID, protocol string, ok bool) {
	clientID, b, ok = cutString(b)
	if !ok {
		return "", "", false
	}
	protocol, _, ok = cutString(b)
	return clientID, protocol, ok
}

func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) == 0 {
		return "", nil, false
	}
	n, b := int(b[0]), b[1:]
	switch {
	case n < 0x80:
	case n == 0x80 && len(b) > 0:
		n, b = int(b[0]), b[1:]
	default:
		return "", nil, false
	}
	if len(b) < n {
		return "", nil, false
	}
	return string(b[:n]), b[n:], true
}
