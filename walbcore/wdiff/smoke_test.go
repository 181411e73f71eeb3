package wdiff

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

func TestIndexedToPacksToSorted(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewIndexedWriter(&buf, "mem", meta.UUID{1}, 100, DefaultMaxBlocks)
	require.NoError(t, err)
	data := make([]byte, 20*block.Size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rng.IntN(4))
	}
	o, err := NewIO(3, data, nil, compress.Opt{Type: compress.Snappy, CPUs: 1})
	require.NoError(t, err)
	require.NoError(t, w.Add(&o))
	require.NoError(t, w.Add(&IO{Addr: 5, Blocks: 2, Kind: Discard}))
	require.NoError(t, w.Close())

	f, err := Open("mem", bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	require.NoError(t, err)
	var out bytes.Buffer
	sw, err := NewSortedWriter(&out, "out", meta.UUID{1}, 100)
	require.NoError(t, err)
	_, err = EachPack(context.Background(), Merge(DefaultMaxBlocks, f.Records()), PackOptions{Opt: compress.Opt{Type: compress.LZ4, CPUs: 2}},
		func(p []byte) error { return sw.CopyPack(bytes.NewReader(p), uint64(len(p))) })
	require.NoError(t, err)
	require.NoError(t, sw.Close())

	g, err := Open("out", bytes.NewReader(out.Bytes()), int64(out.Len()))
	require.NoError(t, err)
	v, err := NewVirtualImage(bytes.NewReader(make([]byte, 100*block.Size)), 100, g)
	require.NoError(t, err)
	got := make([]byte, 100*block.Size)
	_, err = v.ReadAt(got, 0)
	require.NoError(t, err)
	want := make([]byte, 100*block.Size)
	copy(want[3*block.Size:], data)
	clear(want[5*block.Size : 7*block.Size])
	require.Equal(t, want, got)
	_, err = v.ReadAt(got, block.Size)
	require.True(t, errors.Is(err, io.EOF))
}
