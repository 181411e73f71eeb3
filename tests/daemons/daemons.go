// Package daemons runs a backup group as processes: the storage s0, the proxy
// p0 and the archives a0 and a1, each a `walbsh serve` of its own, which a test
// can kill and start again. Nothing of the product is changed for that: the
// processes are what an operator starts, and the test sees them as he does, by
// their ports, their files and their logs.
//
// What may come in: the client side of walbcore, to ask whether a server
// answers. Servers are known as processes only.
package daemons

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
)

// Volume is the name of the group's volume and of its device at s0.
const Volume = "vol"

// Device is the path of that device as init-vol takes it.
const Device = "/dev/walb/" + Volume

// IDs are the servers in the order in which data flows.
func IDs() []string { return []string{"s0", "p0", "a0", "a1"} }

// Options describe a group. Walbsh and Dir must be given.
type Options struct {
	Walbsh  string // the binary
	Dir     string // of the group, made if missing
	Size    int64  // of the volume [bytes]
	LogSize int64  // of the device's log [bytes]

	// Advertise gives the address, "host:port", under which the others shall
	// reach the server that listens on addr; nil means addr. It is for relays
	// between the servers, and called once for each.
	Advertise func(id, addr string) (string, error)

	// Args are further arguments of the servers, by id.
	Args map[string][]string
}

// Group is a group of processes. It belongs to one goroutine.
type Group struct {
	o       Options
	layout  group.Layout
	listen  map[string]uint16 // the port of each server
	running map[string]*process
}

// process is one life of a server.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	// Valid once ended is closed.
	err  error
	said strings.Builder // what it printed; the log is a file
}

// New makes the device, the directories and the layout file. No server runs
// yet.
func New(ctx context.Context, o Options) (*Group, error) {
	g := &Group{o: o, listen: map[string]uint16{}, running: map[string]*process{}}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	create := exec.CommandContext(ctx, o.Walbsh, "wdev", "create", g.devices(), Volume,
		"--size", fmt.Sprint(o.Size), "--log-size", fmt.Sprint(o.LogSize))
	if out, err := create.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("wdev create: %w: %s", err, out)
	}
	for _, id := range IDs() {
		if err := g.add(ctx, id); err != nil {
			return nil, err
		}
	}
	return g, os.WriteFile(g.LayoutFile(), []byte(g.layoutText()), 0o644)
}

// add makes a server's directory and finds it a port.
func (g *Group) add(ctx context.Context, id string) error {
	s := group.Server{Name: id, Dir: filepath.Join(g.o.Dir, id)}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	port, err := freePort(ctx)
	if err != nil {
		return err
	}
	g.listen[id] = port
	addr := g.ListenAddr(id)
	if g.o.Advertise != nil {
		if addr, err = g.o.Advertise(id, addr); err != nil {
			return err
		}
	}
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return err
	}
	s.Host, s.Port = host, uint16(number)
	switch id[0] {
	case 's':
		s.Kind = group.Storage
		g.layout.Storages = append(g.layout.Storages, s)
	case 'p':
		s.Kind = group.Proxy
		g.layout.Proxies = append(g.layout.Proxies, s)
	default:
		s.Kind = group.Archive
		g.layout.Archives = append(g.layout.Archives, s)
	}
	return nil
}

// New ports are taken from here: below those that the system gives to outgoing
// connections, as a server must find its port free again after a kill, and
// below those of embedded groups, whose tests may run at the same time.
const (
	firstPort = 10000
	lastPort  = 20000
)

// freePort finds a port that nobody uses now.
func freePort(ctx context.Context) (uint16, error) {
	var lc net.ListenConfig
	for range 200 {
		port := uint16(firstPort + rand.IntN(lastPort-firstPort))
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err == nil {
			return port, l.Close()
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return 0, err
		}
	}
	return 0, errors.New("no free port found")
}

func (g *Group) devices() string { return filepath.Join(g.o.Dir, "wdev") }

// Dir is the directory of the group.
func (g *Group) Dir() string { return g.o.Dir }

// Layout is the group as operators see it.
func (g *Group) Layout() group.Layout { return g.layout }

// LayoutFile is the path of the layout file for `walbsh -c`.
func (g *Group) LayoutFile() string { return filepath.Join(g.o.Dir, "layout.lua") }

// LogFile is the path of a server's log.
func (g *Group) LogFile(id string) string { return filepath.Join(g.o.Dir, id+".log") }

// ListenAddr is where a server itself listens, behind what it advertises.
func (g *Group) ListenAddr(id string) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(g.listen[id])))
}

