package transfer

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// hashesOf decodes one direction of a hash stream: the hashes of the old image.
func hashesOf(tb testing.TB, r *wire.Reader, s HashStream) (out []checksum.Hash) {
	tb.Helper()
	for range s.bulks() {
		require.Equal(tb, wire.CtlNext, r.U8())
		var h checksum.Hash
		r.Raw(h[:])
		out = append(out, h)
	}
	require.Equal(tb, wire.CtlEnd, r.U8())
	require.NoError(tb, r.Err())
	return out
}

// differencesOf decodes the other one: the differences as a sorted file, and a
// description that does not depend on the compressor.
func differencesOf(tb testing.TB, r *wire.Reader, uuid meta.UUID, s HashStream) (file []byte, said []string) {
	tb.Helper()
	var buf bytes.Buffer
	w, err := wdiff.NewSortedWriter(&buf, "recorded", uuid, s.Size)
	require.NoError(tb, err)
	dummies := 0
	for ctl := r.U8(); ctl != wire.CtlEnd; ctl = r.U8() {
		require.NoError(tb, r.Err())
		if ctl == wire.CtlDummy {
			dummies++
			continue
		}
		require.Equal(tb, wire.CtlNext, ctl)
		require.NoError(tb, w.CopyPack(rawReader{r}, r.U64()))
		said = append(said, fmt.Sprintf("pack after %d bulks", dummies))
	}
	require.NoError(tb, w.Close())
	said = append(said, fmt.Sprintf("end after %d bulks", dummies))
	return buf.Bytes(), append(said, recordsOf(tb, buf.Bytes())...)
}

func recordsOf(tb testing.TB, file []byte) (said []string) {
	tb.Helper()
	load := wdiff.NewLoader(0)
	for s := openDiff(tb, file).Records(); ; {
		rec, err := s.Next()
		if errors.Is(err, io.EOF) {
			return said
		}
		require.NoError(tb, err)
		data := make([]byte, rec.Blocks.Bytes())
		require.NoError(tb, load.Read(data, rec, 0))
		said = append(said, fmt.Sprintf("%s %s %s", rec.Range(), rec.Kind, sum(data)))
	}
}

// withDiff is an image with a diff written to it.
func withDiff(tb testing.TB, img *memImage, file []byte) *memImage {
	tb.Helper()
	out := &memImage{data: slices.Clone(img.data)}
	_, err := wdiff.Apply(tb.Context(), openDiff(tb, file).Records(), out, wdiff.ApplyOptions{Size: block.LB(len(out.data) / block.Size)})
	require.NoError(tb, err)
	return out
}

// matches counts the bulks of an image that have the recorded hashes.
func matches(img *memImage, s HashStream, hashes []checksum.Hash) (n int) {
	for i, h := range hashes {
		if bulkHash(img, s, i) == h {
			n++
		}
	}
	return n
}

func bulkHash(img *memImage, s HashStream, i int) checksum.Hash {
	at := block.LB(i) * s.Bulk
	return checksum.Murmur3(img.data[at.Bytes():min(at+s.Bulk, s.Size).Bytes()], s.Seed)
}

// newImageOf gives the new image of a recorded stream, if what did not differ is
// as in img.
func newImageOf(tb testing.TB, img *memImage, s HashStream, hashes []checksum.Hash, file []byte) (*memImage, bool) {
	tb.Helper()
	if len(img.data) != int(s.Size.Bytes()) {
		return nil, false
	}
	differ := map[block.LB]bool{}
	for recs := openDiff(tb, file).Records(); ; {
		rec, err := recs.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(tb, err)
		differ[rec.Addr/s.Bulk] = true
	}
	for i, h := range hashes {
		if !differ[block.LB(i)] && bulkHash(img, s, i) != h {
			return nil, false
		}
	}
	return withDiff(tb, img, file), true
}

// masked gives a server's bytes without the hashes of a hash stream that
// begins at the offset.
func masked(p []byte, at uint64, s HashStream) []byte {
	p = slices.Clone(p)
	for i := range s.bulks() {
		if h := at + i*17 + 1; h+16 <= uint64(len(p)) {
			clear(p[h : h+16])
		}
	}
	return p
}

// imageS0 is the image of the recorded speakers.
func imageS0() *memImage {
	img := newImage(200, 0)
	for _, i := range []int{0, 3, 5, 12} {
		for j := range 1000 {
			img.data[i*16*512+j] = byte((7*i + j) % 251)
		}
	}
	return img
}

