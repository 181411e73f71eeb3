package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// codec reads a value and writes it again.
type codec func(r *Reader, w *Writer)

func message[T any, M interface {
	*T
	Message
}](r *Reader, w *Writer) {
	m := M(new(T))
	m.Decode(r)
	if r.Err() == nil {
		m.Encode(w)
	}
}

// codecs are all values and messages, by the names of the recorded rows.
var codecs = map[string]codec{
	"bool":          func(r *Reader, w *Writer) { w.Bool(r.Bool()) },
	"uint8":         func(r *Reader, w *Writer) { w.U8(r.U8()) },
	"uint16":        func(r *Reader, w *Writer) { w.U16(r.U16()) },
	"uint32":        func(r *Reader, w *Writer) { w.U32(r.U32()) },
	"uint64":        func(r *Reader, w *Writer) { w.U64(r.U64()) },
	"string":        func(r *Reader, w *Writer) { w.Str(r.Str()) },
	"strvec":        func(r *Reader, w *Writer) { w.StrVec(r.StrVec()) },
	"ack":           func(r *Reader, w *Writer) { r.Ack(); w.Ack() },
	"snap":          func(r *Reader, w *Writer) { w.Snap(r.Snap()) },
	"snap_default":  func(r *Reader, w *Writer) { w.Snap(r.Snap()) },
	"diff":          func(r *Reader, w *Writer) { w.Diff(r.Diff()) },
	"state":         func(r *Reader, w *Writer) { w.State(r.State()) },
	"state_default": func(r *Reader, w *Writer) { w.State(r.State()) },
	"lsidgid":       func(r *Reader, w *Writer) { w.LsidGid(r.LsidGid()) },
	"uuid":          func(r *Reader, w *Writer) { w.UUID(r.UUID()) },
	"uuid_default":  func(r *Reader, w *Writer) { w.UUID(r.UUID()) },
	"compress_opt":  func(r *Reader, w *Writer) { w.CompressOpt(r.CompressOpt()) },
	"address":       func(r *Reader, w *Writer) { w.Addr(r.Addr()) },

	"full_repl_state": message[FullReplState],
	"host_info_bkp":   message[ArchiveInfo],
	"hello":           message[Hello],
	"archive_info":    message[ArchiveInfoRequest],
	"full_sync":       message[FullSyncRequest],
	"wlog":            message[WlogRequest],
	"wdiff":           message[WdiffRequest],
	"repl_offer":      message[ReplOffer],
	"repl_full":       message[ReplFullRequest],
	"repl_diff":       message[ReplDiffRequest],
	"volume_io":       message[VolumeIORequest],
	"repl_resync":     message[ReplResyncRequest],
	"repl_hash":       message[ReplHashRequest],
	"snapshot_info":   message[SnapshotInfo],
}

type row struct {
	Type  string
	Value json.RawMessage
	Hex   string
}

func readJSON(t *testing.T, name string, to any) {
	t.Helper()
	p, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(p, to))
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(s)
	require.NoError(t, err)
	return p
}

// describe gives a decoded value in the notation of the rows.
func describe(t *testing.T, typ string, r *Reader) string {
	t.Helper()
	number := func(v uint64) string { return `"` + strconv.FormatUint(v, 10) + `"` }
	object := func(v any) string {
		p, err := json.Marshal(v)
		require.NoError(t, err)
		return string(p)
	}
	gids := func(s meta.Snap) []meta.Gid { return []meta.Gid{s.B, s.E} }
	switch typ {
	case "bool":
		return strconv.FormatBool(r.Bool())
	case "uint8":
		return strconv.Itoa(int(r.U8()))
	case "uint16":
		return strconv.Itoa(int(r.U16()))
	case "uint32":
		return number(uint64(r.U32()))
	case "uint64":
		return number(r.U64())
	case "string":
		s := r.Str()
		if s == strings.Repeat("x", 200) {
			s = "200 times x"
		}
		return object(s)
	case "strvec":
		return object(r.StrVec())
	case "snap":
		s := r.Snap()
		return object(map[string]any{"b": s.B, "e": s.E})
	case "diff":
		d := r.Diff()
		return object(map[string]any{"mergeable": d.Mergeable, "comp": d.Comp, "ts": d.Timestamp, "b": gids(d.B), "e": gids(d.E), "size": d.Size})
	case "state":
		s := r.State()
		return object(map[string]any{"applying": s.Applying, "ts": s.Timestamp, "b": gids(s.B), "e": gids(s.E)})
	case "lsidgid":
		g := r.LsidGid()
		all := func(v uint64) any {
			if v == math.MaxUint64 {
				return "2^64-1"
			}
			return v
		}
		return object(map[string]any{"mergeable": g.Mergeable, "ts": g.Timestamp, "lsid": all(uint64(g.Lsid)), "gid": all(uint64(g.Gid))})
	case "host_info_bkp":
		var m ArchiveInfo
		m.Decode(r)
		return object(m.String())
	case "compress_opt":
		return object(r.CompressOpt().String())
	case "uuid", "uuid_default":
		return object(r.UUID().String())
	case "full_repl_state":
		var m FullReplState
		m.Decode(r)
		return object(map[string]any{"state": m.Base.String() + " ts " + strconv.FormatUint(m.Base.Timestamp, 10), "progressLb": m.Progress, "ts": m.Timestamp})
	case "snap_default":
		assert.Equal(t, meta.NoSnap(), r.Snap())
	case "state_default":
		assert.Equal(t, meta.State{B: meta.NoSnap(), E: meta.NoSnap()}, r.State())
	default:
		t.Fatalf("no description of %s", typ)
	}
	return ""
}

