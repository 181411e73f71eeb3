package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// pipe gives a Conn over an in-memory connection and its other end.
func pipe(ctx context.Context, t *testing.T, opts Options) (*Conn, net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	c := NewConn(ctx, a, opts)
	t.Cleanup(func() {
		c.Close()
		b.Close()
	})
	return c, b
}

// listen serves one connection on loopback by serve, and answers its address.
// The test ends after serve has returned.
func listen(t *testing.T, serve func(c *Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		c := NewConn(context.Background(), nc, Options{Timeout: DefaultTimeout})
		defer c.Close()
		serve(c)
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func dialTest(t *testing.T, addr string) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), addr, Options{Timeout: DefaultTimeout})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTimeoutIsPerRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{Timeout: 10 * time.Second})
		go func() {
			for range 30 {
				time.Sleep(9 * time.Second)
				peer.Write([]byte{7})
			}
		}()
		begin := time.Now()
		p := make([]byte, 30)
		c.R.Raw(p)
		require.NoError(t, c.R.Err())
		assert.Equal(t, 270*time.Second, time.Since(begin))

		begin = time.Now()
		c.R.Raw(make([]byte, 5))
		assert.Equal(t, 10*time.Second, time.Since(begin))
		assert.ErrorIs(t, c.R.Err(), os.ErrDeadlineExceeded)
		assert.True(t, walberr.Is(c.R.Err(), walberr.Timeout))
		assert.Equal(t, "Socket:readSome:Resource temporarily unavailable(11):5", RefusalText(c.R.Err()))
	})
}

func TestNoTimeout(t *testing.T) {
	for name, opts := range map[string]Options{
		"zero":       {},
		"keep-alive": {Timeout: 10 * time.Second, KeepAlive: net.KeepAliveConfig{Enable: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := pipe(t.Context(), t, opts)
				go func() {
					time.Sleep(time.Hour)
					peer.Write([]byte{7})
				}()
				assert.EqualValues(t, 7, c.R.U8())
				require.NoError(t, c.R.Err())
			})
		})
	}
}

func TestSetTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t.Context(), t, Options{Timeout: 10 * time.Second})
		c.SetTimeout(time.Minute)
		begin := time.Now()
		c.R.U8()
		assert.Equal(t, time.Minute, time.Since(begin))
	})
}

func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{Timeout: 10 * time.Second})
		go func() { // takes a piece each 9 seconds, then no more
			for range 5 {
				time.Sleep(9 * time.Second)
				io.ReadFull(peer, make([]byte, writePiece))
			}
		}()
		begin := time.Now()
		c.W.Raw(make([]byte, 6*writePiece))
		assert.Equal(t, 55*time.Second, time.Since(begin))
		assert.ErrorIs(t, c.W.Err(), os.ErrDeadlineExceeded)
		assert.True(t, walberr.Is(c.W.Err(), walberr.Timeout))
		assert.Equal(t, c.W.Err(), c.Flush())
		assert.Equal(t, c.W.Err(), c.Err())
		assert.Equal(t, c.W.Err(), c.Finish())
	})
}

func TestContextEndsReadsAndWrites(t *testing.T) {
	why := errors.New("force stopped")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		c, _ := pipe(ctx, t, Options{Timeout: time.Minute})
		var wg sync.WaitGroup
		wg.Go(func() { c.R.U8() })
		wg.Go(func() { c.W.Raw(make([]byte, 1<<20)) })
		synctest.Wait()
		assert.NoError(t, c.Err())
		cancel(why)
		wg.Wait()
		assert.ErrorIs(t, c.R.Err(), why)
		assert.ErrorIs(t, c.W.Err(), why)
	})
}

func TestEndedConnectionStaysEnded(t *testing.T) {
	why := errors.New("force stopped")
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{Timeout: time.Minute})
		ctx, cancel := context.WithCancelCause(t.Context())
		release := c.Bind(ctx)
		cancel(why)
		synctest.Wait()
		release()
		go peer.Write([]byte{1})
		c.R.U8()
		require.ErrorIs(t, c.R.Err(), why)
		c.W.U8(1)
		assert.ErrorIs(t, c.Flush(), why)
		peer.Close()
	})
}

func TestReleasedBinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{Timeout: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		release := c.Bind(ctx)
		release()
		release()
		cancel()
		synctest.Wait()
		go peer.Write([]byte{9})
		assert.EqualValues(t, 9, c.R.U8())
		assert.NoError(t, c.R.Err())
	})
}

func TestContextDeadlineIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, _ := pipe(ctx, t, Options{})
		c.R.U8()
		assert.ErrorIs(t, c.R.Err(), context.DeadlineExceeded)
		assert.True(t, walberr.Is(c.R.Err(), walberr.Timeout))
	})
}

