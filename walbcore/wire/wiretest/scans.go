package wiretest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/wire"
)

// Recorded gives a recording: what the client sent, and what the server sent.
func (p *Player) Recorded(t testing.TB, name string) (request, answer []byte) {
	t.Helper()
	c, ok := p.all[name]
	require.True(t, ok, "no recording called %s", name)
	request, err := hex.DecodeString(c.C2S)
	require.NoError(t, err, name)
	answer, err = hex.DecodeString(c.S2C)
	require.NoError(t, err, name)
	return request, answer
}

// Scanned gives the image in an answer to virt-full-scan.
func Scanned(t testing.TB, request, answer []byte) []byte {
	t.Helper()
	rq := wire.NewReader(bytes.NewReader(request))
	rq.Str()
	rq.Str()
	rq.U32()
	words := rq.StrVec()
	require.NoError(t, rq.Err())
	r := wire.NewReader(bytes.NewReader(answer))
	for range 3 {
		r.Str()
	}
	return scanned(t, r, words)
}

// scanned reads size, pieces and end.
func scanned(t testing.TB, r *wire.Reader, words []string) []byte {
	t.Helper()
	bulk := int64(256 << 10)
	if len(words) > 2 {
		n, err := block.ParseSize(words[2])
		require.NoError(t, err)
		bulk = n
	}
	left := block.LB(r.U64()).Bytes()
	require.NoError(t, r.Err())
	var image []byte
	for left > 0 {
		require.Equal(t, wire.CtlNext, r.U8())
		piece := make([]byte, min(bulk, left))
		if n := r.U64(); n > 0 {
			enc := make([]byte, n)
			r.Raw(enc)
			require.NoError(t, r.Err())
			require.NoError(t, compress.Decompress(piece, enc, compress.Snappy))
		}
		image = append(image, piece...)
		left -= int64(len(piece))
	}
	require.Equal(t, wire.CtlEnd, r.U8())
	require.NoError(t, r.Err())
	return image
}

// long renders what follows "accept" in the answers of bhash and virt-full-scan.
// Compressed pieces are compared by what they expand to. A failure of bhash is
// rendered alike whether its text stands at the place of a control byte, as
// from an original, or behind the end byte.
func long(t testing.TB, protocol string, words []string, r *wire.Reader, rest []byte, add func(string) string) {
	t.Helper()
	switch protocol {
	case wire.ProtoVirtFullScan:
		image := scanned(t, r, words)
		add(fmt.Sprintf("image of %d bytes %x", len(image), sha256.Sum256(image)))
		add(r.Str())
	case wire.ProtoBlockHash:
		if rest[0] == wire.CtlDummy || rest[0] == wire.CtlEnd {
			for r.U8() == wire.CtlDummy {
				continue
			}
		}
		if add(r.Str()) == wire.OK {
			var hash [16]byte
			r.Raw(hash[:])
			add(hex.EncodeToString(hash[:]))
		}
	}
}
