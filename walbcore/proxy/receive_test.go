package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// Two log lives.
var (
	life1 = meta.UUID{1}
	life2 = meta.UUID{2}
)

func diff(b, e meta.Gid, timestamp uint64) meta.Diff {
	return meta.Diff{B: meta.CleanSnap(b), E: meta.CleanSnap(e), Timestamp: timestamp, Mergeable: true}
}

// feed does what a wlog-transfer does, without a network: the diff holds one
// block, filled with the byte.
func (s *Server) feed(t *testing.T, uuid meta.UUID, d meta.Diff, fill byte) error {
	t.Helper()
	rx := &reception{server: s, cancel: func(error) {}}
	defer rx.end()
	req := &wire.WlogRequest{Volume: "v0", UUID: uuid, PBS: 512, Size: 8192, MaxLogPB: 10}
	if err := rx.Accept(t.Context(), req); err != nil {
		return err
	}
	sink, err := rx.Create(t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = sink.Close() }() // fails only where the test makes it fail
	w, err := wdiff.NewIndexedWriter(sink, "feed", uuid, req.Size, 2048)
	if err != nil {
		return err
	}
	io, err := wdiff.NewIO(7, bytes.Repeat([]byte{fill}, block.Size), nil, compress.Opt{CPUs: 1})
	require.NoError(t, err)
	if err := w.Add(&io); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return sink.Commit(t.Context(), d)
}

// waiting prints the diffs that wait for an archive, and the byte in each file.
func (s *Server) waitingFor(t *testing.T, archive string) []string {
	t.Helper()
	store := s.find("v0").archives[archive].store
	var out []string
	for _, d := range store.All() {
		f, err := store.OpenFile(d)
		require.NoError(t, err)
		w, err := openDiff(f)
		require.NoError(t, err)
		rec, err := w.Records().Next()
		require.NoError(t, err)
		p := make([]byte, block.Size)
		require.NoError(t, wdiff.NewLoader(0).Read(p, rec, 0))
		require.NoError(t, f.Close())
		out = append(out, fmt.Sprintf("%s %d %c", d, w.UUID()[0], p[0]))
	}
	return out
}

// withArchives makes a started volume that is sent to archives which nobody
// answers for. The proxy does not serve: nothing is sent.
func withArchives(t *testing.T, fsys vfs.FS, archives ...string) *Server {
	t.Helper()
	config := testConfig(nil)
	config.FS = fsys
	s, err := open(t, config)
	require.NoError(t, err)
	t.Cleanup(func() { closeIdle(s) })
	for _, a := range archives {
		require.NoError(t, s.setArchive("v0", a, info("127.0.0.1:1"), false))
	}
	v := s.find("v0")
	v.mu.Lock()
	defer v.mu.Unlock()
	require.NoError(t, s.startVolume(v))
	return s
}

// closeIdle ends a proxy that never served.
func closeIdle(s *Server) {
	s.Shutdown()
	_ = s.core.Serve(context.Background()) // it ends at once
}

func TestReceivedDiffIsLinkedToEveryArchive(t *testing.T) {
	disk := newDisk()
	s := withArchives(t, disk, "a0", "a1")
	s.queue.Remove(func(task) bool { return true })
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	assert.Equal(t, []string{"|0|-->|1| 1 x"}, s.waitingFor(t, "a0"))
	assert.Equal(t, []string{"|0|-->|1| 1 x"}, s.waitingFor(t, "a1"))
	names, err := s.readDirIfAny(filepath.Join(testBase, "v0/received"))
	require.NoError(t, err)
	assert.Empty(t, names)
	v := s.find("v0")
	assert.Equal(t, block.LB(8192), v.size)
	assert.Equal(t, "Started", v.state.State().String())
	var tasks []task
	for _, d := range s.queue.List() {
		tasks = append(tasks, d.Key)
	}
	assert.ElementsMatch(t, []task{{"v0", "a0"}, {"v0", "a1"}}, tasks)
	release, err := s.core.Foreground("x")
	require.NoError(t, err)
	release()
}

