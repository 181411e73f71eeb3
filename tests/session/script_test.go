package session

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
)

const (
	volumeSize = 64 << 20 // bytes
	logSize    = 16 << 20 // bytes
)

// TestSeed runs the manual's session twice: on an embedded group, which is
// opened anew for each part of it, and on four processes, of which each is
// killed and started again in the middle.
func TestSeed(t *testing.T) {
	for _, kind := range []string{"embedded", "processes"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			runScript(t, "seed.txtar", kind)
		})
	}
}

// world is what the commands of one run of a script share.
type world struct {
	processes *daemons.Group // nil for an embedded group
	model     *model
}

// worldKey is where a script keeps its world.
type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

// runScript runs a script of testdata. In it, "walbsh $FLAG $GROUP" has the
// group of the wanted kind.
func runScript(t *testing.T, name, kind string) {
	t.Helper()
	testscript.Run(t, testscript.Params{
		Files:               []string{filepath.Join("testdata", name)},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			w := &world{model: newModel(volumeSize)}
			env.Values[worldKey{}] = w
			env.Setenv("PATH", filepath.Dir(walbsh)+string(filepath.ListSeparator)+env.Getenv("PATH"))
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("FLAG", "--data")
			env.Setenv("GROUP", filepath.Join(env.WorkDir, "group"))
			if kind == "processes" {
				return w.startProcesses(t, env)
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "embedded", "processes":
				return cond == kind, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"follow": func(ts *testscript.TestScript, _ bool, _ []string) { follow(ts) },
			"kill9":  func(ts *testscript.TestScript, _ bool, args []string) { kill9(ts, args) },
		},
	})
}

// startProcesses gives the script a group of processes.
func (w *world) startProcesses(t *testing.T, env *testscript.Env) error {
	t.Helper()
	w.processes = startGroup(t, daemons.Options{Dir: env.Getenv("GROUP"), Size: volumeSize, LogSize: logSize})
	env.Setenv("FLAG", "-c")
	env.Setenv("GROUP", w.processes.LayoutFile())
	return nil
}

// follow reads what the last command printed, as lines of words, and does to
// the model what they say was done to the volume:
//
//	fill OFFSET LENGTH SEED
//	discard OFFSET LENGTH
//	snapshot GID
//	image PATH               of a restored snapshot, which is checked
//
// Other lines say nothing about the volume. At least one image must be there.
func follow(ts *testscript.TestScript) {
	m := worldOf(ts).model
	images := 0
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		words := strings.Fields(line)
		number := func(i int) uint64 {
			n, err := strconv.ParseUint(words[i], 10, 64)
			ts.Check(err)
			return n
		}
		switch {
		case len(words) == 4 && words[0] == "fill":
			m.fill(int64(number(1)), int64(number(2)), number(3))
		case len(words) == 3 && words[0] == "discard":
			m.discard(int64(number(1)), int64(number(2)))
		case len(words) == 2 && words[0] == "snapshot":
			m.snapshot(number(1))
		case len(words) == 2 && words[0] == "image":
			ts.Check(m.checkImage(words[1]))
			images++
		}
	}
	ts.Logf("%d images are what was written", images)
}

// kill9 kills each of the servers with SIGKILL, and starts them again when all
// are dead. It does so for processes only.
func kill9(ts *testscript.TestScript, ids []string) {
	g := worldOf(ts).processes
	if g == nil {
		return
	}
	for _, id := range ids {
		ts.Check(g.Kill(id))
	}
	for _, id := range ids {
		ts.Check(g.Start(context.Background(), id))
	}
}

// linesOfTheManual are the lines that an operator types.
var linesOfTheManual = []string{
	"walbc.replicate_once(a0, vol, a1, timeoutS)",
	"walbc.synchronize(a0, vol, a1, timeoutS)",
	"walbc.stop_synchronizing(a1, vol)",
	"isSynchronizing = walbc.is_synchronizing(ax, vol)",
}

// TestTheScriptHasTheManualsLines: they are in it as they are.
func TestTheScriptHasTheManualsLines(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "seed.txtar"))
	require.NoError(t, err)
	for _, line := range linesOfTheManual {
		require.True(t, bytes.Contains(text, []byte("\n"+line+"\n")), line)
	}
}