func TestSerializedRows(t *testing.T) {
	var rows []row
	readJSON(t, "testdata/serialized.json", &rows)
	require.Len(t, rows, 68)
	for _, row := range rows {
		t.Run(row.Type+" "+row.Hex[:min(len(row.Hex), 16)], func(t *testing.T) {
			in := unhex(t, row.Hex)
			src := bytes.NewReader(in)
			r := NewReader(src)
			if got := describe(t, row.Type, r); got != "" {
				assert.JSONEq(t, string(row.Value), got)
			}
			require.NoError(t, r.Err())
			assert.Zero(t, src.Len(), "bytes left over")
			assert.EqualValues(t, len(in), r.Pos())

			var out bytes.Buffer
			codecs[row.Type](NewReader(bytes.NewReader(in)), NewWriter(&out))
			assert.Equal(t, row.Hex, hex.EncodeToString(out.Bytes()))
		})
	}
}

func TestSmallFiles(t *testing.T) {
	kinds := map[string]codec{
		"state": codecs["string"], "path": codecs["string"], "done": codecs["lsidgid"], "size": codecs["uint64"],
		"uuid": codecs["uuid"], "archive_uuid": codecs["uuid"], "base": codecs["state"], "full_repl_state": codecs["full_repl_state"],
	}
	var files []struct{ File, Hex string }
	readJSON(t, "testdata/files.json", &files)
	require.NotEmpty(t, files)
	for _, f := range files {
		kind := kinds[f.File]
		if strings.HasSuffix(f.File, ".archive") {
			kind = codecs["host_info_bkp"]
		}
		require.NotNil(t, kind, f.File)
		var out []byte
		err := Unmarshal(unhex(t, f.Hex+"00"), func(r *Reader) { // what is behind is ignored
			out = Marshal(func(w *Writer) { kind(r, w) })
		})
		require.NoError(t, err, f.File)
		assert.Equal(t, f.Hex, hex.EncodeToString(out), f.File)
	}
}

func TestIntegersInEveryForm(t *testing.T) {
	for _, c := range []struct {
		hex string
		u64 uint64
		u32 uint32
	}{
		{"00", 0, 0},
		{"7f", 127, 127},
		{"8000", 0, 0},
		{"80ff", 255, 255},
		{"810100", 1, 1},
		{"8201000000", 1, 1},
		{"8401", 1, 1},
		{"84ff", math.MaxUint64, math.MaxUint32},
		{"850080", math.MaxUint64 - 32767, math.MaxUint32 - 32767},
		{"8600000080", math.MaxUint64 - 1<<31 + 1, 1 << 31},
		{"88", math.MaxUint64 - 119, math.MaxUint32 - 119},
		{"ff", math.MaxUint64, math.MaxUint32},
		{"82ffffffff", math.MaxUint32, math.MaxUint32},
	} {
		p := unhex(t, c.hex)
		r := NewReader(bytes.NewReader(p))
		assert.Equal(t, c.u64, r.U64(), c.hex)
		require.NoError(t, r.Err())
		r = NewReader(bytes.NewReader(p))
		assert.Equal(t, c.u32, r.U32(), c.hex)
		require.NoError(t, r.Err())
	}
	for _, c := range []struct {
		hex string
		u64 uint64
	}{
		{"830100000000000000", 1},
		{"87feffffffffffffff", math.MaxUint64 - 1},
	} {
		p := unhex(t, c.hex)
		r := NewReader(bytes.NewReader(p))
		assert.Equal(t, c.u64, r.U64(), c.hex)
		require.NoError(t, r.Err())

		r = NewReader(bytes.NewReader(p))
		assert.Zero(t, r.U32())
		var e *Error
		require.ErrorAs(t, r.Err(), &e)
		assert.Equal(t, "loadVariableInt:bad header:"+string(p[:1]), e.Text)
		assert.True(t, walberr.Is(r.Err(), walberr.Checksum))
	}
}

