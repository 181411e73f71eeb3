package transfer

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wlog"
)

var snappy1 = compress.Opt{Type: compress.Snappy, CPUs: 1}

// someLog packs writes and a discard, the first pack at lsid 7.
func someLog(tb testing.TB, pbs uint32, salt uint32, ios ...wlog.IO) (log *fakeLog, begin, end meta.Lsid) {
	tb.Helper()
	log = &fakeLog{pbs: int(pbs), data: map[meta.Lsid][]byte{}}
	packs, end := wlog.Packer{PBS: pbs, Ring: 1 << 20}.Pack(ios, 7)
	for _, p := range packs {
		b := make([]byte, (1+int(p.Total))*int(pbs))
		p.Encode(b, pbs, salt)
		log.put(p.Lsid, b)
	}
	return log, 7, end
}

func write(addr block.LB, fill byte, blocks int) wlog.IO {
	p := bytes.Repeat([]byte{fill}, blocks*block.Size)
	if fill > 100 { // not to be compressed
		rng := rand.NewChaCha8([32]byte{fill})
		_, _ = rng.Read(p)
	}
	return wlog.IO{Op: wlog.OpWrite, Addr: addr, Len: block.LB(blocks), Data: p}
}

func someIOs() []wlog.IO {
	return []wlog.IO{
		write(10, 1, 5), write(12, 200, 2),
		{Op: wlog.OpFlush},
		{Op: wlog.OpDiscard, Addr: 11, Len: 1},
		write(40, 0, 3),
		{Op: wlog.OpFlush},
		write(1, 3, 1),
	}
}

// sortedFile makes a sorted diff of one record for each address.
func sortedFile(tb testing.TB, uuid meta.UUID, fill byte, addrs ...block.LB) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := wdiff.NewSortedWriter(&buf, "diff", uuid, 0)
	require.NoError(tb, err)
	for _, a := range addrs {
		o, err := wdiff.NewIO(a, bytes.Repeat([]byte{fill}, 2*block.Size), nil, snappy1)
		require.NoError(tb, err)
		require.NoError(tb, w.Add(&o))
	}
	require.NoError(tb, w.Close())
	return buf.Bytes()
}

func openDiff(tb testing.TB, p []byte) *wdiff.File {
	tb.Helper()
	f, err := wdiff.Open("diff", bytes.NewReader(p), int64(len(p)))
	require.NoError(tb, err)
	return f
}

func clean(b, e meta.Gid, mergeable bool) meta.Diff {
	return meta.Diff{B: meta.CleanSnap(b), E: meta.CleanSnap(e), Mergeable: mergeable, Timestamp: 1700000000}
}

type (
	clientRole func(c *wire.Conn) error
	serverRole func(ctx context.Context, c *wire.Conn, reply Reply) error
)

// The four conversations, small.

func backupRoles(tb testing.TB) (clientRole, serverRole) {
	tb.Helper()
	img := newImage(40, 0)
	copy(img.data[5*512:], bytes.Repeat([]byte{9}, 5000))
	src, dst := &fakeStorage{img: img, uuid: meta.UUID{1}, gid: 3}, &fakeArchive{img: newImage(40, 0xee)}
	req := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: 40, Timestamp: 1, Bulk: 16, Compress: snappy1}
	return func(c *wire.Conn) error { return SendFullBackup(tb.Context(), c, req, src, Options{}) },
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeFullBackup(ctx, c, reply, dst.backup(), Options{})
		}
}

func wlogRoles(tb testing.TB) (clientRole, serverRole) {
	tb.Helper()
	log, begin, end := someLog(tb, 512, 77, someIOs()...)
	req := wire.WlogRequest{Volume: "vol", PBS: 512, Salt: 77, Size: 100, MaxLogPB: uint64(end - begin)}
	proxy := &fakeProxy{}
	return func(c *wire.Conn) error {
			if err := OfferWlog(tb.Context(), c, req); err != nil {
				return err
			}
			s := WlogStretch{Begin: begin, Limit: end, MaxPB: 1000, Diff: func(meta.Lsid) meta.Diff { return clean(0, 1, false) }}
			_, err := SendWlog(tb.Context(), c, req, log, s, Options{})
			return err
		}, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeWlog(ctx, c, reply, proxy, Options{})
		}
}

