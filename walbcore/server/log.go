package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Attribute keys that a [LogHandler] prints as the prefix "[node][peer] ".
const (
	NodeKey = "node" // id of the server
	PeerKey = "peer" // id the client gave in its request
)

// LogHandler is a [slog.Handler] that prints the log lines of the original:
//
//	YYYY-MM-DD HH:MM:SS.mmm LEVEL [node][peer] message
//
// with the time in UTC and LEVEL one of DEBUG INFO WARNING ERROR. The prefix
// is printed for messages made inside a request: those that have a [PeerKey]
// attribute. Other attributes follow the message as " key=value". Lines are
// written whole, one Write each.
//
// A message of a request may quote bytes of the peer, so its control
// characters are printed escaped and it stays one line.
type LogHandler struct {
	out   *logWriter
	level slog.Leveler
	node  string
	peer  string
	known bool   // peer is set, perhaps to ""
	group string // prefix of attribute keys
	attrs string // printed, with leading blank
}

type logWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// NewLogHandler makes a handler that prints records of at least the given
// level to w. w is written by one goroutine at a time.
func NewLogHandler(w io.Writer, level slog.Leveler) *LogHandler {
	return &LogHandler{out: &logWriter{w: w}, level: level}
}

// Enabled reports whether records of the level are printed.
func (h *LogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// WithAttrs gives a handler that prints the attributes on every line.
func (h *LogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.add(a)
	}
	return &n
}

// WithGroup gives a handler that prints later attributes as "name.key=value".
func (h *LogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.group += name + "."
	return &n
}

// Handle prints one record.
func (h *LogHandler) Handle(_ context.Context, r slog.Record) error {
	line := *h
	r.Attrs(func(a slog.Attr) bool {
		line.add(a)
		return true
	})
	var b bytes.Buffer
	b.WriteString(r.Time.UTC().Format("2006-01-02 15:04:05.000"))
	b.WriteString(" " + levelName(r.Level) + " ")
	message := r.Message
	if line.known {
		b.WriteString("[" + printable(line.node) + "][" + printable(line.peer) + "] ")
		message = printable(message)
	}
	b.WriteString(message)
	b.WriteString(line.attrs)
	b.WriteByte('\n')
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	_, err := h.out.w.Write(b.Bytes())
	return err
}

func (h *LogHandler) add(a slog.Attr) {
	value := a.Value.Resolve()
	switch {
	case a.Equal(slog.Attr{}):
	case h.group == "" && a.Key == NodeKey:
		h.node = value.String()
	case h.group == "" && a.Key == PeerKey:
		h.peer, h.known = value.String(), true
	case value.Kind() == slog.KindGroup:
		sub := *h
		if a.Key != "" {
			sub.group += a.Key + "."
		}
		for _, m := range value.Group() {
			sub.add(m)
		}
		h.attrs = sub.attrs
	default:
		h.attrs += " " + h.group + a.Key + "=" + quoteIfNeeded(valueText(value))
	}
}

func valueText(v slog.Value) string {
	if v.Kind() == slog.KindTime {
		return v.Time().UTC().Format(time.RFC3339)
	}
	return v.String()
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	}
	return "ERROR"
}

// printable escapes control characters as Go source does and replaces bytes
// that are no UTF-8.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func quoteIfNeeded(s string) string {
	if s == "" || strings.ContainsAny(s, " =\"") || printable(s) != s {
		return strconv.Quote(s)
	}
	return s
}
