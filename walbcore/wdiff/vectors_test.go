package wdiff

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manifest describes the recorded vectors in testdata.
type manifest struct {
	Files []struct {
		File       string
		Records    []vectorRecord
		ImageBytes int64 `json:"image_bytes"`
		Ignored    string
		Zeroed     string
		Stat       []string
	}
	Merges []struct {
		Inputs  []string
		Options []string
		Output  string
	}
	Scans []struct {
		BaseBytes int64 `json:"base_bytes"`
		BaseFill  byte  `json:"base_fill"`
		Wdiffs    []string
		RC        int
		Stderr    []string
		OutSHA256 string `json:"out_sha256"`
	}
	Negative []struct {
		File    string
		Change  string
		Results map[string]struct {
			RC          int
			ImageBytes  int64  `json:"image_bytes"`
			ImageSHA256 string `json:"image_sha256"`
		}
	}
}

type vectorRecord struct {
	Addr        uint64
	Blocks      uint64
	Cmpr        string
	DataOffset  int64  `json:"data_offset"`
	DataSize    uint32 `json:"data_size"`
	OrigBlocks  uint64 `json:"orig_blocks"`
	IOOffset    uint64 `json:"io_offset"`
	Checksum    string
	IOChecksum  string `json:"io_checksum"`
	RecChecksum string `json:"rec_checksum"`
	Flags       string
}

func loadManifest(tb testing.TB) *manifest {
	tb.Helper()
	p, err := os.ReadFile("testdata/manifest.json")
	require.NoError(tb, err)
	m := new(manifest)
	require.NoError(tb, json.Unmarshal(p, m))
	return m
}

func loadVector(tb testing.TB, name string) []byte {
	tb.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	p, err := io.ReadAll(z)
	require.NoError(tb, err)
	return p
}

func openBytes(tb testing.TB, name string, p []byte) *File {
	tb.Helper()
	f, err := Open(name, bytes.NewReader(p), int64(len(p)))
	require.NoError(tb, err, name)
	return f
}

func openVector(tb testing.TB, name string) *File {
	tb.Helper()
	return openBytes(tb, name, loadVector(tb, name))
}

// collect reads a stream to its end.
func collect(s Stream) ([]Record, error) {
	var recs []Record
	for {
		r, err := s.Next()
		if errors.Is(err, io.EOF) {
			return recs, nil
		}
		if err != nil {
			return recs, err
		}
		recs = append(recs, r)
	}
}

// slice is a stream of given records.
type slice []Record

func (s *slice) Next() (Record, error) {
	if len(*s) == 0 {
		return Record{}, io.EOF
	}
	r := (*s)[0]
	*s = (*s)[1:]
	return r, nil
}

// memory is an image in memory.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (m memory) Zero(r block.Range) error {
	clear(m[r.Addr.Bytes():r.End().Bytes()])
	return nil
}

func filled(n int64, fill byte) memory { return bytes.Repeat([]byte{fill}, int(n)) }

func shaOf(p []byte) string {
	s := sha256.Sum256(p)
	return hex.EncodeToString(s[:])
}

// inside drops the records that reach beyond the image, as the redo tool does.
func inside(recs []Record, size int64) *slice {
	var in slice
	for _, r := range recs {
		if r.End().Bytes() <= size {
			in = append(in, r)
		}
	}
	return &in
}

func TestVectorsDecodeToTheirRecords(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		f := openVector(t, v.File)
		recs, err := collect(f.Records())
		require.NoError(t, err, v.File)
		require.Len(t, recs, len(v.Records), v.File)
		for i, want := range v.Records {
			at := fmt.Sprintf("%s record %d", v.File, i)
			r := recs[i]
			assert.Equal(t, want.Addr, uint64(r.Addr), at)
			assert.Equal(t, want.Blocks, uint64(r.Blocks), at)
			assert.Equal(t, map[string]Kind{"--": Normal, "Z-": AllZero, "-D": Discard}[want.Flags], r.Kind, at)
			if r.Kind != Normal {
				assert.Zero(t, r.Image, at)
				continue
			}
			assert.Equal(t, want.Cmpr, r.Image.Codec.String(), at)
			assert.Equal(t, want.DataSize, r.Image.Size, at)
			if f.Header().Indexed {
				assert.Equal(t, want.DataOffset, r.Image.Offset, at)
				assert.Equal(t, want.OrigBlocks, uint64(r.Image.Blocks), at)
				assert.Equal(t, want.IOOffset, uint64(r.Image.Skip), at)
				assert.Equal(t, want.IOChecksum, fmt.Sprintf("%08x", r.Image.Sum), at)
			} else {
				assert.Equal(t, want.Checksum, fmt.Sprintf("%08x", r.Image.Sum), at)
			}
		}
	}
}

