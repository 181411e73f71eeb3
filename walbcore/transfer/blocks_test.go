package transfer

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// sendReceive runs a block stream from src to dst.
func sendReceive(t *testing.T, src, dst *memImage, s BlockStream, checkpoint func(context.Context, block.LB) error, o Options) (sendErr, recvErr error) {
	t.Helper()
	return converse(t,
		func(c *wire.Conn) error { return SendBlocks(t.Context(), c, src, s, o) },
		func(ctx context.Context, c *wire.Conn, _ Reply) error {
			return ReceiveBlocks(ctx, c, dst, s, checkpoint, o)
		})
}

// randomImage has zero stretches, and data that compress more or less.
func randomImage(rng *rand.Rand, size block.LB) *memImage {
	img := newImage(size, 0)
	for range rng.IntN(8) {
		n := 1 + rng.IntN(int(min(size, 40)))
		at := rng.IntN(int(size) - n + 1)
		alphabet := 1 + rng.IntN(255)
		for i := at * block.Size; i < (at+n)*block.Size; i++ {
			img.data[i] = byte(rng.IntN(alphabet))
		}
	}
	return img
}

func TestBlockStreamsCarryAnyImage(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 21))
		size := block.LB(1 + rng.IntN(300))
		src, dst := randomImage(rng, size), newImage(size, 0xee)
		s := BlockStream{
			Size: size, Start: block.LB(rng.IntN(int(size + 1))), Bulk: block.LB(1 + rng.IntN(50)),
			Compress: compress.Opt{Type: compress.Type(rng.IntN(6)), CPUs: uint8(1 + rng.IntN(3))},
		}
		var marks []block.LB
		var done uint64
		interval := block.LB(1 + rng.IntN(200))
		checkpoint := func(_ context.Context, at block.LB) error {
			assert.True(t, bytes.Equal(src.data[s.Start.Bytes():at.Bytes()], dst.data[s.Start.Bytes():at.Bytes()]), "written before the checkpoint")
			marks = append(marks, at)
			return nil
		}
		o := Options{SyncInterval: interval.Bytes()}
		sendErr, recvErr := converse(t,
			func(c *wire.Conn) error { return SendBlocks(t.Context(), c, src, s, Options{}) },
			func(ctx context.Context, c *wire.Conn, _ Reply) error {
				o.Progress = func(p Progress) {
					assert.GreaterOrEqual(t, p.Done, done)
					done = p.Done
				}
				return ReceiveBlocks(ctx, c, dst, s, checkpoint, o)
			})
		require.NoError(t, sendErr)
		require.NoError(t, recvErr)
		want := append(bytes.Repeat([]byte{0xee}, int(s.Start.Bytes())), src.data[s.Start.Bytes():]...)
		require.True(t, bytes.Equal(want, dst.data), "seed %d", seed)
		assert.Positive(t, dst.syncs)
		if s.Start < size {
			assert.Equal(t, uint64(size.Bytes()), done)
		}
		last := s.Start
		for _, at := range marks {
			assert.GreaterOrEqual(t, at-last, interval)
			last = at
		}
	}
}

func TestHolesAreNeitherReadNorSentNorWritten(t *testing.T) {
	src, dst := newImage(1<<15, 0), newImage(1<<15, 0xee)
	copy(src.data[4096*512:], "data")
	c, s := pipe(t)
	stream := BlockStream{Size: 1 << 15, Bulk: 64, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}}
	sendErr, recvErr := converseOn(t.Context(), c, s,
		func(c *wire.Conn) error { return SendBlocks(t.Context(), c, src, stream, Options{}) },
		func(ctx context.Context, c *wire.Conn, _ Reply) error {
			return ReceiveBlocks(ctx, c, dst, stream, nil, Options{})
		})
	require.NoError(t, sendErr)
	require.NoError(t, recvErr)
	assert.True(t, bytes.Equal(src.data, dst.data))
	assert.Equal(t, 64, src.reads, "blocks read")
	assert.Less(t, c.BytesOut(), uint64(4096))
	assert.ElementsMatch(t, []block.Range{{Addr: 0, Len: 4096}, {Addr: 4160, Len: 1<<15 - 4160}}, dst.zeros, "joined")
}

