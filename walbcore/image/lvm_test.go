package image_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/image"
	"walbsh/walbcore/image/imagetest"
	"walbsh/walbcore/walberr"
)

func TestFilesAreAStore(t *testing.T) {
	imagetest.Run(t, func(t *testing.T) image.Store {
		t.Helper()
		base := t.TempDir()
		for _, vol := range []string{imagetest.Volume, "old"} {
			require.NoError(t, os.Mkdir(filepath.Join(base, vol), 0o755))
		}
		return image.NewFiles(base)
	})
}

func TestLVMIsAStore(t *testing.T) {
	for _, pool := range []string{"", "tp"} {
		t.Run("pool="+pool, func(t *testing.T) {
			imagetest.Run(t, func(t *testing.T) image.Store {
				t.Helper()
				return newFakeLVM(t).open(pool)
			})
		})
	}
}

// TestRealLVM runs where IMAGETEST_LVM names a volume group, or GROUP/POOL. All
// volumes in it but the pool are removed, again and again.
func TestRealLVM(t *testing.T) {
	group, pool, _ := strings.Cut(os.Getenv("IMAGETEST_LVM"), "/")
	if group == "" {
		t.Skip("IMAGETEST_LVM names no volume group")
	}
	imagetest.Run(t, func(t *testing.T) image.Store {
		t.Helper()
		wipe := func() {
			out, err := exec.Command("lvm", "lvs", "--reportformat", "json", "-o", "lv_name,lv_attr", group).Output()
			require.NoError(t, err)
			var doc struct {
				Report []struct {
					LV []struct {
						Name string `json:"lv_name"`
						Attr string `json:"lv_attr"`
					} `json:"lv"`
				} `json:"report"`
			}
			require.NoError(t, json.Unmarshal(out, &doc))
			words := []string{"lvremove", "--force", "--yes"}
			for _, v := range doc.Report[0].LV {
				if !strings.HasPrefix(v.Attr, "t") {
					words = append(words, group+"/"+v.Name)
				}
			}
			if len(words) > 3 {
				_ = exec.Command("lvm", words...).Run() // fails for those that went with their origin
			}
		}
		wipe()
		s, err := image.OpenLVM(group, pool)
		require.NoError(t, err)
		assert.Equal(t, group, s.Group())
		assert.Equal(t, pool, s.Pool())
		return s
	})
}

func TestOpenLVM(t *testing.T) {
	f := newFakeLVM(t)
	_, err := image.OpenLVMWith("vg1", "", f.dir, f.run)
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	require.ErrorContains(t, err, `no volume group "vg1"`)
	for _, pool := range []string{"nosuch", "wb_x"} {
		f.add("wb_x", fakeExtent, nil)
		_, err = image.OpenLVMWith("vg0", pool, f.dir, f.run)
		assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
		require.ErrorContains(t, err, "no thin pool")
	}
	for _, name := range []string{"-vg", ".", "..", "a/b", "a b", "--all", "vg\x00"} {
		_, err = image.OpenLVMWith(name, "", f.dir, f.run)
		assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
		_, err = image.OpenLVMWith("vg0", name, f.dir, f.run)
		assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	}
	f.volumes["tp"]["zero"] = ""
	_, err = image.OpenLVMWith("vg0", "tp", f.dir, f.run)
	assert.True(t, walberr.Is(err, walberr.BadState), "%v", err)
	require.ErrorContains(t, err, "lvchange --zero y vg0/tp")
	assert.Empty(t, f.commands, "nothing was changed")
}

func TestReportsThatAreNone(t *testing.T) {
	for _, out := range []string{"", "vg0", "[]", `{"report":[{"vg":[{"vg_name":"vg0","vg_extent_size":"4m"}]}]}`, `{"report":[{"vg":3}]}`} {
		_, err := image.OpenLVMWith("vg0", "", "", func(...string) ([]byte, error) { return []byte(out), nil })
		assert.True(t, walberr.Is(err, walberr.Unavailable), "%q: %v", out, err)
	}
	for _, out := range []string{"{}", `{"report":[]}`, `{"report":[{"log":[]}]}`, `{"report":[{"vg":[{"vg_name":"vg0","vg_extent_size":"0"}]}]}`} {
		_, err := image.OpenLVMWith("vg0", "", "", func(...string) ([]byte, error) { return []byte(out), nil })
		assert.True(t, walberr.Is(err, walberr.NotFound), "%q: %v", out, err)
	}
}