func TestVectorsApplyToTheirImages(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		recs, err := collect(openVector(t, v.File).Records())
		require.NoError(t, err)
		for mode, want := range map[DiscardMode]string{DiscardIgnore: v.Ignored, DiscardZero: v.Zeroed} {
			if v.ImageBytes > 4<<20 && mode == DiscardIgnore {
				continue // once is enough for the large ones
			}
			img := filled(v.ImageBytes, 0x5a)
			_, err := Apply(t.Context(), inside(recs, v.ImageBytes), img, ApplyOptions{Size: block.FromBytes(v.ImageBytes), Discard: mode})
			require.NoError(t, err, v.File)
			assert.Equal(t, want, shaOf(img), "%s %s", v.File, mode)
		}
	}
}

// stored reads the records of a file with their data, as writers take them.
func stored(tb testing.TB, f *File) []IO {
	tb.Helper()
	recs, err := collect(f.Records())
	require.NoError(tb, err)
	var ios []IO
	for _, r := range recs {
		o := IO{Addr: r.Addr, Blocks: r.Blocks, Kind: r.Kind}
		if r.Kind == Normal {
			require.True(tb, r.Whole())
			o.Codec, o.Sum = r.Image.Codec, r.Image.Sum
			o.Data, err = NewLoader(0).Stored(r, nil)
			require.NoError(tb, err)
		}
		ios = append(ios, o)
	}
	return ios
}

func TestSortedVectorsAreWrittenAgainByteForByte(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		p := loadVector(t, v.File)
		f := openBytes(t, v.File, p)
		if f.Header().Indexed || strings.Contains(v.File, "merged-") {
			continue // the merge tool closes packs by the sizes before compression
		}
		var single, packs bytes.Buffer
		w, err := NewSortedWriter(&single, v.File, f.UUID(), 0)
		require.NoError(t, err)
		for _, o := range stored(t, f) {
			require.NoError(t, w.Add(&o))
		}
		require.NoError(t, w.Close())
		assert.Equal(t, shaOf(p), shaOf(single.Bytes()), "%s record by record", v.File)
		assert.Equal(t, int64(len(p)), w.Size())

		w, err = NewSortedWriter(&packs, v.File, f.UUID(), 0)
		require.NoError(t, err)
		for it := f.Packs(); ; {
			pack, err := it.Next(nil)
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			require.NoError(t, w.CopyPack(bytes.NewReader(pack), uint64(len(pack))))
		}
		require.NoError(t, w.Close())
		assert.Equal(t, shaOf(p), shaOf(packs.Bytes()), "%s pack by pack", v.File)
	}
}

// TestIndexedVectorsAreWrittenAgain adds the recorded images in their order:
// index, padding and super block must come out as the original wrote them.
func TestIndexedVectorsAreWrittenAgain(t *testing.T) {
	type add struct {
		addr, blocks block.LB
		kind         Kind
	}
	codecs := []add{{0, 8, Normal}, {8, 2, Normal}, {16, 4, AllZero}, {24, 1000, Discard}, {2000, 128, Normal}}
	for name, adds := range map[string][]add{
		"i-empty": nil, "i-none": codecs, "i-gzip": codecs, "i-snappy": codecs, "i-lzma": codecs, "i-lz4": codecs, "i-zstd": codecs,
		"i-overlap": {{0, 20, Normal}, {5, 5, Normal}, {15, 10, Normal}, {2, 2, Discard}, {7, 1, AllZero}, {64, 64, Normal}, {100, 3, Normal}},
		"m-new":     {{19, 3, Normal}, {36, 2, Discard}, {54, 2, AllZero}, {112, 1, Normal}, {200, 8, Normal}},
	} {
		p := loadVector(t, "wdiff/"+name+".wdiff")
		f := openBytes(t, name, p)
		recs, err := collect(f.Records())
		require.NoError(t, err)
		images := map[int64]Record{}
		for _, r := range recs {
			if r.Kind == Normal {
				images[r.Image.Offset] = r
			}
		}
		var buf bytes.Buffer
		w, err := NewIndexedWriter(&buf, name, f.UUID(), 0, DefaultMaxBlocks)
		require.NoError(t, err)
		for _, a := range adds {
			o := IO{Addr: a.addr, Blocks: a.blocks, Kind: a.kind}
			if a.kind == Normal {
				r, ok := images[w.Size()]
				require.True(t, ok, "%s: image at %d", name, w.Size())
				o.Codec, o.Sum = r.Image.Codec, r.Image.Sum
				o.Data, err = NewLoader(0).Stored(r, nil)
				require.NoError(t, err)
			}
			require.NoError(t, w.Add(&o))
		}
		require.NoError(t, w.Close())
		assert.Equal(t, hex.Dump(p), hex.Dump(buf.Bytes()), name)
		assert.Equal(t, len(adds), w.Added())
	}
}

