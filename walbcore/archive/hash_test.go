package archive

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// rebirth is a storage whose log begins a new life, since it was lost.
type rebirth struct {
	*world
	uuid   meta.UUID
	source transfer.BlockSource // of the volume; nil is the world's
	fail   error                // of the snapshot at the end
}

func (b *rebirth) ResetLogAt(_ context.Context, gid meta.Gid) (meta.UUID, error) {
	b.gid, b.world.uuid = gid, b.uuid
	return b.uuid, nil
}

func (b *rebirth) Source(context.Context) (transfer.BlockSource, error) {
	if b.source != nil {
		return b.source, nil
	}
	return b.world, nil
}

func (b *rebirth) Snapshot(ctx context.Context) (meta.Gid, error) {
	if b.fail != nil {
		return 0, b.fail
	}
	return b.world.Snapshot(ctx)
}

// hashBackup makes a hash backup to an archive.
func (b *rebirth) hashBackup(ctx context.Context, addr, vol string) error {
	c, err := open(ctx, addr, "st0", wire.ProtoHashSync)
	if err != nil {
		return err
	}
	defer c.Close()
	return transfer.SendHashBackup(ctx, c, wire.FullSyncRequest{
		HostType: wire.HostStorage, Volume: vol, Size: b.size, Timestamp: b.time, Bulk: bulk, Compress: snappy,
	}, b, transfer.Options{})
}

// writeUnseen writes to the volume when nobody keeps a log.
func (w *world) writeUnseen() { w.writes(5, make([]change, w.size)) }

func TestHashBackupsGoOnWhereTheLogWasLost(t *testing.T) {
	r := runMem(t)
	w := newWorld(11, 200)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for i := range 5 {
		w.ship(t, r.addr, "v0", w.rnd.IntN(2) == 0)
		from := r.latest(t, "v0")
		w.writeUnseen()
		b := &rebirth{world: w, uuid: meta.UUID{9, byte(i)}}
		require.NoError(t, b.hashBackup(t.Context(), r.addr, "v0"))
		r.awaitIdle(t, "v0")
		assert.Equal(t, meta.Snap{B: from.E + 1, E: from.E + 2}, r.latest(t, "v0"))
		f := r.known(t, "v0").facts()
		assert.Equal(t, b.uuid, f.uuid)
		assert.NotZero(t, f.lastSync)
		d := f.diffs.All()[f.diffsLen()-1]
		assert.Equal(t, !from.IsClean(), d.Mergeable, "a clean snapshot stays restorable")
		assert.False(t, d.Comp)
		// The log of the new life makes it clean.
		w.ship(t, r.addr, "v0", false)
		assert.Contains(t, r.sameAs(t, "v0", w), w.gid)
	}
	s := reload(t, r)
	assert.Contains(t, offline(t, s, "v0", w), w.gid)
}

func (f facts) diffsLen() (n int) {
	f.view(func(m *meta.Manager) { n = m.Len() })
	return n
}

// brokenSource fails at its end.
type brokenSource struct{ *world }

func (s brokenSource) ReadAt(p []byte, off int64) (int, error) {
	if off > s.size.Bytes()/2 {
		return 0, errors.New("bad sector")
	}
	return s.world.ReadAt(p, off)
}

// TestBrokenHashBackupsLeaveNothing: the rows of the failure atlas; a repetition
// heals.
func TestBrokenHashBackupsLeaveNothing(t *testing.T) {
	r := runMem(t)
	w := newWorld(12, 200)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	w.ship(t, r.addr, "v0", false)
	from, uuid := r.latest(t, "v0"), w.uuid
	w.writeUnseen()
	for name, b := range map[string]*rebirth{
		"the storage cannot read": {world: w, uuid: meta.UUID{5}, source: brokenSource{w}},
		"no snapshot at the end":  {world: w, uuid: meta.UUID{6}, fail: errors.New("wlog overflow")},
	} {
		require.Error(t, b.hashBackup(t.Context(), r.addr, "v0"), name)
		r.awaitIdle(t, "v0")
		assert.Equal(t, "Archived", r.state(t, "v0"), name)
		assert.Equal(t, from, r.latest(t, "v0"), name)
		assert.Equal(t, uuid, r.known(t, "v0").facts().uuid, name)
		noTemps(t, r.s, "v0")
	}
	b := &rebirth{world: w, uuid: meta.UUID{7}}
	require.NoError(t, b.hashBackup(t.Context(), r.addr, "v0"))
	w.ship(t, r.addr, "v0", false)
	assert.Contains(t, r.sameAs(t, "v0", w), w.gid)
}

