package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// The conversations in which images are compared, small.

func hashBackupRoles(tb testing.TB) (clientRole, serverRole) {
	tb.Helper()
	src := &fakeStorage{img: newImage(40, 0), uuid: meta.UUID{1}, gid: 9}
	copy(src.img.data[5*512:], bytes.Repeat([]byte{9}, 5000))
	a := &fakeArchive{img: newImage(40, 0), from: meta.Snap{B: 3, E: 5}}
	req := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: 40, Timestamp: 1, Bulk: 16, Compress: snappy1}
	return func(c *wire.Conn) error { return SendHashBackup(tb.Context(), c, req, src, Options{}) },
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
		}
}

// comparedReplRoles is a resync, or a hash round, and a diff round behind it.
func comparedReplRoles(tb testing.TB, resync bool) (*fakeArchive, clientRole, serverRole) {
	tb.Helper()
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(4), 7), size: 40, img: newImage(40, 0), store: newStore(tb)}
	copy(src.img.data[5*512:], bytes.Repeat([]byte{9}, 3000))
	addDiff(tb, src.store, clean(4, 6, false), sortedFile(tb, meta.UUID{1}, 1, 0, 10))
	p := ReplParams{
		Volume: "vol", Resync: resync, ByGid: true, Gid: 6, Bulk: 16, FullCompress: snappy1, DiffCompress: snappy1, MaxMerge: 1 << 30,
	}
	a := &fakeArchive{kind: wire.ReplNone, img: newImage(40, 0), latest: meta.NewState(meta.CleanSnap(2), 1)}
	if resync {
		a.kind = wire.ReplResync
	}
	return a, func(c *wire.Conn) error {
			_, err := SendRepl(tb.Context(), c, p, src, Options{})
			return err
		}, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeRepl(ctx, c, reply, a, Options{})
		}
}

func TestHashBackupsSurviveNoCut(t *testing.T) {
	cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) {
		return hashBackupRoles(t)
	})
}

func TestComparedReplicationsSurviveNoCut(t *testing.T) {
	for _, resync := range []bool{false, true} {
		cutEverywhere(t, func() (func(*wire.Conn) error, func(context.Context, *wire.Conn, Reply) error) {
			_, client, server := comparedReplRoles(t, resync)
			return client, server
		})
	}
}

func TestComparedReplicationsCallInOrder(t *testing.T) {
	a, client, server := comparedReplRoles(t, true)
	clientErr, serverErr := converse(t, client, server)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	assert.Equal(t, []string{
		"accept vol", "offer 0000", "resync |4|", "begin resync", "commit", "close", "latest",
		"diff |4|-->|6|", "create", "commit", "close", "latest", "stop",
	}, a.all())
	a, client, server = comparedReplRoles(t, false)
	clientErr, serverErr = converse(t, client, server)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	assert.Equal(t, []string{
		"accept vol", "offer 0000", "latest", "hash |2|-->|4|", "begin hash", "commit", "close", "latest",
		"diff |4|-->|6|", "create", "commit", "close", "latest", "stop",
	}, a.all())
}

// compared runs a hash stream between two images, and gives the differences.
func compared(tb testing.TB, old, src BlockSource, s HashStream) (file []byte, said []string) {
	tb.Helper()
	a, b := pipe(tb)
	var buf, wireBytes bytes.Buffer
	w, err := wdiff.NewSortedWriter(&buf, "differences", meta.UUID{1}, s.Size)
	require.NoError(tb, err)
	got := make(chan error, 1)
	tap := wire.NewReader(io.TeeReader(b.R, &wireBytes))
	oldSide := *b
	oldSide.R = tap
	go func() { got <- ReceiveDifferences(tb.Context(), &oldSide, old, s, w, "test", Options{}) }()
	require.NoError(tb, SendDifferences(tb.Context(), a, src, s, Options{}))
	require.NoError(tb, <-got)
	require.NoError(tb, w.Close())
	file, said = differencesOf(tb, wire.NewReader(&wireBytes), meta.UUID{1}, s)
	require.True(tb, bytes.Equal(buf.Bytes(), file), "packs are stored as they came")
	return file, said
}