func openAll(tb testing.TB, names []string) ([]*File, []Stream) {
	tb.Helper()
	var files []*File
	var streams []Stream
	for _, n := range names {
		f := openVector(tb, n)
		files = append(files, f)
		streams = append(streams, f.Records())
	}
	return files, streams
}

// content is a record with its plain data, for comparison.
type content struct {
	Addr, Blocks block.LB
	Kind         Kind
	SHA          string
}

func contents(tb testing.TB, s Stream) []content {
	tb.Helper()
	recs, err := collect(s)
	require.NoError(tb, err)
	load := NewLoader(DefaultCache)
	var out []content
	for _, r := range recs {
		c := content{Addr: r.Addr, Blocks: r.Blocks, Kind: r.Kind}
		if r.Kind == Normal {
			p := make([]byte, r.Blocks.Bytes())
			require.NoError(tb, load.Read(p, r, 0))
			c.SHA = shaOf(p)
		}
		out = append(out, c)
	}
	return out
}

func TestMergesGiveTheRecordedFiles(t *testing.T) {
	for _, v := range loadManifest(t).Merges {
		limit, opt := block.LB(0), compress.Opt{Type: compress.Snappy, CPUs: 2}
		for i, o := range v.Options {
			switch o {
			case "-x":
				var n int64
				_, err := fmt.Sscan(v.Options[i+1], &n)
				require.NoError(t, err)
				limit = block.FromBytes(n)
			case "-cmpr":
				var err error
				opt, err = compress.ParseOpt(v.Options[i+1])
				require.NoError(t, err)
			}
		}
		_, streams := openAll(t, v.Inputs)
		var buf bytes.Buffer
		w, err := NewSortedWriter(&buf, v.Output, meta.UUID{}, 0)
		require.NoError(t, err)
		_, err = EachPack(t.Context(), Merge(limit, streams...), PackOptions{Opt: opt}, func(p []byte) error {
			return w.CopyPack(bytes.NewReader(p), uint64(len(p)))
		})
		require.NoError(t, err)
		require.NoError(t, w.Close())

		want, got := openVector(t, v.Output), openBytes(t, "merged", buf.Bytes())
		assert.Equal(t, contents(t, want.Records()), contents(t, got.Records()), v.Output)
		assert.Equal(t, packShape(t, want), packShape(t, got), v.Output)
		recs, err := collect(got.Records())
		require.NoError(t, err)
		for _, r := range recs {
			if r.Kind == Normal {
				assert.Contains(t, []compress.Type{opt.Type, compress.None}, r.Image.Codec)
			}
		}
	}
}

// packShape lists how many records the packs of a sorted file hold.
func packShape(tb testing.TB, f *File) []int {
	tb.Helper()
	var shape []int
	for it := f.Packs(); ; {
		p, err := it.Next(nil)
		if errors.Is(err, io.EOF) {
			return shape
		}
		require.NoError(tb, err)
		shape = append(shape, int(le.Uint16(p[4:])))
	}
}

func TestScansReadAsRecorded(t *testing.T) {
	for i, v := range loadManifest(t).Scans {
		if v.RC != 0 {
			continue // records that cross the end of the base: the original fails there
		}
		files, _ := openAll(t, v.Wdiffs)
		base := filled(v.BaseBytes, v.BaseFill)
		img, err := NewVirtualImage(bytes.NewReader(base), block.FromBytes(v.BaseBytes), files...)
		require.NoError(t, err)
		for _, step := range []int64{block.Size, 7 * block.Size, v.BaseBytes} {
			var out []byte
			p := make([]byte, step)
			for off := int64(0); ; off += step {
				n, err := img.ReadAt(p, off)
				out = append(out, p[:n]...)
				if errors.Is(err, io.EOF) || int64(len(out)) == v.BaseBytes {
					break
				}
				require.NoError(t, err)
			}
			assert.Equal(t, v.OutSHA256, shaOf(out), "scan %d in steps of %d", i, step)
		}
	}
}

