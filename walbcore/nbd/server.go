package nbd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/walberr"
)

// DefaultMaxConns is how many connections a server has at most.
const DefaultMaxConns = 128

// DefaultHandshake is how long the handshake of a connection may take.
const DefaultHandshake = 20 * time.Second

// Config says how a server behaves. Zero numbers mean the default.
type Config struct {
	MaxConns  int           // connections at a time; more are closed at once
	Handshake time.Duration // limit of a handshake
	Log       *slog.Logger  // required
}

// Export is a device under a name.
type Export struct {
	Name        string // 1 to 4096 bytes, without control characters
	Description string // for people, may be empty
	// Device is the device. It is written to if it is [Writable] and ReadOnly
	// is false.
	Device   Device
	ReadOnly bool
}

// writable gives the device if it may be written to.
func (e *Export) writable() (Writable, bool) {
	w, ok := e.Device.(Writable)
	return w, ok && !e.ReadOnly
}

// Server serves exports.
type Server struct {
	cfg Config

	mu      sync.Mutex
	exports map[string]*exported
	conns   int
}

// exported is an export with the connections that use it, guarded by
// Server.mu. The channel of a connection is closed when it has let go.
type exported struct {
	Export
	clients map[*conn]chan struct{}
}

// NewServer makes a server without exports.
func NewServer(cfg Config) *Server {
	cfg.MaxConns = cmp.Or(cfg.MaxConns, DefaultMaxConns)
	cfg.Handshake = cmp.Or(cfg.Handshake, DefaultHandshake)
	return &Server{cfg: cfg, exports: map[string]*exported{}}
}

// Add makes an export known. The device is the caller's, who closes it after
// [Server.Remove]. Errors have the codes Usage (an impossible name or size) and
// Conflict (there is one of that name).
func (s *Server) Add(e Export) error {
	ill := len(e.Name) == 0 || len(e.Name) > maxName || slices.ContainsFunc([]byte(e.Name), func(c byte) bool { return c < ' ' || c == 0x7f })
	if ill || !e.Device.Size().Valid() {
		return &walberr.Error{
			Op: "export", Code: walberr.Usage, Found: fmt.Sprintf("name %.80q, %d blocks", e.Name, e.Device.Size()),
			Expected: fmt.Sprintf("a name of 1 to %d bytes, and a size below 8 EiB", maxName),
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.exports[e.Name]; ok {
		return &walberr.Error{Op: "export", Code: walberr.Conflict, Found: "there is an export " + e.Name}
	}
	s.exports[e.Name] = &exported{Export: e, clients: map[*conn]chan struct{}{}}
	return nil
}

// Remove takes an export away, closes the connections that use it, and waits
// until nobody uses the device. It is no error if there is none.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	e := s.exports[name]
	delete(s.exports, name)
	var left []chan struct{}
	if e != nil {
		for c, gone := range e.clients {
			_ = c.net.Close() // its own goroutines see it
			left = append(left, gone)
		}
	}
	s.mu.Unlock()
	for _, gone := range left {
		<-gone
	}
}

// Clients is how many connections use an export; 0 if there is none.
func (s *Server) Clients(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[name]; e != nil {
		return len(e.clients)
	}
	return 0
}

// names lists the exports in order.
func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.exports {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// lookup gives an export.
func (s *Server) lookup(name string) (Export, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.exports[name]
	if !ok {
		return Export{}, false
	}
	return e.Export, true
}

// enter lets a connection use an export until leave is called.
func (s *Server) enter(name string, c *conn) (e Export, leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.exports[name]
	if !ok {
		return Export{}, nil, false
	}
	gone := make(chan struct{})
	x.clients[c] = gone
	return x.Export, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(x.clients, c)
		close(gone)
	}, true
}

// Serve serves a listener, which it owns, until ctx ends. It may be called for
// several listeners. It returns when its connections have ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // Accept fails then
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // of the moment, as too many open files
			s.cfg.Log.Warn("nbd: accept failed: " + err.Error())
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if !s.admit() {
			s.cfg.Log.Warn(fmt.Sprintf("nbd: more than %d connections, closed the one from %s", s.cfg.MaxConns, nc.RemoteAddr()))
			_ = nc.Close()
			continue
		}
		running.Go(func() {
			defer s.dismiss()
			s.serveConn(ctx, nc)
		})
	}
}

func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns >= s.cfg.MaxConns {
		return false
	}
	s.conns++
	return true
}

func (s *Server) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
}

// serveConn serves one connection to its end.
func (s *Server) serveConn(ctx context.Context, nc net.Conn) {
	defer func() { _ = nc.Close() }() // nothing to save
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	c := newConn(s, nc)
	err := c.run(ctx)
	if err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		s.cfg.Log.Warn(fmt.Sprintf("nbd: connection from %s: %s", nc.RemoteAddr(), err))
	}
}
