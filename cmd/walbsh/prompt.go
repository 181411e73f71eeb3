package main

import (
	"context"
	"io"
	"path/filepath"
	"strings"

	"walbsh/walbcore/group"
)

// banner says what the prompt is about.
func (s *session) banner() {
	line := "walbsh " + version + "  "
	g := s.embedded.Load()
	if g == nil {
		line += "group of " + s.layout + ": "
	} else {
		line += "embedded group: "
	}
	line += flow(s.group.Layout())
	switch {
	case s.volume == "":
	case g != nil && s.bare:
		line += "   device " + g.Device()
	default:
		line += "   volume " + s.volume
	}
	switch {
	case g == nil:
	case g.Temporary():
		line += "   data kept in " + g.Dir() + " until you leave"
	default:
		line += "   data kept in " + g.Dir()
	}
	say(s.lines, "%s\n", line)
	say(s.lines, "help() lists what you can do, walbc.layout() draws the group, Ctrl-D leaves\n")
}

// flow names the servers in the order in which data flows: "s0 → p0 → a0, a1".
func flow(l group.Layout) string {
	var parts []string
	for _, list := range [][]group.Server{l.Storages, l.Proxies, l.Archives} {
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		if len(names) > 0 {
			parts = append(parts, strings.Join(names, ", "))
		}
	}
	return strings.Join(parts, " → ")
}

// historyFile is where the prompt keeps its lines, "" where there is no place.
func historyFile(e env) string {
	dir := e.getenv("XDG_STATE_HOME")
	if dir == "" {
		home := e.getenv("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "walbsh", "history")
}

// endable is a reader whose Read ends with a context: then the input is of no
// further use, as what comes next is lost.
type endable struct {
	ctx context.Context //nolint:containedctx // io.Reader has no place for it
	in  io.Reader
}

// Read reads, or gives the context's cause.
func (r *endable) Read(p []byte) (int, error) {
	type result struct {
		data []byte
		err  error
	}
	came := make(chan result, 1)
	go func() {
		buf := make([]byte, len(p))
		n, err := r.in.Read(buf)
		came <- result{buf[:n], err}
	}()
	select {
	case got := <-came:
		return copy(p, got.data), got.err
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
}