func TestSizesAreWholeExtents(t *testing.T) {
	const odd = imagetest.Size - 1
	f := newFakeLVM(t)
	_, err := f.open("").Create("vol", odd)
	assert.True(t, walberr.Is(err, walberr.Range), "%v", err)
	require.ErrorContains(t, err, "1048576 bytes of an extent")
	assert.Empty(t, f.commands, "it is refused before anything is made")

	s := f.open("tp")
	img, err := s.Create("vol", odd)
	require.NoError(t, err)
	assert.Equal(t, imagetest.Size, img.Size(), "rounded up")
	require.NoError(t, img.Close())
	require.NoError(t, s.Grow("vol", imagetest.Size+1))
	size, err := s.Size("vol")
	require.NoError(t, err)
	assert.Equal(t, imagetest.Size+2048, size)
}

func TestOrdinarySnapshotsHaveRoomForEverything(t *testing.T) {
	f := newFakeLVM(t)
	s := f.open("")
	img, err := s.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	tmp, err := s.BeginRestore(t.Context(), "vol", 1)
	require.NoError(t, err)
	require.NoError(t, tmp.Close())
	assert.Equal(t, "lvcreate --yes --snapshot --name wr_vol_1_tmp --size 3145728b vg0/wb_vol", f.commands[len(f.commands)-1])
}

func TestVolumesOfAnotherKindAreLeftAlone(t *testing.T) {
	f := newFakeLVM(t)
	thin, thick := f.open("tp"), f.open("")
	img, err := thick.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	tmp, err := thick.BeginRestore(t.Context(), "vol", 1)
	require.NoError(t, err)
	require.NoError(t, tmp.Close())
	require.NoError(t, thick.CommitRestore("vol", 1))

	list, err := thin.Restored("vol")
	require.NoError(t, err)
	assert.Empty(t, list)
	_, err = thin.Open("vol")
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	require.ErrorContains(t, err, "of another kind")
	require.NoError(t, thin.Delete("vol"))
	_, err = thin.Create("vol", imagetest.Size)
	assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
	assert.Equal(t, []string{"wb_vol", "wr_vol_1"}, f.names())
}

func TestColdSnapshotsGoWithTheBase(t *testing.T) {
	f := newFakeLVM(t)
	s := f.open("tp")
	img, err := s.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	for _, name := range []string{"wc_vol_5", "wc_vol_7", "wc_vol-2_5"} {
		f.add(name, fakeExtent, map[string]string{"pool_lv": "tp", "origin": "wb_vol"})
		require.NoError(t, os.WriteFile(f.node(name), nil, 0o600))
	}
	require.NoError(t, s.Delete("vol"))
	assert.Equal(t, []string{"wc_vol-2_5"}, f.names())
}

// TestSnapshotsDoNotVanish: an ordinary volume takes its snapshots with it.
func TestSnapshotsDoNotVanish(t *testing.T) {
	f := newFakeLVM(t)
	s := f.open("")
	img, err := s.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	f.add("mine", fakeExtent, map[string]string{"origin": "wb_vol"})
	for _, err := range []error{s.Delete("vol"), s.Grow("vol", 2*imagetest.Size)} {
		require.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
		require.ErrorContains(t, err, "snapshots mine")
	}
	assert.Equal(t, []string{"mine", "wb_vol"}, f.names())
}

func TestInactiveVolumesBecomeActive(t *testing.T) {
	f := newFakeLVM(t)
	s := f.open("tp")
	img, err := s.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	for range 2 {
		require.NoError(t, os.Rename(f.node("wb_vol"), f.node("wb_vol.inactive")))
		size, err := s.Size("vol")
		require.NoError(t, err)
		assert.Equal(t, imagetest.Size, size)
		img, err = s.Open("vol")
		require.NoError(t, err)
		require.NoError(t, img.Close())
	}
}

var errInjected = errors.New("injected")

// failNth makes the n-th change fail, before or after it is made. The last
// result tells whether it came to that.
func (f *fakeLVM) failNth(n int, after bool) (failed *bool) {
	failed = new(bool)
	hook := func([]string) error {
		if n--; n == 0 {
			*failed = true
			return errInjected
		}
		return nil
	}
	f.before, f.after = hook, nil
	if after {
		f.before, f.after = nil, hook
	}
	return failed
}