func TestReceptionIsRefused(t *testing.T) {
	s := withArchives(t, newDisk(), "a0")
	refusal := func() string { return wire.RefusalText(s.feed(t, life1, diff(0, 1, 100), 'x')) }

	free := s.config.FreeSpace
	s.config.FreeSpace = func() (uint64, error) { return 1 << 19, nil }
	assert.Equal(t, "s2pWlogTransferServer:Not enough available disk space:0:1", refusal())
	rx := &reception{server: s}
	err := rx.Accept(t.Context(), &wire.WlogRequest{Volume: "v0", PBS: 4096, MaxLogPB: 1 << 60})
	require.ErrorContains(t, err, "Not enough available disk space", "the product overflows")
	rx.end()
	s.config.FreeSpace = free

	v := s.find("v0")
	stop, ok := v.beginStop(2)
	require.True(t, ok)
	assert.Equal(t, "s2pWlogTransferServer:verifyStopState:v0:2:1", refusal())
	stop.End()
	rx = &reception{server: s}
	require.NoError(t, rx.Accept(t.Context(), &wire.WlogRequest{Volume: "v0"}))
	assert.Equal(t, "s2pWlogTransferServer:bad state:WlogRecv", refusal())
	rx2 := &reception{server: s}
	require.ErrorContains(t, rx2.Accept(t.Context(), &wire.WlogRequest{Volume: "nosuch"}), "bad state:Clear")
	rx2.end()
	release, err := s.core.Foreground("x")
	require.NoError(t, err)
	assert.Equal(t, "s2pWlogTransferServer:exceeds max foreground tasks:2", refusal())
	release()
	rx.end()
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
}

// TestSameGidsOfAnotherLogLife is where the original makes a hole in the chain:
// the diff of the old life waits, and the new life brings the same gids.
func TestSameGidsOfAnotherLogLife(t *testing.T) {
	disk := newDisk()
	s := withArchives(t, disk, "a0", "a1")
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	require.NoError(t, s.feed(t, life2, diff(0, 1, 200), 'y'))
	require.NoError(t, s.feed(t, life2, diff(1, 2, 210), 'z'))
	want := []string{"|0|-->|1| 2 y", "|1|-->|2| 2 z"}
	assert.Equal(t, want, s.waitingFor(t, "a0"))
	assert.Equal(t, want, s.waitingFor(t, "a1"))

	// The same range once more, as after a lost acknowledgement.
	require.NoError(t, s.feed(t, life2, diff(1, 2, 210), 'z'))
	assert.Equal(t, want, s.waitingFor(t, "a0"))
	closeIdle(s)
	disk.DropLocks()
	assert.Equal(t, want, reopened(t, disk).waitingFor(t, "a0"))
}

// reopened starts a successor of a proxy whose process ended.
func reopened(t *testing.T, disk *vfstest.Mem) *Server {
	t.Helper()
	s, err := open(t, testConfig(disk))
	require.NoError(t, err)
	t.Cleanup(func() { closeIdle(s) })
	return s
}

// TestFailedLinkIsMadeUpFor makes the second archive's link fail once: there is
// no acknowledgement, and the next log brings the diff to everyone.
func TestFailedLinkIsMadeUpFor(t *testing.T) {
	var hook vfstest.Hook
	disk := newDisk()
	fsys := vfstest.Intercept(disk, func(op vfstest.Op, path string) error {
		if hook == nil {
			return nil
		}
		return hook(op, path)
	})
	s := withArchives(t, fsys, "a0", "a1")
	hook = vfstest.Rules(vfstest.Rule{Op: vfstest.OpLink, Skip: 1, Fail: 1, Err: syscall.EIO})
	require.ErrorIs(t, s.feed(t, life1, diff(0, 1, 100), 'x'), syscall.EIO)
	assert.Equal(t, "Started", s.find("v0").state.State().String())
	require.NoError(t, s.feed(t, life1, diff(1, 2, 110), 'y'))
	want := []string{"|0|-->|1| 1 x", "|1|-->|2| 1 y"}
	assert.Equal(t, want, s.waitingFor(t, "a0"))
	assert.Equal(t, want, s.waitingFor(t, "a1"))
}

