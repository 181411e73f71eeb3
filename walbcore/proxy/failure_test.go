package proxy

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
)

// TestFailuresOfRegistration lets every single operation fail in turn, in every
// step of a volume's life: the client is told, the volume is in a steady
// state, the same command succeeds afterwards, and so does a restart.
func TestFailuresOfRegistration(t *testing.T) {
	steps := []struct {
		name string
		do   func(s *Server) error
		want []string
	}{
		{"add the first", func(s *Server) error { return s.setArchive("v0", "a0", info("127.0.0.1:1"), true) }, []string{"a0"}},
		{"add another", func(s *Server) error { return s.setArchive("v0", "a1", info("127.0.0.1:2"), true) }, []string{"a0", "a1"}},
		{"change", func(s *Server) error { return s.setArchive("v0", "a1", info("127.0.0.1:3"), true) }, []string{"a0", "a1"}},
		{"delete", func(s *Server) error { return s.deleteArchive(s.find("v0"), "a0") }, []string{"a1"}},
		{"delete the last", func(s *Server) error {
			if len(s.find("v0").names()) == 0 && s.find("v0").received == nil {
				return nil // done already
			}
			return s.deleteArchive(s.find("v0"), "a1")
		}, nil},
	}
	for failing := range steps {
		for n := 0; ; n++ {
			var hook vfstest.Hook
			disk := newDisk()
			config := testConfig(nil)
			config.FS = vfstest.Intercept(disk, func(op vfstest.Op, path string) error {
				if hook == nil {
					return nil
				}
				return hook(op, path)
			})
			s, err := open(t, config)
			require.NoError(t, err)
			for _, step := range steps[:failing] {
				require.NoError(t, step.do(s))
			}
			step := steps[failing]
			hook = vfstest.Rules(vfstest.Rule{Skip: n, Fail: 1, Err: syscall.EIO})
			failure := step.do(s)
			hook = nil
			v := s.find("v0")
			require.True(t, v.state.State().Steady())
			require.NoError(t, step.do(s), "%s after operation %d failed", step.name, n)
			require.Equal(t, step.want, v.names(), "%s after operation %d failed", step.name, n)
			closeIdle(s)
			disk.DropLocks()
			again := testConfig(disk)
			again.Stopped = true
			s, err = open(t, again)
			require.NoError(t, err, "%s after operation %d failed", step.name, n)
			require.Equal(t, step.want, s.find("v0").names())
			closeIdle(s)
			if failure == nil {
				require.Positive(t, n)
				break
			}
		}
	}
}

// TestRestOfAnOriginalsAdd is a directory that the original leaves when it dies
// between the archive's file and its directory.
func TestRestOfAnOriginalsAdd(t *testing.T) {
	disk := newDisk()
	s := withArchives(t, disk, "a0")
	closeIdle(s)
	disk.DropLocks()
	require.NoError(t, vfs.WriteFile(disk, filepath.Join(testBase, "v0/a1.archive"), wire.Marshal(info("127.0.0.1:2").Encode)))
	s = reopened(t, disk)
	assert.Equal(t, []string{"a0"}, s.find("v0").names())
	found, err := vfs.Exists(disk, filepath.Join(testBase, "v0/a1.archive"))
	require.NoError(t, err)
	assert.False(t, found)
}

func TestDirectoriesThatAreNoVolumesAreLeftAlone(t *testing.T) {
	disk := newDisk()
	require.NoError(t, disk.Mkdir(testBase, 0o755))
	require.NoError(t, disk.Mkdir(testBase+"/lost+found", 0o700))
	r := start(t, disk, nil)
	names, err := r.client.Volumes(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"lost+found"}, names)
	assert.Empty(t, r.all())
}

// TestOnARealDisk runs once without the disk in memory.
func TestOnARealDisk(t *testing.T) {
	a := newFakeArchive(t)
	config := testConfig(nil)
	config.FS, config.FreeSpace = nil, nil
	config.Base = filepath.Join(t.TempDir(), "proxy")
	config.Server.NodeID = "p0"
	config.Server.Wire = wire.Options{
		Timeout:   10 * time.Second,
		KeepAlive: net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: time.Minute, Count: 3},
	}
	s, err := open(t, config)
	require.NoError(t, err)
	r := serve(t, s, nil)
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "vol", "a0", info(a.addr)))
	require.NoError(t, r.client.Start(t.Context(), "vol", client.RoleNone))
	c2s, s2c := recorded(t, "real-wlog-transfer")
	assert.Equal(t, s2c, r.play(t, c2s))
	a.await(t, 1)
	require.NoError(t, r.client.Stop(t.Context(), "vol", client.StopEmpty))
	r.awaitVolume(t, "vol", fsm.ProxyStopped)
	require.NoError(t, r.client.ClearVol(t.Context(), "vol"))
	names, err := r.client.Volumes(t.Context())
	require.NoError(t, err)
	assert.Empty(t, names)
}
