package wdiff

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

func TestAPackBuilderClosesPacks(t *testing.T) {
	var out bytes.Buffer
	w, err := NewSortedWriter(&out, "packs", meta.UUID{}, 0)
	require.NoError(t, err)
	copyPack := func(p []byte) error { return w.CopyPack(bytes.NewReader(p), uint64(len(p))) }
	b := NewPackBuilder()
	for i := range block.LB(200) {
		o := IO{Addr: 10 * (i + 1), Blocks: 8, Kind: AllZero}
		if !b.Add(&o) {
			assert.Equal(t, MaxPackRecords, b.Len())
			assert.Equal(t, block.LB(10), b.First())
			require.NoError(t, b.Take(copyPack))
			assert.Zero(t, b.Len())
			require.True(t, b.Add(&o))
			assert.Equal(t, o.Addr, b.First())
		}
	}
	require.NoError(t, b.Take(copyPack))
	data := make([]byte, 5<<20)
	data[0] = 1
	added := 0
	for added < 20 {
		o, err := NewIO(block.LB(10000+added*10240), data, nil, compress.Opt{})
		require.NoError(t, err)
		if !b.Add(&o) {
			break
		}
		added++
	}
	assert.Equal(t, MaxPackData/len(data), added, "no more data than a pack may hold")
	require.NoError(t, b.Take(copyPack))
	require.NoError(t, w.Close())
}
