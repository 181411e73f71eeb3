package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memImage is an image in memory: a source and a sink.
type memImage struct {
	mu    sync.Mutex
	data  []byte
	reads int // blocks read
	syncs int
	zeros []block.Range

	failWrite error
	failSync  error
	failRead  error
}

func newImage(size block.LB, fill byte) *memImage {
	return &memImage{data: bytes.Repeat([]byte{fill}, int(size.Bytes()))}
}

func (m *memImage) ReadAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failRead != nil {
		return 0, m.failRead
	}
	n := copy(p, m.data[min(off, int64(len(m.data))):])
	m.reads += n / block.Size
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NextData knows holes of 4 KiB.
func (m *memImage) NextData(_ context.Context, from block.LB) (block.Range, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	const grain = 8
	size := block.LB(len(m.data) / block.Size)
	hole := func(at block.LB) bool {
		return block.IsZero(m.data[at.Bytes():min(at+grain, size).Bytes()])
	}
	for from < size && hole(from/grain*grain) {
		from = (from/grain + 1) * grain
	}
	if from >= size {
		return block.Range{Addr: size}, nil
	}
	end := from / grain * grain
	for end < size && !hole(end) {
		end += grain
	}
	return block.Range{Addr: from, Len: min(end, size) - from}, nil
}

func (m *memImage) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failWrite != nil {
		return 0, m.failWrite
	}
	if off+int64(len(p)) > int64(len(m.data)) {
		return 0, errors.New("write behind the end")
	}
	return copy(m.data[off:], p), nil
}

func (m *memImage) Zero(r block.Range) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.zeros = append(m.zeros, r)
	clear(m.data[r.Addr.Bytes():r.End().Bytes()])
	return m.failWrite
}

func (m *memImage) WriteBack(off, n int64) {}

func (m *memImage) Sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.syncs++
	return m.failSync
}

// calls records in which order a role calls its server.
type calls struct {
	mu    sync.Mutex
	order []string
}

func (c *calls) call(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order = append(c.order, fmt.Sprintf(format, args...))
}

func (c *calls) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.order)
}

// fakeStorage is the storage in a full backup.
type fakeStorage struct {
	calls
	img  *memImage
	uuid meta.UUID
	gid  meta.Gid
}

func (s *fakeStorage) Accepted(context.Context) error { s.call("accepted"); return nil }
func (s *fakeStorage) ResetLog(context.Context) (meta.UUID, error) {
	s.call("reset log")
	return s.uuid, nil
}
func (s *fakeStorage) ResetLogAt(_ context.Context, gid meta.Gid) (meta.UUID, error) {
	s.call("reset log at %d", gid)
	return s.uuid, nil
}

func (s *fakeStorage) Begun(context.Context) error { s.call("begun"); return nil }
func (s *fakeStorage) Source(context.Context) (BlockSource, error) {
	s.call("source")
	return s.img, nil
}

func (s *fakeStorage) Snapshot(context.Context) (meta.Gid, error) {
	s.call("snapshot")
	return s.gid, nil
}

// fakeArchive is the archive in every role it serves.
type fakeArchive struct {
	calls
	img    *memImage
	refuse error  // answer of Accept and Judge
	word   string // answer of Judge; "" is accept

	// replication
	kind      uint32
	offerErr  error
	start     block.LB
	latest    meta.State
	stuck     bool // latest stays where it is
	diffErr   error
	commitErr error

	full   *wire.ReplFullRequest
	diff   *wire.ReplDiffRequest
	resync *wire.ReplResyncRequest
	files  []*fakeFile
	end    meta.Snap // of a hash backup
	from   meta.Snap // its beginning
}

func (a *fakeArchive) backup() BackupServer { return fakeBackup{a} }

// fakeBackup separates the Accept of a backup from that of a replication.
type fakeBackup struct{ a *fakeArchive }

func (b fakeBackup) Accept(_ context.Context, req *wire.FullSyncRequest) error {
	b.a.call("accept %s", req.Volume)
	return b.a.refuse
}

