package simnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers connections by serve until the test ends.
func server(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return l.Addr().String()
}

// echo sends everything back and then ends.
func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

func relay(t *testing.T, target string) *Relay {
	t.Helper()
	r, err := Listen(target)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

func dial(t *testing.T, r *Relay) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.TCPConn)
}

// attempt connects and reads; a reset may be seen by either.
func attempt(r *Relay) error {
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadAll(c)
	return err
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func done(rs []Record) bool { return len(rs) == 1 && rs[0].Done() }

func TestEverythingPassesAndIsRecorded(t *testing.T) {
	r := relay(t, server(t, echo))
	c := dial(t, r)
	data := make([]byte, 3<<20)
	rand.New(rand.NewSource(1)).Read(data)
	hello := []byte("\x04ctl0\x80\xc8" + string(bytes.Repeat([]byte("p"), 200)) + "\x01")
	sent := append(bytes.Clone(hello), data...)
	go func() {
		for _, part := range [][]byte{sent[:3], sent[3:7], sent[7:]} {
			_, _ = c.Write(part)
		}
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.True(t, bytes.Equal(sent, got))
	require.NoError(t, r.Await(within(t), done))

	rec := r.Records()[0]
	assert.Equal(t, "ctl0", rec.ClientID)
	assert.Equal(t, string(bytes.Repeat([]byte("p"), 200)), rec.Protocol)
	assert.Equal(t, [2]int64{int64(len(sent)), int64(len(sent))}, rec.Bytes)
	assert.Equal(t, int64(len(sent)), r.Bytes(ToClient))
	assert.False(t, rec.Cut)
	up, down := rec.Stream(ToServer), rec.Stream(ToClient)
	assert.Equal(t, RecordLimit, len(up)+len(down), "kept up to the limit")
	assert.True(t, bytes.HasPrefix(sent, up))
	assert.True(t, bytes.HasPrefix(sent, down))
}

func TestOrderOfChunksIsTheOrderOfTheConversation(t *testing.T) {
	r := relay(t, server(t, echo))
	c := dial(t, r)
	for _, word := range []string{"a", "bb", "ccc"} {
		_, err := c.Write([]byte(word))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, len(word)))
		require.NoError(t, err)
	}
	var order []string
	for _, chunk := range r.Records()[0].Chunks {
		order = append(order, chunk.Dir.String()+" "+string(chunk.Data))
	}
	assert.Equal(t, []string{"c2s a", "s2c a", "c2s bb", "s2c bb", "c2s ccc", "s2c ccc"}, order)
}

func TestCutAfterDeliversExactlySoMuch(t *testing.T) {
	for _, n := range []int64{1, 100, 65536, 200_000} {
		var got bytes.Buffer
		end := make(chan error, 1)
		r := relay(t, server(t, func(c *net.TCPConn) {
			_, err := io.Copy(&got, c)
			end <- err
		}))
		r.SetRules(Rule{CutAfter: n, Cut: ToServer})
		c := dial(t, r)
		_, _ = c.Write(make([]byte, 1<<20))
		require.NoError(t, <-end)
		assert.EqualValues(t, n, got.Len())
		require.NoError(t, r.Await(within(t), done))
		assert.True(t, r.Records()[0].Cut)
	}
}

func TestResetIsSeenAsSuch(t *testing.T) {
	r := relay(t, server(t, func(c *net.TCPConn) { _, _ = c.Write(make([]byte, 10)); _, _ = io.Copy(io.Discard, c) }))
	r.SetRules(Rule{CutAfter: 10, Cut: ToClient, Reset: true})
	assert.ErrorIs(t, attempt(r), syscall.ECONNRESET)
}

func TestHangHoldsBytesUntilLifted(t *testing.T) {
	r := relay(t, server(t, echo))
	r.SetRules(Rule{Hang: true})
	c := dial(t, r)
	_, err := c.Write([]byte("hello"))
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	require.NoError(t, r.Await(within(t), func(rs []Record) bool { return len(rs) == 1 && len(rs[0].Chunks) == 1 }))
	assert.Zero(t, r.Bytes(ToServer))
	r.SetRules()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	assert.Equal(t, "hello", string(got))
}

func TestRulesByProtocol(t *testing.T) {
	r := relay(t, server(t, echo))
	r.SetRules(Rule{Protocol: "repl-sync3", Refuse: true})
	c := dial(t, r)
	_, err := c.Write([]byte("\x02a0\x0arepl-sync3\x01"))
	require.NoError(t, err)
	_, err = io.ReadAll(c)
	require.ErrorIs(t, err, syscall.ECONNRESET)

	c = dial(t, r)
	_, err = c.Write([]byte("\x02a0\x03get\x01"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 8))
	assert.NoError(t, err)
}

func TestRefuseAndDeadTarget(t *testing.T) {
	r := relay(t, "127.0.0.1:1")
	require.ErrorIs(t, attempt(r), syscall.ECONNRESET, "nobody listens")
	r.SetTarget(server(t, echo))
	r.SetRules(Rule{Refuse: true})
	require.ErrorIs(t, attempt(r), syscall.ECONNRESET)
	r.SetRules()
	c := dial(t, r)
	require.NoError(t, c.CloseWrite())
	_, err := io.ReadAll(c)
	assert.NoError(t, err)
}

// TestLatencyAndRateSlowDown asserts lower bounds only.
func TestLatencyAndRateSlowDown(t *testing.T) {
	r := relay(t, server(t, echo))
	r.SetRules(Rule{Latency: 20 * time.Millisecond, Rate: 1 << 20})
	c := dial(t, r)
	start := time.Now()
	_, err := c.Write(make([]byte, 32<<10))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 32<<10))
	require.NoError(t, err)
	assert.GreaterOrEqual(t, time.Since(start), 100*time.Millisecond, "twice 20 ms and twice 31 ms")
}

func TestCutAllAndClose(t *testing.T) {
	r := relay(t, server(t, echo))
	c := dial(t, r)
	require.NoError(t, r.Await(within(t), func(rs []Record) bool { return len(rs) == 1 }))
	r.CutAll()
	_, err := c.Read(make([]byte, 1))
	require.Error(t, err)

	hung := dial(t, r)
	r.SetRules(Rule{Hang: true})
	_, _ = hung.Write([]byte("x"))
	waited := make(chan error, 1)
	go func() { waited <- r.Await(context.Background(), func([]Record) bool { return false }) }()
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	assert.ErrorIs(t, <-waited, net.ErrClosed)
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	r := relay(t, "127.0.0.1:1")
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	assert.ErrorIs(t, r.Await(ctx, func([]Record) bool { return false }), gone)
}

func TestForgetKeepsWhatIsUnderWay(t *testing.T) {
	r := relay(t, server(t, echo))
	ended, open := dial(t, r), dial(t, r)
	for _, c := range []*net.TCPConn{ended, open} {
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err)
	}
	require.NoError(t, ended.CloseWrite())
	require.NoError(t, r.Await(within(t), func(records []Record) bool { return records[0].Done() || records[1].Done() }))
	r.Forget()
	require.Len(t, r.Records(), 1)
	require.NoError(t, open.CloseWrite())
	require.NoError(t, r.Await(within(t), func(records []Record) bool { return records[0].Done() }))
	assert.Equal(t, int64(2), r.Bytes(ToServer), "counters go on")
}
