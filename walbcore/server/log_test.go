package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/server"
)

func TestLogLines(t *testing.T) {
	at := time.Date(2026, 11, 25, 23, 59, 58, 7_000_000, time.FixedZone("", 9*3600))
	for _, c := range []struct {
		name    string
		with    func(l *slog.Logger) *slog.Logger
		level   slog.Level
		message string
		attrs   []any
		want    string
	}{
		{"plain", nil, slog.LevelInfo, "Ready to accept connections", nil, "INFO Ready to accept connections"},
		{"levels", nil, slog.LevelWarn, "w", nil, "WARNING w"},
		{"error", nil, slog.LevelError, "e", nil, "ERROR e"},
		{"debug", nil, slog.LevelDebug, "d", nil, "DEBUG d"},
		{"own id alone is no prefix", func(l *slog.Logger) *slog.Logger { return l.With(server.NodeKey, "px0") }, slog.LevelInfo, "x", nil, "INFO x"},
		{"request", func(l *slog.Logger) *slog.Logger { return l.With(server.NodeKey, "px0", server.PeerKey, "ctl0") }, slog.LevelInfo, "start succeeded:v0", nil, "INFO [px0][ctl0] start succeeded:v0"},
		{"empty peer", func(l *slog.Logger) *slog.Logger { return l.With(server.NodeKey, "px0", server.PeerKey, "") }, slog.LevelInfo, "m", nil, "INFO [px0][] m"},
		{"attributes", nil, slog.LevelInfo, "m", []any{"n", 3, "s", "two words", "e", ""}, `INFO m n=3 s="two words" e=""`},
		{"group", func(l *slog.Logger) *slog.Logger { return l.WithGroup("g").With("a", 1) }, slog.LevelInfo, "m", []any{"b", 2, slog.Group("h", "c", 3)}, "INFO m g.a=1 g.b=2 g.h.c=3"},
		{"own message may have lines", nil, slog.LevelInfo, "one\ntwo", nil, "INFO one\ntwo"},
		{
			"a peer cannot forge a line", func(l *slog.Logger) *slog.Logger { return l.With(server.NodeKey, "px0", server.PeerKey, "x\n2026") },
			slog.LevelInfo, "bad \"q\" \\ \r\n2026\x1b[0m\xff", nil, "INFO [px0][x\\n2026] bad \"q\" \\ \\r\\n2026\\x1b[0m\uFFFD",
		},
		{"time attribute", nil, slog.LevelInfo, "m", []any{"t", at}, "INFO m t=2026-11-25T14:59:58Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			log := slog.New(server.NewLogHandler(&out, slog.LevelDebug))
			if c.with != nil {
				log = c.with(log)
			}
			r := slog.NewRecord(at, c.level, c.message, 0)
			r.Add(c.attrs...)
			require.NoError(t, log.Handler().Handle(context.Background(), r))
			assert.Equal(t, "2026-11-25 14:59:58.007 "+c.want+"\n", out.String())
		})
	}
}

func TestLogLevel(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(server.NewLogHandler(&out, slog.LevelWarn))
	log.Info("no")
	log.Warn("yes")
	assert.Equal(t, 1, strings.Count(out.String(), "\n"))
}
