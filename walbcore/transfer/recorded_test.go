package transfer

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wlog"
)

// recording is a conversation of the original, or of a speaker with it.
type recording struct {
	name     string
	protocol string
	note     string
	c2s, s2c []byte
	serverID string
	hello    int // bytes of the client's hello
	ok       int // bytes of the server's answer to it
}

// recordings gives the recorded conversations of a protocol that got beyond
// the negotiation.
func recordings(tb testing.TB, protocol string) []recording {
	tb.Helper()
	return recordingsIn(tb, "testdata/recorded.json.gz", protocol)
}

// hashRecordings is recordings for conversations in which images are compared,
// or latest snapshots are asked for.
func hashRecordings(tb testing.TB, protocol string) []recording {
	tb.Helper()
	return recordingsIn(tb, "testdata/recorded-hash.json.gz", protocol)
}

func recordingsIn(tb testing.TB, path, protocol string) []recording {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	var all map[string]struct {
		Note   string
		Chunks [][2]string
	}
	require.NoError(tb, json.NewDecoder(z).Decode(&all))
	var out []recording
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := recording{name: name, note: all[name].Note}
		for _, c := range all[name].Chunks {
			p, err := hex.DecodeString(c[1])
			require.NoError(tb, err)
			if c[0] == "c2s" {
				r.c2s = append(r.c2s, p...)
			} else {
				r.s2c = append(r.s2c, p...)
			}
		}
		var h wire.Hello
		cr := wire.NewReader(bytes.NewReader(r.c2s))
		h.Decode(cr)
		require.NoError(tb, cr.Err(), name)
		if h.Protocol != protocol || len(r.s2c) == 0 {
			continue
		}
		sr := wire.NewReader(bytes.NewReader(r.s2c))
		r.serverID = sr.Str()
		require.Equal(tb, wire.OK, sr.Str(), name)
		r.protocol, r.hello, r.ok = h.Protocol, int(cr.Pos()), int(sr.Pos())
		out = append(out, r)
	}
	require.NotEmpty(tb, out)
	return out
}

// answer is what the server said first behind the negotiation, without the
// stack that the original appends.
func (r recording) answer(tb testing.TB) string {
	tb.Helper()
	sr := wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
	word := sr.Str()
	require.NoError(tb, sr.Err(), r.name)
	line, _, _ := strings.Cut(word, "\n")
	return line
}

// withoutStack gives the server's bytes as ours shall be: a refusal is cut
// behind its first line.
func (r recording) withoutStack(tb testing.TB) []byte {
	tb.Helper()
	word := r.answer(tb)
	sr := wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
	sr.Str()
	return slices.Concat(r.s2c[:r.ok], wire.Marshal(func(w *wire.Writer) { w.Str(word) }), r.s2c[r.ok+int(sr.Pos()):])
}

// body is what the client said behind the negotiation.
func (r recording) body() *wire.Reader { return wire.NewReader(bytes.NewReader(r.c2s[r.hello:])) }

// playServer sends the recorded client's bytes to a role and returns what it
// answered.
func playServer(t *testing.T, r recording, role func(ctx context.Context, c *wire.Conn, reply Reply) error) ([]byte, error) {
	t.Helper()
	a, b := tcpPair(t)
	done := make(chan error, 1)
	go func() {
		c := wire.NewConn(t.Context(), b, wireOptions)
		if _, err := wire.ServerHello(c, r.serverID, func(string) bool { return true }); err != nil {
			c.Close()
			done <- err
			return
		}
		done <- serveOn(t.Context(), c, role)
	}()
	_, err := a.Write(r.c2s)
	if err == nil {
		require.NoError(t, a.(*net.TCPConn).CloseWrite())
	}
	out, _ := io.ReadAll(a) // a reset at the end does not matter
	a.Close()
	return out, <-done
}

// playClient lets a role speak to the recorded server's bytes and returns what
// it said behind the negotiation.
func playClient(t *testing.T, r recording, role func(c *wire.Conn) error) (*wire.Reader, error) {
	t.Helper()
	a, b := tcpPair(t)
	said := make(chan []byte, 1)
	go func() {
		_, _ = b.Write(r.s2c) // a client that gave up does not matter
		p, _ := io.ReadAll(b)
		b.Close()
		said <- p
	}()
	c := wire.NewConn(t.Context(), a, wireOptions)
	h := wire.Hello{}
	h.Decode(wire.NewReader(bytes.NewReader(r.c2s)))
	_, err := wire.ClientHello(c, h.ClientID, h.Protocol)
	require.NoError(t, err)
	err = role(c)
	c.Close()
	p := <-said
	require.Equal(t, hex.EncodeToString(r.c2s[:r.hello]), hex.EncodeToString(p[:r.hello]))
	return wire.NewReader(bytes.NewReader(p[r.hello:])), err
}

func sum(p []byte) string {
	s := sha256.Sum256(p)
	return hex.EncodeToString(s[:8])
}

