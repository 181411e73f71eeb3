package vfstest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

const crashes = 200

func rnd(i int) *rand.Rand { return rand.New(rand.NewPCG(uint64(i), 7)) }

func put(t *testing.T, fsys vfs.FS, name string, data string, sync bool) {
	t.Helper()
	f, err := fsys.Open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	require.NoError(t, err)
	_, err = f.Write([]byte(data))
	require.NoError(t, err)
	if sync {
		require.NoError(t, f.Sync())
	}
	require.NoError(t, f.Close())
}

func get(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	data, err := vfs.ReadFile(fsys, name, 1<<20)
	require.NoError(t, err)
	return string(data)
}

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

// outcomes counts what crashes of m leave behind, as seen by look.
func outcomes(m *Mem, look func(*Mem) string) map[string]int {
	seen := map[string]int{}
	for i := range crashes {
		seen[look(m.Crash(rnd(i)))]++
	}
	return seen
}

func keys(m map[string]int) []string {
	list := []string{}
	for k := range m {
		list = append(list, k)
	}
	return list
}

func TestCrashKeepsWhatWasSynced(t *testing.T) {
	m := NewMem("/d")
	put(t, m, "/d/a", "old", true)
	require.NoError(t, m.SyncDir("/d"))
	put(t, m, "/d/b", "b", true) // name not synced
	for i := range crashes {
		require.Equal(t, "old", get(t, m.Crash(rnd(i)), "/d/a"))
	}
	seen := outcomes(m, func(c *Mem) string { return filepath.Join(names(t, c, "/d")...) })
	assert.ElementsMatch(t, []string{"a", "a/b"}, keys(seen))
}

func TestCrashTearsUnsyncedContent(t *testing.T) {
	m := NewMem("/d")
	old := bytes.Repeat([]byte{'o'}, 3*sectorSize)
	put(t, m, "/d/a", string(old), true)
	require.NoError(t, m.SyncDir("/d"))
	f, err := m.Open("/d/a", os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{'n'}, 3*sectorSize), 0)
	require.NoError(t, err)

	seen := outcomes(m, func(c *Mem) string {
		got := get(t, c, "/d/a")
		return string([]byte{got[0], got[sectorSize], got[2*sectorSize]})
	})
	assert.Len(t, seen, 8, "every mixture of old and new sectors: %v", seen)

	require.NoError(t, f.Truncate(sectorSize))
	seen = outcomes(m, func(c *Mem) string {
		return string(rune('0' + len(get(t, c, "/d/a"))/sectorSize))
	})
	assert.ElementsMatch(t, []string{"1", "3"}, keys(seen), "size is old or new")

	require.NoError(t, f.Sync())
	require.NoError(t, f.Truncate(3*sectorSize))
	require.NoError(t, f.Sync())
	want := string(bytes.Repeat([]byte{'n'}, sectorSize)) + string(make([]byte, 2*sectorSize))
	for i := range crashes {
		require.Equal(t, want, get(t, m.Crash(rnd(i)), "/d/a"), "what was cut off stays zero")
	}
}

func TestCrashRenamesAsAWhole(t *testing.T) {
	m := NewMem("/d", "/e")
	put(t, m, "/d/a", "a", true)
	require.NoError(t, m.SyncDir("/d"))
	require.NoError(t, m.Rename("/d/a", "/e/b"))
	look := func(c *Mem) string {
		return filepath.Join(append(names(t, c, "/d"), names(t, c, "/e")...)...)
	}
	assert.ElementsMatch(t, []string{"a", "b"}, keys(outcomes(m, look)))
	require.NoError(t, m.SyncDir("/d"))
	assert.ElementsMatch(t, []string{"b"}, keys(outcomes(m, look)))
}

func TestCrashKeepsHardLinksOneFile(t *testing.T) {
	m := NewMem("/d")
	put(t, m, "/d/a", "x", true)
	require.NoError(t, m.Link("/d/a", "/d/b"))
	require.NoError(t, m.SyncDir("/d"))
	c := m.Crash(rnd(1))
	put(t, c, "/d/a", "changed", true)
	assert.Equal(t, "changed", get(t, c, "/d/b"))
	assert.Equal(t, "x", get(t, m, "/d/a"), "the crashed disk is a copy")
}