// TestFailuresOfReceptionLeaveNothing lets every single operation fail in turn.
func TestFailuresOfReceptionLeaveNothing(t *testing.T) {
	for n := 0; ; n++ {
		var hook vfstest.Hook
		disk := newDisk()
		fsys := vfstest.Intercept(disk, func(op vfstest.Op, path string) error {
			if hook == nil {
				return nil
			}
			return hook(op, path)
		})
		s := withArchives(t, fsys, "a0", "a1")
		require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
		hook = vfstest.Rules(vfstest.Rule{Skip: n, Fail: 1, Err: syscall.ENOSPC})
		err := s.feed(t, life1, diff(1, 2, 110), 'y')
		hook = nil
		require.Equal(t, "Started", s.find("v0").state.State().String())
		// Whatever happened, the storage sends again what is not acknowledged.
		require.NoError(t, s.feed(t, life1, diff(1, 2, 110), 'y'))
		want := []string{"|0|-->|1| 1 x", "|1|-->|2| 1 y"}
		require.Equal(t, want, s.waitingFor(t, "a0"), "failed operation %d", n)
		require.Equal(t, want, s.waitingFor(t, "a1"), "failed operation %d", n)
		closeIdle(s)
		disk.DropLocks()
		require.Equal(t, want, reopened(t, disk).waitingFor(t, "a1"), "failed operation %d", n)
		if err == nil {
			require.Greater(t, n, 10)
			return
		}
	}
}

// TestPowerLossDuringReception cuts the power before every operation, many
// times: the successor has every acknowledged diff for every archive, nothing
// torn, and goes on.
func TestPowerLossDuringReception(t *testing.T) {
	const seed = 20261125
	for n := 0; ; n++ {
		disk := newDisk()
		var crashed []*vfstest.Mem
		count, cut := 0, -1
		fsys := vfstest.Intercept(disk, func(op vfstest.Op, _ string) error {
			if cut >= 0 && op.Changes() {
				if count == cut {
					for i := range uint64(8) {
						crashed = append(crashed, disk.Crash(rand.New(rand.NewPCG(seed, i))))
					}
				}
				count++
			}
			return nil
		})
		s := withArchives(t, fsys, "a0", "a1")
		require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
		cut = n
		require.NoError(t, s.feed(t, life2, diff(0, 1, 200), 'y'))
		require.NoError(t, s.feed(t, life2, diff(1, 2, 210), 'z'))
		cut = -1
		if count <= n {
			require.Greater(t, n, 30)
			return
		}
		for i, d := range crashed {
			next := reopened(t, d)
			for _, a := range []string{"a0", "a1"} {
				got := next.waitingFor(t, a)
				ok := slices.ContainsFunc([][]string{
					{"|0|-->|1| 1 x"},
					{"|0|-->|1| 2 y"},
					{"|0|-->|1| 2 y", "|1|-->|2| 2 z"},
				}, func(w []string) bool { return slices.Equal(w, got) })
				require.True(t, ok, "cut %d.%d: %s has %v", n, i, a, got)
			}
			require.NoError(t, next.feed(t, life2, diff(0, 1, 200), 'y'))
			require.NoError(t, next.feed(t, life2, diff(1, 2, 210), 'z'))
			require.Equal(t, []string{"|0|-->|1| 2 y", "|1|-->|2| 2 z"}, next.waitingFor(t, "a1"))
		}
		acknowledged := disk.Crash(rand.New(rand.NewPCG(seed, uint64(n))))
		require.Equal(t, []string{"|0|-->|1| 2 y", "|1|-->|2| 2 z"}, reopened(t, acknowledged).waitingFor(t, "a0"))
	}
}

