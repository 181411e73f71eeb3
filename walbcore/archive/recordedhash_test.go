package archive

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// playCompared is play where the recorded archive's image is not known: the
// hashes, n of which begin where the answers have been read to, may differ.
func (r *recording) playCompared(t *testing.T, to *rig, n block.LB) {
	t.Helper()
	at := int(r.answers.Pos())
	masked := func(p []byte) []byte {
		p = slices.Clone(p)
		for i := range int(n) {
			if h := at + 17*i; h+17 <= len(p) {
				clear(p[h+1 : h+17])
			}
		}
		return p
	}
	assert.Equal(t, hex.Dump(masked(r.s2c)), hex.Dump(masked(r.exchange(t, to))), r.name)
}

// differences decodes what the recorded client says differs, as the file that
// an archive makes of it.
func differences(t *testing.T, r *wire.Reader, uuid meta.UUID, size block.LB) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := wdiff.NewSortedWriter(&file, "recorded", uuid, size)
	require.NoError(t, err)
	for ctl := r.U8(); ctl != wire.CtlEnd; ctl = r.U8() {
		require.NoError(t, r.Err())
		if ctl == wire.CtlNext {
			require.NoError(t, w.CopyPack(r, r.U64()))
		}
	}
	require.NoError(t, w.Close())
	return file.Bytes()
}

// putS0 gives the volume the image of the recorded speakers.
func (r *rig) putS0(t *testing.T, vol string) {
	t.Helper()
	img, err := r.s.cfg.Store.Open(vol)
	require.NoError(t, err)
	defer img.Close()
	for _, i := range []int{0, 3, 5, 12} {
		p := make([]byte, 1000)
		for j := range p {
			p[j] = byte((7*i + j) % 251)
		}
		_, err := img.WriteAt(p, int64(i*16*block.Size))
		require.NoError(t, err)
	}
}

func TestRecordedHashBackups(t *testing.T) {
	for _, r := range hashRecordings(t, wire.ProtoHashSync) {
		var req wire.FullSyncRequest
		req.Decode(r.body)
		v := recordedVolume{state: fsm.ArchiveArchived, size: max(req.Size, 8), base: meta.NewState(meta.CleanSnap(1), 1)}
		if r.word == wire.Accept {
			v.base.B = r.answers.Snap()
		}
		to := r.stand(t, req.Volume, v)
		if r.word != wire.Accept {
			r.play(t, to)
			continue
		}
		r.answers.Ack()
		if req.Volume == "small" {
			to.putS0(t, req.Volume)
			r.play(t, to)
		} else {
			r.playCompared(t, to, (req.Size+req.Bulk-1)/req.Bulk)
		}
		uuid := r.body.UUID()
		file := differences(t, r.body, uuid, req.Size)
		d := meta.Diff{
			B: v.base.B, E: r.body.Snap(), Mergeable: !v.base.B.IsClean(), Timestamp: req.Timestamp, Size: uint64(len(file)),
		}
		s := reload(t, to)
		f, state := inspect(t, s, req.Volume)
		assert.Equal(t, fsm.ArchiveArchived, state)
		assert.Equal(t, uuid, f.uuid)
		assert.Equal(t, v.base, f.base)
		assert.Equal(t, []meta.Diff{d}, f.diffs.All(), r.name)
		assert.True(t, bytes.Equal(file, diffFile(t, s, req.Volume, d)), "%s: stored as they came", r.name)
	}
}

func TestRecordedComparisons(t *testing.T) {
	for _, r := range hashRecordings(t, wire.ProtoReplSync) {
		vol := r.body.StrVec()[0]
		var offer wire.ReplOffer
		offer.Decode(r.body)
		require.Equal(t, wire.Accept, r.answers.Str())
		v := recordedVolume{state: fsm.ArchiveArchived, size: 8192, archiveUUID: offer.ArchiveUUID, base: meta.NewState(meta.CleanSnap(1), 1)}
		resync := r.answers.U32() == wire.ReplResync
		var base meta.State
		var uuid meta.UUID
		var bulks block.LB
		if resync {
			var req wire.ReplResyncRequest
			req.Decode(r.body)
			base, uuid, bulks = req.Base, req.UUID, req.Size/req.Bulk
		} else {
			v.base = r.answers.State()
			require.Equal(t, wire.RoundHash, r.body.U32())
			var req wire.ReplHashRequest
			req.Decode(r.body)
			base, uuid, bulks = v.base, req.UUID, req.Size/req.Bulk
		}
		require.Equal(t, wire.OK, r.answers.Str())
		to := r.stand(t, vol, v)
		r.playCompared(t, to, bulks)
		file := differences(t, r.body, uuid, 8192)
		s := reload(t, to)
		f, state := inspect(t, s, vol)
		assert.Equal(t, fsm.ArchiveArchived, state)
		assert.Equal(t, uuid, f.uuid)
		assert.Equal(t, offer.ArchiveUUID, f.archiveUUID)
		assert.Equal(t, base, f.base, r.name)
		if !resync {
			all := f.diffs.All()
			require.Len(t, all, 1)
			assert.True(t, all[0].Comp && all[0].Mergeable)
			assert.True(t, bytes.Equal(file, diffFile(t, s, vol, all[0])))
		}
	}
}

func TestRecordedQuestionsForLatestSnapshots(t *testing.T) {
	for _, r := range hashRecordings(t, wire.ProtoGatherLatest) {
		disk := newDisk()
		require.Equal(t, wire.Accept, r.word)
		for range r.answers.Count(100) {
			var info wire.SnapshotInfo
			info.Decode(r.answers)
			if info.Gid != meta.MaxGid {
				recordedVolume{
					state: fsm.ArchiveStopped, size: 8, base: meta.NewState(meta.CleanSnap(info.Gid), info.Timestamp),
				}.put(t, disk, info.Volume)
			}
		}
		cfg := memConfig(disk)
		cfg.NodeID = r.serverID
		r.play(t, run(t, cfg))
	}
}
