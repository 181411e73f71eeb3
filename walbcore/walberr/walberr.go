// Package walberr holds the one error shape of the system: what was being
// done, at which server and volume, what was found and expected, and what to
// do next. Everything that an operator can see fail returns an [*Error].
//
// The package is pure; it knows no other package of the system.
package walberr

import (
	"context"
	"errors"
	"strings"
)

// Code classifies an error for programs. The list is closed.
type Code string

// The codes. A script may match them: e.code == "bad_state".
const (
	Usage         Code = "usage"          // the caller's arguments are wrong
	Range         Code = "range"          // a number is outside its range
	BadState      Code = "bad_state"      // the volume or server is in a state that forbids it
	NotFound      Code = "not_found"      // a volume, snapshot, server or file does not exist
	Conflict      Code = "conflict"       // something else is running or already there
	TooOldDiff    Code = "too_old_diff"   // the diff is already contained
	TooNewDiff    Code = "too_new_diff"   // a predecessor of the diff is missing
	DifferentUUID Code = "different_uuid" // the data belongs to another log life or archive lineage
	Stopped       Code = "stopped"        // refused because a stop is under way, or ended by one
	Checksum      Code = "checksum"       // bytes are corrupt: checksum, length or structure is wrong
	Timeout       Code = "timeout"        // a deadline passed
	Canceled      Code = "canceled"       // the caller gave up
	Unreachable   Code = "unreachable"    // no connection, or it broke
	Unavailable   Code = "unavailable"    // the server answers but cannot do it now (limits, disk space)
	Internal      Code = "internal"       // a defect of this program
)

// Error is the error shape. Op is required; every other field may be empty.
type Error struct {
	Op       string // operation or step, for example "replicate_once" or "full-bkp"
	Server   string // server id, or host:port where no id is known
	Volume   string
	Code     Code
	Found    string // what was found, for example the state or the server's refusal text
	Expected string // what would have been right
	Hint     string // what to do next
	Err      error  // cause, or nil
}

// Error prints one line: op, server, volume, found, expected, cause, hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Server != "" {
		b.WriteString(" at " + e.Server)
	}
	if e.Volume != "" {
		b.WriteString(" volume " + e.Volume)
	}
	sep := ": "
	part := func(s string) {
		if s != "" {
			b.WriteString(sep + s)
			sep = "; "
		}
	}
	part(e.Found)
	if e.Expected != "" {
		part("expected " + e.Expected)
	}
	if e.Err != nil {
		part(e.Err.Error())
	}
	if e.Found == "" && e.Expected == "" && e.Err == nil {
		part(string(e.Code))
	}
	if e.Hint != "" {
		b.WriteString(" (hint: " + e.Hint + ")")
	}
	return strings.ReplaceAll(b.String(), "\n", " ")
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf finds the code of err: that of the outermost [*Error] in its chain
// that has one, else one derived from context errors, else [Internal].
// It is "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	for e := err; e != nil; {
		var we *Error
		if !errors.As(e, &we) {
			break
		}
		if we.Code != "" {
			return we.Code
		}
		e = we.Err
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// Is reports whether err has the code c.
func Is(err error, c Code) bool { return err != nil && CodeOf(err) == c }

// Corrupt makes a [Checksum] error about bytes: where they come from (a file
// name or a peer), what was found and what was expected.
func Corrupt(op, found, expected string) *Error {
	return &Error{Op: op, Code: Checksum, Found: found, Expected: expected}
}
