package storage

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// newVolume makes a rig with an initialized volume.
func newVolume(t *testing.T, change func(*rig)) *rig {
	t.Helper()
	r := newRig(t)
	if change != nil {
		change(r)
	}
	r.start(t)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", "/dev/walb/w0"))
	return r
}

func (r *rig) openVolume(t *testing.T) *client.Volume {
	t.Helper()
	v, err := r.client().OpenVolume(t.Context(), "v0")
	require.NoError(t, err)
	return v
}

func TestAVolumeIsUsedLikeADisk(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	v := r.openVolume(t)
	defer v.Close()
	assert.Equal(t, block.LB(rigVolumeSize), v.Size())
	model := noise(rigVolumeSize * block.Size)
	for off, n := range map[int64]int64{ // more than one request, and odd places
		0: 3<<20 + 512, 3<<20 + 512: 1<<20 - 1024, int64(len(model)) - 512: 512,
	} {
		done, err := v.WriteAt(model[off:off+n], off)
		require.NoError(t, err)
		assert.EqualValues(t, n, done)
	}
	require.NoError(t, v.Discard(1<<20, 64<<10))
	clear(model[1<<20 : 1<<20+64<<10])
	require.NoError(t, v.Flush())
	got := make([]byte, len(model)+4096)
	n, err := v.ReadAt(got, 0)
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, len(model), n)
	assert.True(t, bytes.Equal(model, got[:n]))
	assert.True(t, bytes.Equal(model, r.content(t)))
	n, err = v.ReadAt(got[:512], int64(len(model)))
	require.ErrorIs(t, err, io.EOF)
	assert.Zero(t, n)
	l := r.dev.Lsids()
	assert.Equal(t, l.Latest, l.Permanent)
}

func TestTheClientRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	v := r.openVolume(t)
	defer v.Close()
	before := r.content(t)
	for name, do := range map[string]func() error{
		"misaligned write":      func() error { _, err := v.WriteAt(make([]byte, 512), 100); return err },
		"misaligned length":     func() error { _, err := v.WriteAt(make([]byte, 100), 512); return err },
		"misaligned read":       func() error { _, err := v.ReadAt(make([]byte, 100), 0); return err },
		"misaligned discard":    func() error { return v.Discard(0, 100) },
		"write behind the end":  func() error { _, err := v.WriteAt(make([]byte, 1024), int64(len(before))-512); return err },
		"discard behind it":     func() error { return v.Discard(int64(len(before)), 512) },
		"negative offset":       func() error { _, err := v.WriteAt(make([]byte, 512), -512); return err },
		"negative read":         func() error { _, err := v.ReadAt(make([]byte, 512), -512); return err },
		"negative discard":      func() error { return v.Discard(0, -512) },
		"offset near the limit": func() error { return v.Discard(math.MaxInt64-511, 0) },
	} {
		err := do()
		require.Error(t, err, name)
		assert.Contains(t, []walberr.Code{walberr.Usage, walberr.Range}, walberr.CodeOf(err), "%s: %v", name, err)
	}
	_, err := v.WriteAt(nil, 0)
	require.NoError(t, err, "nothing is not much")
	assert.True(t, bytes.Equal(before, r.content(t)))
	_, err = v.WriteAt(bytes.Repeat([]byte{7}, 512), 0)
	require.NoError(t, err)
}

func TestBadRequestsDoNotEndTheConversation(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	before := r.content(t)
	conn := r.rawIO(t, "v0")
	require.Equal(t, wire.OK, conn.R.Str())
	conn.R.U64()
	end := uint64(len(before))
	for _, req := range []wire.VolumeIORequest{
		{Op: wire.IOWrite, Offset: 100, Length: 512},
		{Op: wire.IOWrite, Length: 100},
		{Op: wire.IORead, Length: 100},
		{Op: wire.IODiscard, Length: 100},
		{Op: wire.IOWrite, Offset: end - 512, Length: 1024},
		{Op: wire.IORead, Offset: end - 512, Length: 1024},
		{Op: wire.IORead, Offset: end, Length: 512},
		{Op: wire.IODiscard, Offset: end, Length: 512},
		{Op: wire.IODiscard, Offset: math.MaxInt64 - 511, Length: 511},
	} {
		req.Encode(conn.W)
		if req.Op == wire.IOWrite {
			conn.W.Raw(make([]byte, req.Length))
		}
		require.NoError(t, conn.Flush())
		word := conn.R.Str()
		require.NoError(t, conn.R.Err())
		assert.Contains(t, word, "expected", "%+v", req)
	}
	assert.True(t, bytes.Equal(before, r.content(t)))
	wire.VolumeIORequest{Op: wire.IOFlush}.Encode(conn.W)
	require.NoError(t, conn.Flush())
	require.Equal(t, wire.OK, conn.R.Str())
}