// TestIntegersAgainstModel compares the writer with the smallest form found by
// trying every form in the order that the format demands.
func TestIntegersAgainstModel(t *testing.T) {
	model := func(v uint64, width int) []byte {
		forms := []struct {
			head   int
			size   int
			signed bool
		}{{-1, 1, true}, {0x84, 1, true}, {0x80, 1, false}, {0x81, 2, false}, {0x85, 2, true}, {0x82, 4, false}, {0x86, 4, true}, {0x83, 8, false}}
		le := func(v uint64, n int) []byte {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(v >> (8 * i))
			}
			return p
		}
		mask := uint64(math.MaxUint64)
		if width == 4 {
			mask = math.MaxUint32
		}
		for _, f := range forms {
			if f.size > width {
				continue
			}
			bits := 8 * f.size
			low := v
			if bits < 64 {
				low &= 1<<bits - 1
			}
			back := low
			if f.signed && bits < 64 && low>>(bits-1) == 1 {
				back |= math.MaxUint64 << bits
			}
			if back&mask != v&mask {
				continue
			}
			p := le(low, f.size)
			if f.head < 0 {
				if p[0] >= 0x80 && p[0] <= 0x87 {
					continue
				}
				return p
			}
			return append([]byte{byte(f.head)}, p...)
		}
		return nil
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20000 {
		v := rnd.Uint64() >> (i % 64)
		if i%2 == 1 {
			v = -v
		}
		assert.Equal(t, model(v, 8), Marshal(func(w *Writer) { w.U64(v) }), "u64 %d", v)
		assert.Equal(t, model(v, 4), Marshal(func(w *Writer) { w.U32(uint32(v)) }), "u32 %d", uint32(v))
		var got uint64
		require.NoError(t, Unmarshal(Marshal(func(w *Writer) { w.U64(v) }), func(r *Reader) { got = r.U64() }))
		require.Equal(t, v, got)
	}
}

func TestStringsAreBounded(t *testing.T) {
	for _, c := range []struct{ hex, text string }{
		{"ff", "basic_string::_M_replace_aux"},
		{"830000000000000040", "basic_string::_M_replace_aux"},
		{"830000000000000010", "std::bad_alloc"},
		{"8201000004", "std::bad_alloc"}, // 64 MiB + 1
	} {
		r := NewReader(bytes.NewReader(unhex(t, c.hex)))
		assert.Empty(t, r.Str())
		assert.Equal(t, c.text, RefusalText(r.Err()))
		assert.True(t, walberr.Is(r.Err(), walberr.Checksum))
	}

	r := NewReader(bytes.NewReader(unhex(t, "0461626364")))
	assert.Empty(t, r.StrMax(3))
	assert.ErrorContains(t, r.Err(), "at most 3")

	r = NewReader(bytes.NewReader(unhex(t, "8201001000"))) // a vector of 2^20 + 1
	assert.Nil(t, r.StrVec())
	assert.Equal(t, "vector::reserve", RefusalText(r.Err()))
}

// TestLongStringsGrowWithTheirBytes reads a string claimed to be 64 MiB of
// which little is there: memory must follow the bytes, not the claim.
func TestLongStringsGrowWithTheirBytes(t *testing.T) {
	claim := Marshal(func(w *Writer) { w.U64(MaxStr) })
	there := make([]byte, 100<<10)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := NewReader(io.MultiReader(bytes.NewReader(claim), bytes.NewReader(there)))
	assert.Empty(t, r.Str())
	assert.Error(t, r.Err())
	runtime.ReadMemStats(&after)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20))

	long := strings.Repeat("walb", 100<<10)
	var got string
	require.NoError(t, Unmarshal(Marshal(func(w *Writer) { w.Str(long) }), func(r *Reader) { got = r.Str() }))
	assert.Equal(t, long, got)
}

