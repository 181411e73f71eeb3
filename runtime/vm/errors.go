package vm

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// Error is how a chunk failed.
type Error struct {
	Err       error  // what a Go function raised, or the text of a Lua error
	Where     string // "file:line" of the Lua line that called the Go function; "" where Err's text has the position
	Traceback string // Lua's stack, several lines
	Hint      string // advice for a Lua error, or ""
}

// Error prints position, text and hint in one line.
func (e *Error) Error() string {
	s := oneLine(e.Err.Error())
	if e.Where != "" {
		s = e.Where + ": " + s
	}
	if e.Hint != "" {
		s += " (hint: " + e.Hint + ")"
	}
	return s
}

// Unwrap gives the Go error that was raised.
func (e *Error) Unwrap() error { return e.Err }

// InterruptError is how a chunk ended whose epoch was cancelled.
type InterruptError struct {
	Cause  error // what Interrupt was given; an [*ExitError] for os.exit
	During error // the error of the Go function that was running then, or nil
}

// Error prints the cause, and behind it what the running function said.
func (e *InterruptError) Error() string {
	if e.During == nil {
		return oneLine(e.Cause.Error())
	}
	return oneLine(e.Cause.Error() + ": " + e.During.Error())
}

// Unwrap gives both errors.
func (e *InterruptError) Unwrap() []error {
	if e.During == nil {
		return []error{e.Cause}
	}
	return []error{e.Cause, e.During}
}

// ExitError is the cause of an interrupt by os.exit.
type ExitError struct {
	Status int // 0 to 255
}

// Error names the status.
func (e *ExitError) Error() string { return fmt.Sprintf("exit with status %d", e.Status) }

// SyntaxError is why a chunk does not compile.
type SyntaxError struct {
	Chunk   string // the name given to Load
	Line    int    // from 1
	Message string
	// Incomplete says that the chunk ends too early and that more lines could
	// make it whole.
	Incomplete bool
}

// Error prints "chunk:line: message".
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s:%d: %s", e.Chunk, e.Line, e.Message)
}

// syntaxError makes the error of a failed parse or compile.
func syntaxError(name, source string, err error) *SyntaxError {
	e := &SyntaxError{Chunk: name, Line: 1}
	var pe *parse.Error
	var ce *lua.CompileError
	switch {
	case errors.As(err, &pe) && pe.Pos.Line == parse.EOF:
		e.Line = 1 + strings.Count(strings.TrimRight(source, "\n"), "\n")
		e.Message = "unexpected end"
		e.Incomplete = true
		if strings.HasPrefix(pe.Message, "unterminated string") {
			e.Message = pe.Message
			e.Incomplete = false
		}
	case errors.As(err, &pe):
		e.Line = pe.Pos.Line
		if strings.HasPrefix(pe.Message, "unterminated string") {
			e.Line-- // the scanner has read the line's end
		}
		e.Message = oneLine(fmt.Sprintf("%s near '%s'", strings.Replace(pe.Message, "parse error", "syntax error", 1), pe.Token))
	case errors.As(err, &ce):
		e.Line = ce.Line
		e.Message = oneLine(ce.Message)
	case err == nil:
		e.Message = "the compiler failed"
	default:
		e.Message = oneLine(err.Error())
	}
	return e
}

// PanicError is a Go panic inside a guarded function: a defect of the host.
type PanicError struct {
	Value any
	Stack string // Go's stack, several lines
}

// Error prints the panic's value.
func (e *PanicError) Error() string { return fmt.Sprintf("internal error: %v", e.Value) }

// Code is "internal".
func (e *PanicError) Code() string { return "internal" }

// Hint says what to do.
func (e *PanicError) Hint() string { return "this is a defect of walbsh; please report it" }

// An error may offer any of these; scripts then see what it gives as fields.
type (
	coder   interface{ Code() string }
	hinter  interface{ Hint() string }
	fielder interface{ Fields() map[string]string }
)

// raised is what an error userdata holds.
type raised struct {
	err   error
	where string // "file:line", or ""
}

const errorType = "walbsh.error"

// Guard adapts a Go function to Lua. fn pushes its results and gives their
// number. An error becomes a Lua error that keeps it; a Go panic becomes a
// [*PanicError]; a Lua error that passes through (from a callback) stays as
// it is. Nothing runs once the epoch is over. op, for example
// "walbc.restore", is the name that is used where fn panics.
func Guard(op string, fn func(L *lua.LState) (int, error)) lua.LGFunction {
	return func(L *lua.LState) int {
		n, err := guarded(op, L, fn)
		if err != nil {
			Raise(L, err)
		}
		return n
	}
}

func guarded(op string, L *lua.LState, fn func(L *lua.LState) (int, error)) (n int, err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *lua.ApiError:
			panic(p)
		default:
			n, err = 0, fmt.Errorf("%s: %w", op, &PanicError{Value: p, Stack: string(debug.Stack())})
		}
	}()
	if L.Context().Err() != nil {
		return 0, context.Cause(L.Context())
	}
	return fn(L)
}

