package storage

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wlog"
)

// recording is a conversation that a storage of the original began.
type recording struct {
	name     string
	c2s, s2c []byte
	clientID string
	answer   string       // first word of the server behind the negotiation
	body     *wire.Reader // of the client, behind the negotiation
}

// recordings gives the recorded conversations of a protocol that got an
// answer.
func recordings(t *testing.T, protocol string) []recording {
	t.Helper()
	f, err := os.Open("../transfer/testdata/recorded.json.gz")
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	var all map[string]struct{ Chunks [][2]string }
	require.NoError(t, json.NewDecoder(z).Decode(&all))
	var out []recording
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r := recording{name: name}
		for _, c := range all[name].Chunks {
			p, err := hex.DecodeString(c[1])
			require.NoError(t, err)
			if c[0] == "c2s" {
				r.c2s = append(r.c2s, p...)
			} else {
				r.s2c = append(r.s2c, p...)
			}
		}
		var h wire.Hello
		r.body = wire.NewReader(bytes.NewReader(r.c2s))
		h.Decode(r.body)
		if require.NoError(t, r.body.Err()); h.Protocol != protocol {
			continue
		}
		r.clientID = h.ClientID
		server := wire.NewReader(bytes.NewReader(r.s2c))
		server.Str()
		if server.Str(); server.Err() != nil {
			continue // the server was killed
		}
		r.answer, _, _ = strings.Cut(server.Str(), "\n")
		require.NoError(t, server.Err(), name)
		out = append(out, r)
	}
	require.NotEmpty(t, out)
	return out
}

// replay is a server that says what was recorded, and keeps what it is told. It
// answers heartbeats as a proxy.
func replay(t *testing.T, r recording, protocol string) (addr wire.Addr, said <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	all := make(chan []byte, 16)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				var got bytes.Buffer
				var h wire.Hello
				h.Decode(wire.NewReader(io.TeeReader(c, &got)))
				if h.Protocol != protocol { // the heartbeat
					_, _ = c.Write(wire.Marshal(func(w *wire.Writer) {
						for _, word := range []string{"px0", wire.OK, wire.OK, wire.HostProxy} {
							w.Str(word)
						}
						w.Ack()
					}))
					_, _ = io.Copy(io.Discard, c)
					return
				}
				_, _ = c.Write(r.s2c) // a client that gave up does not matter
				_, _ = io.Copy(&got, c)
				all <- got.Bytes()
			})
		}
	})
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		wg.Wait()
	})
	addr, err = wire.ParseAddr(l.Addr().String())
	require.NoError(t, err)
	return addr, all
}

// prepared makes a rig whose storage finds volume vol in the given state.
func prepared(t *testing.T, vol string, dev *fakeDevice, state fsm.StorageState, done meta.LsidGid, queue []meta.LsidGid) *rig {
	t.Helper()
	disk := vfstest.NewMem("/base/" + vol)
	for name, content := range map[string][]byte{
		pathFile:  wire.Marshal(func(w *wire.Writer) { w.Str("/dev/walb/w0") }),
		stateFile: wire.Marshal(func(w *wire.Writer) { w.Str(state.String()) }),
		doneFile:  wire.Marshal(func(w *wire.Writer) { w.LsidGid(done) }),
		uuidFile:  wire.Marshal(func(w *wire.Writer) { w.UUID(dev.id.UUID) }),
		queueName: encodeQueue(queue, 1),
	} {
		require.NoError(t, vfs.WriteFile(disk, "/base/"+vol+"/"+name, content))
	}
	r := newRig(t)
	r.base, r.devices = "/base", fakeDevices{"/dev/walb/w0": dev}
	r.change = func(c *Config) { c.FS = disk }
	return r
}

// shipped is a decoded wlog-transfer of the sending side, compressors aside.
type shipped struct {
	hello      wire.Hello
	req        wire.WlogRequest
	units      []string
	diff       meta.Diff
	begin, end meta.Lsid
}

