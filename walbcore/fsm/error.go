package fsm

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// Error is a refusal of this package. Its text is complete and one line, in the
// words of the original, and can be sent to a peer as it is.
type Error struct {
	Code walberr.Code // BadState, Conflict, Stopped, Usage or Internal; never empty
	Text string       // for example "c2aStartServer:StateMachineTransaction:bad state:Archived:Stopped:Start"
}

// Error gives the text.
func (e *Error) Error() string { return e.Text }

func errorf(code walberr.Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}
