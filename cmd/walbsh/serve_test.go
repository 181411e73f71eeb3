package main

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/walberr"
)

// freePort gives a port of 127.0.0.1 that nobody listened on a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// served is a server that runs in the test.
type served struct {
	*process
	client *client.Client
	status chan int
}

// serveUntilReady starts a server with a free port.
func serveUntilReady(t *testing.T, args ...string) served {
	t.Helper()
	port := freePort(t)
	s := served{
		process: newProcess(t, append([]string{"serve"}, append(args, "-bind", "127.0.0.1", "-p", port)...)...),
		client:  client.New("127.0.0.1:"+port, client.Options{ID: "test"}),
		status:  make(chan int, 1),
	}
	go func() { s.status <- s.run(t) }()
	require.NoError(t, s.err.await(t.Context(), "Ready to accept connections"))
	return s
}

func (s served) shutdown(t *testing.T) {
	t.Helper()
	require.NoError(t, s.client.Shutdown(t.Context(), true))
	assert.Equal(t, 0, <-s.status)
}

func TestEachServerServes(t *testing.T) {
	dir := t.TempDir()
	base := func(id string) []string { return []string{"-b", filepath.Join(dir, id), "-id", id} }
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a0"), 0o755))
	for kind, args := range map[string][]string{
		"storage": append(base("s0"), "-archive", "127.0.0.1:1", "-proxy", "127.0.0.1:1,127.0.0.1:2", "-wdev", filepath.Join(dir, "w")),
		"proxy":   base("p0"),
		"archive": base("a0"),
	} {
		s := serveUntilReady(t, append([]string{kind}, args...)...)
		host, err := s.client.HostType(t.Context())
		require.NoError(t, err)
		assert.Equal(t, kind, host)
		line, err := s.client.Version(t.Context())
		require.NoError(t, err)
		assert.Regexp(t, `^version:0\.1\tbuild_date:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\tlog_version:2(\tcommit:[0-9a-f]{40})?$`, line)
		s.shutdown(t)
		log := s.err.String()
		assert.Contains(t, log, "INFO starting walb "+kind+" server version 0.1 build at ")
		assert.Contains(t, log, "\nid="+args[3]+" (set)\n")
		assert.Contains(t, log, "\nmaxconn=10 (default)\n")
		assert.Empty(t, s.out.String())
	}
}

func TestSignalsShutServersDown(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGABRT} {
		s := serveUntilReady(t, "archive", "-b", t.TempDir())
		s.signals <- sig
		assert.Equal(t, 0, <-s.status, sig)
		assert.Contains(t, s.err.String(), "shutdown by signal: "+sig.String())
	}
}

func TestALogFileIsAppendedTo(t *testing.T) {
	dir := t.TempDir()
	logs := filepath.Join(dir, "p0", "log")
	for n := 1; n <= 2; n++ {
		port := freePort(t)
		p := newProcess(t, "serve", "proxy", "-b", filepath.Join(dir, "p0"), "-l", "log", "-bind", "127.0.0.1", "-p", port, "-debug")
		p.signals <- syscall.SIGTERM
		require.Equal(t, 0, p.run(t))
		assert.Empty(t, p.err.String())
		text, err := os.ReadFile(logs)
		require.NoError(t, err)
		assert.Equal(t, n, strings.Count(string(text), "Ready to accept connections"))
	}
	status, _, err := runWalbsh(t, "serve", "proxy", "-b", filepath.Join(dir, "p0"), "-l", filepath.Join(dir, "no", "log"))
	assert.Equal(t, 1, status)
	assert.Contains(t, err, "ProxyServer: error: open "+dir)
}

func TestServersThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	taken := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"port taken": {
			[]string{"archive", "-b", dir, "-bind", "127.0.0.1", "-p", taken},
			"ArchiveServer: error: Socket:bind:Address already in use(98): port " + taken,
		},
		"no base":   {[]string{"archive", "-b", dir + "/none", "-p", freePort(t)}, "ArchiveServer: error: start archive at localhost: base directory not found"},
		"bad value": {[]string{"proxy", "-b", dir + "/p", "-fg", "0"}, "ProxyServer: error: maxForegroundtasks:must not be 0."},
		"bad proxy": {[]string{"storage", "-b", dir + "/s", "-archive", "h:1", "-proxy", "h", "-p", freePort(t)}, `StorageServer: error: address: "h"; expected host:port`},
		"bad archive": {
			[]string{"storage", "-b", dir + "/s", "-archive", "h:x", "-proxy", "h:1", "-p", freePort(t)},
			`StorageServer: error: address: "h:x"; expected host:port`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, out, log := runWalbsh(t, append([]string{"serve"}, c.args...)...)
			assert.Equal(t, 1, status)
			assert.Empty(t, out)
			assert.Contains(t, log, " ERROR "+c.want)

			file := filepath.Join(t.TempDir(), "log")
			status, out, stderr := runWalbsh(t, append(append([]string{"serve"}, c.args...), "-l", file)...)
			assert.Equal(t, 1, status)
			assert.Empty(t, out)
			assert.True(t, strings.HasPrefix(stderr, c.want), stderr)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Contains(t, string(text), " ERROR "+c.want)
		})
	}
	status, out, stderr := runWalbsh(t, "serve", "archive", "-nosuch")
	assert.Equal(t, 1, status)
	assert.True(t, strings.HasPrefix(out, "OptionError:bad opt:-nosuch\nusage: walbsh serve archive [options]\n"), out)
	assert.Empty(t, stderr)
}

func TestAStorageNeedsDevicesForVolumes(t *testing.T) {
	s := serveUntilReady(t, "storage", "-b", filepath.Join(t.TempDir(), "s0"), "-archive", "127.0.0.1:1", "-proxy", "127.0.0.1:1", "-tsdintvl", "5")
	err := s.client.InitVol(t.Context(), "vol", "/dev/walb/vol")
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	s.shutdown(t)
	assert.Contains(t, s.err.String(), "no device is known here: start with -wdev DIR")
	assert.NotContains(t, s.err.String(), "has no effect")
}

func TestDelays(t *testing.T) {
	d := newDaemon("proxy", "host")
	require.NoError(t, d.opts.parse([]string{"-delay", "400"}))
	assert.Equal(t, []string{"delay 400 is more than maxdelay 300, which is raised to it"}, d.warnings())
	assert.Positive(t, atOnce(0))
}
