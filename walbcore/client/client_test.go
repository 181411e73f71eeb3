package client

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// fake is a server whose answers a test makes up.
type fake struct {
	addr  string
	conns atomic.Int32 // connections so far
}

// newFake serves each connection by handle, one at a time.
func newFake(t *testing.T, handle func(c *wire.Conn, nth int32)) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := wire.NewConn(context.Background(), nc, wire.Options{Timeout: wire.DefaultTimeout})
			handle(c, f.conns.Add(1))
			c.Close()
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return f
}

// welcome does the server's part of the hello, knowing every protocol.
func welcome(c *wire.Conn) (protocol string) {
	h, err := wire.ServerHello(c, "a0", func(string) bool { return true })
	if err != nil {
		return ""
	}
	return h.Protocol
}

func refuse(text string) error { return &wire.Error{Text: text} }

var quick = Options{ID: "ctl0", Timeout: wire.DefaultTimeout}

func TestOnlyQuestionsAreRepeated(t *testing.T) {
	f := newFake(t, func(c *wire.Conn, nth int32) {
		welcome(c)
		c.R.StrVec()
		if nth < 3 {
			c.Refuse(refuse("getState:busy"))
			return
		}
		c.W.Str(wire.OK)
		c.W.Str("Archived")
		c.W.Ack()
		c.Finish()
	})
	opts := quick
	opts.Retries = DefaultRetries
	c := New(f.addr, opts)
	state, err := c.State(t.Context(), "vol")
	require.NoError(t, err)
	assert.Equal(t, "Archived", state)
	assert.EqualValues(t, 3, f.conns.Load())

	refusing := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		c.Refuse(refuse("x:bad state:Clear"))
	})
	c = New(refusing.addr, opts)
	for _, tc := range []struct {
		name string
		do   func() error
		want int32
	}{
		{"get", func() error { _, err := c.HostType(t.Context()); return err }, 3},
		{"status", func() error { _, err := c.Status(t.Context(), ""); return err }, 3},
		{"start", func() error { return c.Start(t.Context(), "vol", RoleNone) }, 1},
		{"stop", func() error { return c.Stop(t.Context(), "vol", StopEmpty) }, 1},
		{"replicate", func() error {
			return c.Replicate(t.Context(), "vol", Replication{Dest: wire.Addr{Host: "h", Port: 1}})
		}, 1},
	} {
		refusing.conns.Store(0)
		err := tc.do()
		assert.True(t, walberr.Is(err, walberr.BadState), "%s: %v", tc.name, err)
		assert.Equal(t, tc.want, refusing.conns.Load(), tc.name)
	}
}

func TestRefusalHasFields(t *testing.T) {
	f := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		c.Refuse(refuse("c2aRestoreServer:bad state:Stopped\n<<<STACKTRACE>>> 0x1"))
	})
	err := New(f.addr, quick).Restore(t.Context(), "vol", 5)
	var e *walberr.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, walberr.Error{
		Op: "restore", Server: "a0", Volume: "vol", Code: walberr.BadState, Found: "c2aRestoreServer:bad state:Stopped",
	}, *e)
}

func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	l.Close()
	for name, opts := range map[string]Options{addr: quick, "a1": {Name: "a1", Timeout: time.Second}} {
		_, err = New(addr, opts).State(t.Context(), "vol")
		var e *walberr.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, walberr.Unreachable, e.Code)
		assert.Equal(t, "get state", e.Op)
		assert.Equal(t, name, e.Server)
		assert.Contains(t, e.Hint, addr)
	}
}

func TestBrokenConversations(t *testing.T) {
	for _, tc := range []struct {
		name   string
		server func(c *wire.Conn)
		code   walberr.Code
		hint   string
	}{
		{"closed at once", func(c *wire.Conn) {}, walberr.Unreachable, "is a server running"},
		{"closed instead of an answer", func(c *wire.Conn) { welcome(c); c.R.StrVec() }, walberr.Unreachable, "its log says why"},
		{"no acknowledgement", func(c *wire.Conn) {
			welcome(c)
			c.R.StrVec()
			c.W.Str(wire.OK)
			c.W.StrVec(nil)
			c.W.U32(7)
			c.Flush()
		}, walberr.Checksum, ""},
		{"not a list of gids", func(c *wire.Conn) {
			welcome(c)
			c.R.StrVec()
			c.W.Str(wire.OK)
			c.W.StrVec([]string{"1", "x"})
			c.W.Ack()
			c.Flush()
		}, walberr.Checksum, ""},
		{"silence", func(c *wire.Conn) { welcome(c); io.Copy(io.Discard, c.R) }, walberr.Timeout, "within"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFake(t, func(c *wire.Conn, _ int32) { tc.server(c) })
			opts := quick
			if tc.code == walberr.Timeout {
				opts.Timeout = 50 * time.Millisecond
			}
			_, err := New(f.addr, opts).Restored(t.Context(), "vol")
			var e *walberr.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, tc.code, e.Code, "%v", err)
			assert.Equal(t, "get restored", e.Op)
			assert.Equal(t, "vol", e.Volume)
			assert.Contains(t, e.Hint, tc.hint)
		})
	}
}

