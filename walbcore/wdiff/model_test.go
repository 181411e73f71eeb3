package wdiff

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// op is one change of a volume, applied to a flat image it is the truth.
type op struct {
	addr, blocks block.LB
	kind         Kind
	data         []byte
}

func randomOp(rng *rand.Rand, volume block.LB) op {
	o := op{blocks: 1 + block.LB(rng.IntN(9))}
	if rng.IntN(8) == 0 {
		o.blocks = 1 + block.LB(rng.IntN(int(volume/2)))
	}
	o.addr = block.LB(rng.IntN(int(volume - o.blocks + 1)))
	switch rng.IntN(6) {
	case 0:
		o.kind = AllZero
	case 1:
		o.kind = Discard
	default:
		o.data = make([]byte, o.blocks.Bytes())
		alphabet := 1 + rng.IntN(255) // from compressible to not at all
		for i := range o.data {
			o.data[i] = byte(1 + rng.IntN(alphabet))
		}
	}
	return o
}

func (o op) apply(img memory) {
	p := img[o.addr.Bytes():][:o.blocks.Bytes()]
	clear(p)
	copy(p, o.data)
}

var codecs = []compress.Type{compress.None, compress.Gzip, compress.Snappy, compress.LZ4, compress.Zstd}

func randomOpt(rng *rand.Rand) compress.Opt {
	return compress.Opt{Type: codecs[rng.IntN(len(codecs))], CPUs: uint8(1 + rng.IntN(3))}
}

// indexedOf makes an indexed file of the ops.
func indexedOf(tb testing.TB, rng *rand.Rand, ops []op, volume block.LB) *File {
	tb.Helper()
	var buf bytes.Buffer
	maxBlocks := block.LB(1 + rng.IntN(int(DefaultMaxBlocks)))
	w, err := NewIndexedWriter(&buf, "indexed", meta.UUID{1}, volume, maxBlocks)
	require.NoError(tb, err)
	opt := randomOpt(rng)
	for _, o := range ops {
		rec := IO{Addr: o.addr, Blocks: o.blocks, Kind: o.kind}
		if o.kind == Normal {
			rec, err = NewIO(o.addr, o.data, nil, opt)
			require.NoError(tb, err)
		}
		require.NoError(tb, w.Add(&rec))
	}
	require.NoError(tb, w.Close())
	return openBytes(tb, "indexed", buf.Bytes())
}

// sortedOf merges files into a sorted one.
func sortedOf(tb testing.TB, rng *rand.Rand, volume block.LB, files ...*File) *File {
	tb.Helper()
	streams := make([]Stream, len(files))
	for i, f := range files {
		streams[i] = f.Records()
	}
	var buf bytes.Buffer
	w, err := NewSortedWriter(&buf, "sorted", meta.UUID{1}, volume)
	require.NoError(tb, err)
	limit := block.LB(rng.IntN(40))
	o := PackOptions{Opt: randomOpt(rng), MaxBytes: rng.IntN(64 << 10)}
	_, err = EachPack(tb.Context(), Merge(limit, streams...), o, func(p []byte) error {
		return w.CopyPack(bytes.NewReader(p), uint64(len(p)))
	})
	require.NoError(tb, err)
	require.NoError(tb, w.Close())
	return openBytes(tb, "sorted", buf.Bytes())
}

