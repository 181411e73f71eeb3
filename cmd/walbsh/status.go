package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"walbsh/runtime/vm"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

// The exit statuses. A signal that ends the program gives 128 and its number,
// os.exit in a script what it was given.
const (
	statusOK       = 0
	statusFailed   = 1  // a script or an operation failed
	statusUsage    = 2  // the command line is wrong
	statusPartly   = 3  // an operation failed and something could not be brought back
	statusTimeout  = 4  // a time limit passed
	statusInternal = 70 // a defect of this program
)

// usageError is a mistake in the command line.
type usageError struct{ text, hint string }

// Error prints text and hint.
func (e *usageError) Error() string {
	if e.hint == "" {
		return e.text
	}
	return e.text + " (hint: " + e.hint + ")"
}

func usagef(hint, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), hint}
}

// signalError is the cause with which a signal ends the program's work.
type signalError struct{ signal os.Signal }

// Error says what the signal means.
func (e *signalError) Error() string {
	switch e.signal {
	case os.Interrupt:
		return "interrupted"
	case syscall.SIGHUP:
		return "the terminal hung up"
	}
	return "terminated"
}

func (e *signalError) status() int {
	if s, ok := e.signal.(syscall.Signal); ok {
		return 128 + int(s)
	}
	return statusFailed
}

// statusOf gives the exit status for the error with which a face ended.
func statusOf(err error) int {
	var exit *vm.ExitError
	var stopped *signalError
	var usage *usageError
	var defect *vm.PanicError
	var failure *plan.Failure
	var core *walberr.Error
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &exit):
		return exit.Status
	case errors.As(err, &stopped):
		return stopped.status()
	case errors.As(err, &usage):
		return statusUsage
	case errors.As(err, &defect):
		return statusInternal
	case errors.As(err, &failure) && len(failure.Debts) > 0:
		return statusPartly
	case errors.As(err, &core) && core.Code == walberr.Internal:
		return statusInternal
	case walberr.Is(err, walberr.Timeout), errors.Is(err, context.DeadlineExceeded):
		return statusTimeout
	}
	return statusFailed
}

// fail prints how a face ended, if there is anything to say, and gives the exit
// status.
func fail(w io.Writer, err error) int {
	var exit *vm.ExitError
	if err == nil || errors.As(err, &exit) {
		return statusOf(err)
	}
	say(w, "walbsh: %s\n", oneLine(err))
	if defect, ok := errors.AsType[*vm.PanicError](err); ok {
		say(w, "%s\n", strings.TrimSpace(defect.Stack))
	}
	return statusOf(err)
}

// say prints. That nobody reads it is no reason to do anything else.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
