package diffstore

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
)

const dir = "/vol"

var errBoom = errors.New("boom")

// clean makes the mergeable clean diff from b to e with the given time.
func clean(b, e meta.Gid, ts uint64) meta.Diff {
	return meta.Diff{B: meta.CleanSnap(b), E: meta.CleanSnap(e), Mergeable: true, Timestamp: ts}
}

func open(t *testing.T, fsys vfs.FS, dir string) *Store {
	t.Helper()
	s, err := Open(fsys, dir)
	require.NoError(t, err)
	return s
}

// add writes text as the file of d; with replace it may take the place of another.
func add(s *Store, d meta.Diff, text string, replace bool) error {
	tmp, err := s.CreateTemp()
	if err != nil {
		return err
	}
	defer tmp.Abort()
	if _, err := tmp.Write([]byte(text)); err != nil {
		return err
	}
	if replace {
		_, err = s.Replace(tmp, d)
	} else {
		_, err = s.Add(tmp, d)
	}
	return err
}

func mustAdd(t *testing.T, s *Store, d meta.Diff, text string) {
	t.Helper()
	require.NoError(t, add(s, d, text, false))
}

func text(f io.Reader) string {
	data, err := io.ReadAll(f)
	if err != nil {
		return "error: " + err.Error()
	}
	return string(data)
}

func read(t *testing.T, s *Store, d meta.Diff) string {
	t.Helper()
	f, err := s.OpenFile(d)
	require.NoError(t, err)
	defer f.Close()
	return text(f)
}

// contents gives name and text of every diff file that s lists, and checks that
// the directory has no other diff file.
func contents(t *testing.T, fsys vfs.FS, s *Store) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, d := range s.All() {
		f, err := s.OpenFile(d)
		require.NoError(t, err)
		data := text(f)
		require.NoError(t, f.Close())
		assert.Equal(t, uint64(len(data)), d.Size, "size of %s", d)
		_, e, _ := s.find(d)
		got[e.name] = data
	}
	list, err := fsys.ReadDir(s.Dir())
	require.NoError(t, err)
	for _, e := range list {
		if meta.IsFileName(e.Name()) && e.Type().IsRegular() {
			assert.Contains(t, got, e.Name(), "a file that is not listed")
		}
	}
	return got
}

func TestAddListOpenRemove(t *testing.T) {
	for _, c := range []struct {
		fsys vfs.FS
		dir  string
	}{{vfs.OS{}, t.TempDir()}, {vfstest.NewMem(dir), dir}} {
		s := open(t, c.fsys, c.dir)
		assert.Equal(t, c.dir, s.Dir())
		mustAdd(t, s, clean(1, 2, 20), "two")
		mustAdd(t, s, clean(0, 1, 10), "one!")
		dirty := meta.Diff{B: meta.Snap{B: 2, E: 2}, E: meta.Snap{B: 4, E: 7}, Comp: true, Timestamp: 30}
		mustAdd(t, s, dirty, "")

		want := map[string]string{
			"19700101000010-M--0-1.wdiff":     "one!",
			"19700101000020-M--1-2.wdiff":     "two",
			"19700101000030--C-2-2-4-7.wdiff": "",
		}
		assert.Equal(t, want, contents(t, c.fsys, s))
		assert.Equal(t, want, contents(t, c.fsys, open(t, c.fsys, c.dir)), "after a restart")
		s.View(func(m *meta.Manager) {
			assert.Len(t, m.ApplicableList(meta.CleanSnap(0)), 3)
		})
		info, err := c.fsys.Stat(filepath.Join(c.dir, "19700101000020-M--1-2.wdiff"))
		require.NoError(t, err)
		assert.Equal(t, fs.FileMode(0o644), info.Mode().Perm())

		f, err := s.OpenFile(meta.Diff{B: dirty.B, E: dirty.E})
		require.NoError(t, err)
		assert.Equal(t, dirty, f.Diff, "as listed, not as asked")
		require.NoError(t, f.Close())

		opened, err := s.OpenFile(clean(0, 1, 0))
		require.NoError(t, err)
		require.NoError(t, s.Remove(clean(0, 1, 0), clean(7, 8, 0)))
		assert.Equal(t, "one!", text(opened), "an open file stays readable")
		require.NoError(t, opened.Close())
		_, err = s.OpenFile(clean(0, 1, 0))
		assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
		require.NoError(t, s.RemoveAll())
		assert.Empty(t, contents(t, c.fsys, s))
	}
}