// TestPowerLossDuringRegistration does the same while archives are added,
// changed and deleted.
func TestPowerLossDuringRegistration(t *testing.T) {
	const seed = 20261126
	steps := []func(s *Server) error{
		func(s *Server) error { return s.setArchive("v0", "a0", info("127.0.0.1:1"), false) },
		func(s *Server) error { return s.setArchive("v0", "a1", info("127.0.0.1:2"), false) },
		func(s *Server) error { return s.setArchive("v0", "a1", info("127.0.0.1:3"), true) },
		func(s *Server) error { return s.deleteArchive(s.find("v0"), "a0") },
		func(s *Server) error { return s.deleteArchive(s.find("v0"), "a1") },
	}
	show := func(s *Server) string {
		v := s.find("v0")
		out := v.state.State().String()
		for _, name := range v.names() {
			out += fmt.Sprintf(" %s=%d", name, v.archives[name].info.Addr.Port)
		}
		return out
	}
	states := []string{
		"Clear", "Stopped a0=1", "Stopped a0=1 a1=2", "Stopped a0=1 a1=3", "Stopped a1=3", "Clear",
	}
	for n := 0; ; n++ {
		disk := newDisk()
		var crashed []*vfstest.Mem
		var before []int
		step, count := -1, 0
		fsys := vfstest.Intercept(disk, func(op vfstest.Op, _ string) error {
			if step >= 0 && op.Changes() {
				if count == n {
					for i := range uint64(8) {
						crashed = append(crashed, disk.Crash(rand.New(rand.NewPCG(seed, i))))
						before = append(before, step)
					}
				}
				count++
			}
			return nil
		})
		config := testConfig(nil)
		config.FS = fsys
		s, err := open(t, config)
		require.NoError(t, err)
		for i, do := range steps {
			step = i
			require.NoError(t, do(s))
			require.Equal(t, states[i+1], show(s))
		}
		step = -1
		closeIdle(s)
		if count <= n {
			require.Greater(t, n, 30)
			return
		}
		for i, d := range crashed {
			config := testConfig(d)
			config.Stopped = true
			next, err := open(t, config)
			require.NoError(t, err, "cut %d.%d", n, i)
			got := show(next)
			require.Contains(t, states[before[i]:before[i]+2], got, "cut %d.%d", n, i)
			require.NoError(t, next.setArchive("v0", "a0", info("127.0.0.1:9"), true), "cut %d.%d from %s", n, i, got)
			closeIdle(next)
		}
	}
}

func TestLeftoversAreNotSentAfterAnArchiveIsAddedAgain(t *testing.T) {
	disk := newDisk()
	s := withArchives(t, disk, "a0", "a1")
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	closeIdle(s)
	disk.DropLocks()
	// A crash after the registration was removed, before the queue was.
	require.NoError(t, disk.Remove(filepath.Join(testBase, "v0/a1.archive")))
	config := testConfig(disk)
	config.Stopped = true
	s, err := open(t, config)
	require.NoError(t, err)
	t.Cleanup(func() { closeIdle(s) })
	assert.Equal(t, []string{"a0"}, s.find("v0").names())
	require.NoError(t, s.setArchive("v0", "a1", info("127.0.0.1:1"), false))
	assert.Empty(t, s.waitingFor(t, "a1"))
	assert.Len(t, s.waitingFor(t, "a0"), 1)
}

// TestDiffsWithoutArchivesAreKept is about a directory that lost its
// registrations: nothing is thrown away, and nothing is taken.
func TestDiffsWithoutArchivesAreKept(t *testing.T) {
	disk := newDisk()
	s := withArchives(t, disk, "a0")
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	closeIdle(s)
	disk.DropLocks()
	require.NoError(t, disk.Remove(filepath.Join(testBase, "v0/a0.archive")))
	s = reopened(t, disk)
	v := s.find("v0")
	assert.Equal(t, "Stopped", v.state.State().String())
	v.mu.Lock()
	err := s.startVolume(v)
	v.mu.Unlock()
	assert.True(t, walberr.Is(err, walberr.BadState))
	found, err := vfs.Exists(disk, filepath.Join(testBase, "v0/sendto/a0", diff(0, 1, 100).FileName()))
	require.NoError(t, err)
	assert.True(t, found)
}

func TestBrokenDirectoryKeepsTheServerFromStarting(t *testing.T) {
	for name, spoil := range map[string]func(disk *vfstest.Mem) error{
		"archive file": func(disk *vfstest.Mem) error {
			return vfs.WriteFile(disk, testBase+"/v0/a0.archive", []byte{0x83})
		},
		"size file": func(disk *vfstest.Mem) error { return vfs.WriteFile(disk, testBase+"/v0/size", []byte{0xff}) },
		"two files of one diff": func(disk *vfstest.Mem) error {
			return errors.Join(
				vfs.WriteFile(disk, testBase+"/v0/sendto/a0/"+diff(0, 1, 1).FileName(), nil),
				vfs.WriteFile(disk, testBase+"/v0/sendto/a0/"+diff(0, 1, 2).FileName(), nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newDisk()
			s := withArchives(t, disk, "a0")
			closeIdle(s)
			disk.DropLocks()
			require.NoError(t, spoil(disk))
			_, err := open(t, testConfig(disk))
			require.ErrorContains(t, err, "initializeProxy:start failed:v0:")
			require.ErrorContains(t, err, testBase+"/v0/")
			// The lock is released: once repaired it starts.
			_, err = open(t, testConfig(disk))
			require.ErrorContains(t, err, "initializeProxy:start failed:v0:")
		})
	}
}