// recordedHashBackup is a recorded dirty-hash-sync2, decoded.
type recordedHashBackup struct {
	recording
	req    wire.FullSyncRequest
	from   meta.Snap
	uuid   meta.UUID
	hashes []checksum.Hash
	at     uint64 // where they begin in the server's bytes
	file   []byte
	said   []string
	to     meta.Snap
	old    *memImage // what the archive had, as far as it is known
}

// fullImage is what a recorded full backup brought.
type fullImage struct {
	req wire.FullSyncRequest
	img *memImage
}

func fullImages(t *testing.T) (out []fullImage) {
	t.Helper()
	for _, r := range recordings(t, wire.ProtoFullSync) {
		var f fullImage
		body := r.body()
		f.req.Decode(body)
		if r.answer(t) != wire.Accept || len(r.s2c) <= 20 {
			continue
		}
		body.UUID()
		f.img, _ = frames(t, body, BlockStream{Size: f.req.Size, Bulk: f.req.Bulk, Compress: f.req.Compress})
		out = append(out, f)
	}
	return out
}

func recordedHashBackups(t *testing.T) (out []recordedHashBackup) {
	t.Helper()
	fulls := fullImages(t)
	for _, r := range hashRecordings(t, wire.ProtoHashSync) {
		b := recordedHashBackup{recording: r}
		body := r.body()
		b.req.Decode(body)
		if r.answer(t) != wire.Accept {
			done(t, body, r.name)
			out = append(out, b)
			continue
		}
		srv := wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
		srv.Str()
		b.from = srv.Snap()
		srv.Ack()
		b.at = uint64(r.ok) + srv.Pos()
		s := hashStreamOf(&b.req)
		b.hashes = hashesOf(t, srv, s)
		srv.Ack()
		done(t, srv, r.name)
		b.uuid = body.UUID()
		b.file, b.said = differencesOf(t, body, b.uuid, s)
		b.to = body.Snap()
		done(t, body, r.name)
		b.old = newImage(b.req.Size, 0)
		if b.req.Volume == "small" {
			b.old = imageS0()
		}
		for _, f := range fulls {
			if f.req.Volume == b.req.Volume && f.req.Size == b.req.Size && matches(f.img, s, b.hashes) > matches(b.old, s, b.hashes) {
				b.old = f.img
			}
		}
		out = append(out, b)
	}
	return out
}

func TestRecordedHashBackups(t *testing.T) {
	all := recordedHashBackups(t)
	t.Run("are taken and answered", func(t *testing.T) { serveRecordedHashBackups(t, all) })
	t.Run("are what ours are", func(t *testing.T) { sendRecordedHashBackups(t, all) })
}

func serveRecordedHashBackups(t *testing.T, all []recordedHashBackup) {
	t.Helper()
	for _, r := range all {
		a := &fakeArchive{img: r.old, from: r.from}
		if word := r.answer(t); word != wire.Accept {
			a.refuse = &wire.Error{Text: word}
		}
		out, err := playServer(t, r.recording, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
		})
		want := r.withoutStack(t)
		if a.refuse != nil {
			assert.Equal(t, hex.Dump(want), hex.Dump(out), r.name)
			require.ErrorIs(t, err, a.refuse)
			continue
		}
		require.NoError(t, err, r.name)
		s := hashStreamOf(&r.req)
		if matches(r.old, s, r.hashes) < len(r.hashes) {
			want, out = masked(want, r.at, s), masked(out, r.at, s)
		}
		assert.Equal(t, hex.Dump(want), hex.Dump(out), r.name)
		require.Len(t, a.files, 1)
		assert.Equal(t, sum(r.file), sum(a.files[0].Bytes()), "%s: packs are stored as they came", r.name)
		assert.Equal(t, []string{
			"accept " + r.req.Volume, fmt.Sprintf("begin %x", r.uuid[:2]), "end " + r.to.String(), "commit", "close",
		}, a.all())
	}
}

func sendRecordedHashBackups(t *testing.T, all []recordedHashBackup) {
	t.Helper()
	known := 0
	for _, r := range all {
		src := &fakeStorage{img: newImage(r.req.Size, 0), uuid: r.uuid, gid: r.to.E}
		accepted := r.old != nil
		if accepted {
			img, ok := newImageOf(t, r.old, hashStreamOf(&r.req), r.hashes, r.file)
			if !ok {
				continue
			}
			known++
			src.img = img
		}
		said, err := playClient(t, r.recording, func(c *wire.Conn) error {
			return SendHashBackup(t.Context(), c, r.req, src, Options{})
		})
		var mine wire.FullSyncRequest
		mine.Decode(said)
		assert.Equal(t, r.req, mine)
		if !accepted {
			var refused *wire.Refusal
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, r.answer(t), refused.Text)
			assert.Empty(t, src.all(), "nothing was touched")
			continue
		}
		require.NoError(t, err, r.name)
		assert.Equal(t, r.uuid, said.UUID())
		_, got := differencesOf(t, said, r.uuid, hashStreamOf(&r.req))
		assert.Equal(t, r.said, got, r.name)
		assert.Equal(t, r.to, said.Snap())
		done(t, said, r.name)
		assert.Equal(t, []string{"accepted", fmt.Sprintf("reset log at %d", r.from.E+1), "begun", "source", "snapshot"}, src.all())
	}
	assert.Equal(t, 3, known, "recordings whose images are known")
}

