package server

import (
	"context"
	"fmt"
	"log/slog"

	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Request is one connection whose negotiation is done. It belongs to its
// handler's goroutine.
type Request struct {
	*wire.Conn
	Protocol string
	ClientID string       // as the client said; may be empty and is not trusted
	Log      *slog.Logger // prints the prefix "[server][client] "

	replied bool
}

// Words reads the body of a command: a vector of words. While it waits, a
// shutdown breaks the connection off.
func (r *Request) Words(ctx context.Context) ([]string, error) {
	defer r.Bind(ctx)()
	words := r.R.StrVec()
	return words, r.R.Err()
}

// Reply sends a status word. From then on errors of the handler are no longer
// told to the client. Values may follow, then [wire.Conn.Finish].
func (r *Request) Reply(word string) error {
	r.replied = true
	r.W.Str(word)
	return r.Flush()
}

// OK ends a command whose work is done: "ok", then waits for the client's
// close.
func (r *Request) OK() error {
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	return r.Finish()
}

// Accept answers "accept" and waits for the client's close. When it fails the
// command must not run.
func (r *Request) Accept() error {
	if err := r.Reply(wire.Accept); err != nil {
		return err
	}
	return r.Finish()
}

// Replied reports whether a status word was sent.
func (r *Request) Replied() bool { return r.replied }

// Refusef makes a refusal: an error whose text goes to the client in place of
// the status word, word for word.
func Refusef(code walberr.Code, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &wire.Error{Text: text, Err: &walberr.Error{Op: "request", Code: code, Found: text}}
}