func TestOpenLeavesOtherThingsAlone(t *testing.T) {
	mem := vfstest.NewMem(dir, dir+"/19700101000010-M--0-1.wdiff", dir+"/sendto")
	others := []string{"state", "base", "tmpABCDEF", ".wdiff", "5.cold", "wb_vol"}
	for _, name := range others {
		require.NoError(t, vfs.WriteFile(mem, filepath.Join(dir, name), nil))
	}
	s := open(t, mem, dir)
	assert.Empty(t, s.All())
	n, err := s.RemoveTemps()
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	list, err := mem.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, list, len(others)+1)

	_, err = Open(mem, "/nosuch")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}

func TestOpenRefuses(t *testing.T) {
	for _, names := range [][]string{
		{"x.wdiff"},
		{"20231114221320-M--1-0.wdiff"},
		{"19700101000010-M--0-1.wdiff", "19700101000020----0-1.wdiff"},
	} {
		mem := vfstest.NewMem(dir)
		for _, name := range names {
			require.NoError(t, vfs.WriteFile(mem, filepath.Join(dir, name), nil))
		}
		_, err := Open(mem, dir)
		require.Error(t, err)
		for _, name := range names {
			require.ErrorContains(t, err, name)
		}
		assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
	}
}

// TestSloppyNames: the original reads names that it would not write.
func TestSloppyNames(t *testing.T) {
	const name = "19700101000010-Mx-00-01.wdiff.bak.wdiff"
	mem := vfstest.NewMem(dir)
	d, err := meta.ParseFileName(name)
	require.NoError(t, err)
	require.NotEqual(t, name, d.FileName())
	require.NoError(t, vfs.WriteFile(mem, dir+"/"+name, []byte("x")))
	s := open(t, mem, dir)
	assert.Equal(t, "x", read(t, s, d))
	_, found, err := s.ChangeSnapshot(0, true)
	require.NoError(t, err)
	assert.True(t, found)
	assert.Equal(t, map[string]string{"19700101000010----0-1.wdiff": "x"}, contents(t, mem, open(t, mem, dir)))
	require.NoError(t, s.Remove(d))
	assert.Empty(t, contents(t, mem, open(t, mem, dir)))
}

func TestAddRefusesWhatIsThere(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := open(t, mem, dir)
	mustAdd(t, s, clean(0, 1, 10), "old life")
	for _, ts := range []uint64{10, 20} { // the same name, another name
		err := add(s, clean(0, 1, ts), "new life", false)
		var exists *ExistsError
		require.ErrorAs(t, err, &exists)
		assert.Equal(t, uint64(10), exists.Existing.Timestamp)
		assert.Equal(t, dir+"/19700101000010-M--0-1.wdiff", exists.Path)
		assert.Equal(t, "MetaDiffManager::add:already exists:|0|-->|1|", err.Error())
		assert.True(t, walberr.Is(err, walberr.Conflict))
	}
	assert.Equal(t, map[string]string{"19700101000010-M--0-1.wdiff": "old life"}, contents(t, mem, s))

	require.Error(t, add(s, clean(3, 3, 0), "", false), "a broken diff")
	elsewhere, err := vfs.CreateTemp(mem, "/")
	require.NoError(t, err)
	_, err = s.Add(elsewhere, clean(5, 6, 0))
	require.Error(t, err)
	assert.Len(t, s.All(), 1)
}

func TestReplace(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := open(t, mem, dir)
	require.NoError(t, add(s, clean(0, 1, 10), "first", true))
	require.NoError(t, add(s, clean(0, 1, 10), "again", true))
	assert.Equal(t, map[string]string{"19700101000010-M--0-1.wdiff": "again"}, contents(t, mem, s))
	require.NoError(t, add(s, clean(0, 1, 20), "new life", true))
	want := map[string]string{"19700101000020-M--0-1.wdiff": "new life"}
	assert.Equal(t, want, contents(t, mem, s))
	assert.Equal(t, want, contents(t, mem, open(t, mem, dir)))
}

// TestRemoveFilesKeepsWhatCameLater: a sender that has opened the diff of an
// old log life is told to forget it after the new life's diff of the same gids,
// even of the same name, has arrived.
func TestRemoveFilesKeepsWhatCameLater(t *testing.T) {
	for _, ts := range []uint64{10, 20} {
		mem := vfstest.NewMem(dir)
		s := open(t, mem, dir)
		mustAdd(t, s, clean(0, 1, 10), "old life")
		mustAdd(t, s, clean(1, 2, 11), "sent")
		var sent []*File
		for _, d := range s.All() {
			f, err := s.OpenFile(d)
			require.NoError(t, err)
			sent = append(sent, f)
		}
		require.NoError(t, add(s, clean(0, 1, ts), "new life", true))
		assert.Equal(t, "old life", text(sent[0]))
		require.NoError(t, s.RemoveFiles(sent...))
		for _, f := range sent {
			require.NoError(t, f.Close())
		}
		assert.Equal(t, map[string]string{clean(0, 1, ts).FileName(): "new life"}, contents(t, mem, s))
		require.NoError(t, s.RemoveFiles(sent...), "twice is no error")
		assert.Len(t, s.All(), 1)
	}
}

