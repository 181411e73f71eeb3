package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// scriptConn is a peer that says what it was given and then nothing more.
type scriptConn struct {
	pipeConn
	said *bytes.Reader
}

func (c scriptConn) Read(p []byte) (int, error)       { return c.said.Read(p) }
func (c scriptConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c scriptConn) CloseWrite() error                { return nil }
func (c scriptConn) SetDeadline(time.Time) error      { return nil }
func (c scriptConn) SetReadDeadline(time.Time) error  { return nil }
func (c scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (c scriptConn) Close() error                     { return nil }

// boundedImage is a sink of any size that keeps nothing; it fails the test
// when it is written outside.
type boundedImage struct {
	t    *testing.T
	size *block.LB
}

func (m boundedImage) WriteAt(p []byte, off int64) (int, error) {
	require.LessOrEqual(m.t, off+int64(len(p)), m.size.Bytes())
	return len(p), nil
}

func (m boundedImage) Zero(r block.Range) error {
	require.LessOrEqual(m.t, r.End(), *m.size)
	return nil
}
func (m boundedImage) WriteBack(off, n int64) {}
func (m boundedImage) Sync() error            { return nil }

// fuzzServer takes everything that is well formed, up to a bound on work.
type fuzzServer struct {
	t    *testing.T
	size block.LB
	file bytes.Buffer
}

var errTooMuch = errors.New("more work than a fuzzer should do")

func (s *fuzzServer) bound(size, bulk block.LB) error {
	s.size = size
	if size/bulk > 1000 {
		return errTooMuch
	}
	return nil
}

type fuzzBackup struct{ *fuzzServer }

func (s fuzzBackup) Accept(_ context.Context, r *wire.FullSyncRequest) error {
	return s.bound(r.Size, r.Bulk)
}

func (s fuzzBackup) Begin(context.Context, meta.UUID) (BackupSink, error) {
	return fuzzBackupSink{boundedImage{s.t, &s.size}}, nil
}

type fuzzBackupSink struct{ boundedImage }

func (fuzzBackupSink) Commit(context.Context, meta.Snap) error { return nil }
func (fuzzBackupSink) Close() error                            { return nil }

type fuzzRepl struct{ *fuzzServer }

func (s fuzzRepl) Accept(context.Context, string) error { return nil }
func (s fuzzRepl) Offer(_ context.Context, o wire.ReplOffer) (uint32, error) {
	switch {
	case o.Resync && o.ArchiveUUID[0]&1 == 0:
		return wire.ReplResync, nil
	case o.Resync:
		return wire.ReplNone, nil
	}
	return wire.ReplFull, nil
}

func (s fuzzRepl) Resync(_ context.Context, r *wire.ReplResyncRequest) error {
	return s.bound(r.Size, r.Bulk)
}
func (s fuzzRepl) BeginResync(context.Context) (CompareSink, error) { return s.compared() }

func (s fuzzRepl) Hash(_ context.Context, r *wire.ReplHashRequest) error {
	return s.bound(r.Size, r.Bulk)
}
func (s fuzzRepl) BeginHash(context.Context) (CompareSink, error) { return s.compared() }

func (s fuzzRepl) compared() (CompareSink, error) {
	s.file.Reset()
	return fuzzCompared{s}, nil
}

// zeroImage is one hole.
type zeroImage block.LB

func (z zeroImage) NextData(context.Context, block.LB) (block.Range, error) {
	return block.Range{Addr: block.LB(z)}, nil
}

func (z zeroImage) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// fuzzCompared has an old image of zeros.
type fuzzCompared struct{ fuzzRepl }

func (s fuzzCompared) Old() BlockSource       { return zeroImage(s.size) }
func (s fuzzCompared) SetEnd(meta.Snap) error { return nil }

type fuzzHashBackup struct{ fuzzRepl }

func (s fuzzHashBackup) Accept(_ context.Context, r *wire.FullSyncRequest) (meta.Snap, error) {
	return meta.CleanSnap(3), s.bound(r.Size, r.Bulk)
}

func (s fuzzHashBackup) Begin(context.Context, meta.UUID) (HashBackupSink, error) {
	s.file.Reset()
	return fuzzCompared(s), nil
}

func (s fuzzRepl) Full(_ context.Context, r *wire.ReplFullRequest) (block.LB, error) {
	return 0, s.bound(r.Size, r.Bulk)
}

func (s fuzzRepl) BeginFull(context.Context) (FullSink, error) {
	return fuzzFullSink{boundedImage{s.t, &s.size}}, nil
}
func (s fuzzRepl) Latest(context.Context) (meta.State, error) { return meta.State{}, nil }
func (s fuzzRepl) Diff(_ context.Context, r *wire.ReplDiffRequest) error {
	s.size = r.Size
	return nil
}
func (s fuzzRepl) Create(context.Context) (DiffSink, error) { s.file.Reset(); return s, nil }
func (s fuzzRepl) Stop(context.Context) error               { return nil }
func (s fuzzRepl) Write(p []byte) (int, error)              { return s.file.Write(p) }
func (s fuzzRepl) Sync() error                              { return nil }
func (s fuzzRepl) Close() error                             { return nil }

// Commit demands that what is committed can be read, and lies in the volume.
func (s fuzzRepl) Commit(context.Context) error {
	checkFile(s.t, s.file.Bytes(), s.size)
	return nil
}

func checkFile(t *testing.T, p []byte, size block.LB) {
	t.Helper()
	f, err := wdiff.Open("committed", bytes.NewReader(p), int64(len(p)))
	require.NoError(t, err)
	load := wdiff.NewLoader(wdiff.DefaultCache)
	for recs := f.Records(); ; {
		r, err := recs.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		if size > 0 {
			require.LessOrEqual(t, r.End(), size)
		}
		if r.Kind == wdiff.Normal {
			require.NoError(t, load.Read(make([]byte, r.Blocks.Bytes()), r, 0))
		}
	}
}

type fuzzFullSink struct{ boundedImage }

func (fuzzFullSink) Checkpoint(context.Context, block.LB) error { return nil }
func (fuzzFullSink) Commit(context.Context) error               { return nil }
func (fuzzFullSink) Close() error                               { return nil }

type fuzzWlog struct{ *fuzzServer }

func (s fuzzWlog) Accept(_ context.Context, r *wire.WlogRequest) error {
	s.size = r.Size
	return nil
}
func (s fuzzWlog) Create(context.Context) (WlogSink, error) { return s, nil }
func (s fuzzWlog) Write(p []byte) (int, error)              { return s.file.Write(p) }
func (s fuzzWlog) Sync() error                              { return nil }
func (s fuzzWlog) Close() error                             { return nil }
func (s fuzzWlog) Commit(_ context.Context, d meta.Diff) error {
	require.True(s.t, d.IsClean())
	checkFile(s.t, s.file.Bytes(), s.size)
	return nil
}

type fuzzWdiff struct{ fuzzRepl }

func (s fuzzWdiff) Judge(_ context.Context, r *wire.WdiffRequest) (string, error) {
	s.size = r.Size
	return wire.Accept, nil
}

// FuzzServers lets a peer say anything to each role that serves: it must end,
// write nothing outside the volume, and commit nothing that cannot be read.
func FuzzServers(f *testing.F) {
	for which, protocol := range []string{wire.ProtoFullSync, wire.ProtoWlogTransfer, wire.ProtoWdiffTransfer, wire.ProtoReplSync} {
		for _, r := range recordings(f, protocol) {
			if body := r.c2s[r.hello:]; len(body) < 1<<14 {
				f.Add(uint8(which), body)
			}
		}
	}
	for _, r := range hashRecordings(f, wire.ProtoReplSync) {
		f.Add(uint8(3), r.c2s[r.hello:])
	}
	for _, r := range hashRecordings(f, wire.ProtoHashSync) {
		f.Add(uint8(4), r.c2s[r.hello:])
	}
	for _, r := range hashRecordings(f, wire.ProtoGatherLatest) {
		f.Add(uint8(5), r.c2s[r.hello:])
	}
	f.Fuzz(func(t *testing.T, which uint8, said []byte) {
		c := wire.NewConn(t.Context(), scriptConn{said: bytes.NewReader(said)}, wireOptions)
		defer c.Close()
		s := &fuzzServer{t: t}
		reply := func(string) error { return nil }
		switch which % 6 {
		case 0:
			_ = ServeFullBackup(t.Context(), c, reply, fuzzBackup{s}, Options{SyncInterval: 1 << 16})
		case 1:
			_ = ServeWlog(t.Context(), c, reply, fuzzWlog{s}, Options{})
		case 2:
			_ = ServeWdiff(t.Context(), c, reply, fuzzWdiff{fuzzRepl{s}}, Options{})
		case 3:
			_ = ServeRepl(t.Context(), c, reply, fuzzRepl{s}, Options{SyncInterval: 1 << 16})
		case 4:
			_ = ServeHashBackup(t.Context(), c, reply, fuzzHashBackup{fuzzRepl{s}}, Options{})
		case 5:
			_ = ServeLatest(t.Context(), c, reply, func(v string) wire.SnapshotInfo { return wire.SnapshotInfo{Volume: v} })
		}
	})
}

// FuzzClients lets a server say anything to the roles that send.
func FuzzClients(f *testing.F) {
	for which, protocol := range []string{wire.ProtoFullSync, wire.ProtoWlogTransfer, wire.ProtoWdiffTransfer, wire.ProtoReplSync} {
		for _, r := range recordings(f, protocol) {
			f.Add(uint8(which), r.s2c[r.ok:])
		}
	}
	for _, r := range hashRecordings(f, wire.ProtoReplSync) {
		f.Add(uint8(3), r.s2c[r.ok:])
	}
	for _, r := range hashRecordings(f, wire.ProtoHashSync) {
		f.Add(uint8(4), r.s2c[r.ok:])
	}
	for _, r := range hashRecordings(f, wire.ProtoGatherLatest) {
		f.Add(uint8(5), r.s2c[r.ok:])
	}
	store := newStore(f)
	addDiff(f, store, clean(0, 1, false), sortedFile(f, meta.UUID{1}, 1, 0, 10))
	addDiff(f, store, clean(1, 2, true), sortedFile(f, meta.UUID{1}, 2, 12))
	f.Fuzz(func(t *testing.T, which uint8, said []byte) {
		c := wire.NewConn(t.Context(), scriptConn{said: bytes.NewReader(said)}, wireOptions)
		defer c.Close()
		switch which % 6 {
		case 0:
			src := &fakeStorage{img: newImage(40, 3)}
			_ = SendFullBackup(t.Context(), c, wire.FullSyncRequest{Size: 40, Bulk: 8, Compress: snappy1}, src, Options{})
		case 1:
			log, begin, end := someLog(t, 512, 5, someIOs()...)
			req := wire.WlogRequest{PBS: 512, Salt: 5}
			if OfferWlog(t.Context(), c, req) == nil {
				s := WlogStretch{Begin: begin, Limit: end, MaxPB: 99, Diff: func(meta.Lsid) meta.Diff { return clean(0, 1, false) }}
				_, _ = SendWlog(t.Context(), c, req, log, s, Options{})
			}
		case 2:
			_ = SendWdiff(t.Context(), c, wire.WdiffRequest{Diff: clean(0, 1, false)}, nil, snappy1, Options{})
		case 3:
			src := &fakeSource{base: meta.NewState(meta.CleanSnap(0), 1), size: 40, img: newImage(40, 7), store: store}
			p := ReplParams{Volume: "vol", ByGid: true, Gid: 2, Resync: true, Bulk: 8, FullCompress: snappy1, DiffCompress: snappy1, MaxMerge: 1 << 20}
			_, _ = SendRepl(t.Context(), c, p, src, Options{})
		case 4:
			src := &fakeStorage{img: newImage(40, 3)}
			_ = SendHashBackup(t.Context(), c, wire.FullSyncRequest{Size: 40, Bulk: 8, Compress: snappy1}, src, Options{})
		case 5:
			_, _ = AskLatest(t.Context(), c, []string{"vol", "v0"})
		}
	})
}
