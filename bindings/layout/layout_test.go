package layout_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/bindings/layout"
	"walbsh/walbcore/group"
	"walbsh/walbcore/walberr"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layout.lua")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestLoad(t *testing.T) {
	f, err := layout.Load(t.Context(), write(t, `
local host = "192.0.2.7"
local function at(name, port) return { name = name, host = host, port = port } end
return {
  volume = "v-1",
  storages = { at("s0", 10000), at("s1", 10001) },
  proxies = { at("p0", 10100) },
  archives = { { name = "a0", host = "localhost", port = 10200, dir = "/srv/a0" } },
}`))
	require.NoError(t, err)
	assert.Equal(t, layout.File{
		Volume: "v-1",
		Layout: group.Layout{
			Storages: []group.Server{
				{Name: "s0", Host: "192.0.2.7", Port: 10000, Kind: group.Storage},
				{Name: "s1", Host: "192.0.2.7", Port: 10001, Kind: group.Storage},
			},
			Proxies:  []group.Server{{Name: "p0", Host: "192.0.2.7", Port: 10100, Kind: group.Proxy}},
			Archives: []group.Server{{Name: "a0", Host: "localhost", Port: 10200, Kind: group.Archive, Dir: "/srv/a0"}},
		},
	}, f)
}

func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no value":       {`local x = 1`, "0 values, expected one table"},
		"no table":       {`return 5`, "gives a number, expected a table"},
		"no server":      {`return {}`, "no server"},
		"syntax":         {"return {\n", "layout.lua:1: unexpected end"},
		"failing":        {`error("boom")`, "layout.lua:1: boom"},
		"unknown field":  {`return { archive = {} }`, "unknown field archive, there are storages"},
		"not a list":     {`return { archives = { name = "a0" } }`, "archives is no plain list"},
		"list of text":   {`return { archives = { "a0" } }`, "archives[1] is a string"},
		"text for list":  {`return { archives = "a0" }`, "archives is a string"},
		"no name":        {`return { archives = { { host = "h", port = 1 } } }`, "archives[1]: name is missing"},
		"port text":      {`return { archives = { { name = "a0", host = "h", port = "1" } } }`, "port is 1, expected a number"},
		"port fraction":  {`return { archives = { { name = "a0", host = "h", port = 1.5 } } }`, "port is 1.5"},
		"no port":        {`return { archives = { { name = "a0", host = "h" } } }`, "port is nil"},
		"twice":          {`local a = { name = "a0", host = "h", port = 1 } return { archives = { a, a } }`, `two servers are called "a0"`},
		"bad volume":     {`return { volume = "a b", archives = { { name = "a0", host = "h", port = 1 } } }`, `volume "a b"`},
		"unknown member": {`return { archives = { { name = "a0", host = "h", port = 1, vg = "vg" } } }`, "archives[1]: unknown field vg"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := layout.Load(t.Context(), write(t, c.text))
			require.ErrorContains(t, err, c.want)
			assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
			assert.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestLoadNeedsTheFile(t *testing.T) {
	_, err := layout.Load(t.Context(), filepath.Join(t.TempDir(), "none.lua"))
	require.ErrorContains(t, err, "none.lua")
	assert.ErrorIs(t, err, os.ErrNotExist)
}