// decodeShipped decodes what a storage said, and gives the log to keep.
func decodeShipped(t *testing.T, name string, said []byte, keep func(lsid meta.Lsid, p []byte)) (s shipped) {
	t.Helper()
	r := wire.NewReader(bytes.NewReader(said))
	s.hello.Decode(r)
	s.req.Decode(r)
	unit := func() []byte {
		enc, plain := make([]byte, r.U32()), make([]byte, r.U32())
		require.NoError(t, r.Err(), name)
		if len(enc) == 0 {
			r.Raw(plain)
		} else {
			r.Raw(enc)
			require.NoError(t, compress.Decompress(plain, enc, compress.Snappy), name)
		}
		s.units = append(s.units, hex.EncodeToString(plain))
		return plain
	}
	for r.U8() == wire.CtlNext {
		p := unit()
		h, err := wlog.DecodePack(p, s.req.Salt)
		require.NoError(t, err, name)
		if len(s.units) == 1 {
			s.begin = h.Lsid
		}
		keep(h.Lsid, p)
		for _, rec := range h.Records {
			if rec.HasData() {
				require.Equal(t, wire.CtlNext, r.U8(), name)
				keep(rec.Lsid, unit())
			}
		}
		s.end = h.Next()
	}
	s.diff = r.Diff()
	exhausted(t, name, r)
	return s
}

// exhausted demands that everything was decoded.
func exhausted(t *testing.T, name string, r *wire.Reader) {
	t.Helper()
	require.NoError(t, r.Err(), name)
	n, err := r.Read(make([]byte, 1))
	require.Zero(t, n, name)
	require.ErrorIs(t, err, io.EOF, name)
}

// TestRecordedProxiesGetTheSameShipments: with the files and the log that the
// original had, the storage says to a proxy what the original said.
func TestRecordedProxiesGetTheSameShipments(t *testing.T) {
	t.Parallel()
	played := 0
	for _, r := range recordings(t, wire.ProtoWlogTransfer) {
		if r.answer != wire.Accept || !bytes.HasSuffix(r.s2c, []byte{0x82, 'w', 'a', 'l', 'b'}) {
			continue
		}
		dev := newFakeDevice()
		var req wire.WlogRequest
		req.Decode(r.body)
		require.NoError(t, r.body.Err(), r.name)
		dev.id, dev.size, dev.capacity = wdev.Identity{UUID: req.UUID, Salt: req.Salt, PBS: req.PBS}, req.Size, 1<<20
		want := decodeShipped(t, r.name, r.c2s, dev.put)
		if len(want.units) == 0 { // any place will do
			want.begin, want.end = 5, 5
		}
		require.EqualValues(t, req.MaxLogPB, want.end-want.begin, r.name)
		dev.lsids.Permanent, dev.lsids.Latest = want.end, want.end
		from := meta.LsidGid{Mergeable: want.diff.Mergeable, Timestamp: 3, Lsid: want.begin, Gid: want.diff.B.B}
		to := meta.LsidGid{Timestamp: want.diff.Timestamp, Lsid: want.end, Gid: want.diff.E.B}

		addr, said := replay(t, r, wire.ProtoWlogTransfer)
		g := prepared(t, req.Volume, dev, fsm.StorageTarget, from, []meta.LsidGid{to})
		g.proxies = []wire.Addr{addr}
		old := g.change
		g.change = func(c *Config) {
			old(c)
			c.NodeID = r.clientID
		}
		g.start(t)
		got := decodeShipped(t, r.name, <-said, func(meta.Lsid, []byte) {})
		if len(got.units) == 0 {
			got.begin, got.end = 5, 5
		}
		assert.Equal(t, want, got, r.name)
		v, err := g.server.volume(req.Volume, false)
		require.NoError(t, err)
		require.NoError(t, v.sm.WaitIdle(within(t)))
		g.awaitFact(t, "the record", func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.done == to && len(v.queue.records) == 0
		})
		g.stop()
		assert.Zero(t, g.log.count("WARN"), "%s: %s", r.name, &g.log)
		played++
	}
	assert.Greater(t, played, 20)
}

// backedUp is a decoded dirty-full-sync3 of the storage, compressors aside.
type backedUp struct {
	hello  wire.Hello
	req    wire.FullSyncRequest
	uuid   meta.UUID
	frames []string
	snap   meta.Snap
}

func decodeBackup(t *testing.T, name string, said []byte, accepted bool) (b backedUp, image []byte) {
	t.Helper()
	r := wire.NewReader(bytes.NewReader(said))
	b.hello.Decode(r)
	b.req.Decode(r)
	if !accepted {
		exhausted(t, name, r)
		return b, nil
	}
	b.uuid = r.UUID()
	image = make([]byte, b.req.Size.Bytes())
	for at := block.LB(0); at < b.req.Size; at += b.req.Bulk {
		n := r.U64()
		require.NoError(t, r.Err(), name)
		if n == 0 {
			b.frames = append(b.frames, "zero")
			continue
		}
		r.U32() // checksum of the compressed bytes; receivers check it
		enc := make([]byte, n)
		r.Raw(enc)
		require.NoError(t, r.Err(), name)
		require.NoError(t, compress.Decompress(image[at.Bytes():min(at+b.req.Bulk, b.req.Size).Bytes()], enc, b.req.Compress.Type), name)
		b.frames = append(b.frames, "data")
	}
	b.snap = r.Snap()
	exhausted(t, name, r)
	return b, image
}