func wdiffRoles(tb testing.TB) (clientRole, serverRole) {
	tb.Helper()
	files := []*wdiff.File{openDiff(tb, sortedFile(tb, meta.UUID{1}, 1, 0, 10, 20)), openDiff(tb, sortedFile(tb, meta.UUID{1}, 2, 9, 30))}
	req := wire.WdiffRequest{Volume: "vol", HostType: wire.HostProxy, UUID: meta.UUID{1}, Size: 100, Diff: clean(0, 2, false)}
	a := &fakeArchive{}
	return func(c *wire.Conn) error { return SendWdiff(tb.Context(), c, req, files, snappy1, Options{}) },
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeWdiff(ctx, c, reply, a, Options{})
		}
}

func replRoles(tb testing.TB) (clientRole, serverRole) {
	tb.Helper()
	img := newImage(40, 0)
	copy(img.data[5*512:], bytes.Repeat([]byte{9}, 3000))
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(0), 1), size: 40, img: img, store: newStore(tb)}
	addDiff(tb, src.store, clean(0, 1, false), sortedFile(tb, meta.UUID{1}, 1, 0, 10))
	addDiff(tb, src.store, clean(1, 2, true), sortedFile(tb, meta.UUID{1}, 2, 12))
	p := ReplParams{Volume: "vol", ByGid: true, Gid: 2, Bulk: 16, FullCompress: snappy1, DiffCompress: snappy1, MaxMerge: 1 << 30}
	a := &fakeArchive{kind: wire.ReplFull, img: newImage(40, 0xee)}
	return func(c *wire.Conn) error {
			_, err := SendRepl(tb.Context(), c, p, src, Options{})
			return err
		}, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeRepl(ctx, c, reply, a, Options{})
		}
}

func TestBackupsSurviveNoCut(t *testing.T) {
	cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) { return backupRoles(t) })
}

func TestLogShipmentsSurviveNoCut(t *testing.T) {
	cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) { return wlogRoles(t) })
}

func TestDiffShipmentsSurviveNoCut(t *testing.T) {
	cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) { return wdiffRoles(t) })
}

func TestReplicationsSurviveNoCut(t *testing.T) {
	cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) { return replRoles(t) })
}