// TestDifferencesMakeTheOldImageNew compares random images.
func TestDifferencesMakeTheOldImageNew(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 32))
		size := 1 + block.LB(rng.IntN(300))
		old := randomImage(rng, size)
		img := &memImage{data: slices.Clone(old.data)}
		for range rng.IntN(5) {
			at := rng.IntN(len(img.data))
			part := img.data[at:min(len(img.data), at+rng.IntN(6000))]
			clear(part)
			if rng.IntN(2) == 0 {
				for i := range part {
					part[i] = byte(rng.Uint32())
				}
			}
		}
		s := HashStream{Size: size, Bulk: 1 + block.LB(rng.IntN(40)), Seed: rng.Uint32(), Compress: snappy1}
		if rng.IntN(3) == 0 {
			s.Compress = compress.Opt{}
		}
		if size > 2 && rng.IntN(4) == 0 { // both images are larger than what is compared
			s.Size = size - 1
			clear(img.data[s.Size.Bytes():])
			copy(img.data[s.Size.Bytes():], old.data[s.Size.Bytes():])
		}
		file, _ := compared(t, old, img, s)
		require.True(t, bytes.Equal(img.data, withDiff(t, old, file).data), "seed %d", seed)
	}
}

// sparseSource is zeros but for some blocks.
type sparseSource struct {
	size  block.LB
	at    []block.LB // ascending
	reads int
}

func (s *sparseSource) NextData(_ context.Context, from block.LB) (block.Range, error) {
	for _, at := range s.at {
		if at >= from {
			return block.Range{Addr: at, Len: 1}, nil
		}
	}
	return block.Range{Addr: s.size}, nil
}

func (s *sparseSource) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	s.reads++
	first := block.FromBytes(off)
	for _, at := range s.at {
		if i := (at - first).Bytes(); at >= first && i < int64(len(p)) {
			p[i] = byte(at) | 1
		}
	}
	return len(p), nil
}

func TestPacksAreClosedAsTheOriginalCloses(t *testing.T) {
	const mib = 1 << 20 / block.Size
	// A pack reaches no further than 256 MiB from its first record.
	src := &sparseSource{size: 1000 * mib, at: []block.LB{0, 255 * mib, 256 * mib, 900 * mib}}
	old := &sparseSource{size: 1000 * mib}
	_, said := compared(t, old, src, HashStream{Size: 1000 * mib, Bulk: 512, Compress: snappy1})
	assert.Equal(t, []string{"pack after 1025 bulks", "pack after 2049 bulks", "pack after 4000 bulks", "end after 4000 bulks"}, said[:4])
	assert.Len(t, said, 4+4)
	assert.Equal(t, 4, src.reads, "holes are not read")
	assert.Zero(t, old.reads)

	// A pack holds 127 records.
	old, src = &sparseSource{size: 3000}, &sparseSource{size: 3000}
	for i := range block.LB(300) {
		src.at = append(src.at, i*10)
	}
	_, said = compared(t, old, src, HashStream{Size: 3000, Bulk: 10, Compress: snappy1})
	assert.Equal(t, []string{"pack after 128 bulks", "pack after 255 bulks", "pack after 300 bulks", "end after 300 bulks"}, said[:4])
}

// TestAForceStopEndsComparisons cancels each side while the other is silent.
func TestAForceStopEndsComparisons(t *testing.T) {
	cause := errors.New("force stopped")
	s := HashStream{Size: 1 << 20, Bulk: 8, Compress: snappy1}
	w, err := wdiff.NewSortedWriter(io.Discard, "test", meta.UUID{}, 0)
	require.NoError(t, err)
	for name, role := range map[string]func(ctx context.Context, c *wire.Conn) error{
		"ServeHashBackup": func(ctx context.Context, c *wire.Conn) error {
			return ServeHashBackup(ctx, c, nil, fakeHashBackup{&fakeArchive{}}, Options{})
		},
		"SendHashBackup": func(ctx context.Context, c *wire.Conn) error {
			return SendHashBackup(ctx, c, wire.FullSyncRequest{}, &fakeStorage{}, Options{})
		},
		"AskLatest": func(ctx context.Context, c *wire.Conn) error {
			_, err := AskLatest(ctx, c, nil)
			return err
		},
		"ServeLatest": func(ctx context.Context, c *wire.Conn) error { return ServeLatest(ctx, c, nil, nil) },
		// In the middle of the stream: the peer neither reads nor writes.
		"ReceiveDifferences": func(ctx context.Context, c *wire.Conn) error {
			defer c.Bind(ctx)()
			return ReceiveDifferences(ctx, c, zeroImage(s.Size), s, w, "test", Options{})
		},
		"SendDifferences": func(ctx context.Context, c *wire.Conn) error {
			defer c.Bind(ctx)()
			return SendDifferences(ctx, c, zeroImage(s.Size), s, Options{})
		},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		c, _ := pipe(t)
		ended := make(chan error, 1)
		go func() { ended <- role(ctx, c) }()
		cancel(cause)
		require.ErrorIs(t, <-ended, cause, name)
	}
}

