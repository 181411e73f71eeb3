package compress

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

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

func TestRoundTrip(t *testing.T) {
	for _, typ := range allTypes {
		for level := range uint8(MaxLevel + 1) {
			for _, n := range []int{1, 511, 512, 4096, 70001} {
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
