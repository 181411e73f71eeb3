package server

import (
	"context"
	"math"
	"os"
	"time"

	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// registerCommon registers what every server serves.
func (s *Server) registerCommon() {
	s.Handle(wire.ProtoVersion, s.version)
	s.Handle(wire.ProtoSleep, s.sleep)
	s.Handle(wire.ProtoShutdown, s.shutdown)
	s.Handle(wire.ProtoFeatures, s.features)
	s.HandleCommand(wire.ProtoGet, s.get)

	s.Target("host-type", func(context.Context, []string) (Value, error) { return Text(s.config.HostType), nil })
	s.Target("pid", func(context.Context, []string) (Value, error) { return Number(uint64(os.Getpid())), nil })
	s.Target("handler-stat", func(context.Context, []string) (Value, error) { return Lines(s.stats.take()), nil })
}

// version answers the version line; there is no status word before it.
func (s *Server) version(_ context.Context, r *Request) error {
	if err := r.Reply(s.config.Version); err != nil {
		return err
	}
	return r.Finish()
}

// sleep answers after the asked number of seconds, or early at a shutdown.
func (s *Server) sleep(ctx context.Context, r *Request) error {
	seconds := r.R.U64()
	if err := r.R.Err(); err != nil {
		return err
	}
	sleep(ctx, time.Duration(min(seconds, math.MaxInt64/uint64(time.Second)))*time.Second)
	return r.OK()
}

// shutdown ends the server. Both kinds break off running transfers, as in the
// original. The shutdown is under way before the client is told.
func (s *Server) shutdown(_ context.Context, r *Request) error {
	force := r.R.Bool()
	if err := r.R.Err(); err != nil {
		return err
	}
	kind := "graceful"
	if force {
		kind = "force"
	}
	r.Log.Info("shutdown:" + kind + ":" + r.ClientID)
	s.Shutdown()
	return r.Accept()
}

// features answers which extensions this server has.
func (s *Server) features(_ context.Context, r *Request) error {
	r.replied = true
	r.W.Str(wire.OK)
	r.W.StrVec(s.config.Features)
	return r.Finish()
}

// get answers one target.
func (s *Server) get(ctx context.Context, r *Request, words []string) error {
	if len(words) == 0 {
		return Refusef(walberr.Usage, "runGetCommandServer:no target specified")
	}
	target, ok := s.targets[words[0]]
	if !ok {
		return Refusef(walberr.Usage, "runGetCommandServer:no such target:%s", words[0])
	}
	s.stats.countGet(words[0], r.ClientID)
	value, err := target(ctx, words[1:])
	if err != nil {
		return err
	}
	return r.answer(value)
}
