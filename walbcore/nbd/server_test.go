package nbd

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/nbd/nbdtest"
	"walbsh/walbcore/walberr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a device in memory.
type disk struct {
	mu    sync.Mutex
	b     []byte
	syncs int
	bad   error // of reads and writes
}

// state gives a copy of the content, and the number of syncs.
func (d *disk) state() ([]byte, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Clone(d.b), d.syncs
}

func newDisk(blocks block.LB) *disk { return &disk{b: make([]byte, blocks.Bytes())} }

func (d *disk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bad != nil {
		return 0, d.bad
	}
	return copy(p, d.b[off:]), nil
}

func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.b[off:], p), d.bad
}

func (d *disk) Size() block.LB { return block.FromBytes(int64(len(d.b))) }

func (d *disk) NextData(_ context.Context, from block.LB) (block.Range, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	zero := func(b block.LB) bool { return block.IsZero(d.b[b.Bytes():][:block.Size]) }
	size := block.FromBytes(int64(len(d.b)))
	for from < size && zero(from) {
		from++
	}
	end := from
	for end < size && !zero(end) {
		end++
	}
	return block.Range{Addr: from, Len: end - from}, nil
}

func (d *disk) Zero(r block.Range) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.b[r.Addr.Bytes():r.End().Bytes()])
	return nil
}

func (d *disk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	return nil
}

