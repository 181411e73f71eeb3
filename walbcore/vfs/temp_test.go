package vfs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
)

var errBoom = errors.New("boom")

func names(t *testing.T, fsys vfs.FS, dir string) []string {
	t.Helper()
	list, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	got := []string{}
	for _, e := range list {
		got = append(got, e.Name())
	}
	return got
}

func TestIsTempName(t *testing.T) {
	for name, want := range map[string]bool{
		"tmpABCDEF": true, "tmp012xyz": true, "tmp-..__~": true, "tmpABC": false, "tmpABCDEFG": false, "": false, "xtmpABCDE": false,
	} {
		assert.Equal(t, want, vfs.IsTempName(name), name)
	}
}

func TestWriteFileOnTheOS(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, text := range []string{"SyncReady", "Archived", ""} {
		require.NoError(t, vfs.WriteFile(vfs.OS{}, path, []byte(text)))
		got, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, text, string(got))
	}
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o644), info.Mode().Perm())
	assert.Equal(t, []string{"state"}, names(t, vfs.OS{}, dir))
}

// TestWriteFileCrash loses power at every operation of a WriteFile: the file
// holds the old content or the new one, and after success the new one.
func TestWriteFileCrash(t *testing.T) {
	mem := vfstest.NewMem("/d")
	require.NoError(t, vfs.WriteFile(mem, "/d/f", []byte("old")))
	look := func(disk *vfstest.Mem) string {
		got, err := vfs.ReadFile(disk, "/d/f", 100)
		require.NoError(t, err)
		return string(got)
	}
	seen := map[string]bool{}
	crash := func(allowed ...string) {
		for i := range 50 {
			got := look(mem.Crash(rand.New(rand.NewPCG(uint64(i), 1))))
			require.Contains(t, allowed, got)
			seen[got] = true
		}
	}
	watched := vfstest.Intercept(mem, func(vfstest.Op, string) error { crash("old", "new"); return nil })
	require.NoError(t, vfs.WriteFile(watched, "/d/f", []byte("new")))
	crash("new")
	assert.Len(t, seen, 2)
}

// TestWriteFileFails makes every operation of a WriteFile fail in turn.
func TestWriteFileFails(t *testing.T) {
	for n := 0; ; n++ {
		left := n
		mem := vfstest.NewMem("/d")
		require.NoError(t, vfs.WriteFile(mem, "/d/f", []byte("old")))
		var failed string
		fsys := vfstest.Intercept(mem, func(op vfstest.Op, path string) error {
			if left--; left == -1 {
				failed = fmt.Sprintf("%s %s", op, path)
				return errBoom
			}
			return nil
		})
		err := vfs.WriteFile(fsys, "/d/f", []byte("new"))
		if failed == "" {
			require.NoError(t, err)
			require.Greater(t, n, 5)
			break
		}
		require.ErrorIs(t, err, errBoom, failed)
		assert.Equal(t, []string{"f"}, names(t, mem, "/d"), "%s: no temporary file stays", failed)
		got, err := vfs.ReadFile(mem, "/d/f", 10)
		require.NoError(t, err)
		if strings.HasPrefix(failed, "chmod") || strings.HasPrefix(failed, "syncdir") {
			assert.Equal(t, "new", string(got), failed)
		} else {
			assert.Equal(t, "old", string(got), failed)
		}
	}
}