func TestVectorsShareOneBound(t *testing.T) {
	two := Marshal(func(w *Writer) {
		w.U64(2)
		w.Str("x")
		w.U64(MaxStr) // one more than what is left
	})
	r := NewReader(bytes.NewReader(two))
	assert.Nil(t, r.StrVec())
	assert.Equal(t, "std::bad_alloc", RefusalText(r.Err()))
}

func TestFirstFailureIsKept(t *testing.T) {
	r := NewReader(bytes.NewReader(unhex(t, "83000000000000000001")))
	r.U32()
	first := r.Err()
	require.Error(t, first)
	assert.Zero(t, r.U64())
	assert.Empty(t, r.Str())
	_, err := r.Read(make([]byte, 1))
	assert.Equal(t, first, err)
	r.Fail(io.ErrShortBuffer)
	assert.Equal(t, first, r.Err())
	assert.EqualValues(t, 1, r.Pos(), "nothing is read behind a failure")

	broken := errors.New("broken")
	var sink failAfter
	sink.left, sink.err = 4, broken
	w := NewWriter(&sink)
	w.Str("ab")
	require.NoError(t, w.Err())
	w.Str("cd")
	w.U8(1)
	assert.Equal(t, broken, w.Err())
	assert.EqualValues(t, 4, w.Pos(), "three bytes and a length")
	w.Fail(io.ErrShortBuffer)
	assert.Equal(t, broken, w.Err())
}

// failAfter takes left bytes and then fails.
type failAfter struct {
	left int
	err  error
}

func (f *failAfter) Write(p []byte) (int, error) {
	if len(p) > f.left {
		return 0, f.err
	}
	f.left -= len(p)
	return len(p), nil
}

func TestEndOfStream(t *testing.T) {
	r := NewReader(bytes.NewReader(nil))
	r.U8()
	assert.Equal(t, "stream:read", RefusalText(r.Err()))
	assert.ErrorIs(t, r.Err(), io.EOF)
	assert.True(t, walberr.Is(r.Err(), walberr.Unreachable))

	r = NewReader(strings.NewReader("abc"))
	r.Raw(make([]byte, 4))
	assert.Equal(t, "Socket:read:readSize is zero", RefusalText(r.Err()))
	assert.ErrorIs(t, r.Err(), io.ErrUnexpectedEOF)
	assert.ErrorContains(t, r.Err(), "the stream ends at byte 3, 1 missing")

	r = NewReader(strings.NewReader("abc"))
	p, err := io.ReadAll(r)
	require.NoError(t, err)
	assert.Equal(t, "abc", string(p))
	assert.NoError(t, r.Err(), "the end of a stream read raw is no failure")
}

func TestAcknowledgement(t *testing.T) {
	assert.Equal(t, "8277616c62", hex.EncodeToString(Marshal((*Writer).Ack)))
	err := Unmarshal(unhex(t, "8277616c63"), (*Reader).Ack)
	assert.Equal(t, "could not receive an acknowledgement message.", RefusalText(err))
}

func TestImpossibleStructures(t *testing.T) {
	for _, c := range []struct{ typ, hex, text string }{
		{"snap", "11030605", "MetaSnap::check:must be gidB <= gidE:6:5"},
		{"snap", "12030505", "MetaSnap::check:wrong preamble:786"},
		{"diff", "11030000", "MetaDiff::check:wrong preamble:785"},
		{"diff", "1203000000110301011103010100", "MetaDiff::broken progress constraint for B:|1|:|1|"},
		{"diff", "1203000000110300051103010200", "MetaDiff::broken progress constraint for E:|0,5|:|1,2|"},
		{"state", "1303010011030101110301010000", "MetaState::broken progress constraint:|1|:|1|"},
		{"state", "14030000", "MetaState::check:wrong preamble:788"},
		{"lsidgid", "1303000000", "MetaLsidGid::check:wrong preamble:787"},
		{"compress_opt", "090001", "CompressOpt::verify:invalid type:\t"},
		{"compress_opt", "020b01", "CompressOpt::verify:invalid level:\v"},
		{"compress_opt", "020000", "CompressOpt::verify:invalid num cpu:\x00"},
		{"host_info_bkp", "00d92702000100", "AddrPort::verify:addr is empty"},
		{"host_info_bkp", "0161000002000100", "AddrPort::verify:port must not be 0"},
	} {
		err := Unmarshal(unhex(t, c.hex), func(r *Reader) { codecs[c.typ](r, NewWriter(io.Discard)) })
		require.Error(t, err, c.hex)
		assert.Equal(t, c.text, RefusalText(err), c.hex)
	}
}

