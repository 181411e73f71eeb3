package archive

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net"
	"os"
	"path"
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
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// recording is a recorded conversation of a peer with the original's archive.
type recording struct {
	name     string
	serverID string
	c2s, s2c []byte
	body     *wire.Reader // what the client says behind the negotiation
	answers  *wire.Reader // what the server says behind it
	word     string       // the first line of its first word
}

// recorded reads all conversations: by name, direction, bytes. They are those
// of package transfer, where they are played at the roles alone.
var recorded = sync.OnceValues(func() (map[string]map[string][]byte, error) {
	return readRecorded("../transfer/testdata/recorded.json.gz")
})

func readRecorded(path string) (map[string]map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	var all map[string]struct{ Chunks [][2]string }
	if err := json.NewDecoder(z).Decode(&all); err != nil {
		return nil, err
	}
	out := map[string]map[string][]byte{}
	for name, r := range all {
		out[name] = map[string][]byte{}
		for _, c := range r.Chunks {
			p, err := hex.DecodeString(c[1])
			if err != nil {
				return nil, err
			}
			out[name][c[0]] = append(out[name][c[0]], p...)
		}
	}
	return out, nil
}

// recordings gives the conversations of a protocol that got beyond the negotiation.
func recordings(t *testing.T, protocol string) []recording {
	t.Helper()
	all, err := recorded()
	require.NoError(t, err)
	return chosen(t, all, protocol)
}

// hashRecordings is recordings for conversations in which images are compared,
// or latest snapshots are asked for.
func hashRecordings(t *testing.T, protocol string) []recording {
	t.Helper()
	all, err := readRecorded("../transfer/testdata/recorded-hash.json.gz")
	require.NoError(t, err)
	return chosen(t, all, protocol)
}

func chosen(t *testing.T, all map[string]map[string][]byte, protocol string) []recording {
	t.Helper()
	var out []recording
	for _, name := range slices.Sorted(maps.Keys(all)) {
		streams := all[name]
		r := recording{name: name, c2s: streams["c2s"], s2c: streams["s2c"]}
		var hello wire.Hello
		r.body = wire.NewReader(bytes.NewReader(r.c2s))
		hello.Decode(r.body)
		require.NoError(t, r.body.Err())
		if hello.Protocol != protocol || len(r.s2c) == 0 {
			continue
		}
		r.answers = wire.NewReader(bytes.NewReader(r.s2c))
		r.serverID = r.answers.Str()
		require.Equal(t, wire.OK, r.answers.Str())
		r.cutStack(t)
		out = append(out, r)
	}
	require.NotEmpty(t, out)
	return out
}

// cutStack takes the stack out that the original sends behind a refusal.
func (r *recording) cutStack(t *testing.T) {
	t.Helper()
	hello := int(r.answers.Pos())
	word := r.answers.Str()
	require.NoError(t, r.answers.Err(), r.name)
	rest := r.s2c[r.answers.Pos():]
	r.word, _, _ = strings.Cut(word, "\n")
	r.s2c = slices.Concat(r.s2c[:hello], wire.Marshal(func(w *wire.Writer) { w.Str(r.word) }), rest)
}

// play lets the recorded client speak to an archive, which must answer as the
// original did.
func (r *recording) play(t *testing.T, to *rig) {
	t.Helper()
	require.Equal(t, hex.Dump(r.s2c), hex.Dump(r.exchange(t, to)), r.name)
}

// exchange lets the recorded client speak to an archive, and gives the answer.
func (r *recording) exchange(t *testing.T, to *rig) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", to.addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write(r.c2s)
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	answer, err := io.ReadAll(conn)
	require.NoError(t, err, r.name)
	return answer
}

