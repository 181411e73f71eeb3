// Package layout reads layout files: Lua that gives a backup group as a table.
//
//	return {
//	  volume = "vol",            -- optional: the volume that scripts mean by vol
//	  storages = {
//	    { name = "s0", host = "127.0.0.1", port = 27654, dir = "/path/s0" },
//	  },
//	  proxies = { ... },
//	  archives = { ... },        -- the first one is the primary
//	}
//
// name equals the server's -id, host is a name or address as the other servers
// reach it, dir (optional) is the server's base directory where it is on this
// machine.
//
// What may come in: any file. It runs in a Lua state of its own, without
// servers and without the operators' modules, and what it gives is checked.
package layout

import (
	"context"
	"fmt"
	"math"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/runtime/vm"
	"walbsh/walbcore/group"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// File is what a layout file gives.
type File struct {
	Layout group.Layout
	Volume string // "" where the file names none
}

// Load runs the layout file at path. The error has the code Usage, or that of
// ctx, and names the file.
func Load(ctx context.Context, path string) (File, error) {
	v := vm.New(ctx, vm.Options{Hint: kit.Hint})
	defer v.Close()
	fail := func(err error) (File, error) {
		e := &walberr.Error{Op: "read layout " + path, Code: walberr.Usage, Err: err}
		if ctx.Err() != nil {
			e.Code = walberr.CodeOf(context.Cause(ctx))
		}
		return File{}, e
	}
	chunk, err := v.LoadFile(path)
	if err != nil {
		return fail(err)
	}
	values, err := v.Call(chunk)
	if err != nil {
		return fail(err)
	}
	if len(values) != 1 {
		return fail(fmt.Errorf("it gives %d values, expected one table", len(values)))
	}
	t, ok := values[0].(*lua.LTable)
	if !ok {
		return fail(fmt.Errorf("it gives a %s, expected a table", values[0].Type()))
	}
	f, err := FromTable(t)
	if err != nil {
		return fail(err)
	}
	return f, nil
}

// FromTable reads the table of a layout file. The error has the code Usage.
func FromTable(t *lua.LTable) (File, error) {
	var f File
	r := tableReader{where: "the layout", table: t}
	f.Layout.Storages = r.servers("storages", group.Storage)
	f.Layout.Proxies = r.servers("proxies", group.Proxy)
	f.Layout.Archives = r.servers("archives", group.Archive)
	f.Volume = r.text("volume", false)
	r.noMore("storages", "proxies", "archives", "volume")
	if r.err != nil {
		return File{}, r.err
	}
	if f.Volume != "" {
		if err := wire.CheckVolumeName(f.Volume); err != nil {
			return File{}, &walberr.Error{Op: "layout", Code: walberr.Usage, Found: fmt.Sprintf("volume %q", f.Volume), Err: err}
		}
	}
	if err := f.Layout.Validate(); err != nil {
		return File{}, err
	}
	if len(f.Layout.All()) == 0 {
		return File{}, &walberr.Error{Op: "layout", Code: walberr.Usage, Found: "there is no server in it"}
	}
	return f, nil
}

// tableReader takes fields from a table and keeps the first error.
type tableReader struct {
	where string
	table *lua.LTable
	err   error
}

func (r *tableReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = &walberr.Error{Op: "layout", Code: walberr.Usage, Found: r.where + ": " + fmt.Sprintf(format, args...)}
	}
}

// servers takes a list of servers.
func (r *tableReader) servers(field string, kind group.Kind) []group.Server {
	list, ok := r.table.RawGetString(field).(*lua.LTable)
	if !ok {
		if v := r.table.RawGetString(field); v != lua.LNil {
			r.fail("%s is a %s, expected a list of servers", field, v.Type())
		}
		return nil
	}
	var servers []group.Server
	for i := 1; i <= list.Len(); i++ {
		where := fmt.Sprintf("%s[%d]", field, i)
		t, ok := list.RawGetInt(i).(*lua.LTable)
		if !ok {
			r.fail("%s is a %s, expected a table", where, list.RawGetInt(i).Type())
			return nil
		}
		s := tableReader{where: where, table: t}
		servers = append(servers, group.Server{
			Name: s.text("name", true), Host: s.text("host", true), Port: s.port(), Dir: s.text("dir", false), Kind: kind,
		})
		s.noMore("name", "host", "port", "dir")
		if s.err != nil && r.err == nil {
			r.err = s.err
		}
	}
	members := 0
	list.ForEach(func(lua.LValue, lua.LValue) { members++ })
	if members != list.Len() {
		r.fail("%s is no plain list: servers have to follow each other without names and gaps", field)
	}
	return servers
}

func (r *tableReader) text(field string, required bool) string {
	switch v := r.table.RawGetString(field).(type) {
	case lua.LString:
		return string(v)
	case *lua.LNilType:
		if required {
			r.fail("%s is missing", field)
		}
	default:
		r.fail("%s is a %s, expected a string", field, v.Type())
	}
	return ""
}

func (r *tableReader) port() uint16 {
	v := r.table.RawGetString("port")
	n, ok := v.(lua.LNumber)
	if !ok || n < 1 || n > math.MaxUint16 || n != lua.LNumber(math.Trunc(float64(n))) {
		r.fail("port is %s, expected a number from 1 to 65535", v)
		return 0
	}
	return uint16(n)
}

// noMore refuses fields with other names.
func (r *tableReader) noMore(names ...string) {
	r.table.ForEach(func(k, _ lua.LValue) {
		for _, n := range names {
			if k == lua.LString(n) {
				return
			}
		}
		r.fail("unknown field %s, there are %s", k, strings.Join(names, " "))
	})
}
