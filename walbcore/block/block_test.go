package block

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64
	}{
		{"0", 0}, {"512", 512}, {"256k", 256 << 10}, {"256K", 256 << 10}, {"4m", 4 << 20},
		{"1g", 1 << 30}, {"2T", 2 << 40}, {"1p", 1 << 50}, {"7e", 7 << 60},
	} {
		got, err := ParseSize(c.in)
		require.NoError(t, err, c.in)
		assert.Equal(t, c.want, got, c.in)
	}
	for _, bad := range []string{"", "k", "1x", "-1", "1kb", "8e", "99999999999999999999", " 1", "1 k"} {
		_, err := ParseSize(bad)
		assert.Error(t, err, "%q", bad)
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 512: "512", 4194304: "4m", 8192: "8k", 11712: "11712", 1 << 40: "1t"} {
		assert.Equal(t, want, FormatSize(n))
	}
}

func TestUnits(t *testing.T) {
	assert.Equal(t, LB(1), FromBytes(1023))
	assert.Equal(t, LB(2), CeilBytes(1023))
	assert.Equal(t, LB(0), FromBytes(-1))
	assert.Equal(t, LB(0), CeilBytes(-1))
	assert.Equal(t, int64(1024), LB(2).Bytes())
	assert.False(t, (MaxLB + 1).Valid())
	assert.Positive(t, LB(math.MaxUint64).Bytes())
}

func TestRange(t *testing.T) {
	r := Range{8, 8}
	assert.Equal(t, "8+8", r.String())
	assert.True(t, r.Overlaps(Range{15, 1}))
	assert.False(t, r.Overlaps(Range{16, 1}))
	assert.False(t, r.Overlaps(Range{0, 8}))
	assert.True(t, r.Contains(Range{8, 8}))
	assert.False(t, r.Contains(Range{8, 9}))
	assert.Equal(t, LB(math.MaxUint64), Range{math.MaxUint64, 2}.End())
}

func TestIsZero(t *testing.T) {
	p := make([]byte, 515)
	assert.True(t, IsZero(p))
	for i := range p {
		p[i] = 1
		assert.False(t, IsZero(p), i)
		p[i] = 0
	}
}
