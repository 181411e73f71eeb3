package compress

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"

	"walbsh/walbcore/walberr"
)

var allTypes = []Type{None, Gzip, Snappy, LZMA, LZ4, Zstd}

// sample makes n bytes: about half of them random, the rest repetitive.
func sample(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := 0; i < n; {
		run := min(1+rnd.IntN(300), n-i)
		if rnd.IntN(2) == 0 {
			for j := range run {
				p[i+j] = byte(rnd.Uint32())
			}
		} else {
			b := byte(rnd.Uint32())
			for j := range run {
				p[i+j] = b
			}
		}
		i += run
	}
	return p
}

type record struct {
	typ    Type
	plain  int
	sha    string
	stored []byte
}

// recorded reads the records that the original has written.
func recorded(tb testing.TB) []record {
	tb.Helper()
	text, err := os.ReadFile("testdata/records.txt")
	require.NoError(tb, err)
	var list []record
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var name, sha, b64 string
		var r record
		_, err := fmt.Sscan(line, &name, &r.plain, &sha, &b64)
		require.NoError(tb, err)
		r.typ, err = ParseType(name)
		require.NoError(tb, err)
		r.sha = sha
		r.stored, err = base64.StdEncoding.DecodeString(b64)
		require.NoError(tb, err)
		list = append(list, r)
	}
	require.NotEmpty(tb, list)
	return list
}

func TestRecordedPayloadsDecode(t *testing.T) {
	seen := map[Type]int{}
	for i, r := range recorded(t) {
		got := make([]byte, r.plain)
		require.NoError(t, Decompress(got, r.stored, r.typ), "record %d, %s", i, r.typ)
		sum := sha256.Sum256(got)
		assert.Equal(t, r.sha, hex.EncodeToString(sum[:]), "record %d, %s", i, r.typ)
		seen[r.typ]++
	}
	for _, typ := range allTypes[1:] {
		assert.NotZero(t, seen[typ], "%s", typ)
	}
}

func TestRoundTrip(t *testing.T) {
	for _, typ := range allTypes {
		for level := range uint8(MaxLevel + 1) {
			sizes := []int{600}
			if level%3 == 0 && (typ != LZMA || level == 0) { // xz is slow, its levels differ in the dictionary only
				sizes = []int{1, 511, 512, 4096, 70001}
			}
			for _, n := range sizes {
				src := sample(uint64(n), n)
				enc, err := Compress(nil, src, typ, level)
				require.NoError(t, err)
				got := make([]byte, n)
				require.NoError(t, Decompress(got, enc, typ), "%s:%d %d bytes", typ, level, n)
				require.Equal(t, src, got)

				for _, wrong := range []int{0, n - 1, n + 1} {
					err := Decompress(make([]byte, wrong), enc, typ)
					require.Error(t, err, "%s: %d bytes into %d", typ, n, wrong)
					assert.Equal(t, walberr.Checksum, walberr.CodeOf(err))
				}
			}
		}
	}
}

// TestDamageIsAnErrorOrHarmless cuts every stored form at every length and
// flips each of its bytes: no panic, nothing written outside dst, and whole
// data only from whole input.
func TestDamageIsAnErrorOrHarmless(t *testing.T) {
	src := sample(9, 300)
	const guard = 64
	for _, typ := range allTypes {
		enc, err := Compress(nil, src, typ, 1)
		require.NoError(t, err)
		buf := make([]byte, len(src)+guard)
		dst := buf[:len(src):len(src)]
		for n := range enc {
			require.Error(t, Decompress(dst, enc[:n], typ), "%s cut to %d of %d bytes", typ, n, len(enc))
		}
		for i := range enc {
			bad := bytes.Clone(enc)
			bad[i] ^= 0x5a
			if err := Decompress(dst, bad, typ); err == nil && (typ == Gzip || typ == LZMA) {
				// These carry a check of the plain data.
				assert.Equal(t, src, dst, "%s byte %d", typ, i)
			}
		}
		require.Error(t, Decompress(dst, append(bytes.Clone(enc), 0), typ), "%s with a byte too many", typ)
		require.Equal(t, make([]byte, guard), buf[len(src):], "%s writes behind dst", typ)
	}
}

func TestCompressUsesTheGivenBuffer(t *testing.T) {
	src := sample(3, 4096)
	for _, typ := range allTypes {
		buf := make([]byte, 3, 16<<10)
		enc, err := Compress(buf, src, typ, 0)
		require.NoError(t, err)
		assert.Same(t, &buf[:1][0], &enc[0], "%s", typ)
	}
	for _, typ := range allTypes {
		_, err := Compress(nil, nil, typ, 0)
		assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	}
	_, err := Compress(nil, src, 6, 0)
	assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	_, err = Compress(nil, src, Gzip, 10)
	assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	assert.True(t, walberr.Is(Decompress(make([]byte, 1), src, 6), walberr.Checksum))
}

func TestCompressOrStore(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	zeros := make([]byte, 4096)
	for _, typ := range allTypes {
		out, used, err := CompressOrStore(nil, noise, typ, 0)
		require.NoError(t, err)
		assert.Equal(t, None, used, "%s", typ)
		assert.Same(t, &noise[0], &out[0], "%s: stored as it is, not copied", typ)

		out, used, err = CompressOrStore(nil, zeros, typ, 0)
		require.NoError(t, err)
		assert.Equal(t, typ, used)
		if typ != None {
			assert.Less(t, len(out), len(zeros))
		}
		got := make([]byte, len(zeros))
		require.NoError(t, Decompress(got, out, used))
	}
}

