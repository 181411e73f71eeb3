package archive

import (
	"bytes"
	"context"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// TestNamesThatNoVolumeHas come from other servers unchecked: they are those
// of unknown volumes, and never become paths.
func TestNamesThatNoVolumeHas(t *testing.T) {
	r := runMem(t)
	w := newWorld(1, 32)
	d, file := w.next(2, false)
	for _, name := range []string{"unknown", "bad_vol", "..", "../v0", "v0/../v0", "/", strings.Repeat("v", 65), "v0\x00", ""} {
		require.ErrorContains(t, w.backup(t.Context(), r.addr, name), "backupServer:bad state:Clear", name)
		c := dial(t, r.addr, "a0", wire.ProtoReplSync)
		c.W.StrVec([]string{name})
		require.NoError(t, c.Flush())
		assert.Equal(t, "a2aReplSyncServer:bad state:Clear", c.R.Str(), name)
		require.NoError(t, c.Close())
		want := "p2aWdiffTransferServer:bad state:Clear"
		if name == "" {
			want = "ArchiveVolInfo:volId is empty"
		}
		require.ErrorContains(t, w.send(t.Context(), r.addr, name, d, file), want, name)
		if name != "unknown" {
			_, err := r.client().Status(t.Context(), name)
			if name != "" {
				require.ErrorContains(t, err, "bad ", name)
			}
			require.Error(t, r.client().InitVol(t.Context(), name, ""), name)
		}
	}
	require.ErrorContains(t, w.send(t.Context(), r.addr, "v0", d, file), "p2aWdiffTransferServer:bad state:SyncReady")
	entries, err := r.s.cfg.FS.ReadDir("/srv")
	require.NoError(t, err)
	assert.Len(t, entries, 1)
	entries, err = r.s.cfg.FS.ReadDir(memBase)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, []string{"v0", "walbsh-store", "walbsh.lock"}, names)
}

// TestDamagedPeers lets the recorded peers say something else somewhere: the
// archive stays whole, and starts again.
func TestDamagedPeers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, protocol := range []string{wire.ProtoFullSync, wire.ProtoWdiffTransfer, wire.ProtoReplSync} {
		disk := newDisk()
		base := meta.NewState(meta.CleanSnap(0), 1)
		recordedVolume{state: fsm.ArchiveSyncReady}.put(t, disk, "empty")
		recordedVolume{state: fsm.ArchiveArchived, size: 200, base: base}.put(t, disk, "full")
		r := run(t, memConfig(disk))
		for _, rec := range recordings(t, protocol) {
			if len(rec.c2s) > 40<<10 {
				continue
			}
			for _, vol := range []string{"empty", "full"} {
				p := bytes.Replace(rec.c2s, []byte("\x04vol0"), wire.Marshal(func(w *wire.Writer) { w.Str(vol) }), 1)
				p = bytes.Replace(p, []byte("\x02v0"), wire.Marshal(func(w *wire.Writer) { w.Str(vol) }), 1)
				for range 1 + rnd.IntN(3) {
					p[20+rnd.IntN(len(p)-20)] ^= byte(1 + rnd.IntN(255))
				}
				p = p[:len(p)-rnd.IntN(2)*rnd.IntN(len(p)/2)]
				shout(t, r.addr, p)
				r.awaitIdle(t, vol)
			}
		}
		for _, vol := range []string{"empty", "full"} {
			noTemps(t, r.s, vol)
		}
		_, state := inspect(t, reload(t, r), "full")
		assert.Equal(t, fsm.ArchiveArchived, state)
	}
}

// shout sends bytes, closes, and reads what comes until the peer closes.
func shout(t *testing.T, addr string, p []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	if _, err := conn.Write(p); err == nil {
		_ = conn.(*net.TCPConn).CloseWrite()
	}
	_, _ = io.Copy(io.Discard, conn)
}