// layoutText is a layout file as an operator would write it.
func (g *Group) layoutText() string {
	var b strings.Builder
	fmt.Fprintf(&b, "return {\n  volume = %q,\n", Volume)
	for _, list := range []struct {
		name    string
		servers []group.Server
	}{{"storages", g.layout.Storages}, {"proxies", g.layout.Proxies}, {"archives", g.layout.Archives}} {
		fmt.Fprintf(&b, "  %s = {\n", list.name)
		for _, s := range list.servers {
			fmt.Fprintf(&b, "    { name = %q, host = %q, port = %d, dir = %q },\n", s.Name, s.Host, s.Port, s.Dir)
		}
		b.WriteString("  },\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// server finds a server by its id, which must be one of [IDs].
func (g *Group) server(id string) group.Server {
	s, err := g.layout.Find(id)
	if err != nil {
		panic(err)
	}
	return s
}

// args is the command line of a server.
func (g *Group) args(s group.Server) []string {
	args := []string{
		"serve", s.Kind.String(), "-bind", "127.0.0.1", "-p", fmt.Sprint(g.listen[s.Name]),
		"-id", s.Name, "-b", s.Dir, "-l", g.LogFile(s.Name),
	}
	switch s.Kind {
	case group.Storage:
		args = append(args, "-wdev", g.devices(), "-onfull", "block", "-volume-io", "-snapintvl", "1",
			"-archive", g.layout.Archives[0].Addr(), "-proxy", g.layout.Proxies[0].Addr())
	case group.Archive:
		args = append(args, "-discard", "zero")
	case group.Proxy:
	}
	return append(args, g.o.Args[s.Name]...)
}

// StartAll starts all servers.
func (g *Group) StartAll(ctx context.Context) error {
	for _, id := range IDs() {
		if err := g.Start(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// answerWithin is how long a server may need until it answers.
const answerWithin = 30 * time.Second

// Start starts a server and waits until it answers. The error tells what it
// said if it ended instead.
func (g *Group) Start(ctx context.Context, id string) error {
	if g.running[id] != nil {
		return fmt.Errorf("%s runs already", id)
	}
	s := g.server(id)
	p := &process{cmd: exec.Command(g.o.Walbsh, g.args(s)...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	g.running[id] = p

	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	c := client.New(g.ListenAddr(id), client.Options{ID: "test", Timeout: answerWithin})
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := c.HostType(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			delete(g.running, id)
			return fmt.Errorf("%s does not start: %w: %s", id, p.err, p.said.String())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", id, err)
		case <-tick.C:
		}
	}
}

// Kill ends a server with SIGKILL, in the middle of what it does. It fails if
// the server has ended before by itself.
func (g *Group) Kill(id string) error {
	_, err := g.signal(id, syscall.SIGKILL)
	return err
}

// End asks a server to end, with SIGTERM, and fails unless it ends well.
func (g *Group) End(id string) error {
	status, err := g.signal(id, syscall.SIGTERM)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s ended with status %d", id, status)
	}
	return err
}

// Pause stops a server's process in the middle of what it does, so that it
// seems hung; Continue lets it go on.
func (g *Group) Pause(id string) error { return g.running[id].cmd.Process.Signal(syscall.SIGSTOP) }

// Continue lets a paused server go on.
func (g *Group) Continue(id string) error { return g.running[id].cmd.Process.Signal(syscall.SIGCONT) }

// signal sends a signal that ends a server, waits for the end, and gives the
// exit status.
func (g *Group) signal(id string, sig syscall.Signal) (status int, err error) {
	p := g.running[id]
	if p == nil {
		return 0, fmt.Errorf("%s does not run", id)
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return 0, fmt.Errorf("%s: %w", id, err)
	}
	<-p.ended
	delete(g.running, id)
	if text := p.said.String(); text != "" { // a panic, or a data race
		return 0, fmt.Errorf("%s printed: %s", id, text)
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// PeakMemory is the largest resident size of a running server so far [bytes].
func (g *Group) PeakMemory(id string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.running[id].cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no VmHWM in /proc/PID/status")
}

// Close ends all servers that run, in the order in which data flows, and fails
// unless all end well.
func (g *Group) Close() error {
	var errs []error
	for _, id := range IDs() {
		if g.running[id] != nil {
			errs = append(errs, g.End(id))
		}
	}
	return errors.Join(errs...)
}

// LogTails are the last lines of all logs, for the report of a failed test.
func (g *Group) LogTails(lines int) string {
	var b strings.Builder
	for _, id := range IDs() {
		text, _ := os.ReadFile(g.LogFile(id))
		all := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "--- %s\n%s\n", id, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
	return b.String()
}
