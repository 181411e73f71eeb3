package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

func TestOpenPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "any name")
	require.NoError(t, os.WriteFile(path, make([]byte, 4096), 0o600))

	img, err := OpenPath(path, true)
	require.NoError(t, err)
	assert.Equal(t, block.LB(8), img.Size())
	_, err = img.WriteAt([]byte("data"), 512)
	require.NoError(t, err)
	_, err = img.WriteAt([]byte("data"), 4094)
	require.True(t, walberr.Is(err, walberr.Range), "%v", err)
	require.NoError(t, img.Sync())
	require.NoError(t, img.Close())

	img, err = OpenPath(path, false)
	require.NoError(t, err)
	p := make([]byte, 4)
	_, err = img.ReadAt(p, 512)
	require.NoError(t, err)
	assert.Equal(t, "data", string(p))
	_, err = img.WriteAt(p, 0)
	require.Error(t, err, "it is open for reading")
	require.NoError(t, img.Close())

	for size, code := range map[int]walberr.Code{0: walberr.Range, 511: walberr.Range, 4097: walberr.Range} {
		require.NoError(t, os.WriteFile(path, make([]byte, size), 0o600))
		_, err := OpenPath(path, false)
		require.True(t, walberr.Is(err, code), "%d bytes: %v", size, err)
	}
	for name, code := range map[string]walberr.Code{dir: walberr.Usage, "/dev/null": walberr.Usage, path + "x": walberr.NotFound} {
		_, err := OpenPath(name, false)
		require.True(t, walberr.Is(err, code), "%s: %v", name, err)
		require.ErrorContains(t, err, name)
	}
}
