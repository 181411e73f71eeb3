// Package vm runs Lua: one state with safe libraries, interrupts that no
// script can swallow, and errors that keep their Go identity.
//
// # What a script gets
//
// Lua 5.1 with goto. The libraries base, table, string, math, coroutine and
// package; os without process execution, exit codes and environment changes
// aside; io for regular files only; debug.traceback and debug.getinfo. print
// and io.write go to [Options.Stdout]. string.find, match, gmatch and gsub are
// bounded (see package pattern), string.rep and string.format too.
// require looks along package.path, which the host sets.
//
// # Interrupts
//
// All Lua runs under the context of one epoch. [VM.Interrupt] cancels it: the
// next instruction raises, and again inside every handler that a pcall leads
// to, until the outermost call has ended with an [*InterruptError] that holds
// the cause. From then on no Lua runs until the host calls [VM.Reset], which
// begins a new epoch; coroutines made in an old epoch are dead. os.exit is an
// interrupt whose cause is [*ExitError], so it cannot be swallowed either and
// the host's deferred calls run.
//
// A Go function is interrupted only if it looks at the context: [Guard]ed
// functions get it from L.Context().
//
// # Errors
//
// A Go function made by [Guard] raises a userdata that holds the Go error:
// scripts read its fields (code, hint, message, where, and what the error
// itself names), the host gets the same error value back, so errors.Is and
// errors.As see it through any number of rethrows.
//
// A VM belongs to the goroutine that uses it; only Interrupt, Interrupted and
// Context may be called from others.
package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// Options describe a state. The zero value is usable: output is discarded
// and require finds nothing.
type Options struct {
	Stdout io.Writer             // for print and io.write
	Stderr io.Writer             // for io.stderr
	Path   []string              // directories in which require looks, for NAME.lua and NAME/init.lua
	Args   []string              // the global table arg, from 1
	Preset map[string]lua.LValue // further globals, set once
	// Hint, if not nil, gives advice for the text of an error that Lua itself
	// raised, or "". It is shown behind the text.
	Hint func(message string) string
}

// VM is one Lua state.
type VM struct {
	l    *lua.LState
	base context.Context //nolint:containedctx // the parent of every epoch
	hint func(string) string

	mu     sync.Mutex
	epoch  context.Context //nolint:containedctx // replaced by Reset; calls from Lua have no other way to get it
	cancel context.CancelCauseFunc
}

// New makes a state. Every epoch's context is derived from ctx; when ctx is
// cancelled the state is of no further use.
func New(ctx context.Context, o Options) *VM {
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	v := &VM{base: ctx, hint: o.Hint, l: lua.NewState(lua.Options{
		CallStackSize:       1024,
		RegistrySize:        1024,
		RegistryMaxSize:     1 << 20,
		RegistryGrowStep:    4096,
		SkipOpenLibs:        true,
		IncludeGoStackTrace: true,
	})}
	v.Reset()
	openLibraries(v, o)
	for name, value := range o.Preset {
		v.l.SetGlobal(name, value)
	}
	args := v.l.NewTable()
	for _, a := range o.Args {
		args.Append(lua.LString(a))
	}
	v.l.SetGlobal("arg", args)
	return v
}

// State gives the Lua state, for those that install globals and modules.
func (v *VM) State() *lua.LState { return v.l }

// Close ends the epoch and the state. No Lua may be running.
func (v *VM) Close() {
	v.Interrupt(context.Canceled)
	v.l.Close()
}

// Context gives the context of the present epoch.
func (v *VM) Context() context.Context {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.epoch
}

// Interrupt cancels the present epoch with the given cause. The first cause
// counts. It may be called from any goroutine and does not wait.
func (v *VM) Interrupt(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel(cause)
}

// Interrupted gives the cause of the present epoch's end, or nil.
func (v *VM) Interrupted() error {
	return context.Cause(v.Context())
}

// Reset begins a new epoch. No Lua may be running. It has no effect on a state
// whose base context is cancelled.
func (v *VM) Reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cancel != nil {
		v.cancel(context.Canceled)
	}
	v.epoch, v.cancel = context.WithCancelCause(v.base)
	v.l.SetContext(v.epoch)
}

// SetGlobal sets a global variable.
func (v *VM) SetGlobal(name string, value lua.LValue) { v.l.SetGlobal(name, value) }

// Load compiles a chunk without running it. name appears in positions, as in
// "backup.lua:12:". A first line that begins with "#" is skipped. The error is
// a [*SyntaxError].
func (v *VM) Load(name, source string) (*lua.LFunction, error) {
	if strings.HasPrefix(source, "#") {
		source = "--" + source
	}
	chunk, err := parse.Parse(strings.NewReader(source), name)
	if err == nil {
		var proto *lua.FunctionProto
		if proto, err = lua.Compile(chunk, name); err == nil {
			return v.l.NewFunctionFromProto(proto), nil
		}
	}
	return nil, syntaxError(name, source, err)
}

// Run compiles and runs a chunk and drops its results.
func (v *VM) Run(name, source string) error {
	fn, err := v.Load(name, source)
	if err != nil {
		return err
	}
	_, err = v.Call(fn)
	return err
}

// LoadFile compiles the script in the file at path without running it; see
// Load. Reading may fail too.
func (v *VM) LoadFile(path string) (*lua.LFunction, error) {
	source, err := readScript(path)
	if err != nil {
		return nil, err
	}
	return v.Load(path, source)
}

// RunFile runs the script in the file at path.
func (v *VM) RunFile(path string) error {
	fn, err := v.LoadFile(path)
	if err != nil {
		return err
	}
	_, err = v.Call(fn)
	return err
}

// Call calls fn and gives all its results. The error is an
// [*InterruptError] if the epoch is over, whatever the script made of it, and
// an [*Error] otherwise.
func (v *VM) Call(fn *lua.LFunction, args ...lua.LValue) ([]lua.LValue, error) {
	if cause := v.Interrupted(); cause != nil {
		return nil, &InterruptError{Cause: cause}
	}
	top := v.l.GetTop()
	defer v.l.SetTop(top)
	v.l.Push(fn)
	for _, a := range args {
		v.l.Push(a)
	}
	if err := v.l.PCall(len(args), lua.MultRet, nil); err != nil {
		return nil, v.failure(err)
	}
	if cause := v.Interrupted(); cause != nil {
		return nil, &InterruptError{Cause: cause} // a pcall may have been the last thing to run
	}
	results := make([]lua.LValue, 0, v.l.GetTop()-top)
	for i := top + 1; i <= v.l.GetTop(); i++ {
		results = append(results, v.l.Get(i))
	}
	return results, nil
}

// maxScript bounds a script file, in bytes.
const maxScript = 16 << 20

// readScript reads a script from a regular file; a device or a pipe could
// block for ever.
func readScript(path string) (string, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return "", err
	case !st.Mode().IsRegular():
		return "", fmt.Errorf("%s: not a regular file", path)
	case st.Size() > maxScript:
		return "", fmt.Errorf("%s: %d bytes are too many for a script (limit %d)", path, st.Size(), maxScript)
	}
	b, err := os.ReadFile(path)
	return string(b), err
}

// searchPath is package.path for a list of directories.
func searchPath(dirs []string) string {
	var patterns []string
	for _, d := range dirs {
		patterns = append(patterns, filepath.Join(d, "?.lua"), filepath.Join(d, "?", "init.lua"))
	}
	return strings.Join(patterns, ";")
}
