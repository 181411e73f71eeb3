package client

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

// recordedScript is a recorded conversation as a script.
func recordedScript(t *testing.T, name string) script {
	t.Helper()
	c2s, s2c := wiretest.New(t, "").Recorded(t, name)
	r := wire.NewReader(bytes.NewReader(c2s))
	new(wire.Hello).Decode(r)
	require.NoError(t, r.Err())
	s := wire.NewReader(bytes.NewReader(s2c))
	s.Str()
	s.Str()
	require.NoError(t, s.Err())
	return script{c2s[:r.Pos()], c2s[r.Pos():], s2c[:s.Pos()], s2c[s.Pos():]}
}

// TestRecordedArchiveCommands: our bytes are those of the original's
// controller, and its server's words our failures.
func TestRecordedArchiveCommands(t *testing.T) {
	mib := func(n int64) block.LB { return block.FromBytes(n << 20) }
	hash := func(want string, o ScanOptions) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			h, err := c.BlockHash(ctx, "v0", 1, o)
			if err == nil {
				assert.Equal(t, want, h.String())
			}
			return err
		}
	}
	base, err := meta.ParseState("<|2|-->|3,5|>-20200101000000", 0)
	require.NoError(t, err)
	uuid, err := meta.ParseUUID("000102030405060708090a0b0c0d0e0f")
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		do      func(ctx context.Context, c *Client) error
		code    walberr.Code
		refusal string
	}{
		{"archive-apply", func(ctx context.Context, c *Client) error { return c.Apply(ctx, "v0", 3) }, "", ""},
		{"archive-apply-bad-gid", func(ctx context.Context, c *Client) error { return c.Apply(ctx, "v0", 0) }, walberr.NotFound, "gid not applicable:v0:0:<|0,1|>"},
		{"archive-merge", func(ctx context.Context, c *Client) error { return c.MergeSize(ctx, "v0", 0, 100) }, "", ""},
		{"archive-merge-gid", func(ctx context.Context, c *Client) error { return c.MergeGid(ctx, "v0", 0, 3) }, walberr.NotFound, "There is no mergeable diff"},
		{"archive-merge-while-resizing", func(ctx context.Context, c *Client) error { return c.MergeSize(ctx, "v0", 0, 100) }, walberr.Conflict, "Resize:1"},
		{"archive-disable-snapshot-2", func(ctx context.Context, c *Client) error { return c.DisableSnapshot(ctx, "v0", 1, 2) }, "", ""},
		{"archive-enable-snapshot", func(ctx context.Context, c *Client) error { return c.EnableSnapshot(ctx, "v0", 1) }, "", ""},
		{"archive-enable-snapshot-missing", func(ctx context.Context, c *Client) error { return c.EnableSnapshot(ctx, "v0", 99) }, walberr.NotFound, "change snapshot failed:v0:1"},
		{"archive-gc-diff", func(ctx context.Context, c *Client) error { return c.GCDiff(ctx, "v0") }, "", ""},
		{"archive-resize", func(ctx context.Context, c *Client) error { return c.Resize(ctx, "v0", mib(8), false) }, "", ""},
		{"archive-resize-zeroclear", func(ctx context.Context, c *Client) error { return c.Resize(ctx, "v0", mib(9), true) }, "", ""},
		{"archive-resize-shrink", func(ctx context.Context, c *Client) error { return c.Resize(ctx, "v0", mib(1), false) }, walberr.Range, "You tried to shrink the volume"},
		{"archive-del-cold", func(ctx context.Context, c *Client) error { return c.DelCold(ctx, "v0", 1) }, "", ""},
		{"archive-dbg-reload-metadata", func(ctx context.Context, c *Client) error { return c.ReloadMetadata(ctx, "v0") }, "", ""},
		{"archive-dbg-set-uuid", func(ctx context.Context, c *Client) error { return c.SetUUID(ctx, "v0", uuid) }, "", ""},
		{"archive-dbg-set-state", func(ctx context.Context, c *Client) error { return c.SetState(ctx, "v0", "Archived") }, "", ""},
		{"archive-dbg-set-base", func(ctx context.Context, c *Client) error { return c.SetBase(ctx, "v0", base) }, "", ""},
		{"archive-bhash-bulk-size", hash("ca58ba8953d728913959d01b181c82a4", ScanOptions{Bulk: 128, Size: mib(1)}), "", ""},
		{"archive-bhash-too-large", hash("", ScanOptions{Bulk: 128, Size: mib(1024)}), walberr.Unavailable, "the archive failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := New(serve(t, recordedScript(t, c.name)), quick)
			err := c.do(t.Context(), cl)
			if c.code == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.refusal)
			assert.Equal(t, c.code, walberr.CodeOf(err))
		})
	}
}

// scanServer answers a scan with bytes behind "accept", and takes the ack.
func scanServer(t *testing.T, behind []byte) *Client {
	t.Helper()
	f := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		c.W.Str(wire.Accept)
		c.W.Raw(behind)
		_ = c.Flush()
		if c.R.Ack(); c.R.Err() == nil {
			c.W.Str(wire.OK)
			_ = c.Finish()
		}
	})
	return New(f.addr, quick)
}

