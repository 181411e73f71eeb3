package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// Behaviours of the fake archive beside answering with a word.
const (
	lostAck = "lost ack" // takes the diff and closes without an acknowledgement
	hang    = "hang"     // takes the request and is silent until released, then goes on with the next answer
)

// fakeArchive speaks the archive's side of wdiff-transfer by a script.
type fakeArchive struct {
	addr     string
	listener net.Listener
	release  chan struct{}
	work     sync.WaitGroup
	stop     context.CancelFunc

	mu      sync.Mutex
	answers []string // of the next requests; then accept
	got     []delivered
	changed chan struct{}
}

// delivered is one request and what followed.
type delivered struct {
	req    wire.WdiffRequest
	answer string
	blocks map[block.LB]byte // first byte of each block
	size   int               // bytes of packs
}

func newFakeArchive(t *testing.T, answers ...string) *fakeArchive {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	f := &fakeArchive{
		addr: listener.Addr().String(), listener: listener, stop: stop,
		answers: answers, changed: make(chan struct{}), release: make(chan struct{}),
	}
	f.work.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			f.work.Go(func() { f.serve(ctx, c) })
		}
	})
	t.Cleanup(f.close)
	return f
}

func (f *fakeArchive) close() {
	f.stop()
	_ = f.listener.Close()
	f.work.Wait()
}

// script sets the answers of the next requests; behind them it accepts.
func (f *fakeArchive) script(answers ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers = answers
}

func (f *fakeArchive) serve(ctx context.Context, c net.Conn) {
	conn := wire.NewConn(ctx, c, wire.Options{Timeout: 10 * time.Second})
	defer conn.Close()
	_, err := wire.ServerHello(conn, "a0", func(p string) bool { return p == wire.ProtoWdiffTransfer })
	if err != nil {
		return
	}
	d := delivered{blocks: map[block.LB]byte{}}
	d.req.Decode(conn.R)
	if conn.R.Err() != nil {
		return
	}
	d.answer = f.next()
	if d.answer == hang {
		f.note(d)
		select {
		case <-f.release:
		case <-ctx.Done():
			return
		}
		d.answer = f.next()
	}
	if d.answer != wire.Accept && d.answer != lostAck {
		conn.W.Str(d.answer)
		f.note(d)
		_ = conn.Finish()
		return
	}
	conn.W.Str(wire.Accept)
	if conn.Flush() != nil || d.receive(conn.R) != nil {
		return
	}
	f.note(d)
	if d.answer == lostAck {
		return
	}
	conn.W.Ack()
	_ = conn.Finish()
}

// receive takes the packs in.
func (d *delivered) receive(in *wire.Reader) error {
	var file bytes.Buffer
	w, err := wdiff.NewSortedWriter(&file, "received", d.req.UUID, d.req.Size)
	if err != nil {
		return err
	}
	for {
		switch ctl := in.U8(); {
		case in.Err() != nil:
			return in.Err()
		case ctl == wire.CtlNext:
			if err := w.CopyPack(in, in.U64()); err != nil {
				return err
			}
			continue
		case ctl != wire.CtlEnd:
			return errors.New("bad ctrl not end")
		}
		break
	}
	if err := w.Close(); err != nil {
		return err
	}
	d.size = file.Len()
	diff, err := wdiff.Open("received", bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		return err
	}
	loader := wdiff.NewLoader(0)
	for records := diff.Records(); ; {
		r, err := records.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		p := make([]byte, r.Blocks.Bytes())
		if err := loader.Read(p, r, 0); err != nil {
			return err
		}
		for i := range r.Blocks {
			d.blocks[r.Addr+i] = p[i*block.Size]
		}
	}
}

func (f *fakeArchive) next() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.answers) == 0 {
		return wire.Accept
	}
	answer := f.answers[0]
	if len(f.answers) > 1 || answer == wire.Accept || answer == lostAck {
		f.answers = f.answers[1:]
	}
	return answer
}

func (f *fakeArchive) note(d delivered) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, d)
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until there were n requests and gives them.
func (f *fakeArchive) await(t *testing.T, n int) []delivered {
	t.Helper()
	limit := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		got, changed := f.got, f.changed
		f.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-changed:
		case <-limit:
			require.Failf(t, "too few requests", "%d of %d", len(got), n)
		}
	}
}

// show prints requests in short: answer, diff, log life, content of block 7.
func show(got []delivered) (out []string) {
	for _, d := range got {
		s := fmt.Sprintf("%s %s life %d", d.answer, d.req.Diff, d.req.UUID[0])
		if b, ok := d.blocks[7]; ok {
			s += fmt.Sprintf(" %c", b)
		}
		out = append(out, s)
	}
	return out
}

// awaitEmpty waits until nothing waits for the archive.
func (r *rig) awaitEmpty(t *testing.T, archive string) {
	t.Helper()
	store := r.find("v0").archives[archive].store
	assert.Eventually(t, func() bool { return len(store.All()) == 0 }, 10*time.Second, time.Millisecond)
}
