package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wlog"
)

const testVolume block.LB = 1024

// randomLog plans a log of some hundred IOs.
func randomLog(rng *rand.Rand) LogPlan {
	p := LogPlan{
		Volume: testVolume, Size: 100 + rng.Uint64N(2000), PBS: 512, MinIO: 1, MaxIO: block.LB(1 + rng.IntN(60)),
		MaxDiscard: block.LB(rng.IntN(300)), Ring: 300, Begin: meta.Lsid(rng.IntN(1000)), Seed: rng.Uint64(),
	}
	if rng.IntN(2) == 0 {
		p.PBS, p.Size = 4096, p.Size/8+1
	}
	return p
}

func generateLog(tb testing.TB, p LogPlan) (*Input, Log) {
	tb.Helper()
	var buf bytes.Buffer
	l, err := GenerateLog(tb.Context(), &buf, p)
	require.NoError(tb, err)
	return input("generated.wlog", buf.Bytes()), l
}

// randomCodec is one of the fast ones.
func randomCodec(rng *rand.Rand) compress.Type {
	return []compress.Type{compress.None, compress.Gzip, compress.Snappy, compress.LZ4, compress.Zstd}[rng.IntN(5)]
}

// TestLogsAndTheirDiffsMakeTheSameImage: writing a log into an image, and
// writing the diff of that log, sorted or indexed, whatever its codec and its
// limit.
func TestLogsAndTheirDiffsMakeTheSameImage(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		in, _ := generateLog(t, randomLog(rng))
		want := filled(testVolume.Bytes(), 0x5a)
		_, err := RedoLogs(t.Context(), want, []*Input{in}, LogRedo{Discard: wdiff.DiscardZero})
		require.NoError(t, err)
		for _, indexed := range []bool{false, true} {
			o := Convert{Indexed: indexed, MaxBlocks: block.LB(rng.IntN(40)), Opt: compress.Opt{Type: randomCodec(rng), CPUs: 2}}
			if indexed {
				o.MaxBlocks++
			}
			var buf bytes.Buffer
			done, err := ConvertLogs(t.Context(), &buf, []*Input{in}, o)
			require.NoError(t, err)
			diff := input("diff", buf.Bytes())
			d, err := CheckDiff(t.Context(), diff)
			require.NoError(t, err)
			if !indexed {
				assert.Equal(t, d.Stats, done.Out)
			}
			got := filled(testVolume.Bytes(), 0x5a)
			_, err = RedoDiffs(t.Context(), got, []*Input{diff}, DiffRedo{Discard: wdiff.DiscardZero})
			require.NoError(t, err)
			require.True(t, bytes.Equal(want, got), "seed %d indexed %t", seed, indexed)
		}
	}
}

func randomDiffs(tb testing.TB, rng *rand.Rand, n int) []*Input {
	tb.Helper()
	var diffs []*Input
	for i := range n {
		var buf bytes.Buffer
		p := DiffPlan{
			Volume: testVolume, Records: rng.IntN(100), MaxBlocks: block.LB(1 + rng.IntN(64)), Indexed: rng.IntN(2) == 0,
			Opt: compress.Opt{Type: randomCodec(rng), CPUs: 1}, Seed: rng.Uint64(),
		}
		st, err := GenerateDiff(tb.Context(), &buf, p)
		require.NoError(tb, err)
		d, err := CheckDiff(tb.Context(), input(fmt.Sprint("diff ", i), buf.Bytes()))
		require.NoError(tb, err)
		if !p.Indexed {
			require.Equal(tb, d.Stats, st)
			require.Equal(tb, p.Records, st.Normal+st.AllZero+st.Discard)
		}
		diffs = append(diffs, input(fmt.Sprint("diff ", i), buf.Bytes()))
	}
	return diffs
}

