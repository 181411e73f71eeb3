package wdiff

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// line is a record as the original lists it.
func (v vectorRecord) line() string {
	if v.RecChecksum != "" {
		return fmt.Sprintf("wdiff_indexed_rec:\t%d\t%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s",
			v.Addr, v.Blocks, v.Cmpr, v.DataOffset, v.DataSize, v.OrigBlocks, v.IOOffset, v.IOChecksum, v.RecChecksum, v.Flags)
	}
	return fmt.Sprintf("wdiff_sorted_rec:\t%d\t%d\t%s\t%d\t%d\t%s\t%s", v.Addr, v.Blocks, v.Cmpr, v.DataOffset, v.DataSize, v.Checksum, v.Flags)
}

func TestEntriesAreListedAsByTheOriginal(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		p := loadVector(t, v.File)
		f := openBytes(t, v.File, p)
		entries := f.Entries()
		for i, want := range v.Records {
			_, e, err := entries.Next()
			require.NoError(t, err)
			require.Equal(t, want.line(), e.String(), "%s record %d", v.File, i)
			require.Equal(t, want.Addr, le.Uint64(p[e.At:]), "%s record %d lies at %d", v.File, i, e.At)
		}
		_, _, err := entries.Next()
		require.ErrorIs(t, err, io.EOF)

		st, err := f.StatsOf(f.StrictRecords())
		require.NoError(t, err, v.File)
		lines := strings.Split(strings.TrimSpace(st.Text()), "\n")
		// The original's listing counts a sorted file as none.
		assert.Equal(t, v.Stat[1:], lines[1:], v.File)
		assert.Equal(t, "wdiff_stat: wdiffNr 1", lines[0])
		kind := "sorted"
		if f.Header().Indexed {
			kind = "indexed"
		}
		assert.Equal(t, fmt.Sprintf("wdiff_h:\n  checksum: %08x\n  version: 2\n  type: %s\n  uuid: %x\n", le.Uint32(p), kind, p[16:32]), f.HeaderText())
	}
}

// TestStrictRecordsRefuseWhatReadersPassOver: every damaged sample that can be
// seen without its data is refused, but for those that a writer may well leave.
func TestStrictRecordsRefuseWhatReadersPassOver(t *testing.T) {
	fine := []string{
		"s-reserved-set", "s-exist-flag", "s-lzma9", // readers are to take them
		"s-bad-data", "i-bad-data", "s-blocks-mismatch", // only their data are bad
	}
	only := map[string]string{ // what Records takes
		"s-bad-total-size":       "pack with total size 5 at offset 32",
		"s-trailing-junk":        "23 bytes behind the end pack",
		"s-empty-first-pack":     "pack without records",
		"i-wrong-count":          "super block with 1 index records",
		"i-stale-discard-record": "index record with checksum",
	}
	for _, v := range loadManifest(t).Negative {
		name := strings.TrimSuffix(filepath.Base(v.File), ".wdiff")
		p := loadVector(t, v.File)
		f, err := Open(v.File, bytes.NewReader(p), int64(len(p)))
		if err != nil {
			continue
		}
		_, lax := collect(f.Records())
		recs := f.StrictRecords()
		_, strict := collect(recs)
		want, more := only[name]
		switch {
		case lax != nil:
			require.Equal(t, lax, strict, name)
		case more:
			require.ErrorContains(t, strict, "read "+v.File, name)
			require.ErrorContains(t, strict, want, name)
		default:
			require.NoError(t, strict, name)
			require.Contains(t, fine, name)
		}
		_, again := recs.Next()
		if strict == nil {
			strict = io.EOF
		}
		assert.Equal(t, strict, again, "%s: the end is final", name)
	}
}

// Readers take what is behind an end flag for junk.
func TestStrictRecordsRefuseAnEndFlagInside(t *testing.T) {
	p := loadVector(t, "wdiff/s-multipack.wdiff")
	first := HeaderSize + PackHeaderSize + int(le.Uint32(p[HeaderSize+8:]))
	pack := p[first:][:PackHeaderSize]
	pack[6] = flagEnd
	le.PutUint32(pack, 0)
	le.PutUint32(pack, checksum.Sum(pack, 0))
	f := openBytes(t, "x", p)
	recs, err := collect(f.Records())
	require.NoError(t, err)
	require.Len(t, recs, MaxPackRecords)
	_, err = collect(f.StrictRecords())
	require.ErrorContains(t, err, "end pack with 127 records")

	// The same with its records taken out.
	clear(pack[recordsAt:])
	le.PutUint16(pack[4:], 0)
	le.PutUint32(pack[8:], 0)
	le.PutUint32(pack, 0)
	le.PutUint32(pack, checksum.Sum(pack, 0))
	_, err = collect(openBytes(t, "x", p).StrictRecords())
	require.ErrorContains(t, err, "bytes behind the end pack")
}

func TestStrictRecordsRefuseAnIndexThatIsNotAligned(t *testing.T) {
	p := loadVector(t, "wdiff/i-overlap.wdiff")
	f := openBytes(t, "x", p)
	q := append([]byte(nil), p[:f.index]...)
	q = append(append(q, 0), p[f.index:]...)
	super := q[len(q)-superSize:]
	le.PutUint64(super, uint64(f.index+1))
	le.PutUint32(super[20:], 0)
	le.PutUint32(super[20:], checksum.Sum(super, 0))
	_, err := collect(openBytes(t, "x", q).Records())
	require.NoError(t, err)
	_, err = collect(openBytes(t, "x", q).StrictRecords())
	require.ErrorContains(t, err, fmt.Sprintf("index offset %d", f.index+1))
}