func TestContextEndsACommand(t *testing.T) {
	asked := make(chan struct{})
	f := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		c.R.StrVec()
		close(asked)
		io.Copy(io.Discard, c.R)
	})
	why := errors.New("Ctrl-C")
	ctx, cancel := context.WithCancelCause(t.Context())
	opts := quick
	opts.Retries = DefaultRetries
	go func() {
		<-asked
		cancel(why)
	}()
	_, err := New(f.addr, opts).State(ctx, "vol")
	assert.ErrorIs(t, err, why)
	assert.True(t, walberr.Is(err, walberr.Canceled), "%v", err)
	assert.EqualValues(t, 1, f.conns.Load(), "a cancelled command is not repeated")

	ctx, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	<-ctx.Done()
	_, err = New(f.addr, opts).State(ctx, "vol")
	assert.True(t, walberr.Is(err, walberr.Timeout), "%v", err)
}

func TestContextEndsThePause(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFake(t, func(c *wire.Conn, nth int32) {
		welcome(c)
		c.R.StrVec()
		c.Refuse(refuse("x:bad state:Clear"))
		if nth == 2 {
			cancel()
		}
	})
	opts := quick
	opts.Retries = 1 << 30
	_, err := New(f.addr, opts).State(ctx, "vol")
	assert.Error(t, err)
}

// TestWrongArgumentsAreNotSent uses an address where nobody listens: it must
// not be tried.
func TestWrongArgumentsAreNotSent(t *testing.T) {
	c := New("127.0.0.1:1", quick)
	ctx := t.Context()
	good := wire.ArchiveInfo{Addr: wire.Addr{Host: "h", Port: 1}, Compress: compress.Opt{CPUs: 1}}
	for name, do := range map[string]func() error{
		"empty volume":     func() error { return c.ClearVol(ctx, "") },
		"bad volume":       func() error { _, err := c.State(ctx, "a_b"); return err },
		"status":           func() error { _, err := c.Status(ctx, "a/b"); return err },
		"snapshot":         func() error { _, err := c.Snapshot(ctx, "../x"); return err },
		"kick":             func() error { return c.Kick(ctx, "", "a0") },
		"archive name":     func() error { return c.ArchiveInfoAdd(ctx, "vol", "", good) },
		"archive address":  func() error { return c.ArchiveInfoAdd(ctx, "vol", "a0", wire.ArchiveInfo{Compress: good.Compress}) },
		"archive compress": func() error { return c.ArchiveInfoUpdate(ctx, "vol", "a0", wire.ArchiveInfo{Addr: good.Addr}) },
		"replicate":        func() error { return c.Replicate(ctx, "vol", Replication{}) },
		"replicate volume": func() error { return c.Replicate(ctx, "", Replication{Dest: good.Addr}) },
	} {
		err := do()
		assert.True(t, walberr.Is(err, walberr.Usage), "%s: %v", name, err)
	}
}

// TestAHungServer: a question ends with its own context, whatever others wait
// for, and says what to look at.
func TestAHungServer(t *testing.T) {
	hung := make(chan struct{}, 2)
	f := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		hung <- struct{}{}
		c.R.U8() // until the client is gone
	})
	c := New(f.addr, Options{ID: "ctl0", Name: "a0", Timeout: time.Minute})
	first, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := c.Features(first)
		ended <- err
	}()
	<-hung
	limited, stop := context.WithTimeout(t.Context(), time.Millisecond)
	defer stop()
	_, err := c.Features(limited)
	e, ok := errors.AsType[*walberr.Error](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, walberr.Timeout, e.Code)
	assert.Equal(t, "the time limit passed without an answer", e.Found)
	assert.Contains(t, e.Hint, f.addr)
	assert.Equal(t, "a0", e.Server)
	cancel()
	assert.Equal(t, walberr.Canceled, walberr.CodeOf(<-ended))
}