// recordedComparison is a recorded repl-sync3 in which images were compared.
type recordedComparison struct {
	recording
	offer  wire.ReplOffer
	resync *wire.ReplResyncRequest // valid iff it is a resync
	hash   *wire.ReplHashRequest   // valid iff it is a hash round
	stream HashStream
	uuid   meta.UUID
	hashes []checksum.Hash
	at     uint64
	file   []byte
	said   []string
	states []meta.State
	rounds []replRound
	img    *memImage // of the source, where it is known
}

func recordedComparisons(t *testing.T) (out []recordedComparison) {
	t.Helper()
	known := sourceImages(t)
	for _, r := range hashRecordings(t, wire.ProtoReplSync) {
		d := recordedComparison{recording: r}
		body, srv := r.body(), wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
		body.StrVec()
		d.offer.Decode(body)
		require.Equal(t, wire.Accept, srv.Str())
		require.Equal(t, wire.Accept, srv.Str())
		compare := func() {
			require.Equal(t, wire.OK, srv.Str())
			d.at = uint64(r.ok) + srv.Pos()
			d.hashes = hashesOf(t, srv, d.stream)
			d.file, d.said = differencesOf(t, body, d.uuid, d.stream)
		}
		if srv.U32() == wire.ReplResync {
			d.resync = &wire.ReplResyncRequest{}
			d.resync.Decode(body)
			d.stream, d.uuid = resyncStream(d.resync), d.resync.UUID
			compare()
		}
		for ended := false; !ended; {
			d.states = append(d.states, srv.State())
			switch kind := body.U32(); kind {
			case wire.RoundStop:
				srv.Ack()
				ended = true
			case wire.RoundHash:
				d.hash = &wire.ReplHashRequest{}
				d.hash.Decode(body)
				d.stream, d.uuid = hashRoundStream(d.hash), d.hash.UUID
				compare()
			case wire.RoundDiff:
				var round replRound
				round.req.Decode(body)
				require.Equal(t, wire.OK, srv.Str())
				round.file, round.said = packs(t, body, round.req.UUID)
				srv.Ack()
				d.rounds = append(d.rounds, round)
			default:
				require.Fail(t, "round", kind)
			}
		}
		done(t, srv, r.name)
		done(t, body, r.name)
		for _, img := range known {
			if made, ok := newImageOf(t, img, d.stream, d.hashes, d.file); ok {
				d.img = made
			}
		}
		out = append(out, d)
	}
	return out
}

// sourceImages rebuilds images that the recorded replications had to do with:
// what was replicated in full, and each with the diffs that followed, in turn.
func sourceImages(t *testing.T) (out []*memImage) {
	t.Helper()
	var all []replication
	for _, r := range recordings(t, wire.ProtoReplSync) {
		all = append(all, decodeRepl(t, r, r.body()))
	}
	for _, full := range all {
		if full.img == nil || full.full.Size != 8192 {
			continue
		}
		img := full.img
		out = append(out, img)
		for _, d := range all {
			for _, round := range d.rounds {
				if round.req.Size == full.full.Size {
					img = withDiff(t, img, round.file)
					out = append(out, img)
				}
			}
		}
	}
	return out
}

func (d *recordedComparison) archive() *fakeArchive {
	a := &fakeArchive{kind: wire.ReplNone, img: d.img, latest: d.states[0]}
	if d.resync != nil {
		a.kind = wire.ReplResync
	}
	return a
}

func TestRecordedComparisons(t *testing.T) {
	all := recordedComparisons(t)
	t.Run("are taken and answered", func(t *testing.T) { serveRecordedComparisons(t, all) })
	t.Run("are what ours are", func(t *testing.T) { sendRecordedComparisons(t, all) })
}