// TestMemIsLikeTheOS runs one list of operations on Mem and on a real
// directory and compares what they answer.
func TestMemIsLikeTheOS(t *testing.T) {
	type outcome struct {
		code error
		list []string
	}
	run := func(fsys vfs.FS, root string) []outcome {
		p := func(name string) string { return filepath.Join(root, name) }
		var all []outcome
		did := func(err error) {
			o := outcome{}
			for _, known := range []error{
				fs.ErrNotExist, fs.ErrExist, syscall.ENOTEMPTY, syscall.ENOTDIR,
				syscall.EISDIR, syscall.EBADF, fs.ErrClosed, io.EOF,
			} {
				if errors.Is(err, known) {
					o.code = known
					break
				}
			}
			if err != nil && o.code == nil {
				o.code = err
			}
			o.list = names(t, fsys, root)
			all = append(all, o)
		}
		open := func(name string, flag int) error {
			f, err := fsys.Open(p(name), flag, 0o644)
			if err == nil {
				err = f.Close()
			}
			return err
		}
		did(open("a", os.O_RDONLY))
		did(open("a", os.O_RDWR|os.O_CREATE|os.O_EXCL))
		did(open("a", os.O_RDWR|os.O_CREATE|os.O_EXCL))
		did(fsys.Mkdir(p("dir"), 0o755))
		did(fsys.Mkdir(p("dir"), 0o755))
		did(open("dir/x", os.O_RDWR|os.O_CREATE))
		did(open("a/x", os.O_RDONLY))
		did(open("dir", os.O_RDWR))
		did(fsys.Remove(p("dir")))
		did(fsys.Link(p("a"), p("b")))
		did(fsys.Link(p("a"), p("b")))
		did(fsys.Rename(p("a"), p("b"))) // two names of one file
		did(fsys.Rename(p("a"), p("dir/y")))
		did(fsys.Rename(p("nosuch"), p("z")))
		did(fsys.Rename(p("dir"), p("moved")))
		did(fsys.Remove(p("moved/x")))
		did(fsys.Remove(p("moved/y")))
		did(fsys.Remove(p("moved")))
		did(fsys.Remove(p("moved")))
		did(fsys.SyncDir(p("")))
		did(fsys.SyncDir(p("nosuch")))

		f, err := fsys.Open(p("b"), os.O_RDONLY, 0)
		did(err)
		_, err = f.Write([]byte("x"))
		did(err)
		_, err = f.ReadAt(make([]byte, 1), 0)
		did(err)
		did(fsys.Remove(p("b")))
		did(f.Close())
		_, err = f.Read(make([]byte, 1))
		did(err)
		return all
	}
	want := run(vfs.OS{}, t.TempDir())
	assert.Equal(t, want, run(NewMem("/r"), "/r"))
	assert.Equal(t, want, run(Intercept(NewMem("/r"), Rules()), "/r"))
}

// TestMemFileIsLikeAByteSlice compares random reads, writes and truncations
// with the obvious model.
func TestMemFileIsLikeAByteSlice(t *testing.T) {
	m := NewMem("/d")
	f, err := m.Open("/d/f", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	var model []byte
	r := rnd(3)
	for range 2000 {
		off := int64(r.IntN(20000))
		n := r.IntN(9000)
		switch r.IntN(4) {
		case 0:
			size := int64(r.IntN(30000))
			require.NoError(t, f.Truncate(size))
			model = append(model[:min(int64(len(model)), size)], make([]byte, max(0, size-int64(len(model))))...)
		case 1:
			p := bytes.Repeat([]byte{byte(1 + r.IntN(255))}, n)
			_, err := f.WriteAt(p, off)
			require.NoError(t, err)
			if n > 0 && int64(len(model)) < off+int64(n) {
				model = append(model, make([]byte, off+int64(n)-int64(len(model)))...)
			}
			copy(model[min(off, int64(len(model))):], p)
		case 2:
			require.NoError(t, f.Sync())
		default:
			p := make([]byte, n)
			k, err := f.ReadAt(p, off)
			want := model[min(off, int64(len(model))):]
			want = want[:min(n, len(want))]
			require.True(t, bytes.Equal(want, p[:k]))
			require.Equal(t, k < n, errors.Is(err, io.EOF))
		}
		if r.IntN(50) == 0 {
			require.NoError(t, f.Sync())
			require.Equal(t, string(model), get(t, crashed(m), "/d/f"))
		}
	}
}

// crashed gives a disk on which the directory was synced in time.
func crashed(m *Mem) *Mem {
	_ = m.SyncDir("/d")
	return m.Crash(rnd(0))
}

func TestLocks(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		fsys vfs.FS
		path string
	}{{vfs.OS{}, filepath.Join(dir, "lock")}, {NewMem("/d"), "/d/lock"}} {
		l, err := c.fsys.Lock(c.path)
		require.NoError(t, err)
		_, err = c.fsys.Lock(c.path)
		assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
		require.NoError(t, l.Close())
		l, err = c.fsys.Lock(c.path)
		require.NoError(t, err)
		require.NoError(t, l.Close())
	}
	m := NewMem("/d")
	_, err := m.Lock("/d/lock")
	require.NoError(t, err)
	m.DropLocks()
	_, err = m.Lock("/d/lock")
	require.NoError(t, err)
}

func TestRules(t *testing.T) {
	boom := errors.New("boom")
	fsys := Intercept(NewMem("/d"), Rules(
		Rule{Op: OpWrite, Path: "a*", Skip: 1, Fail: 1, Err: boom},
		Rule{Op: OpSyncDir, Err: boom},
	))
	f, err := fsys.Open("/d/abc", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	for i, want := range []error{nil, boom, nil} {
		_, err := f.Write([]byte("x"))
		require.ErrorIs(t, err, want, i)
	}
	assert.Equal(t, "xx", get(t, fsys, "/d/abc"))
	require.ErrorIs(t, fsys.SyncDir("/d"), boom)
	g, err := fsys.Open("/d/b", os.O_RDWR|os.O_CREATE, 0o600)
	require.NoError(t, err)
	for range 3 {
		_, err := g.Write([]byte("x"))
		require.NoError(t, err)
	}
}