// stand makes an archive where the volume is in the state that the recorded
// refusal names, or else in the given one.
func (r *recording) stand(t *testing.T, vol string, v recordedVolume) *rig {
	t.Helper()
	if _, name, ok := strings.Cut(r.word, ":bad state:"); ok {
		state, err := fsm.ParseArchiveState(name)
		require.NoError(t, err, r.word)
		v.state = state
	}
	disk := newDisk()
	if v.state != fsm.ArchiveClear {
		v.put(t, disk, vol)
	}
	cfg := memConfig(disk)
	cfg.NodeID = r.serverID
	return run(t, cfg)
}

// frames decodes a block stream into an image.
func frames(t *testing.T, r *wire.Reader, size, bulk block.LB, codec compress.Type) []byte {
	t.Helper()
	image := make([]byte, size.Bytes())
	for pos := block.LB(0); pos < size; pos += bulk {
		n := r.U64()
		require.NoError(t, r.Err())
		if n == 0 {
			continue
		}
		r.U32()
		enc := make([]byte, n)
		r.Raw(enc)
		require.NoError(t, r.Err())
		require.NoError(t, compress.Decompress(image[pos.Bytes():min(pos+bulk, size).Bytes()], enc, codec))
	}
	return image
}

func baseImage(t *testing.T, s *Server, vol string) []byte {
	t.Helper()
	img, err := s.cfg.Store.Open(vol)
	require.NoError(t, err)
	return content(t, img)
}

// reload starts an archive anew on its disk.
func reload(t *testing.T, r *rig) *Server {
	t.Helper()
	r.stop()
	s, err := New(r.s.cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.lock.Close()) })
	return s
}

// inspect gives what a server that does not run knows of a volume.
func inspect(t *testing.T, s *Server, vol string) (facts, fsm.ArchiveState) {
	t.Helper()
	v, err := s.volume(vol, false)
	require.NoError(t, err)
	return v.facts(), v.sm.State()
}

func TestRecordedFullBackups(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoFullSync) {
		var req wire.FullSyncRequest
		req.Decode(r.body)
		to := r.stand(t, req.Volume, recordedVolume{state: fsm.ArchiveSyncReady, size: 8, base: meta.NewState(meta.CleanSnap(1), 1)})
		before := to.state(t, req.Volume)
		r.play(t, to)
		if r.word != wire.Accept {
			assert.Equal(t, before, to.state(t, req.Volume), r.name)
			continue
		}
		uuid := r.body.UUID()
		image := frames(t, r.body, req.Size, req.Bulk, req.Compress.Type)
		snap := r.body.Snap()
		require.NoError(t, r.body.Err())
		s := reload(t, to)
		assert.True(t, bytes.Equal(image, baseImage(t, s, req.Volume)), r.name)
		f, state := inspect(t, s, req.Volume)
		assert.Equal(t, fsm.ArchiveArchived, state)
		assert.Equal(t, meta.NewState(snap, req.Timestamp), f.base)
		assert.Equal(t, uuid, f.uuid)
		assert.False(t, f.archiveUUID.IsZero())
	}
}

// packs decodes a pack stream into the file that an archive makes of it.
func packs(t *testing.T, r *wire.Reader, uuid meta.UUID, size block.LB) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := wdiff.NewSortedWriter(&file, "recorded", uuid, size)
	require.NoError(t, err)
	for r.U8() == wire.CtlNext {
		require.NoError(t, w.CopyPack(r, r.U64()))
	}
	require.NoError(t, r.Err())
	require.NoError(t, w.Close())
	return file.Bytes()
}

func diffFile(t *testing.T, s *Server, vol string, d meta.Diff) []byte {
	t.Helper()
	p, err := vfs.ReadFile(s.cfg.FS, path.Join(memBase, vol, d.FileName()), 64<<20)
	require.NoError(t, err)
	return p
}

