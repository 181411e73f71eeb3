package storage

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

var errPlayed = errors.New("failure of the play")

// serve runs a peer of the storage until the end of the test.
func serve(t *testing.T, hostType, id string, register func(s *server.Server)) wire.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := server.New(l, server.Config{
		NodeID: id, HostType: hostType, Wire: wire.Options{Timeout: 10 * time.Second}, Log: slog.New(slog.DiscardHandler),
	})
	register(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background()) }()
	t.Cleanup(func() {
		s.Shutdown()
		assert.NoError(t, <-served)
	})
	addr, err := wire.ParseAddr(l.Addr().String())
	require.NoError(t, err)
	return addr
}

// signal tells waiters that something changed.
type signal struct {
	mu      sync.Mutex
	changed chan struct{}
}

// update changes what mu guards.
func (s *signal) update(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// await waits until the fact, about what mu guards, holds.
func (s *signal) await(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for ctx := within(t); ; {
		s.mu.Lock()
		holds := fact()
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if holds {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			require.Fail(t, what+" does not come")
		}
	}
}

// fakeProxy takes logs and keeps the diffs.
type fakeProxy struct {
	signal
	addr   wire.Addr
	offers []wire.WlogRequest
	taken  []takenDiff

	// The play. onOffer refuses, onWrite fails the reception after so many
	// bytes of the n-th offer, onCommit loses the ACK of a diff that is taken.
	onOffer  func(n int) error
	onWrite  func(n int, written int) error
	onCommit func(n int) error
}

type takenDiff struct {
	uuid meta.UUID
	diff meta.Diff
	file []byte
}

func newProxy(t *testing.T) *fakeProxy {
	t.Helper()
	p := &fakeProxy{}
	p.addr = serve(t, wire.HostProxy, "px0", func(s *server.Server) {
		s.HandleTransfer(wire.ProtoWlogTransfer, func(ctx context.Context, r *server.Request) error {
			return transfer.ServeWlog(ctx, r.Conn, r.Reply, &fakeReception{p: p}, transfer.Options{})
		})
	})
	return p
}

// fakeReception is one wlog-transfer at a fakeProxy.
type fakeReception struct {
	p   *fakeProxy
	n   int // number of the offer, from 1
	req wire.WlogRequest
	buf bytes.Buffer
}

func (f *fakeReception) Accept(_ context.Context, req *wire.WlogRequest) error {
	var onOffer func(int) error
	f.p.update(func() {
		f.p.offers = append(f.p.offers, *req)
		f.n, f.req, onOffer = len(f.p.offers), *req, f.p.onOffer
	})
	if onOffer != nil {
		return onOffer(f.n)
	}
	return nil
}

func (f *fakeReception) Create(context.Context) (transfer.WlogSink, error) { return f, nil }

func (f *fakeReception) Write(p []byte) (int, error) {
	f.p.mu.Lock()
	onWrite := f.p.onWrite
	f.p.mu.Unlock()
	if onWrite != nil {
		if err := onWrite(f.n, f.buf.Len()+len(p)); err != nil {
			return 0, err
		}
	}
	return f.buf.Write(p)
}

func (f *fakeReception) Sync() error { return nil }

func (f *fakeReception) Commit(_ context.Context, d meta.Diff) error {
	var onCommit func(int) error
	f.p.update(func() {
		f.p.taken = append(f.p.taken, takenDiff{f.req.UUID, d, f.buf.Bytes()})
		onCommit = f.p.onCommit
	})
	if onCommit != nil {
		return onCommit(f.n)
	}
	return nil
}

func (f *fakeReception) Close() error { return nil }

// play changes how the proxy behaves.
func (p *fakeProxy) play(change func()) { p.update(change) }

// refuse makes the proxy refuse everything, or take everything again.
func (p *fakeProxy) refuse(yes bool) {
	p.play(func() {
		p.onOffer = nil
		if yes {
			p.onOffer = func(int) error { return server.Refusef("", "s2pWlogTransferServer:bad state:Stopped") }
		}
	})
}

func (p *fakeProxy) awaitTaken(t *testing.T, n int) {
	t.Helper()
	p.await(t, "a diff", func() bool { return len(p.taken) >= n })
}

func (p *fakeProxy) awaitGid(t *testing.T, gid meta.Gid) {
	t.Helper()
	p.await(t, "gid "+gid.String(), func() bool {
		return slices.ContainsFunc(p.taken, func(d takenDiff) bool { return d.diff.E.B == gid })
	})
}

func (p *fakeProxy) diffs() []takenDiff {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.taken)
}

