package image

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
)

func TestClaim(t *testing.T) {
	for _, kind := range []Kind{KindFiles, KindLVM} {
		other := KindFiles
		if kind == KindFiles {
			other = KindLVM
		}
		mem := vfstest.NewMem("/base/lost+found")
		require.NoError(t, Claim(mem, "/base", kind))
		require.NoError(t, vfs.MakeDir(mem, "/base/vol"))
		require.NoError(t, Claim(mem, "/base", kind))
		err := Claim(mem, "/base", other)
		assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
		require.ErrorContains(t, err, "-store "+string(kind))
		for i := range 20 {
			crashed := mem.Crash(rand.New(rand.NewPCG(uint64(i), 1)))
			require.Error(t, Claim(crashed, "/base", other), "it is remembered for good")
		}
	}
	assert.Error(t, Claim(vfstest.NewMem(), "/nosuch", KindFiles))
}

func TestClaimOfABaseOfTheOriginal(t *testing.T) {
	mem := vfstest.NewMem("/base/vol")
	assert.True(t, walberr.Is(Claim(mem, "/base", KindFiles), walberr.Conflict))
	require.NoError(t, Claim(mem, "/base", KindLVM))
	assert.True(t, walberr.Is(Claim(mem, "/base", KindFiles), walberr.Conflict))
}

func TestClaimOfABaseWithAnUnknownKind(t *testing.T) {
	mem := vfstest.NewMem("/base")
	require.NoError(t, vfs.WriteFile(mem, "/base/walbsh-store", []byte("tape\n")))
	err := Claim(mem, "/base", KindFiles)
	assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
	assert.ErrorContains(t, err, "tape")
}
