package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/embed"
	"walbsh/walbcore/group"
	"walbsh/walbcore/plan"
)

// bareGroup opens an embedded group that is not backed up.
func bareGroup(t *testing.T) *embed.Group {
	t.Helper()
	g, err := embed.Open(t.Context(), embed.Options{
		Dir: filepath.Join(t.TempDir(), "group"), Bare: true, Size: 1 << 20, LogSize: 1 << 20,
	})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.Close()) })
	return g
}

func TestCodeRunsOnAReadyGroupThatIsGoneThen(t *testing.T) {
	dir := tempDir(t)
	status, out, err := runWalbsh(t, "--size", "4m", "--log-size", "1m",
		"-e", "print(walbc.is_synchronizing(a0, vol), walbc.is_synchronizing(a1, vol), ax == a1 or ax.name, timeoutS)",
		"-e", "print(True, False, None, group.size() == 4 * 2^20)")
	require.Equal(t, statusOK, status, err)
	assert.Equal(t, "true\tfalse\ta1\t60\ntrue\tfalse\tnil\ttrue\n", out)
	requireEmpty(t, dir)
}

func TestEndsOfScripts(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	dir := t.TempDir()
	file := writeFile(t, dir, "s.lua", "local m = require('m')\nprint(m.name, #arg, arg[1], arg[2])\nm.fail()\n")
	writeFile(t, dir, "m.lua", "return { name = 'module', fail = function() error('boom') end }")
	for name, c := range map[string]struct {
		args   []string
		stdin  string
		status int
		stdout string
		stderr string
	}{
		"file": {
			args: []string{"run", file, "--", "-x", "y"}, status: 1,
			stdout: "module\t2\t-x\ty\n", stderr: "m.lua:1: boom",
		},
		"file, plain arguments":         {args: []string{"run", file, "x"}, status: 1, stdout: "module\t1\tx\tnil\n"},
		"stdin":                         {stdin: "print(1)\nprint(nosuch.field)\nprint(2)\n", status: 1, stdout: "1\n", stderr: "stdin:2: attempt to index"},
		"empty stdin":                   {},
		"syntax":                        {args: []string{"-e", "x ="}, status: 1, stderr: "-e:1: unexpected end"},
		"exit":                          {args: []string{"-e", "os.exit(7)", "-e", "print('no')"}, status: 7},
		"exit true":                     {args: []string{"-e", "os.exit(true)"}},
		"refused":                       {args: []string{"-e", "walbc.restore(a0, vol, 1)"}, status: 1, stderr: "a0 does not know this volume"},
		"wrong kind":                    {args: []string{"-e", "walbc.replicate_once(s0, vol, a1)"}, status: 1, stderr: "argument 1 (aSrc) wants an archive"},
		"missing argument":              {args: []string{"-e", "walbc.replicate_once(a0)"}, status: 1, stderr: "argument 2 (vol) is missing"},
		"time limit":                    {args: []string{"-e", "walbc.async.wait_for_stopped(p0, vol, 'Started', 0.01):wait()"}, status: 4, stderr: "timeout"},
		"unseen failure":                {args: []string{"-e", "walbc.async.restore(a0, vol, 1)"}, status: 1, stderr: "background restore"},
		"failure in the background too": {args: []string{"-e", "walbc.async.restore(a0, vol, 1) error('mine', 0)"}, status: 1, stderr: "walbsh: mine\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, append([]string{"-c", layout}, c.args...)...)
			p.stdin = strings.NewReader(c.stdin)
			assert.Equal(t, c.status, p.run(t))
			assert.Equal(t, c.stdout, p.out.String())
			assert.Contains(t, p.err.String(), c.stderr)
			if c.status != 0 && c.stderr != "" {
				assert.Equal(t, 1, strings.Count(p.err.String(), "\n"), "one line: %s", p.err.String())
			}
		})
	}
}

func TestTheEnvironmentNamesALayout(t *testing.T) {
	tempDir(t)
	p := newProcess(t, "-e", "print(walbc.get_state(s0, vol))")
	p.environ["WALBSH_LAYOUT"] = bareGroup(t).LayoutFile()
	require.Equal(t, statusOK, p.run(t), p.err.String())
	assert.Equal(t, "Clear\n", p.out.String())

	p = newProcess(t, "--size", "1m", "--log-size", "1m", "-e", "print(walbc.get_state(s0, vol))")
	p.environ["WALBSH_LAYOUT"] = "/nonexistent"
	require.Equal(t, statusOK, p.run(t), p.err.String())
	assert.Equal(t, "Target\n", p.out.String(), "options of an embedded group go before it")
}