func TestConcurrentUse(t *testing.T) {
	var group errgroup.Group
	for i := range 4 {
		group.Go(func() error {
			for j := range 10 {
				src := sample(uint64(i*100+j), 1+j*97)
				for _, typ := range allTypes {
					enc, err := Compress(nil, src, typ, uint8(j%10))
					if err != nil {
						return err
					}
					got := make([]byte, len(src))
					if err := Decompress(got, enc, typ); err != nil {
						return err
					}
					assert.Equal(t, src, got)
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
}

// allocated gives the smallest number of bytes that one of several calls of fn
// allocates. (The race detector empties pools at random.)
func allocated(fn func()) uint64 {
	least := uint64(math.MaxUint64)
	var before, after runtime.MemStats
	for range 8 {
		runtime.ReadMemStats(&before)
		fn()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	src := sample(4, 64<<10)
	for _, typ := range []Type{None, Gzip, Snappy, LZ4, Zstd} {
		buf := make([]byte, 0, 2*len(src))
		got := make([]byte, len(src))
		used := allocated(func() {
			enc, err := Compress(buf, src, typ, 0)
			require.NoError(t, err)
			require.NoError(t, Decompress(got, enc, typ))
		})
		// Less than the smallest coder takes.
		assert.Less(t, used, uint64(32<<10), "%s", typ)
	}
}

// xzWithDict rewrites the dictionary code in the block header of an .xz.
func xzWithDict(t *testing.T, enc []byte, code byte) []byte {
	t.Helper()
	enc = bytes.Clone(enc)
	header := enc[xzHeaderLen : xzHeaderLen+(int(enc[xzHeaderLen])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1})
	require.Positive(t, at)
	header[at+2] = code
	sum := crc32.ChecksumIEEE(header[:len(header)-4])
	copy(header[len(header)-4:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
	return enc
}

func TestXZDictionaries(t *testing.T) {
	src := sample(5, 9000)
	enc, err := Compress(nil, src, LZMA, 9)
	require.NoError(t, err)
	got := make([]byte, len(src))
	for code, size := range map[byte]int64{18: 2 << 20, 22: 8 << 20, 28: 64 << 20} {
		require.NoError(t, Decompress(got, xzWithDict(t, enc, code), LZMA), "dictionary of %d bytes", size)
	}
	for _, code := range []byte{29, 30, 40, 41, 63, 200} {
		require.Error(t, Decompress(got, xzWithDict(t, enc, code), LZMA), "code %d", code)
	}
	// What it takes to read is bounded by what must come out.
	huge := xzWithDict(t, enc, 28)
	used := allocated(func() { _ = Decompress(got, huge, LZMA) })
	assert.Less(t, used, uint64(1<<20))
}

func TestXZDictionaryIsNeverAbove8MiB(t *testing.T) {
	for level := range uint8(MaxLevel + 1) {
		assert.LessOrEqual(t, xzDict(32<<20, level), 8<<20, "level %d", level)
		assert.Equal(t, 4096, xzDict(1, level))
		assert.Equal(t, 64<<10, xzDict(33<<10, level))
	}
	assert.Equal(t, 8<<20, xzDict(32<<20, 0))
}

func TestXZChecks(t *testing.T) {
	src := sample(6, 3000)
	for _, cfg := range []xz.WriterConfig{
		{NoCheckSum: true}, {CheckSum: xz.CRC32}, {CheckSum: xz.CRC64}, {CheckSum: xz.SHA256},
	} {
		var buf bytes.Buffer
		w, err := cfg.NewWriter(&buf)
		require.NoError(t, err)
		_, err = w.Write(src)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		got := make([]byte, len(src))
		require.NoError(t, Decompress(got, buf.Bytes(), LZMA), "check %d", cfg.CheckSum)
		assert.Equal(t, src, got)
	}
	var two bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: 2000}.NewWriter(&two)
	require.NoError(t, err)
	_, err = w.Write(src)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Error(t, Decompress(make([]byte, len(src)), two.Bytes(), LZMA), "two blocks")
}

func FuzzDecompress(f *testing.F) {
	for _, r := range recorded(f) {
		f.Add(uint8(r.typ), uint16(r.plain), r.stored)
	}
	for _, typ := range allTypes {
		enc, err := Compress(nil, sample(7, 600), typ, 1)
		require.NoError(f, err)
		f.Add(uint8(typ), uint16(600), enc)
	}
	f.Fuzz(func(t *testing.T, typ uint8, plain uint16, src []byte) {
		buf := make([]byte, int(plain)+8)
		dst := buf[:plain:plain]
		err := Decompress(dst, src, Type(typ))
		require.Equal(t, make([]byte, 8), buf[plain:])
		if err != nil {
			require.Equal(t, walberr.Checksum, walberr.CodeOf(err))
			return
		}
		if plain == 0 {
			return
		}
		enc, err := Compress(nil, dst, Type(typ), 1)
		require.NoError(t, err)
		again := make([]byte, plain)
		require.NoError(t, Decompress(again, enc, Type(typ)))
		require.True(t, bytes.Equal(dst, again))
	})
}

func benchData() []byte {
	// Half noise, half text-like: compresses to about two thirds.
	return sample(11, 256<<10)
}

func BenchmarkCompress(b *testing.B) {
	src := benchData()
	for _, typ := range allTypes {
		b.Run(typ.String(), func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			buf := make([]byte, 0, 2*len(src))
			for b.Loop() {
				if _, err := Compress(buf, src, typ, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	src := benchData()
	for _, typ := range allTypes {
		b.Run(typ.String(), func(b *testing.B) {
			enc, err := Compress(nil, src, typ, 0)
			require.NoError(b, err)
			dst := make([]byte, len(src))
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if err := Decompress(dst, enc, typ); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
