package server_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// running is a server under test.
type running struct {
	*server.Server
	log *syncBuffer
	end func() error // shuts down and gives what Serve returned
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs a server with the routes that setup adds.
func start(t *testing.T, config server.Config, setup func(s *server.Server)) *running {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	log := new(syncBuffer)
	config.NodeID, config.HostType = "px0", wire.HostProxy
	config.Log = slog.New(server.NewLogHandler(log, slog.LevelDebug))
	if config.Wire.Timeout == 0 {
		config.Wire.Timeout = 10 * time.Second
	}
	s := server.New(listener, config)
	if setup != nil {
		setup(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background()) }()
	end := sync.OnceValue(func() error {
		s.Shutdown()
		return <-served
	})
	t.Cleanup(func() { assert.NoError(t, end()) })
	return &running{s, log, end}
}

// open connects and negotiates.
func (r *running) open(t *testing.T, protocol string) *wire.Conn {
	t.Helper()
	c := r.dial(t)
	_, err := wire.ClientHello(c, "ctl0", protocol)
	require.NoError(t, err)
	return c
}

func (r *running) dial(t *testing.T) *wire.Conn {
	t.Helper()
	c, err := wire.Dial(t.Context(), r.Addr().String(), wire.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// eof requires that the server ended its side.
func eof(t *testing.T, c *wire.Conn) {
	t.Helper()
	rest, err := io.ReadAll(c.R)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestRecordedConversations(t *testing.T) {
	raw, err := os.ReadFile("testdata/control.json")
	require.NoError(t, err)
	var vectors []struct {
		Name, Note, C2S, S2C string
		HalfClose            bool `json:"half_close"`
	}
	require.NoError(t, json.Unmarshal(raw, &vectors))
	require.NotEmpty(t, vectors)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			config := server.Config{}
			if v.Name == "raw-idle-no-body" {
				config.Wire.Timeout = 50 * time.Millisecond
			}
			r := start(t, config, nil)
			c, err := net.Dial("tcp", r.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			c2s, err := hex.DecodeString(v.C2S)
			require.NoError(t, err)
			_, err = c.Write(c2s)
			require.NoError(t, err)
			if v.HalfClose {
				require.NoError(t, c.(*net.TCPConn).CloseWrite())
			}
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			want, err := hex.DecodeString(v.S2C)
			require.NoError(t, err)
			assert.Equal(t, firstLines(t, want), firstLines(t, got))
			if strings.HasPrefix(v.Name, "proxy-shutdown") || v.Name == "raw-shutdown-bool-2" {
				require.NoError(t, c.Close())
				assert.NoError(t, r.end())
			}
		})
	}
}

// firstLines reads a stream as strings as far as that goes and leaves out the
// stack line that the original appends to refusals; the rest stays as bytes.
func firstLines(t *testing.T, stream []byte) (parts []string) {
	t.Helper()
	for len(stream) > 0 {
		r := wire.NewReader(bytes.NewReader(stream))
		s := r.Str()
		if r.Err() != nil {
			return append(parts, "rest "+hex.EncodeToString(stream))
		}
		stream = stream[r.Pos():]
		line, _, _ := strings.Cut(s, "\n")
		parts = append(parts, line)
	}
	return parts
}

func TestVersionAndFeatures(t *testing.T) {
	r := start(t, server.Config{Version: "version:0.1\tlog_version:2", Features: []string{"repl-status", "long-poll"}}, nil)
	c := r.open(t, wire.ProtoVersion)
	assert.Equal(t, "version:0.1\tlog_version:2", c.R.Str())
	eof(t, c)
	c = r.open(t, wire.ProtoFeatures)
	assert.Equal(t, wire.OK, c.R.Str())
	assert.Equal(t, []string{"repl-status", "long-poll"}, c.R.StrVec())
	eof(t, c)
}

// ask sends a command of words and reads the first string of the answer.
func ask(t *testing.T, c *wire.Conn, words ...string) string {
	t.Helper()
	c.W.StrVec(words)
	require.NoError(t, c.Flush())
	s := c.R.Str()
	require.NoError(t, c.R.Err())
	return s
}

func TestGetTargetsAndStatus(t *testing.T) {
	r := start(t, server.Config{}, func(s *server.Server) {
		s.Target("n", func(_ context.Context, args []string) (server.Value, error) {
			return server.Number(uint64(len(args))), nil
		})
		s.Target("b", func(context.Context, []string) (server.Value, error) { return server.Bool(true), nil })
		s.Target("v", func(_ context.Context, args []string) (server.Value, error) { return server.Lines(args), nil })
		s.Target("bad", func(context.Context, []string) (server.Value, error) {
			return server.Value{}, server.Refusef(walberr.BadState, "getX:bad state:%s", "Clear")
		})
		s.HandleStatus(func(_ context.Context, words []string) ([]string, error) {
			return append([]string{"hostType proxy"}, words...), nil
		})
	})
	c := r.open(t, wire.ProtoGet)
	assert.Equal(t, wire.OK, ask(t, c, "n", "x", "y"))
	assert.EqualValues(t, 2, c.R.U64())
	c.R.Ack()
	eof(t, c)

	c = r.open(t, wire.ProtoGet)
	assert.Equal(t, wire.OK, ask(t, c, "b"))
	assert.True(t, c.R.Bool())
	c.R.Ack()
	eof(t, c)

	c = r.open(t, wire.ProtoGet)
	assert.Equal(t, wire.OK, ask(t, c, "v", "1", "2"))
	assert.Equal(t, []string{"1", "2"}, c.R.StrVec())
	c.R.Ack()
	eof(t, c)

	c = r.open(t, wire.ProtoGet)
	assert.Equal(t, "getX:bad state:Clear", ask(t, c, "bad"))
	eof(t, c)

	c = r.open(t, wire.ProtoStatus)
	assert.Equal(t, wire.OK, ask(t, c, "v0"))
	assert.Equal(t, []string{"hostType proxy", "v0"}, c.R.StrVec())
	c.R.Ack()
	eof(t, c)
	assert.Contains(t, r.log.String(), "ERROR [px0][ctl0] getX:bad state:Clear\n")
}

func TestHandlerStatCountsAndResets(t *testing.T) {
	r := start(t, server.Config{}, nil)
	stat := func() []string {
		c := r.open(t, wire.ProtoGet)
		require.Equal(t, wire.OK, ask(t, c, "handler-stat"))
		lines := c.R.StrVec()
		c.R.Ack()
		eof(t, c)
		return lines
	}
	get := func(target string) {
		c := r.open(t, wire.ProtoGet)
		ask(t, c, target)
		_, _ = io.ReadAll(c.R)
	}
	get("host-type")
	get("host-type")
	get("nosuch")
	// The latency of a request is counted when its handler has returned,
	// which the client of the next one need not have seen.
	lines := stat()
	assert.Contains(t, lines, "PROTOCOL_COUNT\tget\tctl0\t4")
	assert.Contains(t, lines, "GET_COUNT\thost-type\tctl0\t2")
	assert.Contains(t, lines, "GET_COUNT\thandler-stat\tctl0\t1")
	assert.NotContains(t, strings.Join(lines, " "), "nosuch")
	assert.Regexp(t, `PROTOCOL_LATENCY	get	\d+\.\d{6}`, strings.Join(lines, "\n"))
	lines = stat()
	assert.Equal(t, "PROTOCOL_COUNT\tget\tctl0\t1", lines[0])
	assert.Equal(t, "GET_COUNT\thandler-stat\tctl0\t1", lines[len(lines)-1])
}

func TestCommandRepliesOnceItsWorkIsDone(t *testing.T) {
	done := false
	r := start(t, server.Config{}, func(s *server.Server) {
		s.HandleCommand("start", func(_ context.Context, _ *server.Request, words []string) error {
			if err := server.ExactWords("c2pStartServer", words, 1); err != nil {
				return err
			}
			done = true
			return nil
		})
	})
	c := r.open(t, "start")
	assert.Equal(t, "c2pStartServer:bad size:1:2", ask(t, c, "v0", "x"))
	eof(t, c)
	c = r.open(t, "start")
	assert.Equal(t, "c2pStartServer:empty string:0", ask(t, c, ""))
	eof(t, c)
	assert.False(t, done)
	c = r.open(t, "start")
	assert.Equal(t, wire.OK, ask(t, c, "v0"))
	assert.True(t, done)
	eof(t, c)
}

// TestRefusalSurvivesUnreadInput sends far more than the server reads: the
// text must still arrive.
func TestRefusalSurvivesUnreadInput(t *testing.T) {
	r := start(t, server.Config{}, func(s *server.Server) {
		s.HandleCommand("c", func(context.Context, *server.Request, []string) error {
			return server.Refusef(walberr.Usage, "no")
		})
	})
	c := r.open(t, "c")
	c.W.StrVec([]string{"v0"})
	require.NoError(t, c.Flush())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = c.W.Write(make([]byte, 4<<20))
		_ = c.Flush()
	}()
	<-sent
	assert.Equal(t, "no", c.R.Str())
	require.NoError(t, c.R.Err())
}

func TestAcceptCommandRunsOnlyAfterTheClientClosed(t *testing.T) {
	ran := make(chan error, 1)
	r := start(t, server.Config{Wire: wire.Options{Timeout: 100 * time.Millisecond}}, func(s *server.Server) {
		s.HandleCommand("stop", func(_ context.Context, r *server.Request, _ []string) error {
			err := r.Accept()
			ran <- err
			return err
		})
	})
	c := r.open(t, "stop")
	assert.Equal(t, wire.Accept, ask(t, c, "v0"))
	require.NoError(t, c.Close())
	assert.NoError(t, <-ran)

	c = r.open(t, "stop")
	assert.Equal(t, wire.Accept, ask(t, c, "v0"))
	assert.True(t, walberr.Is(<-ran, walberr.Timeout), "a client that stays cancels the command")
}

func TestForegroundLimit(t *testing.T) {
	r := start(t, server.Config{MaxForeground: 1}, nil)
	release, err := r.Foreground("s2pWlogTransferServer")
	require.NoError(t, err)
	_, err = r.Foreground("s2pWlogTransferServer")
	assert.Equal(t, "s2pWlogTransferServer:exceeds max foreground tasks:1", wire.RefusalText(err))
	release()
	release()
	release, err = r.Foreground("x")
	require.NoError(t, err)
	_, err = r.Foreground("x")
	require.Error(t, err, "a second release must not count")
	release()
}

func TestClientsWaitWhileAllPlacesAreTaken(t *testing.T) {
	hold, entered := make(chan struct{}), make(chan struct{}, 10)
	r := start(t, server.Config{MaxConn: 1}, func(s *server.Server) {
		s.Handle("hold", func(_ context.Context, r *server.Request) error {
			entered <- struct{}{}
			<-hold
			return r.OK()
		})
	})
	first := r.open(t, "hold")
	<-entered
	second := r.dial(t) // by the kernel only
	second.W.Str("ctl0")
	second.W.Str("hold")
	second.W.U32(wire.Version)
	require.NoError(t, second.Flush())
	require.Eventually(t, func() bool {
		return strings.Contains(r.log.String(), "WARNING MultiThreadedServer:exceeds max concurrency limit=1")
	}, 5*time.Second, time.Millisecond)
	assert.Empty(t, entered)
	hold <- struct{}{}
	assert.Equal(t, wire.OK, first.R.Str())
	require.NoError(t, first.Close())
	<-entered
	assert.Equal(t, "px0", second.R.Str())
	assert.Equal(t, wire.OK, second.R.Str(), "of the negotiation")
	hold <- struct{}{}
	assert.Equal(t, wire.OK, second.R.Str())
	require.NoError(t, second.Close())
}

func TestExtensionConnectionsDoNotTakePlaces(t *testing.T) {
	entered := make(chan struct{}, 10)
	r := start(t, server.Config{MaxConn: 1}, func(s *server.Server) {
		s.HandleExtension("walbsh-watch", func(ctx context.Context, _ *server.Request) error {
			entered <- struct{}{}
			<-ctx.Done()
			return nil
		})
	})
	for range 5 {
		r.open(t, "walbsh-watch")
		<-entered
	}
	c := r.open(t, wire.ProtoVersion)
	_ = c.R.Str()
	require.NoError(t, c.R.Err())
}

func TestShutdownBreaksTransfersAndIdleClientsAndLetsRepliesEnd(t *testing.T) {
	inTransfer, inControl := make(chan struct{}), make(chan struct{})
	transferEnd := make(chan error, 1)
	r := start(t, server.Config{}, func(s *server.Server) {
		s.HandleTransfer("transfer", func(_ context.Context, r *server.Request) error {
			close(inTransfer)
			r.R.U8() // the client never sends
			transferEnd <- r.R.Err()
			return r.R.Err()
		})
		s.Handle("control", func(ctx context.Context, r *server.Request) error {
			close(inControl)
			<-ctx.Done()
			return r.OK()
		})
	})
	idle := r.dial(t)
	transferring := r.open(t, "transfer")
	controlling := r.open(t, "control")
	<-inTransfer
	<-inControl
	stop := r.open(t, wire.ProtoShutdown)
	stop.W.Bool(false)
	require.NoError(t, stop.Flush())
	assert.Equal(t, wire.Accept, stop.R.Str())
	require.NoError(t, stop.Close())

	require.ErrorIs(t, <-transferEnd, server.ErrShutdown)
	assert.Equal(t, wire.OK, controlling.R.Str())
	require.NoError(t, controlling.R.Err())
	require.NoError(t, controlling.Close())
	require.NoError(t, transferring.Close())
	require.NoError(t, idle.Close())
	require.NoError(t, r.end())
	assert.True(t, r.Stopping())
	assert.Contains(t, r.log.String(), "INFO [px0][ctl0] shutdown:graceful:ctl0\n")
	assert.Contains(t, r.log.String(), "WARNING [px0][ctl0] force stopped:")
	_, err := net.Dial("tcp", r.Addr().String())
	assert.Error(t, err, "the listener is closed")
}

func TestShutdownDoesNotWaitForAClientThatStays(t *testing.T) {
	r := start(t, server.Config{Wire: wire.Options{Timeout: time.Hour}}, nil)
	c := r.open(t, wire.ProtoSleep)
	c.W.U64(1 << 40)
	require.NoError(t, c.Flush())
	require.Eventually(t, func() bool {
		g := r.open(t, wire.ProtoGet)
		require.Equal(t, wire.OK, ask(t, g, "handler-stat"))
		return slices.Contains(g.R.StrVec(), "PROTOCOL_COUNT\tsleep\tctl0\t1")
	}, 5*time.Second, time.Millisecond, "the command is under way")
	r.Shutdown()
	assert.Equal(t, wire.OK, c.R.Str(), "sleep ends early")
	assert.NoError(t, r.end(), "although the client never closed")
}

func TestContextEndsServeAndBackgroundWork(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := server.New(listener, server.Config{Log: slog.New(slog.DiscardHandler)})
	cause := make(chan error, 1)
	s.Background(func(ctx context.Context) error {
		<-ctx.Done()
		cause <- context.Cause(ctx)
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Serve(ctx), "the end that was asked for is no error")
	assert.ErrorIs(t, <-cause, server.ErrShutdown)
}

func TestFailedBackgroundWorkEndsTheServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := server.New(listener, server.Config{Log: slog.New(slog.DiscardHandler)})
	broken := errors.New("disk gone")
	s.Background(func(context.Context) error { return broken })
	assert.ErrorIs(t, s.Serve(t.Context()), broken)
}

func TestAwaitFact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server.New(nil, server.Config{Log: slog.New(slog.DiscardHandler)})
		changed := make(chan struct{})
		never := func() <-chan struct{} { return changed }

		start := time.Now()
		err := s.AwaitFact(t.Context(), "c2pStopServer", never, func() bool { return false })
		assert.Equal(t, "c2pStopServer:timeout:60", wire.RefusalText(err))
		assert.Equal(t, 60*time.Second, time.Since(start))
		assert.True(t, walberr.Is(err, walberr.Timeout))

		var fact atomic.Bool
		go func() {
			time.Sleep(7 * time.Second)
			fact.Store(true)
			close(changed)
		}()
		start = time.Now()
		require.NoError(t, s.AwaitFact(t.Context(), "x", never, fact.Load))
		assert.Equal(t, 7*time.Second, time.Since(start), "as soon as it is so")

		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(server.ErrShutdown)
		changed = make(chan struct{})
		assert.ErrorIs(t, s.AwaitFact(ctx, "x", never, func() bool { return false }), server.ErrShutdown)
	})
}

func TestStopModes(t *testing.T) {
	for word, want := range map[string]server.StopMode{
		"": server.StopGraceful, "graceful": server.StopGraceful, "xyz": server.StopGraceful,
		"force": server.StopForce, "f": server.StopForce, "empty": server.StopEmpty,
	} {
		assert.Equal(t, want, server.ParseStopMode([]string{"v0", word}), word)
	}
	assert.Equal(t, server.StopGraceful, server.ParseStopMode([]string{"v0"}))
}

func TestRequiredWords(t *testing.T) {
	require.NoError(t, server.RequireWords([]string{"v0", ""}, 1))
	assert.Equal(t, "missing required params: 0 1", wire.RefusalText(server.RequireWords(nil, 1)))
	assert.Equal(t, "required parameter is empty: 1 2", wire.RefusalText(server.RequireWords([]string{"v", ""}, 2)))
}
