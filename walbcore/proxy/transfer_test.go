package proxy

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/wire"
)

// recorded gives both directions of a recorded transfer.
func recorded(t *testing.T, name string) (c2s, s2c []byte) {
	t.Helper()
	f, err := os.Open("testdata/transfer.json.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var all map[string]struct{ C2S, S2C string }
	require.NoError(t, json.NewDecoder(z).Decode(&all))
	require.Contains(t, all, name)
	c2s, err = hex.DecodeString(all[name].C2S)
	require.NoError(t, err)
	s2c, err = hex.DecodeString(all[name].S2C)
	require.NoError(t, err)
	return c2s, s2c
}

// play sends bytes and gives the whole answer. The hello is the only thing
// that is not waited for.
func (r *rig) play(t *testing.T, c2s []byte) []byte {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = c.Write(c2s)
	require.NoError(t, err)
	answer, err := io.ReadAll(c)
	require.NoError(t, err)
	return answer
}

// shipping starts a proxy, called p0 as the recorded ones, that sends a volume
// to an archive called a0.
func shipping(t *testing.T, vol, addr string) *rig {
	t.Helper()
	r := start(t, newDisk(), func(c *Config) { c.Server.NodeID = "p0" })
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), vol, "a0", info(addr)))
	require.NoError(t, r.client.Start(t.Context(), vol, client.RoleNone))
	return r
}

func (r *rig) temps(t *testing.T, vol string) []string {
	t.Helper()
	names, err := r.readDirIfAny(filepath.Join(testBase, vol, "received"))
	require.NoError(t, err)
	return names
}

// TestRecordedLogBecomesTheRecordedDiff plays a recorded wlog-transfer, and
// compares what arrives at the archive with what the original proxy sent there.
func TestRecordedLogBecomesTheRecordedDiff(t *testing.T) {
	a := newFakeArchive(t)
	r := shipping(t, "vol0", a.addr)
	c2s, s2c := recorded(t, "wlog-transfer-accept")
	assert.Equal(t, s2c, r.play(t, c2s))
	got := a.await(t, 1)[0]

	sent, _ := recorded(t, "wdiff-transfer-accept")
	want := delivered{blocks: map[block.LB]byte{}}
	conn := wire.NewReader(bytes.NewReader(sent))
	var hello wire.Hello
	hello.Decode(conn)
	assert.Equal(t, wire.Hello{ClientID: "p0", Protocol: wire.ProtoWdiffTransfer, Version: 1}, hello)
	want.req.Decode(conn)
	require.NoError(t, want.receive(conn))

	assert.NotZero(t, got.req.Diff.Size)
	got.req.Diff.Size = want.req.Diff.Size // of the file; compressors differ
	assert.Equal(t, want.req, got.req)
	require.NotEmpty(t, want.blocks)
	assert.Equal(t, want.blocks, got.blocks)
}

func TestRecordedTransfersOfARealStorage(t *testing.T) {
	a := newFakeArchive(t)
	r := start(t, newDisk(), func(c *Config) { c.Server.NodeID = "p0" })
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "vol", "a0", info(a.addr)))
	c2s, s2c := recorded(t, "real-wlog-transfer-refused-stopped")
	assert.Equal(t, firstLine(s2c), firstLine(r.play(t, c2s)))
	require.NoError(t, r.client.Start(t.Context(), "vol", client.RoleNone))
	for i, name := range []string{"real-wlog-transfer-empty", "real-wlog-transfer"} {
		c2s, s2c = recorded(t, name)
		assert.Equal(t, s2c, r.play(t, c2s))
		a.await(t, i+1)
	}
	c2s, s2c = recorded(t, "wlog-transfer-refused-badstate")
	assert.Equal(t, firstLine(s2c), firstLine(r.play(t, c2s)))
	assert.Empty(t, a.await(t, 2)[0].blocks)
	assert.NotEmpty(t, a.await(t, 2)[1].blocks)
}

// firstLine cuts a stream that ends with a refusal at the stack line which the
// original appends, and leaves the length of the text out.
func firstLine(stream []byte) string {
	r := wire.NewReader(bytes.NewReader(stream))
	line, _, _ := strings.Cut(fmt.Sprint(r.Str(), " ", r.Str(), " ", r.Str()), "\n")
	return line
}