// rawIO opens a conversation without the client.
func (r *rig) rawIO(t *testing.T, words ...string) *wire.Conn {
	t.Helper()
	conn, err := wire.Dial(t.Context(), r.addr, wire.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = wire.ClientHello(conn, "ctl0", wire.ProtoVolumeIO)
	require.NoError(t, err)
	conn.W.StrVec(words)
	require.NoError(t, conn.Flush())
	return conn
}

func TestRequestsBeyondAllBoundsEndTheConversation(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	for name, req := range map[string]wire.VolumeIORequest{
		"unknown operation": {Op: 5},
		"huge write":        {Op: wire.IOWrite, Length: wire.MaxIO + 512},
		"huge read":         {Op: wire.IORead, Length: 1 << 40},
		"overflow":          {Op: wire.IODiscard, Offset: 1 << 62, Length: 1 << 62},
		"negative":          {Op: wire.IORead, Offset: math.MaxUint64 - 511, Length: 512},
	} {
		conn := r.rawIO(t, "v0")
		require.Equal(t, wire.OK, conn.R.Str())
		require.EqualValues(t, rigVolumeSize, conn.R.U64())
		req.Encode(conn.W)
		require.NoError(t, conn.Flush())
		conn.R.Str()
		assert.True(t, walberr.Is(conn.R.Err(), walberr.Unreachable), "%s: %v", name, conn.R.Err())
	}
	for want, words := range map[string][]string{
		"volumeIOServer:bad size:1:0":         nil,
		"volumeIOServer:bad size:1:2":         {"v0", "v1"},
		"volumeIOServer:empty string:0":       {""},
		"bad volId format: bad character:_:_": {"_"},
		"volumeIOServer:bad state:Clear":      {"v1"},
	} {
		conn := r.rawIO(t, words...)
		assert.Equal(t, want, conn.R.Str())
	}
}

// TestRequestsMayBeSentAhead: the answers come in order, and the goodbye is
// heard.
func TestRequestsMayBeSentAhead(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	conn := r.rawIO(t, "v0")
	require.Equal(t, wire.OK, conn.R.Str())
	conn.R.U64()
	const n = 100
	for i := range n {
		wire.VolumeIORequest{Op: wire.IOWrite, Offset: 512, Length: 512}.Encode(conn.W)
		conn.W.Raw(bytes.Repeat([]byte{byte(i)}, 512))
		wire.VolumeIORequest{Op: wire.IORead, Offset: 512, Length: 512}.Encode(conn.W)
	}
	wire.VolumeIORequest{Op: wire.IOEnd}.Encode(conn.W)
	require.NoError(t, conn.Flush())
	for i := range n {
		require.Equal(t, wire.OK, conn.R.Str())
		require.Equal(t, wire.OK, conn.R.Str())
		got := make([]byte, 512)
		conn.R.Raw(got)
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, 512), got)
	}
	_, err := conn.R.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	assert.Zero(t, r.log.count("ERROR"))
}

func TestManyUsersAtOnce(t *testing.T) {
	t.Parallel()
	r := newVolume(t, nil)
	var wg sync.WaitGroup
	for i := range maxVolumeIO {
		v := r.openVolume(t)
		defer v.Close()
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i + 1)}, 4096)
			for k := range 4 {
				if _, err := v.WriteAt(data, int64(i*4+k)*4096); !assert.NoError(t, err) {
					return
				}
			}
			got := make([]byte, 4*4096)
			if _, err := v.ReadAt(got, int64(i*4)*4096); !assert.NoError(t, err) {
				return
			}
			assert.Equal(t, bytes.Repeat(data, 4), got)
		})
	}
	_, err := r.client().OpenVolume(t.Context(), "v0")
	require.ErrorContains(t, err, fmt.Sprintf("exceeds max conversations:%d", maxVolumeIO))
	wg.Wait()
	_, err = r.client().Volumes(t.Context())
	require.NoError(t, err, "they do not count against the connections")
}

