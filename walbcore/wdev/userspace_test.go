package wdev

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	lp, dp := filepath.Join(dir, "log"), filepath.Join(dir, "data")
	ctx := context.Background()
	require.NoError(t, Format(ctx, lp, dp, Spec{Name: "w0", Size: 16384, LogSize: 4 << 20}))
	d, err := Open(ctx, "w0", lp, dp, Options{})
	require.NoError(t, err)
	img := make([]byte, block.LB(16384).Bytes())
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		n := 1 + rnd.IntN(64)
		a := rnd.IntN(16384 - n)
		p := img[a*512 : (a+n)*512]
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
		require.NoError(t, d.WriteAt(ctx, p, int64(a*512)))
	}
	got := make([]byte, len(img))
	_, err = d.ReadAt(got, 0)
	require.NoError(t, err)
	assert.Equal(t, img, got)
	t.Log(d.Lsids())
	require.NoError(t, d.Close())
	d, err = Open(ctx, "w0", lp, dp, Options{})
	require.NoError(t, err)
	t.Log(d.Lsids())
	_, err = d.ReadAt(got, 0)
	require.NoError(t, err)
	assert.Equal(t, img, got)
	require.NoError(t, d.Close())
}