func TestFeatures(t *testing.T) {
	ours := newFake(t, func(c *wire.Conn, _ int32) {
		assert.Equal(t, wire.ProtoFeatures, welcome(c))
		c.W.Str(wire.OK)
		c.W.StrVec([]string{"long-poll"})
		c.Finish()
	})
	c := New(ours.addr, quick)
	for range 2 {
		got, err := c.Features(t.Context())
		require.NoError(t, err)
		assert.Equal(t, []string{"long-poll"}, got)
	}
	has, err := c.HasFeature(t.Context(), "long-poll")
	require.NoError(t, err)
	assert.True(t, has)
	assert.EqualValues(t, 1, ours.conns.Load(), "asked once")

	original := newFake(t, func(c *wire.Conn, _ int32) {
		wire.ServerHello(c, "a0", func(string) bool { return false })
	})
	c = New(original.addr, quick)
	for range 2 {
		has, err := c.HasFeature(t.Context(), "long-poll")
		require.NoError(t, err)
		assert.False(t, has)
	}
	assert.EqualValues(t, 1, original.conns.Load(), "asked once")

	failing := newFake(t, func(c *wire.Conn, _ int32) {})
	c = New(failing.addr, quick)
	for range 2 {
		_, err := c.Features(t.Context())
		assert.True(t, walberr.Is(err, walberr.Unreachable))
	}
	assert.EqualValues(t, 2, failing.conns.Load(), "no answer is not remembered")
}

func TestReplicationWords(t *testing.T) {
	dest := wire.Addr{Host: "h", Port: 5000}
	lz4 := compress.Opt{Type: compress.LZ4, CPUs: 2}
	for _, tc := range []struct {
		p    Replication
		want []string
	}{
		{Replication{Dest: dest}, []string{"size", "0", "h:5000"}},
		{Replication{Dest: dest, ByGid: true, Value: 7}, []string{"gid", "7", "h:5000"}},
		{Replication{Dest: dest, Resync: true}, []string{"size", "0", "h:5000", "1"}},
		{Replication{Dest: dest, DontMerge: true}, []string{"size", "0", "h:5000", "0", "1"}},
		{Replication{Dest: dest, Compress: lz4}, []string{"size", "0", "h:5000", "0", "0", "lz4:0:2"}},
		{Replication{Dest: dest, MaxMergeSize: 3 << 20}, []string{"size", "0", "h:5000", "0", "0", "snappy:0:1", "3m"}},
		{Replication{Dest: dest, Bulk: 64 << 10}, []string{"size", "0", "h:5000", "0", "0", "snappy:0:1", "1g", "64k"}},
	} {
		assert.Equal(t, tc.want, tc.p.words())
	}
}

func TestGidRangeWords(t *testing.T) {
	for _, tc := range []struct {
		in   GidRange
		want []string
	}{
		{GidRange{}, nil},
		{GidRange{To: meta.MaxGid}, nil},
		{GidRange{From: 3}, []string{"3"}},
		{GidRange{To: 4}, []string{"0", "4"}},
		{GidRange{From: 3, To: 4}, []string{"3", "4"}},
	} {
		assert.Equal(t, tc.want, tc.in.words())
	}
}

func TestClassify(t *testing.T) {
	for text, want := range map[string]walberr.Code{
		"findServerHandler:bad protocol:nosuch:ctl0":                              walberr.Usage,
		"c2aRestoreServer:exceeds max foreground tasks:2":                         walberr.Unavailable,
		"s2pWlogTransferServer:Not enough available disk space:1:2":               walberr.Unavailable,
		"c2aMergeServer:verifyStopState:vol:4:1":                                  walberr.Stopped,
		"c2sStopServer:already under stopping:vol":                                walberr.Stopped,
		"c2aApplyServer:there are running action:Merge:1":                         walberr.Conflict,
		":StateMachineTransaction:tryChange:already called:Stop:Archived:Stop":    walberr.Conflict,
		"c2aRestoreServer:already restored:vol:3":                                 walberr.Conflict,
		"c2pStartServer:StateMachineTransaction:bad state:Clear:Stopped:Start":    walberr.BadState,
		"backupClient:not accepted by archive:a0:backupServer:bad state:Archived": walberr.BadState,
		"c2sStartServer:overflow:vol:/dev/walb/w0":                                walberr.BadState,
		"verifyRestorable:bad gid to restore:vol:9":                               walberr.NotFound,
		"delSnapshot:volume not found:vol:9:restored":                             walberr.NotFound,
		"Socket::connect:bad socket:Connection refused(111)":                      walberr.Unreachable,
		"Socket:connect:timeout:10.0.0.1:5000":                                    walberr.Unreachable,
		"Socket:readSome:Resource temporarily unavailable(11):1":                  walberr.Timeout,
		"run1stNegotiateAsClient:findServerHandler:bad protocol:repl-sync3:a0":    walberr.Usage,
		"runReplSync1stNegotiation:a2aReplSyncServer:bad state:Clear":             walberr.BadState,
		"resync is required but not allowed":                                      walberr.DifferentUUID,
		"parseBackupParam:too small size:0":                                       walberr.Range,
		"missing required params: 0 1":                                            walberr.Usage,
		"atoi::convertToUint:abc":                                                 walberr.Usage,
		wire.TooOldDiff:                                                           walberr.TooOldDiff,
		wire.TooNewDiff:                                                           walberr.TooNewDiff,
		wire.DifferentUUID:                                                        walberr.DifferentUUID,
		wire.StoppedWord:                                                          walberr.Stopped,
		wire.WdiffRecvWord:                                                        walberr.Conflict,
		wire.SyncingWord:                                                          walberr.Conflict,
		wire.ArchiveNotFound:                                                      walberr.NotFound,
		wire.SmallerLvSize:                                                        walberr.BadState,
		"something never heard of":                                                walberr.Unavailable,
	} {
		assert.Equal(t, want, Classify(text), text)
	}
}