// TestRecordedArchivesGetTheSameBackups: the same for archives, and the
// controller gets the same words.
func TestRecordedArchivesGetTheSameBackups(t *testing.T) {
	t.Parallel()
	accepted := 0
	for _, r := range recordings(t, wire.ProtoFullSync) {
		want, image := decodeBackup(t, r.name, r.c2s, r.answer == wire.Accept)
		dev := newFakeDevice()
		dev.disk, dev.size = image, want.req.Size
		dev.afterReset = wdev.Identity{UUID: want.uuid, Salt: 1, PBS: 512}
		addr, said := replay(t, r, wire.ProtoFullSync)
		g := prepared(t, want.req.Volume, dev, fsm.StorageSyncReady, meta.LsidGid{Lsid: meta.MaxLsid, Gid: meta.MaxGid}, nil)
		g.archive = addr
		old := g.change
		g.change = func(c *Config) {
			old(c)
			c.NodeID, c.Compress, c.MaxWlogMB = r.clientID, want.req.Compress, 1
			c.Now = func() time.Time { return time.Unix(int64(want.req.Timestamp), 0) }
		}
		g.start(t)
		if want.snap.E > 1 { // as if so much had been written meanwhile
			dev.atReset = wdev.Lsids{Latest: meta.Lsid(want.snap.E-1) * 2048}
		}
		err := g.client().FullBackup(t.Context(), want.req.Volume, want.req.Bulk.Bytes())
		got, _ := decodeBackup(t, r.name, <-said, r.answer == wire.Accept)
		assert.Equal(t, want, got, r.name)
		v, verr := g.server.volume(want.req.Volume, false)
		require.NoError(t, verr)
		if r.answer != wire.Accept {
			archiveID := wire.NewReader(bytes.NewReader(r.s2c)).Str()
			require.ErrorContains(t, err, fmt.Sprintf("backupClient:not accepted by archive:%s:%s", archiveID, r.answer), r.name)
			assert.Equal(t, fsm.StorageSyncReady, v.sm.State())
			continue
		}
		accepted++
		require.NoError(t, err, r.name)
		require.NoError(t, v.sm.Wait(within(t), func(v fsm.View[fsm.StorageState]) bool { return v.State == fsm.StorageTarget }), r.name)
		g.stop()
	}
	assert.GreaterOrEqual(t, accepted, 4)
}

// TestRecordedRefusalsOfProxies leave everything as it is.
func TestRecordedRefusalsOfProxies(t *testing.T) {
	t.Parallel()
	refused := 0
	for _, r := range recordings(t, wire.ProtoWlogTransfer) {
		if r.answer == wire.Accept {
			continue
		}
		refused++
		var req wire.WlogRequest
		req.Decode(r.body)
		require.NoError(t, r.body.Err(), r.name)
		dev := newFakeDevice()
		dev.id, dev.size = wdev.Identity{UUID: req.UUID, Salt: req.Salt, PBS: req.PBS}, req.Size
		dev.lsids.Permanent, dev.lsids.Latest = meta.Lsid(req.MaxLogPB), meta.Lsid(req.MaxLogPB)
		addr, said := replay(t, r, wire.ProtoWlogTransfer)
		g := prepared(t, req.Volume, dev, fsm.StorageTarget, meta.LsidGid{}, []meta.LsidGid{{Lsid: meta.Lsid(req.MaxLogPB), Gid: 1}})
		g.proxies = []wire.Addr{addr}
		old := g.change
		g.change = func(c *Config) {
			old(c)
			c.NodeID, c.Delay = r.clientID, time.Hour
		}
		g.start(t)
		assert.Equal(t, r.c2s, <-said, r.name)
		g.awaitFact(t, "a failure", func() bool { return g.log.count("refused by") == 1 })
		assert.Contains(t, g.log.String(), r.answer)
		v, err := g.server.volume(req.Volume, false)
		require.NoError(t, err)
		assert.Equal(t, meta.LsidGid{}, v.done)
		g.stop()
	}
	assert.Positive(t, refused)
}