// TestAForceStopEndsEveryRole cancels each side of each conversation while the
// other one is silent.
func TestAForceStopEndsEveryRole(t *testing.T) {
	cause := errors.New("force stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	log, begin, end := someLog(t, 512, 77, someIOs()...)
	req := wire.WlogRequest{PBS: 512, Salt: 77}
	cancel(cause)
	for name, role := range map[string]func(c *wire.Conn) error{
		"SendFullBackup": func(c *wire.Conn) error {
			return SendFullBackup(ctx, c, wire.FullSyncRequest{}, &fakeStorage{}, Options{})
		},
		"ServeFullBackup": func(c *wire.Conn) error {
			return ServeFullBackup(ctx, c, nil, (&fakeArchive{}).backup(), Options{})
		},
		"OfferWlog": func(c *wire.Conn) error { return OfferWlog(ctx, c, req) },
		"SendWlog": func(c *wire.Conn) error {
			s := WlogStretch{Begin: begin, Limit: end, MaxPB: 99, Diff: func(meta.Lsid) meta.Diff { return clean(0, 1, false) }}
			_, err := SendWlog(ctx, c, req, log, s, Options{})
			return err
		},
		"ServeWlog":  func(c *wire.Conn) error { return ServeWlog(ctx, c, nil, &fakeProxy{}, Options{}) },
		"SendWdiff":  func(c *wire.Conn) error { return SendWdiff(ctx, c, wire.WdiffRequest{}, nil, snappy1, Options{}) },
		"ServeWdiff": func(c *wire.Conn) error { return ServeWdiff(ctx, c, nil, &fakeArchive{}, Options{}) },
		"SendRepl": func(c *wire.Conn) error {
			_, err := SendRepl(ctx, c, ReplParams{}, &fakeSource{}, Options{})
			return err
		},
		"ServeRepl": func(c *wire.Conn) error { return ServeRepl(ctx, c, nil, &fakeArchive{}, Options{}) },
	} {
		c, _ := pipe(t)
		require.ErrorIs(t, role(c), cause, name)
	}
}

func TestServersRefuseBadRequests(t *testing.T) {
	full := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: 40, Bulk: 16, Compress: snappy1}
	for text, change := range map[string]func(r *wire.FullSyncRequest){
		"backupServer:invalid hostType:foo":       func(r *wire.FullSyncRequest) { r.HostType = "foo" },
		"backupServer:bulkLb is zero":             func(r *wire.FullSyncRequest) { r.Bulk = 0 },
		"backupServer:too large bulkLb:8193:8192": func(r *wire.FullSyncRequest) { r.Bulk = 8193 },
		"backupServer:bad sizeLb:0":               func(r *wire.FullSyncRequest) { r.Size = 0 },
	} {
		req, src, dst := full, &fakeStorage{}, &fakeArchive{}
		change(&req)
		clientErr, _ := converse(t,
			func(c *wire.Conn) error { return SendFullBackup(t.Context(), c, req, src, Options{}) },
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeFullBackup(ctx, c, reply, dst.backup(), Options{})
			})
		var refused *wire.Refusal
		require.ErrorAs(t, clientErr, &refused)
		assert.Equal(t, text, refused.Text)
		assert.Empty(t, src.all())
		assert.Empty(t, dst.all())
	}
	for text, req := range map[string]wire.WlogRequest{
		"s2pWlogTransferServer:invalid pbs:1000": {PBS: 1000, Size: 40},
		"s2pWlogTransferServer:bad sizeLb:0":     {PBS: 512},
	} {
		proxy := &fakeProxy{}
		clientErr, _ := converse(t,
			func(c *wire.Conn) error { return OfferWlog(t.Context(), c, req) },
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWlog(ctx, c, reply, proxy, Options{})
			})
		require.ErrorContains(t, clientErr, text)
		assert.Empty(t, proxy.all())
	}
}

// TestDiffsOfVolumesWithoutASizeAreRefused: a size of 0 has no place for any
// record, and must not mean that records are not checked against it.
func TestDiffsOfVolumesWithoutASizeAreRefused(t *testing.T) {
	far := []*wdiff.File{openDiff(t, sortedFile(t, meta.UUID{1}, 1, 1<<40))}
	for word, want := range map[string]string{
		"":              "p2aWdiffTransferServer:bad sizeLb:0",
		wire.TooOldDiff: wire.TooOldDiff,
	} {
		a := &fakeArchive{word: word}
		clientErr, _ := converse(t,
			func(c *wire.Conn) error {
				req := wire.WdiffRequest{Volume: "vol", HostType: wire.HostProxy, UUID: meta.UUID{1}, Diff: clean(0, 1, false)}
				return SendWdiff(t.Context(), c, req, far, snappy1, Options{})
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWdiff(ctx, c, reply, a, Options{})
			})
		var refused *wire.Refusal
		require.ErrorAs(t, clientErr, &refused)
		assert.Equal(t, want, refused.Text)
		assert.Equal(t, []string{"judge |0|-->|1|"}, a.all(), "nothing is made")
	}
}

