package wlog

import (
	"bytes"
	"compress/gzip"
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

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func load(tb testing.TB, name string) []byte {
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

// manifest is what the original's tools said about the recorded files.
type manifest struct {
	Files []struct {
		File           string
		Size           int
		Show           []string
		RedoImageBytes int    `json:"redo_image_bytes"`
		RedoZero       string `json:"redo_zero_sha256"`
		RedoIgnore     string `json:"redo_ignore_sha256"`
	}
	Bad []struct {
		File       string
		Change     string
		ShowRC     int `json:"show_rc"`
		Show       []string
		RedoRC     int      `json:"redo_rc"`
		RedoStderr []string `json:"redo_stderr"`
	}
}

func loadManifest(tb testing.TB) manifest {
	tb.Helper()
	p, err := os.ReadFile("testdata/manifest.json")
	require.NoError(tb, err)
	var m manifest
	require.NoError(tb, json.Unmarshal(p, &m))
	return m
}

// show lists a file as the original's wlog-show does, and gives every record
// to visit. It stops at an error.
func show(src io.Reader, visit func(rec Record, data []byte)) ([]string, error) {
	r, err := NewReader("log", src, 0)
	if err != nil {
		return nil, err
	}
	var normal, discard, padding uint64
	lines := []string{r.Header.String()}
	packs := 0
	for {
		pack, err := r.Next()
		if errors.Is(err, io.EOF) {
			return append(lines, fmt.Sprint("bgnLsid ", r.Header.Begin), fmt.Sprint("endLsid ", r.Header.End),
				fmt.Sprint("reallyEndLsid ", r.End()), fmt.Sprint("nrPacks ", packs), fmt.Sprint("normalLb ", normal),
				fmt.Sprint("discardLb ", discard), fmt.Sprint("paddingPb ", padding)), nil
		}
		if err != nil {
			return lines, err
		}
		packs++
		lines = append(lines, strings.Split(strings.TrimSpace(pack.Listing()), "\n")...)
		for {
			rec, data, err := r.Record()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return lines, err
			}
			switch rec.Kind {
			case Write:
				normal += uint64(rec.Size)
			case Discard:
				discard += uint64(rec.Size)
			case Padding:
				padding += rec.PB(r.Header.PBS)
			}
			visit(rec, data)
		}
	}
}

func onlyShow(Record, []byte) {}

// TestRecordedFiles reads every file and compares its listing, and the images
// made by its records with discards ignored and as zeros, with what the
// original's tools made of it.
func TestRecordedFiles(t *testing.T) {
	for _, f := range loadManifest(t).Files {
		raw := load(t, f.File)
		require.Len(t, raw, f.Size, f.File)
		ignore := bytes.Repeat([]byte{0x5a}, f.RedoImageBytes)
		zero := bytes.Clone(ignore)
		lines, err := show(bytes.NewReader(raw), func(rec Record, data []byte) {
			from, to := rec.Offset.Bytes(), rec.Range().End().Bytes()
			switch {
			case to > int64(len(zero)):
			case rec.Kind == Write:
				copy(ignore[from:to], data)
				copy(zero[from:to], data)
			case rec.Kind == Discard:
				clear(zero[from:to])
			}
		})
		require.NoError(t, err, f.File)
		assert.Equal(t, f.Show, lines, f.File)
		assert.Equal(t, f.RedoIgnore, sha(ignore), f.File)
		assert.Equal(t, f.RedoZero, sha(zero), f.File)
	}
}

func sha(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// TestRecordedFilesEncodeAgain rebuilds every recorded file from its decoded
// headers and its data. What lies behind the data in its last block is
// undefined: the original's generator leaves noise there, we zeros.
func TestRecordedFilesEncodeAgain(t *testing.T) {
	for _, f := range loadManifest(t).Files {
		raw := load(t, f.File)
		h, err := DecodeFileHeader(raw)
		require.NoError(t, err)
		out := make([]byte, FileHeaderSize)
		again := h
		again.Encode(out)
		assert.Equal(t, h, again, f.File)
		pbs := int(h.PBS)
		for at := FileHeaderSize; at < len(raw); {
			pack, err := DecodePack(raw[at:at+pbs], h.Salt)
			require.NoError(t, err)
			p := make([]byte, (1+int(pack.Total))*pbs)
			copy(p, raw[at:]) // padding blocks are left alone
			k := Pack{PackHeader: *pack}
			for i, r := range k.Records {
				k.Data = append(k.Data, nil)
				if r.Kind == Write {
					from := at + int(r.Local)*pbs
					to := from + int(r.Size)*block.Size
					k.Data[i] = raw[from:to]
					clear(raw[to : from+int(r.PB(h.PBS))*pbs])
					k.Records[i].Checksum = 0
				}
			}
			k.Encode(p, h.PBS, h.Salt)
			out = append(out, p...)
			at += len(p)
		}
		assert.True(t, bytes.Equal(raw, out), f.File)
	}
}

func TestRecordedEndBlockEncodes(t *testing.T) {
	raw := load(t, "log-empty.wlog")
	p := make([]byte, 512)
	e := EndPack()
	e.Encode(p, 0x12345678)
	assert.Equal(t, raw[FileHeaderSize:], p)
}

// TestBadFiles: damaged headers and data are refused, everything else ends the
// log, as with the original. Where a file is cut inside the data, the original
// lists the pack first.
func TestBadFiles(t *testing.T) {
	for _, f := range loadManifest(t).Bad {
		raw := load(t, f.File)
		lines, err := show(bytes.NewReader(raw), onlyShow)
		if f.RedoRC != 0 {
			require.Error(t, err, f.File)
			assert.True(t, walberr.Is(err, walberr.Checksum), "%s: %v", f.File, err)
			continue
		}
		require.NoError(t, err, f.File)
		want := f.Show
		if f.File == "l-empty-pack.wlog" { // listed by the original, passed over here
			want = nil
			for _, l := range f.Show {
				if !strings.Contains(l, "n_rec  0") {
					want = append(want, strings.Replace(l, "nrPacks 3", "nrPacks 2", 1))
				}
			}
		}
		assert.Equal(t, want, lines, "%s: %s", f.File, f.Change)
	}
}

func TestEndedTellsWhy(t *testing.T) {
	for name, want := range map[string]string{
		"log-basic512.wlog":        "",
		"l-end-csum.wlog":          "",
		"l-bad-end-block.wlog":     "sector type",
		"l-no-end-block.wlog":      "read l-no-end-block.wlog: end of file after 0 bytes of the block at offset 27648, lsid 1046; expected a pack header",
		"l-bad-pack-csum.wlog":     "read l-bad-pack-csum.wlog: checksum 2c44ce2f at lsid 1000 in the pack header at offset 4096; expected 2c44ce2e",
		"l-lsid-gap.wlog":          "lsid 1013 in the pack header at offset 10240; expected 1012",
		"l-no-exist.wlog":          "record 0 flags 0",
		"l-oversize-io.wlog":       "record 0 io_size 65536",
		"l-bad-rec-lsid.wlog":      "record 0 lsid",
		"l-truncated-pack.wlog":    "end of file after 100 bytes of the block at offset 10240, lsid 1012",
		"l-two-uuid-mismatch.wlog": "",
	} {
		r, err := NewReader(name, bytes.NewReader(load(t, name)), 0)
		require.NoError(t, err, name)
		for err == nil {
			_, err = r.Next()
		}
		require.ErrorIs(t, err, io.EOF, name)
		if want == "" {
			require.NoError(t, r.Ended(), name)
		} else {
			require.ErrorContains(t, r.Ended(), want, name)
		}
		_, err = r.Next()
		assert.ErrorIs(t, err, io.EOF, name)
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	for name, want := range map[string]string{
		"l-bad-version.wlog":  "read x: version 1 in the file header at offset 70; expected 2",
		"l-short-header.wlog": "read x: length 100 in the file header at offset 70; expected 4096",
		"l-bad-io.wlog":       "read x: data checksum 28d9b8c8 at lsid 1001 in the record data at offset 4678; expected fbd9b8c8",
		"l-truncated-io.wlog": "read x: end of file after 1536 bytes of the record data at offset 4678, lsid 1001; expected 4096 bytes",
	} {
		r, err := NewReader("x", bytes.NewReader(load(t, name)), 70)
		if err == nil {
			_, err = r.Next()
		}
		if err == nil {
			_, _, err = r.Record()
		}
		require.EqualError(t, err, want, name)
	}
	// Behind bad data the reader goes on.
	raw := load(t, "l-bad-io.wlog")
	r, err := NewReader("x", bytes.NewReader(raw), 0)
	require.NoError(t, err)
	_, err = r.Next()
	require.NoError(t, err)
	rec, _, err := r.Record()
	bad, ok := errors.AsType[*DataError](err)
	require.True(t, ok)
	assert.Equal(t, uint32(0x28d9b8c8), bad.Sum)
	assert.EqualValues(t, 1001, rec.Lsid)
	rec, data, err := r.Record()
	require.NoError(t, err)
	assert.EqualValues(t, 1009, rec.Lsid)
	assert.Len(t, data, 3*block.Size)

	// The same where the data are passed over.
	r, err = NewReader("x", bytes.NewReader(load(t, "l-truncated-io.wlog")), 0)
	require.NoError(t, err)
	_, err = r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorContains(t, err, "bytes of the record data at offset 4608, lsid 1001")
}

// TestWriterWritesWhatWasRead copies the recorded files record by record, and
// finds the data of each where the reader says.
func TestWriterWritesWhatWasRead(t *testing.T) {
	for _, f := range loadManifest(t).Files {
		raw := load(t, f.File)
		r, err := NewReader(f.File, bytes.NewReader(raw), 0)
		require.NoError(t, err)
		var out bytes.Buffer
		w, err := NewWriter(&out, r.Header)
		require.NoError(t, err)
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			k := Pack{PackHeader: *h}
			k.Records = append([]Record(nil), h.Records...)
			for range h.Records {
				rec, data, err := r.Record()
				require.NoError(t, err)
				k.Data = append(k.Data, bytes.Clone(data))
				at := r.DataOffset()
				switch rec.Kind {
				case Write:
					require.Equal(t, data, raw[at:at+rec.Size.Bytes()])
					// What lies behind the data in their last block, and in a
					// padding, is undefined: ours are zeros.
					clear(raw[at+rec.Size.Bytes() : at+int64(rec.PB(r.Header.PBS))*int64(r.Header.PBS)])
				case Padding:
					n := int64(rec.PB(r.Header.PBS)) * int64(r.Header.PBS)
					clear(raw[r.Offset()-n : r.Offset()])
				}
			}
			require.NoError(t, w.WritePack(&k))
		}
		require.NoError(t, w.Close())
		require.NoError(t, r.Ended())
		assert.EqualValues(t, len(raw), r.Offset())
		assert.True(t, bytes.Equal(raw, out.Bytes()), f.File)
	}
}

func TestWriterRefuses(t *testing.T) {
	_, err := NewWriter(io.Discard, FileHeader{PBS: 1024, End: 1})
	require.ErrorContains(t, err, "pbs 1024")
	h := FileHeader{PBS: 512, Begin: 7, End: meta.MaxLsid}
	discard := func(lsid meta.Lsid) *Pack {
		k := &Pack{PackHeader: PackHeader{Lsid: lsid, Records: []Record{{Kind: Discard, Size: 1, Local: 1, Lsid: lsid + 1}}}, Data: [][]byte{nil}}
		return k
	}
	for want, packs := range map[string][]*Pack{
		"lsid 8 at lsid 8; expected 7":         {discard(8)},
		"n_records 0 at lsid 7":                {{PackHeader: PackHeader{Lsid: 7}}},
		"lsid 7 at lsid 7; expected 8":         {discard(7), discard(7), discard(8)},
		"record 0 flags 0 at lsid 7; expected": {{PackHeader: PackHeader{Lsid: 7, Records: []Record{{}}}}},
	} {
		w, err := NewWriter(io.Discard, h)
		require.NoError(t, err)
		for _, k := range packs {
			err = w.WritePack(k)
		}
		require.ErrorContains(t, err, want)
		require.Equal(t, err, w.Close(), "the first error stays")
	}
}

// TestCutAtEveryByte: a file cut anywhere never makes a reader panic, hang or
// accept a record that is not in the whole file.
func TestCutAtEveryByte(t *testing.T) {
	raw := load(t, "log-two-a.wlog")
	whole, err := show(bytes.NewReader(raw), onlyShow)
	require.NoError(t, err)
	for n := range raw {
		lines, err := show(bytes.NewReader(raw[:n]), onlyShow)
		switch {
		case n < FileHeaderSize:
			assert.True(t, walberr.Is(err, walberr.Checksum), n)
		case n < FileHeaderSize+512, n >= FileHeaderSize+5*512:
			require.NoError(t, err, n)
		default:
			assert.True(t, walberr.Is(err, walberr.Checksum), n)
		}
		for _, l := range lines {
			if strings.HasPrefix(l, "wlog_") {
				assert.Contains(t, whole, l)
			}
		}
	}
}

// script is the IO script from which a recorded device image was made.
type script struct {
	Name       string
	PBS        uint32
	Ring       uint64
	Salt       uint32
	Start, End meta.Lsid
	Oldest     meta.Lsid
	Script     [][]scriptIO
	Packs      []struct {
		Checksum uint32
		Lsid     meta.Lsid
		Total    uint16 `json:"total_io_size"`
		NRecords int    `json:"n_records"`
		NPadding uint16 `json:"n_padding"`
		Records  []struct {
			Checksum uint32
			Flags    Kind
			Offset   block.LB
			Size     block.LB `json:"io_size"`
			Local    uint16   `json:"lsid_local"`
			Lsid     meta.Lsid
		}
	}
}

type scriptIO struct {
	Op       string
	Off, Len block.LB
	Fill     uint64
	Preflush bool
}

func (s scriptIO) io() IO {
	io := IO{Addr: s.Off, Len: s.Len, Preflush: s.Preflush}
	switch s.Op {
	case "discard":
		io.Op = OpDiscard
	case "flush":
		io.Op = OpFlush
	case "write":
		io.Data = make([]byte, s.Len.Bytes())
		for i := 0; s.Fill != 0 && i < len(io.Data); i += 16 {
			putPair(io.Data[i:], s.Fill, uint64(s.Off)+uint64(i/block.Size))
		}
	}
	return io
}

func putPair(p []byte, a, b uint64) {
	for i := range 8 {
		p[i], p[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
}

// TestPackerMakesRecordedPacks packs the recorded scripts and compares every
// header, with the checksums over all data.
func TestPackerMakesRecordedPacks(t *testing.T) {
	var scripts []script
	require.NoError(t, json.Unmarshal(load(t, "packer.json"), &scripts))
	require.Len(t, scripts, 6)
	for _, s := range scripts {
		var got []PackHeader
		lsid := s.Start
		if strings.HasPrefix(s.Name, "laps") {
			lsid = 0
		}
		packer := Packer{PBS: s.PBS, Ring: s.Ring, MaxPack: uint64(32<<10) / uint64(s.PBS)}
		for _, batch := range s.Script {
			var ios []IO
			for _, io := range batch {
				ios = append(ios, io.io())
			}
			var packs []Pack
			packs, lsid = packer.Pack(ios, lsid)
			for _, p := range packs {
				buf := make([]byte, (1+int(p.Total))*int(s.PBS))
				p.Encode(buf, s.PBS, s.Salt)
				again, err := DecodePack(buf[:s.PBS], s.Salt)
				require.NoError(t, err)
				require.Equal(t, p.PackHeader, *again)
				for _, r := range again.Records {
					require.NoError(t, r.VerifyData(buf[int(r.Local)*int(s.PBS):], s.Salt))
				}
				if p.Lsid >= s.Oldest {
					got = append(got, p.PackHeader)
				}
			}
		}
		assert.Equal(t, s.End, lsid, s.Name)
		var want []PackHeader
		for _, p := range s.Packs {
			h := PackHeader{Checksum: p.Checksum, Total: p.Total, Lsid: p.Lsid, NPadding: p.NPadding}
			for _, r := range p.Records {
				h.Records = append(h.Records, Record{r.Checksum, r.Flags, r.Offset, r.Size, r.Local, r.Lsid})
			}
			want = append(want, h)
		}
		assert.Equal(t, want, got, s.Name)
	}
}