// TestImpossibleWishes are refused, or fail, and change nothing.
func TestImpossibleWishes(t *testing.T) {
	r := runMem(t)
	backup := func(change func(*wire.FullSyncRequest)) (string, error) {
		c := dial(t, r.addr, "st0", wire.ProtoFullSync)
		defer c.Close()
		req := wire.FullSyncRequest{HostType: wire.HostStorage, Volume: "v0", Size: 32, Timestamp: 1, Bulk: bulk, Compress: snappy}
		change(&req)
		req.Encode(c.W)
		require.NoError(t, c.Flush())
		word := c.R.Str()
		if word != wire.Accept {
			return word, nil
		}
		c.W.UUID(meta.UUID{1})
		require.NoError(t, c.Flush())
		c.R.Ack()
		for at := block.LB(0); at < 32; at += bulk {
			c.W.U64(0)
		}
		require.NoError(t, c.Flush())
		c.R.Ack()
		c.W.Snap(meta.Snap{B: 0, E: 1})
		_ = c.Flush()
		c.R.Ack()
		return word, c.R.Err()
	}
	for want, change := range map[string]func(*wire.FullSyncRequest){
		"backupServer:invalid hostType:proxy":         func(q *wire.FullSyncRequest) { q.HostType = wire.HostProxy },
		"backupServer:bulkLb is zero":                 func(q *wire.FullSyncRequest) { q.Bulk = 0 },
		"backupServer:too large bulkLb:65536:8192":    func(q *wire.FullSyncRequest) { q.Bulk = 65536 },
		"backupServer:bad sizeLb:0":                   func(q *wire.FullSyncRequest) { q.Size = 0 },
		"backupServer:bad sizeLb:9223372036854775808": func(q *wire.FullSyncRequest) { q.Size = 1 << 63 },
	} {
		word, err := backup(change)
		require.NoError(t, err)
		assert.Equal(t, want, word)
	}
	assert.Equal(t, "SyncReady", r.state(t, "v0"))

	// A time that no calendar has.
	_, err := backup(func(q *wire.FullSyncRequest) { q.Timestamp = math.MaxUint64 })
	require.NoError(t, err)
	for _, target := range []string{wire.TargetBase, wire.TargetLatestSnap, wire.TargetBaseAll, wire.TargetRestorable} {
		_, err := r.client().GetStrings(t.Context(), target, "v0")
		if target == wire.TargetBase {
			_, err = r.client().GetString(t.Context(), target, "v0")
		}
		require.NoError(t, err, target)
	}
	f, state := inspect(t, reload(t, r), "v0")
	assert.Equal(t, fsm.ArchiveArchived, state)
	assert.Equal(t, meta.UUID{1}, f.uuid)
}

// TestDirectoriesThatAreNoVolumes: nothing is removed that an interruption
// cannot have left.
func TestDirectoriesThatAreNoVolumes(t *testing.T) {
	base := t.TempDir()
	r := run(t, testConfig(base))
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	r.stop()
	put := func(dir string, files ...string) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Join(base, dir), 0o755))
		for _, f := range files {
			require.NoError(t, os.WriteFile(filepath.Join(base, dir, f), []byte("x"), 0o600))
		}
	}
	put("lost+found", "1234")
	put("old.copy", "state")
	put("remnant", "uuid", "base", "tmp123456")
	put("empty")
	r = run(t, testConfig(base))
	vols, err := r.client().Volumes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"v0"}, vols)
	for dir, there := range map[string]bool{"lost+found/1234": true, "old.copy/state": true, "remnant": false, "empty": false} {
		_, err := os.Stat(filepath.Join(base, dir))
		assert.Equal(t, there, err == nil, dir)
	}
	put("v1", "precious")
	require.ErrorContains(t, r.client().InitVol(t.Context(), "v1", ""), "ArchiveVolInfo::init:already exists:"+filepath.Join(base, "v1"))
	put("v2", "base")
	require.NoError(t, r.client().InitVol(t.Context(), "v2", ""))
	r.stop()

	// The start fails on what it cannot be sure of, and says which it is.
	broken := func(path, content, want string) {
		t.Helper()
		before, err := os.ReadFile(filepath.Join(base, path))
		missing := os.IsNotExist(err)
		require.NoError(t, os.WriteFile(filepath.Join(base, path), []byte(content), 0o600))
		_, err = New(testConfig(base))
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, filepath.Dir(filepath.Join(base, path)))
		if missing {
			require.NoError(t, os.Remove(filepath.Join(base, path)))
			return
		}
		require.NoError(t, os.WriteFile(filepath.Join(base, path), before, 0o600))
	}
	broken("v1/precious", "x", "no file state")
	require.NoError(t, os.RemoveAll(filepath.Join(base, "v1")))
	broken("v0/state", "\x05Clear", "state Clear")
	broken("v0/state", "\x07WdiffRe", "state WdiffRe")
	broken("v0/state", "\x08Archived", "no base image")
	broken("v0/uuid", "short", "load")
	broken("v0/base", "\x13\x03", "load")
	broken("v0/full_repl_state", "x", "load")
	broken("v0/20231114222140---0-.wdiff", "", "scan")
	s, err := New(testConfig(base))
	require.NoError(t, err)
	require.NoError(t, s.lock.Close())

	_, err = New(testConfig(filepath.Join(base, "nowhere")))
	assert.True(t, walberr.Is(err, walberr.NotFound))
	nameless := testConfig(base)
	nameless.NodeID = ""
	_, err = New(nameless)
	assert.True(t, walberr.Is(err, walberr.Usage))
}

