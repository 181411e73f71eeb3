package transfer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// packs decodes a pack stream into a sorted file, and a description of it that
// does not depend on the compressor.
func packs(tb testing.TB, r *wire.Reader, uuid meta.UUID) (file []byte, said []string) {
	tb.Helper()
	var buf bytes.Buffer
	w, err := wdiff.NewSortedWriter(&buf, "recorded", uuid, 0)
	require.NoError(tb, err)
	for {
		ctl := r.U8()
		require.NoError(tb, r.Err())
		if ctl != wire.CtlNext {
			require.Equal(tb, wire.CtlEnd, ctl)
			break
		}
		n := r.U64()
		require.NoError(tb, r.Err())
		require.NoError(tb, w.CopyPack(r, n))
		said = append(said, "pack")
	}
	require.NoError(tb, w.Close())
	f, err := wdiff.Open("recorded", bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	require.NoError(tb, err)
	load := wdiff.NewLoader(0)
	for s := f.Records(); ; {
		rec, err := s.Next()
		if errors.Is(err, io.EOF) {
			return buf.Bytes(), said
		}
		require.NoError(tb, err)
		data := make([]byte, rec.Blocks.Bytes())
		require.NoError(tb, load.Read(data, rec, 0))
		said = append(said, fmt.Sprintf("%s %s %s", rec.Range(), rec.Kind, sum(data)))
	}
}

func TestRecordedDiffsAreTakenAndAnswered(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoWdiffTransfer) {
		a := &fakeArchive{}
		word := r.answer(t)
		if strings.Contains(word, ":") {
			a.refuse = &wire.Error{Text: word}
		} else {
			a.word = word
		}
		out, err := playServer(t, r, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeWdiff(ctx, c, reply, a, Options{})
		})
		assert.Equal(t, r.withoutStack(t), out, r.name)
		if a.refuse != nil {
			require.ErrorIs(t, err, a.refuse)
			continue
		}
		require.NoError(t, err, r.name)
		var req wire.WdiffRequest
		body := r.body()
		req.Decode(body)
		if word == wire.Accept {
			file, _ := packs(t, body, req.UUID)
			require.Len(t, a.files, 1)
			assert.Equal(t, sum(file), sum(a.files[0].Bytes()), "%s: packs are stored as they came", r.name)
			assert.Equal(t, []string{"judge " + req.Diff.String(), "create", "commit", "close"}, a.all())
		}
		done(t, body, r.name)
	}
}

func TestRecordedArchivesGetTheSameDiffs(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoWdiffTransfer) {
		var req, mine wire.WdiffRequest
		body := r.body()
		req.Decode(body)
		var files []*wdiff.File
		var want []string
		accepted := r.answer(t) == wire.Accept
		if accepted {
			var p []byte
			p, want = packs(t, body, req.UUID)
			f, err := wdiff.Open("recorded", bytes.NewReader(p), int64(len(p)))
			require.NoError(t, err)
			files = append(files, f)
		}
		for _, opt := range []string{"snappy:0:1", "zstd:3:2", "none:0:1"} {
			opt, err := compress.ParseOpt(opt)
			require.NoError(t, err)
			said, err := playClient(t, r, func(c *wire.Conn) error {
				return SendWdiff(t.Context(), c, req, files, opt, Options{})
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
			_, got := packs(t, said, req.UUID)
			assert.Equal(t, want, got, r.name)
			done(t, said, r.name)
		}
	}
}

// replication is a recorded repl-sync3, decoded.
type replication struct {
	volume string
	offer  wire.ReplOffer
	words  []string // what the server said, in order
	kind   uint32
	full   wire.ReplFullRequest
	start  block.LB
	img    *memImage // valid iff kind is full
	frames []string
	states []meta.State
	rounds []replRound
}

type replRound struct {
	req  wire.ReplDiffRequest
	file []byte
	said []string
}

func decodeRepl(tb testing.TB, r recording, body *wire.Reader) (d replication) {
	tb.Helper()
	vec := body.StrVec()
	require.Len(tb, vec, 1, r.name)
	d.volume = vec[0]
	d.offer.Decode(body)
	srv := wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
	word := func() string {
		w := srv.Str()
		require.NoError(tb, srv.Err(), r.name)
		d.words = append(d.words, w)
		return w
	}
	require.Equal(tb, wire.Accept, word())
	if word() != wire.Accept {
		done(tb, body, r.name)
		return d
	}
	if d.kind = srv.U32(); d.kind == wire.ReplFull {
		d.full.Decode(body)
		require.Equal(tb, wire.OK, word())
		d.start = block.LB(srv.U64())
		d.img, d.frames = frames(tb, body, BlockStream{Size: d.full.Size, Start: d.start, Bulk: d.full.Bulk, Compress: d.full.Compress})
		srv.Ack()
	}
	for {
		d.states = append(d.states, srv.State())
		if body.U32() == wire.RoundStop {
			srv.Ack()
			done(tb, srv, r.name)
			done(tb, body, r.name)
			return d
		}
		var round replRound
		round.req.Decode(body)
		require.Equal(tb, wire.OK, word())
		round.file, round.said = packs(tb, body, round.req.UUID)
		srv.Ack()
		d.rounds = append(d.rounds, round)
	}
}

func TestRecordedReplicationsAreTakenAndAnswered(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoReplSync) {
		want := decodeRepl(t, r, r.body())
		a := &fakeArchive{kind: want.kind, start: want.start, img: newImage(1<<16, 0xee)}
		if len(want.states) == 0 {
			a.offerErr = ErrResyncNotAllowed
		} else {
			a.latest = want.states[0]
		}
		out, err := playServer(t, r, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeRepl(ctx, c, reply, a, Options{})
		})
		assert.Equal(t, hex.Dump(r.withoutStack(t)), hex.Dump(out), r.name)
		if a.offerErr != nil {
			require.ErrorIs(t, err, ErrResyncNotAllowed)
			continue
		}
		require.NoError(t, err, r.name)
		if want.img != nil {
			assert.True(t, bytes.Equal(want.img.data, a.img.data[:len(want.img.data)]), r.name)
		}
		require.Len(t, a.files, len(want.rounds))
		for i, round := range want.rounds {
			assert.Equal(t, sum(round.file), sum(a.files[i].Bytes()), r.name)
		}
	}
}