func TestRefusedHashBackups(t *testing.T) {
	r := runMem(t)
	w := newWorld(13, 64)
	b := &rebirth{world: w, uuid: meta.UUID{5}}
	gid := w.gid
	refused := func(text, vol string) {
		t.Helper()
		var refusal *wire.Refusal
		err := b.hashBackup(t.Context(), r.addr, vol)
		require.ErrorAs(t, err, &refusal)
		assert.Equal(t, text, refusal.Text)
		assert.Equal(t, gid, w.gid, "the log was not reset")
	}
	refused("backupServer:bad state:Clear", "v1")
	refused("backupServer:bad state:Clear", "no_name")
	refused("backupServer:bad state:SyncReady", "v0")
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	w.grow(80)
	refused("backupServer:bad sizeLb:80:64", "v0")
	w.size = 64
	end, err := r.known(t, "v0").startAction("test", fsm.Restore, 1, fsm.ArchiveActive()...)
	require.NoError(t, err)
	refused("backupServer:there are running action:Restore:1", "v0")
	end()
	r.halt(t, "v0", client.StopGraceful)
	refused("backupServer:bad state:Stopped", "v0")
}

// TestForceStopsEndComparisons: within a moment, whatever the peer does.
func TestForceStopsEndComparisons(t *testing.T) {
	r := runMem(t)
	w := newWorld(14, 64)
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	c := dial(t, r.addr, "st0", wire.ProtoHashSync)
	defer c.Close()
	wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "v0", Size: 64, Bulk: 16, Compress: snappy}.Encode(c.W)
	require.NoError(t, c.Flush())
	require.Equal(t, wire.Accept, c.R.Str())
	c.R.Snap()
	c.W.UUID(meta.UUID{1})
	require.NoError(t, c.Flush())
	r.awaitState(t, "v0", fsm.ArchiveHashSync)
	r.halt(t, "v0", client.StopForce)
	noTemps(t, r.s, "v0")
}

// rebased puts the base image of an archive to a snapshot of the model, as an
// apply does.
func (r *rig) rebased(t *testing.T, vol string, w *world, gid meta.Gid) {
	t.Helper()
	v := r.known(t, vol)
	img, err := r.s.cfg.Store.Open(vol)
	require.NoError(t, err)
	_, err = img.WriteAt(w.at[gid], 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.NoError(t, v.saveBase(meta.NewState(meta.CleanSnap(gid), w.time)))
	_, err = v.facts().diffs.EraseBefore(gid)
	require.NoError(t, err)
}

// TestADestinationBehindTheBaseIsCompared: a hash round, and diff rounds behind
// it.
func TestADestinationBehindTheBaseIsCompared(t *testing.T) {
	p := newPair(t, 300, 3)
	assert.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	for range 5 {
		p.w.ship(t, p.a0.addr, "v0", false)
	}
	p.a0.rebased(t, "v0", p.w, 6)
	before := p.link.Bytes(simnet.ToServer)
	st := p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Equal(t, "diff", st.Kind)
	assert.EqualValues(t, 3, st.Rounds, "a hash round, and one for each of two snapshots")
	assert.Less(t, p.link.Bytes(simnet.ToServer)-before, p.w.size.Bytes())
	assert.Subset(t, p.a1.sameAs(t, "v0", p.w), []meta.Gid{6, 7, 8})
	var comp []meta.Diff
	for _, d := range p.a1.known(t, "v0").facts().diffs.All() {
		if d.Comp {
			comp = append(comp, d)
		}
	}
	require.Len(t, comp, 1)
	assert.True(t, comp[0].Mergeable)
	assert.Equal(t, "|3|-->|6|", comp[0].String())
	// With diffs only, from now on.
	p.w.ship(t, p.a0.addr, "v0", false)
	assert.EqualValues(t, 1, p.replicate(t, p.w.gid).Rounds)
	assert.Contains(t, offline(t, reload(t, p.a1), "v0", p.w), p.w.gid)
}

// resync replicates with the permission to overwrite.
func (p *pair) resync(t *testing.T) wire.ReplStatus {
	t.Helper()
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{
		Dest: p.dest(t), ByGid: true, Value: uint64(p.w.gid), Bulk: bulk.Bytes(), Resync: true,
	}))
	return p.ended(t)
}