// done demands that nothing is left over.
func done(tb testing.TB, r *wire.Reader, name string) {
	tb.Helper()
	require.NoError(tb, r.Err(), name)
	n, err := r.Read(make([]byte, 1))
	require.Zero(tb, n, name)
	require.ErrorIs(tb, err, io.EOF, name)
}

// frames decodes a block stream into an image, and a description of each frame
// that does not depend on the compressor.
func frames(tb testing.TB, r *wire.Reader, s BlockStream) (*memImage, []string) {
	tb.Helper()
	img := newImage(s.Size, 0)
	var out []string
	for pos := s.Start; pos < s.Size; pos += s.Bulk {
		n := r.U64()
		require.NoError(tb, r.Err())
		if n == 0 {
			out = append(out, "zero")
			continue
		}
		r.U32()
		enc := make([]byte, n)
		r.Raw(enc)
		require.NoError(tb, r.Err())
		plain := img.data[pos.Bytes():min(pos+s.Bulk, s.Size).Bytes()]
		require.NoError(tb, compress.Decompress(plain, enc, s.Compress.Type))
		out = append(out, sum(plain))
	}
	return img, out
}

func TestRecordedFullBackupsAreTakenAndAnswered(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoFullSync) {
		a := &fakeArchive{img: newImage(1<<16, 0xee)}
		if word := r.answer(t); word != wire.Accept {
			a.refuse = &wire.Error{Text: word}
		}
		out, err := playServer(t, r, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeFullBackup(ctx, c, reply, a.backup(), Options{})
		})
		assert.Equal(t, r.withoutStack(t), out, r.name)
		var req wire.FullSyncRequest
		body := r.body()
		req.Decode(body)
		if a.refuse != nil {
			require.ErrorIs(t, err, a.refuse)
			done(t, body, r.name)
			continue
		}
		require.NoError(t, err, r.name)
		uuid := body.UUID()
		img, _ := frames(t, body, BlockStream{Size: req.Size, Bulk: req.Bulk, Compress: req.Compress})
		snap := body.Snap()
		done(t, body, r.name)
		assert.True(t, bytes.Equal(img.data, a.img.data[:len(img.data)]), r.name)
		assert.Equal(t, []string{"accept " + req.Volume, fmt.Sprintf("begin %x", uuid[:2]), "commit " + snap.String(), "close"}, a.all())
	}
}

func TestRecordedArchivesGetTheSameFullBackups(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoFullSync) {
		var req, mine wire.FullSyncRequest
		body := r.body()
		req.Decode(body)
		s := &fakeStorage{}
		var want []string
		stream := BlockStream{Size: req.Size, Bulk: req.Bulk, Compress: req.Compress}
		accepted := r.answer(t) == wire.Accept
		if accepted {
			s.uuid = body.UUID()
			s.img, want = frames(t, body, stream)
			s.gid = body.Snap().E
		}
		said, err := playClient(t, r, func(c *wire.Conn) error {
			return SendFullBackup(t.Context(), c, req, s, Options{})
		})
		mine.Decode(said)
		assert.Equal(t, req, mine, r.name)
		if !accepted {
			var refused *wire.Refusal
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, r.answer(t), refused.Text)
			assert.Equal(t, r.serverID, refused.Server)
			assert.Empty(t, s.all())
			done(t, said, r.name)
			continue
		}
		require.NoError(t, err, r.name)
		assert.Equal(t, s.uuid, said.UUID())
		_, got := frames(t, said, stream)
		assert.Equal(t, want, got, r.name)
		assert.Equal(t, meta.Snap{E: s.gid}, said.Snap())
		done(t, said, r.name)
		assert.Equal(t, []string{"accepted", "reset log", "begun", "source", "snapshot"}, s.all())
	}
}

// units decodes a log stream: its log by lsid, the writes it means, and what
// it says without regard to the compressor.
func units(tb testing.TB, r *wire.Reader, req wire.WlogRequest) (log *fakeLog, begin, end meta.Lsid, said []string) {
	tb.Helper()
	log = &fakeLog{pbs: int(req.PBS), data: map[meta.Lsid][]byte{}}
	unit := func() []byte {
		enc, plain := make([]byte, r.U32()), make([]byte, r.U32())
		require.NoError(tb, r.Err())
		if len(enc) == 0 {
			r.Raw(plain)
		} else {
			r.Raw(enc)
			require.NoError(tb, compress.Decompress(plain, enc, compress.Snappy))
		}
		require.NoError(tb, r.Err())
		said = append(said, fmt.Sprintf("unit %d %s", len(plain), sum(plain)))
		return plain
	}
	for {
		ctl := r.U8()
		require.NoError(tb, r.Err())
		said = append(said, fmt.Sprint("ctl ", ctl))
		if ctl != wire.CtlNext {
			return log, begin, end, said
		}
		p := unit()
		h, err := wlog.DecodePack(p, req.Salt)
		require.NoError(tb, err)
		if len(said) == 2 {
			begin = h.Lsid
		}
		log.put(h.Lsid, p)
		for _, rec := range h.Records {
			if !rec.HasData() {
				continue
			}
			require.Equal(tb, wire.CtlNext, r.U8())
			log.put(rec.Lsid, unit())
		}
		end = h.Next()
	}
}