func TestFailuresOfImagesEndBlockStreams(t *testing.T) {
	stream := BlockStream{Size: 1 << 14, Bulk: 8, Compress: compress.Opt{Type: compress.LZ4, CPUs: 2}}
	boom := errors.New("disk is gone")
	for what, harm := range map[string]func(src, dst *memImage){
		"read":  func(src, _ *memImage) { src.failRead = boom },
		"write": func(_, dst *memImage) { dst.failWrite = boom },
		"sync":  func(_, dst *memImage) { dst.failSync = boom },
	} {
		src, dst := newImage(stream.Size, 0x77), newImage(stream.Size, 0)
		harm(src, dst)
		sendErr, recvErr := sendReceive(t, src, dst, stream, nil, Options{})
		if what == "read" {
			require.ErrorIs(t, sendErr, boom)
			require.Error(t, recvErr)
			continue
		}
		require.ErrorIs(t, recvErr, boom, what)
	}
	src, dst := newImage(stream.Size, 1), newImage(stream.Size, 0)
	_, recvErr := sendReceive(t, src, dst, stream, func(context.Context, block.LB) error { return boom }, Options{SyncInterval: 4096})
	require.ErrorIs(t, recvErr, boom)

	src.data = src.data[:4096] // the source is shorter than the stream
	sendErr, _ := sendReceive(t, src, dst, stream, nil, Options{})
	assert.Equal(t, walberr.Range, walberr.CodeOf(sendErr))
}

func TestAForceStopEndsBlockStreams(t *testing.T) {
	stream := BlockStream{Size: 1 << 14, Bulk: 8, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}}
	cause := errors.New("force stopped")
	src, dst := newImage(stream.Size, 0x33), newImage(stream.Size, 0)
	for _, who := range []string{"sender", "receiver"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := Options{Progress: func(p Progress) {
			if p.Done > p.Total/2 {
				cancel(cause)
			}
		}}
		var so, ro Options
		sctx, rctx := t.Context(), t.Context()
		if who == "sender" {
			so, sctx = stop, ctx
		} else {
			ro, rctx = stop, ctx
		}
		sendErr, recvErr := converse(t,
			func(c *wire.Conn) error { return SendBlocks(sctx, c, src, stream, so) },
			func(_ context.Context, c *wire.Conn, _ Reply) error {
				return ReceiveBlocks(rctx, c, dst, stream, nil, ro)
			})
		if who == "sender" {
			require.ErrorIs(t, sendErr, cause)
			require.Error(t, recvErr)
		} else {
			require.ErrorIs(t, recvErr, cause)
		}
		cancel(nil)
	}
}

func TestHostileFramesAreRefused(t *testing.T) {
	stream := BlockStream{Size: 64, Bulk: 16, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}}
	frame := func(size uint64, sum uint32, p []byte) []byte {
		return wire.Marshal(func(w *wire.Writer) {
			w.U64(size)
			w.U32(sum)
			w.Raw(p)
		})
	}
	for text, p := range map[string][]byte{
		"at most":           frame(1<<40, 0, nil),
		"invalid checksum":  frame(4, 1, []byte{1, 2, 3, 4}),
		"decompress snappy": frame(4, 0xfbfcfdff, []byte{1, 2, 3, 4}),
	} {
		_, recvErr := converse(t,
			func(c *wire.Conn) error {
				c.W.Raw(p)
				c.W.Raw(make([]byte, 3)) // zero frames behind it
				err := c.Flush()
				c.R.U8() // until the receiver gives up
				return err
			},
			func(ctx context.Context, c *wire.Conn, _ Reply) error {
				return ReceiveBlocks(ctx, c, newImage(64, 0), stream, nil, Options{})
			})
		require.ErrorContains(t, recvErr, text)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(recvErr), text)
	}
}