// samples are one value of each kind, for tests and as seeds of the fuzzers.
func samples() map[string][]byte {
	uuid := meta.UUID{1, 2, 3, 15: 16}
	opt := compress.Opt{Type: compress.Snappy, CPUs: 1}
	state := meta.State{Applying: true, Timestamp: 1700000000, B: meta.CleanSnap(3), E: meta.Snap{B: 4, E: 600}}
	diff := meta.Diff{B: meta.CleanSnap(2), E: meta.Snap{B: 5, E: 9}, Mergeable: true, Timestamp: 1700000000, Size: 4128}
	info := ArchiveInfo{Addr: Addr{"localhost", 10201}, Compress: opt, SendDelay: 300}
	return map[string][]byte{
		"bool":            {1},
		"uint8":           {200},
		"uint16":          {1, 2},
		"uint32":          {0x82, 1, 2, 3, 4},
		"uint64":          {0x83, 1, 2, 3, 4, 5, 6, 7, 8},
		"string":          Marshal(func(w *Writer) { w.Str("SyncReady") }),
		"strvec":          Marshal(func(w *Writer) { w.StrVec([]string{"get", "state", "vol"}) }),
		"ack":             Marshal((*Writer).Ack),
		"snap":            Marshal(func(w *Writer) { w.Snap(meta.Snap{B: 5, E: 300}) }),
		"diff":            Marshal(func(w *Writer) { w.Diff(diff) }),
		"state":           Marshal(func(w *Writer) { w.State(state) }),
		"lsidgid":         Marshal(func(w *Writer) { w.LsidGid(meta.LsidGid{Mergeable: true, Timestamp: 1, Lsid: 70000, Gid: meta.MaxGid}) }),
		"uuid":            uuid[:],
		"compress_opt":    {2, 0, 1},
		"address":         Marshal(func(w *Writer) { w.Addr(info.Addr) }),
		"full_repl_state": Marshal(FullReplState{Base: state, Progress: 1 << 21, Timestamp: 1700000100}.Encode),
		"host_info_bkp":   Marshal(info.Encode),
		"volume_io":       Marshal(VolumeIORequest{Op: IOWrite, Offset: 1 << 40, Length: MaxIO}.Encode),
		"hello":           Marshal(Hello{"ctl0", ProtoGet, Version}.Encode),
		"archive_info":    Marshal(ArchiveInfoRequest{Words: []string{InfoAdd, "vol"}, Name: "a0", Info: info}.Encode),
		"full_sync":       Marshal(FullSyncRequest{HostStorage, "vol", 200, 1700000000, 16, opt}.Encode),
		"wlog":            Marshal(WlogRequest{"vol", uuid, 512, 0xaec48d6c, 16384, 17}.Encode),
		"wdiff":           Marshal(WdiffRequest{"vol", HostProxy, uuid, 16384, diff}.Encode),
		"repl_offer":      Marshal(ReplOffer{uuid, true}.Encode),
		"repl_full":       Marshal(ReplFullRequest{8192, 128, state, uuid, opt}.Encode),
		"repl_diff":       Marshal(ReplDiffRequest{8192, uuid, diff}.Encode),
		"repl_resync":     Marshal(ReplResyncRequest{8192, 128, state, uuid, uuid, opt, 7}.Encode),
		"repl_hash":       Marshal(ReplHashRequest{8192, 128, diff, uuid, opt, 1 << 31}.Encode),
		"snapshot_info":   Marshal(SnapshotInfo{"vol", 7, 1700000000, meta.MaxLsid}.Encode),
	}
}

// TestEveryCut cuts every value behind each of its bytes: that is an early end
// and nothing else, and whole values come back as they were.
func TestEveryCut(t *testing.T) {
	for name, whole := range samples() {
		for n := range whole {
			r := NewReader(iotest.OneByteReader(bytes.NewReader(whole[:n])))
			codecs[name](r, NewWriter(io.Discard))
			require.Error(t, r.Err(), "%s cut at %d", name, n)
			assert.Equal(t, "stream:read", RefusalText(r.Err()), "%s cut at %d", name, n)
			assert.True(t, walberr.Is(r.Err(), walberr.Unreachable), "%s cut at %d", name, n)
		}
		var out bytes.Buffer
		r := NewReader(bytes.NewReader(whole))
		codecs[name](r, NewWriter(&out))
		require.NoError(t, r.Err(), name)
		assert.Equal(t, whole, out.Bytes(), name)
	}
	for name := range codecs {
		if !strings.HasSuffix(name, "_default") {
			assert.Contains(t, samples(), name, "no sample")
		}
	}
}