// isFirst demands that the second archive has become what the first one is.
func (p *pair) isFirst(t *testing.T) {
	t.Helper()
	assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)
	f0, f1 := p.a0.known(t, "v0").facts(), p.a1.known(t, "v0").facts()
	assert.Equal(t, f0.archiveUUID, f1.archiveUUID)
	assert.Equal(t, f0.uuid, f1.uuid)
	assert.Equal(t, f0.base, f1.base)
	assert.Nil(t, f1.fullRepl)
	assert.Empty(t, p.a1.leftovers(t))
}

// leftovers are the files of a resync that are still there.
func (r *rig) leftovers(t *testing.T) (names []string) {
	t.Helper()
	entries, err := r.s.cfg.FS.ReadDir(path.Join(r.s.cfg.BaseDir, "v0"))
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "resync") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestResyncsOverwriteAnotherLineage(t *testing.T) {
	p := newPair(t, 300, 4)
	other := newWorld(7, 320) // nearly the same image, and larger
	other.uuid = meta.UUID{8}
	other.writeUnseen()
	require.NoError(t, other.backup(t.Context(), p.a1.addr, "v0"))
	other.ship(t, p.a1.addr, "v0", false)
	other.ship(t, p.a1.addr, "v0", false)
	require.NoError(t, p.a1.client().Restore(t.Context(), "v0", 1))
	p.a1.awaitIdle(t, "v0")
	before := p.link.Bytes(simnet.ToServer)
	st := p.resync(t)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Less(t, p.link.Bytes(simnet.ToServer)-before, p.w.size.Bytes(), "only what differs")
	restored, err := p.a1.client().Restored(t.Context(), "v0")
	require.NoError(t, err)
	assert.Empty(t, restored, "restored images of the other lineage")
	f := p.a1.known(t, "v0").facts()
	assert.NotZero(t, f.lastSync)
	// The destination is larger: what is behind is as it was.
	size, err := p.a1.client().VolSize(t.Context(), "v0")
	require.NoError(t, err)
	assert.EqualValues(t, 320, size)
	for gid, img := range p.w.at {
		p.w.at[gid] = append(img, bytes.Clone(baseImage(t, p.a1.s, "v0")[300*block.Size:])...)
	}
	p.isFirst(t)
}

// TestResyncsHealADamagedImage: doResync compares though the lineage is the same.
func TestResyncsHealADamagedImage(t *testing.T) {
	p := newPair(t, 300, 2)
	assert.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	img, err := p.a1.s.cfg.Store.Open("v0")
	require.NoError(t, err)
	_, err = img.WriteAt(bytes.Repeat([]byte{0xbb}, 5000), 77*block.Size)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	st := p.resync(t)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	p.isFirst(t)
	// And again, with nothing to send.
	before := p.link.Bytes(simnet.ToServer)
	assert.Equal(t, wire.ReplDone, p.resync(t).State)
	assert.Less(t, p.link.Bytes(simnet.ToServer)-before, int64(100<<10))
	p.isFirst(t)
}