// TestAnyGroupingGivesTheSameImage writes random ops to a flat image, and to
// diffs that are merged in random groups, orders of merging and codecs.
func TestAnyGroupingGivesTheSameImage(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 7))
		volume := block.LB(20 + rng.IntN(200))
		base := filled(volume.Bytes(), 0x5a)
		want := slices.Clone(base)
		var files []*File
		for range 1 + rng.IntN(6) {
			var ops []op
			for range rng.IntN(30) {
				o := randomOp(rng, volume)
				o.apply(want)
				ops = append(ops, o)
			}
			files = append(files, indexedOf(t, rng, ops, volume))
		}
		for len(files) > 1 && rng.IntN(4) > 0 {
			i := rng.IntN(len(files))
			n := 1 + rng.IntN(len(files)-i)
			files = slices.Replace(files, i, i+n, sortedOf(t, rng, volume, files[i:i+n]...))
		}
		streams := make([]Stream, len(files))
		for i, f := range files {
			streams[i] = f.Records()
		}
		got := slices.Clone(base)
		_, err := Apply(t.Context(), Merge(block.LB(rng.IntN(10)), streams...), got, ApplyOptions{Size: volume, Discard: DiscardZero})
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "seed %d: applied image differs", seed)

		img, err := NewVirtualImage(bytes.NewReader(base), volume, files...)
		require.NoError(t, err)
		for range 20 {
			off := block.LB(rng.IntN(int(volume)))
			n := block.LB(1 + rng.IntN(int(volume-off)))
			p := make([]byte, n.Bytes())
			_, err := img.ReadAt(p, off.Bytes())
			require.NoError(t, err)
			require.True(t, bytes.Equal(want[off.Bytes():][:n.Bytes()], p), "seed %d: virtual image differs at %d+%d", seed, off, n)
			r := block.Range{Addr: off, Len: n}
			if !img.Touched(r) {
				require.True(t, bytes.Equal(base[off.Bytes():][:n.Bytes()], p), "seed %d: untouched %v", seed, r)
			}
		}
	}
}

// intervalMap is the dumb model of a merge: a sorted list into which records
// are inserted one by one.
type intervalMap struct {
	max  block.LB
	recs []Record
}

func (m *intervalMap) insert(r Record) {
	var out []Record
	add := func(from, to block.LB, q Record) {
		if from < to {
			out = append(out, q.cut(from, to))
		}
	}
	for _, q := range m.recs {
		add(q.Addr, min(q.End(), r.Addr), q)
		add(max(q.Addr, r.End()), q.End(), q)
	}
	for pos := r.Addr; pos < r.End(); {
		next := r.End()
		if m.max > 0 {
			next = min(next, pos+m.max)
		}
		add(pos, next, r)
		pos = next
	}
	slices.SortFunc(out, func(a, b Record) int { return int(a.Addr) - int(b.Addr) })
	m.recs = out
}

func TestMergeIsTheIntervalMap(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 11))
		model := intervalMap{max: block.LB(rng.IntN(12))}
		var streams []Stream
		for i := range 1 + rng.IntN(7) {
			var in slice
			pos := block.LB(rng.IntN(20))
			for range rng.IntN(12) {
				r := Record{Addr: pos, Blocks: block.LB(1 + rng.IntN(30)), Kind: Kind(rng.IntN(3))}
				if r.Kind == Normal {
					// Offset and Skip tell where a piece came from.
					r.Image = Image{Blocks: r.Blocks, Offset: int64(i*1000) + int64(pos)}
				}
				in = append(in, r)
				model.insert(r)
				pos = r.End() + block.LB(rng.IntN(2)*rng.IntN(15))
			}
			streams = append(streams, &in)
		}
		got, err := collect(Merge(model.max, streams...))
		require.NoError(t, err)
		require.Equal(t, model.recs, got, "seed %d", seed)
	}
}

func TestMergeReportsItsInputsErrors(t *testing.T) {
	unsorted := slice{{Addr: 10, Blocks: 4, Kind: AllZero}, {Addr: 12, Blocks: 4, Kind: AllZero}}
	_, err := collect(Merge(0, &unsorted))
	require.ErrorContains(t, err, "12+4")
}