func TestPeerThatGivesUpLeavesNothing(t *testing.T) {
	r := shipping(t, "vol0", "127.0.0.1:1")
	c2s, s2c := recorded(t, "wlog-transfer-error-ctl")
	assert.Equal(t, s2c, r.play(t, c2s))
	r.awaitVolume(t, "vol0", fsm.ProxyStarted)
	assert.Empty(t, r.temps(t, "vol0"))
}

func (r *rig) awaitVolume(t *testing.T, vol string, state fsm.ProxyState) {
	t.Helper()
	require.NoError(t, r.find(vol).state.Wait(t.Context(), func(v fsm.View[fsm.ProxyState]) bool { return v.State == state }))
}

// TestLogFromANewLifeWithTheSameGids is where the original closes without an
// acknowledgement, and then loses the diff.
func TestLogFromANewLifeWithTheSameGids(t *testing.T) {
	a := newFakeArchive(t, wire.SyncingWord)
	r := shipping(t, "vol", a.addr)
	c2s, ack := recorded(t, "real-wlog-transfer-empty")
	assert.Equal(t, ack, r.play(t, c2s))
	a.await(t, 1)
	c2s, s2c := recorded(t, "real-wlog-transfer-no-ack-registration-failed")
	answer := r.play(t, c2s)
	assert.NotEqual(t, s2c, answer)
	assert.Equal(t, ack, answer)
	a.script()
	require.NoError(t, r.client.Kick(t.Context(), "vol", ""))
	got := a.await(t, 2)
	assert.NotEqual(t, got[0].req.UUID, got[1].req.UUID)
	assert.Equal(t, got[0].req.Diff.String(), got[1].req.Diff.String())
	assert.Equal(t, wire.Accept, got[1].answer)
}

// TestStorageDiesAtAnyByte closes the connection of a storage after every so
// many bytes: there is no acknowledgement, nothing stays, and the next try
// succeeds.
func TestStorageDiesAtAnyByte(t *testing.T) {
	a := newFakeArchive(t)
	r := shipping(t, "vol", a.addr)
	c2s, s2c := recorded(t, "real-wlog-transfer")
	for n := 18; n < len(c2s); n += 1 + n/40 {
		c, err := net.Dial("tcp", r.Addr().String())
		require.NoError(t, err)
		_, err = c.Write(c2s[:n])
		require.NoError(t, err)
		require.NoError(t, c.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NotEqual(t, s2c, answer, "cut at %d", n)
		r.awaitVolume(t, "vol", fsm.ProxyStarted)
		require.Empty(t, r.temps(t, "vol"), "cut at %d", n)
	}
	assert.Empty(t, a.await(t, 0))
	assert.Equal(t, s2c, r.play(t, c2s))
	assert.Len(t, a.await(t, 1), 1)
}

// TestLinkToTheArchiveIsCutAtAnyByte cuts the connection to the archive in both
// directions: the diff stays until it is acknowledged, and arrives whole.
func TestLinkToTheArchiveIsCutAtAnyByte(t *testing.T) {
	a := newFakeArchive(t)
	relay, err := simnet.Listen(a.addr)
	require.NoError(t, err)
	defer func() { require.NoError(t, relay.Close()) }()
	r := shipping(t, "v0", relay.Addr())
	store := r.find("v0").archives["a0"].store
	tries := 0
	cutAt := func(rule simnet.Rule) {
		t.Helper()
		relay.SetRules(rule)
		require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
		tries++
		require.NoError(t, relay.Await(t.Context(), func(recs []simnet.Record) bool {
			return len(recs) >= tries && recs[tries-1].Done()
		}))
		r.stillTask(t)
		require.Len(t, store.All(), 1)
		r.queue.Remove(func(task) bool { return true })
	}
	for n := int64(1); n < 4200; n += 1 + n/3 {
		cutAt(simnet.Rule{CutAfter: n, Cut: simnet.ToServer, Reset: n%2 == 0})
	}
	for n := int64(1); n < 18; n += 4 { // server id, ok, accept, part of the acknowledgement
		cutAt(simnet.Rule{CutAfter: n, Cut: simnet.ToClient})
	}
	relay.SetRules()
	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	require.NoError(t, relay.Await(t.Context(), func(recs []simnet.Record) bool { return len(recs) == tries+1 && recs[tries].Done() }))
	got := show(a.await(t, 1))
	assert.Equal(t, "accept |0|-->|1| life 1 x", got[len(got)-1])
	r.awaitEmpty(t, "a0")
}