func TestLogsOfBothBlockSizesBecomeTheSameImage(t *testing.T) {
	for _, pbs := range []uint32{512, 4096} {
		log, begin, end := someLog(t, pbs, 5, someIOs()...)
		proxy := &fakeProxy{}
		req := wire.WlogRequest{Volume: "vol", UUID: meta.UUID{4}, PBS: pbs, Salt: 5, Size: 100, MaxLogPB: uint64(end - begin)}
		var last Progress
		clientErr, serverErr := converse(t,
			func(c *wire.Conn) error {
				if err := OfferWlog(t.Context(), c, req); err != nil {
					return err
				}
				s := WlogStretch{Begin: begin, Limit: end, MaxPB: 100, Diff: func(at meta.Lsid) meta.Diff { return clean(0, meta.Gid(at), true) }}
				reached, err := SendWlog(t.Context(), c, req, log, s, Options{Progress: func(p Progress) { last = p }})
				assert.Equal(t, end, reached)
				return err
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWlog(ctx, c, reply, proxy, Options{})
			})
		require.NoError(t, clientErr)
		require.NoError(t, serverErr)
		assert.Equal(t, clean(0, meta.Gid(end), true), proxy.diff)
		assert.Equal(t, last.Total, last.Done)
		want := newImage(100, 0x5a).data
		redo(t, log, begin, end, 5, want)
		assert.True(t, bytes.Equal(want, applied(t, proxy.file.Bytes(), 100)), "pbs %d", pbs)
	}
}

func TestALogStretchEndsAtAPackBoundary(t *testing.T) {
	log, begin, end := someLog(t, 512, 5, someIOs()...)
	req := wire.WlogRequest{Volume: "vol", PBS: 512, Salt: 5, Size: 100}
	for limit := begin; limit <= end; limit++ {
		var reached meta.Lsid
		proxy := &fakeProxy{}
		clientErr, serverErr := converse(t,
			func(c *wire.Conn) error {
				if err := OfferWlog(t.Context(), c, req); err != nil {
					return err
				}
				s := WlogStretch{Begin: begin, Limit: limit, MaxPB: 100, Diff: func(at meta.Lsid) meta.Diff { return clean(0, meta.Gid(at), true) }}
				var err error
				reached, err = SendWlog(t.Context(), c, req, log, s, Options{})
				return err
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWlog(ctx, c, reply, proxy, Options{})
			})
		require.NoError(t, clientErr)
		require.NoError(t, serverErr)
		assert.LessOrEqual(t, reached, limit)
		want := newImage(100, 0x5a).data
		redo(t, log, begin, reached, 5, want)
		assert.True(t, bytes.Equal(want, applied(t, proxy.file.Bytes(), 100)))
	}
}

func TestABrokenLogIsNotShipped(t *testing.T) {
	harm := map[string]func(l *fakeLog, begin meta.Lsid){
		"pack header":      func(l *fakeLog, begin meta.Lsid) { l.data[begin] = bytes.Repeat([]byte{1}, 512) },
		"data of a record": func(l *fakeLog, begin meta.Lsid) { l.data[begin+1] = bytes.Repeat([]byte{99}, 512) },
		"other pack": func(l *fakeLog, begin meta.Lsid) {
			other, _, _ := someLog(t, 512, 5, write(0, 1, 1))
			l.data[begin+1] = other.data[7]
		},
	}
	for what, h := range harm {
		log, begin, end := someLog(t, 512, 5, someIOs()...)
		h(log, begin)
		req := wire.WlogRequest{Volume: "vol", PBS: 512, Salt: 5, Size: 100}
		proxy := &fakeProxy{}
		clientErr, serverErr := converse(t,
			func(c *wire.Conn) error {
				if err := OfferWlog(t.Context(), c, req); err != nil {
					return err
				}
				_, err := SendWlog(t.Context(), c, req, log, WlogStretch{Begin: begin, Limit: end, MaxPB: 100}, Options{})
				return err
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWlog(ctx, c, reply, proxy, Options{})
			})
		var broken *BrokenLogError
		require.ErrorAs(t, clientErr, &broken, what)
		assert.Equal(t, begin, broken.Lsid)
		assert.Len(t, broken.Block, 512)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(clientErr))
		require.ErrorContains(t, serverErr, "isError", "the proxy is told")
		assert.Equal(t, []string{"accept vol", "create", "close"}, proxy.all())
	}
	log, begin, end := someLog(t, 512, 5, someIOs()...)
	req := wire.WlogRequest{PBS: 512, Salt: 5}
	c, _ := pipe(t)
	_, err := SendWlog(t.Context(), c, req, log, WlogStretch{Begin: begin, Limit: end, MaxPB: 3}, Options{})
	assert.Equal(t, walberr.Range, walberr.CodeOf(err), "a pack larger than one transfer may carry")
}

