// Package wiretest plays recorded conversations of the original's control
// protocol at a live server and compares the answers. It is for tests.
//
// Everything must be equal, except what a mask that the test declares hides
// (times, identities, the machine), and the stack lines that the original
// appends to refusals.
package wiretest

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the recordings
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/wire"
)

//go:embed testdata/control.json.gz
var control []byte

// conversation is one recorded connection of a client to a server.
type conversation struct {
	Name   string
	Server string
	C2S    string // what the client sent, hex
	S2C    string // what the server sent, hex
}

// Player plays recordings by name at a server.
type Player struct {
	addr  string
	masks []mask
	all   map[string]conversation
}

type mask struct {
	re *regexp.Regexp
	as string
}

// New makes a player for the server at addr.
func New(t testing.TB, addr string) *Player {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(control))
	require.NoError(t, err)
	var list []conversation
	require.NoError(t, json.NewDecoder(z).Decode(&list))
	p := &Player{addr: addr, all: map[string]conversation{}}
	for _, c := range list {
		p.all[c.Name] = c
	}
	return p
}

// Mask hides what pattern finds in a text or line of both answers.
func (p *Player) Mask(pattern, as string) *Player {
	p.masks = append(p.masks, mask{regexp.MustCompile(pattern), as})
	return p
}

// MaskTimes hides times, as printed in lines.
func (p *Player) MaskTimes() *Player {
	return p.Mask(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d`, "TIME")
}

// Play plays the named recordings one after the other; each answer must be as
// recorded.
func (p *Player) Play(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		request, recorded := p.Recorded(t, name)
		want := p.render(t, name+" as recorded", request, recorded)
		got := p.render(t, name, request, Exchange(t, p.addr, request))
		assert.Equal(t, want, got, name)
	}
}

// Exchange sends request on a new connection, and gives all that the server
// sends until it closes its side.
func Exchange(t testing.TB, addr string, request []byte) []byte {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = conn.Write(request)
	require.NoError(t, err)
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	return answer
}

// render decodes an answer to the last byte, one value a line.
func (p *Player) render(t testing.TB, what string, request, answer []byte) string {
	t.Helper()
	rq := wire.NewReader(bytes.NewReader(request))
	rq.Str()
	protocol := rq.Str()
	var words []string
	if rq.U32(); protocol == wire.ProtoGet || protocol == wire.ProtoArchiveInfo || protocol == wire.ProtoVirtFullScan {
		words = rq.StrVec()
	}
	in := bytes.NewReader(answer)
	r := wire.NewReader(in)
	var lines []string
	add := func(s string) string {
		s, _, _ = strings.Cut(s, "\n<<<STACKTRACE>>>")
		for _, m := range p.masks {
			s = m.re.ReplaceAllString(s, m.as)
		}
		lines = append(lines, s)
		return s
	}
	add("server " + r.Str())
	status := add(r.Str())
	if status == wire.OK && in.Len() > 0 {
		status = add(r.Str())
	}
	if status == wire.OK && in.Len() > 0 {
		switch kind(protocol, words) {
		case 'V':
			for _, line := range r.StrVec() {
				add("| " + line)
			}
		case 'S':
			add(r.Str())
		case 'N':
			add(fmt.Sprint(r.U64()))
		}
		if protocol == wire.ProtoGet || protocol == wire.ProtoStatus {
			r.Ack()
			add("ack")
		}
	}
	if status == wire.Accept && in.Len() > 0 {
		long(t, protocol, words, r, answer[len(answer)-in.Len():], add)
	}
	require.NoError(t, r.Err(), "%s: %.1000q", what, answer)
	if left := in.Len(); left > 0 {
		rest := answer[len(answer)-left:]
		add("rest " + hex.EncodeToString(rest))
	}
	return strings.Join(lines, "\n")
}

// kind is the type of the value in a successful answer: a vector of strings, a
// string, a number, or something else.
func kind(protocol string, words []string) byte {
	switch protocol {
	case wire.ProtoStatus:
		return 'V'
	case wire.ProtoSnapshot:
		return 'N'
	case wire.ProtoArchiveInfo:
		if len(words) > 0 && words[0] == wire.InfoList {
			return 'V'
		}
		return 0
	case wire.ProtoGet:
	default:
		return 0
	}
	if len(words) == 0 {
		return 0
	}
	switch words[0] {
	case wire.TargetHostType, wire.TargetState, wire.TargetUUID, wire.TargetArchiveUUID, wire.TargetBase,
		wire.TargetVolumeGroup, wire.TargetMetaSnap, wire.TargetMetaState, "thinpool":
		return 'S'
	case wire.TargetPid, wire.TargetIsOverflow, wire.TargetIsWdiffSendError, wire.TargetTotalDiffSize,
		wire.TargetNumDiff, wire.TargetExistsDiff, wire.TargetExistsBaseImage, wire.TargetNumAction,
		wire.TargetVolSize, wire.TargetProgress:
		return 'N'
	}
	return 'V'
}