// TestHostileNewImages: what a receiver of differences refuses.
func TestHostileNewImages(t *testing.T) {
	s := HashStream{Size: 40, Bulk: 16, Compress: snappy1}
	good := func(addr block.LB) []byte {
		b := wdiff.NewPackBuilder()
		require.True(t, b.Add(&wdiff.IO{Addr: addr, Blocks: 8, Kind: wdiff.AllZero}))
		var p []byte
		require.NoError(t, b.Take(func(q []byte) error { p = slices.Clone(q); return nil }))
		return p
	}
	pack := func(w *wire.Writer, p []byte) {
		w.U8(wire.CtlNext)
		w.U64(uint64(len(p)))
		w.Raw(p)
	}
	for text, speak := range map[string]func(w *wire.Writer){
		"the end after 2 bulks":          func(w *wire.Writer) { w.U8(3); w.U8(3); w.U8(1) },
		"more bulks compared":            func(w *wire.Writer) { w.U8(3); w.U8(3); w.U8(3); w.U8(3) },
		"client sent an error":           func(w *wire.Writer) { w.U8(3); w.U8(2) },
		"control byte 9":                 func(w *wire.Writer) { w.U8(9) },
		"pack of 100 bytes":              func(w *wire.Writer) { w.U8(0); w.U64(100) },
		"pack of 9223372036854775807":    func(w *wire.Writer) { w.U8(0); w.U64(1<<63 - 1) },
		"inside the volume":              func(w *wire.Writer) { pack(w, good(33)) },
		"sorted records":                 func(w *wire.Writer) { pack(w, good(8)); pack(w, good(0)) },
		"at offset 32":                   func(w *wire.Writer) { p := good(0); p[9]++; pack(w, p) },
		"the stream ends at byte 4, 4 m": func(w *wire.Writer) { w.U8(3); w.U8(0); w.U64(0x1000); w.Raw(nil) },
	} {
		a := &fakeArchive{img: newImage(40, 7), from: meta.CleanSnap(3)}
		_, err := converse(t, func(c *wire.Conn) error {
			wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: s.Size, Bulk: s.Bulk, Compress: s.Compress}.Encode(c.W)
			if err := ask(c, wire.Accept); err != nil {
				return err
			}
			c.R.Snap()
			c.W.UUID(meta.UUID{1})
			if err := awaitAck(c); err != nil {
				return err
			}
			speak(c.W)
			return c.Flush()
		}, func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
		})
		if text[:10] != "the stream" {
			require.ErrorContains(t, err, text)
		} else {
			require.Error(t, err)
		}
		assert.Equal(t, []string{"accept vol", "begin 0100", "close"}, a.all(), text)
	}
}

// TestHostileOldImages: what a sender of differences refuses.
func TestHostileOldImages(t *testing.T) {
	s := HashStream{Size: 40, Bulk: 16, Compress: snappy1}
	hash := make([]byte, 17)
	for text, said := range map[string][]byte{
		"control byte 1":                     {1},
		"control byte 3":                     {3},
		"the peer could not read its image":  append(slices.Clone(hash), 2),
		"control byte 0":                     bytes.Repeat(hash, 4),
		"the stream ends at byte 34":         bytes.Repeat(hash, 2),
		"the stream ends at byte 51, 1 miss": bytes.Repeat(hash, 3),
	} {
		a, b := pipe(t)
		b.W.Raw(said)
		require.NoError(t, b.Flush())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, b.R)
		}()
		if text[:10] == "the stream" {
			b.Close()
		}
		err := SendDifferences(t.Context(), a, newImage(40, 3), s, Options{})
		if text[:10] == "the stream" {
			require.Error(t, err, text)
		} else {
			require.ErrorContains(t, err, text)
		}
		a.Close()
		<-done
	}
}