// apply brings an image from gid at to gid to with the diffs of a log life, as
// an archive does: always with the one that reaches farthest.
func (m *memImage) apply(t *testing.T, uuid meta.UUID, at, to meta.Gid, diffs []takenDiff) {
	t.Helper()
	for at < to {
		fits := func(d takenDiff) bool {
			return d.uuid == uuid && d.diff.B.B <= at && at < d.diff.E.B && d.diff.E.B <= to
		}
		usable := slices.DeleteFunc(slices.Clone(diffs), func(d takenDiff) bool { return !fits(d) })
		require.NotEmpty(t, usable, "no diff leads from gid %d to %d", at, to)
		best := slices.MaxFunc(usable, func(a, b takenDiff) int { return cmp.Compare(a.diff.E.B, b.diff.E.B) })
		f, err := wdiff.Open("diff", bytes.NewReader(best.file), int64(len(best.file)))
		require.NoError(t, err)
		_, err = wdiff.Apply(t.Context(), f.Records(), m, wdiff.ApplyOptions{
			Size: block.FromBytes(int64(len(m.data))), Discard: wdiff.DiscardZero, Workers: 1,
		})
		require.NoError(t, err)
		at = best.diff.E.B
	}
}

// fakeArchive takes full backups.
type fakeArchive struct {
	signal
	addr    wire.Addr
	backups []*fakeBackup // those accepted

	// The play, for the n-th backup, from 1. onWrite is called before each
	// write, which fails with its error, onCommit after the backup is taken.
	onAccept func(n int) error
	onWrite  func(n int, off int64) error
	onCommit func(n int) error
}

// fakeBackup is one full backup at a fakeArchive.
type fakeBackup struct {
	*memImage
	a      *fakeArchive
	n      int
	req    wire.FullSyncRequest
	uuid   meta.UUID
	snap   meta.Snap // valid iff taken
	taken  bool
	closed bool
}

func newArchive(t *testing.T) *fakeArchive {
	t.Helper()
	a := &fakeArchive{}
	a.addr = serve(t, wire.HostArchive, "ar0", func(s *server.Server) {
		s.HandleTransfer(wire.ProtoFullSync, func(ctx context.Context, r *server.Request) error {
			return transfer.ServeFullBackup(ctx, r.Conn, r.Reply, &fakeBackup{a: a}, transfer.Options{})
		})
	})
	return a
}

func (b *fakeBackup) Accept(_ context.Context, req *wire.FullSyncRequest) error {
	b.a.mu.Lock()
	onAccept := b.a.onAccept
	b.a.mu.Unlock()
	if onAccept != nil {
		if err := onAccept(len(b.a.backups) + 1); err != nil {
			return err
		}
	}
	b.req, b.memImage = *req, &memImage{data: bytes.Repeat([]byte{0xee}, int(req.Size.Bytes()))}
	b.a.update(func() {
		b.a.backups = append(b.a.backups, b)
		b.n = len(b.a.backups)
	})
	return nil
}

func (b *fakeBackup) Begin(_ context.Context, uuid meta.UUID) (transfer.BackupSink, error) {
	b.a.update(func() { b.uuid = uuid })
	return b, nil
}

func (b *fakeBackup) WriteAt(p []byte, off int64) (int, error) {
	b.a.mu.Lock()
	onWrite := b.a.onWrite
	b.a.mu.Unlock()
	if onWrite != nil {
		if err := onWrite(b.n, off); err != nil {
			return 0, err
		}
	}
	return b.memImage.WriteAt(p, off)
}

func (b *fakeBackup) Commit(_ context.Context, snap meta.Snap) error {
	var onCommit func(int) error
	b.a.update(func() { b.snap, b.taken, onCommit = snap, true, b.a.onCommit })
	if onCommit != nil {
		return onCommit(b.n)
	}
	return nil
}

func (b *fakeBackup) Close() error {
	b.a.update(func() { b.closed = true })
	return nil
}

// awaitBackup waits until the n-th backup, from 1, has ended, and gives it.
func (a *fakeArchive) awaitBackup(t *testing.T, n int) *fakeBackup {
	t.Helper()
	a.await(t, "the end of the backup", func() bool { return len(a.backups) >= n && a.backups[n-1].closed })
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.backups[n-1]
}

// memImage is an image in memory.
type memImage struct {
	mu   sync.Mutex
	data []byte
}

func (m *memImage) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := copy(p, m.data[min(off, int64(len(m.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memImage) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return copy(m.data[off:], p), nil
}

func (m *memImage) Zero(r block.Range) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.data[r.Addr.Bytes():r.End().Bytes()])
	return nil
}

func (m *memImage) WriteBack(int64, int64) {}
func (m *memImage) Sync() error            { return nil }

// clone copies the image as it is now.
func (m *memImage) clone() *memImage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memImage{data: slices.Clone(m.data)}
}
