package vm

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	lua "github.com/yuin/gopher-lua"
)

// openLibraries installs the libraries and takes out, or replaces, what a
// script must not do: run processes, end the host, change its environment,
// read its standard input, reach behind locked metatables.
func openLibraries(v *VM, o Options) {
	L := v.l
	for _, lib := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
		{lua.StringLibName, lua.OpenString},
		{lua.MathLibName, lua.OpenMath},
		{lua.CoroutineLibName, lua.OpenCoroutine},
		{lua.OsLibName, lua.OpenOs},
		{lua.IoLibName, lua.OpenIo},
		{lua.DebugLibName, lua.OpenDebug},
	} {
		L.Push(L.NewFunction(lib.open))
		L.Push(lua.LString(lib.name))
		L.Call(1, 0)
	}
	restrictBase(v, o)
	restrictPackage(v, o)
	restrictOs(v)
	restrictIo(v, o)
	keepOnly(L, lua.DebugLibName, "traceback", "getinfo")
	replaceStrings(L)
}

// keepOnly removes every other function from a library.
func keepOnly(L *lua.LState, library string, names ...string) {
	t := L.GetGlobal(library).(*lua.LTable)
	keep := map[string]bool{}
	for _, n := range names {
		keep[n] = true
	}
	var drop []string
	t.ForEach(func(k, _ lua.LValue) {
		if !keep[k.String()] {
			drop = append(drop, k.String())
		}
	})
	for _, n := range drop {
		t.RawSetString(n, lua.LNil)
	}
}

func restrictBase(v *VM, o Options) {
	L := v.l
	for _, name := range []string{"_printregs", "newproxy"} {
		L.SetGlobal(name, lua.LNil)
	}
	L.SetGlobal("print", L.NewFunction(Guard("print", func(L *lua.LState) (int, error) {
		parts := make([]string, L.GetTop())
		for i := range parts {
			parts[i] = L.ToStringMeta(L.Get(i + 1)).String()
		}
		_, err := io.WriteString(o.Stdout, strings.Join(parts, "\t")+"\n")
		return 0, err
	})))
	L.SetGlobal("loadstring", L.NewFunction(func(L *lua.LState) int {
		return pushChunk(v, L, L.OptString(2, "string"), L.CheckString(1), nil)
	}))
	L.SetGlobal("loadfile", L.NewFunction(func(L *lua.LState) int {
		name := L.CheckString(1)
		source, err := readScript(name)
		return pushChunk(v, L, name, source, err)
	}))
	L.SetGlobal("dofile", L.NewFunction(func(L *lua.LState) int {
		name := L.CheckString(1)
		source, err := readScript(name)
		var fn *lua.LFunction
		if err == nil {
			fn, err = v.Load(name, source)
		}
		if err != nil {
			Raise(L, err)
		}
		top := L.GetTop()
		L.Push(fn)
		L.Call(0, lua.MultRet)
		return L.GetTop() - top
	}))
}

// pushChunk pushes a compiled chunk, or nil and a message.
func pushChunk(v *VM, L *lua.LState, name, source string, err error) int {
	var fn *lua.LFunction
	if err == nil {
		fn, err = v.Load(name, source)
	}
	if err != nil {
		L.Push(lua.LNil)
		L.Push(lua.LString(err.Error()))
		return 2
	}
	L.Push(fn)
	return 1
}

func restrictPackage(v *VM, o Options) {
	L := v.l
	lib := L.GetGlobal(lua.LoadLibName).(*lua.LTable)
	lib.RawSetString("path", lua.LString(searchPath(o.Path)))
	lib.RawSetString("loadlib", lua.LNil)
	lib.RawSetString("cpath", lua.LNil)
	loaders := lib.RawGetString("loaders").(*lua.LTable)
	loaders.RawSetInt(2, L.NewFunction(func(L *lua.LState) int {
		name := L.CheckString(1)
		patterns := lua.LVAsString(lib.RawGetString("path"))
		file, missing := findModule(name, patterns)
		if file == "" {
			L.Push(lua.LString(missing))
			return 1
		}
		source, err := readScript(file)
		var fn *lua.LFunction
		if err == nil {
			fn, err = v.Load(file, source)
		}
		if err != nil {
			Raise(L, err)
		}
		L.Push(fn)
		return 1
	}))
}

