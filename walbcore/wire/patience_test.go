package wire

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestPatienceLastsUntilItIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		c := NewConn(t.Context(), a, Options{Timeout: 10 * time.Second})
		defer c.Close()
		restore := c.Patience(time.Minute)
		go func() {
			time.Sleep(50 * time.Second)
			_, _ = b.Write([]byte{7})
		}()
		assert.Equal(t, uint8(7), c.R.U8())
		restore()
		begin := time.Now()
		c.R.U8()
		require.Error(t, c.R.Err())
		assert.Equal(t, walberr.Timeout, walberr.CodeOf(c.R.Err()))
		assert.Equal(t, 10*time.Second, time.Since(begin))
	})
}

func TestPatienceNeverShortensALimit(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	c := NewConn(t.Context(), a, Options{})
	defer c.Close()
	c.Patience(time.Second)()
	assert.Zero(t, c.sock.timeout)
	c.SetTimeout(time.Hour)
	restore := c.Patience(time.Second)
	assert.Equal(t, time.Hour, c.sock.timeout)
	restore()
}

func TestBothSidesKnowTheirPeer(t *testing.T) {
	a, b := net.Pipe()
	client := NewConn(t.Context(), a, Options{})
	server := NewConn(t.Context(), b, Options{})
	defer client.Close()
	defer server.Close()
	done := make(chan error, 1)
	go func() {
		_, err := ServerHello(server, "a0", func(string) bool { return true })
		done <- err
	}()
	_, err := ClientHello(client, "s0", "get")
	require.NoError(t, err)
	require.NoError(t, <-done)
	assert.Equal(t, "a0", client.Peer())
	assert.Equal(t, "s0", server.Peer())
}