// TestMergedDiffsMakeTheSameImage: writing diffs one after the other, writing
// their merge, and reading the image with the diffs over it.
func TestMergedDiffsMakeTheSameImage(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 2))
		diffs := randomDiffs(t, rng, 1+rng.IntN(5))
		want := filled(testVolume.Bytes(), 0x5a)
		_, err := RedoDiffs(t.Context(), want, diffs, DiffRedo{Discard: wdiff.DiscardZero})
		require.NoError(t, err)

		var buf bytes.Buffer
		_, err = MergeDiffs(t.Context(), &buf, diffs, MergeOptions{MaxBlocks: block.LB(rng.IntN(50)), Opt: snappy})
		require.NoError(t, err)
		got := filled(testVolume.Bytes(), 0x5a)
		_, err = RedoDiffs(t.Context(), got, []*Input{input("merged", buf.Bytes())}, DiffRedo{Discard: wdiff.DiscardZero})
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), "seed %d", seed)

		base := filled(testVolume.Bytes(), 0x5a)
		view, err := NewView(t.Context(), base, diffs, nil)
		require.NoError(t, err)
		h, err := view.Hash(t.Context(), 8)
		require.NoError(t, err)
		assert.Equal(t, sha(want), h.SHA256)
		_, err = view.Hash(t.Context(), MaxBulk+1)
		require.True(t, walberr.Is(err, walberr.Usage))
		bulks := checksum.NewBulks(8*block.Size, 0)
		_, err = bulks.Write(want)
		require.NoError(t, err)
		assert.Equal(t, bulks.Sum().String(), h.Blocks)
	}
}

func TestGeneratorsRepeatThemselves(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	p := randomLog(rng)
	p.MaxDiscard = 100
	var first, second, other bytes.Buffer
	l, err := GenerateLog(t.Context(), &first, p)
	require.NoError(t, err)
	_, err = GenerateLog(t.Context(), &second, p)
	require.NoError(t, err)
	assert.Equal(t, first.Bytes(), second.Bytes())
	p.Seed++
	_, err = GenerateLog(t.Context(), &other, p)
	require.NoError(t, err)
	assert.NotEqual(t, first.Bytes(), other.Bytes())

	logs, err := CheckLogs(t.Context(), input("x", first.Bytes()))
	require.NoError(t, err)
	logs[0].Name, l.Header.Checksum = "", logs[0].Header.Checksum
	assert.Equal(t, []Log{l}, logs)
	assert.NotZero(t, l.PaddingPB, "the ring ended within the log")
	assert.NotZero(t, l.DiscardLB)
	assert.GreaterOrEqual(t, uint64(l.End-l.Header.Begin), p.Size)

	d := DiffPlan{Volume: 100, Records: 10, MaxBlocks: 4, Opt: snappy, Seed: 7, UUID: meta.UUID{1}}
	first.Reset()
	second.Reset()
	_, err = GenerateDiff(t.Context(), &first, d)
	require.NoError(t, err)
	_, err = GenerateDiff(t.Context(), &second, d)
	require.NoError(t, err)
	assert.Equal(t, first.Bytes(), second.Bytes())
	assert.Equal(t, byte(1), first.Bytes()[16])
}

func TestGeneratorsRefuse(t *testing.T) {
	good := DiffPlan{Volume: 100, Records: 10, MaxBlocks: 4, Opt: snappy}
	for _, spoil := range []func(*DiffPlan){
		func(p *DiffPlan) { p.Volume = 0 },
		func(p *DiffPlan) { p.Volume = block.MaxLB + 1 },
		func(p *DiffPlan) { p.Records = 101 },
		func(p *DiffPlan) { p.Records = -1 },
		func(p *DiffPlan) { p.MaxBlocks = 0 },
		func(p *DiffPlan) { p.MaxBlocks = 2049 },
		func(p *DiffPlan) { p.Opt.CPUs = 0 },
	} {
		p := good
		spoil(&p)
		_, err := GenerateDiff(t.Context(), io.Discard, p)
		require.Error(t, err, "%+v", p)
	}
	log := LogPlan{Volume: 100, Size: 10, PBS: 512, MinIO: 1, MaxIO: 8, MaxDiscard: 8, Ring: 8}
	_, err := GenerateLog(t.Context(), io.Discard, log)
	require.NoError(t, err)
	for _, spoil := range []func(*LogPlan){
		func(p *LogPlan) { p.PBS = 1024 },
		func(p *LogPlan) { p.Volume = 0 },
		func(p *LogPlan) { p.MinIO = 0 },
		func(p *LogPlan) { p.MinIO = 9 },
		func(p *LogPlan) { p.MaxIO = 101 },
		func(p *LogPlan) { p.MaxDiscard = 101 },
		func(p *LogPlan) { p.Ring = 7 },
		func(p *LogPlan) { p.Begin = 1 << 60 },
		func(p *LogPlan) { p.Size = 1 << 60 },
	} {
		p := log
		spoil(&p)
		_, err := GenerateLog(t.Context(), io.Discard, p)
		require.True(t, walberr.Is(err, walberr.Usage), "%+v: %v", p, err)
	}
	for total, n := range map[block.LB]block.LB{7: 3, block.MaxLB: 1000} {
		assert.Equal(t, block.LB(0), share(total, n, 0))
		assert.Equal(t, total, share(total, n, n))
		assert.LessOrEqual(t, share(total, n, n-1), total)
	}
}