// TestAnUnreadableImageIsTold: the side with the new image learns it, and the
// other one knows its own reason.
func TestAnUnreadableImageIsTold(t *testing.T) {
	broken := errors.New("bad sector")
	old := newImage(40, 3)
	old.failRead = broken
	src := &fakeStorage{img: newImage(40, 4), uuid: meta.UUID{1}, gid: 9}
	a := &fakeArchive{img: old, from: meta.CleanSnap(3)}
	req := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: 40, Bulk: 16, Compress: snappy1}
	clientErr, serverErr := converse(t,
		func(c *wire.Conn) error { return SendHashBackup(t.Context(), c, req, src, Options{}) },
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
		})
	require.ErrorContains(t, clientErr, "the peer could not read its image")
	require.ErrorIs(t, serverErr, broken)

	src.img.failRead = broken
	old.failRead = nil
	clientErr, serverErr = converse(t,
		func(c *wire.Conn) error { return SendHashBackup(t.Context(), c, req, src, Options{}) },
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
		})
	require.ErrorIs(t, clientErr, broken)
	require.Error(t, serverErr)
}

func TestBadHashBackupsAreRefused(t *testing.T) {
	good := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "vol", Size: 40, Bulk: 16, Compress: snappy1}
	for text, change := range map[string]func(r *wire.FullSyncRequest){
		"backupServer:invalid hostType:proxy": func(r *wire.FullSyncRequest) { r.HostType = wire.HostProxy },
		"backupServer:bulkLb is zero":         func(r *wire.FullSyncRequest) { r.Bulk = 0 },
		"backupServer:too large bulkLb":       func(r *wire.FullSyncRequest) { r.Bulk = MaxBulk + 1 },
		"backupServer:bad sizeLb:0":           func(r *wire.FullSyncRequest) { r.Size = 0 },
	} {
		req := good
		change(&req)
		a := &fakeArchive{}
		src := &fakeStorage{}
		clientErr, _ := converse(t,
			func(c *wire.Conn) error { return SendHashBackup(t.Context(), c, req, src, Options{}) },
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
			})
		require.ErrorContains(t, clientErr, text)
		assert.Empty(t, a.all())
		assert.Empty(t, src.all())
	}
	// A latest snapshot behind which no gid is, and an end before the beginning.
	a := &fakeArchive{img: newImage(40, 3), from: meta.NoSnap()}
	src := &fakeStorage{img: newImage(40, 4), gid: 2}
	run := func() (clientErr, serverErr error) {
		return converse(t,
			func(c *wire.Conn) error { return SendHashBackup(t.Context(), c, good, src, Options{}) },
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeHashBackup(ctx, c, reply, fakeHashBackup{a}, Options{})
			})
	}
	clientErr, _ := run()
	require.ErrorContains(t, clientErr, "gids behind it")
	assert.Equal(t, []string{"accepted"}, src.all(), "the log was not reset")
	a.from = meta.CleanSnap(3)
	_, serverErr := run() // the snapshot |4,2| has no form on the wire
	require.Error(t, serverErr)
	assert.NotContains(t, fmt.Sprint(a.all()), "commit")
}

func TestAnswersAboutOtherVolumesAreRefused(t *testing.T) {
	for text, infos := range map[string][]wire.SnapshotInfo{
		"1 answers":            {{Volume: "a"}},
		`an answer about "c"`:  {{Volume: "a"}, {Volume: "c"}},
		"an empty volume name": {{Volume: "a"}, {}},
		"the stream ends":      nil,
	} {
		a, b := pipe(t)
		b.W.Str(wire.Accept)
		if infos != nil {
			b.W.U64(uint64(len(infos)))
		}
		for _, i := range infos {
			i.Encode(b.W)
		}
		require.NoError(t, b.Flush())
		b.Close()
		_, err := AskLatest(t.Context(), a, []string{"a", "b"})
		require.Error(t, err)
		if infos != nil {
			assert.ErrorContains(t, err, text)
		}
	}
}