// logStream lets a test speak as storage, unit by unit.
type logStream struct{ w *wire.Writer }

func (s logStream) unit(p []byte) {
	s.w.U8(wire.CtlNext)
	s.w.U32(0)
	s.w.U32(uint32(len(p)))
	s.w.Raw(p)
}

func TestHostileLogsAreRefused(t *testing.T) {
	const salt = 5
	log, begin, _ := someLog(t, 512, salt, write(1, 200, 2))
	header, data := log.data[begin], slices.Concat(log.data[begin+1], log.data[begin+2])
	changed := func(p []byte, at int) []byte {
		q := slices.Clone(p)
		q[at]++
		return q
	}
	end := wlog.EndPack()
	endBlock := make([]byte, 512)
	end.Encode(endBlock, salt)
	far, _, _ := someLog(t, 512, salt, write(99, 200, 2))
	for text, speak := range map[string]func(s logStream){
		"control byte 3":      func(s logStream) { s.w.U8(3) },
		"control byte 9":      func(s logStream) { s.unit(header); s.w.U8(9) },
		"isError":             func(s logStream) { s.w.U8(2) },
		"unit of 511 bytes":   func(s logStream) { s.unit(header[:511]) },
		"unit of 1536 bytes":  func(s logStream) { s.unit(header); s.unit(append(data, data[:512]...)) },
		"without records":     func(s logStream) { s.unit(endBlock) },
		"pack header":         func(s logStream) { s.unit(changed(header, 100)) },
		"checksum":            func(s logStream) { s.unit(header); s.unit(changed(data, 3)) },
		"inside the volume":   func(s logStream) { s.unit(far.data[7]); s.unit(slices.Concat(far.data[8], far.data[9])) },
		"the next one, at 10": func(s logStream) { s.unit(header); s.unit(data); s.unit(header) },
		"diff is not clean": func(s logStream) {
			s.w.U8(wire.CtlEnd)
			s.w.Diff(meta.Diff{B: meta.Snap{B: 0, E: 1}, E: meta.CleanSnap(2)})
		},
		"diff is not clean:|0": func(s logStream) { s.w.U8(wire.CtlEnd); s.w.Diff(meta.Diff{Comp: true, E: meta.CleanSnap(2)}) },
		"compressed 513":       func(s logStream) { s.w.U8(0); s.w.U32(513); s.w.U32(512); s.w.Raw(make([]byte, 513)) },
		"decompress":           func(s logStream) { s.w.U8(0); s.w.U32(9); s.w.U32(512); s.w.Raw(make([]byte, 9)) },
	} {
		proxy := &fakeProxy{}
		_, serverErr := converse(t,
			func(c *wire.Conn) error {
				req := wire.WlogRequest{Volume: "vol", PBS: 512, Salt: salt, Size: 100}
				if err := OfferWlog(t.Context(), c, req); err != nil {
					return err
				}
				speak(logStream{c.W})
				_ = c.Flush()
				c.R.U8() // until the proxy gives up
				return nil
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWlog(ctx, c, reply, proxy, Options{})
			})
		require.ErrorContains(t, serverErr, text)
		assert.Equal(t, []string{"accept vol", "create", "close"}, proxy.all(), text)
	}
}

