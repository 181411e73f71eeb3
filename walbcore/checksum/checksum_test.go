package checksum

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRecordedVectors holds what the original computes.
func TestRecordedVectors(t *testing.T) {
	pattern := make([]byte, 4096)
	for i := range pattern {
		pattern[i] = byte(7*i + i/256)
	}
	for _, c := range []struct {
		data []byte
		salt uint32
		want uint32
	}{
		{nil, 0, 0x00000000},
		{nil, 1, 0xffffffff},
		{[]byte{1, 0, 0, 0}, 0, 0xffffffff},
		{[]byte{1, 0, 0, 0}, 5, 0xfffffffa},
		{[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0, 0x00000002},
		{[]byte{1, 2, 3}, 0, 0xfffcfdff},
		{[]byte{1, 2, 3, 4, 5}, 0, 0xfbfcfdfa},
		{pattern, 305419896, 0xedcbab88},
	} {
		assert.Equal(t, c.want, Sum(c.data, c.salt), "%d bytes, salt %d", len(c.data), c.salt)
	}
}

// slow is the definition, word by word.
func slow(p []byte, salt uint32) uint32 {
	sum := salt
	for i, b := range p {
		sum += uint32(b) << (8 * (i % 4))
	}
	return ^sum + 1
}

func random(rnd *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rnd.Uint32())
	}
	return p
}

func TestSumIsTheDefinition(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		p := random(rnd, n)
		for i := range p {
			if rnd.IntN(2) == 0 {
				p[i] = 0xff // carries
			}
		}
		salt := rnd.Uint32()
		require.Equal(t, slow(p, salt), Sum(p, salt), "%d bytes", n)
	}
}

func TestRunningEqualsSum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		p := random(rnd, rnd.IntN(500))
		salt := rnd.Uint32()
		r := New(salt)
		for rest := p; ; {
			n := rnd.IntN(min(len(rest), 40) + 1)
			k, err := r.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, k)
			rest = rest[n:]
			if len(rest) == 0 {
				break
			}
		}
		require.Equal(t, Sum(p, salt), r.Sum())
	}
	var zero Running
	assert.Zero(t, zero.Sum())
}

func TestBlockThatHoldsItsChecksumVerifies(t *testing.T) {
	p := random(rand.New(rand.NewPCG(5, 6)), 4096)
	clear(p[8:12])
	binary.LittleEndian.PutUint32(p[8:], Sum(p, 77))
	assert.True(t, Verify(p, 77))
	p[4000] ^= 1
	assert.False(t, Verify(p, 77))
}

func BenchmarkSum(b *testing.B) {
	p := random(rand.New(rand.NewPCG(7, 8)), 64<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		Sum(p, 1)
	}
}