// findModule looks for a module along a search path such as
// "lib/?.lua;lib/?/init.lua". A dot in the name is a directory. Where there is
// none, missing says which files were looked for.
func findModule(name, searchPath string) (file, missing string) {
	rel := path.Clean(strings.ReplaceAll(name, ".", "/"))
	if name == "" || strings.HasPrefix(rel, "/") || strings.Contains(name, "..") {
		return "", fmt.Sprintf("%q is not a module name", name)
	}
	var tried []string
	for p := range strings.SplitSeq(searchPath, ";") {
		if p == "" {
			continue
		}
		file = strings.ReplaceAll(p, "?", rel)
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return file, ""
		}
		tried = append(tried, "no file "+file)
	}
	if tried == nil {
		return "", "package.path is empty"
	}
	return "", strings.Join(tried, "\n\t")
}

func restrictOs(v *VM) {
	L := v.l
	keepOnly(L, lua.OsLibName, "clock", "date", "difftime", "getenv", "remove", "rename", "time", "tmpname")
	L.GetGlobal(lua.OsLibName).(*lua.LTable).RawSetString("exit", L.NewFunction(func(L *lua.LState) int {
		status := 0
		switch s := L.Get(1).(type) {
		case lua.LBool:
			if !bool(s) {
				status = 1
			}
		case *lua.LNilType:
		default:
			if status = L.CheckInt(1); status < 0 || status > 255 {
				L.ArgError(1, "an exit status is 0 to 255")
			}
		}
		exit := &ExitError{Status: status}
		v.Interrupt(exit)
		Raise(L, exit)
		return 0
	}))
}

func restrictIo(v *VM, o Options) {
	L := v.l
	lib := L.GetGlobal(lua.IoLibName).(*lua.LTable)
	open := lib.RawGetString("open").(*lua.LFunction).GFunction
	lines := lib.RawGetString("lines").(*lua.LFunction).GFunction
	keepOnly(L, lua.IoLibName, "type")
	lib.RawSetString("open", L.NewFunction(func(L *lua.LState) int {
		name := L.CheckString(1)
		if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
			L.Push(lua.LNil)
			L.Push(lua.LString(name + ": not a regular file"))
			return 2
		}
		return open(L)
	}))
	lib.RawSetString("lines", L.NewFunction(func(L *lua.LState) int {
		name := L.CheckString(1)
		if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
			L.RaiseError("%s: not a regular file", name)
		}
		return lines(L)
	}))
	lib.RawSetString("stdout", stream(L, "stdout", o.Stdout))
	lib.RawSetString("stderr", stream(L, "stderr", o.Stderr))
	write := lib.RawGetString("stdout").(*lua.LTable).RawGetString("write").(*lua.LFunction)
	lib.RawSetString("write", L.NewFunction(func(L *lua.LState) int {
		L.Insert(lib.RawGetString("stdout"), 1)
		return write.GFunction(L)
	}))
	if files, ok := L.GetTypeMetatable("FILE*").(*lua.LTable); ok {
		files.RawSetString("__metatable", lua.LString("locked"))
	}
}

// stream is io.stdout or io.stderr: a table with write, flush and setvbuf.
func stream(L *lua.LState, name string, w io.Writer) *lua.LTable {
	t := L.NewTable()
	t.RawSetString("write", L.NewFunction(Guard("io."+name+".write", func(L *lua.LState) (int, error) {
		var b strings.Builder
		for i := 2; i <= L.GetTop(); i++ {
			b.WriteString(L.CheckString(i))
		}
		if _, err := io.WriteString(w, b.String()); err != nil {
			return 0, err
		}
		L.Push(t)
		return 1, nil
	})))
	mt := L.NewTable()
	mt.RawSetString("__tostring", L.NewFunction(func(L *lua.LState) int {
		L.Push(lua.LString("io." + name))
		return 1
	}))
	mt.RawSetString("__metatable", lua.LString("locked"))
	t.Metatable = mt
	for _, noop := range []string{"flush", "setvbuf"} {
		t.RawSetString(noop, L.NewFunction(func(L *lua.LState) int {
			L.Push(t)
			return 1
		}))
	}
	return t
}
