package offline

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
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The samples are those of packages wdiff and wlog. testdata/recorded.json.gz
// holds what the original's tools print about them and what image they make of
// one filled with 0x5a.

type recorded struct {
	Files []struct {
		File       string
		Show       []string
		ImageBytes int64 `json:"image_bytes"`
		Ignore     redoResult
		Zero       redoResult
	}
	Bad []struct {
		File    string
		Change  string
		Results map[string]struct { // by tool
			RC            int
			Stdout        []string
			Stderr        []string
			OutputRecords []string `json:"output_records"`
			ImageBytes    int64    `json:"image_bytes"`
			ImageSHA256   string   `json:"image_sha256"`
		}
	}
}

type redoResult struct {
	SHA256 string
	Text   []string
}

// large tells of the samples with 32 MiB of data, which are looked at where
// they make a difference only.
func large(name string) bool { return strings.Contains(name, "max") }

func readGzip(tb testing.TB, path string) []byte {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	p, err := io.ReadAll(z)
	require.NoError(tb, err)
	return p
}

func loadRecorded(tb testing.TB) recorded {
	tb.Helper()
	var r recorded
	require.NoError(tb, json.Unmarshal(readGzip(tb, "testdata/recorded.json.gz"), &r))
	return r
}

// conversions are the recorded runs of wlog-to-wdiff, and merges those of
// wdiff-merge, in the manifest of package wdiff.
type manifest struct {
	Files []struct {
		File    string
		Command string
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
}

func loadManifest(tb testing.TB) manifest {
	tb.Helper()
	p, err := os.ReadFile("../wdiff/testdata/manifest.json")
	require.NoError(tb, err)
	var m manifest
	require.NoError(tb, json.Unmarshal(p, &m))
	return m
}

// sample reads a recorded file: "wdiff/m-old.wdiff", "wlog/log-two-a.wlog",
// "bad/l-bad-io.wlog".
func sample(tb testing.TB, name string) []byte {
	tb.Helper()
	name = strings.TrimSuffix(name, ".gz")
	if strings.HasSuffix(name, ".wlog") {
		return readGzip(tb, filepath.Join("../wlog/testdata", filepath.Base(name)+".gz"))
	}
	return readGzip(tb, filepath.Join("../wdiff/testdata", name+".gz"))
}

func input(name string, p []byte) *Input {
	return NewInput(name, bytes.NewReader(p), int64(len(p)))
}

func samples(tb testing.TB, names ...string) []*Input {
	tb.Helper()
	var ins []*Input
	for _, n := range names {
		ins = append(ins, input(n, sample(tb, n)))
	}
	return ins
}

// memory is an image in memory.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memory) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m memory) Size() block.LB                           { return block.FromBytes(int64(len(m))) }
func (m memory) Sync() error                              { return nil }

func (m memory) Zero(r block.Range) error {
	clear(m[r.Addr.Bytes():r.End().Bytes()])
	return nil
}

func (m memory) NextData(_ context.Context, from block.LB) (block.Range, error) {
	return block.Range{Addr: from, Len: m.Size() - from}, nil
}

// filled is an image of size bytes that are all the same.
func filled(size int64, fill byte) memory { return bytes.Repeat([]byte{fill}, int(size)) }

func sha(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// listing lists a file of either kind as the original's show tools do, and
// what they complain about.
func listing(tb testing.TB, in *Input) (lines, bad []string, err error) {
	tb.Helper()
	var b strings.Builder
	say := func(text string) error {
		b.WriteString(strings.TrimSuffix(text, "\n") + "\n")
		return nil
	}
	if strings.HasSuffix(in.Name, ".wlog") {
		_, err = ListLogs(tb.Context(), in, LogLister{
			Header: func(l *Log) error { return say(l.Header.String()) },
			Pack:   func(h *wlog.PackHeader) error { return say(h.Listing()) },
			Bad: func(r wlog.Record, sum uint32) error {
				bad = append(bad, "ERROR "+BadDataText(r, sum))
				return nil
			},
			End: func(l *Log) error { return say(l.Text()) },
		})
	} else {
		var d Diff
		d, err = ListDiff(tb.Context(), in, DiffLister{
			Header: func(d Diff) error { return say(d.HeaderText()) },
			Record: func(e wdiff.Entry, badData string) error { return say(e.String() + badData) },
			Data:   true,
		})
		if err == nil || strings.Contains(in.Name, "bad-data") {
			require.NoError(tb, say(d.Stats.Text()))
		}
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"), bad, err
}

// original is the original's listing with its slip corrected: it counts a
// sorted file as none.
func original(lines []string) []string {
	lines = slices.Clone(lines)
	for i, l := range lines {
		if l == "wdiff_stat: wdiffNr 0" {
			lines[i] = "wdiff_stat: wdiffNr 1"
		}
	}
	return lines
}

func TestListingsAreTheOriginals(t *testing.T) {
	for _, v := range loadRecorded(t).Files {
		if large(v.File) && !strings.Contains(v.File, "indexed") {
			continue
		}
		got, _, err := listing(t, samples(t, v.File)[0])
		require.NoError(t, err, v.File)
		// These were recorded without their records, which package wdiff compares.
		got = slices.DeleteFunc(got, func(l string) bool {
			return strings.HasPrefix(l, "wdiff_sorted_rec") || strings.HasPrefix(l, "wdiff_indexed_rec")
		})
		assert.Equal(t, original(v.Show), got, v.File)
	}
}

// TestListingsOfBadFiles: as far as ours goes it is the original's, and where
// it stops early it says why.
func TestListingsOfBadFiles(t *testing.T) {
	for _, v := range loadRecorded(t).Bad {
		tool := "wdiff-show"
		if strings.HasSuffix(v.File, ".wlog") {
			tool = "wlog-show"
		}
		want := slices.DeleteFunc(original(v.Results[tool].Stdout), func(l string) bool {
			return strings.Contains(l, "n_rec  0") // takes no lsid and holds nothing: not listed by us
		})
		got, bad, err := listing(t, samples(t, v.File)[0])
		if bad != nil {
			assert.Equal(t, v.Results[tool].Stderr, bad, v.File)
		}
		if err == nil && filepath.Base(v.File) != "l-empty-pack.wlog" || strings.Contains(v.File, "bad-data") {
			assert.Equal(t, want, got, "%s: %s", v.File, v.Change)
			continue
		}
		for i, l := range got {
			if l == "" || strings.HasPrefix(l, "nrPacks") || strings.Contains(v.File, "l-two-") && i >= len(want) {
				continue // we go on with the second log
			}
			require.Less(t, i, len(want), "%s: %s: %s", v.File, v.Change, l)
			require.Equal(t, want[i], l, "%s: %s", v.File, v.Change)
		}
		if err != nil {
			require.True(t, walberr.Is(err, walberr.Checksum), "%s: %v", v.File, err)
			require.ErrorContains(t, err, "read "+v.File+": ")
			require.NotContains(t, err.Error(), "\n")
		}
	}
}

// textOf drops from a recorded redo what the original says about discards that
// it was told to ignore: "Failed to redo", though nothing failed.
func textOf(lines []string, size int64) string {
	var b strings.Builder
	for _, l := range lines {
		var addr, blocks int64
		if n, _ := fmt.Sscanf(l, "Failed to redo: %d %d Discard", &addr, &blocks); n == 2 && (addr+blocks)*block.Size <= size {
			continue
		}
		if f := strings.Fields(l); len(f) > 2 && strings.HasSuffix(l, "LB)") && f[0] != "clipped:" {
			continue // what the original's own queue of writes made of them
		}
		b.WriteString(l + "\n")
	}
	return b.String()
}

func redo(tb testing.TB, img Target, mode wdiff.DiscardMode, salvage bool, ins ...*Input) (string, error) {
	tb.Helper()
	if strings.HasSuffix(ins[0].Name, ".wlog") {
		done, err := RedoLogs(tb.Context(), img, ins, LogRedo{Discard: mode, Salvage: salvage})
		return done.Text(), err
	}
	var outside strings.Builder
	done, err := RedoDiffs(tb.Context(), img, ins, DiffRedo{Discard: mode, Outside: func(r wdiff.Record) {
		outside.WriteString(OutsideText(r) + "\n")
	}})
	return outside.String() + done.Text(), err
}

func TestRedoMakesTheRecordedImages(t *testing.T) {
	for _, v := range loadRecorded(t).Files {
		for mode, want := range map[wdiff.DiscardMode]redoResult{wdiff.DiscardIgnore: v.Ignore, wdiff.DiscardZero: v.Zero, wdiff.DiscardPassdown: v.Zero} {
			if large(v.File) && !strings.HasSuffix(v.File, ".wlog") {
				continue
			}
			if mode != wdiff.DiscardZero && (v.Ignore.SHA256 == v.Zero.SHA256 || mode == wdiff.DiscardPassdown && !strings.Contains(v.File, "overlap")) {
				continue // once is enough
			}
			img := filled(v.ImageBytes, 0x5a)
			text, err := redo(t, img, mode, false, samples(t, v.File)...)
			require.NoError(t, err, v.File)
			assert.Equal(t, want.SHA256, sha(img), "%s %s", v.File, mode)
			if mode != wdiff.DiscardPassdown {
				assert.Equal(t, textOf(want.Text, v.ImageBytes), text, "%s %s", v.File, mode)
			}
		}
	}
}

// TestRedoOfBadFiles: what the original's tools refuse changes nothing here;
// what they accept makes the same image, where we accept it.
func TestRedoOfBadFiles(t *testing.T) {
	for _, v := range loadRecorded(t).Bad {
		tool := "wdiff-redo"
		if strings.HasSuffix(v.File, ".wlog") {
			tool = "wlog-redo"
		}
		want := v.Results[tool]
		img := filled(want.ImageBytes, 0x5a)
		_, err := redo(t, img, wdiff.DiscardZero, true, samples(t, v.File)...)
		if err == nil {
			if name := filepath.Base(v.File); name != "s-lzma9.wdiff" && name != "l-short-header.wlog" && name != "empty-file.wlog" {
				require.Zero(t, want.RC, "%s: %s", v.File, v.Change)
				assert.Equal(t, want.ImageSHA256, sha(img), v.File)
			}
			continue
		}
		require.ErrorContains(t, err, v.File)
		assert.Equal(t, filled(want.ImageBytes, 0x5a), img, "%s: untouched", v.File)
		if want.RC == 0 {
			assert.Contains(t, []string{
				"s-header-only.wdiff", "s-no-end-pack.wdiff", "s-partial-end-pack.wdiff", // cut short
				"s-overlapped.wdiff", "s-unsorted.wdiff", "i-index-offset-beyond.wdiff",
				"l-two-lsid-mismatch.wlog", "l-two-uuid-mismatch.wlog", // only the first log is read by the original
			}, filepath.Base(v.File), "%v", err)
		}
	}
}

// fact is a record of a diff with its plain data.
type fact struct {
	Addr, Blocks block.LB
	Kind         wdiff.Kind
	SHA          string
}

func facts(tb testing.TB, p []byte) []fact {
	tb.Helper()
	f, err := wdiff.Open("facts", bytes.NewReader(p), int64(len(p)))
	require.NoError(tb, err)
	load := wdiff.NewLoader(wdiff.DefaultCache)
	var out []fact
	for recs := f.StrictRecords(); ; {
		r, err := recs.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(tb, err)
		w := fact{Addr: r.Addr, Blocks: r.Blocks, Kind: r.Kind}
		if r.Kind == wdiff.Normal {
			p := make([]byte, r.Blocks.Bytes())
			require.NoError(tb, load.Read(p, r, 0))
			w.SHA = sha(p)
		}
		out = append(out, w)
	}
}

// shape lists the record counts of the packs of a sorted diff, or the images
// of an indexed one, as far as they do not depend on the codec.
func shape(tb testing.TB, p []byte) []string {
	tb.Helper()
	f, err := wdiff.Open("shape", bytes.NewReader(p), int64(len(p)))
	require.NoError(tb, err)
	var out []string
	if !f.Header().Indexed {
		for packs := f.Packs(); ; {
			p, err := packs.Next(nil)
			if errors.Is(err, io.EOF) {
				return out
			}
			require.NoError(tb, err)
			out = append(out, fmt.Sprint(int(p[4])|int(p[5])<<8, " records"))
		}
	}
	for entries := f.Entries(); ; {
		_, e, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return append(out, hex.EncodeToString(p[len(p)-16:][:8])) // n_records, n_data
		}
		require.NoError(tb, err)
		out = append(out, fmt.Sprint(e.Addr, e.Blocks, e.OrigBlocks, e.Skip))
	}
}

var snappy = compress.Opt{Type: compress.Snappy, CPUs: 2}

func TestConversionsMakeTheRecordedDiffs(t *testing.T) {
	n := 0
	for _, v := range loadManifest(t).Files {
		words := strings.Fields(v.Command)
		if len(words) == 0 || words[0] != "wlog-to-wdiff" {
			continue
		}
		n++
		o := Convert{MaxBlocks: wdiff.DefaultMaxBlocks, Opt: snappy}
		var ins []*Input
		for i, w := range words {
			switch {
			case w == "-indexed":
				o.Indexed = true
			case w == "-x":
				size, err := block.ParseSize(words[i+1])
				require.NoError(t, err)
				o.MaxBlocks = block.FromBytes(size)
			case strings.HasSuffix(w, ".wlog"):
				ins = samples(t, "wlog/"+w)
			case w == "log-two-ab.cat":
				ins = []*Input{input(w, append(sample(t, "wlog/log-two-a.wlog"), sample(t, "wlog/log-two-b.wlog")...))}
			}
		}
		for _, opt := range []compress.Opt{snappy, {Type: compress.None, CPUs: 1}} {
			if o.Opt = opt; opt != snappy && !strings.Contains(v.Command, "overlap") {
				continue
			}
			var buf bytes.Buffer
			done, err := ConvertLogs(t.Context(), &buf, ins, o)
			require.NoError(t, err, v.Command)
			want := sample(t, v.File)
			records := facts(t, want)
			assert.Equal(t, records, facts(t, buf.Bytes()), v.Command)
			assert.Equal(t, shape(t, want), shape(t, buf.Bytes()), v.Command)
			assert.Equal(t, want[:wdiff.HeaderSize], buf.Bytes()[:wdiff.HeaderSize], "%s: header", v.Command)
			if !o.Indexed {
				assert.Len(t, records, done.Out.Normal+done.Out.AllZero+done.Out.Discard)
			}
		}
	}
	assert.Equal(t, 28, n)
}

func TestLogsInOneFileOrInSeveralAreTheSame(t *testing.T) {
	o := Convert{MaxBlocks: wdiff.DefaultMaxBlocks, Opt: snappy}
	var one, two bytes.Buffer
	done, err := ConvertLogs(t.Context(), &one, samples(t, "wlog/log-two-a.wlog", "wlog/log-two-b.wlog"), o)
	require.NoError(t, err)
	require.Len(t, done.Logs, 2)
	assert.Equal(t, []meta.Lsid{15, 20}, []meta.Lsid{done.Logs[0].End, done.Logs[1].End})
	both := append(sample(t, "wlog/log-two-a.wlog"), sample(t, "wlog/log-two-b.wlog")...)
	done, err = ConvertLogs(t.Context(), &two, []*Input{input("ab.wlog", both)}, o)
	require.NoError(t, err)
	assert.Equal(t, int64(len(sample(t, "wlog/log-two-a.wlog"))), done.Logs[1].Offset)
	assert.Equal(t, one.Bytes(), two.Bytes())
	assert.Equal(t, facts(t, sample(t, "wdiff/log-two-ab.sorted.wdiff")), facts(t, one.Bytes()))

	for want, names := range map[string][]string{
		"read wlog/log-two-a.wlog: begin lsid 10 in the file header at offset 0; expected 20, the end, that of the log before it":                                              {"log-two-b.wlog", "log-two-a.wlog"},
		"read wlog/log-two-c.wlog: uuid 0112233445566778899aabbccddeef00 in the file header at offset 0; expected 00112233445566778899aabbccddeeff, that of the log before it": {"log-two-a.wlog", "log-two-c.wlog"},
	} {
		_, err := ConvertLogs(t.Context(), io.Discard, samples(t, "wlog/"+names[0], "wlog/"+names[1]), o)
		require.EqualError(t, err, want)
		img := filled(1<<20, 1)
		_, err = RedoLogs(t.Context(), img, samples(t, "wlog/"+names[0], "wlog/"+names[1]), LogRedo{})
		require.EqualError(t, err, want)
		assert.Equal(t, filled(1<<20, 1), img, "untouched")
	}
}

// TestConversionOfBadLogs: without salvaging a log has to be whole. With it,
// what the original converts is converted, to the same records.
func TestConversionOfBadLogs(t *testing.T) {
	stricter := map[string]bool{"l-lsid-gap.wlog": true} // the original does not see that log is missing
	for _, v := range loadRecorded(t).Bad {
		name := filepath.Base(v.File)
		if !strings.HasSuffix(name, ".wlog") {
			continue
		}
		for tool, indexed := range map[string]bool{"wlog-to-wdiff": false, "wlog-to-wdiff -indexed": true} {
			o := Convert{Indexed: indexed, MaxBlocks: wdiff.DefaultMaxBlocks, Opt: snappy}
			_, err := ConvertLogs(t.Context(), io.Discard, samples(t, v.File), o)
			if name == "l-end-csum.wlog" || name == "l-empty-pack.wlog" {
				require.NoError(t, err, v.Change)
			} else {
				require.ErrorContains(t, err, "read "+v.File, v.Change)
				require.True(t, walberr.Is(err, walberr.Checksum))
			}
			strict := err
			o.Salvage = true
			var buf bytes.Buffer
			done, err := ConvertLogs(t.Context(), &buf, samples(t, v.File), o)
			if n := len(done.Logs); err == nil && n > 0 {
				assert.Equal(t, strict, done.Logs[n-1].Why, "it is told what was salvaged")
			}
			want := v.Results[tool]
			if want.RC != 0 {
				continue // the original may have stopped behind the end that we salvage
			}
			require.NoError(t, err, v.Change)
			got := facts(t, buf.Bytes())
			if !stricter[name] {
				assert.Len(t, got, len(want.OutputRecords), "%s: %s", name, v.Change)
			}
		}
	}
}

func TestMergesMakeTheRecordedDiffs(t *testing.T) {
	for _, v := range loadManifest(t).Merges {
		o := MergeOptions{Opt: snappy}
		for i, w := range v.Options {
			var err error
			switch w {
			case "-x":
				var size int64
				size, err = block.ParseSize(v.Options[i+1])
				o.MaxBlocks = block.FromBytes(size)
			case "-cmpr":
				o.Opt, err = compress.ParseOpt(v.Options[i+1])
			}
			require.NoError(t, err)
		}
		var buf bytes.Buffer
		m, err := MergeDiffs(t.Context(), &buf, samples(t, v.Inputs...), o)
		require.NoError(t, err)
		want := sample(t, v.Output)
		assert.Equal(t, facts(t, want), facts(t, buf.Bytes()), v.Output)
		assert.Equal(t, shape(t, want), shape(t, buf.Bytes()), v.Output)
		assert.Equal(t, want[:wdiff.HeaderSize], buf.Bytes()[:wdiff.HeaderSize], "%s: header", v.Output)
		d, err := CheckDiff(t.Context(), input("out", buf.Bytes()))
		require.NoError(t, err)
		assert.Equal(t, d.Stats, m.Out)
		assert.Equal(t, len(v.Inputs), m.In.Files)
	}
}

func TestViewsReadAsRecorded(t *testing.T) {
	for i, v := range loadManifest(t).Scans {
		base := input("base", bytes.Repeat([]byte{v.BaseFill}, int(v.BaseBytes)))
		b, err := base.Base()
		if v.BaseBytes%block.Size != 0 {
			require.ErrorContains(t, err, "base has 512100 bytes")
			continue
		}
		require.NoError(t, err)
		view, err := NewView(t.Context(), b, samples(t, v.Wdiffs...), nil)
		if v.RC != 0 {
			require.True(t, walberr.Is(err, walberr.Range), "scan %d: %v", i, err)
			require.ErrorContains(t, err, "lay wdiff/m-")
			continue
		}
		require.NoError(t, err)
		h, err := view.Hash(t.Context(), 0)
		require.NoError(t, err)
		assert.Equal(t, ImageHash{Size: block.FromBytes(v.BaseBytes), SHA256: v.OutSHA256}, h, "scan %d", i)

		view, err = NewView(t.Context(), b, samples(t, v.Wdiffs...), nil)
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "out")
		require.NoError(t, view.WriteFile(t.Context(), path))
		p, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Equal(t, v.OutSHA256, sha(p), "scan %d as a file", i)
		if len(v.Wdiffs) > 0 && v.BaseBytes == 1<<20 {
			var sum wdiff.Stats
			for _, in := range samples(t, v.Wdiffs...) {
				d, err := StatDiff(t.Context(), in)
				require.NoError(t, err)
				sum.Add(d.Stats)
			}
			assert.Equal(t, v.Stderr[0], "mergeIn  "+sum.String())
		}
	}
}

func TestChecks(t *testing.T) {
	for _, v := range loadRecorded(t).Files {
		if large(v.File) {
			continue
		}
		var err error
		if strings.HasSuffix(v.File, ".wlog") {
			_, err = CheckLogs(t.Context(), samples(t, v.File)[0])
		} else {
			_, err = CheckDiff(t.Context(), samples(t, v.File)[0])
		}
		require.NoError(t, err, v.File)
	}
	// Samples that are as a writer may leave them, though they look odd.
	fine := map[string]bool{
		"s-reserved-set.wdiff": true, "s-exist-flag.wdiff": true, "s-lzma9.wdiff": true,
		"l-end-csum.wlog": true, "l-empty-pack.wlog": true,
	}
	for _, v := range loadRecorded(t).Bad {
		in := samples(t, v.File)[0]
		var err error
		if strings.HasSuffix(v.File, ".wlog") {
			_, err = CheckLogs(t.Context(), in)
		} else {
			_, err = CheckDiff(t.Context(), in)
		}
		if fine[filepath.Base(v.File)] {
			require.NoError(t, err, v.Change)
			continue
		}
		require.True(t, walberr.Is(err, walberr.Checksum), "%s: %v", v.File, err)
		require.Regexp(t, "^read "+v.File+": .* at offset [0-9]+.*; expected ", err.Error(), v.Change)
		t.Log(err)
	}
}
