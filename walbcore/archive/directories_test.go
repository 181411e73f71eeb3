package archive

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wdiff"
)

// directory is what the original's server did with a volume's directory.
type directory struct {
	Name, Base, State string
	Wdiffs            []string // file names, each with the sample that it is in brackets
	OtherFiles        []string `json:"other_files"`
	Volumes           []string // images
	After             struct {
		Wdiffs        []string
		OtherFiles    []string `json:"other_files"`
		Volumes       []string
		Restorable    []string
		RestorableAll []string `json:"restorable_all"`
		DiffList      []string `json:"diff_list"`
		ExitCode      int      `json:"exit_code"`
	}
	Then []struct {
		Do         string
		Renames    []string
		Error      string
		Steps      []string
		Base       string
		Wdiffs     []string
		BaseSHA256 string `json:"base_volume_sha256"`
		BlockHash  string `json:"block_hash_bulk_262144"`
	}
}

func directories(t *testing.T) []directory {
	t.Helper()
	data, err := os.ReadFile("testdata/directories.json")
	require.NoError(t, err)
	var all []directory
	require.NoError(t, json.Unmarshal(data, &all))
	return all
}

// sample reads a sample of a diff.
func sample(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open("../wdiff/testdata/wdiff/" + name + ".wdiff.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	data, err := io.ReadAll(z)
	require.NoError(t, err)
	return data
}

// put makes the directory on a disk, with an image of 4 MiB of 0x5a.
func (d directory) put(t *testing.T, disk *vfstest.Mem) {
	t.Helper()
	base, err := meta.ParseState(d.Base, 1700000000)
	require.NoError(t, err)
	state, err := fsm.ParseArchiveState(d.State)
	require.NoError(t, err)
	v := recordedVolume{state: state, base: base, size: 4 << 20 / 512}
	if len(d.Volumes) == 0 {
		v.state = fsm.ArchiveSyncReady // without an image
	}
	v.put(t, disk, "vol0")
	if v.state != state {
		require.NoError(t, vfs.WriteFile(disk, path.Join(memBase, "vol0", fileState), []byte{byte(len(d.State))}))
		require.NoError(t, vfs.WriteFile(disk, path.Join(memBase, "vol0", fileState), append([]byte{byte(len(d.State))}, d.State...)))
	}
	pair := regexp.MustCompile(`^(\S+) \((\S+)\)$`)
	for _, w := range d.Wdiffs {
		m := pair.FindStringSubmatch(w)
		require.NotNil(t, m, w)
		require.NoError(t, vfs.WriteFile(disk, path.Join(memBase, "vol0", m[1]), sample(t, m[2])))
	}
	for _, f := range d.OtherFiles {
		require.NoError(t, vfs.WriteFile(disk, path.Join(memBase, "vol0", f), nil))
	}
	for _, name := range d.Volumes {
		if strings.HasSuffix(name, "_tmp") {
			require.NoError(t, vfs.WriteFile(disk, path.Join(memBase, "vol0", name), []byte("half")))
		}
	}
	if v.state != fsm.ArchiveSyncReady {
		img, err := (&memStore{disk}).Open("vol0")
		require.NoError(t, err)
		_, err = img.WriteAt(bytes.Repeat([]byte{0x5a}, 4<<20), 0)
		require.NoError(t, err)
		require.NoError(t, img.Close())
	}
}

func wdiffNames(t *testing.T, fs vfs.FS) (names []string) {
	t.Helper()
	entries, err := fs.ReadDir(path.Join(memBase, "vol0"))
	require.NoError(t, err)
	for _, e := range entries {
		if meta.IsFileName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// recorder writes down the changes of the disk in the words of the recordings.
type recorder struct {
	mu    sync.Mutex
	steps []string
}

func (r *recorder) hook(op vfstest.Op, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	name = path.Base(name)
	step := ""
	switch {
	case op == vfstest.OpRename && meta.IsFileName(name):
		step = "rename to " + name
	case op == vfstest.OpRename && name == fileBase:
		step = "save base"
	case op == vfstest.OpRemove && meta.IsFileName(name):
		step = "unlink " + name
	case op == vfstest.OpSync && vfs.IsTempName(name):
		step = "fsync temporary file"
	case op == vfstest.OpSync && strings.HasPrefix(name, "wb_"):
		step = "fdatasync volume"
	case op == vfstest.OpWrite && strings.HasPrefix(name, "wb_"):
		step = "write volume"
	case op == vfstest.OpSyncDir:
		step = "fdatasync directory"
	}
	if step != "" && (len(r.steps) == 0 || r.steps[len(r.steps)-1] != step) {
		r.steps = append(r.steps, step)
	}
	return nil
}

// only gives the steps that begin so, and forgets all.
func (r *recorder) only(prefixes ...string) (steps []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.steps {
		for _, p := range prefixes {
			if strings.HasPrefix(s, p) {
				steps = append(steps, s)
			}
		}
	}
	r.steps = nil
	return steps
}

// TestRecordedDirectories starts on directories of the original, does what was
// done there, and ends with what the original ended with. Cold images, which
// there are none of here, are left out.
func TestRecordedDirectories(t *testing.T) {
	for _, d := range directories(t) {
		t.Run(d.Name, func(t *testing.T) {
			disk := newDisk()
			d.put(t, disk)
			rec := &recorder{}
			cfg := memConfig(disk)
			fs := vfstest.Intercept(disk, rec.hook)
			cfg.FS, cfg.Store, cfg.Discard = fs, &memStore{fs}, wdiff.DiscardIgnore
			if d.After.ExitCode != 0 {
				_, err := New(withListener(t, cfg))
				require.Error(t, err)
				return
			}
			s, err := New(withListener(t, cfg))
			require.NoError(t, err)
			if d.After.Wdiffs != nil {
				assert.Equal(t, d.After.Wdiffs, wdiffNames(t, disk))
			}
			entries, err := disk.ReadDir(path.Join(memBase, "vol0"))
			require.NoError(t, err)
			for _, e := range entries {
				assert.NotEqual(t, "tmpABCDEF", e.Name())
				assert.False(t, strings.HasSuffix(e.Name(), "_tmp"), e.Name())
			}
			v, err := s.volume("vol0", false)
			require.NoError(t, err)
			f := v.facts()
			if d.After.RestorableAll != nil {
				assert.Equal(t, d.After.RestorableAll, restorables(f, true))
			}
			if d.After.Restorable != nil {
				assert.Equal(t, d.After.Restorable, restorables(f, false))
			}
			var lines []string
			for _, x := range f.diffs.All() {
				lines = append(lines, x.Line())
			}
			if d.After.DiffList != nil {
				assert.Equal(t, d.After.DiffList, lines)
			}
			if d.Then == nil {
				require.NoError(t, s.lock.Close())
				return
			}
			rec.only()
			d.then(t, serve(t, s), rec)
		})
	}
}

func restorables(f facts, all bool) (lines []string) {
	f.view(func(m *meta.Manager) {
		for _, r := range m.Restorable(f.base, all) {
			lines = append(lines, r.String())
		}
	})
	return lines
}

// then does what was done and compares.
func (d directory) then(t *testing.T, r *rig, rec *recorder) {
	t.Helper()
	c, ctx, fs := r.client(), t.Context(), r.s.cfg.FS
	for _, step := range d.Then {
		var words [2]string
		n, _ := fmt.Sscan(step.Do, &words[0], &words[1])
		require.Equal(t, 2, n, step.Do)
		gid, _ := meta.ParseGid(words[1])
		before := wdiffNames(t, fs)
		rec.only()
		var err error
		switch {
		case d.Name == "applying" && words[0] == "merge":
			continue // our server completes the application at its start: there is nothing to refuse
		case d.Name == "applying":
			require.Eventually(t, func() bool { return !r.known(t, "vol0").facts().base.Applying }, patience, 1e6)
			r.awaitIdle(t, "vol0")
		case words[0] == "enable-snapshot":
			err = c.EnableSnapshot(ctx, "vol0", gid)
		case words[0] == "disable-snapshot":
			err = c.DisableSnapshot(ctx, "vol0", gid)
		case words[0] == "merge":
			err = c.MergeGid(ctx, "vol0", 0, 4)
			r.awaitIdle(t, "vol0")
			steps := rec.only("fsync temporary", "rename", "fdatasync directory", "unlink")
			assert.Equal(t, []string{
				"fsync temporary file", "rename to 20231114221321-M--0-2.wdiff", "fdatasync directory",
				"unlink 20231114221321-M--0-1.wdiff", "unlink 20231114221322-M--1-2.wdiff", "fdatasync directory",
			}, sortUnlinks(renamed(steps, "20231114221321", "20231114221322")))
		case words[0] == "restore":
			continue // with a cold image
		case words[0] == "apply":
			// The original's cold image of 2 became its base image first.
			require.NoError(t, c.Apply(ctx, "vol0", 2))
			r.awaitIdle(t, "vol0")
			rec.only()
			err = c.Apply(ctx, "vol0", gid)
			r.awaitIdle(t, "vol0")
			assert.Equal(t, []string{
				"save base", "write volume", "fdatasync volume", "save base",
				"unlink 20231114221323----2-3.wdiff", "unlink 20231114221324-M--3-4.wdiff",
			}, sortUnlinks(rec.only("save", "write", "fdatasync volume", "unlink")))
		}
		if step.Error != "" {
			require.ErrorContains(t, err, step.Error, step.Do)
		} else {
			require.NoError(t, err, step.Do)
		}
		for _, rename := range step.Renames {
			from, to, _ := strings.Cut(rename, " -> ")
			assert.Contains(t, before, from, step.Do)
			assert.Contains(t, wdiffNames(t, fs), to, step.Do)
		}
		if step.Base != "" {
			assert.Equal(t, step.Base, r.known(t, "vol0").facts().base.Text())
		}
		if step.Wdiffs != nil {
			assert.Equal(t, step.Wdiffs, wdiffNames(t, fs))
		}
		if step.BaseSHA256 != "" {
			sum := sha256.Sum256(baseImage(t, r.s, "vol0"))
			assert.Equal(t, step.BaseSHA256, hex.EncodeToString(sum[:]))
			h, err := c.BlockHash(ctx, "vol0", gid, client.ScanOptions{Bulk: block.LB(262144 / 512)})
			require.NoError(t, err)
			assert.Equal(t, step.BlockHash, h.String())
		}
	}
}

// renamed gives the name of a merged file the time that the recording has at
// this place. It is not that of its newest part, with which the same recording
// later removes the file.
func renamed(steps []string, was, is string) []string {
	out := make([]string, len(steps))
	for i, s := range steps {
		out[i] = s
		if strings.HasPrefix(s, "rename to "+is) {
			out[i] = strings.Replace(s, is, was, 1)
		}
	}
	return out
}

// sortUnlinks brings neighbouring unlinks into order: they have none.
func sortUnlinks(steps []string) []string {
	for i := 1; i < len(steps); i++ {
		for j := i; j > 0 && strings.HasPrefix(steps[j], "unlink") && strings.HasPrefix(steps[j-1], "unlink") && steps[j] < steps[j-1]; j-- {
			steps[j], steps[j-1] = steps[j-1], steps[j]
		}
	}
	return steps
}