// Raise raises err as a Lua error with fields. It does not return.
func Raise(L *lua.LState, err error) {
	L.Error(ErrorValue(L, err), 0)
}

// ErrorValue makes the userdata that [Raise] raises, for functions that give
// an error back as a value.
func ErrorValue(L *lua.LState, err error) lua.LValue {
	ud := L.NewUserData()
	ud.Value = &raised{err: err, where: strings.TrimSuffix(callerLine(L), ":")}
	ud.Metatable = errorMetatable(L)
	return ud
}

// callerLine is "file:line:" of the innermost Lua function, "" outside.
func callerLine(L *lua.LState) string {
	for level := 1; ; level++ {
		if _, ok := L.GetStack(level); !ok {
			return ""
		}
		if w := strings.TrimSpace(L.Where(level)); w != "" && !strings.HasPrefix(w, "[G]") {
			return w
		}
	}
}

// AsError gives the Go error inside an error value of a script, and whether
// there is one.
func AsError(v lua.LValue) (error, bool) {
	if r := raisedIn(v); r != nil {
		return r.err, true
	}
	return nil, false
}

func raisedIn(v lua.LValue) *raised {
	ud, ok := v.(*lua.LUserData)
	if !ok {
		return nil
	}
	r, _ := ud.Value.(*raised)
	return r
}

func errorMetatable(L *lua.LState) *lua.LTable {
	mt := L.NewTypeMetatable(errorType)
	if mt.RawGetString("__metatable") != lua.LNil {
		return mt
	}
	names := L.NewTable()
	for _, n := range []string{"cause", "code", "expected", "found", "hint", "message", "op", "server", "state", "vol", "volume", "where"} {
		names.Append(lua.LString(n))
	}
	mt.RawSetString("__metatable", lua.LString("locked"))
	mt.RawSetString("__dir", names)
	mt.RawSetString("__index", L.NewFunction(errorIndex))
	mt.RawSetString("__newindex", L.NewFunction(func(L *lua.LState) int {
		L.RaiseError("an error value is read-only")
		return 0
	}))
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString(errorText(L.Get(1))))
		return 1
	}))
	mt.RawSetString("__concat", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString(errorText(L.Get(1)) + errorText(L.Get(2))))
		return 1
	}))
	return mt
}

// errorText is the text of one side of a concatenation with an error value.
func errorText(v lua.LValue) string {
	if err, ok := AsError(v); ok {
		return oneLine(err.Error())
	}
	return v.String()
}

func errorIndex(L *lua.LState) int {
	if r := raisedIn(L.Get(1)); r != nil {
		if s := errorField(r, L.Get(2).String()); s != "" {
			L.Push(lua.LString(s))
			return 1
		}
	}
	return 0
}

// errorField gives one field of an error value, "" where it has none.
func errorField(r *raised, name string) string {
	switch name {
	case "message":
		return oneLine(r.err.Error())
	case "where":
		return r.where
	case "code":
		return errorCode(r.err)
	case "hint":
		var h hinter
		if errors.As(r.err, &h) {
			return h.Hint()
		}
	}
	var f fielder
	if errors.As(r.err, &f) {
		return f.Fields()[name]
	}
	return ""
}

func errorCode(err error) string {
	var c coder
	switch {
	case errors.As(err, &c):
		return c.Code()
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "internal"
}

// failure turns the error of a protected call into the host's.
func (v *VM) failure(err error) error {
	e := &Error{Err: err}
	var r *raised
	if api, ok := errors.AsType[*lua.ApiError](err); ok {
		e.Traceback = api.StackTrace
		if r = raisedIn(api.Object); r != nil {
			e.Err, e.Where = r.err, r.where
		} else {
			e.Err = errors.New(v.Text(api.Object))
			if v.hint != nil {
				e.Hint = v.hint(e.Err.Error())
			}
		}
	}
	cause := v.Interrupted()
	if cause == nil {
		return e
	}
	if r == nil || errors.Is(cause, r.err) {
		return &InterruptError{Cause: cause}
	}
	return &InterruptError{Cause: cause, During: r.err}
}

// Text is the text of a value, as tostring gives it. Where that runs Lua code
// and fails, or the epoch is over, it is the plain text without metamethods.
func (v *VM) Text(value lua.LValue) string {
	if _, isString := value.(lua.LString); isString || v.Interrupted() != nil {
		return value.String()
	}
	top := v.l.GetTop()
	defer v.l.SetTop(top)
	v.l.Push(v.l.NewFunction(func(L *lua.LState) int {
		L.Push(L.ToStringMeta(L.Get(1)))
		return 1
	}))
	v.l.Push(value)
	if err := v.l.PCall(1, 1, nil); err != nil {
		return value.String()
	}
	return v.l.Get(-1).String()
}

func oneLine(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", " ") }
