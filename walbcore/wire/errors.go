package wire

import (
	"errors"
	"strings"
	"syscall"

	"walbsh/walbcore/walberr"
)

// Error is a failure of a conversation: malformed bytes, an early end, a
// timeout, a broken connection. Text is what the original says, which servers
// send to the peer; Err is the same for people and programs: a
// [*walberr.Error] with a code.
type Error struct {
	Text string
	Err  error
}

// Error is for people. The words for the peer are given by [RefusalText].
func (e *Error) Error() string {
	if e.Err == nil {
		return firstLine(e.Text)
	}
	return e.Err.Error()
}

// Unwrap gives the [*walberr.Error].
func (e *Error) Unwrap() error { return e.Err }

// Refusal is an answer of the peer that stands where a status word was
// expected: it did not do what it was asked.
type Refusal struct { //nolint:errname // a refusal is an answer, and reads as one
	Server string // id of the peer, may be empty
	Text   string // first line of its words
}

// Error prints who refused and its words.
func (e *Refusal) Error() string {
	if e.Server == "" {
		return "refused: " + e.Text
	}
	return "refused by " + e.Server + ": " + e.Text
}

// NewRefusal makes a Refusal of the words received, keeping their first line:
// the original appends its stack below.
func NewRefusal(server, words string) *Refusal {
	return &Refusal{Server: server, Text: firstLine(words)}
}

// RefusalText is the line that tells a peer about err: the original's words
// where err is an [*Error], else the first line of its message.
func RefusalText(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return firstLine(e.Text)
	}
	return firstLine(err.Error())
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// ioError completes e, the description of a failed system call, and gives it
// the original's text. Anything that is no system error passes unchanged: it
// is the cause with which the connection was ended.
func ioError(where string, e *walberr.Error, err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	return &Error{Text: where + ":" + errnoText(errno), Err: e}
}