func TestStatsAreThoseOfTheOriginal(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		f := openVector(t, v.File)
		st, err := f.Stats()
		require.NoError(t, err)
		got := []string{
			fmt.Sprintf("wdiff_stat: normalNr %d", st.Normal),
			fmt.Sprintf("wdiff_stat: allZeroNr %d", st.AllZero),
			fmt.Sprintf("wdiff_stat: discardNr %d", st.Discard),
			fmt.Sprintf("wdiff_stat: normalLb %d", st.NormalLB),
			fmt.Sprintf("wdiff_stat: allZeroLb %d", st.AllZeroLB),
			fmt.Sprintf("wdiff_stat: discardLb %d", st.DiscardLB),
			fmt.Sprintf("wdiff_stat: dataSize %d", st.DataSize),
		}
		// The original's listing counts a sorted file as none.
		assert.Equal(t, v.Stat[1:], got, v.File)
		assert.Equal(t, 1, st.Files)
	}
	for _, v := range loadManifest(t).Scans {
		if v.RC != 0 || len(v.Wdiffs) == 0 {
			continue
		}
		var sum Stats
		files, _ := openAll(t, v.Wdiffs)
		for _, f := range files {
			st, err := f.Stats()
			require.NoError(t, err)
			sum.Add(st)
		}
		assert.Equal(t, v.Stderr[0], "mergeIn  "+sum.String())
	}
}

// everything reads all that a file holds and expands it.
func everything(name string, p []byte) ([]Record, error) {
	f, err := Open(name, bytes.NewReader(p), int64(len(p)))
	if err != nil {
		return nil, err
	}
	recs, err := collect(f.Records())
	if err != nil {
		return nil, err
	}
	load := NewLoader(0)
	for _, r := range recs {
		if r.Kind != Normal {
			continue
		}
		if err := load.Read(make([]byte, r.Blocks.Bytes()), r, 0); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

func TestDamagedFilesAreRefusedWithOneClearError(t *testing.T) {
	// We are stricter than the original's merger where it would take a
	// truncated or inconsistent file for a whole one, and read what its
	// decoder's memory limit refuses.
	ours := map[string]string{
		"s-header-only":         "0 bytes where a pack header is due",
		"s-no-end-pack":         "0 bytes where a pack header is due",
		"s-partial-end-pack":    "3996 bytes where a pack header is due",
		"i-index-offset-beyond": "index offset",
		"s-lzma9":               "",
	}
	for _, v := range loadManifest(t).Negative {
		name := strings.TrimSuffix(filepath.Base(v.File), ".wdiff")
		recs, err := everything(v.File, loadVector(t, v.File))
		text, deviates := ours[name]
		accepted := v.Results["wdiff-merge"].RC == 0
		if deviates {
			accepted = text == ""
		}
		if accepted {
			require.NoError(t, err, "%s (%s)", v.File, v.Change)
			redo := v.Results["wdiff-redo"]
			if redo.RC == 0 {
				img := filled(redo.ImageBytes, 0x5a)
				_, err := Apply(t.Context(), inside(recs, redo.ImageBytes), img, ApplyOptions{Size: block.FromBytes(redo.ImageBytes), Discard: DiscardZero})
				require.NoError(t, err)
				assert.Equal(t, redo.ImageSHA256, shaOf(img), v.File)
			}
			continue
		}
		require.Error(t, err, "%s (%s)", v.File, v.Change)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(err), "%s: %v", v.File, err)
		assert.Contains(t, err.Error(), v.File)
		assert.Contains(t, err.Error(), text)
		assert.NotContains(t, err.Error(), "\n")
		t.Logf("%s: %v", name, err)
	}
}

func TestEveryCutOfAFileIsRefused(t *testing.T) {
	for _, name := range []string{"wdiff/m-mid.wdiff", "wdiff/m-new.wdiff"} {
		p := loadVector(t, name)
		for n := range len(p) {
			_, err := everything(name, p[:n])
			require.Error(t, err, "%s cut at %d", name, n)
		}
	}
}

func TestApplyRefusesWhatLiesOutside(t *testing.T) {
	f := openVector(t, "wdiff/m-new.wdiff")
	_, err := Apply(context.Background(), f.Records(), filled(100<<9, 0), ApplyOptions{Size: 100})
	require.Error(t, err)
	assert.Equal(t, walberr.Range, walberr.CodeOf(err))
	assert.Contains(t, err.Error(), "applyOpenedDiffs:out of range:112:1:100")
}