// TestResyncsCompareTheLatestImage: what the diffs have is not sent again, and
// diffs that cannot be read are done without the next time.
func TestResyncsCompareTheLatestImage(t *testing.T) {
	for _, discard := range []wdiff.DiscardMode{wdiff.DiscardZero, wdiff.DiscardIgnore} {
		p := newPair(t, 2000, 3, func(c *Config) { c.Discard = discard })
		assert.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
		p.a0.rebased(t, "v0", p.w, 3)
		f := p.a0.known(t, "v0")
		require.NoError(t, f.saveArchiveUUID(meta.UUID{7})) // as behind another full backup
		before := p.link.Bytes(simnet.ToServer)
		assert.Equal(t, wire.ReplDone, p.resync(t).State)
		assert.Less(t, p.link.Bytes(simnet.ToServer)-before, int64(10<<10), "it has all of it already")
		p.w.ship(t, p.a0.addr, "v0", false)
		assert.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
		if discard == wdiff.DiscardZero {
			p.isFirst(t)
		}
		assert.True(t, bytes.Equal(p.w.at[3], baseImage(t, p.a1.s, "v0")))
	}

	p := newPair(t, 300, 3)
	other := newWorld(9, 300)
	require.NoError(t, other.backup(t.Context(), p.a1.addr, "v0"))
	d, file := other.next(30, false)
	require.NoError(t, other.send(t.Context(), p.a1.addr, "v0", d, file))
	name := path.Join(memBase, "v0", d.FileName())
	data, err := vfs.ReadFile(p.a1.s.cfg.FS, name, 1<<20)
	require.NoError(t, err)
	data[wdiff.HeaderSize+wdiff.PackHeaderSize+1] ^= 1
	require.NoError(t, vfs.WriteFile(p.a1.s.cfg.FS, name, data))
	assert.Equal(t, wire.ReplFailed, p.resync(t).State)
	assert.Equal(t, "Archived", p.a1.state(t, "v0"))
	st := p.resync(t)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	p.isFirst(t)
}

// TestBrokenResyncsLeaveWhatWas: nothing is lost unless all that differs came.
func TestBrokenResyncsLeaveWhatWas(t *testing.T) {
	p := newPair(t, 300, 3)
	other := newWorld(9, 300)
	require.NoError(t, other.backup(t.Context(), p.a1.addr, "v0"))
	other.ship(t, p.a1.addr, "v0", false)
	for _, bytes := range []int64{300, 5000, 20000} {
		p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: bytes, Cut: simnet.ToServer})
		st := p.resync(t)
		assert.Equal(t, wire.ReplFailed, st.State)
		assert.Equal(t, "Archived", p.a1.state(t, "v0"))
		assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", other))
		noTemps(t, p.a1.s, "v0")
		assert.Empty(t, p.a1.leftovers(t))
	}
	p.link.SetRules()
	assert.Equal(t, wire.ReplDone, p.resync(t).State)
	p.isFirst(t)
}

// TestAResyncGoesOnWithABrokenFullReplication: what is there already is not
// sent again.
func TestAResyncGoesOnWithABrokenFullReplication(t *testing.T) {
	p := newPair(t, 300, 2)
	p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: 40000, Cut: simnet.ToServer})
	assert.Equal(t, wire.ReplFailed, p.replicate(t, p.w.gid).State)
	assert.Equal(t, "SyncReady", p.a1.state(t, "v0"))
	p.link.SetRules()
	st := p.resync(t)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	p.isFirst(t)
}

func TestRefusedResyncs(t *testing.T) {
	p := newPair(t, 300, 2)
	small := newWorld(9, 200)
	require.NoError(t, small.backup(t.Context(), p.a1.addr, "v0"))
	small.ship(t, p.a1.addr, "v0", false)
	st := p.resync(t)
	assert.Equal(t, wire.ReplFailed, st.State)
	assert.Contains(t, st.Error, "verifyVolumeSize:volume size is smaller than the received size:v0:300:200")
	assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", small))
}