func serveRecordedComparisons(t *testing.T, all []recordedComparison) {
	t.Helper()
	for _, d := range all {
		a := d.archive()
		out, err := playServer(t, d.recording, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeRepl(ctx, c, reply, a, Options{})
		})
		require.NoError(t, err, d.name)
		assert.Equal(t, hex.Dump(masked(d.s2c, d.at, d.stream)), hex.Dump(masked(out, d.at, d.stream)), d.name)
		ours := wire.NewReader(bytes.NewReader(out[d.at:]))
		differ := 0
		for i, h := range hashesOf(t, ours, d.stream) {
			if h != d.hashes[i] {
				differ++
			}
		}
		assert.Equal(t, len(recordsOf(t, d.file)), differ, "%s: hashes are the recorded ones where nothing differed", d.name)
		assert.Equal(t, sum(d.file), sum(a.files[0].Bytes()), d.name)
	}
}

func sendRecordedComparisons(t *testing.T, all []recordedComparison) {
	t.Helper()
	for _, d := range all {
		require.NotNil(t, d.img, "%s: the source's image is known", d.name)
		src := &fakeSource{uuid: d.uuid, size: d.stream.Size, img: d.img, store: newStore(t)}
		if d.resync != nil {
			src.base = d.resync.Base
		} else {
			src.base = meta.NewState(d.hash.Diff.E, d.hash.Diff.Timestamp)
		}
		for _, round := range d.rounds {
			addDiff(t, src.store, round.req.Diff, round.file)
		}
		p := ReplParams{
			Volume: "vol0", ArchiveUUID: d.offer.ArchiveUUID, Resync: d.offer.Resync, ByGid: true, Gid: meta.MaxGid,
			Bulk: d.stream.Bulk, FullCompress: d.stream.Compress, DiffCompress: snappy1, MaxMerge: 1 << 30,
		}
		said, err := playClient(t, d.recording, func(c *wire.Conn) error {
			res, err := SendRepl(t.Context(), c, p, src, Options{})
			assert.Equal(t, d.resync != nil, res.Resync)
			return err
		})
		require.NoError(t, err, d.name)
		mine := d.recording
		p2, err := io.ReadAll(said)
		require.NoError(t, err)
		mine.c2s = append(slices.Clone(d.c2s[:d.hello]), p2...)
		body := mine.body()
		body.StrVec()
		var offer wire.ReplOffer
		offer.Decode(body)
		assert.Equal(t, d.offer, offer)
		if d.resync != nil {
			var req wire.ReplResyncRequest
			req.Decode(body)
			assert.Equal(t, *d.resync, req)
		} else {
			require.Equal(t, wire.RoundHash, body.U32())
			var req wire.ReplHashRequest
			req.Decode(body)
			assert.Equal(t, *d.hash, req)
		}
		_, got := differencesOf(t, body, d.uuid, d.stream)
		assert.Equal(t, d.said, got, d.name)
		for range d.rounds {
			require.Equal(t, wire.RoundDiff, body.U32())
			var req wire.ReplDiffRequest
			req.Decode(body)
			packs(t, body, req.UUID)
		}
		require.Equal(t, wire.RoundStop, body.U32())
		done(t, body, d.name)
	}
}

func TestRecordedQuestionsForLatestSnapshots(t *testing.T) {
	for _, r := range hashRecordings(t, wire.ProtoGatherLatest) {
		body, srv := r.body(), wire.NewReader(bytes.NewReader(r.s2c[r.ok:]))
		require.Equal(t, wire.OK, body.Str())
		names := body.StrVec()
		done(t, body, r.name)
		require.Equal(t, wire.Accept, srv.Str())
		infos := map[string]wire.SnapshotInfo{}
		var list []wire.SnapshotInfo
		for range srv.Count(wire.MaxCount) {
			var info wire.SnapshotInfo
			info.Decode(srv)
			infos[info.Volume] = info
			list = append(list, info)
		}
		require.Equal(t, wire.OK, srv.Str())
		done(t, srv, r.name)

		out, err := playServer(t, r, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeLatest(ctx, c, reply, func(v string) wire.SnapshotInfo { return infos[v] })
		})
		require.NoError(t, err, r.name)
		assert.Equal(t, hex.Dump(r.s2c), hex.Dump(out), r.name)

		var got []wire.SnapshotInfo
		said, err := playClient(t, r, func(c *wire.Conn) error {
			var err error
			got, err = AskLatest(t.Context(), c, names)
			return err
		})
		require.NoError(t, err, r.name)
		assert.ElementsMatch(t, list, got)
		p, err := io.ReadAll(said)
		require.NoError(t, err)
		assert.Equal(t, hex.Dump(r.c2s[r.hello:]), hex.Dump(p), r.name)
	}
}
