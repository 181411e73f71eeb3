package plan

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"walbsh/walbcore/walberr"
)

// Debt is something that a failed plan changed and could not bring back.
type Debt struct {
	Step   string // the compensation that failed
	Server string
	Err    error
}

// Failure is the error of a plan that did not reach its end. It prints as its
// Err, which [errors.As] also finds.
type Failure struct { //nolint:errname // it reads as plan.Failure
	// Err has the operation, the failed step's server, the volume, the code of
	// the cause, the cause itself, and as hint what to do.
	Err *walberr.Error

	Step   string   // name of the failed step, "" when none had begun
	Undone []string // compensations that were done
	Debts  []Debt   // compensations that failed

	// Job is not 0 when the waiter left while the job still runs: it is that
	// job's number, and what it brings back is not known yet.
	Job uint64
}

// Error prints one line.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap gives Err.
func (f *Failure) Unwrap() error { return f.Err }

// codeIn gives the code of err, which happened under ctx: when ctx has ended,
// that is the reason, whatever the error looks like.
func codeIn(ctx context.Context, err error) walberr.Code {
	if ctx.Err() == nil {
		return walberr.CodeOf(err)
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return walberr.Timeout
	}
	return walberr.Canceled
}

// part splits err into what the outer line already says and the rest: it
// gives its hint, and the cause without that hint and without the given volume
// and server.
func part(err error, volume, server string) (hint string, cause error) {
	we, ok := err.(*walberr.Error) //nolint:errorlint // only the outermost line is rewritten
	if !ok {
		return "", err
	}
	inner := *we
	if inner.Volume == volume {
		inner.Volume = ""
	}
	if inner.Server == server {
		inner.Server = ""
	}
	hint, inner.Hint = inner.Hint, ""
	return hint, &inner
}

// serverOf gives the server that err names, or def.
func serverOf(err error, def string) string {
	var we *walberr.Error
	if errors.As(err, &we) && we.Server != "" {
		return we.Server
	}
	return def
}

// failure makes the error of a plan whose step failed under ctx: what failed
// and why, then as hint what to do, what was brought back and what was not.
func (x *exec) failure(ctx context.Context, f *stepFailure) *Failure {
	found := fmt.Sprintf("step %d of %d (%s) failed", f.stage+1, len(x.plan.Stages), f.step.Name)
	e := outer(ctx, x.plan.Op, x.plan.Volume, f.step.Server, found, f.err)
	hints := make([]string, 0, len(x.debts)+2)
	if e.Hint != "" {
		hints = append(hints, e.Hint)
	}
	if len(x.undone) > 0 {
		hints = append(hints, "brought back: "+strings.Join(x.undone, ", "))
	}
	for _, d := range x.debts {
		hint, cause := part(d.Err, x.plan.Volume, d.Server)
		text := fmt.Sprintf("NOT brought back (%s): %v", d.Step, cause)
		if hint != "" {
			text += ", " + hint
		}
		hints = append(hints, text)
	}
	e.Hint = strings.Join(hints, "; ")
	return &Failure{Err: e, Step: f.step.Name, Undone: x.undone, Debts: x.debts}
}

// outer makes the error of an operation of its cause. A cause that is already
// told as the operation's own is not told twice.
func outer(ctx context.Context, op, volume, server, found string, err error) *walberr.Error {
	server = serverOf(err, server)
	e := &walberr.Error{Op: op, Server: server, Volume: volume, Code: codeIn(ctx, err), Found: found}
	e.Hint, e.Err = part(err, volume, server)
	if we, ok := e.Err.(*walberr.Error); ok && we.Op == op { //nolint:errorlint // only the outermost line is rewritten
		if found != "" && we.Found != "" {
			e.Found += ": "
		}
		e.Found += we.Found
		e.Expected, e.Err = we.Expected, we.Err
	}
	return e
}