func TestScans(t *testing.T) {
	request, answer := wiretest.New(t, "").Recorded(t, "archive-virt-full-scan")
	want := wiretest.Scanned(t, request, answer)
	r := wire.NewReader(bytes.NewReader(answer))
	r.Str()
	r.Str()
	r.Str()
	behind := answer[r.Pos() : len(answer)-len("\x02ok")]
	var got bytes.Buffer
	o := ScanOptions{Bulk: 128, Size: 512}
	require.NoError(t, scanServer(t, behind).VirtualFullScan(t.Context(), "v0", 1, &got, o))
	assert.True(t, bytes.Equal(want, got.Bytes()))

	for name, c := range map[string]struct {
		behind []byte
		code   walberr.Code
	}{
		"cut":            {behind[:len(behind)/2], walberr.Unreachable},
		"broken off":     {wire.Marshal(func(w *wire.Writer) { w.U64(512); w.U8(wire.CtlError) }), walberr.Stopped},
		"huge piece":     {wire.Marshal(func(w *wire.Writer) { w.U64(512); w.U8(wire.CtlNext); w.U64(1 << 40) }), walberr.Checksum},
		"bad piece":      {wire.Marshal(func(w *wire.Writer) { w.U64(512); w.U8(wire.CtlNext); w.U64(1); w.U8(0xff) }), walberr.Checksum},
		"bad end":        {wire.Marshal(func(w *wire.Writer) { w.U64(1); w.U8(wire.CtlNext); w.U64(0); w.U8(7) }), walberr.Checksum},
		"nothing at all": {nil, walberr.Timeout},
	} {
		t.Run(name, func(t *testing.T) {
			cl := scanServer(t, c.behind)
			cl.opts.Timeout = 50e6
			if name == "cut" {
				cl.opts.Timeout = 50e6
				c.code = walberr.Timeout
			}
			err := cl.VirtualFullScan(t.Context(), "v0", 1, io.Discard, o)
			assert.Equal(t, c.code, walberr.CodeOf(err), "%v", err)
		})
	}
	for _, bad := range []ScanOptions{{Bulk: 8193}, {SleepPct: 100}, {SleepPct: -1}} {
		assert.True(t, walberr.Is(scanServer(t, nil).VirtualFullScan(t.Context(), "v0", 1, io.Discard, bad), walberr.Usage))
	}
}

func TestVerify(t *testing.T) {
	fault := wire.Fault{What: wire.FaultBase, Addr: 8, Blocks: 8, Hurts: []meta.Gid{1, 2}, Error: "input/output error"}
	answers := func(behind func(w *wire.Writer)) *Client {
		f := newFake(t, func(c *wire.Conn, _ int32) {
			welcome(c)
			c.R.StrVec()
			c.W.Str(wire.OK)
			behind(c.W)
			_ = c.Finish()
		})
		return New(f.addr, quick)
	}
	var seen []uint64
	faults, err := answers(func(w *wire.Writer) {
		w.U8(wire.CtlDummy)
		w.U64(5)
		w.U64(10)
		w.U8(wire.CtlNext)
		w.Str(fault.String())
		w.U8(wire.CtlEnd)
	}).Verify(t.Context(), "v0", 0, func(done, total uint64) { seen = append(seen, done, total) })
	require.NoError(t, err)
	assert.Equal(t, []wire.Fault{fault}, faults)
	assert.Equal(t, []uint64{5, 10}, seen)
	for name, c := range map[string]struct {
		behind func(w *wire.Writer)
		code   walberr.Code
		text   string
	}{
		"broken off": {func(w *wire.Writer) { w.U8(wire.CtlError); w.Str("force stopped") }, walberr.Unavailable, "force stopped"},
		"odd byte":   {func(w *wire.Writer) { w.U8(9) }, walberr.Checksum, "control byte 9"},
		"odd line":   {func(w *wire.Writer) { w.U8(wire.CtlNext); w.Str("x") }, walberr.Checksum, "name:value"},
		"cut":        {func(*wire.Writer) {}, walberr.Unreachable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answers(c.behind).Verify(t.Context(), "v0", 0, nil)
			assert.Equal(t, c.code, walberr.CodeOf(err), "%v", err)
			assert.ErrorContains(t, err, c.text)
		})
	}
}

// FuzzScan gives arbitrary bytes for a scan.
func FuzzScan(f *testing.F) {
	f.Add([]byte{0, 0, 1}, uint16(1))
	f.Add([]byte{0, 4, 0x80, 4, 0, 0x20, 1}, uint16(8))
	f.Fuzz(func(t *testing.T, p []byte, size uint16) {
		var got bytes.Buffer
		err := receiveScan(t.Context(), wire.NewReader(bytes.NewReader(p)), &got, block.LB(size), 4)
		if err == nil {
			require.Equal(t, block.LB(size).Bytes(), int64(got.Len()))
		}
	})
}