func TestPieceIndexIsTheDumbOne(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		limit := block.LB(1 + rng.IntN(int(DefaultMaxBlocks)))
		volume := 1 + rng.IntN(3*int(bucketBlocks))
		owner := make([]int, volume) // which IO owns a block, 0 for none
		start := map[int]int{}
		x := newPieceIndex(limit)
		for id := range 1 + rng.IntN(40) {
			n := 1 + rng.IntN(min(volume, 1+rng.IntN(4000)))
			addr := rng.IntN(volume - n + 1)
			start[id+1] = addr
			x.add(block.LB(addr), block.LB(n), storedImage{offset: int64(id + 1)})
			for i := range n {
				owner[addr+i] = id + 1
			}
		}
		got := make([]int, volume)
		pos := 0
		for p := range x.all() {
			require.LessOrEqual(t, pos, int(p.addr), "seed %d: order", seed)
			require.Zero(t, p.addr%uint64(p.blocks), "aligned")
			require.Equal(t, p.blocks, floorPow2(p.blocks), "a power of two")
			require.LessOrEqual(t, p.blocks, floorPow2(uint32(limit)))
			id := int(x.images[p.image].offset)
			require.Equal(t, int(p.addr)-start[id], int(p.skip), "seed %d: skip at block %d", seed, p.addr)
			pos = int(p.end())
			for i := p.addr; i < p.end(); i++ {
				got[i] = id
			}
		}
		require.True(t, slices.Equal(owner, got), "seed %d: owners of the blocks", seed)
	}
}

// packOf builds one pack.
func packOf(tb testing.TB, ios ...IO) []byte {
	tb.Helper()
	p := newPacker(MaxPackData)
	for i := range ios {
		require.True(tb, p.fits(len(ios[i].Data)))
		p.add(&ios[i], len(ios[i].Data))
	}
	return slices.Clone(p.finish())
}

func someIO(tb testing.TB, addr, blocks block.LB, opt compress.Type) IO {
	tb.Helper()
	o, err := NewIO(addr, bytes.Repeat([]byte("walb"), int(blocks.Bytes()/4)), nil, compress.Opt{Type: opt, CPUs: 1})
	require.NoError(tb, err)
	return o
}

// resum makes a changed pack block valid again.
func resum(p []byte) []byte {
	block := p[:PackHeaderSize]
	le.PutUint32(block, 0)
	le.PutUint32(block, -sumWords(block))
	return p
}

func sumWords(p []byte) (sum uint32) {
	for i := 0; i < len(p); i += 4 {
		sum += le.Uint32(p[i:])
	}
	return sum
}

func TestHostilePacksAreRefused(t *testing.T) {
	const volume = 100
	ab := func() []byte { return packOf(t, someIO(t, 10, 4, compress.Snappy), someIO(t, 20, 4, compress.None)) }
	broken := someIO(t, 10, 4, compress.Snappy)
	broken.Blocks = 5
	for what, c := range map[string]struct {
		pack []byte
		size int
		text string
	}{
		"header checksum":     {pack: func() []byte { p := ab(); p[5000-4096+300]++; return p }(), text: "pack header with checksum"},
		"end flag":            {pack: func() []byte { p := ab(); p[6] = 1; return resum(p) }(), text: "end flag"},
		"no records":          {pack: resum(make([]byte, PackHeaderSize)), text: "without records"},
		"128 records":         {pack: func() []byte { p := ab(); p[4] = 128; return resum(p) }(), text: "128 records"},
		"total size":          {pack: func() []byte { p := ab(); p[8]++; return resum(p) }(), text: "total size"},
		"total size and size": {pack: func() []byte { p := append(ab(), 0); p[8]++; return resum(p) }(), text: "records hold"},
		"given size":          {pack: ab(), size: len(ab()) + 1, text: "total size"},
		"size 0":              {pack: nil, text: "pack of 0 bytes"},
		"size too large":      {pack: ab(), size: MaxPackSize + 1, text: "pack of"},
		"offset gap":          {pack: func() []byte { p := ab(); p[recordsAt+recordSize+16]++; return resum(p) }(), text: "data offset"},
		"unsorted":            {pack: packOf(t, someIO(t, 20, 4, compress.Snappy), someIO(t, 10, 4, compress.Snappy)), text: "sorted"},
		"overlapping":         {pack: packOf(t, someIO(t, 10, 4, compress.Snappy), someIO(t, 12, 4, compress.Snappy)), text: "do not overlap"},
		"before the last":     {pack: packOf(t, someIO(t, 0, 4, compress.Snappy)), text: "do not overlap"},
		"beyond the volume":   {pack: packOf(t, someIO(t, 97, 4, compress.Snappy)), text: "inside the volume"},
		"huge discard":        {pack: packOf(t, IO{Addr: 10, Blocks: maxBlocks32, Kind: Discard}), text: "inside the volume"},
		"data checksum":       {pack: func() []byte { p := ab(); p[PackHeaderSize]++; return p }(), text: "checksum"},
		"does not expand":     {pack: packOf(t, broken), text: "do not expand"},
		"both flags":          {pack: func() []byte { p := ab(); p[recordsAt+12] = 6; return resum(p) }(), text: "all-zero and discard"},
		"codec 6":             {pack: func() []byte { p := ab(); p[recordsAt+13] = 6; return resum(p) }(), text: "codec 6"},
		"0 blocks":            {pack: func() []byte { p := ab(); p[recordsAt+8] = 0; return resum(p) }(), text: "0 blocks"},
	} {
		var buf bytes.Buffer
		w, err := NewSortedWriter(&buf, "from a peer", meta.UUID{}, volume)
		require.NoError(t, err)
		first := packOf(t, someIO(t, 4, 2, compress.Zstd))
		require.NoError(t, w.CopyPack(bytes.NewReader(first), uint64(len(first))))
		size := c.size
		if size == 0 {
			size = len(c.pack)
		}
		err = w.CopyPack(bytes.NewReader(c.pack), uint64(size))
		require.Error(t, err, what)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(err), "%s: %v", what, err)
		require.ErrorContains(t, err, c.text, what)
		require.Error(t, w.Close(), what)
	}
	good := ab()
	for n := range good {
		w, err := NewSortedWriter(io.Discard, "from a peer", meta.UUID{}, volume)
		require.NoError(t, err)
		require.Error(t, w.CopyPack(bytes.NewReader(good[:n]), uint64(len(good))), "cut at %d", n)
	}
}

