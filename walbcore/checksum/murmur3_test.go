package checksum

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type hashRow struct {
	Data string
	Len  int
	Unit int
	Seed uint32
	Hash string
}

// bytes are the data that a row names.
func (r hashRow) bytes(t *testing.T) []byte {
	t.Helper()
	p := make([]byte, r.Len)
	text, isText := strings.CutPrefix(r.Data, "ascii:")
	switch {
	case isText:
		copy(p, text)
	case r.Data == "pattern":
		for i := range p {
			p[i] = byte(7*i + i/256)
		}
	default:
		require.Contains(t, []string{"empty", "zero"}, r.Data)
	}
	return p
}

func hashRows(t *testing.T) (murmur3, bulks []hashRow) {
	t.Helper()
	text, err := os.ReadFile("testdata/hashes.json")
	require.NoError(t, err)
	var rows struct{ Murmur3, Bulks []hashRow }
	require.NoError(t, json.Unmarshal(text, &rows))
	require.NotEmpty(t, rows.Murmur3)
	require.NotEmpty(t, rows.Bulks)
	return rows.Murmur3, rows.Bulks
}

func TestMurmur3IsTheRecordedOne(t *testing.T) {
	rows, _ := hashRows(t)
	for _, r := range rows {
		assert.Equal(t, r.Hash, Murmur3(r.bytes(t), r.Seed).String(), "%+v", r)
	}
}

func TestBulksAreTheRecordedOnes(t *testing.T) {
	_, rows := hashRows(t)
	for _, r := range rows {
		b := NewBulks(r.Unit, r.Seed)
		n, err := b.Write(r.bytes(t))
		require.NoError(t, err)
		assert.Equal(t, r.Len, n)
		assert.Equal(t, r.Hash, b.Sum().String(), "%+v", r)
	}
}

// TestMurmur3DependsOnEveryByte: of every length up to three blocks, with
// every bit of the last byte.
func TestMurmur3DependsOnEveryByte(t *testing.T) {
	seen := map[Hash]bool{}
	for n := range 49 {
		p := make([]byte, n)
		require.False(t, seen[Murmur3(p, 0)], "%d zeros", n)
		seen[Murmur3(p, 0)] = true
		for bit := range 8 {
			if n > 0 {
				p[n-1] = 1 << bit
				require.False(t, seen[Murmur3(p, 0)], "%d bytes, bit %d", n, bit)
				seen[Murmur3(p, 0)] = true
			}
		}
	}
}

func TestBulksDoNotDependOnThePieces(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	p := random(rnd, 10_000)
	whole := NewBulks(512, 3)
	_, err := whole.Write(p)
	require.NoError(t, err)
	want := whole.Sum()
	for range 50 {
		b := NewBulks(512, 3)
		for rest := p; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(1500))
			k, err := b.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, k)
			rest = rest[n:]
		}
		require.Equal(t, want, b.Sum())
		require.Equal(t, want, b.Sum(), "asked again")
	}
	assert.Equal(t, Hash{}, NewBulks(512, 0).Sum())
}

func BenchmarkMurmur3(b *testing.B) {
	p := random(rand.New(rand.NewPCG(7, 8)), 64<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Murmur3(p, 1)
	}
}