func TestOutputsAppearWhenTheyAreComplete(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	write := func(text string, err error) error {
		return WriteFile(path, func(w io.Writer) error {
			_, werr := io.WriteString(w, text)
			require.NoError(t, werr)
			return err
		})
	}
	require.ErrorIs(t, write("half", io.ErrClosedPipe), io.ErrClosedPipe)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	require.NoError(t, write("first", nil))
	require.ErrorIs(t, write("half", io.ErrClosedPipe), io.ErrClosedPipe)
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "first", string(p))

	// A link stays one, and what it leads to is replaced.
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(path, link))
	require.NoError(t, WriteFile(link, func(w io.Writer) error {
		_, err := io.WriteString(w, "second")
		return err
	}))
	p, err = os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "second", string(p))
	info, err := os.Lstat(link)
	require.NoError(t, err)
	assert.Equal(t, os.ModeSymlink, info.Mode().Type())

	for name, code := range map[string]walberr.Code{dir: walberr.Usage, "/dev/null": walberr.Usage, filepath.Join(dir, "no", "out"): walberr.NotFound} {
		err := WriteFile(name, func(io.Writer) error { panic("not to be called") })
		require.True(t, walberr.Is(err, code), "%s: %v", name, err)
		require.ErrorContains(t, err, name[:4])
	}
}

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "in")
	data := append(bytes.Repeat([]byte{0}, 3<<20), sample(t, "wdiff/m-old.wdiff")...)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	in, err := Open(path)
	require.NoError(t, err)
	defer in.Close()
	assert.EqualValues(t, len(data), in.Size)
	for name, code := range map[string]walberr.Code{dir: walberr.Usage, "/dev/null": walberr.Usage, path + "x": walberr.NotFound} {
		_, err := Open(name)
		require.True(t, walberr.Is(err, code), "%s: %v", name, err)
	}

	t.Setenv("TMPDIR", t.TempDir())
	spooled, err := Spool(t.Context(), "stdin", iotest.HalfReader(bytes.NewReader(data)))
	require.NoError(t, err)
	p := make([]byte, len(data))
	_, err = spooled.ReadAt(p, 0)
	require.NoError(t, err)
	assert.Equal(t, data, p)
	assert.EqualValues(t, len(data), spooled.Size)
	require.NoError(t, spooled.Close())
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	assert.Empty(t, left)

	_, err = Spool(t.Context(), "stdin", iotest.ErrReader(io.ErrClosedPipe))
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.ErrorContains(t, err, "read stdin")
}

// TestMetersCountEverything: a check reads all of a file once, more or less.
func TestMetersCountEverything(t *testing.T) {
	in := samples(t, "wdiff/s-multipack.wdiff")[0]
	var last atomic.Int64
	in.Meter = NewMeter(in.Size, func(done, total int64) {
		assert.LessOrEqual(t, done, total)
		last.Store(max(last.Load(), done))
	})
	_, err := CheckDiff(t.Context(), in)
	require.NoError(t, err)
	assert.Equal(t, in.Size, last.Load())
	var none *Meter
	none.Add(5)
}

