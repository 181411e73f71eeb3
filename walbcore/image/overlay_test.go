package image

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// TestOverlay compares an overlay with a model, and shows that the base stays.
func TestOverlay(t *testing.T) {
	const blocks = 3*pageBlocks + 100
	s := newStore(t)
	base, err := s.Create("vol", blocks)
	require.NoError(t, err)
	defer base.Close()
	for at := block.LB(0); at < blocks; at += 1000 {
		fill(t, base, block.Range{Addr: at, Len: 100}, byte(1+at/1000))
	}
	before := content(t, base)
	dir := t.TempDir()
	o, err := NewOverlay(dir, base)
	require.NoError(t, err)
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, names)

	model, rnd := bytes.Clone(before), rand.New(rand.NewPCG(3, 4))
	for i := range 200 {
		from := block.LB(rnd.Uint64N(blocks))
		r := block.Range{Addr: from, Len: min(block.LB(rnd.Uint64N(200)), blocks-from)}
		if i%20 == 0 { // over whole pages
			r = block.Range{Addr: from / 2, Len: blocks - from}
		}
		part := model[r.Addr.Bytes():r.End().Bytes()]
		if i%3 == 0 {
			clear(part)
			require.NoError(t, o.Zero(r))
		} else {
			for j := range part {
				part[j] = byte(rnd.Uint32())
			}
			_, err := o.WriteAt(part, r.Addr.Bytes())
			require.NoError(t, err)
		}
		if i%20 == 0 {
			sameOverlay(t, o, model)
		}
	}
	sameOverlay(t, o, model)
	require.NoError(t, o.Sync())
	require.NoError(t, o.Close())
	assert.True(t, bytes.Equal(before, content(t, base)))
}

// sameOverlay demands the content of the model, and data wherever it is not zeros.
func sameOverlay(t *testing.T, o *Overlay, model []byte) {
	t.Helper()
	got := make([]byte, len(model))
	_, err := o.ReadAt(got, 0)
	require.NoError(t, err)
	require.True(t, bytes.Equal(model, got))
	for at := block.LB(0); at < o.Size(); {
		data, err := o.NextData(t.Context(), at)
		require.NoError(t, err)
		require.GreaterOrEqual(t, data.Addr, at)
		require.True(t, block.IsZero(model[at.Bytes():data.Addr.Bytes()]))
		at = max(data.End(), at+1)
	}
}

func TestOverlayKeepsInside(t *testing.T) {
	s := newStore(t)
	base := create(t, s)
	o, err := NewOverlay(t.TempDir(), base)
	require.NoError(t, err)
	defer o.Close()
	p := make([]byte, 1024)
	for _, off := range []int64{-512, 1, size.Bytes() - 512, size.Bytes() + 512} {
		_, err := o.ReadAt(p, off)
		assert.Equal(t, walberr.Range, walberr.CodeOf(err))
		_, err = o.WriteAt(p, off)
		assert.Equal(t, walberr.Range, walberr.CodeOf(err))
	}
	_, err = o.WriteAt(p[:100], 0)
	assert.Equal(t, walberr.Range, walberr.CodeOf(err))
	require.Error(t, o.Zero(block.Range{Addr: size, Len: 1}))
	_, err = NewOverlay("/nowhere", base)
	assert.Error(t, err)
}

// TestOverlayOfALargeImage: zeros over all of it cost neither memory nor time.
func TestOverlayOfALargeImage(t *testing.T) {
	const large = block.LB(1<<40) / block.Size
	s := newStore(t)
	base, err := s.Create("vol", large)
	require.NoError(t, err)
	defer base.Close()
	o, err := NewOverlay(t.TempDir(), base)
	require.NoError(t, err)
	defer o.Close()
	require.NoError(t, o.Zero(block.Range{Len: large}))
	_, err = o.WriteAt(bytes.Repeat([]byte{9}, 512), (large - 1).Bytes())
	require.NoError(t, err)
	data, err := o.NextData(t.Context(), 0)
	require.NoError(t, err)
	assert.Equal(t, large, data.End())
	assert.Less(t, data.Len, block.LB(1024))
}