func TestAKeptGroup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kept")
	status, _, err := runWalbsh(t, "--data", dir, "--size", "4m", "-e", "group.write(512, 'hello') group.flush()")
	require.Equal(t, statusOK, status, err)
	status, out, err := runWalbsh(t, "run", "--data", dir, writeFile(t, t.TempDir(), "x.lua", "print(group.read(512, 512):sub(1, 5))"))
	require.Equal(t, statusOK, status, err)
	assert.Equal(t, "hello\n", out)

	status, _, err = runWalbsh(t, "--data", dir, "--size", "8m", "-e", "")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "has the size 4194304, not 8388608")

	g, openErr := embed.Open(t.Context(), embed.Options{Dir: dir})
	require.NoError(t, openErr)
	defer g.Close()
	status, _, err = runWalbsh(t, "--data", dir, "-e", "")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "attach to that group with: walbsh -c "+g.LayoutFile())
	status, out, err = runWalbsh(t, "-c", g.LayoutFile(), "-e", "print(walbc.is_synchronizing(a0, vol), a0.dir)")
	require.Equal(t, statusOK, status, err)
	assert.Equal(t, "true\t"+filepath.Join(dir, "a0")+"\n", out)
}

func TestServersThatAreNotThere(t *testing.T) {
	g := bareGroup(t)
	require.NoError(t, g.Close())
	status, _, err := runWalbsh(t, "-c", g.LayoutFile(), "-e", "walbc.get_state(s0, vol)")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "is a server running at "+g.Layout().Storages[0].Addr())
}

func TestSignalsEndScripts(t *testing.T) {
	layout := bareGroup(t).LayoutFile()
	for name, c := range map[string]struct {
		code   string
		signal os.Signal
		status int
		stderr string
	}{
		"Lua":           {"print('on') while true do end", os.Interrupt, 130, "walbsh: interrupted\n"},
		"no swallowing": {"print('on') while true do pcall(function() while true do end end) end", os.Interrupt, 130, "walbsh: interrupted\n"},
		"operation":     {"print('on') walbc.wait_for_stopped(p0, vol, 'Started')", os.Interrupt, 130, "walbsh: interrupted"},
		"background":    {"walbc.async.wait_for_stopped(p0, vol, 'Started') print('on')", os.Interrupt, 130, "walbsh: interrupted\n"},
		"terminated":    {"print('on') while true do end", syscall.SIGTERM, 143, "walbsh: terminated\n"},
		"hung up":       {"print('on') while true do end", syscall.SIGHUP, 129, "walbsh: the terminal hung up\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProcess(t, "-c", layout, "-e", c.code)
			status := make(chan int)
			go func() { status <- p.run(t) }()
			require.NoError(t, p.out.await(t.Context(), "on\n"))
			p.signals <- c.signal
			assert.Equal(t, c.status, <-status)
			assert.Contains(t, p.err.String(), c.stderr)
		})
	}
}

func TestSignalsEndTheOpening(t *testing.T) {
	dir := tempDir(t)
	p := newProcess(t, "-e", "print('no')")
	p.signals <- os.Interrupt
	assert.Equal(t, 130, p.run(t))
	assert.Empty(t, p.out.String())
	requireEmpty(t, dir)
}

func TestSignalsEndTheReadingOfStdin(t *testing.T) {
	p := newProcess(t)
	in, keepOpen, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	defer keepOpen.Close()
	p.stdin = in
	p.signals <- syscall.SIGTERM
	assert.Equal(t, 143, p.run(t))
	assert.Equal(t, "walbsh: terminated\n", p.err.String())
}

func TestMoreSignalsEndMore(t *testing.T) {
	p := newProcess(t)
	signals, work, patience := catchSignals(t.Context(), p.env, p.exit)
	defer signals.end()
	p.signals <- os.Interrupt
	<-work.Done()
	require.NoError(t, patience.Err())
	p.signals <- syscall.SIGTERM
	<-patience.Done()
	require.EqualError(t, context.Cause(work), "interrupted", "the first cause stays")
	p.signals <- os.Interrupt
	assert.Equal(t, 130, <-p.exited)
}

func TestThePromptHasTheKeyboard(t *testing.T) {
	p := newProcess(t)
	signals, work, patience := catchSignals(t.Context(), p.env, p.exit)
	defer signals.end()
	signals.givePrompt()
	for range 3 {
		p.signals <- os.Interrupt
	}
	assert.Equal(t, os.Interrupt, <-signals.keyboard)
	require.NoError(t, work.Err())
	p.signals <- syscall.SIGTERM
	<-work.Done()
	signals.closing()
	p.signals <- os.Interrupt
	<-patience.Done()
}