func TestFinish(t *testing.T) {
	for _, tc := range []struct {
		name string
		peer func(c *Conn)
		want string // text of the failure
	}{
		{"the peer closes", func(c *Conn) {}, ""},
		{"the peer sends a byte", func(c *Conn) { c.W.U8('Z'); c.Flush() }, "Socket:waitForClose:readSome:bad size:1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := make(chan string, 1)
			addr := listen(t, func(c *Conn) {
				got <- c.R.Str()
				c.R.U8()
				tc.peer(c)
				assert.ErrorIs(t, c.R.Err(), io.EOF)
			})
			c := dialTest(t, addr)
			c.W.Str("done")
			err := c.Finish()
			assert.Equal(t, "done", <-got)
			if tc.want == "" {
				assert.NoError(t, err)
				return
			}
			assert.Equal(t, tc.want, RefusalText(err))
			assert.True(t, walberr.Is(err, walberr.Checksum))
		})
	}
}

func TestFinishTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{Timeout: 10 * time.Second})
		go io.Copy(io.Discard, peer)
		c.W.Str("accept")
		begin := time.Now()
		err := c.Finish()
		assert.Equal(t, 10*time.Second, time.Since(begin))
		assert.True(t, walberr.Is(err, walberr.Timeout), "%v", err)
	})
}

// TestRefusalSurvivesUnreadBytes sends a server much that it never reads: the
// refusal must arrive all the same.
func TestRefusalSurvivesUnreadBytes(t *testing.T) {
	asked := make(chan struct{})
	addr := listen(t, func(c *Conn) {
		<-asked
		assert.NoError(t, c.Refuse(&Error{Text: "bad state:Clear\n<<<STACKTRACE>>> 0x1"}))
	})
	c := dialTest(t, addr)
	c.W.Raw(make([]byte, 200<<10))
	require.NoError(t, c.Flush())
	close(asked)
	_, err := Status(c.R, "s0", OK)
	var refusal *Refusal
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, Refusal{Server: "s0", Text: "bad state:Clear"}, *refusal)
	assert.EqualError(t, err, "refused by s0: bad state:Clear")
	assert.EqualError(t, NewRefusal("", "no"), "refused: no")
}

func TestRefuseDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := pipe(t.Context(), t, Options{})
		var wg sync.WaitGroup
		wg.Go(func() { // never closes and goes on sending
			io.CopyN(io.Discard, peer, 3)
			for {
				time.Sleep(drainTime / 4)
				if _, err := peer.Write([]byte{0}); err != nil {
					return
				}
			}
		})
		begin := time.Now()
		require.NoError(t, c.Refuse(errors.New("no")))
		assert.Equal(t, drainTime, time.Since(begin))
		c.Close()
		wg.Wait()
	})
}

func TestBothDirectionsAtOnce(t *testing.T) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	send := func(c *Conn) {
		c.W.U64(uint64(len(data)))
		for at := 0; at < len(data); at += 100_000 {
			c.W.Raw(data[at:min(at+100_000, len(data))])
		}
		assert.NoError(t, c.Flush())
	}
	receive := func(c *Conn) {
		p := make([]byte, c.R.U64())
		c.R.Raw(p)
		assert.NoError(t, c.R.Err())
		assert.True(t, bytes.Equal(p, data))
	}
	both := func(c *Conn) {
		var wg sync.WaitGroup
		wg.Go(func() { send(c) })
		receive(c)
		wg.Wait()
		total := c.W.Pos()
		assert.Equal(t, total, c.BytesOut())
		assert.Equal(t, total, c.BytesIn())
		assert.Equal(t, total, c.R.Pos())
	}
	addr := listen(t, both)
	both(dialTest(t, addr))
}

func TestDialFailures(t *testing.T) {
	opts := Options{Timeout: DefaultTimeout}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := l.Addr().String()
	require.NoError(t, l.Close())
	_, err = Dial(t.Context(), gone, opts)
	assert.Equal(t, "Socket::connect:bad socket:Connection refused(111)", RefusalText(err))
	assert.True(t, walberr.Is(err, walberr.Unreachable))
	assert.ErrorContains(t, err, gone)

	_, err = Dial(t.Context(), gone, Options{Timeout: 1})
	assert.True(t, walberr.Is(err, walberr.Timeout), "%v", err)
	assert.Contains(t, RefusalText(err), "timeout")

	_, err = Dial(t.Context(), "nowhere", opts)
	assert.Equal(t, "parseSocketAddr:parse error:nowhere", RefusalText(err))
	assert.True(t, walberr.Is(err, walberr.Usage))

	why := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, err = Dial(ctx, gone, opts)
	assert.Equal(t, why, err)
}

func TestDialByName(t *testing.T) {
	addr := listen(t, func(c *Conn) { c.R.U8() })
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	c := dialTest(t, net.JoinHostPort("localhost", port))
	assert.Equal(t, addr, c.RemoteAddr().String())
	c.W.U8(1)
	require.NoError(t, c.Flush())
}

func TestDialIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	defer l.Close()
	c := dialTest(t, l.Addr().String())
	assert.Equal(t, l.Addr().String(), c.RemoteAddr().String())
}