func TestHostilePackStreamsAreRefused(t *testing.T) {
	pack, err := openDiff(t, sortedFile(t, meta.UUID{}, 1, 10)).Packs().Next(nil)
	require.NoError(t, err)
	next := func(w *wire.Writer, size int, p []byte) {
		w.U8(wire.CtlNext)
		w.U64(uint64(size))
		w.Raw(p)
	}
	for text, speak := range map[string]func(w *wire.Writer){
		"control byte 2": func(w *wire.Writer) { w.U8(2) },
		"control byte 3": func(w *wire.Writer) { w.U8(3) },
		"control byte 9": func(w *wire.Writer) { next(w, len(pack), pack); w.U8(9) },
		"pack of":        func(w *wire.Writer) { next(w, wdiff.MaxPackSize+1, nil) },
		"with checksum":  func(w *wire.Writer) { p := slices.Clone(pack); p[9]++; next(w, len(p), p) },
		"do not overlap": func(w *wire.Writer) { next(w, len(pack), pack); next(w, len(pack), pack) },
		"inside the volume": func(w *wire.Writer) {
			p, _ := openDiff(t, sortedFile(t, meta.UUID{}, 1, 99)).Packs().Next(nil)
			next(w, len(p), p)
		},
	} {
		a := &fakeArchive{}
		_, serverErr := converse(t,
			func(c *wire.Conn) error {
				wire.WdiffRequest{Volume: "vol", HostType: wire.HostProxy, Size: 100, Diff: clean(0, 1, true)}.Encode(c.W)
				if err := ask(c, wire.Accept); err != nil {
					return err
				}
				speak(c.W)
				_ = c.Flush()
				c.R.U8()
				return nil
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeWdiff(ctx, c, reply, a, Options{})
			})
		require.ErrorContains(t, serverErr, text)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(serverErr), text)
		assert.Equal(t, []string{"judge |0|-->|1|", "create", "close"}, a.all(), text)
	}
}

func TestMergedDiffsArriveAsOne(t *testing.T) {
	client, _ := wdiffRoles(t)
	a := &fakeArchive{}
	clientErr, serverErr := converse(t, client, func(ctx context.Context, c *wire.Conn, reply Reply) error {
		return ServeWdiff(ctx, c, reply, a, Options{})
	})
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	want := newImage(100, 0x5a)
	for fill, addrs := range [][]block.LB{1: {0, 10, 20}, 2: {9, 30}} {
		for _, at := range addrs {
			copy(want.data[at.Bytes():], bytes.Repeat([]byte{byte(fill)}, 1024))
		}
	}
	assert.True(t, bytes.Equal(want.data, applied(t, a.files[0].Bytes(), 100)))
	assert.Equal(t, meta.UUID{1}, openDiff(t, a.files[0].Bytes()).UUID())
}

func TestFailuresOfTheServerEndConversations(t *testing.T) {
	boom := errors.New("disk is gone")
	client, _ := wdiffRoles(t)
	a := &fakeArchive{commitErr: boom}
	clientErr, serverErr := converse(t, client, func(ctx context.Context, c *wire.Conn, reply Reply) error {
		return ServeWdiff(ctx, c, reply, a, Options{})
	})
	require.Error(t, clientErr, "no ACK")
	require.ErrorIs(t, serverErr, boom)
	assert.Equal(t, []string{"judge |0|-->|2|", "create", "commit", "close"}, a.all())

	client, _ = backupRoles(t)
	a = &fakeArchive{img: newImage(40, 0), commitErr: boom}
	clientErr, serverErr = converse(t, client, func(ctx context.Context, c *wire.Conn, reply Reply) error {
		return ServeFullBackup(ctx, c, reply, a.backup(), Options{})
	})
	require.Error(t, clientErr)
	require.ErrorIs(t, serverErr, boom)
	assert.Equal(t, []string{"accept vol", "begin 0100", "commit |0,3|", "close"}, a.all())
}