// TestAWriteIsWithdrawnWithItsConnection: one that waits for room in the log
// does not happen when nobody waits for it any more.
func TestAWriteIsWithdrawnWithItsConnection(t *testing.T) {
	t.Parallel()
	r := newVolume(t, func(r *rig) { r.logSize, r.options.OnFull = 1<<20, wdev.Block })
	ctx, cancel := context.WithCancel(t.Context())
	v, err := r.client().OpenVolume(ctx, "v0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { // nobody gives the log up, so that it fills
		for i := 0; ; i++ {
			if _, err := v.WriteAt(bytes.Repeat([]byte{1}, 64<<10), int64(i)<<16); err != nil {
				ended <- err
				return
			}
		}
	}()
	full := func() bool { return r.dev.Lsids().Usage()+129 > r.dev.LogCapacity() }
	r.awaitFact(t, "a full log", full)
	other := r.openVolume(t)
	defer other.Close()
	_, err = other.ReadAt(make([]byte, 512), 0)
	require.NoError(t, err, "reads go on")
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Error(t, v.Flush(), "after a failure all fails")
	_ = v.Close()
	r.awaitFact(t, "the end of the conversation", func() bool { return r.server.conversations.Load() == 1 })
	before := r.content(t)
	require.NoError(t, r.client().Start(t.Context(), "v0", client.RoleStandby))
	require.NoError(t, other.Flush())
	_, err = other.WriteAt(bytes.Repeat([]byte{2}, 64<<10), 0)
	require.NoError(t, err, "there is room again")
	copy(before, bytes.Repeat([]byte{2}, 64<<10))
	assert.True(t, bytes.Equal(before, r.content(t)))
}

func TestTheStorageIsAskedToOfferIt(t *testing.T) {
	t.Parallel()
	for _, offered := range []bool{true, false} {
		r := newVolume(t, func(r *rig) { r.change = func(c *Config) { c.VolumeIO = offered } })
		has, err := r.client().HasFeature(t.Context(), FeatureVolumeIO)
		require.NoError(t, err)
		assert.Equal(t, offered, has)
		v, err := r.client().OpenVolume(t.Context(), "v0")
		if offered {
			require.NoError(t, err)
			require.NoError(t, v.Close())
			continue
		}
		require.ErrorContains(t, err, "bad protocol:"+wire.ProtoVolumeIO)
	}
}

// FuzzVolumeIO sends any bytes behind the opening, and goes away: the
// conversation ends, whatever they were.
func FuzzVolumeIO(f *testing.F) {
	for _, reqs := range [][]wire.VolumeIORequest{
		{{Op: wire.IORead, Length: 512}, {Op: wire.IOEnd}},
		{{Op: wire.IOFlush}, {Op: wire.IODiscard, Offset: 512, Length: 512}},
		{{Op: wire.IORead, Length: wire.MaxIO}, {Op: 9}},
		{{Op: wire.IODiscard, Offset: 1, Length: 1 << 62}},
	} {
		f.Add(wire.Marshal(func(w *wire.Writer) {
			for _, r := range reqs {
				r.Encode(w)
			}
		}))
	}
	f.Add(wire.Marshal(func(w *wire.Writer) {
		wire.VolumeIORequest{Op: wire.IOWrite, Offset: 1024, Length: 512}.Encode(w)
		w.Raw(make([]byte, 511))
	}))
	f.Fuzz(func(t *testing.T, p []byte) {
		dev := newFakeDevice()
		client, server := net.Pipe()
		conn := wire.NewConn(t.Context(), server, wire.Options{})
		ended := make(chan error, 1)
		go func() {
			ended <- converse(t.Context(), conn, dev)
			conn.Close()
		}()
		var reading sync.WaitGroup
		reading.Go(func() { _, _ = io.Copy(io.Discard, client) })
		_, _ = client.Write(p) // the server may have had enough before
		client.Close()
		reading.Wait()
		<-ended
	})
}