// interval is one entry of the dumb twin of [Overlay].
type interval struct {
	addr, blocks block.LB
	kind         Kind
	io           int
}

// overlayTwin keeps, for each block, who wrote it last and the cut it lies in.
func overlayTwin(recs []Record, limit, volume block.LB) []interval {
	type owner struct {
		io    int
		piece block.LB
	}
	blocks := make([]*owner, volume)
	for i, r := range recs {
		for b := r.Addr; b < r.End(); b++ {
			piece := block.LB(0)
			if limit > 0 {
				piece = (b - r.Addr) / limit
			}
			blocks[b] = &owner{i, piece}
		}
	}
	var out []interval
	for b, o := range blocks {
		if o == nil {
			continue
		}
		if n := len(out); n > 0 && b > 0 && blocks[b-1] != nil && *blocks[b-1] == *o {
			out[n-1].blocks++
			continue
		}
		out = append(out, interval{block.LB(b), 1, recs[o.io].Kind, o.io})
	}
	return out
}

func TestOverlayIsAMapOfIntervals(t *testing.T) {
	const volume = 400
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		limit := block.LB(rng.IntN(12)) // 0 is none
		o := NewOverlay(limit)
		raw := Raw("raw", bytes.NewReader(nil), 0)
		var recs []Record
		for i := range 10 + rng.IntN(3000) {
			n := block.LB(rng.IntN(9))
			if rng.IntN(40) == 0 {
				n = block.LB(rng.IntN(volume / 2))
			}
			r := raw.Record(block.LB(rng.IntN(int(volume-n+1))), n, int64(i), uint32(i))
			if rng.IntN(3) == 0 {
				r = Record{Addr: r.Addr, Blocks: n, Kind: []Kind{AllZero, Discard}[rng.IntN(2)], Image: Image{Sum: uint32(i)}}
			}
			recs = append(recs, r)
			o.Add(r)
		}
		got, err := collect(o.Records())
		require.NoError(t, err)
		want := overlayTwin(recs, limit, volume)
		require.Len(t, got, len(want), "seed %d", seed)
		for i, w := range want {
			g := got[i]
			whole := recs[w.io]
			is := interval{g.Addr, g.Blocks, g.Kind, int(g.Image.Sum)}
			require.Equal(t, w, is, "seed %d", seed)
			if g.Kind == Normal {
				require.Equal(t, g.Addr-whole.Addr, g.Image.Skip, "seed %d", seed)
				require.Equal(t, whole.Blocks, g.Image.Blocks)
			}
		}
	}
}

func TestOverlayCutsTheLongestDiscardAsItComesOut(t *testing.T) {
	o := NewOverlay(DefaultMaxBlocks)
	o.Add(Record{Addr: 5, Blocks: maxBlocks32, Kind: Discard})
	s := o.Records()
	first, err := s.Next()
	require.NoError(t, err)
	assert.Equal(t, Record{Addr: 5, Blocks: 2048, Kind: Discard}, first)
	for range 1000 {
		r, err := s.Next()
		require.NoError(t, err)
		require.Equal(t, Record{Addr: first.End(), Blocks: 2048, Kind: Discard}, r)
		first = r
	}
}

func TestAddAllWritesAsTheOriginalDoes(t *testing.T) {
	for _, v := range loadManifest(t).Files {
		p := loadVector(t, v.File)
		f := openBytes(t, v.File, p)
		if f.Header().Indexed || !strings.Contains(v.File, "log-") && !strings.Contains(v.File, "s-multi") {
			continue
		}
		var buf bytes.Buffer
		w, err := NewSortedWriter(&buf, v.File, f.UUID(), 0)
		require.NoError(t, err)
		st, err := w.AddAll(t.Context(), f.Records(), compress.Opt{Type: compress.Snappy, CPUs: 2})
		require.NoError(t, err)
		require.NoError(t, w.Close())
		want, err := f.Stats()
		require.NoError(t, err)
		st.Files = 1
		assert.Equal(t, want, st)
		assert.Equal(t, contents(t, f.Records()), contents(t, openBytes(t, "again", buf.Bytes()).Records()), v.File)
		assert.Equal(t, packShape(t, f), packShape(t, openBytes(t, "again", buf.Bytes())), v.File)
	}
	w, err := NewSortedWriter(io.Discard, "x", meta.UUID{}, 0)
	require.NoError(t, err)
	_, err = w.AddAll(t.Context(), openVector(t, "wdiff/m-old.wdiff").Records(), compress.Opt{})
	require.Error(t, err)
	_, err = w.AddAll(t.Context(), openBytes(t, "bad", loadVector(t, "bad/s-bad-data.wdiff")).Records(), compress.Opt{Type: compress.Snappy, CPUs: 1})
	require.ErrorContains(t, err, "read bad: data of 536 bytes with checksum")
}

func TestInsideLeavesOutWhatReachesBeyond(t *testing.T) {
	list := slice{{Addr: 0, Blocks: 4, Kind: AllZero}, {Addr: 4, Blocks: 4, Kind: AllZero}, {Addr: 9, Blocks: 2, Kind: AllZero}, {Addr: 20, Blocks: 1, Kind: Discard}}
	var out []Record
	got, err := collect(Inside(&list, 10, func(r Record) { out = append(out, r) }))
	require.NoError(t, err)
	assert.Len(t, got, 2)
	assert.Equal(t, []Record{{Addr: 9, Blocks: 2, Kind: AllZero}, {Addr: 20, Blocks: 1, Kind: Discard}}, out)
}