func (b fakeBackup) Begin(_ context.Context, uuid meta.UUID) (BackupSink, error) {
	b.a.call("begin %x", uuid[:2])
	return &fakeBackupSink{b.a.img, b.a}, nil
}

type fakeBackupSink struct {
	*memImage
	a *fakeArchive
}

func (s *fakeBackupSink) Commit(_ context.Context, snap meta.Snap) error {
	s.a.call("commit %s", snap)
	return s.a.commitErr
}
func (s *fakeBackupSink) Close() error { s.a.call("close"); return nil }

func (a *fakeArchive) Judge(_ context.Context, req *wire.WdiffRequest) (string, error) {
	a.call("judge %s", req.Diff)
	if a.word == "" {
		return wire.Accept, a.refuse
	}
	return a.word, a.refuse
}

func (a *fakeArchive) Create(context.Context) (DiffSink, error) {
	a.call("create")
	f := &fakeFile{a: a}
	a.files = append(a.files, f)
	return f, nil
}

// fakeFile is a diff file in memory.
type fakeFile struct {
	bytes.Buffer
	a *fakeArchive
}

func (f *fakeFile) Sync() error { return nil }

func (f *fakeFile) Commit(context.Context) error {
	f.a.call("commit")
	if f.a.commitErr != nil {
		return f.a.commitErr
	}
	if f.a.diff != nil && !f.a.stuck {
		var err error
		f.a.latest, err = f.a.latest.EndApplying([]meta.Diff{f.a.diff.Diff})
		return err
	}
	return nil
}

func (f *fakeFile) Close() error { f.a.call("close"); return nil }

func (a *fakeArchive) Accept(_ context.Context, volume string) error {
	a.call("accept %s", volume)
	return a.refuse
}

func (a *fakeArchive) Offer(_ context.Context, offer wire.ReplOffer) (uint32, error) {
	a.call("offer %x", offer.ArchiveUUID[:2])
	return a.kind, a.offerErr
}

func (a *fakeArchive) Full(_ context.Context, req *wire.ReplFullRequest) (block.LB, error) {
	a.call("full")
	a.full = req
	return a.start, nil
}

func (a *fakeArchive) BeginFull(context.Context) (FullSink, error) {
	a.call("begin full")
	return &fakeFullSink{a.img, a}, nil
}

func (a *fakeArchive) Latest(context.Context) (meta.State, error) {
	a.call("latest")
	return a.latest, nil
}

func (a *fakeArchive) Diff(_ context.Context, req *wire.ReplDiffRequest) error {
	a.call("diff %s", req.Diff)
	a.diff = req
	return a.diffErr
}

func (a *fakeArchive) Stop(context.Context) error { a.call("stop"); return nil }

func (a *fakeArchive) Resync(_ context.Context, req *wire.ReplResyncRequest) error {
	a.call("resync %s", req.Base.B)
	a.resync = req
	return a.diffErr
}

func (a *fakeArchive) BeginResync(context.Context) (CompareSink, error) {
	a.call("begin resync")
	return a.compared(), nil
}

func (a *fakeArchive) Hash(_ context.Context, req *wire.ReplHashRequest) error {
	a.call("hash %s", req.Diff)
	a.diff = &wire.ReplDiffRequest{Diff: req.Diff}
	return a.diffErr
}

func (a *fakeArchive) BeginHash(context.Context) (CompareSink, error) {
	a.call("begin hash")
	return a.compared(), nil
}

func (a *fakeArchive) compared() *fakeCompared {
	f := &fakeFile{a: a}
	a.files = append(a.files, f)
	return &fakeCompared{f}
}

// fakeCompared takes differences to the archive's image in.
type fakeCompared struct{ *fakeFile }

func (f *fakeCompared) Old() BlockSource { return f.a.img }

func (f *fakeCompared) SetEnd(to meta.Snap) error {
	f.a.call("end %s", to)
	f.a.end = to
	return nil
}

