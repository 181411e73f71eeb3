package wdev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestSuperOfAnOpenDevice(t *testing.T) {
	owner, err := OpenDir(t.TempDir(), Options{})
	require.NoError(t, err)
	defer owner.Close()
	_, err = owner.Create(t.Context(), Spec{Name: "d-1", Size: 2048, LogSize: 1 << 20, PBS: 4096})
	require.NoError(t, err)

	other, err := OpenDir(owner.path, Options{})
	require.NoError(t, err)
	defer other.Close()
	_, err = other.Open(t.Context(), "d-1")
	require.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
	s, err := other.Super("d-1")
	require.NoError(t, err)
	assert.Equal(t, "d-1", s.Name)
	assert.EqualValues(t, 2048, s.Size)
	assert.EqualValues(t, 4096, s.PBS)
	assert.EqualValues(t, 253, s.Ring)

	_, err = other.Super("d-2")
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	_, err = other.Super("../d-1")
	assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	require.NoError(t, os.WriteFile(filepath.Join(owner.path, "d-1", "log"), []byte("short"), 0o600))
	_, err = other.Super("d-1")
	assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
}
