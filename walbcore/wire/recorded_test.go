package wire

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
)

// recording is one conversation as a relay saw it.
type recording struct {
	Name     string
	Server   string
	Protocol string
	C2S, S2C string // whole streams, hex
	Argv     []string
	Exit     *int
	Stdout   string
	Raw      bool // made by hand: may have unusual forms
}

func recordings(t *testing.T) []recording {
	t.Helper()
	f, err := os.Open("testdata/recorded.json.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var all []recording
	require.NoError(t, json.NewDecoder(z).Decode(&all))
	return all
}

// stream is one direction of a recording: what is decoded from it is encoded again.
type stream struct {
	in  *bytes.Reader
	r   *Reader
	w   *Writer
	out bytes.Buffer
}

func newStream(p []byte) *stream {
	s := &stream{in: bytes.NewReader(p)}
	s.r = NewReader(s.in)
	s.w = NewWriter(&s.out)
	return s
}

func (s *stream) left() int { return s.in.Len() }

func (s *stream) str() string {
	v := s.r.Str()
	if s.r.Err() == nil {
		s.w.Str(v)
	}
	return v
}

func (s *stream) vec() []string {
	v := s.r.StrVec()
	if s.r.Err() == nil {
		s.w.StrVec(v)
	}
	return v
}

func (s *stream) u64() uint64 {
	v := s.r.U64()
	if s.r.Err() == nil {
		s.w.U64(v)
	}
	return v
}

func (s *stream) u32() uint32 {
	v := s.r.U32()
	if s.r.Err() == nil {
		s.w.U32(v)
	}
	return v
}

func (s *stream) u8() uint8 {
	v := s.r.U8()
	if s.r.Err() == nil {
		s.w.U8(v)
	}
	return v
}

func (s *stream) ack() {
	s.r.Ack()
	if s.r.Err() == nil {
		s.w.Ack()
	}
}

func (s *stream) pass(m Message) {
	m.Decode(s.r)
	if s.r.Err() == nil {
		m.Encode(s.w)
	}
}

// as passes one value that codecs names.
func (s *stream) as(name string) {
	var b bytes.Buffer
	codecs[name](s.r, NewWriter(&b))
	if s.r.Err() == nil {
		s.w.Raw(b.Bytes())
	}
}

// payload passes n bytes that are compressed or user data.
func (s *stream) payload(n uint64) {
	if s.r.Err() != nil {
		return
	}
	p := make([]byte, min(n, uint64(s.left())))
	s.r.Raw(p)
	s.w.Raw(p)
	if uint64(len(p)) < n {
		s.r.U8() // meets the end
	}
}

// rest passes everything left.
func (s *stream) rest() { s.payload(uint64(s.left())) }

// conversation walks through a recording. It answers the status word of the
// server where there is one.
type conversation struct {
	c, s     *stream
	recorded recording
	stdout   []string // what the original's controller prints
}

func (v *conversation) negotiate() bool {
	v.c.pass(new(Hello))
	if v.c.r.Err() != nil {
		v.s.str() // the refusal stands where the id would
		return false
	}
	v.s.str()
	return v.s.str() == OK
}

// control walks through the body and the answer of a command.
func (v *conversation) control() {
	c, s := v.c, v.s
	var words []string
	switch v.recorded.Protocol {
	case ProtoVersion:
		v.stdout = append(v.stdout, s.str())
		return
	case ProtoShutdown:
		c.w.Bool(c.r.Bool())
	case ProtoSleep:
		c.u64()
	case ProtoArchiveInfo:
		var m ArchiveInfoRequest
		c.pass(&m)
		words = m.Words
	default:
		words = c.vec()
	}
	if s.left() == 0 {
		return // closed without a text
	}
	status := s.str()
	if status != OK && status != Accept {
		return
	}
	switch v.recorded.Protocol {
	case ProtoStatus:
		v.stdout = s.vec()
		s.ack()
	case ProtoGet:
		switch kinds[words[0]] {
		case 'N':
			v.stdout = append(v.stdout, fmt.Sprint(s.u64()))
		case 'S':
			v.stdout = append(v.stdout, s.str())
		case 'V':
			v.stdout = s.vec()
		default:
			panic("unknown target " + words[0])
		}
		s.ack()
	case ProtoSnapshot:
		v.stdout = append(v.stdout, fmt.Sprint(s.u64()))
	case ProtoArchiveInfo:
		switch words[0] {
		case InfoList:
			v.stdout = s.vec()
		case InfoGet:
			var m ArchiveInfo
			s.pass(&m)
			v.stdout = append(v.stdout, m.String())
		}
	}
}

// kinds of the answers of get.
var kinds = func() map[string]byte {
	k := make(map[string]byte)
	for _, t := range []string{TargetPid, TargetIsOverflow, TargetIsWdiffSendError, TargetTotalDiffSize, TargetNumDiff, TargetExistsDiff, TargetExistsBaseImage, TargetNumAction, TargetVolSize, TargetProgress} {
		k[t] = 'N'
	}
	for _, t := range []string{TargetHostType, TargetState, TargetUUID, TargetArchiveUUID, TargetBase, TargetVolumeGroup, TargetMetaSnap, TargetMetaState, "thinpool"} {
		k[t] = 'S'
	}
	for _, t := range []string{TargetVol, TargetHandlerStat, TargetLatestSnap, TargetTsDelta, TargetLogUsage, TargetProxyDiff, TargetDiff, TargetApplicableDiff, TargetAllActions, TargetRestored, TargetRestorable, TargetBaseAll, "cold"} {
		k[t] = 'V'
	}
	return k
}()

// blocks walks through a full-sync stream.
func (v *conversation) blocks(from, size, bulk block.LB) {
	c := v.c
	for at := from; at < size && c.r.Err() == nil; at += bulk {
		if n := c.u64(); n > 0 {
			c.u32()
			c.payload(n)
		}
	}
}

// packs walks through a wdiff pack stream.
func (v *conversation) packs() {
	c := v.c
	for c.u8() == CtlNext && c.r.Err() == nil {
		c.payload(c.u64())
	}
}

func (v *conversation) fullSync() {
	var m FullSyncRequest
	v.c.pass(&m)
	if v.s.str() != Accept {
		return
	}
	v.c.as("uuid")
	v.s.ack()
	v.blocks(0, m.Size, m.Bulk)
	v.s.ack()
	v.c.as("snap")
	v.s.ack()
}

func (v *conversation) wlog() {
	v.c.pass(new(WlogRequest))
	if v.s.str() != Accept {
		return
	}
	for v.c.r.Err() == nil {
		switch v.c.u8() {
		case CtlNext:
			compressed, plain := v.c.u32(), v.c.u32()
			if compressed == 0 {
				compressed = plain
			}
			v.c.payload(uint64(compressed))
		case CtlEnd:
			v.c.as("diff")
			v.s.ack()
			return
		default:
			return
		}
	}
}

func (v *conversation) wdiff() {
	v.c.pass(new(WdiffRequest))
	if v.s.str() != Accept {
		return
	}
	v.packs()
	v.s.ack()
}

func (v *conversation) repl() {
	c, s := v.c, v.s
	c.vec()
	if s.str() != Accept {
		return
	}
	c.pass(new(ReplOffer))
	if s.str() != Accept {
		return
	}
	switch s.u32() {
	case ReplResync: // compared by hash: not of this package yet
		c.rest()
		s.rest()
		return
	case ReplFull:
		var m ReplFullRequest
		c.pass(&m)
		if s.str() != OK {
			return
		}
		v.blocks(block.LB(s.u64()), m.Size, m.Bulk)
		s.ack()
	}
	for c.r.Err() == nil && s.r.Err() == nil {
		s.as("state")
		switch c.u32() {
		case RoundStop:
			s.ack()
			return
		case RoundHash: // as above
			c.rest()
			s.rest()
			return
		}
		c.pass(new(ReplDiffRequest))
		if s.str() != OK {
			return
		}
		v.packs()
		s.ack()
	}
}

// whyCut tells for each recording that ends in the middle of a value, or
// before an expected one, how that came about.
var whyCut = map[string]string{
	"control/raw-idle-no-body":            "the client stays silent",
	"control/raw-truncated-eof":           "the client closes in the middle of a string",
	"control/raw-huge-length":             "a length of 2^62",
	"control/raw-negative-length":         "a length of 2^64-1",
	"control/raw-u32-with-8byte-header":   "a header that 32 bits cannot have",
	"control/raw-archive-info-add-bad-hi": "a compression type of 9",
	"control/raw-archive-info-add-port0":  "port 0",

	"transfer/real-wlog-transfer-no-ack-registration-failed": "the proxy closes without ACK",

	"storage/bg-archive-dirty-full-sync3-5": "the storage is force stopped",
	"storage/bg-archive-wdiff-transfer-15":  "the archive is gone",
	"storage/bg-proxy-wlog-transfer-23":     "the proxy is gone",
}

// surplus is what some clients send that no server reads, in bytes.
var surplus = map[string]int{
	"control/raw-extra-after-request": 1,
	"control/raw-archive-info-badcmd": len("\x03ar0"),
}

// cut reports whether the recording may end early: it is listed, or the
// controller found its words wrong after the negotiation and left.
func (v *conversation) cut() bool {
	_, listed := whyCut[v.recorded.Name]
	left := v.recorded.Protocol == ProtoGet && v.recorded.Exit != nil && len(v.c.out.Bytes()) == int(v.c.in.Size())
	return listed || left
}

func TestRecordedConversations(t *testing.T) {
	counts := make(map[string]int)
	for _, rec := range recordings(t) {
		t.Run(rec.Name, func(t *testing.T) {
			c2s, s2c := unhex(t, rec.C2S), unhex(t, rec.S2C)
			v := &conversation{c: newStream(c2s), s: newStream(s2c), recorded: rec}
			if v.negotiate() {
				switch rec.Protocol {
				case ProtoFullSync:
					v.fullSync()
				case ProtoWlogTransfer:
					v.wlog()
				case ProtoWdiffTransfer:
					v.wdiff()
				case ProtoReplSync:
					v.repl()
				default:
					v.control()
				}
			} else if v.c.r.Err() == nil && v.c.left() > 0 {
				v.c.rest() // sent in vain
			}
			for _, side := range []struct {
				name string
				in   []byte
				s    *stream
			}{{"c2s", c2s, v.c}, {"s2c", s2c, v.s}} {
				if err := side.s.r.Err(); err != nil {
					assert.True(t, v.cut(), "%s: %v", side.name, err)
					if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
						assert.True(t, bytes.HasPrefix(side.in, side.s.out.Bytes()), "%s is not encoded as recorded up to its end", side.name)
					}
					counts["cut"]++
					continue
				}
				if n, ok := surplus[rec.Name]; ok && side.name == "c2s" {
					assert.Equal(t, n, side.s.left())
					continue
				}
				assert.Zero(t, side.s.left(), "%s: bytes left over", side.name)
				if side.name == "s2c" || !rec.Raw {
					assert.True(t, bytes.Equal(side.in, side.s.out.Bytes()), "%s is not encoded as recorded", side.name)
				}
			}
			if rec.Exit != nil && *rec.Exit == 0 {
				got := strings.Join(append(slices.Clone(v.stdout), ""), "\n")
				assert.Equal(t, rec.Stdout, got, "the values are not those that the controller printed")
				counts["printed"]++
			}
			counts[rec.Protocol]++
		})
	}
	t.Log(counts)
	for _, p := range []string{ProtoFullSync, ProtoWlogTransfer, ProtoWdiffTransfer, ProtoReplSync, ProtoGet, ProtoStatus, ProtoArchiveInfo, ProtoReplicate, ProtoSnapshot} {
		assert.NotZero(t, counts[p], p)
	}
}