func TestWritersRefuseBadRecords(t *testing.T) {
	w, err := NewSortedWriter(io.Discard, "out", meta.UUID{}, 50)
	require.NoError(t, err)
	require.NoError(t, w.Add(&IO{Addr: 10, Blocks: 5, Kind: Discard}))
	require.ErrorContains(t, w.Add(&IO{Addr: 14, Blocks: 5, Kind: Discard}), "do not overlap")

	for text, o := range map[string]IO{
		"inside the volume": {Addr: 48, Blocks: 3, Kind: AllZero},
		"0 blocks":          {Addr: 1},
		"codec 9":           {Addr: 1, Blocks: 1, Codec: 9},
		"2^32":              {Addr: 1, Blocks: 1 << 32, Kind: AllZero},
	} {
		iw, err := NewIndexedWriter(io.Discard, "out", meta.UUID{}, 50, DefaultMaxBlocks)
		require.NoError(t, err)
		require.ErrorContains(t, iw.Add(&o), text)
		require.Error(t, iw.Close())
	}
	for _, n := range []block.LB{0, DefaultMaxBlocks + 1} {
		_, err := NewIndexedWriter(io.Discard, "out", meta.UUID{}, 0, n)
		require.Error(t, err)
	}
}

// failing writes a few bytes and then fails.
type failing struct{ room int }

var errDisk = errors.New("disk full")

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.room {
		n := f.room
		f.room = 0
		return n, errDisk
	}
	f.room -= len(p)
	return len(p), nil
}

func TestWritersPassOnFailuresOfTheFile(t *testing.T) {
	for room := 0; room < 5000; room += 97 {
		w, err := NewSortedWriter(&failing{room}, "out", meta.UUID{}, 0)
		if err == nil {
			o := someIO(t, 0, 2, compress.None)
			_ = w.Add(&o) // the failure may come here or at Close, which repeats it
			err = w.Close()
		}
		require.ErrorIs(t, err, errDisk)
		iw, err := NewIndexedWriter(&failing{room % 1000}, "out", meta.UUID{}, 0, DefaultMaxBlocks)
		if err == nil {
			o := someIO(t, 0, 2, compress.None)
			_ = iw.Add(&o)
			err = iw.Close()
		}
		require.ErrorIs(t, err, errDisk)
	}
}