func TestRemoveFilesAfterAFlagChange(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := open(t, mem, dir)
	mustAdd(t, s, clean(0, 1, 10), "x")
	f, err := s.OpenFile(clean(0, 1, 10))
	require.NoError(t, err)
	_, _, err = s.ChangeSnapshot(0, true)
	require.NoError(t, err)
	require.NoError(t, s.RemoveFiles(f), "it is still the file that was read")
	assert.Empty(t, contents(t, mem, s))
}

func TestLink(t *testing.T) {
	for _, c := range []struct {
		fsys vfs.FS
		root string
	}{{vfs.OS{}, t.TempDir()}, {vfstest.NewMem("/p"), "/p"}} {
		p := func(name string) string { return filepath.Join(c.root, name) }
		for _, name := range []string{"received", "a0"} {
			require.NoError(t, vfs.MakeDir(c.fsys, p(name)))
		}
		src, dst := open(t, c.fsys, p("received")), open(t, c.fsys, p("a0"))
		d := clean(0, 1, 10)
		mustAdd(t, src, d, "data")
		require.NoError(t, src.LinkTo(dst, d))
		var exists *ExistsError
		require.ErrorAs(t, src.LinkTo(dst, d), &exists)
		assert.Equal(t, p("a0")+"/"+d.FileName(), exists.Path)
		require.NoError(t, src.LinkReplace(dst, d), "two names of one file")
		require.NoError(t, src.Remove(d))
		want := map[string]string{d.FileName(): "data"}
		assert.Equal(t, want, contents(t, c.fsys, dst))
		assert.True(t, walberr.Is(src.LinkTo(dst, d), walberr.NotFound))

		for _, ts := range []uint64{10, 20} {
			mustAdd(t, src, clean(0, 1, ts), "new life")
			require.Error(t, src.LinkTo(dst, d))
			require.NoError(t, src.LinkReplace(dst, d))
			require.NoError(t, src.Remove(d))
			want = map[string]string{clean(0, 1, ts).FileName(): "new life"}
			assert.Equal(t, want, contents(t, c.fsys, dst))
		}
		assert.Equal(t, want, contents(t, c.fsys, open(t, c.fsys, p("a0"))))
		n, err := dst.RemoveTemps()
		require.NoError(t, err)
		assert.Zero(t, n)
	}
}

func TestChangeSnapshot(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := open(t, mem, dir)
	for _, d := range []meta.Diff{clean(0, 1, 10), clean(1, 2, 20), clean(1, 3, 30)} {
		mustAdd(t, s, d, d.String())
	}
	changed, found, err := s.ChangeSnapshot(1, true)
	require.NoError(t, err)
	assert.True(t, found)
	require.Len(t, changed, 2)
	assert.False(t, changed[0].Mergeable)
	want := map[string]string{
		"19700101000010-M--0-1.wdiff": "|0|-->|1|",
		"19700101000020----1-2.wdiff": "|1|-->|2|",
		"19700101000030----1-3.wdiff": "|1|-->|3|",
	}
	assert.Equal(t, want, contents(t, mem, s))
	assert.Equal(t, want, contents(t, mem, open(t, mem, dir)))

	changed, found, err = s.ChangeSnapshot(1, true)
	require.NoError(t, err)
	assert.True(t, found)
	assert.Empty(t, changed)
	_, found, err = s.ChangeSnapshot(3, true)
	require.NoError(t, err)
	assert.False(t, found, "nothing begins at the newest snapshot")

	// The second rename fails: the first is taken back.
	failing := open(t, vfstest.Intercept(mem, vfstest.Rules(
		vfstest.Rule{Op: vfstest.OpRename, Skip: 1, Fail: 1, Err: errBoom})), dir)
	_, _, err = failing.ChangeSnapshot(1, false)
	require.ErrorIs(t, err, errBoom)
	assert.Equal(t, want, contents(t, mem, failing))
	assert.False(t, failing.All()[1].Mergeable)
}

