package wdiff

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// FuzzFile reads any bytes as a file of either kind: no panic, errors only of
// the declared code, and what is accepted comes out the same when it is
// written again.
func FuzzFile(f *testing.F) {
	for _, v := range loadManifest(f).Files {
		if p := loadVector(f, v.File); len(p) < 1<<14 {
			f.Add(p)
		}
	}
	for _, v := range loadManifest(f).Negative {
		f.Add(loadVector(f, v.File))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		file, err := Open("fuzz", bytes.NewReader(p), int64(len(p)))
		if err != nil {
			require.Equal(t, walberr.Checksum, walberr.CodeOf(err))
			return
		}
		recs, err := collect(file.Records())
		if err != nil {
			require.Equal(t, walberr.Checksum, walberr.CodeOf(err))
		}
		load := NewLoader(DefaultCache)
		for _, r := range recs {
			if r.Kind == Normal && r.Image.Blocks < 4096 {
				if err := load.Read(make([]byte, r.Blocks.Bytes()), r, 0); err != nil {
					require.Equal(t, walberr.Checksum, walberr.CodeOf(err))
				}
			}
		}
		if err == nil {
			merged, err := collect(Merge(0, file.Records()))
			require.NoError(t, err)
			n := 0
			for _, r := range recs {
				if r.Blocks > 0 {
					require.Equal(t, r, merged[n])
					n++
				}
			}
			require.Len(t, merged, n)
		}
		// The strict readers take no more than the others, and nothing else.
		strict, strictErr := collect(file.StrictRecords())
		if strictErr == nil {
			require.NoError(t, err)
			require.Equal(t, recs, strict)
		}
		entries := file.Entries()
		for _, r := range recs {
			got, e, err := entries.Next()
			require.NoError(t, err)
			require.Equal(t, r, got)
			require.Equal(t, r.Addr, e.Addr)
			require.Equal(t, r.Blocks, e.Blocks)
		}
		for it := file.Packs(); it != nil; {
			if _, err := it.Next(nil); err != nil {
				break
			}
		}
	})
}

// FuzzPack takes any bytes as a pack from a peer: what is accepted lies in the
// volume and can be read back.
func FuzzPack(f *testing.F) {
	for _, v := range loadManifest(f).Files {
		it := openVector(f, v.File).Packs()
		for it != nil {
			p, err := it.Next(nil)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(f, err)
			if len(p) < 1<<14 {
				f.Add(p)
			}
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		const volume block.LB = 4096
		var buf bytes.Buffer
		w, err := NewSortedWriter(&buf, "fuzz", meta.UUID{}, volume)
		require.NoError(t, err)
		if err := w.CopyPack(bytes.NewReader(p), uint64(len(p))); err != nil {
			return
		}
		require.NoError(t, w.Close())
		recs, err := everything("fuzz", buf.Bytes())
		require.NoError(t, err)
		require.NotEmpty(t, recs)
		for _, r := range recs {
			require.LessOrEqual(t, r.End(), volume)
		}
	})
}