// TestManyDiffs restores through more diffs than are opened at a time.
func TestManyDiffs(t *testing.T) {
	disk := newDisk()
	w := newWorld(4, 64)
	v := recordedVolume{state: fsm.ArchiveArchived, size: w.size, base: meta.NewState(meta.CleanSnap(0), 1), uuid: w.uuid}
	v.put(t, disk, "v0")
	img, err := (&memStore{disk}).Open("v0")
	require.NoError(t, err)
	_, err = img.WriteAt(w.image, 0)
	require.NoError(t, err)
	require.NoError(t, img.Close())
	for range 2*restoreRound + 9 {
		d, file := w.next(1, true)
		require.NoError(t, vfs.WriteFile(disk, memBase+"/v0/"+d.FileName(), file))
	}
	r := run(t, memConfig(disk))
	for _, gid := range []meta.Gid{w.gid, w.gid - 1, restoreRound, restoreRound + 1} {
		assert.True(t, bytes.Equal(w.at[gid], r.restore(t, "v0", gid)), "%d", gid)
	}
	// A replication sends them in as few rounds as it may.
	a1 := runMem(t, named("ar1"))
	require.NoError(t, r.client().Replicate(t.Context(), "v0", client.Replication{Dest: addrOf(t, a1.addr), ByGid: true, Value: uint64(w.gid)}))
	r.awaitIdle(t, "v0")
	st := r.known(t, "v0").replRuns()[0].view()
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.EqualValues(t, 2, st.Rounds, "the base and all diffs in one")
	w.at[0] = baseImage(t, r.s, "v0")
	assert.Equal(t, []meta.Gid{0, w.gid}, a1.sameAs(t, "v0", w))
}

// TestManyHandsAtOnce: storages, operators and replications all at once, in no
// order. Whatever comes of it is whole.
func TestManyHandsAtOnce(t *testing.T) {
	a0 := runMem(t, func(c *Config) { c.MaxForeground, c.MaxConn = 8, 32 })
	a1 := runMem(t, named("ar1"), func(c *Config) { c.MaxForeground, c.MaxConn = 8, 32 })
	var mu sync.Mutex
	worlds := map[meta.UUID]*world{}
	done := map[string]*atomic.Int64{}
	for _, what := range []string{"backup", "diff", "reset", "clear", "restore", "replication"} {
		done[what] = new(atomic.Int64)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var hands, background sync.WaitGroup
	over := make(chan struct{})
	storage := func(seed uint64, r *rig, n int) {
		for i := range n {
			w := newWorld(100*seed+uint64(i), 48)
			w.uuid = meta.UUID{byte(seed), byte(i), 9}
			mu.Lock()
			worlds[w.uuid] = w
			mu.Unlock()
			if w.backup(t.Context(), r.addr, "v0") != nil {
				continue
			}
			done["backup"].Add(1)
			for range 4 {
				d, file := w.next(2, w.rnd.IntN(2) == 0)
				if w.send(t.Context(), r.addr, "v0", d, file) != nil {
					break
				}
				done["diff"].Add(1)
			}
		}
	}
	operator := func(seed uint64, r *rig) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		c := r.client()
		for ctx.Err() == nil {
			select {
			case <-over:
				return
			default:
			}
			gid := meta.Gid(1 + rnd.IntN(3))
			switch rnd.IntN(16) {
			case 0:
				_ = c.Stop(ctx, "v0", client.StopForce)
			case 1:
				_ = c.Stop(ctx, "v0", client.StopGraceful)
			case 2:
				_ = c.Start(ctx, "v0", "")
			case 3, 4:
				if c.ResetVol(ctx, "v0") == nil {
					done["reset"].Add(1)
				}
			case 5:
				if c.ClearVol(ctx, "v0") == nil {
					done["clear"].Add(1)
				}
				_ = c.InitVol(ctx, "v0", "")
			case 6, 7, 8:
				if c.Restore(ctx, "v0", gid) == nil {
					done["restore"].Add(1)
				}
			case 9, 10:
				_ = c.DelRestored(ctx, "v0", gid)
			default:
				_, _ = c.Status(ctx, "")
				_, _ = c.TsDeltas(ctx)
				_, _ = c.Restorable(ctx, "v0", true)
			}
		}
	}
	for i, r := range []*rig{a0, a1} {
		background.Go(func() { operator(uint64(i), r) })
		hands.Go(func() { storage(uint64(i), r, 60) })
	}
	hands.Go(func() {
		for range 60 {
			for from, to := range map[*rig]*rig{a0: a1, a1: a0} {
				if from.client().Replicate(ctx, "v0", client.Replication{Dest: addrOf(t, to.addr)}) == nil {
					done["replication"].Add(1)
				}
			}
		}
	})
	hands.Wait()
	close(over)
	background.Wait()
	require.NoError(t, ctx.Err())
	for what, n := range done {
		assert.NotZero(t, n.Load(), what)
	}
	for i, r := range []*rig{a0, a1} {
		r.awaitIdle(t, "v0")
		s := reload(t, r)
		f, state := inspect(t, s, "v0")
		t.Logf("archive %d: %s, %s", i, state, f.latest())
		if state != fsm.ArchiveArchived && state != fsm.ArchiveStopped {
			continue
		}
		gids, err := s.cfg.Store.Restored("v0")
		require.NoError(t, err)
		for _, gid := range gids {
			assert.True(t, bytes.Equal(worlds[f.uuid].at[gid], readImage(t, s, "v0", gid)), "restored %d", gid)
			require.NoError(t, s.cfg.Store.DeleteRestored("v0", gid))
		}
		offline(t, s, "v0", worlds[f.uuid])
	}
}