func TestEverythingEndsWithItsContext(t *testing.T) {
	ended, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("gave up")
	cancel(cause)
	diff := func() *Input { return samples(t, "wdiff/m-old.wdiff")[0] }
	log := func() *Input { return samples(t, "wlog/log-basic512.wlog")[0] }
	img := filled(1<<20, 1)
	view := func() *View {
		v, err := NewView(t.Context(), img, nil, nil)
		require.NoError(t, err)
		return v
	}
	for name, do := range map[string]func() error{
		"stat":  func() error { _, err := StatDiff(ended, diff()); return err },
		"check": func() error { _, err := CheckDiff(ended, diff()); return err },
		"list": func() error {
			_, err := ListDiff(ended, diff(), DiffLister{Header: func(Diff) error { return nil }, Record: func(wdiff.Entry, string) error { return nil }})
			return err
		},
		"merge": func() error {
			_, err := MergeDiffs(ended, io.Discard, []*Input{diff()}, MergeOptions{Opt: snappy})
			return err
		},
		"redo": func() error { _, err := RedoDiffs(ended, img, []*Input{diff()}, DiffRedo{}); return err },
		"generate": func() error {
			_, err := GenerateDiff(ended, io.Discard, DiffPlan{Volume: 9, Records: 1, MaxBlocks: 1, Opt: snappy})
			return err
		},
		"list log":  func() error { _, err := ListLogs(ended, log(), LogLister{}); return err },
		"check log": func() error { _, err := CheckLogs(ended, log()); return err },
		"redo log":  func() error { _, err := RedoLogs(ended, img, []*Input{log()}, LogRedo{}); return err },
		"convert": func() error {
			_, err := ConvertLogs(ended, io.Discard, []*Input{log()}, Convert{Opt: snappy})
			return err
		},
		"generate log": func() error {
			_, err := GenerateLog(ended, io.Discard, LogPlan{Volume: 9, Size: 9, PBS: 512, MinIO: 1, MaxIO: 1, Ring: 9})
			return err
		},
		"view":  func() error { _, err := NewView(ended, img, []*Input{diff()}, nil); return err },
		"hash":  func() error { _, err := view().Hash(ended, 0); return err },
		"cat":   func() error { return view().WriteTo(ended, io.Discard) },
		"copy":  func() error { return view().WriteFile(ended, filepath.Join(t.TempDir(), "copy")) },
		"spool": func() error { _, err := Spool(ended, "x", bytes.NewReader([]byte{1})); return err },
	} {
		require.ErrorIs(t, do(), cause, name)
	}
	assert.Equal(t, filled(1<<20, 1), img)
}

func TestFailingWritersFailTheWork(t *testing.T) {
	full := fullWriter{}
	_, err := MergeDiffs(t.Context(), full, samples(t, "wdiff/m-old.wdiff"), MergeOptions{Opt: snappy})
	require.ErrorIs(t, err, io.ErrShortWrite)
	for _, indexed := range []bool{false, true} {
		_, err = ConvertLogs(t.Context(), full, samples(t, "wlog/log-basic512.wlog"), Convert{Indexed: indexed, MaxBlocks: 8, Opt: snappy})
		require.ErrorIs(t, err, io.ErrShortWrite)
		_, err = GenerateDiff(t.Context(), full, DiffPlan{Volume: 9, Records: 1, MaxBlocks: 1, Opt: snappy, Indexed: indexed})
		require.ErrorIs(t, err, io.ErrShortWrite)
	}
	_, err = GenerateLog(t.Context(), full, LogPlan{Volume: 9, Size: 9, PBS: 512, MinIO: 1, MaxIO: 1, Ring: 9})
	require.ErrorIs(t, err, io.ErrShortWrite)
	for _, base := range []byte{0, 1} {
		v, err := NewView(t.Context(), filled(1<<20, base), nil, nil)
		require.NoError(t, err)
		require.ErrorIs(t, v.WriteTo(t.Context(), full), io.ErrShortWrite)
	}
	_, err = ConvertLogs(t.Context(), io.Discard, samples(t, "wlog/log-basic512.wlog"), Convert{Indexed: true, Opt: snappy})
	require.True(t, walberr.Is(err, walberr.Usage), "%v", err)
}

// brokenImage fails a kind of operation.
type brokenImage struct {
	memory
	op string
}

func (b brokenImage) WriteAt(p []byte, off int64) (int, error) {
	if b.op == "write" {
		return 0, io.ErrClosedPipe
	}
	return b.memory.WriteAt(p, off)
}

func (b brokenImage) Zero(r block.Range) error {
	if b.op == "zero" {
		return io.ErrClosedPipe
	}
	return b.memory.Zero(r)
}

func (b brokenImage) Sync() error {
	if b.op == "sync" {
		return io.ErrClosedPipe
	}
	return nil
}

func TestRedoFailsWithItsImage(t *testing.T) {
	for _, op := range []string{"write", "zero", "sync"} {
		img := brokenImage{filled(1<<20, 1), op}
		_, err := RedoDiffs(t.Context(), img, samples(t, "wdiff/m-old.wdiff"), DiffRedo{Discard: wdiff.DiscardPassdown})
		require.ErrorIs(t, err, io.ErrClosedPipe, op)
		_, err = RedoLogs(t.Context(), img, samples(t, "wlog/log-overlap.wlog"), LogRedo{Discard: wdiff.DiscardPassdown})
		require.ErrorIs(t, err, io.ErrClosedPipe, op)
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestCopiesAreSparse: zeros of the base, holes or not, and of the diffs take
// no space in the copy.
func TestCopiesAreSparse(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "base")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{1}, 1<<20), 0o600))
	require.NoError(t, os.Truncate(path, size))
	base, err := OpenBase(path)
	require.NoError(t, err)
	defer base.Close()
	var counted atomic.Int64
	view, err := NewView(t.Context(), base, samples(t, "wdiff/s-maxblocks.wdiff")[:0], NewMeter(size, func(done, _ int64) { counted.Store(done) }))
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "out")
	require.NoError(t, view.WriteFile(t.Context(), out))
	assert.EqualValues(t, size, counted.Load())
	p, err := os.ReadFile(out)
	require.NoError(t, err)
	q, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(p, q))
	assert.Less(t, blocksOf(t, out), int64(3<<20))

	for name, code := range map[string]walberr.Code{"/dev/null": walberr.Usage, path + "x": walberr.NotFound} {
		_, err := OpenBase(name)
		require.True(t, walberr.Is(err, code), "%s: %v", name, err)
	}
}

