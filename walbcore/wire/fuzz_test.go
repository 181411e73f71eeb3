package wire

import (
	"bytes"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzValues gives arbitrary bytes to every decoder. What one accepts must
// come back the same when it is written and read again.
func FuzzValues(f *testing.F) {
	names := make([]string, 0, len(codecs))
	for name := range codecs {
		names = append(names, name)
	}
	slices.Sort(names)
	for name, sample := range samples() {
		f.Add(uint8(slices.Index(names, name)), sample)
	}
	f.Fuzz(func(t *testing.T, which uint8, p []byte) {
		name := names[int(which)%len(names)]
		var first, second bytes.Buffer
		if err := Unmarshal(p, func(r *Reader) { codecs[name](r, NewWriter(&first)) }); err != nil {
			_, _ = RefusalText(err), err.Error()
			return
		}
		err := Unmarshal(first.Bytes(), func(r *Reader) { codecs[name](r, NewWriter(&second)) })
		require.NoError(t, err, name)
		require.Equal(t, first.Bytes(), second.Bytes(), name)
	})
}