func TestEachPackEndsWithItsContextAndItsCaller(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ops []op
	for i := range 400 {
		o := randomOp(rng, 5000)
		o.addr, o.blocks, o.kind = block.LB(i*10), 10, Normal
		o.data = bytes.Repeat([]byte{byte(i), 7}, 2560)
		ops = append(ops, o)
	}
	f := indexedOf(t, rng, ops, 5000)
	opt := PackOptions{Opt: compress.Opt{Type: compress.Zstd, CPUs: 2}, MaxBytes: 8 << 10}

	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("force stopped")
	n := 0
	_, err := EachPack(ctx, f.Records(), opt, func([]byte) error {
		if n++; n == 3 {
			cancel(cause)
		}
		return nil
	})
	require.ErrorIs(t, err, cause)

	full := errors.New("peer is gone")
	_, err = EachPack(t.Context(), f.Records(), opt, func([]byte) error { return full })
	require.ErrorIs(t, err, full)

	bad := &slice{{Addr: 1, Blocks: 1, Kind: Normal, Image: Image{Blocks: 1, Size: 99, Offset: 1 << 40}, file: f}}
	_, err = EachPack(t.Context(), bad, opt, func([]byte) error { return nil })
	assert.Equal(t, walberr.Checksum, walberr.CodeOf(err))
}

func TestPacksOfRawDataPassThroughUnchanged(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	var ops []op
	for range 100 {
		ops = append(ops, randomOp(rng, 1000))
	}
	idx := indexedOf(t, rng, ops, 1000)
	var one, two bytes.Buffer
	for _, step := range []struct {
		in  *File
		out *bytes.Buffer
	}{{idx, &one}, {nil, &two}} {
		in := step.in
		if in == nil {
			in = openBytes(t, "one", one.Bytes())
		}
		w, err := NewSortedWriter(step.out, "out", meta.UUID{}, 0)
		require.NoError(t, err)
		o := PackOptions{Opt: compress.Opt{Type: compress.Snappy, CPUs: 2}}
		_, err = EachPack(t.Context(), Merge(DefaultMaxBlocks, in.Records()), o, func(p []byte) error {
			return w.CopyPack(bytes.NewReader(p), uint64(len(p)))
		})
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	assert.Equal(t, shaOf(one.Bytes()), shaOf(two.Bytes()))
}

func TestDiscardModes(t *testing.T) {
	for text, fill := range map[string]byte{"ignore": 0x5a, "passdown": 0xdd, "zero": 0} {
		mode, err := ParseDiscardMode(text)
		require.NoError(t, err)
		assert.Equal(t, text, mode.String())
		img := filled(8<<9, 0x5a)
		passdown := func(r block.Range) error {
			copy(img[r.Addr.Bytes():r.End().Bytes()], filled(r.Len.Bytes(), 0xdd))
			return nil
		}
		_, err = Apply(t.Context(), &slice{{Addr: 2, Blocks: 3, Kind: Discard}}, img, ApplyOptions{Size: 8, Discard: mode, Passdown: passdown})
		require.NoError(t, err)
		want := filled(8<<9, 0x5a)
		copy(want[2<<9:], filled(3<<9, fill))
		assert.True(t, bytes.Equal(want, img), text)
	}
	_, err := ParseDiscardMode("drop")
	require.Error(t, err)
	assert.Equal(t, "normal allzero discard kind(9)", fmt.Sprint(Normal, AllZero, Discard, Kind(9)))
}

func TestVirtualImageRefusesUnalignedReads(t *testing.T) {
	img, err := NewVirtualImage(bytes.NewReader(filled(1024, 1)), 4)
	require.NoError(t, err)
	_, err = img.ReadAt(make([]byte, 100), 0)
	assert.Equal(t, walberr.Range, walberr.CodeOf(err))
	// The base is shorter than it is said to be.
	_, err = img.ReadAt(make([]byte, 2048), 0)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}
