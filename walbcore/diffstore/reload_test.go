package diffstore

import (
	"os"
	"path"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
)

// TestReload: what was changed by hand is seen, what is open stays readable and
// is not removed by who opened it before.
func TestReload(t *testing.T) {
	mem := vfstest.NewMem(dir)
	s := open(t, mem, dir)
	mustAdd(t, s, clean(0, 1, 1), "a")
	mustAdd(t, s, clean(1, 2, 1), "b")
	f, err := s.OpenFile(clean(0, 1, 1))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, mem.Remove(path.Join(dir, clean(1, 2, 1).FileName())))
	require.NoError(t, vfs.WriteFile(mem, path.Join(dir, clean(2, 3, 9).FileName()), []byte("c")))

	require.NoError(t, s.Reload())
	assert.Equal(t, contents(t, mem, open(t, mem, dir)), contents(t, mem, s))
	require.NoError(t, s.RemoveFiles(f))
	assert.Len(t, s.All(), 2, "it counts as replaced")
	assert.Equal(t, "a", text(f))
	mustAdd(t, s, clean(3, 4, 1), "d")
	assert.Len(t, s.All(), 3)

	bad := path.Join(dir, "20231114221320-M--9.wdiff")
	require.NoError(t, vfs.WriteFile(mem, bad, nil))
	err = s.Reload()
	assert.True(t, walberr.Is(err, walberr.Checksum), err)
	assert.Len(t, s.All(), 3, "the list stays")
	require.NoError(t, mem.Remove(bad))
	_, err = mem.Stat(bad)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, s.Reload())
}