func TestAbandoningTakesTheTemporaryFilesAway(t *testing.T) {
	dir := tempDir(t)
	p := newProcess(t)
	g, err := embed.Open(t.Context(), embed.Options{Bare: true, Size: 1 << 20, LogSize: 1 << 20})
	require.NoError(t, err)
	s := &session{env: p.env}
	s.embedded.Store(g)
	s.abandon(130)
	assert.Equal(t, 130, <-p.exited)
	requireEmpty(t, dir)
	_ = g.Close() // its files are gone, which it may say
}

// TestLeaving is what Ctrl-C does with a statement that does not end: the first
// waits for what is brought back, the second does not.
func TestLeaving(t *testing.T) {
	p := newProcess(t)
	g, err := group.New(group.Layout{}, group.Options{})
	require.NoError(t, err)
	s := &session{env: p.env, group: g}
	begun, undoing, brought := make(chan struct{}), make(chan struct{}), make(chan struct{})
	job, err := g.Jobs().Start(t.Context(), plan.Spec{Op: "synchronize", Volume: "vol", Build: func(context.Context) (*plan.Plan, error) {
		return plan.New("synchronize", "vol").Then(plan.Step{
			Name: "stop p0",
			Do: func(ctx context.Context) error {
				close(begun)
				<-ctx.Done()
				return ctx.Err()
			},
			Undo: func(context.Context) error {
				close(undoing)
				<-brought
				return nil
			},
		}), nil
	}})
	require.NoError(t, err)
	<-begun
	s.leave(t.Context())
	<-undoing
	assert.Contains(t, p.err.String(), "job 1 (synchronize vol) is bringing back what it changed")
	assert.Empty(t, p.exited)
	s.leave(t.Context())
	assert.Equal(t, 130, <-p.exited)
	close(brought)
	assert.Equal(t, 130, <-p.exited)
	assert.Equal(t, []string{"undo stop p0"}, failureOf(t, job.Wait(t.Context())).Undone)
}

func failureOf(t *testing.T, err error) *plan.Failure {
	t.Helper()
	f, ok := errors.AsType[*plan.Failure](err)
	require.True(t, ok, "%v", err)
	return f
}

// TestThePictureWithAServerMissing: the volume need not be named for that.
func TestThePictureWithAServerMissing(t *testing.T) {
	tempDir(t)
	status, out, stderr := runWalbsh(t, "--size", "4m", "--log-size", "1m", "-e", "walbc.shutdown(a1)",
		"-e", "repeat local ok = pcall(walbc.get_state, a1, vol) until not ok print(walbc.layout())")
	require.Equal(t, statusOK, status, stderr)
	assert.Contains(t, out, "+->| a0 |    | a1 |\n   +----+    +----+\na1 does not answer\n")

	status, _, stderr = runWalbsh(t, "--bare", "--size", "4m", "--log-size", "1m", "-e", "walbc.layout()")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, stderr, "layout: no server knows a volume yet (hint: walbc.init_storage(s0, vol")
}

// TestServersWithTakenNames: none takes the place of anything else, and ax is
// the server of that name.
func TestServersWithTakenNames(t *testing.T) {
	file := writeFile(t, t.TempDir(), "l.lua", `return { volume = "vol", archives = {
	  { name = "ax", host = "127.0.0.1", port = 1 }, { name = "print", host = "127.0.0.1", port = 2 },
	  { name = "walbc", host = "127.0.0.1", port = 3 }, { name = "vol", host = "127.0.0.1", port = 4 } } }`)
	status, out, stderr := runWalbsh(t, "-c", file, "-e", "print(ax.name, print_.name, walbc_.name, vol_.name, vol, walbc.GID_MAX)")
	require.Equal(t, statusOK, status, stderr)
	assert.Equal(t, "ax\tprint\twalbc\tvol\tvol\t18446744073709551615\n", out)
	assert.Contains(t, stderr, "the server walbc is called walbc_ here: walbc means something else\n")
	assert.NotContains(t, stderr, "ax")
}

func TestEndableReads(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	data, err := io.ReadAll(&endable{ctx: ctx, in: strings.NewReader("all of it")})
	require.NoError(t, err)
	assert.Equal(t, "all of it", string(data))
	cancel(io.ErrClosedPipe)
	r, w := io.Pipe()
	defer w.Close()
	_, err = (&endable{ctx: ctx, in: r}).Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.ErrClosedPipe)
}