// serving runs a server on an address, and gives its listener's address.
func serving(t *testing.T, s *Server, addr string) net.Addr {
	t.Helper()
	l, err := Listen(t.Context(), addr)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	return l.Addr()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

const anyPort = "127.0.0.1:0"

func dial(t *testing.T, addr net.Addr, name string) *nbdtest.Client {
	t.Helper()
	c, err := nbdtest.Dial(t.Context(), URI(addr, name))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestRandomRequests compares an export with a model, by two connections.
func TestRandomRequests(t *testing.T) {
	const size = block.LB(512)
	socket := "unix:" + filepath.Join(t.TempDir(), "nbd.sock")
	for _, at := range []string{anyPort, socket} {
		d, s := newDisk(size), NewServer(Config{Log: quiet()})
		require.NoError(t, s.Add(Export{Name: "v@1", Device: d}))
		addr := serving(t, s, at)
		clients := []*nbdtest.Client{dial(t, addr, "v@1"), dial(t, addr, "v@1")}
		model, rnd := make([]byte, size.Bytes()), rand.New(rand.NewPCG(1, 2))
		for i := range 300 {
			c := clients[rnd.IntN(2)]
			from := block.LB(rnd.Uint64N(uint64(size)))
			n := min(1+block.LB(rnd.Uint64N(32)), size-from)
			part := model[from.Bytes():(from + n).Bytes()]
			switch i % 4 {
			case 0:
				p := bytes.Repeat([]byte{byte(1 + i%200)}, len(part))
				copy(part, p)
				_, err := c.Do(nbdtest.Write, uint16(i/4%2), from.Bytes(), uint32(len(p)), p)
				require.NoError(t, err)
			case 1:
				clear(part)
				_, err := c.Do([]uint16{nbdtest.Trim, nbdtest.WriteZeroes}[i/4%2], 0, from.Bytes(), uint32(len(part)), nil)
				require.NoError(t, err)
			case 2:
				got := make([]byte, len(part))
				_, err := c.ReadAt(got, from.Bytes())
				require.NoError(t, err)
				require.True(t, bytes.Equal(part, got), "request %d", i)
			default:
				sameExtents(t, c, model, from.Bytes(), uint32(len(part)))
			}
		}
		content, before := d.state()
		assert.True(t, bytes.Equal(model, content))
		_, err := clients[0].Do(nbdtest.Flush, 0, 0, 0, nil)
		require.NoError(t, err)
		_, after := d.state()
		assert.Equal(t, before+1, after)
		assert.Positive(t, before, "writes with FUA sync")
	}
}

// sameExtents demands that block status tells holes where zeros are.
func sameExtents(t *testing.T, c *nbdtest.Client, model []byte, off int64, length uint32) {
	t.Helper()
	list, err := c.Extents(off, length)
	require.NoError(t, err)
	var sum uint32
	for _, e := range list {
		for at := sum; at < sum+e.Bytes; at += block.Size {
			require.Equal(t, e.Hole, block.IsZero(model[off+int64(at):][:block.Size]))
		}
		sum += e.Bytes
	}
	assert.Equal(t, length, sum)
}

func TestRequestsThatAreRefused(t *testing.T) {
	s := NewServer(Config{Log: quiet()})
	rw, ro := newDisk(64), newDisk(64)
	require.NoError(t, s.Add(Export{Name: "rw", Device: rw}))
	require.NoError(t, s.Add(Export{Name: "ro", Device: ro, ReadOnly: true}))
	addr := serving(t, s, anyPort)
	sector := bytes.Repeat([]byte{7}, 512)
	for _, c := range []struct {
		export      string
		kind, flags uint16
		off         int64
		length      uint32
		data        []byte
		want        nbdtest.Error
	}{
		{"ro", nbdtest.Write, 0, 0, 512, sector, errPerm},
		{"ro", nbdtest.Trim, 0, 0, 512, nil, errPerm},
		{"ro", nbdtest.WriteZeroes, 0, 0, 512, nil, errPerm},
		{"rw", nbdtest.Write, 0, 64 * 512, 512, sector, errNoSpace},
		{"rw", nbdtest.Trim, 0, 512, 64 * 512, nil, errNoSpace},
		{"rw", nbdtest.Write, 0, -512, 512, sector, errNoSpace},
		{"rw", nbdtest.Read, 0, 63 * 512, 1024, nil, errInvalid},
		{"rw", nbdtest.Read, 0, -512, 1024, nil, errInvalid},
		{"rw", nbdtest.Read, 0, 1, 512, nil, errInvalid},
		{"rw", nbdtest.Read, 0, 0, 100, nil, errInvalid},
		{"rw", nbdtest.Read, 0, 0, 1 << 31, nil, errOverflow},
		{"rw", nbdtest.Read, 1 << 9, 0, 512, nil, errInvalid},
		{"rw", nbdtest.BlockStatus, 0, 0, 0, nil, errInvalid},
		{"rw", 5, 0, 0, 512, nil, errInvalid},
		{"rw", 99, 0, 0, 0, nil, errInvalid},
	} {
		client := dial(t, addr, c.export)
		_, err := client.Do(c.kind, c.flags, c.off, c.length, c.data)
		assert.Equal(t, c.want, err, "%+v", c)
		_, err = client.ReadAt(make([]byte, 512), 0)
		require.NoError(t, err, "the connection goes on after %+v", c)
	}
	assert.True(t, block.IsZero(rw.b) && block.IsZero(ro.b))
	ro.mu.Lock()
	ro.bad = errors.New("no disk")
	ro.mu.Unlock()
	_, err := dial(t, addr, "ro").ReadAt(make([]byte, 512), 0)
	assert.Equal(t, nbdtest.Error(errIO), err)
}

// TestConversations plays what clients of other kinds send.
func TestConversations(t *testing.T) {
	s := NewServer(Config{Log: quiet()})
	d := newDisk(2)
	d.b[0] = 0xab
	require.NoError(t, s.Add(Export{Name: "a", Device: d, ReadOnly: true, Description: "an a"}))
	require.NoError(t, s.Add(Export{Name: "b", Device: newDisk(2)}))
	addr := serving(t, s, anyPort)
	raw := func() net.Conn {
		nc, _, err := nbdtest.Raw(t.Context(), URI(addr, ""))
		require.NoError(t, err)
		t.Cleanup(func() { _ = nc.Close() })
		return nc
	}

	list, err := nbdtest.Option(raw(), 3, nil)
	require.NoError(t, err)
	assert.Equal(t, [][]byte{[]byte("\x00\x00\x00\x01a"), []byte("\x00\x00\x00\x01b")}, list)

	infos, err := nbdtest.Option(raw(), 6, []byte("\x00\x00\x00\x01a\x00\x01\x00\x02"))
	require.NoError(t, err)
	var text []string
	for _, i := range infos {
		text = append(text, hex.EncodeToString(i))
	}
	assert.Equal(t, []string{"0000000000000000040001" + "07", "00030000020000001000" + "02000000", "0002" + hex.EncodeToString([]byte("an a"))}, text)

	nc := raw() // as old clients: no header, simple replies
	_, err = nc.Write([]byte("IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x01a" +
		"\x25\x60\x95\x13\x00\x00\x00\x00cookie!!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00" +
		"\x25\x60\x95\x13\x00\x00\x00\x02cookie!!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	require.NoError(t, err)
	got, err := io.ReadAll(nc)
	require.NoError(t, err)
	assert.Equal(t, "00000000000004000107"+"6744669800000000"+hex.EncodeToString([]byte("cookie!!"))+"ab", hex.EncodeToString(got[:27]))
	assert.Len(t, got, 10+16+512)

	for _, c := range []struct {
		option uint32
		data   string
		want   nbdtest.Error
	}{
		{5, "", repErrUnsup},
		{3, "x", repErrInvalid},
		{8, "x", repErrInvalid},
		{7, "\x00\x00\x00\x01c\x00\x00", repErrUnknown},
		{7, "\x00\x00\x00\x09a\x00\x00", repErrInvalid},
		{7, "", repErrInvalid},
		{10, "\x00\x00\x00\x01a\x00\x00\x00\x00", repErrInvalid}, // without structured replies
		{6, "\x00\x00\x00\x01a\xff\xff", repErrInvalid},
		{2, "", 0},
	} {
		_, err := nbdtest.Option(raw(), c.option, []byte(c.data))
		if c.want == 0 {
			require.NoError(t, err)
			continue
		}
		assert.Equal(t, c.want, err, "%+v", c)
	}
}

func TestExportsComeAndGo(t *testing.T) {
	s := NewServer(Config{Log: quiet(), MaxConns: 3})
	e := Export{Name: "a", Device: newDisk(8)}
	require.NoError(t, s.Add(e))
	assert.Equal(t, walberr.Conflict, walberr.CodeOf(s.Add(e)))
	for _, name := range []string{"", "a\n", string(make([]byte, 5000))} {
		assert.Equal(t, walberr.Usage, walberr.CodeOf(s.Add(Export{Name: name, Device: newDisk(1)})))
	}
	addr := serving(t, s, anyPort)
	one, two := dial(t, addr, "a"), dial(t, addr, "a")
	assert.Equal(t, 2, s.Clients("a"))
	_, err := one.ReadAt(make([]byte, 512), 0)
	require.NoError(t, err)
	s.Remove("a")
	s.Remove("a")
	_, err = two.ReadAt(make([]byte, 512), 0)
	require.Error(t, err)
	assert.Zero(t, s.Clients("a"))
	require.NoError(t, s.Add(e))
	require.Eventually(t, func() bool {
		c, err := nbdtest.Dial(t.Context(), URI(addr, "a"))
		if err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
		return err != nil // the fourth one
	}, 10*time.Second, time.Millisecond)
}

// TestSilentClients: a handshake that does not end does not stay.
func TestSilentClients(t *testing.T) {
	s := NewServer(Config{Log: quiet(), Handshake: 50 * time.Millisecond})
	addr := serving(t, s, anyPort)
	nc, _, err := nbdtest.Raw(t.Context(), URI(addr, ""))
	require.NoError(t, err)
	defer nc.Close()
	_, err = io.ReadAll(nc)
	assert.NoError(t, err, "closed in order")
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(t.Context(), "unix:"+path)
	require.NoError(t, err)
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, l.Close()) // as a process that was killed
	l, err = Listen(t.Context(), "unix:"+path)
	require.NoError(t, err)
	assert.Equal(t, "nbd+unix:///v@1?socket="+path, URI(l.Addr(), "v@1"))
	require.NoError(t, l.Close())

	require.NoError(t, os.WriteFile(path, []byte("kept"), 0o600))
	_, err = Listen(t.Context(), "unix:"+path)
	assert.Equal(t, walberr.Conflict, walberr.CodeOf(err))
	_, err = Listen(t.Context(), "unix:"+filepath.Join(t.TempDir(), string(bytes.Repeat([]byte("x"), 120))))
	require.ErrorContains(t, err, "107 bytes")
	_, err = Listen(t.Context(), "nowhere")
	assert.Equal(t, walberr.Unavailable, walberr.CodeOf(err))
	assert.Equal(t, "nbd://localhost:10809/v@1", URI(&net.TCPAddr{IP: net.IPv6unspecified, Port: 10809}, "v@1"))
	assert.Equal(t, "nbd://[::1]:10809/v@1", URI(&net.TCPAddr{IP: net.IPv6loopback, Port: 10809}, "v@1"))
}

// FuzzConnection: whatever a client sends, its connection ends, and others go on.
func FuzzConnection(f *testing.F) {
	request := "\x25\x60\x95\x13\x00\x00\x00\x00cookie!!\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00"
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x01a" + request))
	f.Add([]byte("\x00\x00\x00\x01IHAVEOPT\x00\x00\x00\x08\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x0a\x00\x00\x00\x1c\x00\x00\x00\x01a\x00\x00\x00\x01\x00\x00\x00\x0fbase:allocation" +
		"IHAVEOPT\x00\x00\x00\x07\x00\x00\x00\x07\x00\x00\x00\x01a\x00\x00" + request + request))
	f.Add([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x02\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewServer(Config{Log: quiet()})
		d := newDisk(8)
		require.NoError(t, s.Add(Export{Name: "a", Device: d}))
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.serveConn(t.Context(), theirs)
		}()
		go func() {
			_, _ = ours.Write(data)
			_ = ours.Close()
		}()
		_, _ = io.Copy(io.Discard, ours)
		<-ended
		assert.Zero(t, s.Clients("a"))
		assert.Len(t, d.b, 8*512)
	})
}
