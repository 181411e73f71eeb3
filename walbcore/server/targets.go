package server

import (
	"context"

	"walbsh/walbcore/wire"
)

// Target computes what a get target answers. args are the words behind the
// target name. An error becomes the refusal.
type Target func(ctx context.Context, args []string) (Value, error)

// Value is the answer of a get target: a number, a text or lines.
type Value struct {
	write func(w *wire.Writer)
}

// Number answers a number.
func Number(n uint64) Value { return Value{func(w *wire.Writer) { w.U64(n) }} }

// Bool answers 0 or 1.
func Bool(b bool) Value { return Value{func(w *wire.Writer) { w.Bool(b) }} }

// Text answers one string.
func Text(s string) Value { return Value{func(w *wire.Writer) { w.Str(s) }} }

// Lines answers a vector of strings.
func Lines(v []string) Value { return Value{func(w *wire.Writer) { w.StrVec(v) }} }

// Target serves a get target. host-type, pid and handler-stat are there
// already.
func (s *Server) Target(name string, t Target) { s.targets[name] = t }

// HandleStatus serves the status command: lines computes the lines for the
// words sent, none or a volume name.
func (s *Server) HandleStatus(lines func(ctx context.Context, words []string) ([]string, error)) {
	s.HandleCommand(wire.ProtoStatus, func(ctx context.Context, r *Request, words []string) error {
		v, err := lines(ctx, words)
		if err != nil {
			return err
		}
		return r.answer(Lines(v))
	})
}

// answer ends a query: "ok", the value, an acknowledgement, close.
func (r *Request) answer(v Value) error {
	r.replied = true
	r.W.Str(wire.OK)
	v.write(r.W)
	r.W.Ack()
	return r.Finish()
}
