package wdiff

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// mixedRecords makes a diff of small records with large ones between them, at
// every distance up to 31. The data shrink well, so the file is small.
func mixedRecords(tb testing.TB, rounds int) *File {
	tb.Helper()
	var buf bytes.Buffer
	w, err := NewSortedWriter(&buf, "mixed", meta.UUID{}, 0)
	require.NoError(tb, err)
	small, err := NewIO(0, filled(block.Size, 1), nil, compress.Opt{})
	require.NoError(tb, err)
	large, err := NewIO(0, filled(DefaultMaxBlocks.Bytes(), 2), nil, compress.Opt{Type: compress.Gzip})
	require.NoError(tb, err)
	at := block.LB(0)
	add := func(o IO) {
		o.Addr = at
		require.NoError(tb, w.Add(&o))
		at += o.Blocks
	}
	for range rounds {
		for n := range batchRecords {
			for range n {
				add(small)
			}
			add(large)
		}
	}
	require.NoError(tb, w.Close())
	return openBytes(tb, "mixed", buf.Bytes())
}

func heapInUse() uint64 {
	runtime.GC()
	var st runtime.MemStats
	runtime.ReadMemStats(&st)
	return st.HeapAlloc
}

// TestMemoryOfEachPack: buffers do not grow with the mixture of sizes that has
// passed, nor with the number of processors that an option dreams of.
func TestMemoryOfEachPack(t *testing.T) {
	f := mixedRecords(t, 10)
	before, most := heapInUse(), uint64(0)
	emitted, goroutines := 0, 0
	opt := PackOptions{Opt: compress.Opt{Type: compress.LZ4, CPUs: 1}, MaxBytes: 1 << 20}
	_, err := EachPack(t.Context(), f.Records(), opt, func([]byte) error {
		if emitted++; emitted%100 == 0 {
			most = max(most, heapInUse())
		}
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, emitted, 300)
	assert.Less(t, most-min(most, before), uint64(32<<20))

	// Pieces of one large image.
	var buf bytes.Buffer
	w, err := NewIndexedWriter(&buf, "pieces", meta.UUID{}, 0, 64)
	require.NoError(t, err)
	data := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	large, err := NewIO(0, data, nil, compress.Opt{})
	require.NoError(t, err)
	require.NoError(t, w.Add(&large))
	require.NoError(t, w.Close())
	pieces := openBytes(t, "pieces", buf.Bytes())
	before, most = heapInUse(), 0
	_, err = EachPack(t.Context(), pieces.Records(), opt, func([]byte) error {
		most = max(most, heapInUse())
		return nil
	})
	require.NoError(t, err)
	assert.Less(t, most-min(most, before), uint64(32<<20), "20 of it are the image")

	own := runtime.NumGoroutine()
	opt.Opt.CPUs = 255
	_, err = EachPack(t.Context(), mixedRecords(t, 1).Records(), opt, func([]byte) error {
		goroutines = max(goroutines, runtime.NumGoroutine()-own)
		return nil
	})
	require.NoError(t, err)
	assert.LessOrEqual(t, goroutines, runtime.GOMAXPROCS(0)+1)
}