// blocksOf is the space that a file takes [bytes].
func blocksOf(tb testing.TB, path string) int64 {
	tb.Helper()
	info, err := os.Stat(path)
	require.NoError(tb, err)
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestIndexesThatDoNotFitAreRefused: discards of the longest kind, cut small.
func TestIndexesThatDoNotFitAreRefused(t *testing.T) {
	var buf bytes.Buffer
	w, err := wlog.NewWriter(&buf, wlog.FileHeader{PBS: 512, End: meta.MaxLsid})
	require.NoError(t, err)
	k := wlog.Pack{
		PackHeader: wlog.PackHeader{Records: []wlog.Record{{Kind: wlog.Discard, Size: wlog.MaxDiscard, Local: 1, Lsid: 1}}},
		Data:       [][]byte{nil},
	}
	require.NoError(t, w.WritePack(&k))
	require.NoError(t, w.Close())
	_, err = ConvertLogs(t.Context(), io.Discard, []*Input{input("big.wlog", buf.Bytes())}, Convert{Indexed: true, MaxBlocks: 1, Opt: snappy})
	require.True(t, walberr.Is(err, walberr.Range), "%v", err)
	require.ErrorContains(t, err, "convert big.wlog")
	_, err = ConvertLogs(t.Context(), io.Discard, []*Input{input("big.wlog", buf.Bytes())}, Convert{Opt: snappy})
	require.NoError(t, err)
}

// FuzzLogs takes any bytes for a log: errors have the declared code, and a log
// that is taken becomes a diff that does the same. Where goroutines would do the
// work it is done here, since the engine wants every run to be alike.
func FuzzLogs(f *testing.F) {
	for _, name := range []string{"wlog/log-empty.wlog", "wlog/log-two-a.wlog", "bad/l-two-uuid-mismatch.wlog", "bad/empty-file.wlog"} {
		f.Add(sample(f, name))
	}
	for seed := range uint64(4) {
		var buf bytes.Buffer
		_, err := GenerateLog(f.Context(), &buf, LogPlan{Volume: 64, Size: 12, PBS: 512, MinIO: 1, MaxIO: 3, MaxDiscard: 9, Ring: 5, Seed: seed})
		require.NoError(f, err)
		f.Add(buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= wlog.FileHeaderSize { // let mutations come past the header's checksum
			binary.LittleEndian.PutUint32(p[8:], 0)
			binary.LittleEndian.PutUint32(p[8:], checksum.Sum(p[:wlog.FileHeaderSize], 0))
		}
		in := input("fuzz", p)
		if _, err := CheckLogs(t.Context(), in); err != nil {
			require.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
		}
		want := filled(1<<18, 0x5a)
		redone, err := RedoLogs(t.Context(), want, []*Input{in}, LogRedo{Discard: wdiff.DiscardZero, Salvage: true})
		if err != nil {
			require.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
			return
		}
		if redone.Clipped > 0 { // the diff may have a part of such a record inside
			return
		}
		var diff bytes.Buffer
		o := Convert{Indexed: true, MaxBlocks: 64, Opt: compress.Opt{Type: compress.None, CPUs: 1}, Salvage: true}
		_, err = ConvertLogs(t.Context(), &diff, []*Input{in}, o)
		require.NoError(t, err)
		file, err := wdiff.Open("diff", bytes.NewReader(diff.Bytes()), int64(diff.Len()))
		require.NoError(t, err)
		got, load := filled(1<<18, 0x5a), wdiff.NewLoader(0)
		for recs := file.StrictRecords(); ; {
			r, err := recs.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			require.NoError(t, load.Read(got[r.Addr.Bytes():r.End().Bytes()], r, 0))
		}
		require.True(t, bytes.Equal(want, got))
	})
}
