package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHelpAboutFiles(t *testing.T) {
	for args, want := range map[string]string{
		"help":             "walbsh wdiff show|check|stat|merge|redo|gen",
		"help wdiff":       "walbsh wdiff redo --image IMG",
		"wdiff":            "walbsh wdiff redo --image IMG",
		"wdiff check -h":   "walbsh wdiff redo --image IMG",
		"help wlog":        "walbsh wlog to-wdiff -o OUT",
		"wlog --help":      "walbsh wlog to-wdiff -o OUT",
		"help image":       "walbsh image cat [-o OUT] BASE",
		"image cat --help": "walbsh image cat [-o OUT] BASE",
	} {
		status, out, err := runWalbsh(t, strings.Fields(args)...)
		assert.Equal(t, statusOK, status, args)
		assert.Contains(t, out, want, args)
		assert.Empty(t, err, args)
	}
}

// TestSignalsEndTheWorkOnFiles: while it waits for stdin, and nothing is left.
func TestSignalsEndTheWorkOnFiles(t *testing.T) {
	dir := tempDir(t)
	t.Chdir(dir)
	for _, args := range []string{"wdiff check -", "wlog to-wdiff -o out -", "image hash -", "wdiff merge -o out -"} {
		p := newProcess(t, strings.Fields(args)...)
		in, never := io.Pipe()
		p.stdin = in
		p.signals <- os.Interrupt
		assert.Equal(t, 130, p.run(t), args)
		assert.Equal(t, "walbsh: ", p.err.String()[:8], args)
		assert.Contains(t, p.err.String(), "interrupted", args)
		require.NoError(t, never.Close()) // ends the read that was given up
	}
	requireEmpty(t, dir)
}

// TestNobodyReads: where stdout is closed the work fails rather than go on.
func TestNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.wdiff")
	status, _, err := runWalbsh(t, "wdiff", "gen", "-o", path)
	require.Equal(t, statusOK, status, err)
	for _, args := range [][]string{
		{"wdiff", "show", path},
		{"wdiff", "check", path},
		{"wdiff", "check", "--json", path},
		{"wdiff", "stat", path, path},
		{"wdiff", "merge", "-o", "-", path},
		{"wdiff", "merge", "-o", path + "x", path},
		{"wdiff", "gen", "-o", "-"},
		{"image", "hash", path + "img"},
		{"image", "cat", path + "img"},
	} {
		require.NoError(t, os.WriteFile(path+"img", make([]byte, 1024), 0o600))
		p := newProcess(t, args...)
		p.stdout = closedWriter{}
		assert.Equal(t, statusFailed, p.run(t), "%q", args)
		assert.Contains(t, p.err.String(), os.ErrClosed.Error(), "%q", args)
	}
}

type closedWriter struct{}

func (closedWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

// TestProgressOfWorkOnFiles: on a terminal, and only after a moment.
func TestProgressOfWorkOnFiles(t *testing.T) {
	var out bytes.Buffer
	tool := &fileTool{bars: &bars{out: &out, visible: func() bool { return true }}}
	tool.meter("check x", 100).Add(50)
	assert.Empty(t, out.String(), "it has just begun")
	assert.Nil(t, (&fileTool{}).meter("check x", 100))
}

func TestOutputsAreNotForTerminals(t *testing.T) {
	p := newProcess(t, "wdiff", "gen", "-o", "-")
	p.screen = os.Stderr
	assert.Equal(t, statusUsage, p.run(t))
	assert.Contains(t, p.err.String(), "stdout is a terminal")
	assert.Empty(t, p.out.String())
}
