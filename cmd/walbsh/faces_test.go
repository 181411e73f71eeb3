package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/runtime/vm"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

func TestHelpAndVersion(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"help", "walbsh operates and serves"},
		{"-h", "walbsh operates and serves"},
		{"--help", "walbsh operates and serves"},
		{"--bare --help", "walbsh operates and serves"},
		{"run -h", "walbsh operates and serves"},
		{"help version", "walbsh operates and serves"},
		{"help run", "multiple-archives"},
		{"help wdev", "wdev create DIR NAME"},
		{"wdev", "wdev create DIR NAME"},
		{"wdev create -h", "wdev create DIR NAME"},
		{"help export", "walbsh export [-a HOST:PORT] VOLUME GID"},
		{"export", "walbsh export [-a HOST:PORT] VOLUME GID"},
		{"export --list -h", "walbsh export [-a HOST:PORT] VOLUME GID"},
		{"help serve", "walbsh serve proxy -h"},
		{"help serve archive", "-discard W"},
		{"serve storage -h", "-archive HOST:PORT     archive for backups (must)"},
		{"serve proxy -h", "-rto SEC               how long a refused transfer is repeated (default 1800)"},
		{"version", "walbsh 0.1"},
		{"--version", "walbsh 0.1"},
	} {
		status, out, err := runWalbsh(t, strings.Fields(c.args)...)
		assert.Equal(t, statusOK, status, c.args)
		assert.Contains(t, out, c.want, c.args)
		assert.Empty(t, err, c.args)
	}
}

func TestWrongCommandLines(t *testing.T) {
	dir := tempDir(t)
	t.Chdir(dir)
	writeFile(t, dir, "x.lua", "")
	bad := writeFile(t, t.TempDir(), "bad.lua", "return 5")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"nosuch"}, `"nosuch" is no command (hint: walbsh help)`},
		{[]string{"x.lua"}, `"x.lua" is no command (hint: walbsh run x.lua)`},
		{[]string{"--nosuch"}, "flag provided but not defined: -nosuch"},
		{[]string{"-c"}, "flag needs an argument: -c"},
		{[]string{"--size", "many"}, `invalid value "many" for flag -size`},
		{[]string{"--size", "0"}, "size 0"},
		{[]string{"--size", "1000"}, "no positive multiple of 512"},
		{[]string{"--log-size", "5"}, "log size of 5 bytes"},
		{[]string{"run"}, "run wants a file"},
		{[]string{"run", "none.lua"}, "none.lua: no such file"},
		{[]string{"run", "none.lua"}, "runbooks multiple-archives"},
		{[]string{"run", "."}, "not a regular file"},
		{[]string{"run", "x.lua", "--bare"}, "--bare behind the file"},
		{[]string{"-e", "x()", "run", "x.lua"}, "-e and run exclude each other"},
		{[]string{"-c", "a.lua", "--data", "b"}, "--data is for an embedded group and -c"},
		{[]string{"-c", "none.lua"}, "none.lua: no such file"},
		{[]string{"--layout", bad, "-e", ""}, "gives a number, expected a table"},
		{[]string{"help", "nosuch"}, `no help about "nosuch"`},
		{[]string{"serve"}, "serve what? There are storage, proxy, archive"},
		{[]string{"serve", "nosuch"}, "serve what?"},
		{[]string{"wdev", "nosuch"}, `no command "nosuch"`},
		{[]string{"wdev", "create"}, "wants DIR and NAME"},
		{[]string{"wdev", "create", "d", "n"}, "wants --size"},
		{[]string{"wdev", "create", "d", "n", "--size", "1000"}, "no multiple of 512"},
		{[]string{"wdev", "create", "d", "n", "--nosuch"}, "not defined: -nosuch"},
		{[]string{"wdev", "list"}, "wants DIR"},
		{[]string{"export", "vol"}, "wants VOLUME and GID"},
		{[]string{"export", "vol", "x"}, `GID "x" is no number`},
		{[]string{"export", "vol", "1", "--nosuch"}, "not defined: -nosuch"},
		{[]string{"export", "-a", "nowhere", "vol", "1"}, "-a: "},
		{[]string{"export", "vol", "1", "--list", "--end"}, "exclude each other"},
		{[]string{"export", "vol", "1", "--force"}, "--force is for --end"},
		{[]string{"export", "--list", "a", "b"}, "--list wants VOLUME or nothing"},
	} {
		status, out, err := runWalbsh(t, c.args...)
		assert.Equal(t, statusUsage, status, "%q", c.args)
		assert.Empty(t, out, "%q", c.args)
		assert.Contains(t, err, c.want, "%q", c.args)
		assert.True(t, strings.HasPrefix(err, "walbsh: "), err)
		assert.Equal(t, 1, strings.Count(err, "\n"), "one line: %s", err)
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1, "nothing was made")
}

