package proxy

import (
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/vfs/vfstest"
)

// TestEndDuringRemovalOfAVolumeWithDiffs ends the process, or cuts the power,
// before every operation of clear-vol and of deleting the last archive, while
// diffs wait: the successor starts, and the volume can be set up anew.
func TestEndDuringRemovalOfAVolumeWithDiffs(t *testing.T) {
	const seed = 20261127
	stopped := func(disk *vfstest.Mem, hook vfstest.Hook) (*Server, error) {
		disk.DropLocks()
		config := testConfig(nil)
		config.FS = vfstest.Intercept(disk, hook)
		config.Stopped = true
		return open(t, config)
	}
	working := func(vfstest.Op, string) error { return nil }
	for name, remove := range map[string]func(s *Server) error{
		"clear-vol": func(s *Server) error { return s.forget(s.find("v0")) },
		"delete":    func(s *Server) error { return s.deleteArchive(s.find("v0"), "a0") },
	} {
		t.Run(name, func(t *testing.T) {
			for n := 0; ; n++ {
				disk := newDisk()
				s := withArchives(t, disk, "a0")
				require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
				require.NoError(t, s.feed(t, life1, diff(1, 2, 110), 'y'))
				closeIdle(s)

				hook := working
				s, err := stopped(disk, func(op vfstest.Op, path string) error { return hook(op, path) })
				require.NoError(t, err)
				hook = vfstest.Rules(vfstest.Rule{Skip: n, Err: syscall.EIO})
				failure := remove(s)
				closeIdle(s)
				disks := []*vfstest.Mem{disk}
				for i := range uint64(8) {
					disks = append(disks, disk.Crash(rand.New(rand.NewPCG(seed, i))))
				}
				for i, d := range disks {
					next, err := stopped(d, working)
					require.NoError(t, err, "end %d.%d", n, i)
					require.NoError(t, next.setArchive("v0", "a1", info("127.0.0.1:1"), true), "end %d.%d", n, i)
					closeIdle(next)
				}
				if failure == nil {
					require.Greater(t, n, 10)
					return
				}
			}
		})
	}
}
