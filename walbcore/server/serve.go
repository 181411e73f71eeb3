package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"walbsh/walbcore/wire"
)

const (
	shutdownGrace = time.Second            // for control commands at their reply
	acceptRetry   = 100 * time.Millisecond // after a failed accept
	busyLogEvery  = 10 * time.Second
)

// Serve runs the server until ctx ends, Shutdown is called, a client sends
// the shutdown command, or background work fails. It closes the listener,
// waits until every goroutine has ended, and returns the error of the
// background work, else nil. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	soft, stop := context.WithCancelCause(base)
	hard, abort := context.WithCancelCause(base)
	defer abort(ErrShutdown)

	var work sync.WaitGroup
	failed := make(chan error, 1)
	for _, run := range s.background {
		work.Go(func() {
			if err := run(soft); err != nil && soft.Err() == nil {
				select {
				case failed <- err:
				default:
				}
				s.Shutdown()
			}
		})
	}
	work.Go(func() { s.accept(soft, hard, &work) })
	s.config.Log.Info("Ready to accept connections")

	select {
	case <-ctx.Done():
		s.Shutdown()
	case <-s.stopped:
	}
	stop(ErrShutdown)
	_ = s.listener.Close() // nothing is lost by a failure: no one accepts any more
	grace := time.AfterFunc(shutdownGrace, func() { abort(ErrShutdown) })
	defer grace.Stop()
	work.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// accept takes connections while there are free places.
func (s *Server) accept(soft, hard context.Context, work *sync.WaitGroup) {
	places := make(chan struct{}, s.config.MaxConn)
	for {
		if !s.takePlace(soft, places) {
			return
		}
		release := sync.OnceFunc(func() { <-places })
		conn, err := s.listener.Accept()
		if err != nil {
			release()
			if soft.Err() != nil {
				return
			}
			s.config.Log.Error("accept: " + err.Error())
			if !sleep(soft, acceptRetry) {
				return
			}
			continue
		}
		work.Go(func() {
			defer release()
			s.serveConn(soft, hard, conn, release)
		})
	}
}

// takePlace waits for a free place; false at a shutdown.
func (s *Server) takePlace(ctx context.Context, places chan<- struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case places <- struct{}{}:
		return true
	default:
	}
	s.busyLog.warn(s.config.Log, s.config.MaxConn)
	select {
	case <-ctx.Done():
		return false
	case places <- struct{}{}:
		return true
	}
}

// serveConn answers one connection. It is bound to hard for its whole life,
// and to soft except while a control command runs. release gives its place
// back early.
func (s *Server) serveConn(soft, hard context.Context, c net.Conn, release func()) {
	conn := wire.NewConn(hard, c, s.config.Wire)
	defer func() { _ = conn.Close() }() // what matters was sent, or failed, before
	unbind := conn.Bind(soft)
	defer unbind()

	hello, err := wire.ServerHello(conn, s.config.NodeID, func(protocol string) bool {
		_, ok := s.routes[protocol]
		return ok
	})
	log := s.config.Log.With(NodeKey, s.config.NodeID, PeerKey, hello.ClientID)
	if err != nil {
		logFailure(log, err)
		return
	}
	route := s.routes[hello.Protocol]
	switch route.kind {
	case control:
		unbind()
	case transfer:
	case extension:
		release()
	}
	r := &Request{Conn: conn, Protocol: hello.Protocol, ClientID: hello.ClientID, Log: log}
	ended := s.stats.begin(hello.Protocol, hello.ClientID)
	err = route.handler(soft, r)
	ended()
	if err == nil {
		return
	}
	logFailure(log, err)
	if !r.replied {
		if err := conn.Refuse(err); err != nil {
			log.Debug("the refusal was not sent: " + err.Error())
		}
	}
}

// logFailure logs how a request ended. The line is what the client is told.
func logFailure(log *slog.Logger, err error) {
	if errors.Is(err, ErrShutdown) {
		log.Warn("force stopped:" + wire.RefusalText(err))
		return
	}
	log.Error(wire.RefusalText(err))
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// busyLog prints that all places are taken, not more often than busyLogEvery.
// It belongs to the accepting goroutine.
type busyLog struct {
	last       time.Time
	suppressed int
}

func (b *busyLog) warn(log *slog.Logger, limit int) {
	now := time.Now()
	if !b.last.IsZero() && now.Sub(b.last) < busyLogEvery {
		b.suppressed++
		return
	}
	log.Warn("MultiThreadedServer:exceeds max concurrency", "limit", limit, "suppressed", b.suppressed)
	b.last, b.suppressed = now, 0
}
