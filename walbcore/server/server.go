package server

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Defaults of the original.
const (
	DefaultMaxConn       = 10
	DefaultMaxForeground = 2
	DefaultStopLimit     = 60 * time.Second
)

// Config says how a server behaves. NodeID, HostType and Log are required,
// zero numbers mean the default.
type Config struct {
	NodeID   string // id of this server, sent to every client
	HostType string // [wire.HostStorage], [wire.HostProxy] or [wire.HostArchive]

	// Version is the answer to the version command, for example
	// "version:1.0\tbuild_date:2026-11-25T00:00:00\tlog_version:2".
	Version string
	// Features are the names that walbsh-features answers.
	Features []string

	MaxConn       int           // connections served at a time
	MaxForeground int           // see Server.Foreground
	StopLimit     time.Duration // how long a stop command waits; see Server.AwaitFact
	Wire          wire.Options  // timeout and keep-alive of accepted connections

	Log *slog.Logger
	// Now is the clock for timestamps; nil means time.Now.
	Now func() time.Time
}

// Handler answers one request, after the negotiation. It runs on its own
// goroutine and owns the request until it returns; the server closes the
// connection. ctx ends when the server shuts down. For the error it returns
// see the package comment.
type Handler func(ctx context.Context, r *Request) error

// Server is one server. Registering methods must be called before Serve, all
// others may be called from any goroutine.
type Server struct {
	config     Config
	listener   net.Listener
	routes     map[string]route
	targets    map[string]Target
	background []func(context.Context) error

	foreground atomic.Int64
	stats      stats
	busyLog    busyLog

	stopOnce sync.Once
	stopped  chan struct{} // closed by Shutdown
}

// route is a protocol served.
type route struct {
	handler Handler
	kind    kind
}

// kind says how the connection behaves at a shutdown and against MaxConn.
type kind int

const (
	control   kind = iota // may finish its reply at a shutdown
	transfer              // breaks off at a shutdown
	extension             // as transfer, and does not count against MaxConn
)

// ErrShutdown is the cause with which the contexts of handlers and background
// work end.
var ErrShutdown error = &walberr.Error{Op: "serve", Code: walberr.Stopped, Found: "the server shuts down"}

// New makes a server that will accept from listener and owns it.
func New(listener net.Listener, config Config) *Server {
	config.MaxConn = orDefault(config.MaxConn, DefaultMaxConn)
	config.MaxForeground = orDefault(config.MaxForeground, DefaultMaxForeground)
	config.StopLimit = orDefault(config.StopLimit, DefaultStopLimit)
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Server{
		config:   config,
		listener: listener,
		routes:   make(map[string]route),
		targets:  make(map[string]Target),
		stopped:  make(chan struct{}),
	}
	s.registerCommon()
	return s
}

func orDefault[T int | time.Duration](value, def T) T {
	if value == 0 {
		return def
	}
	return value
}

// Addr is the address where the server accepts.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Config is the configuration with its defaults filled in.
func (s *Server) Config() Config { return s.config }

// Handle serves a control protocol: a short exchange.
func (s *Server) Handle(protocol string, h Handler) { s.routes[protocol] = route{h, control} }

// HandleTransfer serves a transfer protocol. Its connection is bound to ctx:
// at a shutdown reads and writes fail at once.
func (s *Server) HandleTransfer(protocol string, h Handler) {
	s.routes[protocol] = route{h, transfer}
}

// HandleExtension serves a protocol of our own whose connections are kept
// long. They are bound to ctx and do not count against MaxConn.
func (s *Server) HandleExtension(protocol string, h Handler) {
	s.routes[protocol] = route{h, extension}
}

// HandleCommand serves a control command whose body is a vector of words. When
// the handler returns nil without having replied, the reply is "ok".
func (s *Server) HandleCommand(protocol string, h func(ctx context.Context, r *Request, words []string) error) {
	s.Handle(protocol, func(ctx context.Context, r *Request) error {
		words, err := r.Words(ctx)
		if err != nil {
			return err
		}
		if err := h(ctx, r, words); err != nil || r.Replied() {
			return err
		}
		return r.OK()
	})
}

// Background adds work that runs beside the requests, from the beginning of
// Serve until its ctx ends at a shutdown. An error it returns before that
// ends the server: Serve returns it.
func (s *Server) Background(work func(ctx context.Context) error) {
	s.background = append(s.background, work)
}

// Foreground counts the caller as a foreground task until it calls release.
// When there are more than MaxForeground, the caller included, it is refused:
// "<name>:exceeds max foreground tasks:<limit>".
func (s *Server) Foreground(name string) (release func(), err error) {
	if n := s.foreground.Add(1); n > int64(s.config.MaxForeground) {
		s.foreground.Add(-1)
		return nil, Refusef(walberr.Unavailable, "%s:exceeds max foreground tasks:%d", name, s.config.MaxForeground)
	}
	return sync.OnceFunc(func() { s.foreground.Add(-1) }), nil
}

// Shutdown ends the server, as the shutdown command does; Serve returns when
// all has ended. Later calls do nothing.
func (s *Server) Shutdown() {
	s.stopOnce.Do(func() { close(s.stopped) })
}

// Stopping reports whether the server shuts down.
func (s *Server) Stopping() bool {
	select {
	case <-s.stopped:
		return true
	default:
		return false
	}
}

// AwaitFact waits for a fact on behalf of the stop command called name. changed
// gives a channel that is closed at the next change; it is taken before fact
// is looked at, so no change is missed. After StopLimit the fact is given up
// with "<name>:timeout:<seconds>", and at the end of ctx with its cause.
func (s *Server) AwaitFact(ctx context.Context, name string, changed func() <-chan struct{}, fact func() bool) error {
	limit := time.NewTimer(s.config.StopLimit)
	defer limit.Stop()
	for {
		next := changed()
		if fact() {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit.C:
			return Refusef(walberr.Timeout, "%s:timeout:%d", name, int(s.config.StopLimit/time.Second))
		}
	}
}
