// Package simnet is a bad network for tests and scenarios: a TCP relay on the
// loopback interface that stands between a client and a server, records what
// passes, and delays, throttles, cuts, hangs or refuses connections by rules.
//
// It takes any TCP traffic. For connections of the WalB protocol it also
// knows the client id and the protocol name, which it reads from the first
// bytes of the client, so that rules can be made for one kind of request.
//
// Nothing of the product imports it.
package simnet

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Dir is a direction of bytes.
type Dir int

// The two directions.
const (
	ToServer Dir = iota // from the connecting client to the target
	ToClient            // from the target to the client
)

// String gives "c2s" or "s2c".
func (d Dir) String() string {
	if d == ToServer {
		return "c2s"
	}
	return "s2c"
}

// Rule says how connections behave. The zero value relays everything at once.
type Rule struct {
	// Protocol limits the rule to connections whose first bytes name this
	// protocol; "" means every connection. As the name is known only after
	// the client's first bytes, such a rule lets the connection itself pass.
	Protocol string

	Refuse  bool          // the connection is closed at once
	Hang    bool          // bytes and closes are held back until the rule is lifted
	Latency time.Duration // every byte arrives this much later
	Rate    int64         // bytes per second and direction; 0 is no limit

	// CutAfter, if positive, closes both sides after this many bytes of the
	// connection were delivered in direction Cut. With Reset the close is a
	// TCP reset, so that the peer may also lose bytes it did not read yet.
	CutAfter int64
	Cut      Dir
	Reset    bool
}

// Chunk is what one read gave. Chunk borders mean nothing; the order of
// chunks of both directions is the order in which the relay saw them.
type Chunk struct {
	Dir  Dir
	Data []byte
}

// Record is what the relay saw of one connection.
type Record struct {
	ClientID string    // "" until known
	Protocol string    // "" until known
	Opened   time.Time // when the relay took the connection
	Chunks   []Chunk   // at most RecordLimit bytes
	Bytes    [2]int64  // delivered bytes by direction, all of them
	Ended    [2]bool   // the sender of this direction ended it, or it was cut
	Cut      bool      // a rule or Relay.CutAll closed it
}

// Stream joins the recorded bytes of one direction.
func (r Record) Stream(d Dir) []byte {
	var all []byte
	for _, c := range r.Chunks {
		if c.Dir == d {
			all = append(all, c.Data...)
		}
	}
	return all
}

// Done reports whether both directions ended.
func (r Record) Done() bool { return r.Ended[ToServer] && r.Ended[ToClient] }

// RecordLimit is the number of bytes kept of each connection. Counters go on
// beyond it.
const RecordLimit = 4 << 20

// Relay listens on a loopback port and joins each connection to the target.
// Its methods may be called from any goroutine.
type Relay struct {
	listener net.Listener
	work     sync.WaitGroup
	bytes    [2]atomic.Int64

	mu      sync.Mutex
	target  string
	rules   []Rule
	links   []*link
	closed  bool
	changed chan struct{} // closed at every event
}

// Listen starts a relay on a free port of 127.0.0.1. target is the host:port
// to join connections to; nobody needs to listen there yet.
func Listen(target string) (*Relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &Relay{listener: listener, target: target, changed: make(chan struct{})}
	r.work.Go(r.accept)
	return r, nil
}

// Addr is the host:port where clients connect.
func (r *Relay) Addr() string { return r.listener.Addr().String() }

// SetTarget joins later connections to another host:port.
func (r *Relay) SetTarget(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
}

// SetRules replaces the rules, for present connections too. The first rule
// that fits a connection holds; without one everything passes.
func (r *Relay) SetRules(rules ...Rule) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = slices.Clone(rules)
	r.notify()
}

// CutAll closes the present connections on both sides.
func (r *Relay) CutAll() {
	r.mu.Lock()
	links := slices.Clone(r.links)
	r.mu.Unlock()
	for _, l := range links {
		l.cut(false)
	}
}

// Records gives the connections so far, in the order of arrival.
func (r *Relay) Records() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records()
}

// Forget drops the records of connections that have ended, so that a relay of
// long use does not keep all that passed.
func (r *Relay) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links = slices.DeleteFunc(r.links, func(l *link) bool { return l.record.Done() })
}

// Bytes gives the number of bytes delivered in one direction over all
// connections.
func (r *Relay) Bytes(d Dir) int64 { return r.bytes[d].Load() }

// Await waits until the records satisfy cond. It fails when ctx ends, or with
// [net.ErrClosed] when the relay is closed.
func (r *Relay) Await(ctx context.Context, cond func([]Record) bool) error {
	for {
		r.mu.Lock()
		changed, closed := r.changed, r.closed
		records := r.records()
		r.mu.Unlock()
		if cond(records) {
			return nil
		}
		if closed {
			return net.ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close stops listening, closes every connection and waits until all is
// ended. Closing again does nothing.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	r.notify()
	r.mu.Unlock()
	err := r.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	r.CutAll()
	r.work.Wait()
	return err
}

func (r *Relay) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return
		}
		client := conn.(*net.TCPConn)
		if r.rule("").Refuse {
			_ = client.SetLinger(0)
			_ = client.Close()
			continue
		}
		r.work.Go(func() { r.join(client) })
	}
}

// join runs one connection.
func (r *Relay) join(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	l := &link{relay: r, client: client, dead: ctx.Done(), die: stop}
	l.record.Opened = time.Now()
	target, ok := r.add(l)
	if !ok {
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", target)
	if err != nil {
		l.cut(true)
		return
	}
	defer func() { _ = conn.Close() }()
	if l.connected(conn.(*net.TCPConn)) {
		l.run()
	}
}

// add takes a link in and gives the present target; false when the relay is
// closed.
func (r *Relay) add(l *link) (target string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return "", false
	}
	r.links = append(r.links, l)
	r.notify()
	return r.target, true
}

// rule finds the rule for connections of a protocol.
func (r *Relay) rule(protocol string) Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rule := range r.rules {
		if rule.Protocol == "" || rule.Protocol == protocol {
			return rule
		}
	}
	return Rule{}
}

// records copies the records; r.mu is held.
func (r *Relay) records() []Record {
	list := make([]Record, len(r.links))
	for i, l := range r.links {
		list[i] = l.record
	}
	return list
}

// notify wakes everybody who waits for an event; r.mu is held.
func (r *Relay) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}
