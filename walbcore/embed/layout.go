package embed

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"walbsh/walbcore/group"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

const layoutName = "layout.lua"

// makeLayout gives the layout with the addresses at which the servers shall be
// reached.
func (g *Group) makeLayout(advertise func(id, addr string) (string, error)) error {
	for _, m := range g.members {
		s := group.Server{Name: m.id, Host: host, Port: m.port, Kind: m.kind, Dir: g.baseDir(m.id)}
		if advertise != nil {
			addr, err := advertise(m.id, s.Addr())
			if err != nil {
				return err
			}
			h, port, err := net.SplitHostPort(addr)
			if err != nil {
				return &walberr.Error{Op: "open group", Server: m.id, Code: walberr.Usage, Err: err}
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return &walberr.Error{Op: "open group", Server: m.id, Code: walberr.Usage, Err: err}
			}
			s.Host, s.Port = h, uint16(n)
		}
		switch m.kind {
		case group.Storage:
			g.layout.Storages = append(g.layout.Storages, s)
		case group.Proxy:
			g.layout.Proxies = append(g.layout.Proxies, s)
		case group.Archive:
			g.layout.Archives = append(g.layout.Archives, s)
		}
	}
	return g.layout.Validate()
}

// saveLayout publishes layout.lua.
func (g *Group) saveLayout() error {
	var b strings.Builder
	path := g.LayoutFile()
	fmt.Fprintf(&b, "-- A walbsh group. While it runs, another terminal attaches to it with\n--   walbsh -c %s\n", strings.ReplaceAll(path, "\n", " "))
	fmt.Fprintf(&b, "return {\n  volume = %s,\n", luaString(g.volume))
	for _, list := range []struct {
		name    string
		servers []group.Server
	}{{"storages", g.layout.Storages}, {"proxies", g.layout.Proxies}, {"archives", g.layout.Archives}} {
		fmt.Fprintf(&b, "  %s = {\n", list.name)
		for _, s := range list.servers {
			fmt.Fprintf(&b, "    { name = %s, host = %s, port = %d, dir = %s },\n",
				luaString(s.Name), luaString(s.Host), s.Port, luaString(s.Dir))
		}
		b.WriteString("  },\n")
	}
	b.WriteString("}\n")
	return vfs.WriteFile(vfs.OS{}, filepath.Clean(path), []byte(b.String()))
}

// luaString is a Lua literal of any bytes.
func luaString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, "\\%03d", c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
