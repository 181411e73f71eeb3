package group

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// world is a group of scripted servers that speak the protocol over loopback
// and keep what a test needs in memory: states, lists, queues and gids.
type world struct {
	t  *testing.T
	wg sync.WaitGroup

	ctx  context.Context //nolint:containedctx // the life of the scripted servers
	stop context.CancelFunc

	mu      sync.Mutex // one lock for all that the servers know
	servers []*fake
	trace   []string // commands that change something, in order: "p0: stop vol empty"
	giveUp  time.Duration
	copying time.Duration // how long a copy runs
}

// fake is one server.
type fake struct {
	w    *world
	conf Server
	ln   net.Listener
	self interface {
		do(name string, words []string, info wire.ArchiveInfoRequest) reply
		get(target string, args []string) reply
		names() []string
	}
	original bool // does not know our extensions
	down     bool // takes no connections
	faults   []*fault
}

// fault is what happens to a command instead of, or beside, being done.
type fault struct {
	match   string // prefix of the command with its words
	refuse  string // answered instead of the status word
	hang    bool   // never answered, not done
	doHang  bool   // done, never answered
	drop    bool   // connection closed, not done
	kill    bool   // the server goes down, not done
	times   int    // how often; 0 = always
	happens func() // called when it strikes
}

// reply is the answer to a command.
type reply struct {
	status string
	values func(w *wire.Writer)
	after  func() // runs when the client has closed
}

func ok() reply                { return reply{status: wire.OK} }
func accept(f func()) reply    { return reply{status: wire.Accept, after: f} }
func refuse(text string) reply { return reply{status: text} }
func str(s string) reply {
	return reply{status: wire.OK, values: func(w *wire.Writer) { w.Str(s); w.Ack() }}
}

func num(n uint64) reply {
	return reply{status: wire.OK, values: func(w *wire.Writer) { w.U64(n); w.Ack() }}
}

func vec(v []string) reply {
	return reply{status: wire.OK, values: func(w *wire.Writer) { w.StrVec(v); w.Ack() }}
}

func flagged(b bool) reply {
	if b {
		return num(1)
	}
	return num(0)
}

func lines[T fmt.Stringer](list []T) reply {
	var v []string
	for _, x := range list {
		v = append(v, x.String())
	}
	return vec(v)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &world{t: t, ctx: ctx, stop: stop, giveUp: 150 * time.Millisecond, copying: 3 * time.Millisecond}
	t.Cleanup(func() {
		stop()
		w.mu.Lock()
		for _, s := range w.servers {
			_ = s.ln.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

func (w *world) add(kind Kind, name string) *fake {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	addr := ln.Addr().(*net.TCPAddr)
	s := &fake{w: w, ln: ln, conf: Server{Name: name, Host: "127.0.0.1", Port: uint16(addr.Port), Kind: kind}}
	w.servers = append(w.servers, s)
	w.wg.Go(func() { s.serve() })
	return s
}

func (s *fake) serve() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.w.mu.Lock()
		down := s.down
		s.w.mu.Unlock()
		if down {
			_ = c.Close()
			continue
		}
		s.w.wg.Go(func() { s.converse(c) })
	}
}

func (s *fake) converse(c net.Conn) {
	conn := wire.NewConn(s.w.ctx, c, wire.Options{})
	defer conn.Close()
	h, err := wire.ServerHello(conn, s.conf.Name, func(p string) bool { return p != wire.ProtoFeatures || !s.original })
	if err != nil {
		return
	}
	var words []string
	var info wire.ArchiveInfoRequest
	switch h.Protocol {
	case wire.ProtoFeatures:
		conn.W.Str(wire.OK)
		conn.W.StrVec([]string{wire.FeatureReplStatus, wire.FeatureActionStatus})
		_ = conn.Finish()
		return
	case wire.ProtoArchiveInfo:
		info.Decode(conn.R)
		words = info.Words
		if info.NeedsName() {
			words = append(slices.Clone(words), info.Name)
		}
	default:
		words = conn.R.StrVec()
	}
	if conn.R.Err() != nil {
		return
	}
	r, silent := s.answer(h.Protocol, words, info)
	if silent {
		_, _ = conn.R.Read(make([]byte, 1)) // until the client or the world ends
		if r.after != nil {
			r.after()
		}
		return
	}
	if r.status == "" {
		return
	}
	conn.W.Str(r.status)
	if r.values != nil {
		r.values(conn.W)
	}
	if conn.Finish() != nil {
		return
	}
	if r.after != nil {
		r.after()
	}
}

// answer does a command, unless a fault is set for it.
func (s *fake) answer(name string, words []string, info wire.ArchiveInfoRequest) (r reply, silent bool) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	command := strings.TrimSpace(name + " " + strings.Join(words, " "))
	if name != wire.ProtoGet && name != wire.ProtoStatus && info.Sub() != wire.InfoList && info.Sub() != wire.InfoGet {
		s.w.trace = append(s.w.trace, s.conf.Name+": "+command)
	}
	f := s.strike(command)
	if f != nil {
		if f.happens != nil {
			f.happens()
		}
		switch {
		case f.kill:
			s.down = true
			return reply{}, false
		case f.drop:
			return reply{}, false
		case f.refuse != "":
			return refuse(f.refuse), false
		}
	}
	switch {
	case f != nil && f.hang:
	case name == wire.ProtoStatus:
		r = vec([]string{"stopState NotStopping", "-----Archive-----", "host 127.0.0.1:1:1"})
	case name != wire.ProtoGet:
		r = s.self.do(name, words, info)
	case words[0] == wire.TargetVol:
		r = vec(s.self.names())
	default:
		r = s.self.get(words[0], words[1:])
	}
	return r, f != nil && (f.hang || f.doHang)
}

// strike finds the fault for a command. The lock is held.
func (s *fake) strike(command string) *fault {
	for i, f := range s.faults {
		if !strings.HasPrefix(command, f.match) {
			continue
		}
		if f.times > 0 {
			if f.times--; f.times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return f
	}
	return nil
}

func (s *fake) break_(f fault) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.faults = append(s.faults, &f)
}

func (s *fake) heal() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.faults, s.down = nil, false
}

// later runs f, with the lock held, after a time. f may be told of the end of
// the world.
func (w *world) later(d time.Duration, f func()) {
	w.wg.Go(func() {
		select {
		case <-time.After(d):
		case <-w.ctx.Done():
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		f()
	})
}

// changes is the trace of the commands that begin with one of the prefixes
// (all if none), and forgets it.
func (w *world) changes(prefixes ...string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	for _, c := range w.trace {
		_, command, _ := strings.Cut(c, ": ")
		if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(command, p) }) {
			out = append(out, c)
		}
	}
	w.trace = nil
	return out
}

func (w *world) archiveAt(addr wire.Addr) *fakeArchive {
	for _, s := range w.servers {
		if s.conf.Port == addr.Port {
			if a, ok := s.self.(*fakeArchive); ok && !s.down {
				return a
			}
		}
	}
	return nil
}

// locked runs f with the lock of the world.
func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// stamp is the timestamp of everything.
const stamp = 1700000000

func diff(b, e meta.Gid) meta.Diff {
	return meta.Diff{B: meta.CleanSnap(b), E: meta.CleanSnap(e), Mergeable: true, Timestamp: stamp, Size: 4096}
}