// fakeSource is the source archive in a replication.
type fakeSource struct {
	calls
	base  meta.State
	uuid  meta.UUID
	size  block.LB
	img   *memImage
	store *diffstore.Store
}

func (s *fakeSource) Accepted(context.Context) error             { s.call("accepted"); return nil }
func (s *fakeSource) Base(context.Context) (meta.State, error)   { return s.base, nil }
func (s *fakeSource) UUID(context.Context) (meta.UUID, error)    { return s.uuid, nil }
func (s *fakeSource) Size(context.Context) (block.LB, error)     { return s.size, nil }
func (s *fakeSource) Diffs() *diffstore.Store                    { return s.store }
func (s *fakeSource) Image(context.Context) (SourceImage, error) { return s, nil }
func (s *fakeSource) Snapshot(_ context.Context, at meta.Snap) (SourceImage, error) {
	s.call("snapshot %s", at)
	return s, nil
}
func (s *fakeSource) ReadAt(p []byte, off int64) (int, error) { return s.img.ReadAt(p, off) }
func (s *fakeSource) Close() error                            { s.call("image closed"); return nil }

func (s *fakeSource) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	return s.img.NextData(ctx, from)
}

func newStore(tb testing.TB) *diffstore.Store {
	tb.Helper()
	var fs vfs.FS = vfstest.NewMem("/vol")
	s, err := diffstore.Open(fs, "/vol")
	require.NoError(tb, err)
	return s
}

func addDiff(tb testing.TB, s *diffstore.Store, d meta.Diff, file []byte) {
	tb.Helper()
	tmp, err := s.CreateTemp()
	require.NoError(tb, err)
	_, err = tmp.Write(file)
	require.NoError(tb, err)
	_, err = s.Add(tmp, d)
	require.NoError(tb, err)
}

func TestRecordedDestinationsGetTheSameReplications(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoReplSync) {
		want := decodeRepl(t, r, r.body())
		src := &fakeSource{base: want.full.Base, uuid: want.full.UUID, size: want.full.Size, img: want.img, store: newStore(t)}
		p := ReplParams{
			Volume: want.volume, ArchiveUUID: want.offer.ArchiveUUID, Resync: want.offer.Resync,
			Bulk: want.full.Bulk, FullCompress: want.full.Compress, DiffCompress: compress.Opt{Type: compress.Snappy, CPUs: 1},
			ByGid: true, Gid: meta.MaxGid, MaxMerge: 1 << 30, DontMerge: strings.Contains(r.name, "nomerge"),
		}
		if want.img == nil && len(want.states) > 0 {
			src.base = want.states[0]
		}
		for _, round := range want.rounds {
			addDiff(t, src.store, round.req.Diff, round.file)
			src.size = round.req.Size
		}
		said, err := playClient(t, r, func(c *wire.Conn) error {
			res, err := SendRepl(t.Context(), c, p, src, Options{})
			assert.Equal(t, len(want.rounds), res.Rounds)
			return err
		})
		if len(want.states) == 0 {
			var refused *wire.Refusal
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, "resync is required but not allowed", refused.Text)
			continue
		}
		require.NoError(t, err, r.name)
		got := decodeRepl(t, r, said)
		require.Len(t, got.rounds, len(want.rounds))
		for i := range want.rounds {
			if volume(want.rounds[i].said) > packBytes {
				// We close packs earlier than the original.
				isPack := func(line string) bool { return line == "pack" }
				want.rounds[i].said = slices.DeleteFunc(want.rounds[i].said, isPack)
				got.rounds[i].said = slices.DeleteFunc(got.rounds[i].said, isPack)
			}
			if !p.DontMerge {
				// The file was made by us of the merged records, so it has its own size.
				want.rounds[i].req.Diff.Size, got.rounds[i].req.Diff.Size = 0, 0
				want.rounds[i].file, got.rounds[i].file = nil, nil
			}
		}
		if want.img != nil {
			assert.True(t, bytes.Equal(want.img.data, got.img.data))
			want.img, got.img = nil, nil
		}
		require.Equal(t, fmt.Sprintf("%+v", want.rounds), fmt.Sprintf("%+v", got.rounds), r.name)
		assert.True(t, reflect.DeepEqual(want, got), r.name)
	}
}

// volume sums the sizes of the normal records in a description of packs.
func volume(said []string) int64 {
	var sum block.LB
	for _, line := range said {
		var addr, blocks block.LB
		var kind string
		if n, _ := fmt.Sscanf(line, "%d+%d %s", &addr, &blocks, &kind); n == 3 && kind == "normal" {
			sum += blocks
		}
	}
	return sum.Bytes()
}