func (f *fakeCompared) Commit(ctx context.Context) error {
	if err := f.fakeFile.Commit(ctx); err != nil {
		return err
	}
	if f.a.resync != nil {
		f.a.latest, f.a.resync = f.a.resync.Base, nil
	}
	return nil
}

// fakeHashBackup is the archive in a hash backup.
type fakeHashBackup struct{ a *fakeArchive }

func (b fakeHashBackup) Accept(_ context.Context, req *wire.FullSyncRequest) (meta.Snap, error) {
	b.a.call("accept %s", req.Volume)
	return b.a.from, b.a.refuse
}

func (b fakeHashBackup) Begin(_ context.Context, uuid meta.UUID) (HashBackupSink, error) {
	b.a.call("begin %x", uuid[:2])
	return b.a.compared(), nil
}

type fakeFullSink struct {
	*memImage
	a *fakeArchive
}

func (s *fakeFullSink) Checkpoint(_ context.Context, progress block.LB) error {
	s.a.call("checkpoint %d", progress)
	return nil
}

func (s *fakeFullSink) Commit(context.Context) error {
	s.a.call("commit full")
	s.a.latest = s.a.full.Base
	return s.a.commitErr
}
func (s *fakeFullSink) Close() error { s.a.call("close full"); return nil }

// fakeProxy is the proxy in a wlog-transfer.
type fakeProxy struct {
	calls
	refuse    error
	commitErr error
	file      bytes.Buffer
	diff      meta.Diff
}

func (p *fakeProxy) Accept(_ context.Context, req *wire.WlogRequest) error {
	p.call("accept %s", req.Volume)
	return p.refuse
}

func (p *fakeProxy) Create(context.Context) (WlogSink, error) {
	p.call("create")
	return &fakeReceived{&p.file, p}, nil
}

type fakeReceived struct {
	*bytes.Buffer
	p *fakeProxy
}

func (f *fakeReceived) Sync() error { return nil }

func (f *fakeReceived) Commit(_ context.Context, d meta.Diff) error {
	f.p.call("commit %s", d)
	f.p.diff = d
	return f.p.commitErr
}
func (f *fakeReceived) Close() error { f.p.call("close"); return nil }

// fakeLog is log by lsid.
type fakeLog struct {
	pbs  int
	data map[meta.Lsid][]byte // one physical block each
}

func (l *fakeLog) put(lsid meta.Lsid, p []byte) {
	for ; len(p) > 0; p = p[l.pbs:] {
		l.data[lsid] = p[:l.pbs]
		lsid++
	}
}

func (l *fakeLog) ReadLog(_ context.Context, lsid meta.Lsid, p []byte) error {
	for ; len(p) > 0; p = p[l.pbs:] {
		b, ok := l.data[lsid]
		if !ok {
			return fmt.Errorf("no log at %d", lsid)
		}
		copy(p, b)
		lsid++
	}
	return nil
}

var wireOptions = wire.Options{Timeout: 10 * time.Second}

