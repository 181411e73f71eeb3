package wire

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// pair gives the two ends of a TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	s, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestASlowPeerIsNotSilent: as long as the peer takes bytes, writing does not
// time out, although the system lets a writer go on only when a good part of
// its large buffer is free.
func TestASlowPeerIsNotSilent(t *testing.T) {
	near, far := pair(t)
	c := NewConn(t.Context(), near, Options{Timeout: time.Second})
	written := make(chan struct{})
	go func() {
		defer far.Close()
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-written:
				return
			case <-tick.C:
			}
			if _, err := far.Read(buf); err != nil {
				return
			}
		}
	}()
	c.W.Raw(make([]byte, 5<<20))
	assert.NoError(t, c.Flush())
	close(written)
	require.NoError(t, c.Close())
}

// TestASilentPeerTimesOut: full buffers are no progress.
func TestASilentPeerTimesOut(t *testing.T) {
	near, _ := pair(t)
	c := NewConn(t.Context(), near, Options{Timeout: 100 * time.Millisecond})
	c.W.Raw(make([]byte, 64<<20))
	err := c.Flush()
	require.True(t, walberr.Is(err, walberr.Timeout), "%v", err)
	require.NoError(t, c.Close())
}
