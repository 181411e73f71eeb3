package wire

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestVolumeIORequestsAreBounded(t *testing.T) {
	for _, c := range []struct {
		req  VolumeIORequest
		data uint64
		bad  string
	}{
		{VolumeIORequest{Op: IOEnd}, 0, ""},
		{VolumeIORequest{Op: IOWrite, Offset: 512, Length: MaxIO}, MaxIO, ""},
		{VolumeIORequest{Op: IORead, Offset: math.MaxInt64 - 511, Length: 511}, 511, ""},
		{VolumeIORequest{Op: IOFlush}, 0, ""},
		{VolumeIORequest{Op: IODiscard, Length: 1 << 50}, 0, ""},
		{VolumeIORequest{Op: 5}, 0, "operation 5"},
		{VolumeIORequest{Op: IOWrite, Length: MaxIO + 1}, 0, "length 4194305"},
		{VolumeIORequest{Op: IORead, Length: math.MaxUint64}, 0, "length 18446744073709551615"},
		{VolumeIORequest{Op: IODiscard, Offset: 1 << 63}, 0, "offset 9223372036854775808"},
		{VolumeIORequest{Op: IODiscard, Offset: 1 << 62, Length: 1 << 62}, 0, "offset"},
	} {
		var got VolumeIORequest
		err := Unmarshal(Marshal(c.req.Encode), got.Decode)
		if c.bad != "" {
			require.ErrorContains(t, err, c.bad)
			assert.True(t, walberr.Is(err, walberr.Checksum))
			continue
		}
		require.NoError(t, err)
		assert.Equal(t, c.req, got)
		assert.Equal(t, c.data, got.DataLen())
	}
}