// pipe connects two sides over loopback.
func pipe(tb testing.TB) (client, server *wire.Conn) {
	tb.Helper()
	a, b := tcpPair(tb)
	client, server = wire.NewConn(tb.Context(), a, wireOptions), wire.NewConn(tb.Context(), b, wireOptions)
	tb.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// replyOn sends status words and remembers that it did.
func replyOn(c *wire.Conn, replied *bool) Reply {
	return func(word string) error {
		*replied = true
		c.W.Str(word)
		return c.Flush()
	}
}

// serveOn runs a role as a server does: what it returns before it replied is
// sent as a refusal, and the connection is closed at the end.
func serveOn(ctx context.Context, c *wire.Conn, role func(ctx context.Context, c *wire.Conn, reply Reply) error) error {
	replied := false
	err := role(ctx, c, replyOn(c, &replied))
	if err != nil && !replied {
		_ = c.Refuse(err)
	}
	c.Close()
	return err
}

// converse runs both roles against each other and returns how they ended.
func converse(tb testing.TB, client func(c *wire.Conn) error, server func(ctx context.Context, c *wire.Conn, reply Reply) error) (clientErr, serverErr error) {
	tb.Helper()
	c, s := pipe(tb)
	return converseOn(tb.Context(), c, s, client, server)
}

func converseOn(ctx context.Context, c, s *wire.Conn, client func(c *wire.Conn) error, server func(ctx context.Context, c *wire.Conn, reply Reply) error) (clientErr, serverErr error) {
	done := make(chan error, 1)
	go func() { done <- serveOn(ctx, s, server) }()
	clientErr = client(c)
	c.Close()
	return clientErr, <-done
}

// cutConn breaks when more than left bytes were written.
type cutConn struct {
	pipeConn
	left int
}

func (c *cutConn) Write(p []byte) (int, error) {
	if len(p) <= c.left {
		c.left -= len(p)
		return c.pipeConn.Write(p)
	}
	n, _ := c.pipeConn.Write(p[:c.left])
	c.left = 0
	c.Close()
	return n, net.ErrClosed
}

// pipeConn is one end of a connection in memory. It has no deadlines.
type pipeConn struct {
	net.Conn // nil: what is not below is not used
	r        *io.PipeReader
	w        *io.PipeWriter
}

func (c pipeConn) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c pipeConn) Write(p []byte) (int, error)      { return c.w.Write(p) }
func (c pipeConn) CloseWrite() error                { return c.w.Close() }
func (c pipeConn) SetDeadline(time.Time) error      { return nil }
func (c pipeConn) SetReadDeadline(time.Time) error  { return nil }
func (c pipeConn) SetWriteDeadline(time.Time) error { return nil }
func (c pipeConn) Close() error {
	return errors.Join(c.r.Close(), c.w.Close())
}

// cutPipe connects two sides in memory; each direction breaks after so many bytes.
func cutPipe(tb testing.TB, c2s, s2c int) (client, server *wire.Conn) {
	tb.Helper()
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return wire.NewConn(tb.Context(), &cutConn{pipeConn{r: r2, w: w1}, c2s}, wireOptions),
		wire.NewConn(tb.Context(), &cutConn{pipeConn{r: r1, w: w2}, s2c}, wireOptions)
}

// cutEverywhere runs a conversation once in full, and once for each place in
// either direction at which it breaks: both sides must end, the client with an
// error, and the server too unless only its last word was lost.
func cutEverywhere(t *testing.T, fresh func() (client func(c *wire.Conn) error, server func(ctx context.Context, c *wire.Conn, reply Reply) error)) {
	t.Helper()
	const all = 1 << 30
	client, server := fresh()
	c, s := cutPipe(t, all, all)
	clientErr, serverErr := converseOn(t.Context(), c, s, client, server)
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	sent, received := int(c.BytesOut()), int(c.BytesIn())
	for cut := range cuts(sent) {
		client, server := fresh()
		c, s := cutPipe(t, cut, all)
		clientErr, serverErr := converseOn(t.Context(), c, s, client, server)
		require.Error(t, clientErr, "sent bytes cut at %d of %d", cut, sent)
		require.Error(t, serverErr, "sent bytes cut at %d of %d", cut, sent)
	}
	for cut := range cuts(received) {
		client, server := fresh()
		c, s := cutPipe(t, all, cut)
		clientErr, serverErr := converseOn(t.Context(), c, s, client, server)
		require.Error(t, clientErr, "received bytes cut at %d of %d", cut, received)
		require.Error(t, serverErr, "received bytes cut at %d of %d", cut, received)
	}
}

// cuts gives every number below total, but of the long middle, which is the
// rest of a pack header, only some.
func cuts(total int) iter.Seq[int] {
	const edge, step = 400, 23
	return func(yield func(int) bool) {
		for i := range total {
			if (i < edge || i > total-edge || i%step == 0) && !yield(i) {
				return
			}
		}
	}
}