// redo applies a log to an image, discards as zeros.
func redo(tb testing.TB, log *fakeLog, begin, end meta.Lsid, salt uint32, img []byte) {
	tb.Helper()
	p := make([]byte, log.pbs)
	for lsid := begin; lsid < end; {
		require.NoError(tb, log.ReadLog(tb.Context(), lsid, p))
		h, err := wlog.DecodePack(p, salt)
		require.NoError(tb, err)
		for _, rec := range h.Records {
			part := img[rec.Offset.Bytes():rec.Range().End().Bytes()]
			switch rec.Kind {
			case wlog.Discard:
				clear(part)
			case wlog.Write:
				data := make([]byte, int(rec.PB(uint32(log.pbs)))*log.pbs)
				require.NoError(tb, log.ReadLog(tb.Context(), rec.Lsid, data))
				copy(part, data)
			}
		}
		lsid = h.Next()
	}
}

// applied gives an image of 0x5a after a diff file, discards as zeros.
func applied(tb testing.TB, p []byte, size block.LB) []byte {
	tb.Helper()
	f, err := wdiff.Open("diff", bytes.NewReader(p), int64(len(p)))
	require.NoError(tb, err)
	img := newImage(size, 0x5a)
	_, err = wdiff.Apply(tb.Context(), f.Records(), img, wdiff.ApplyOptions{Size: size, Discard: wdiff.DiscardZero})
	require.NoError(tb, err)
	return img.data
}

func TestRecordedLogsBecomeDiffs(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoWlogTransfer) {
		p := &fakeProxy{}
		if word := r.answer(t); word != wire.Accept {
			p.refuse = &wire.Error{Text: word}
		}
		if strings.Contains(r.name, "no-ack") {
			p.commitErr = errors.New("registration fails")
		}
		out, err := playServer(t, r, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeWlog(ctx, c, reply, p, Options{})
		})
		assert.Equal(t, r.withoutStack(t), out, r.name)
		switch {
		case p.refuse != nil:
			require.ErrorIs(t, err, p.refuse)
			continue
		case p.commitErr != nil:
			require.ErrorIs(t, err, p.commitErr)
			continue
		case strings.Contains(r.name, "error-ctl"):
			require.ErrorContains(t, err, "isError")
			assert.Equal(t, []string{"accept vol0", "create", "close"}, p.all())
			continue
		}
		require.NoError(t, err, r.name)
		var req wire.WlogRequest
		body := r.body()
		req.Decode(body)
		log, begin, end, _ := units(t, body, req)
		d := body.Diff()
		done(t, body, r.name)
		assert.Equal(t, d, p.diff)
		assert.Equal(t, []string{"accept " + req.Volume, "create", "commit " + d.String(), "close"}, p.all())
		want := newImage(req.Size, 0x5a).data
		redo(t, log, begin, end, req.Salt, want)
		assert.True(t, bytes.Equal(want, applied(t, p.file.Bytes(), req.Size)), r.name)
		f, err := wdiff.Open("diff", bytes.NewReader(p.file.Bytes()), int64(p.file.Len()))
		require.NoError(t, err)
		assert.Equal(t, wdiff.Header{Indexed: true, UUID: req.UUID}, f.Header())
	}
}

func TestRecordedProxiesGetTheSameLogs(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoWlogTransfer) {
		var req, mine wire.WlogRequest
		body := r.body()
		req.Decode(body)
		accepted := r.answer(t) == wire.Accept
		if accepted && !bytes.HasSuffix(r.s2c, []byte{0x82, 'w', 'a', 'l', 'b'}) {
			continue // the original closed without an ACK
		}
		var stretch WlogStretch
		var log *fakeLog
		var want []string
		var d meta.Diff
		if accepted {
			log, stretch.Begin, stretch.Limit, want = units(t, body, req)
			stretch.MaxPB = 1 << 16
			d = body.Diff()
			stretch.Diff = func(meta.Lsid) meta.Diff { return d }
		}
		said, err := playClient(t, r, func(c *wire.Conn) error {
			if err := OfferWlog(t.Context(), c, req); err != nil {
				return err
			}
			reached, err := SendWlog(t.Context(), c, req, log, stretch, Options{})
			assert.Equal(t, stretch.Limit, reached, r.name)
			return err
		})
		mine.Decode(said)
		assert.Equal(t, req, mine, r.name)
		if !accepted {
			var refused *wire.Refusal
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, r.answer(t), refused.Text)
			continue
		}
		require.NoError(t, err, r.name)
		_, _, _, got := units(t, said, req)
		assert.Equal(t, want, got, r.name)
		assert.Equal(t, d, said.Diff())
		done(t, said, r.name)
	}
}
