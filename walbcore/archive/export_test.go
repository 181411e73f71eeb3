package archive

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/nbd/nbdtest"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// shipped makes an archive on real files on which v0 has had n snapshots since
// its backup.
func shipped(t *testing.T, seed uint64, size block.LB, n int, change ...func(*Config)) (*rig, *world) {
	t.Helper()
	cfg := testConfig(t.TempDir())
	for _, f := range change {
		f(&cfg)
	}
	r, w := run(t, cfg), newWorld(seed, size)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range n {
		w.ship(t, r.addr, "v0", true)
	}
	return r, w
}

func (r *rig) export(t *testing.T, gid meta.Gid, mode wire.ExportMode) wire.Export {
	t.Helper()
	e, err := r.client().Export(t.Context(), "v0", gid, mode)
	require.NoError(t, err)
	return e
}

func nbdDial(t *testing.T, uri string) *nbdtest.Client {
	t.Helper()
	c, err := nbdtest.Dial(t.Context(), uri)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// exported reads all of an export.
func exported(t *testing.T, c *nbdtest.Client) []byte {
	t.Helper()
	p := make([]byte, c.Bytes)
	_, err := c.ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

// TestExportedSnapshotsStay: whatever the archive does meanwhile, each export
// reads as the snapshot, and an apply goes as far as the first export allows.
func TestExportedSnapshotsStay(t *testing.T) {
	r, w := shipped(t, 11, 2048, 6)
	clients := map[meta.Gid]*nbdtest.Client{}
	for _, gid := range []meta.Gid{3, 5, 6} {
		e := r.export(t, gid, wire.ExportReadOnly)
		assert.Equal(t, wire.Export{Volume: "v0", Gid: gid, Mode: "ro", Blocks: 2048, URI: e.URI}, e)
		clients[gid] = nbdDial(t, e.URI)
	}
	same := func() {
		t.Helper()
		for gid, c := range clients {
			require.True(t, bytes.Equal(w.at[gid], exported(t, c)), "snapshot %d", gid)
			holesAreZeros(t, c, w.at[gid])
		}
	}
	same()
	w.ship(t, r.addr, "v0", true)
	same()
	require.NoError(t, r.client().MergeGid(t.Context(), "v0", 3, 6))
	r.awaitIdle(t, "v0")
	same()
	require.NoError(t, r.client().Apply(t.Context(), "v0", 3))
	r.awaitIdle(t, "v0")
	assert.Equal(t, meta.Gid(3), r.known(t, "v0").facts().base.B.B)
	same()

	err := r.client().Apply(t.Context(), "v0", 6)
	require.ErrorContains(t, err, "c2aApplyServer:snapshot 3 of v0 is exported")
	assert.Equal(t, walberr.BadState, walberr.CodeOf(err))
	require.ErrorContains(t, err, "unexport")
	require.NoError(t, r.client().Unexport(t.Context(), "v0", 3, true))
	delete(clients, 3)
	require.NoError(t, r.client().Unexport(t.Context(), "v0", 5, true)) // it was merged away, and stayed readable
	delete(clients, 5)
	require.NoError(t, r.client().Apply(t.Context(), "v0", 6))
	r.awaitIdle(t, "v0")
	same()

	r.halt(t, "v0", client.StopGraceful)
	same()
	for _, refused := range []error{
		r.client().ResetVol(t.Context(), "v0"), r.client().ClearVol(t.Context(), "v0"),
		r.client().SetState(t.Context(), "v0", "SyncReady"),
	} {
		require.ErrorContains(t, refused, "snapshot 6 of v0 is exported")
	}
	same()
	require.NoError(t, r.client().Unexport(t.Context(), "v0", 6, true))
	require.NoError(t, r.client().ClearVol(t.Context(), "v0"))
}

// holesAreZeros demands that block status speaks of everything, and of holes
// only where zeros are.
func holesAreZeros(t *testing.T, c *nbdtest.Client, want []byte) {
	t.Helper()
	for off := int64(0); off < c.Bytes; {
		list, err := c.Extents(off, uint32(c.Bytes-off))
		require.NoError(t, err)
		require.NotEmpty(t, list)
		for _, e := range list {
			require.True(t, !e.Hole || block.IsZero(want[off:off+int64(e.Bytes)]))
			off += int64(e.Bytes)
		}
	}
}

// TestOverlayExport: writes are seen by all clients, and are gone at the end.
func TestOverlayExport(t *testing.T) {
	r, w := shipped(t, 12, 1024, 3)
	e := r.export(t, 2, wire.ExportOverlay)
	one, two := nbdDial(t, e.URI), nbdDial(t, e.URI)
	model, rnd := bytes.Clone(w.at[2]), rand.New(rand.NewPCG(1, 1))
	for i := range 200 {
		from := block.LB(rnd.Uint64N(1024))
		part := model[from.Bytes():][:min(block.LB(rnd.Uint64N(20)), 1024-from).Bytes()]
		if i%3 == 0 {
			clear(part)
			_, err := one.Do(nbdtest.WriteZeroes, 0, from.Bytes(), uint32(len(part)), nil)
			require.NoError(t, err)
			continue
		}
		for j := range part {
			part[j] = byte(rnd.Uint32())
		}
		_, err := one.WriteAt(part, from.Bytes())
		require.NoError(t, err)
	}
	assert.True(t, bytes.Equal(model, exported(t, two)))
	holesAreZeros(t, two, model)
	again := r.export(t, 2, wire.ExportOverlay)
	assert.Equal(t, 2, again.Clients)
	_, err := r.client().Export(t.Context(), "v0", 2, wire.ExportReadOnly)
	assert.Equal(t, walberr.Conflict, walberr.CodeOf(err))
	err = r.client().Unexport(t.Context(), "v0", 2, false)
	require.ErrorContains(t, err, "is already used:v0@2 by 2 clients")
	require.NoError(t, r.client().Unexport(t.Context(), "v0", 2, true))
	_, err = one.ReadAt(make([]byte, 512), 0)
	require.Error(t, err, "disconnected")

	ro := nbdDial(t, r.export(t, 2, wire.ExportReadOnly).URI)
	assert.True(t, bytes.Equal(w.at[2], exported(t, ro)))
	_, err = ro.WriteAt(make([]byte, 512), 0)
	assert.Equal(t, nbdtest.Error(1), err)
	r.sameAs(t, "v0", w)
}

func TestExportsAreListedAndEnd(t *testing.T) {
	r, w := shipped(t, 13, 256, 2, func(c *Config) { c.NBD = "127.0.0.1:0" })
	for _, bad := range []struct {
		vol  string
		gid  meta.Gid
		mode wire.ExportMode
		want string
	}{
		{"v0", 9, "ro", "bad gid to restore:v0:9"},
		{"v1", 1, "ro", "bad state:v1:Clear"},
		{"v0", 1, "rw", `"rw"; expected ro or overlay`},
	} {
		_, err := r.client().Export(t.Context(), bad.vol, bad.gid, bad.mode)
		require.ErrorContains(t, err, bad.want)
	}
	assert.Equal(t, walberr.NotFound, walberr.CodeOf(r.client().Unexport(t.Context(), "v0", 1, true)))
	list, err := r.client().Exports(t.Context(), "")
	require.NoError(t, err)
	assert.Empty(t, list)
	one, two := r.export(t, 1, wire.ExportReadOnly), r.export(t, 2, wire.ExportOverlay)
	for vol, want := range map[string][]wire.Export{"": {one, two}, "v0": {one, two}, "v1": nil} {
		list, err := r.client().Exports(t.Context(), vol)
		require.NoError(t, err)
		assert.Equal(t, want, list)
	}
	assert.Regexp(t, `^nbd://127.0.0.1:\d+/v0@1$`, one.URI)
	c := nbdDial(t, one.URI)
	assert.True(t, bytes.Equal(w.at[1], exported(t, c)))
	r.stop()
	_, err = c.ReadAt(make([]byte, 512), 0)
	assert.Error(t, err)
}

func TestClaims(t *testing.T) {
	var c claims
	release, err := c.hold("h", "v", 5)
	require.NoError(t, err)
	done, err := c.move("m", "v", 5)
	require.NoError(t, err, "up to the snapshot")
	_, err = c.move("m", "v", 6)
	require.ErrorContains(t, err, "m:snapshot 5 of v is exported")
	_, err = c.hold("h", "v", 4)
	require.ErrorContains(t, err, "the base image goes beyond 4")
	again, err := c.hold("h", "v", 5)
	require.NoError(t, err)
	release()
	release()
	_, err = c.move("m", "v", meta.MaxGid)
	require.Error(t, err, "one is left")
	again()
	done()
	done, err = c.move("m", "v", meta.MaxGid)
	require.NoError(t, err)
	_, err = c.hold("h", "v", 5)
	require.Error(t, err)
	done()
	assert.Empty(t, c.held)
	assert.Empty(t, c.moving)
}

// TestExportsWhileAllGoesOn: readers compare with the model while diffs come,
// and are merged and applied.
func TestExportsWhileAllGoesOn(t *testing.T) {
	r, w := shipped(t, 14, 1024, 4)
	var readers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 3 {
		c := nbdDial(t, r.export(t, 4, wire.ExportReadOnly).URI)
		want := w.at[4]
		rnd := rand.New(rand.NewPCG(5, uint64(c.LocalAddr().String()[0])))
		readers.Go(func() {
			for ctx.Err() == nil {
				from := block.LB(rnd.Uint64N(1024))
				p := make([]byte, min(block.LB(1+rnd.Uint64N(64)), 1024-from).Bytes())
				_, err := c.ReadAt(p, from.Bytes())
				if err != nil || !bytes.Equal(want[from.Bytes():][:len(p)], p) {
					t.Errorf("read of %d bytes at block %d: %v", len(p), from, err)
					return
				}
			}
		})
	}
	w.ship(t, r.addr, "v0", true)
	for gid := meta.Gid(1); gid <= 4; gid++ {
		w.ship(t, r.addr, "v0", true)
		require.NoError(t, r.client().Apply(t.Context(), "v0", gid))
		r.awaitIdle(t, "v0")
		require.NoError(t, r.client().MergeSize(t.Context(), "v0", 4, 100))
		r.awaitIdle(t, "v0")
	}
	stop()
	readers.Wait()
}

// TestExportOfALargeVolume: 1 TiB is there at once, and its holes are known.
func TestExportOfALargeVolume(t *testing.T) {
	const size = block.LB(1<<40) / block.Size
	r := run(t, testConfig(t.TempDir()))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	v := r.known(t, "v0")
	img, err := r.s.cfg.Store.Create("v0", size)
	require.NoError(t, err)
	_, err = img.WriteAt(bytes.Repeat([]byte{7}, 512), 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	require.NoError(t, v.saveBase(meta.NewState(meta.CleanSnap(1), 1)))
	require.NoError(t, v.sm.Set("test", fsm.ArchiveArchived))
	began := time.Now()
	c := nbdDial(t, r.export(t, 1, wire.ExportReadOnly).URI)
	p := make([]byte, 4096)
	_, err = c.ReadAt(p, 0)
	require.NoError(t, err)
	t.Logf("the first block came after %v", time.Since(began))
	assert.Equal(t, byte(7), p[511])
	assert.Equal(t, size.Bytes(), c.Bytes)
	list, err := c.Extents(1<<39, 1<<31)
	require.NoError(t, err)
	assert.Equal(t, []nbdtest.Extent{{Bytes: 1 << 31, Hole: true}}, list)
}

// TestExportsLeaveNothing: no socket, no file of an overlay, no open claim.
func TestExportsLeaveNothing(t *testing.T) {
	r, _ := shipped(t, 15, 256, 1)
	c := nbdDial(t, r.export(t, 1, wire.ExportOverlay).URI)
	_, err := c.WriteAt(make([]byte, 4096), 0)
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(r.s.cfg.BaseDir, socketFile))
	require.NoError(t, err)
	r.stop()
	_, err = c.ReadAt(make([]byte, 512), 0)
	require.Error(t, err)
	entries, err := os.ReadDir(r.s.cfg.BaseDir)
	require.NoError(t, err)
	for _, e := range entries {
		assert.Contains(t, []string{"v0", lockFile, "walbsh-store"}, e.Name())
	}
	assert.Empty(t, r.known(t, "v0").claims.held)
}

// TestNoResyncUnderAnExport: another image does not come under an export.
func TestNoResyncUnderAnExport(t *testing.T) {
	p := newPair(t, 300, 2)
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	release, err := p.a1.known(t, "v0").claims.hold("test", "v0", p.w.gid)
	require.NoError(t, err)
	st := p.resync(t)
	assert.Equal(t, wire.ReplFailed, st.State)
	assert.Contains(t, st.Error, "snapshot 2 of v0 is exported")
	release()
	assert.Equal(t, wire.ReplDone, p.resync(t).State)
}
