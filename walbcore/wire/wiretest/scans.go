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
func (p *Player) Recorded(tb testing.TB, name string) (request, answer []byte) {
	tb.Helper()
	c, ok := p.all[name]
	require.True(tb, ok, "no recording called %s", name)
	request, err := hex.DecodeString(c.C2S)
	require.NoError(tb, err, name)
	answer, err = hex.DecodeString(c.S2C)
	require.NoError(tb, err, name)
	return request, answer
}

// Scanned gives the image in an answer to virt-full-scan.
func Scanned(tb testing.TB, request, answer []byte) []byte {
	tb.Helper()
	rq := wire.NewReader(bytes.NewReader(request))
	rq.Str()
	rq.Str()
	rq.U32()
	words := rq.StrVec()
	require.NoError(tb, rq.Err())
	r := wire.NewReader(bytes.NewReader(answer))
	for range 3 {
		r.Str()
	}
	return scanned(tb, r, words)
}

// scanned reads size, pieces and end.
func scanned(tb testing.TB, r *wire.Reader, words []string) []byte {
	tb.Helper()
	bulk := int64(256 << 10)
	if len(words) > 2 {
		n, err := block.ParseSize(words[2])
		require.NoError(tb, err)
		bulk = n
	}
	left := block.LB(r.U64()).Bytes()
	require.NoError(tb, r.Err())
	var image []byte
	for left > 0 {
		require.Equal(tb, wire.CtlNext, r.U8())
		piece := make([]byte, min(bulk, left))
		if n := r.U64(); n > 0 {
			enc := make([]byte, n)
			r.Raw(enc)
			require.NoError(tb, r.Err())
			require.NoError(tb, compress.Decompress(piece, enc, compress.Snappy))
		}
		image = append(image, piece...)
		left -= int64(len(piece))
	}
	require.Equal(tb, wire.CtlEnd, r.U8())
	require.NoError(tb, r.Err())
	return image
}

// long renders what follows "accept" in the answers of bhash and virt-full-scan.
// Compressed pieces are compared by what they expand to. A failure of bhash is
// rendered alike whether its text stands at the place of a control byte, as
// from an original, or behind the end byte.
func long(tb testing.TB, protocol string, words []string, r *wire.Reader, rest []byte, add func(string) string) {
	tb.Helper()
	switch protocol {
	case wire.ProtoVirtFullScan:
		image := scanned(tb, r, words)
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
