package wdiff

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// dataMap is a base image of which it is known block by block where data are.
type dataMap []byte

func (m dataMap) ReadAt(p []byte, off int64) (int, error) { return copy(p, m[off:]), nil }

func (m dataMap) NextData(_ context.Context, from block.LB) (block.Range, error) {
	size := block.FromBytes(int64(len(m)))
	isZero := func(b block.LB) bool { return block.IsZero(m[b.Bytes():][:block.Size]) }
	for from < size && isZero(from) {
		from++
	}
	end := from
	for end < size && !isZero(end) {
		end++
	}
	return block.Range{Addr: from, Len: end - from}, nil
}

// TestScanSkipsOnlyZeros: what is skipped are zeros, what is read is the image,
// and wherever data lie after zeros something is skipped.
func TestScanSkipsOnlyZeros(t *testing.T) {
	const volume block.LB = 300
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 3))
		base := make(dataMap, volume.Bytes())
		for b := range volume {
			if rng.IntN(3) == 0 {
				base[b.Bytes()] = 1
			}
		}
		want := bytes.Clone(base)
		var streams []Stream
		for range rng.IntN(4) {
			var ops []op
			for range rng.IntN(8) {
				o := randomOp(rng, volume)
				o.apply(want)
				ops = append(ops, o)
			}
			streams = append(streams, indexedOf(t, rng, ops, volume).Records())
		}
		s := NewScan(base, volume, Merge(0, streams...))
		var got []byte
		for {
			skipped, err := s.SkipZeros(t.Context(), base)
			require.NoError(t, err)
			got = append(got, make([]byte, skipped.Bytes())...)
			p := make([]byte, (1 + block.LB(rng.IntN(5))).Bytes())
			n, err := s.Read(p)
			got = append(got, p[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
		require.True(t, bytes.Equal(want, got), "seed %d", seed)
	}
	s := NewScan(make(dataMap, volume.Bytes()), volume, Merge(0))
	n, err := s.SkipZeros(t.Context(), make(dataMap, volume.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, volume, n)
}

func TestScanReadsAsRecorded(t *testing.T) {
	for i, v := range loadManifest(t).Scans {
		if v.RC != 0 {
			continue
		}
		_, streams := openAll(t, v.Wdiffs)
		base := filled(v.BaseBytes, v.BaseFill)
		s := NewScan(bytes.NewReader(base), block.FromBytes(v.BaseBytes), Merge(DefaultMaxBlocks, streams...))
		var out []byte
		for p := make([]byte, 7*block.Size); ; {
			n, err := s.Read(p)
			out = append(out, p[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
		assert.Equal(t, v.OutSHA256, shaOf(out), "scan %d", i)
	}
	_, err := NewScan(nil, 8, Merge(0)).Read(make([]byte, 100))
	require.ErrorContains(t, err, "100 bytes; expected a multiple of 512")
}

func TestWriteSortedWritesAMergeAsTheOriginal(t *testing.T) {
	for _, v := range loadManifest(t).Merges {
		if len(v.Options) > 0 {
			continue
		}
		_, streams := openAll(t, v.Inputs)
		var buf bytes.Buffer
		st, err := WriteSorted(t.Context(), &buf, meta.UUID{}, Merge(0, streams...), PackOptions{Opt: compress.Opt{Type: compress.Snappy, CPUs: 2}})
		require.NoError(t, err)
		want, got := openVector(t, v.Output), openBytes(t, "merged", buf.Bytes())
		assert.Equal(t, contents(t, want.Records()), contents(t, got.Records()), v.Output)
		assert.Equal(t, packShape(t, want), packShape(t, got), v.Output)
		counted, err := got.StatsOf(got.StrictRecords())
		require.NoError(t, err)
		st.Files = 1
		assert.Equal(t, counted, st)
	}
	for room := range 3 {
		var streams []Stream
		if room > 0 {
			_, streams = openAll(t, []string{"wdiff/m-old.wdiff"})
		}
		_, err := WriteSorted(t.Context(), &fullAfter{room}, meta.UUID{}, Merge(0, streams...), PackOptions{Opt: compress.Opt{CPUs: 1}})
		require.ErrorIs(t, err, io.ErrShortWrite, "write %d fails", room)
	}
}

// fullAfter takes some writes and no more.
type fullAfter struct{ writes int }

func (f *fullAfter) Write(p []byte) (int, error) {
	if f.writes == 0 {
		return 0, io.ErrShortWrite
	}
	f.writes--
	return len(p), nil
}
