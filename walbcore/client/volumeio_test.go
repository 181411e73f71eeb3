package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// serveIO answers walbsh-volume-io for a volume of size blocks: answer gives
// the word for a request, and may end the connection by closing it.
func serveIO(t *testing.T, size block.LB, answer func(c *wire.Conn, req wire.VolumeIORequest) string) *fake {
	t.Helper()
	return newFake(t, func(c *wire.Conn, _ int32) {
		if welcome(c) != wire.ProtoVolumeIO {
			return
		}
		c.R.StrVec()
		c.W.Str(wire.OK)
		c.W.U64(uint64(size))
		for c.Flush() == nil {
			var req wire.VolumeIORequest
			req.Decode(c.R)
			if c.R.Err() != nil || req.Op == wire.IOEnd {
				return
			}
			data := make([]byte, req.DataLen())
			if req.Op == wire.IOWrite {
				c.R.Raw(data)
			}
			word := answer(c, req)
			c.W.Str(word)
			if word == wire.OK && req.Op == wire.IORead {
				c.W.Raw(bytes.Repeat([]byte{byte(req.Offset >> 20)}, len(data)))
			}
		}
	})
}

func TestLargeIOIsCutIntoRequests(t *testing.T) {
	var reqs []wire.VolumeIORequest
	const size = 20 << 20
	f := serveIO(t, size/block.Size, func(_ *wire.Conn, req wire.VolumeIORequest) string {
		reqs = append(reqs, req)
		return wire.OK
	})
	v, err := New(f.addr, quick).OpenVolume(t.Context(), "vol")
	require.NoError(t, err)
	assert.EqualValues(t, size/block.Size, v.Size())
	p := make([]byte, 9<<20)
	n, err := v.WriteAt(p, 1<<20)
	require.NoError(t, err)
	assert.Equal(t, len(p), n)
	n, err = v.ReadAt(p, size-5<<20)
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, 5<<20, n)
	assert.Equal(t, []byte{15, 19}, []byte{p[0], p[5<<20-1]})
	require.NoError(t, v.Flush())
	require.NoError(t, v.Discard(0, size))
	require.NoError(t, v.Close())
	assert.Equal(t, []wire.VolumeIORequest{
		{Op: wire.IOWrite, Offset: 1 << 20, Length: 4 << 20},
		{Op: wire.IOWrite, Offset: 5 << 20, Length: 4 << 20},
		{Op: wire.IOWrite, Offset: 9 << 20, Length: 1 << 20},
		{Op: wire.IORead, Offset: 15 << 20, Length: 4 << 20},
		{Op: wire.IORead, Offset: 19 << 20, Length: 1 << 20},
		{Op: wire.IOFlush},
		{Op: wire.IODiscard, Length: size},
	}, reqs)
}

func TestARefusedRequestIsAnErrorWithTheServersWords(t *testing.T) {
	refused := false
	f := serveIO(t, 1<<14, func(_ *wire.Conn, req wire.VolumeIORequest) string {
		if req.Offset == 4<<20 && !refused {
			refused = true
			return "write: the disk is on fire"
		}
		return wire.OK
	})
	v, err := New(f.addr, quick).OpenVolume(t.Context(), "vol")
	require.NoError(t, err)
	n, err := v.WriteAt(make([]byte, 8<<20), 0)
	require.ErrorContains(t, err, "at a0 volume vol: write: the disk is on fire")
	assert.Equal(t, 4<<20, n)
	n, err = v.WriteAt(make([]byte, 4<<20), 4<<20)
	require.NoError(t, err, "the conversation goes on")
	assert.Equal(t, 4<<20, n)
	for _, bad := range []error{
		v.Discard(math.MaxInt64-511, math.MaxInt64-511), v.Discard(-512, 512), v.Discard(1, 512), v.Discard(0, 8<<20+512),
	} {
		require.Error(t, bad)
		assert.Contains(t, []walberr.Code{walberr.Usage, walberr.Range}, walberr.CodeOf(bad))
	}
	require.NoError(t, v.Close())
}

func TestAnswersMayTakeLongerThanTheTimeout(t *testing.T) {
	opts := quick
	opts.Timeout = 100 * time.Millisecond
	f := serveIO(t, 8, func(*wire.Conn, wire.VolumeIORequest) string {
		<-time.After(3 * opts.Timeout) // nobody announces that a client did not give up
		return wire.OK
	})
	v, err := New(f.addr, opts).OpenVolume(t.Context(), "vol")
	require.NoError(t, err)
	require.NoError(t, v.Flush())
	require.NoError(t, v.Close())

	silent := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		c.R.U8() // until the client gives up
	})
	_, err = New(silent.addr, opts).OpenVolume(t.Context(), "vol")
	assert.True(t, walberr.Is(err, walberr.Timeout), "but not to open it: %v", err)
}

func TestTheEndOfTheContextEndsAnIO(t *testing.T) {
	asked := make(chan struct{})
	f := serveIO(t, 8, func(c *wire.Conn, _ wire.VolumeIORequest) string {
		close(asked)
		c.R.U8() // until the client is gone
		return ""
	})
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	v, err := New(f.addr, quick).OpenVolume(ctx, "vol")
	require.NoError(t, err)
	go func() {
		<-asked
		cancel(gone)
	}()
	_, err = v.WriteAt(make([]byte, 512), 0)
	require.ErrorIs(t, err, gone)
	require.ErrorIs(t, v.Flush(), gone, "as everything from then on")
	require.Error(t, v.Close())
}

func TestVolumesThatCannotBeOpened(t *testing.T) {
	_, err := New("127.0.0.1:1", quick).OpenVolume(t.Context(), "bad_name")
	assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
	_, err = New("127.0.0.1:1", quick).OpenVolume(t.Context(), "vol")
	assert.True(t, walberr.Is(err, walberr.Unreachable), "%v", err)
	old := newFake(t, func(c *wire.Conn, _ int32) {
		_, _ = wire.ServerHello(c, "s0", func(string) bool { return false })
	})
	_, err = New(old.addr, quick).OpenVolume(t.Context(), "vol")
	require.ErrorContains(t, err, "bad protocol:walbsh-volume-io")
	short := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		c.W.Str(wire.OK)
		_ = c.Flush() // and no size
	})
	_, err = New(short.addr, quick).OpenVolume(t.Context(), "vol")
	assert.True(t, walberr.Is(err, walberr.Unreachable), "%v", err)
}
