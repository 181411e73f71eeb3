package group

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"walbsh/walbcore/walberr"
)

// Kind tells the three servers apart.
type Kind int

// The kinds of servers.
const (
	Storage Kind = iota + 1
	Proxy
	Archive
)

// String is the kind's name as the servers give it: storage, proxy, archive.
func (k Kind) String() string {
	switch k {
	case Storage:
		return "storage"
	case Proxy:
		return "proxy"
	case Archive:
		return "archive"
	}
	return "unknown"
}

// ParseKind reads a kind's name. The error has code Usage.
func ParseKind(s string) (Kind, error) {
	for _, k := range []Kind{Storage, Proxy, Archive} {
		if s == k.String() {
			return k, nil
		}
	}
	return 0, &walberr.Error{
		Op: "layout", Code: walberr.Usage, Found: fmt.Sprintf("server kind %q", s), Expected: "storage, proxy or archive",
	}
}

// Server is one server of a group, as its operator writes it down.
type Server struct {
	Name string // equals the server's own id (its -id): proxies know archives by it
	Host string // name or address, as the other servers reach it
	Port uint16
	Kind Kind
	Dir  string // its data directory on this machine, "" when it is elsewhere
}

// Addr is host:port.
func (s Server) Addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) }

// String is the server's name.
func (s Server) String() string { return s.Name }

// Layout is a backup group: its servers by kind, in their order of preference.
// The first archive is the primary one.
type Layout struct {
	Storages []Server
	Proxies  []Server
	Archives []Server
}

// All lists the servers: storages, proxies, archives.
func (l Layout) All() []Server {
	return slices.Concat(l.Storages, l.Proxies, l.Archives)
}

// Primary is the archive that backups go to. The error has code NotFound.
func (l Layout) Primary() (Server, error) {
	if len(l.Archives) == 0 {
		return Server{}, &walberr.Error{
			Op: "layout", Code: walberr.NotFound, Found: "no archive in the layout", Expected: "at least one",
		}
	}
	return l.Archives[0], nil
}

// Find gives the server of that name. The error has code NotFound and hints at
// the names that there are.
func (l Layout) Find(name string) (Server, error) {
	var names []string
	for _, s := range l.All() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return Server{}, &walberr.Error{
		Op: "layout", Code: walberr.NotFound, Found: fmt.Sprintf("no server %q", name), Hint: nearHint(name, names),
	}
}

// Validate checks that every server has a name that can be a file name, a
// host, a port, the kind of its list, and that names and addresses are unique.
// The error has code Usage.
func (l Layout) Validate() error {
	names, addrs := map[string]bool{}, map[string]string{}
	for _, list := range []struct {
		kind    Kind
		servers []Server
	}{{Storage, l.Storages}, {Proxy, l.Proxies}, {Archive, l.Archives}} {
		for _, s := range list.servers {
			switch {
			case s.Name == "" || s.Name == "." || s.Name == ".." || strings.ContainsAny(s.Name, "/\x00"):
				return layoutError("server name %q is empty or cannot be a file name", s.Name)
			case names[s.Name]:
				return layoutError("two servers are called %q", s.Name)
			case s.Kind != list.kind:
				return layoutError("%s is a %s in the list of %ss", s.Name, s.Kind, list.kind)
			case s.Host == "" || s.Port == 0:
				return layoutError("%s has no host or no port", s.Name)
			case strings.Contains(s.Host, ":"):
				return layoutError("%s has the host %q: an IPv6 address must be given by a name", s.Name, s.Host)
			case addrs[s.Addr()] != "":
				return layoutError("%s and %s have the same address %s", addrs[s.Addr()], s.Name, s.Addr())
			}
			names[s.Name] = true
			addrs[s.Addr()] = s.Name
		}
	}
	return nil
}

func layoutError(format string, args ...any) error {
	return &walberr.Error{Op: "layout", Code: walberr.Usage, Found: fmt.Sprintf(format, args...)}
}
