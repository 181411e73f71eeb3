package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestADeviceHasOneVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(t)
	c := r.client()
	var wg sync.WaitGroup
	var taken atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			err := c.InitVol(t.Context(), fmt.Sprintf("v%d", i), "/dev/walb/w0")
			if err == nil {
				taken.Add(1)
			} else {
				assert.ErrorContains(t, err, "wdevPath is already used")
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int32(1), taken.Load())
	vols, err := c.Volumes(t.Context())
	require.NoError(t, err)
	require.Len(t, vols, 1)
	require.NoError(t, c.ClearVol(t.Context(), vols[0]))
	require.NoError(t, c.InitVol(t.Context(), "other", "/dev/walb/w0"))

	// A copied directory is a second volume on the device.
	r.stop()
	require.NoError(t, os.CopyFS(filepath.Join(r.base, "copy"), os.DirFS(filepath.Join(r.base, "other"))))
	_, err = r.open(t)
	require.ErrorContains(t, err, "is that of volume")
	assert.True(t, walberr.Is(err, walberr.Conflict))
}

func TestForeignDirectoriesAreLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	require.NoError(t, os.MkdirAll(filepath.Join(r.base, "Documents"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(r.base, "Documents", "thesis.tex"), []byte("dear"), 0o600))
	_, err := r.open(t)
	require.ErrorContains(t, err, `no file state, but "thesis.tex"`)
	require.FileExists(t, filepath.Join(r.base, "Documents", "thesis.tex"))

	require.NoError(t, os.RemoveAll(filepath.Join(r.base, "Documents")))
	r.start(t)
	require.NoError(t, os.Mkdir(filepath.Join(r.base, "v0"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(r.base, "v0", "thesis.tex"), []byte("dear"), 0o600))
	require.Error(t, r.client().InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.FileExists(t, filepath.Join(r.base, "v0", "thesis.tex"))
}

func TestBadConfigurations(t *testing.T) {
	_, err := New(Config{NodeID: "st0"})
	require.ErrorContains(t, err, "no listener, no devices, no archive, no proxies, no log")
	assert.True(t, walberr.Is(err, walberr.Usage))
}
