package group

import (
	"context"
	"errors"
	"time"

	"walbsh/walbcore/walberr"
)

// The pauses between two looks at a fact.
const (
	firstPause = 3 * time.Millisecond
	lastPause  = 400 * time.Millisecond
)

// wait describes what is waited for, for the error of a wait that ended without it.
type wait struct {
	op       string // command or step: "stop"
	server   string
	volume   string
	expected string // the fact: "state Stopped"
	hint     string
}

// await looks again and again until look says that the fact is there. It is
// the only place of the package that waits. found is what was seen, for the
// error when ctx ends first. A server that cannot be reached ends the wait only
// after patience; any other failure ends it at once.
func await(ctx context.Context, patience time.Duration, w wait, look func(ctx context.Context) (found string, done bool, err error)) error {
	pause := firstPause
	var lost time.Time // since when the server is unreachable
	var seen string
	for {
		began := time.Now()
		found, done, err := look(ctx)
		switch {
		case ctx.Err() != nil && (err != nil || !done):
			return w.ended(ctx, seen, err)
		case err == nil && done:
			return nil
		case err == nil:
			seen, lost = found, time.Time{}
		case !momentary(err):
			return err
		case lost.IsZero():
			lost = began
			fallthrough
		default:
			if time.Since(lost) > patience {
				return err
			}
		}
		if !sleep(ctx, pause) {
			return w.ended(ctx, seen, err)
		}
		pause = min(pause*3/2, lastPause)
	}
}

// ended makes the error of a wait whose context ended.
func (w wait) ended(ctx context.Context, seen string, err error) error {
	e := &walberr.Error{
		Op: w.op, Server: w.server, Volume: w.volume, Code: walberr.Canceled,
		Found: seen, Expected: w.expected, Hint: w.hint, Err: context.Cause(ctx),
	}
	if errors.Is(e.Err, context.DeadlineExceeded) {
		e.Code, e.Err = walberr.Timeout, nil
		if err != nil && momentary(err) {
			e.Err = err
		}
		if e.Found == "" {
			e.Found = "no answer in time"
		} else {
			e.Found = "timeout: still " + e.Found
		}
	}
	return e
}

// momentary reports whether a failure may pass by itself: the server cannot be
// reached, or did not answer in time.
func momentary(err error) bool {
	return walberr.Is(err, walberr.Unreachable) || walberr.Is(err, walberr.Timeout)
}

// sleep pauses, and reports false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