func TestTempFile(t *testing.T) {
	for _, c := range []struct {
		fsys vfs.FS
		dir  string
	}{{vfs.OS{}, t.TempDir()}, {vfstest.NewMem("/d"), "/d"}} {
		tmp, err := vfs.CreateTemp(c.fsys, c.dir)
		require.NoError(t, err)
		list := names(t, c.fsys, c.dir)
		require.Len(t, list, 1)
		assert.True(t, vfs.IsTempName(list[0]), list[0])
		assert.Equal(t, c.dir, tmp.Dir())
		_, err = tmp.Write([]byte("data"))
		require.NoError(t, err)
		published, err := tmp.Commit("final")
		require.NoError(t, err)
		assert.True(t, published)
		require.NoError(t, tmp.Abort(), "after Commit it does nothing")
		_, err = tmp.Commit("again")
		require.ErrorIs(t, err, fs.ErrClosed)
		assert.Equal(t, []string{"final"}, names(t, c.fsys, c.dir))

		tmp, err = vfs.CreateTemp(c.fsys, c.dir)
		require.NoError(t, err)
		require.NoError(t, tmp.Abort())
		require.NoError(t, tmp.Abort())
		assert.Equal(t, []string{"final"}, names(t, c.fsys, c.dir))
	}
	_, err := vfs.CreateTemp(vfs.OS{}, "/nosuch/dir")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestRemoveTemps(t *testing.T) {
	mem := vfstest.NewMem("/d", "/d/tmpABCDEF")
	for _, name := range []string{"tmp123456", "tmpABC", "state"} {
		require.NoError(t, vfs.WriteFile(mem, "/d/"+name, nil))
	}
	n, err := vfs.RemoveTemps(mem, "/d")
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	assert.Equal(t, []string{"state", "tmpABC", "tmpABCDEF"}, names(t, mem, "/d"))
}

func TestTempLink(t *testing.T) {
	for _, c := range []struct {
		fsys vfs.FS
		root string
	}{{vfs.OS{}, t.TempDir()}, {vfstest.NewMem("/d"), "/d"}} {
		p := func(name string) string { return filepath.Join(c.root, name) }
		require.NoError(t, vfs.MakeDir(c.fsys, p("e")))
		require.NoError(t, vfs.WriteFile(c.fsys, p("a"), []byte("a")))
		require.NoError(t, vfs.WriteFile(c.fsys, p("e/b"), []byte("b")))
		for range 2 { // the second time both are names of one file
			link, err := vfs.LinkTemp(c.fsys, p("a"), p("e"))
			require.NoError(t, err)
			assert.Len(t, names(t, c.fsys, p("e")), 2)
			published, err := link.Commit("b")
			require.NoError(t, err)
			assert.True(t, published)
			require.NoError(t, link.Abort(), "after Commit it does nothing")
			_, err = link.Commit("b")
			require.ErrorIs(t, err, fs.ErrClosed)
			got, err := vfs.ReadFile(c.fsys, p("e/b"), 10)
			require.NoError(t, err)
			assert.Equal(t, "a", string(got))
			assert.Equal(t, []string{"b"}, names(t, c.fsys, p("e")))
		}
		link, err := vfs.LinkTemp(c.fsys, p("a"), p("e"))
		require.NoError(t, err)
		require.NoError(t, link.Abort())
		require.NoError(t, link.Abort())
		assert.Equal(t, []string{"b"}, names(t, c.fsys, p("e")))
		_, err = vfs.LinkTemp(c.fsys, p("nosuch"), p("e"))
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	mem := vfstest.NewMem("/d")
	require.NoError(t, vfs.WriteFile(mem, "/d/a", nil))
	for op, want := range map[vfstest.Op]bool{vfstest.OpRename: false, vfstest.OpSyncDir: true} {
		link, err := vfs.LinkTemp(vfstest.Intercept(mem, vfstest.Rules(vfstest.Rule{Op: op, Err: errBoom})), "/d/a", "/d")
		require.NoError(t, err)
		published, err := link.Commit("b")
		require.ErrorIs(t, err, errBoom)
		assert.Equal(t, want, published)
	}
	assert.Equal(t, []string{"a", "b"}, names(t, mem, "/d"))
}

func TestReadFileIsBounded(t *testing.T) {
	mem := vfstest.NewMem("/d")
	require.NoError(t, vfs.WriteFile(mem, "/d/f", make([]byte, 10)))
	got, err := vfs.ReadFile(mem, "/d/f", 10)
	require.NoError(t, err)
	assert.Len(t, got, 10)
	_, err = vfs.ReadFile(mem, "/d/f", 9)
	assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
	_, err = vfs.ReadFile(mem, "/d/nosuch", 9)
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestRemoveAll(t *testing.T) {
	outside := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(outside, "keep"), nil, 0o600))
	root := t.TempDir()
	vol := filepath.Join(root, "vol")
	require.NoError(t, os.MkdirAll(filepath.Join(vol, "sendto", "a0"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(vol, "sendto", "a0", "x"), nil, 0o600))
	require.NoError(t, os.Symlink(outside, filepath.Join(vol, "link")))
	require.NoError(t, vfs.RemoveAll(vfs.OS{}, vol))
	require.NoError(t, vfs.RemoveAll(vfs.OS{}, vol), "nothing there is no error")
	assert.Empty(t, names(t, vfs.OS{}, root))
	assert.Equal(t, []string{"keep"}, names(t, vfs.OS{}, outside), "links are not followed")

	mem := vfstest.NewMem("/b/vol/sub")
	require.NoError(t, vfs.WriteFile(mem, "/b/vol/sub/f", nil))
	require.NoError(t, vfs.RemoveAll(mem, "/b/vol"))
	for i := range 20 {
		assert.Empty(t, names(t, mem.Crash(rand.New(rand.NewPCG(uint64(i), 1))), "/b"), "durable")
	}
}

func TestMakeDirAndExists(t *testing.T) {
	mem := vfstest.NewMem("/b")
	found, err := vfs.Exists(mem, "/b/v")
	require.NoError(t, err)
	assert.False(t, found)
	require.NoError(t, vfs.MakeDir(mem, "/b/v"))
	require.ErrorIs(t, vfs.MakeDir(mem, "/b/v"), fs.ErrExist)
	for i := range 20 {
		found, err = vfs.Exists(mem.Crash(rand.New(rand.NewPCG(uint64(i), 1))), "/b/v")
		require.NoError(t, err)
		assert.True(t, found, "durable")
	}
	_, err = vfs.Exists(vfstest.Intercept(mem, vfstest.Rules(vfstest.Rule{Err: errBoom})), "/b/v")
	assert.ErrorIs(t, err, errBoom)
}