func TestExitStatuses(t *testing.T) {
	partly := &plan.Failure{
		Err:   &walberr.Error{Op: "synchronize", Code: walberr.Timeout},
		Debts: []plan.Debt{{Step: "start p0 again"}},
	}
	interrupted := &vm.InterruptError{Cause: &signalError{os.Interrupt}}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("any"), 1},
		{&walberr.Error{Op: "x", Code: walberr.Usage}, 1},
		{&walberr.Error{Op: "x", Code: walberr.Unreachable}, 1},
		{usagef("", "x"), 2},
		{partly, 3},
		{fmt.Errorf("background x: %w", partly), 3},
		{&walberr.Error{Op: "x", Code: walberr.Timeout}, 4},
		{&vm.Error{Err: &plan.Failure{Err: &walberr.Error{Op: "x", Code: walberr.Timeout}}}, 4},
		{context.DeadlineExceeded, 4},
		{&vm.Error{Err: &vm.PanicError{Value: "x"}}, 70},
		{&walberr.Error{Op: "x", Code: walberr.Internal}, 70},
		{interrupted, 130},
		{errors.Join(interrupted, partly), 130},
		{&signalError{syscall.SIGHUP}, 129},
		{&signalError{syscall.SIGTERM}, 143},
		{&vm.InterruptError{Cause: &vm.ExitError{Status: 9}}, 9},
		{&vm.InterruptError{Cause: &vm.ExitError{Status: 0}}, 0},
	} {
		assert.Equal(t, c.want, statusOf(c.err), "%v", c.err)
	}
}

func TestDevices(t *testing.T) {
	dir := t.TempDir() + "/wdev"
	status, out, err := runWalbsh(t, "wdev", "create", dir, "d1", "--size", "1m", "--log-size=256k")
	require.Equal(t, statusOK, status, err)
	assert.Equal(t, "/dev/walb/d1\n", out)
	status, _, err = runWalbsh(t, "wdev", "create", "--size", "2m", "--pbs", "4096", dir, "d2")
	require.Equal(t, statusOK, status, err)

	status, out, err = runWalbsh(t, "wdev", "list", dir)
	require.Equal(t, statusOK, status, err)
	assert.Regexp(t, `^/dev/walb/d1	size 1m	log 251k	pbs 512	uuid [0-9a-f]{32}
/dev/walb/d2	size 2m	log 16372k	pbs 4096	uuid [0-9a-f]{32}
$`, out)

	status, _, err = runWalbsh(t, "wdev", "create", dir, "d1", "--size", "1m")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "d1 is there already")

	status, _, err = runWalbsh(t, "wdev", "list", dir+"x")
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "no such file")
	assert.NoDirExists(t, dir+"x")

	require.NoError(t, os.WriteFile(dir+"/d1/log", nil, 0o600))
	status, out, err = runWalbsh(t, "wdev", "list", dir)
	assert.Equal(t, statusFailed, status)
	assert.Contains(t, err, "d1: read super sector")
	assert.Contains(t, out, "/dev/walb/d2", "the others are listed")
}