// TestPowerLossInAResync: whenever the power goes, the archive starts with all
// of the old lineage or all of the new one.
func TestPowerLossInAResync(t *testing.T) {
	disk := lossless()
	cfg := disk.config()
	a0, a1 := runMem(t), run(t, cfg)
	w, other := newWorld(3, 48), newWorld(4, 48)
	baseOfFirst := bytes.Clone(w.image)
	require.NoError(t, w.backup(t.Context(), a0.addr, "v0"))
	w.ship(t, a0.addr, "v0", false)
	require.NoError(t, a1.client().InitVol(t.Context(), "v0", ""))
	require.NoError(t, other.backup(t.Context(), a1.addr, "v0"))
	other.ship(t, a1.addr, "v0", false)
	other.ship(t, a1.addr, "v0", false)
	require.NoError(t, a1.client().Restore(t.Context(), "v0", 1))
	a1.awaitIdle(t, "v0")
	disk.mu.Lock()
	disk.found = nil
	disk.mu.Unlock()
	require.NoError(t, a0.client().Replicate(t.Context(), "v0", client.Replication{
		Dest: addrOf(t, a1.addr), ByGid: true, Value: uint64(w.gid), Bulk: bulk.Bytes(), Resync: true,
	}))
	a0.awaitIdle(t, "v0")
	a1.awaitIdle(t, "v0")
	disk.acked.Add(1)
	a1.stop()
	states := map[bool]int{}
	disk.each(t, 1, func(t *testing.T, l loss, s *Server) {
		t.Helper()
		f, state := inspect(t, s, "v0")
		require.Equal(t, fsm.ArchiveArchived, state, l.at)
		noTemps(t, s, "v0")
		live := other
		if f.uuid == w.uuid {
			live = w
		}
		states[live == w]++
		if live == w {
			gids, err := s.cfg.Store.Restored("v0")
			require.NoError(t, err)
			assert.Empty(t, gids, l.at)
		} else if gids, err := s.cfg.Store.Restored("v0"); assert.NoError(t, err) && len(gids) > 0 {
			require.NoError(t, s.cfg.Store.DeleteRestored("v0", 1))
		}
		gids := offline(t, s, "v0", live)
		switch {
		case live == other:
			assert.Equal(t, []meta.Gid{1, 2}, gids, l.at)
		case f.diffsLen() > 0:
			assert.Equal(t, []meta.Gid{1}, gids, l.at)
		default:
			assert.True(t, bytes.Equal(baseOfFirst, baseImage(t, s, "v0")), l.at)
		}
		_, err := s.cfg.FS.Open(path.Join(memBase, "v0", fileResync), os.O_RDONLY, 0)
		require.ErrorIs(t, err, fs.ErrNotExist, l.at)
	})
	assert.Positive(t, states[false], "losses before the plan")
	assert.Greater(t, states[true], 10, "losses behind it")
}

// TestAResyncThatCannotBeCarriedOut is completed by the next start, or
// forgotten by whatever fills the volume.
func TestAResyncThatCannotBeCarriedOut(t *testing.T) {
	for _, restart := range []bool{true, false} {
		p := newPair(t, 100, 2)
		other := newWorld(9, 100)
		require.NoError(t, other.backup(t.Context(), p.a1.addr, "v0"))
		v := p.a1.known(t, "v0")
		v.images = brokenSync{v.images}
		st := p.resync(t)
		assert.Equal(t, wire.ReplFailed, st.State)
		assert.Equal(t, "SyncReady", p.a1.state(t, "v0"))
		assert.Len(t, p.a1.leftovers(t), 2)
		if restart {
			s := reload(t, p.a1)
			f, state := inspect(t, s, "v0")
			assert.Equal(t, fsm.ArchiveArchived, state)
			assert.Equal(t, p.w.uuid, f.uuid)
			continue
		}
		v.images = p.a1.s.cfg.Store
		again := newWorld(10, 100)
		require.NoError(t, again.backup(t.Context(), p.a1.addr, "v0"))
		again.ship(t, p.a1.addr, "v0", false)
		assert.Empty(t, p.a1.leftovers(t))
		assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", again))
		assert.Equal(t, []meta.Gid{1}, offline(t, reload(t, p.a1), "v0", again))
	}
}

