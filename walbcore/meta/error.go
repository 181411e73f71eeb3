package meta

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// Error is a refusal of this package. Its text is complete and one line, in
// the words of the original, and can be sent to a peer as it is.
type Error struct {
	Code walberr.Code // what kind of refusal it is; never empty
	Text string       // for example "apply:can not apply:|1|:|0|-->|1|"
}

// Error gives the text.
func (e *Error) Error() string { return e.Text }

func errorf(code walberr.Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}
