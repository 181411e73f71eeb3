package wire

import (
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func knownProtocol(name string) bool { return name == ProtoGet || name == ProtoStatus }

func TestHello(t *testing.T) {
	heard := make(chan Hello, 1)
	addr := listen(t, func(c *Conn) {
		h, err := ServerHello(c, "px0", knownProtocol)
		assert.NoError(t, err)
		heard <- h
		assert.Equal(t, []string{"host-type"}, c.R.StrVec())
		c.W.Str(OK)
		c.W.Str(HostProxy)
		c.W.Ack()
		assert.NoError(t, c.Finish())
	})
	c := dialTest(t, addr)
	id, err := ClientHello(c, "ctl0", ProtoGet)
	require.NoError(t, err)
	assert.Equal(t, "px0", id)
	assert.Equal(t, Hello{"ctl0", ProtoGet, Version}, <-heard)
	c.W.StrVec([]string{"host-type"})
	require.NoError(t, c.Flush())
	word, err := Status(c.R, id, Accept, OK)
	require.NoError(t, err)
	assert.Equal(t, OK, word)
	assert.Equal(t, HostProxy, c.R.Str())
	c.R.Ack()
	require.NoError(t, c.R.Err())
}

func TestUnknownProtocolIsARefusal(t *testing.T) {
	addr := listen(t, func(c *Conn) {
		_, err := ServerHello(c, "px0", knownProtocol)
		assert.ErrorContains(t, err, `unknown protocol "nosuch"`)
	})
	id, err := ClientHello(dialTest(t, addr), "ctl0", "nosuch")
	assert.Equal(t, "px0", id)
	var refusal *Refusal
	require.ErrorAs(t, err, &refusal)
	assert.Equal(t, Refusal{Server: "px0", Text: "findServerHandler:bad protocol:nosuch:ctl0"}, *refusal)
}

// TestHelloAnswers sends recorded openings and compares what comes back.
func TestHelloAnswers(t *testing.T) {
	for _, tc := range []struct {
		name, c2s string
		s2c       []string // strings
		code      walberr.Code
	}{
		{"version", "0463746c30067374617475730200", []string{"px0", "run1stNegotiateAsServer:version differ c/s:2:1"}, walberr.Usage},
		{"big version", "0463746c300673746174757382ffffffff00", []string{"px0", "run1stNegotiateAsServer:version differ c/s:4294967295:1"}, walberr.Usage},
		{"long version", "01630673746174757383010000000000000000", []string{"loadVariableInt:bad header:\x83"}, walberr.Checksum},
		{"huge id", "83000000000000004063", []string{"basic_string::_M_replace_aux"}, walberr.Checksum},
		{"end in the id", "056374", []string{"stream:read"}, walberr.Unreachable},
		{"no byte at all", "", []string{"stream:read"}, walberr.Unreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c2s, err := hex.DecodeString(tc.c2s)
			require.NoError(t, err)
			addr := listen(t, func(c *Conn) {
				_, err := ServerHello(c, "px0", knownProtocol)
				assert.Error(t, err)
				assert.Equal(t, tc.code, walberr.CodeOf(err))
			})
			c := dialTest(t, addr)
			c.W.Raw(c2s)
			require.NoError(t, c.Flush())
			require.NoError(t, c.sock.closeWrite())
			got, err := io.ReadAll(c.R)
			require.NoError(t, err)
			want := Marshal(func(w *Writer) {
				for _, s := range tc.s2c {
					w.Str(s)
				}
			})
			assert.Equal(t, string(want), string(got))
		})
	}
}

func TestHelloIsBounded(t *testing.T) {
	addr := listen(t, func(c *Conn) {
		_, err := ServerHello(c, "px0", knownProtocol)
		assert.ErrorContains(t, err, "at most")
	})
	c := dialTest(t, addr)
	_, err := ClientHello(c, strings.Repeat("x", maxID+1), ProtoGet)
	assert.Error(t, err)
}

func TestVolumeNames(t *testing.T) {
	for _, good := range []string{"v", "vol", "Vol-0", strings.Repeat("a", 64)} {
		assert.NoError(t, CheckVolumeName(good), good)
	}
	for _, bad := range []struct{ name, text string }{
		{"", "bad s format: size::0"},
		{strings.Repeat("a", 65), "bad s format: size:" + strings.Repeat("a", 65) + ":65"},
		{"a_b", "bad volId format: bad character:a_b:_"},
		{"../x", "bad volId format: bad character:../x:."},
		{"v\n", "bad volId format: bad character:v"},
	} {
		err := CheckVolumeName(bad.name)
		require.Error(t, err, bad.name)
		assert.Equal(t, bad.text, RefusalText(err))
		assert.True(t, walberr.Is(err, walberr.Usage))
	}
}

func TestAddresses(t *testing.T) {
	a, err := ParseAddr("localhost:10201")
	require.NoError(t, err)
	assert.Equal(t, Addr{"localhost", 10201}, a)
	assert.Equal(t, "localhost:10201", a.String())
	assert.Equal(t, "[::1]:7", Addr{"::1", 7}.DialString())
	for _, bad := range []struct{ s, text string }{
		{"localhost", "parseAddrPort:parse error:localhost"},
		{":1", "AddrPort::verify:addr is empty"},
		{"h:0", "AddrPort::verify:port must not be 0"},
		{"h:65536", "atoi::convertToUint:65536"},
		{"::1:7", "atoi::convertToUint::1:7"},
		{"h:", "atoi::convertToUint:"},
		{"h:-1", "atoi::convertToUint:-1"},
	} {
		_, err := ParseAddr(bad.s)
		require.Error(t, err, bad.s)
		assert.Equal(t, bad.text, RefusalText(err))
		assert.True(t, walberr.Is(err, walberr.Usage))
	}
}