func (f *fakeLVM) heal() { f.before, f.after = nil, nil }

// TestAFailedCommandLeavesNothing lets each command fail, also one that did its
// work and failed then, as lvcreate does when a device node is late.
func TestAFailedCommandLeavesNothing(t *testing.T) {
	for _, pool := range []string{"", "tp"} {
		for _, after := range []bool{false, true} {
			f := newFakeLVM(t)
			s := f.open(pool)
			failed := f.failNth(1, after)
			_, err := s.Create("vol", imagetest.Size)
			require.ErrorIs(t, err, errInjected)
			assert.True(t, walberr.Is(err, walberr.Unavailable), "%v", err)
			require.ErrorContains(t, err, "lvm lvcreate --yes --name wb_vol")
			assert.True(t, *failed)
			assert.Empty(t, f.names())
			f.heal()
			img, err := s.Create("vol", imagetest.Size)
			require.NoError(t, err, "it can be made now")
			require.NoError(t, img.Close())

			f.failNth(1, after)
			_, err = s.BeginRestore(t.Context(), "vol", 1)
			require.ErrorIs(t, err, errInjected)
			assert.Equal(t, []string{"wb_vol"}, f.names())
			f.heal()
			tmp, err := s.BeginRestore(t.Context(), "vol", 1)
			require.NoError(t, err)
			require.NoError(t, tmp.Close())
			f.failNth(1, after)
			require.ErrorIs(t, s.CommitRestore("vol", 1), errInjected)
			f.heal()
			require.NoError(t, s.AbortRestore("vol", 1))
			if !after {
				assert.Equal(t, []string{"wb_vol"}, f.names())
			}
		}
	}
}

// TestAnInterruptedGrowIsCompleted ends a Grow at each command, as a crash
// would, and starts again.
func TestAnInterruptedGrowIsCompleted(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			f := newFakeLVM(t)
			s := f.open("")
			img, err := s.Create("vol", imagetest.Size)
			require.NoError(t, err)
			_, err = img.WriteAt([]byte("kept"), imagetest.Size.Bytes()-4)
			require.NoError(t, err)
			require.NoError(t, img.Close())
			failed := f.failNth(n, after)
			err = s.Grow("vol", 2*imagetest.Size)
			if !*failed {
				require.NoError(t, err)
				assert.Equal(t, 4, n, "a grow is three commands")
				break
			}
			require.ErrorIs(t, err, errInjected)
			f.heal()
			_, err = s.RemoveLeftovers("vol")
			require.NoError(t, err)
			assert.Empty(t, f.volumes["wb_vol"]["lv_tags"])
			checkTail(t, s)
			require.NoError(t, s.Grow("vol", 2*imagetest.Size))
			checkTail(t, s)
		}
	}
}

// checkTail checks that whatever lies behind the old end is zeros.
func checkTail(t *testing.T, s image.Store) {
	t.Helper()
	img, err := s.Open("vol")
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, img.Size().Bytes())
	_, err = img.ReadAt(p, 0)
	require.NoError(t, err)
	old := imagetest.Size.Bytes()
	assert.Equal(t, "kept", string(p[old-4:old]))
	assert.True(t, block.IsZero(p[old:]))
}

func TestATagThatIsNotOurs(t *testing.T) {
	f := newFakeLVM(t)
	s := f.open("")
	img, err := s.Create("vol", imagetest.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	f.volumes["wb_vol"]["lv_tags"] = "blue"
	_, err = s.RemoveLeftovers("vol")
	require.NoError(t, err)
	f.volumes["wb_vol"]["lv_tags"] = "blue,walbsh-zero-from-x"
	_, err = s.RemoveLeftovers("vol")
	assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
}

func TestACommandThatCannotBeRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := os.Stat("/usr/sbin/lvm"); err == nil {
		_, err := image.OpenLVM("no-such-group-at-all", "")
		require.Error(t, err)
		return
	}
	_, err := image.OpenLVM("vg0", "")
	assert.True(t, walberr.Is(err, walberr.Unavailable), "%v", err)
	require.ErrorIs(t, err, exec.ErrNotFound)
}
