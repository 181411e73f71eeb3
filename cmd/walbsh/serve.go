package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"walbsh/walbcore/server"
	"walbsh/walbcore/wire"
)

// Servers that run as daemons end with 0 after a shutdown, by command or by
// signal, and with 1 otherwise, as the C++ ones do.
const statusServerFailed = 1

// daemon is one server face: its options, and how its server is made of them.
type daemon struct {
	kind  string // "storage", as it is called on the command line
	title string // "StorageServer", as its errors begin
	opts  options
	common
	// check refuses values that are understood and cannot be used.
	check func() error
	// make makes the server. It owns the listener if there is no error. release
	// is called when the server has ended.
	make func(l net.Listener, log *slog.Logger) (s serving, release func() error, err error)
	// warnings are told to the log at start.
	warnings func() []string
}

// serving is what the three servers have in common.
type serving interface {
	Serve(ctx context.Context) error
	Shutdown()
}

// common are the values of the options that all servers have.
type common struct {
	port        *uint16
	bind        *string
	logPath     *string
	debug       *bool
	base        *string
	id          *string
	maxConn, fg *uint64
	timeout     *uint64
	keepAlive   *bool
	idle        *uint64
	interval    *uint64
	probes      *uint64
}

// addCommon adds the options that all servers have.
func (d *daemon) addCommon(hostname string) {
	d.common = common{
		port:      d.opts.port("p", 5000, "port to listen on"),
		bind:      d.opts.text("bind", "ADDR", "", "address to listen on; without it all of this host"),
		logPath:   d.opts.text("l", "PATH", "-", "log file, relative to the base directory; - is stderr"),
		debug:     d.opts.flag("debug", "log more"),
		base:      d.opts.text("b", "DIR", "/var/forest/walb/"+d.kind, "base directory"),
		id:        d.opts.text("id", "NAME", hostname, "node id"),
		maxConn:   d.opts.count("maxconn", "N", server.DefaultMaxConn, "connections served at a time"),
		fg:        d.opts.count("fg", "N", server.DefaultMaxForeground, "foreground tasks at a time"),
		timeout:   d.opts.seconds("to", 10, "socket timeout; 0 is none"),
		keepAlive: d.opts.flag("ka", "TCP keep-alive instead of timeouts"),
		idle:      d.opts.seconds("kaidle", 1800, "keep-alive: seconds of silence before probing"),
		interval:  d.opts.seconds("kaintvl", 60, "keep-alive: seconds between probes"),
		probes:    d.opts.number("kacnt", "N", 10, 1<<62, "keep-alive: lost probes that end a connection"),
	}
}

func (c *common) checkCommon() error {
	if *c.keepAlive {
		for _, k := range []struct {
			what       string
			value, max uint64
		}{{"idle", *c.idle, 86400}, {"interval", *c.interval, 3600}, {"count", *c.probes, 100}} {
			if k.value > k.max {
				return fmt.Errorf("bad TCP keep-alive %s:%d", k.what, k.value)
			}
		}
	}
	return nil
}

// notZero refuses zeros, in the original's words.
func notZero(values ...named) error {
	for _, v := range values {
		if v.value == 0 {
			return errors.New(v.name + ":must not be 0.")
		}
	}
	return nil
}

type named struct {
	name  string
	value uint64
}

// socket gives the options of connections.
func (c *common) socket() wire.Options {
	o := wire.Options{Timeout: time.Duration(*c.timeout) * time.Second}
	if *c.keepAlive {
		o.KeepAlive = net.KeepAliveConfig{
			Enable: true, Idle: time.Duration(*c.idle) * time.Second,
			Interval: time.Duration(*c.interval) * time.Second, Count: int(*c.probes),
		}
	}
	return o
}

// daemonKinds are the servers that can be served, in the order of the help.
var daemonKinds = []string{"storage", "proxy", "archive"}

func newDaemon(kind, hostname string) *daemon {
	switch kind {
	case "storage":
		return storageDaemon(hostname)
	case "proxy":
		return proxyDaemon(hostname)
	case "archive":
		return archiveDaemon(hostname)
	}
	return nil
}

// serve runs one server until it is shut down.
func serve(ctx context.Context, e env, words []string) int {
	kind := ""
	if len(words) > 0 {
		kind = words[0]
	}
	hostname, err := e.hostname()
	if err != nil {
		hostname = "localhost"
	}
	d := newDaemon(kind, hostname)
	if d == nil {
		return fail(e.stderr, usagef("walbsh serve storage -h shows the options", "serve what? There are %s", strings.Join(daemonKinds, ", ")))
	}
	usage := func() { d.opts.usage(e.stdout, "walbsh serve "+d.kind+" [options]") }
	if slices.Contains(words[1:], "-h") {
		usage()
		return statusOK
	}
	if err := d.opts.parse(words[1:]); err != nil {
		say(e.stdout, "%v\n", err)
		usage()
		return statusServerFailed
	}
	log, closeLog, err := d.openLog(e.stderr)
	if err != nil {
		say(e.stderr, "%s: error: %v\n", d.title, err)
		return statusServerFailed
	}
	err = d.serve(ctx, e, log)
	if err != nil {
		text := fmt.Sprintf("%s: error: %s", d.title, oneLine(err))
		log.Error(text)
		if *d.logPath != "-" {
			say(e.stderr, "%s\n", text)
		}
	}
	if err := errors.Join(err, closeLog()); err != nil {
		return statusServerFailed
	}
	return statusOK
}

// openLog opens the log. The base directory of a server that makes it itself
// may have to be made for it.
func (d *daemon) openLog(stderr io.Writer) (log *slog.Logger, closeLog func() error, err error) {
	level := slog.LevelInfo
	if *d.debug {
		level = slog.LevelDebug
	}
	if *d.logPath == "-" {
		return slog.New(server.NewLogHandler(stderr, level)), func() error { return nil }, nil
	}
	path := *d.logPath
	if !filepath.IsAbs(path) {
		if d.kind != "archive" {
			if err := os.Mkdir(*d.base, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, nil, err
			}
		}
		path = filepath.Join(*d.base, path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, nil, err
	}
	return slog.New(server.NewLogHandler(f, level)), f.Close, nil
}

// serve runs the server of options that were parsed.
func (d *daemon) serve(ctx context.Context, e env, log *slog.Logger) error {
	b := thisBuild()
	commit := ""
	if b.commit != "" {
		commit = "\ncommit " + b.commit
	}
	log.Info(fmt.Sprintf("starting walb %s server version %s build at %s (wlog version %d)%s\n%s",
		d.kind, version, b.date, logVersion, commit, strings.Join(d.opts.values(), "\n")))
	if err := errors.Join(d.checkCommon(), d.check()); err != nil {
		return err
	}
	for _, opt := range d.opts.list {
		if opt.given && opt.meaning == ignoredMeaning {
			log.Warn("option -" + opt.name + " has no effect")
		}
	}
	for _, w := range d.warnings() {
		log.Warn(w)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(*d.bind, strconv.Itoa(int(*d.port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("Socket:bind:Address already in use(98): port %d; end what listens there, or give another -p", *d.port)
	}
	if err != nil {
		return err
	}
	s, release, err := d.make(l, log)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	signals, stop := e.notify(os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGABRT)
	defer stop()
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case sig := <-signals:
			log.Info("shutdown by signal: " + sig.String())
			s.Shutdown()
		case <-ended:
		}
	}()
	err = s.Serve(ctx)
	close(ended)
	<-watched
	return errors.Join(err, release())
}
