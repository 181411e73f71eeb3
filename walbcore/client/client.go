// Package client speaks the control protocol: one method per command of the
// storage, proxy and archive servers, each one connection, the answers parsed.
// Nothing here is composed of several commands; that is the business of plans.
//
// What may come in: packages meta, wire and what they rest on. Servers never
// come in here.
//
// Every method takes the context first. Its end breaks the connection, which
// does not undo a command that the server has begun. Failures are
// [*walberr.Error] values: Op is the command's name, Server the id that the
// server told (or its address), Volume the volume, and
//
//   - a refusal has the server's words in Found and the code that fits them best,
//   - a connection that cannot be made or breaks is Unreachable,
//   - silence longer than the timeout is Timeout,
//   - an answer that cannot be understood is Checksum.
//
// Commands that are accepted and then work on (stop, full-bkp, restore,
// replicate) report later failures only in the server's log. Their methods
// return when the connection is closed, which is when the server begins.
package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// DefaultRetries is how often the original's controller repeats status and get.
const DefaultRetries = 2

// retryPause is the pause before a repetition.
const retryPause = 100 * time.Millisecond

// Options of a client.
type Options struct {
	// ID is the node id that servers see and log.
	ID string
	// Name is what errors call the server until it has told its id; "" means
	// its address.
	Name string
	// Timeout limits connecting, and each single read and write of the
	// answer. 0 is no limit; [wire.DefaultTimeout] is the original's.
	Timeout time.Duration
	// Retries is how often status and get are repeated after a failure of
	// any kind, including a refusal. 0 is never. Other commands are not
	// repeated: they may have been done.
	Retries int
}

// Client sends commands to one server. It holds no connection between
// commands and is safe for concurrent use.
type Client struct {
	addr string
	opts Options

	mu       sync.Mutex
	asked    bool     // features are known; guarded by mu
	features []string // guarded by mu
}

// New makes a client of the server at addr, "host:port".
func New(addr string, opts Options) *Client { return &Client{addr: addr, opts: opts} }

// Addr is the server's address as given to [New].
func (c *Client) Addr() string { return c.addr }

// label is what errors call the server as long as it has not told its id.
func (c *Client) label() string {
	if c.opts.Name != "" {
		return c.opts.Name
	}
	return c.addr
}

// command is one exchange with the server.
type command struct {
	name   string // protocol name
	op     string // name in errors, where it is not the protocol's
	volume string // for errors, may be empty
	body   func(w *wire.Writer)
	status string // word that means success; "" where there is none
	answer func(r *wire.Reader) error
	// talk is what follows the status word where that is more than one answer.
	talk func(conn *wire.Conn, server string) error
}

// words is the body of most commands.
func words(v ...string) func(w *wire.Writer) {
	return func(w *wire.Writer) { w.StrVec(v) }
}

// once performs the command on a connection of its own.
func (c *Client) once(ctx context.Context, cmd command) error {
	server := c.label()
	told := false
	err := func() error {
		conn, err := wire.Dial(ctx, c.addr, wire.Options{Timeout: c.opts.Timeout})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // the answer is in, or the failure known
		id, err := wire.ClientHello(conn, c.opts.ID, cmd.name)
		if id != "" {
			server, told = id, true
		}
		if err != nil {
			return err
		}
		if cmd.body != nil {
			cmd.body(conn.W)
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		if cmd.status != "" {
			if _, err := wire.Status(conn.R, id, cmd.status); err != nil {
				return err
			}
		}
		if cmd.talk != nil {
			return cmd.talk(conn, id)
		}
		if cmd.answer == nil {
			return nil
		}
		if err := cmd.answer(conn.R); err != nil {
			return err
		}
		return conn.R.Err()
	}()
	if err == nil {
		return nil
	}
	return c.failure(ctx, cmd, server, told, err)
}

// again performs a command that only asks, and repeats it as the options say.
func (c *Client) again(ctx context.Context, cmd command) error {
	for left := c.opts.Retries; ; left-- {
		err := c.once(ctx, cmd)
		if err == nil || left <= 0 || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return c.failure(ctx, cmd, c.label(), false, context.Cause(ctx))
		}
	}
}

// failure gives err the shape that callers see. told says that server is the
// id that the server told, so that it did answer.
func (c *Client) failure(ctx context.Context, cmd command, server string, told bool, err error) error {
	e := &walberr.Error{Op: cmd.name, Server: server, Volume: cmd.volume, Code: walberr.CodeOf(err), Err: err}
	if cmd.op != "" {
		e.Op = cmd.op
	}
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		e.Found, e.Err = refusal.Text, nil
		e.Code, e.Hint = Classify(refusal.Text), hintFor(refusal.Text)
		return e
	}
	switch {
	case ctx.Err() != nil:
		e.Code = walberr.CodeOf(ctx.Err())
		if errors.Is(err, context.DeadlineExceeded) {
			e.Found, e.Err = "the time limit passed without an answer", nil
			e.Hint = "does the server at " + c.addr + " hang, or was the limit too short?"
		}
	case e.Code == walberr.Unreachable && !told:
		e.Hint = "is a server running at " + c.addr + "?"
	case e.Code == walberr.Unreachable:
		e.Hint = "the server at " + c.addr + " closed the connection; its log says why"
	case e.Code == walberr.Timeout:
		e.Hint = "no answer from " + c.addr + " within " + c.opts.Timeout.String()
	}
	return e
}

// checked answers why a volume name cannot be sent, or nil.
func (c *Client) checked(cmd command) error {
	if err := wire.CheckVolumeName(cmd.volume); err != nil {
		return c.usage(cmd, err)
	}
	return nil
}

// usage is a failure of the caller's arguments; nothing was sent.
func (c *Client) usage(cmd command, err error) error {
	op := cmd.op
	if op == "" {
		op = cmd.name
	}
	return &walberr.Error{Op: op, Server: c.label(), Volume: cmd.volume, Code: walberr.Usage, Found: wire.RefusalText(err)}
}

// Features asks the server which extensions of ours it has, and remembers the
// answer. An original has none: the list is empty and no error.
func (c *Client) Features(ctx context.Context) ([]string, error) {
	if features, asked := c.known(); asked {
		return features, nil
	}
	var features []string // asked without the lock, which would hold others beyond their contexts
	err := c.once(ctx, command{name: wire.ProtoFeatures, status: wire.OK, answer: func(r *wire.Reader) error {
		features = r.StrVec()
		return nil
	}})
	if e, ok := errors.AsType[*walberr.Error](err); ok && isBadProtocol(e.Found) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.features = true, features
	return slices.Clone(features), nil
}

// known gives the features if the server was asked before.
func (c *Client) known() (features []string, asked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.features), c.asked
}

// HasFeature reports whether the server has the named extension; see [Client.Features].
func (c *Client) HasFeature(ctx context.Context, name string) (bool, error) {
	features, err := c.Features(ctx)
	return slices.Contains(features, name), err
}