func TestRecordedDiffs(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoWdiffTransfer) {
		var req wire.WdiffRequest
		req.Decode(r.body)
		v := recordedVolume{state: fsm.ArchiveArchived, size: req.Size, uuid: req.UUID, base: meta.NewState(req.Diff.B, 1)}
		via := fsm.ArchiveClear // a temporary state
		switch {
		case r.word == wire.DifferentUUID:
			v.uuid[0] ^= 1
		case r.word == wire.SmallerLvSize:
			v.size--
		case r.word == wire.TooOldDiff:
			v.base.B = req.Diff.E
		case r.word == wire.TooNewDiff:
			v.base.B = meta.CleanSnap(req.Diff.B.B - 1)
		case r.word == wire.StoppedWord:
			v.state = fsm.ArchiveStopped
		case r.word == wire.SyncingWord:
			v.state, via = fsm.ArchiveSyncReady, fsm.ArchiveFullSync
		case r.word == wire.WdiffRecvWord:
			via = fsm.ArchiveWdiffRecv
		case strings.Contains(r.word, "bad meta diff relation:3:|4,7|:"):
			v.base.B = meta.Snap{B: 4, E: 7}
		default:
			require.Equal(t, wire.Accept, r.word)
		}
		to := r.stand(t, req.Volume, v)
		if via != fsm.ArchiveClear {
			_, err := to.known(t, req.Volume).sm.Begin("test", v.state, via, fsm.ArchiveArchived)
			require.NoError(t, err)
		}
		r.play(t, to)
		s := reload(t, to)
		f, state := inspect(t, s, req.Volume)
		assert.Equal(t, v.state, state)
		if r.word != wire.Accept {
			assert.Empty(t, f.diffs.All(), r.name)
			continue
		}
		want := packs(t, r.body, req.UUID, req.Size)
		assert.True(t, bytes.Equal(want, diffFile(t, s, req.Volume, req.Diff)), "%s: stored as they came", r.name)
		req.Diff.Size = uint64(len(want))
		assert.Equal(t, []meta.Diff{req.Diff}, f.diffs.All(), r.name)
	}
}

func TestRecordedReplications(t *testing.T) {
	for _, r := range recordings(t, wire.ProtoReplSync) {
		vol := r.body.StrVec()[0]
		var offer wire.ReplOffer
		offer.Decode(r.body)
		refused := r.answers.Str() != wire.Accept
		v := recordedVolume{state: fsm.ArchiveArchived, size: 1 << 16, base: meta.NewState(meta.CleanSnap(1), 1)}
		full := false
		if !refused {
			v.archiveUUID = offer.ArchiveUUID
			if full = r.answers.U32() == wire.ReplFull; full {
				v.state = fsm.ArchiveSyncReady
			} else {
				v.base = r.answers.State()
			}
		}
		to := r.stand(t, vol, v)
		r.play(t, to)
		s := reload(t, to)
		f, state := inspect(t, s, vol)
		assert.Equal(t, fsm.ArchiveArchived, state)
		if refused {
			assert.Equal(t, v.base, f.base)
			continue
		}
		assert.Equal(t, offer.ArchiveUUID, f.archiveUUID)
		if full {
			var req wire.ReplFullRequest
			req.Decode(r.body)
			image := frames(t, r.body, req.Size, req.Bulk, req.Compress.Type)
			assert.True(t, bytes.Equal(image, baseImage(t, s, vol)), r.name)
			assert.Equal(t, req.Base, f.base)
			assert.Equal(t, req.UUID, f.uuid)
			assert.Nil(t, f.fullRepl)
		}
		var diffs []meta.Diff
		for r.body.U32() == wire.RoundDiff {
			var req wire.ReplDiffRequest
			req.Decode(r.body)
			want := packs(t, r.body, req.UUID, req.Size)
			assert.True(t, bytes.Equal(want, diffFile(t, s, vol, req.Diff)), r.name)
			req.Diff.Size = uint64(len(want))
			diffs = append(diffs, req.Diff)
		}
		require.NoError(t, r.body.Err(), r.name)
		assert.Equal(t, diffs, f.diffs.All(), r.name)
	}
}
