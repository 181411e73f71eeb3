package kit

import (
	"errors"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/vm"
	"walbsh/walbcore/walberr"
)

// scriptError shows the fields of a walberr.Error to scripts. It prints and
// unwraps as the error it was made of.
type scriptError struct {
	err error
	we  *walberr.Error // the outermost in err's chain
}

// Adapt makes an error whose fields scripts can read. An error without a
// [walberr.Error] in its chain is given back as it is.
func Adapt(err error) error {
	var done *scriptError
	var we *walberr.Error
	if errors.As(err, &done) || !errors.As(err, &we) {
		return err
	}
	return &scriptError{err: err, we: we}
}

// Error prints the adapted error.
func (e *scriptError) Error() string { return e.err.Error() }

// Unwrap gives the adapted error.
func (e *scriptError) Unwrap() error { return e.err }

// Code is the error's code as scripts match it.
func (e *scriptError) Code() string { return string(walberr.CodeOf(e.err)) }

// Hint is the outermost hint in the chain.
func (e *scriptError) Hint() string {
	for we := e.we; we != nil; {
		if we.Hint != "" {
			return we.Hint
		}
		next := we.Err
		if we = nil; !errors.As(next, &we) {
			break
		}
	}
	return ""
}

// Fields gives the remaining fields. vol and state are other names of volume
// and found, as in the Python session.
func (e *scriptError) Fields() map[string]string {
	f := map[string]string{
		"op": e.we.Op, "server": e.we.Server, "volume": e.we.Volume, "vol": e.we.Volume,
		"found": e.we.Found, "state": e.we.Found, "expected": e.we.Expected,
	}
	if e.we.Err != nil {
		f["cause"] = e.we.Err.Error()
	}
	return f
}

// Try is the Lua function try(f, ...): it gives the results of f(...), or nil
// and the error.
func Try(L *lua.LState) int {
	fn := L.CheckFunction(1)
	top := L.GetTop()
	L.Push(fn)
	for i := 2; i <= top; i++ {
		L.Push(L.Get(i))
	}
	if err := L.PCall(top-1, lua.MultRet, nil); err != nil {
		L.SetTop(top)
		L.Push(lua.LNil)
		L.Push(caught(L, err))
		return 2
	}
	return L.GetTop() - top
}

// caught gives the value that a protected call failed with.
func caught(L *lua.LState, err error) lua.LValue {
	var api *lua.ApiError
	if errors.As(err, &api) && api.Object != nil {
		return api.Object
	}
	return vm.ErrorValue(L, err)
}
