// Package arch checks the shape of the tree: which package may import which,
// that every package says what it is for, and that nothing needs cgo.
package arch

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// goPackage is the part of `go list -json` that the checks use.
type goPackage struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json", "walbsh/...").Output()
	require.NoError(t, err)
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all = append(all, p)
	}
}

// rank orders the rooms of walbcore from the bottom up. A package imports only
// packages of a lower rank, or those named in sameRank.
var rank = map[string]int{
	"block": 0, "walberr": 0, "checksum": 0,
	"meta": 1, "fsm": 1, "compress": 1, "vfs": 1, "nbd": 1,
	"wdiff": 2, "wlog": 3, "wire": 3,
	"image": 4, "diffstore": 4, "wdev": 4,
	"transfer": 5, "client": 5, "offline": 5,
	"server": 6, "plan": 6,
	"storage": 7, "proxy": 7, "archive": 7, "group": 7,
	"embed":  8,
	"simnet": 0, "vfs/vfstest": 2,
}

// sameRank lists the imports inside one rank that the design wants.
var sameRank = map[string][]string{
	"fsm": {"meta"}, "vfs": {}, "compress": {}, "meta": {}, "wire": {"wlog"}, "image": {}, "diffstore": {},
	"server": {},
}

// onlyTests are rooms that shipped code must not import.
var onlyTests = []string{"simnet", "vfs/vfstest", "nbd/nbdtest", "image/imagetest"}

func TestArrowsPointOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, "walbsh/")
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, "walbsh/")
			switch {
			case strings.HasPrefix(from, "walbcore/"):
				assert.False(t, strings.Contains(imp, "gopher-lua"), "%s: walbcore never imports Lua (%s)", from, imp)
				if !ours {
					continue
				}
				assert.True(t, strings.HasPrefix(to, "walbcore/"), "%s imports %s: walbcore knows only walbcore", from, to)
				checkCore(t, strings.TrimPrefix(from, "walbcore/"), strings.TrimPrefix(to, "walbcore/"))
			case strings.HasPrefix(from, "runtime/") && ours:
				assert.True(t, strings.HasPrefix(to, "runtime/"), "%s imports %s: runtime knows neither walbcore nor bindings", from, to)
			case strings.HasPrefix(from, "bindings") && ours:
				assert.False(t, strings.HasPrefix(to, "cmd/"), "%s imports %s", from, to)
				assert.False(t, slices.Contains([]string{"walbcore/storage", "walbcore/proxy", "walbcore/archive"}, to),
					"%s imports %s: scripts reach servers over their protocol", from, to)
			}
			if ours && !strings.HasPrefix(from, "tests/") {
				assert.NotContains(t, onlyTests, strings.TrimPrefix(to, "walbcore/"), "%s imports %s, which is for tests", from, to)
			}
		}
	}
}

func checkCore(t *testing.T, from, to string) {
	t.Helper()
	if from, to = room(from), room(to); from == to {
		return
	}
	rf, ok := rank[from]
	if !assert.True(t, ok, "walbcore/%s has no rank in this test: give it one", from) {
		return
	}
	rt, ok := rank[to]
	if !assert.True(t, ok, "walbcore/%s has no rank in this test: give it one", to) {
		return
	}
	if slices.Contains(sameRank[from], to) {
		return
	}
	assert.Greater(t, rf, rt, "walbcore/%s imports walbcore/%s against the arrows", from, to)
}

// room is the package that another one lives in: wire for wire/wiretest.
func room(path string) string {
	top, _, _ := strings.Cut(path, "/")
	return top
}

// TestPureRooms: the algebra has no way to touch the world.
func TestPureRooms(t *testing.T) {
	banned := []string{"os", "net", "log", "log/slog", "io/fs", "context"}
	for _, p := range packages(t) {
		switch p.ImportPath {
		case "walbsh/walbcore/block", "walbsh/walbcore/meta":
			for _, imp := range p.Imports {
				assert.NotContains(t, banned, imp, "%s imports %s", p.ImportPath, imp)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue
		}
		documented := false
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			require.NoError(t, err)
			documented = documented || hasDoc(f)
		}
		assert.True(t, documented, "%s has no package comment", p.ImportPath)
	}
}

func hasDoc(f *ast.File) bool { return f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != "" }

func TestNothingNeedsCgo(t *testing.T) {
	for _, p := range packages(t) {
		assert.Empty(t, p.CgoFiles, "%s has cgo files", p.ImportPath)
	}
}

func TestRuntimeHoldsOnlyRooms(t *testing.T) {
	for _, p := range packages(t) {
		assert.NotEqual(t, "walbsh/runtime", p.ImportPath, "a package called runtime fights the standard one")
	}
}
