package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the transcripts in tests/cli with the program itself, in
// processes of its own. Beside testscript's commands they have:
//
//	exits STATUS PROGRAM ARG...   the program ends with that status; what it
//	                              prints goes to the files out and err
//	ports NAME...                 sets variables to free ports
//	await FILE TEXT               waits until the file holds the text
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("..", "..", "tests", "cli"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", filepath.Join(e.WorkDir, ".home"))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else every race-checked process ends a second late
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"ports": func(ts *testscript.TestScript, _ bool, names []string) {
				for _, name := range names {
					ts.Setenv(name, freePort(t))
				}
			},
			"await": await,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := exec.Command(programPath(ts, args[1]), args[2:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &stdout, &stderr
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "WALBSH_LAYOUT", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), stdout.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), stderr.Bytes(), 0o600))
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("status %d, expected %d\nstdout: %s\nstderr: %s", got, want, &stdout, &stderr)
	}
}

// programPath finds a program on the PATH of the script.
func programPath(ts *testscript.TestScript, name string) string {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path
		}
	}
	ts.Fatalf("no program %s", name)
	return ""
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: await FILE TEXT")
	}
	path := ts.MkAbs(args[0])
	for until := time.Now().Add(20 * time.Second); ; {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), args[1]) {
			return
		}
		if time.Now().After(until) {
			ts.Fatalf("%s never held %q; it holds %q, %v", args[0], args[1], text, err)
		}
		time.Sleep(5 * time.Millisecond) // nothing tells of a change of a file
	}
}