// TestPowerLossInAHashBackup: before the diff has its name nothing happened;
// then it is there, and a repetition goes on behind it.
func TestPowerLossInAHashBackup(t *testing.T) {
	disk := lossless()
	r := run(t, disk.config())
	w := newWorld(5, 48)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	w.ship(t, r.addr, "v0", false)
	disk.mu.Lock()
	disk.found = nil
	disk.mu.Unlock()
	w.writeUnseen()
	b := &rebirth{world: w, uuid: meta.UUID{7}}
	require.NoError(t, b.hashBackup(t.Context(), r.addr, "v0"))
	disk.acked.Add(1)
	r.stop()
	kept := *w
	disk.each(t, 1, func(t *testing.T, l loss, s *Server) {
		t.Helper()
		f, state := inspect(t, s, "v0")
		require.Equal(t, fsm.ArchiveArchived, state, l.at)
		noTemps(t, s, "v0")
		assert.Equal(t, []meta.Gid{1}, offline(t, s, "v0", w), l.at)
		latest := f.latest().B
		assert.Contains(t, []meta.Snap{meta.CleanSnap(1), {B: 2, E: 3}}, latest, l.at)
		require.NoError(t, s.lock.Close())
		// Repeated.
		again := kept
		again.rnd = rand.New(rand.NewPCG(1, 1))
		again.at = map[meta.Gid][]byte{1: w.at[1]}
		r := run(t, s.cfg)
		require.NoError(t, (&rebirth{world: &again, uuid: meta.UUID{8}}).hashBackup(t.Context(), r.addr, "v0"))
		again.ship(t, r.addr, "v0", false)
		assert.Equal(t, []meta.Gid{1, again.gid}, r.sameAs(t, "v0", &again), l.at)
		r.stop()
		s.lock = nopCloser{}
	})
}

// TestBrokenHashRoundsLeaveNothing: the destination stays where it was.
func TestBrokenHashRoundsLeaveNothing(t *testing.T) {
	p := newPair(t, 300, 2)
	assert.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	for range 3 {
		p.w.ship(t, p.a0.addr, "v0", false)
	}
	p.a0.rebased(t, "v0", p.w, 4)
	for _, n := range []int64{200, 3000} {
		p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: n, Cut: simnet.ToServer})
		assert.Equal(t, wire.ReplFailed, p.replicate(t, p.w.gid).State)
		assert.Equal(t, "Archived", p.a1.state(t, "v0"))
		assert.Equal(t, meta.CleanSnap(2), p.a1.latest(t, "v0"))
		noTemps(t, p.a1.s, "v0")
	}
	p.link.SetRules()
	st := p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)
}

// TestForceStopsEndResyncs at either side, and nothing is lost.
func TestForceStopsEndResyncs(t *testing.T) {
	p := newPair(t, 4000, 2)
	other := newWorld(9, 4000)
	require.NoError(t, other.backup(t.Context(), p.a1.addr, "v0"))
	other.ship(t, p.a1.addr, "v0", false)
	for _, r := range []*rig{p.a0, p.a1} {
		p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, Rate: 50 << 10})
		require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{
			Dest: p.dest(t), ByGid: true, Value: uint64(p.w.gid), Bulk: bulk.Bytes(), Resync: true,
		}))
		p.a1.awaitState(t, "v0", fsm.ArchiveResync)
		r.halt(t, "v0", client.StopForce)
		p.link.SetRules()
		p.a0.awaitIdle(t, "v0")
		p.a1.awaitIdle(t, "v0")
		require.NoError(t, r.client().Start(t.Context(), "v0", client.RoleNone))
		assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", other))
		noTemps(t, p.a1.s, "v0")
	}
}