func TestHints(t *testing.T) {
	for text, want := range map[string]string{
		"findServerHandler:bad protocol:replicate:ctl0":   "does not have the command",
		"c2aRestoreServer:exceeds max foreground tasks:2": "-fg",
		"c2aMergeServer:verifyStopState:vol:4:1":          "a stop is under way",
		"c2aApplyServer:there are running action:Merge:1": "something else runs",
		"c2aRestoreServer:bad state:Stopped":              "",
	} {
		assert.Contains(t, hintFor(text), want)
		assert.Equal(t, want == "", hintFor(text) == "", text)
	}
}

func TestMalformedLines(t *testing.T) {
	fails := func(name string, err error) { assert.Error(t, err, name) }
	for _, line := range []string{"", "name:v", "name:v\tkind:archive\tgid:x\ttimestamp:", "name:v\tkind:archive\tgid:1\ttimestamp:x"} {
		_, err := parseLatestSnap(line)
		fails(line, err)
		_, err = parseTsDelta(line)
		fails(line, err)
		_, err = parseLogUsage(line)
		fails(line, err)
		_, err = parseVolumeBase(line)
		fails(line, err)
	}
	for _, line := range []string{"", "v Merge", "v Merge x ---", "v Merge 0 x"} {
		_, err := parseVolumeActions(line)
		fails(line, err)
	}
	for _, line := range []string{"", "PROTOCOL_COUNT\tget\tc\tx", "PROTOCOL_LATENCY\tget\tx", "GET_COUNT\ta\tb"} {
		_, err := parseHandlerStat(line)
		fails(line, err)
	}
	_, err := parseTsDelta("name:v\tdest:a1\tkind:archive\tdest_kind:archive\tgid:1\tts:2026-11-23T14:40:05\tdest_gid:1\tdest_ts:2026-11-23T14:40:05\tts_delta:x")
	fails("ts_delta", err)
}

// FuzzAnswers gives arbitrary answers to the parsers of lines.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		"name:v0\tkind:archive\tgid:5\ttimestamp:2026-11-23T14:40:05",
		"name:v\tdest:a1\tkind:storage\tdest_kind:archive\tgid:1\tts:2026-11-23T14:40:05\tdest_ts:\tdest_gid:\tts_delta:",
		"name:v\tusage_pb:1\tcapacity_pb:2\tpbs:512",
		"name:v0\tmetastate:<|0,1|>-20261123143959",
		"v0 Merge 0 --- Apply 0 2026-11-23T14:39:57",
		"PROTOCOL_LATENCY\tget\t0.019063",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseLatestSnap(s)
		_, _ = parseTsDelta(s)
		_, _ = parseLogUsage(s)
		_, _ = parseVolumeBase(s)
		_, _ = parseVolumeActions(s)
		_, _ = parseHandlerStat(s)
	})
}

// TestConcurrentUse uses one client from many goroutines.
func TestConcurrentUse(t *testing.T) {
	f := newFake(t, func(c *wire.Conn, _ int32) {
		welcome(c)
		words := c.R.StrVec()
		c.W.Str(wire.OK)
		c.W.U64(uint64(len(words)))
		c.W.Ack()
		c.Finish()
	})
	c := New(f.addr, quick)
	assert.Equal(t, f.addr, c.Addr())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			size, err := c.VolSize(t.Context(), "vol")
			assert.NoError(t, err)
			assert.Equal(t, block.LB(2), size)
			n, err := c.GetUint(t.Context(), "walbsh-x", "a", "b")
			assert.NoError(t, err)
			assert.EqualValues(t, 3, n)
		})
	}
	wg.Wait()
}
