package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

const volume = "vol"

// content is what a measured volume holds.
type content struct {
	name string
	aim  string
	fill func(f *os.File, size int64) error
}

var contents = []content{
	{"random, dense", "0.6", func(f *os.File, size int64) error { return fillRandom(f, 0, size) }},
	{"compressible, dense", "0.6", fillRepeated},
	{"random, 5 % full", "", func(f *os.File, size int64) error {
		const piece = 1 << 20
		for off := int64(0); off < size; off += 20 * piece {
			if err := fillRandom(f, off, piece); err != nil {
				return err
			}
		}
		return nil
	}},
}

// fillRandom writes n random bytes at off.
func fillRandom(f *os.File, off, n int64) error {
	src := rand.NewChaCha8([32]byte{byte(off >> 20), byte(off >> 28)})
	_, err := io.CopyN(io.NewOffsetWriter(f, off), src, n)
	return err
}

// fillRepeated writes data that compresses to about a tenth.
func fillRepeated(f *os.File, size int64) error {
	src := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		for at := 0; at < len(buf); at += 512 {
			_, _ = src.Read(buf[at : at+48])
			for i := at + 48; i < at+512; i += 48 {
				copy(buf[i:at+512], buf[at:at+48])
			}
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return nil
}

// measureReplication measures replicate_once between two archive processes,
// for each kind of content, against a plain copy over loopback TCP to a file
// with fsync; and what else needs a running group.
func measureReplication(ctx context.Context, o options, out io.Writer) error {
	peak := map[string]float64{}
	var order []string
	for i, c := range contents {
		g, err := startGroup(ctx, o, filepath.Join(o.dir, fmt.Sprintf("group%d", i)), c)
		if err != nil {
			return fmt.Errorf("group for %s: %w", c.name, err)
		}
		err = g.measure(ctx, o, out, c, i == 0)
		for _, p := range g.processes {
			if _, seen := peak[p.id]; !seen {
				order = append(order, p.id)
			}
			peak[p.id] = max(peak[p.id], p.peakMiB())
		}
		if err := errors.Join(err, g.stop()); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for _, id := range order {
		row(out, fmt.Sprintf("peak memory of serve %s, volume of %d MiB", id, o.size>>20), "100 MiB", "%.0f MiB", []float64{peak[id]})
	}
	return nil
}

// process is one running server.
type process struct {
	id  string
	cmd *exec.Cmd
}

// peakMiB is the largest resident size of the process so far.
func (p process) peakMiB() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}

// processGroup is a group of server processes with a volume on a0.
type processGroup struct {
	dir       string
	processes []process
	layout    group.Layout
	ops       *group.Group
}

// startGroup starts the four servers on a volume that holds c, and backs it up.
func startGroup(ctx context.Context, o options, dir string, c content) (_ *processGroup, err error) {
	g := &processGroup{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.stop())
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	devices := filepath.Join(dir, "wdev")
	create := exec.CommandContext(ctx, o.walbsh, "wdev", "create", devices, volume, "--size", fmt.Sprint(o.size), "--log-size", "64m")
	if text, err := create.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("wdev create: %w: %s", err, text)
	}
	f, err := os.OpenFile(filepath.Join(devices, volume, "data"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(c.fill(f, o.size), f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	for i, s := range []group.Server{
		{Name: "a0", Kind: group.Archive}, {Name: "a1", Kind: group.Archive}, {Name: "p0", Kind: group.Proxy}, {Name: "s0", Kind: group.Storage},
	} {
		s.Host, s.Port, s.Dir = "127.0.0.1", ports[i], filepath.Join(dir, s.Name)
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			return nil, err
		}
		args := []string{"serve", s.Kind.String(), "-bind", s.Host, "-p", fmt.Sprint(s.Port), "-id", s.Name, "-b", s.Dir, "-l", filepath.Join(dir, s.Name+".log")}
		switch s.Kind {
		case group.Storage:
			args = append(args, "-wdev", devices, "-archive", g.layout.Archives[0].Addr(), "-proxy", g.layout.Proxies[0].Addr())
			g.layout.Storages = append(g.layout.Storages, s)
		case group.Proxy:
			g.layout.Proxies = append(g.layout.Proxies, s)
		case group.Archive:
			g.layout.Archives = append(g.layout.Archives, s)
		}
		cmd := exec.CommandContext(ctx, o.walbsh, args...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		g.processes = append(g.processes, process{s.Name, cmd})
	}
	if g.ops, err = group.New(g.layout, group.Options{}); err != nil {
		return nil, err
	}
	if err := g.awaitServers(ctx); err != nil {
		return nil, err
	}
	s0 := g.layout.Storages[0]
	if err := g.ops.InitStorage(ctx, s0, volume, "/dev/walb/"+volume); err != nil {
		return nil, err
	}
	_, err = g.ops.FullBackup(ctx, s0, volume, group.FullBackupOptions{Timeout: 10 * time.Minute})
	return g, err
}

// freePorts finds ports that nobody uses now.
func freePorts(n int) ([]uint16, error) {
	var ports []uint16
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, uint16(l.Addr().(*net.TCPAddr).Port))
	}
	return ports, nil
}

// awaitServers waits until all answer.
func (g *processGroup) awaitServers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for _, s := range g.layout.All() {
		c := client.New(s.Addr(), client.Options{ID: "bench", Timeout: time.Second})
		for {
			_, err := c.HostType(ctx)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// stop ends the servers.
func (g *processGroup) stop() error {
	var errs []error
	if g.ops != nil {
		errs = append(errs, g.ops.Close(context.Background()))
	}
	for _, p := range g.processes {
		errs = append(errs, p.cmd.Process.Signal(syscall.SIGTERM), p.cmd.Wait())
	}
	return errors.Join(append(errs, os.RemoveAll(g.dir))...)
}

// measure alternates replicate_once to an empty a1 with the plain copy.
func (g *processGroup) measure(ctx context.Context, o options, out io.Writer, c content, questions bool) error {
	a0, a1 := g.layout.Archives[0], g.layout.Archives[1]
	image := filepath.Join(a0.Dir, volume, "wb_"+volume)
	var ratios, seconds []float64
	for range o.rounds {
		plain, err := timed(func() error { return plainCopy(image, filepath.Join(g.dir, "copy")) })
		if err != nil {
			return err
		}
		if err := g.ops.Clear(ctx, a1, volume); err != nil {
			return err
		}
		repl, err := timed(func() error {
			_, err := g.ops.ReplicateOnce(ctx, a0, volume, a1, group.ReplicateOptions{Timeout: 10 * time.Minute})
			return err
		})
		if err != nil {
			return err
		}
		ratios = append(ratios, plain/repl)
		seconds = append(seconds, repl)
	}
	row(out, fmt.Sprintf("replicate_once of %d MiB %s, snappy: speed against a plain copy", o.size>>20, c.name), c.aim, "%.2f", ratios)
	row(out, "  the same in seconds", "", "%.2f s", seconds)
	if !questions {
		return nil
	}
	var asked []float64
	for range 200 {
		s, err := timedOnly(func() error {
			_, err := g.ops.IsSynchronizing(ctx, a1, volume)
			return err
		})
		if err != nil {
			return err
		}
		asked = append(asked, s*1000)
	}
	row(out, "is_synchronizing", "1 ms", "%.2f ms", asked)
	return nil
}

// timedOnly gives how long do takes in seconds.
func timedOnly(do func() error) (float64, error) {
	begin := time.Now()
	err := do()
	return time.Since(begin).Seconds(), err
}

// plainCopy sends a file over a loopback TCP connection into another file,
// and syncs that.
func plainCopy(from, to string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- func() error {
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			defer conn.Close()
			f, err := os.Open(from)
			if err != nil {
				return err
			}
			defer f.Close()
			// Without sendfile, as any program that looks at its data.
			_, err = io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{f}, make([]byte, 256<<10))
			return err
		}()
	}()
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
	return errors.Join(err, f.Sync(), f.Close(), <-sent)
}