func TestGarbageCollection(t *testing.T) {
	fill := func() (*vfstest.Mem, *Store) {
		mem := vfstest.NewMem(dir)
		s := open(t, mem, dir)
		for _, d := range []meta.Diff{clean(0, 1, 1), clean(1, 2, 2), clean(0, 2, 2), clean(2, 3, 3), clean(7, 8, 8)} {
			mustAdd(t, s, d, "x")
		}
		return mem, s
	}
	left := func(mem *vfstest.Mem, s *Store) []string {
		var list []string
		for _, d := range s.All() {
			list = append(list, d.String())
		}
		assert.Equal(t, contents(t, mem, s), contents(t, mem, open(t, mem, dir)))
		return list
	}

	mem, s := fill()
	gone, err := s.GC(meta.CleanSnap(0))
	require.NoError(t, err)
	assert.Len(t, gone, 3)
	assert.Equal(t, []string{"|0|-->|2|", "|2|-->|3|"}, left(mem, s))

	mem, s = fill()
	gone, err = s.GCRange(0, 2)
	require.NoError(t, err)
	assert.Len(t, gone, 2)
	assert.Equal(t, []string{"|0|-->|2|", "|2|-->|3|", "|7|-->|8|"}, left(mem, s))

	mem, s = fill()
	gone, err = s.EraseBefore(2)
	require.NoError(t, err)
	assert.Len(t, gone, 3)
	assert.Equal(t, []string{"|2|-->|3|", "|7|-->|8|"}, left(mem, s))
}

func TestConcurrentUse(t *testing.T) {
	const lives, gids = 4, 20
	fsys, root := vfs.FS(vfs.OS{}), t.TempDir()
	for _, name := range []string{"received", "a0"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, name), 0o755))
	}
	src, dst := open(t, fsys, filepath.Join(root, "received")), open(t, fsys, filepath.Join(root, "a0"))
	mustAdd(t, src, clean(100, 101, 1), "changes its flag")
	var group errgroup.Group
	for life := range uint64(lives) {
		group.Go(func() error {
			for g := range meta.Gid(gids) {
				d := clean(g, g+1, life)
				if err := add(src, d, d.FileName(), true); err != nil {
					return err
				}
				if err := src.LinkReplace(dst, d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range 2 {
		group.Go(func() error {
			for range gids {
				for _, d := range dst.All() {
					f, err := dst.OpenFile(d)
					if walberr.Is(err, walberr.NotFound) {
						continue
					}
					if err != nil {
						return err
					}
					assert.Equal(t, f.Diff.FileName(), text(f))
					if err := errors.Join(dst.RemoveFiles(f), f.Close()); err != nil {
						return err
					}
				}
				if _, _, err := src.ChangeSnapshot(100, i == 0); err != nil {
					return err
				}
				src.View(func(m *meta.Manager) { m.ApplicableList(meta.CleanSnap(0)) })
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	for _, s := range []*Store{src, dst} {
		assert.Equal(t, contents(t, fsys, s), contents(t, fsys, open(t, fsys, s.Dir())))
	}
	assert.Len(t, src.All(), gids+1)
}

// failing opens a store whose file system fails as the rule says.
func failing(t *testing.T, mem *vfstest.Mem, rule vfstest.Rule) *Store {
	t.Helper()
	rule.Err = errBoom
	return open(t, vfstest.Intercept(mem, vfstest.Rules(rule)), dir)
}

// TestWhatCannotBeUnlinkedIsTriedAgain: a file that is listed no more must be
// gone before another one of the same gids comes, or the next start finds two.
func TestWhatCannotBeUnlinkedIsTriedAgain(t *testing.T) {
	for _, op := range []vfstest.Op{vfstest.OpRemove, vfstest.OpSyncDir} {
		mem := vfstest.NewMem(dir)
		mustAdd(t, open(t, mem, dir), clean(0, 1, 10), "old")
		s := failing(t, mem, vfstest.Rule{Op: op, Fail: 2})
		require.ErrorIs(t, s.Remove(clean(0, 1, 10)), errBoom)
		assert.Empty(t, s.All(), "it is forgotten nevertheless")
		require.ErrorIs(t, add(s, clean(0, 1, 20), "new", false), errBoom)
		assert.Empty(t, s.All())
		mustAdd(t, s, clean(0, 1, 20), "new")
		want := map[string]string{"19700101000020-M--0-1.wdiff": "new"}
		assert.Equal(t, want, contents(t, mem, open(t, mem, dir)))
	}
}

func TestAddThatIsNotDurableIsTakenBack(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := failing(t, mem, vfstest.Rule{Op: vfstest.OpSyncDir, Fail: 1})
	require.ErrorIs(t, add(s, clean(0, 1, 10), "x", false), errBoom)
	assert.Empty(t, contents(t, mem, s))
	list, err := mem.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, list)
	mustAdd(t, s, clean(0, 1, 10), "x")
}

func TestReplaceThatIsNotDurableKeepsTheNewFile(t *testing.T) {
	mem := vfstest.NewMem(dir)
	mustAdd(t, open(t, mem, dir), clean(0, 1, 10), "old")
	s := failing(t, mem, vfstest.Rule{Op: vfstest.OpSyncDir, Fail: 1})
	require.ErrorIs(t, add(s, clean(0, 1, 10), "new", true), errBoom)
	assert.Equal(t, map[string]string{"19700101000010-M--0-1.wdiff": "new"}, contents(t, mem, s))
}
