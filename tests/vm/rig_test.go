package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

const (
	volume     = daemons.Volume
	volumeSize = 8 << 20            // bytes; whole extents
	limit      = 100 * time.Second  // of one operation, under emulation
	groupDir   = "/disk/group"      // on a file system that survives a power cut
	archiveDir = groupDir + "/a0"   // what a0 knows, beside its images
	vg         = "vg0"              // made by the script in the machine
	walbshPath = "/bin/walbsh"      // put there by the script
	device     = "/dev/mapper/disk" // of the volume group, where disks fail
)

// kind is what a0 keeps its images in: thick or thin.
func kind(t *testing.T) string {
	t.Helper()
	k := os.Getenv("WALBSH_VM")
	if k == "" {
		t.Skip("not in the virtual machine: see tests/vm/run")
	}
	return k
}

// storeArgs are the options of an archive on LVM.
func storeArgs(kind string) []string {
	if kind == "thin" {
		return []string{"-vg", vg, "-tp", "tp"}
	}
	return []string{"-vg", vg}
}

// rig is a group whose a0 is on LVM, with a volume of which the content is
// known.
type rig struct {
	t     *testing.T
	kind  string
	group *daemons.Group
	ops   *group.Group
	disk  *client.Volume
	rnd   *rand.Rand
	model []byte                // what the volume holds
	sums  map[meta.Gid][32]byte // of snapshots

	s0, a0, a1 group.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, kind: kind(t), rnd: rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(time.Now().UnixNano()))), model: make([]byte, volumeSize), sums: map[meta.Gid][32]byte{}}
	require.NoError(t, os.RemoveAll(groupDir))
	soon := []string{"-delay", "1", "-maxdelay", "1"}
	var err error
	r.group, err = daemons.New(t.Context(), daemons.Options{
		Walbsh: walbshPath, Dir: groupDir, Size: volumeSize, LogSize: volumeSize,
		Args: map[string][]string{"s0": soon, "p0": soon, "a0": storeArgs(r.kind)},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, r.group.Close())
		if t.Failed() {
			t.Log(r.group.LogTails(20))
		}
	})
	require.NoError(t, r.group.StartAll(t.Context()))
	l := r.group.Layout()
	r.s0, r.a0, r.a1 = l.Storages[0], l.Archives[0], l.Archives[1]
	r.ops, err = group.New(l, group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.ops.Close(context.WithoutCancel(t.Context()))) })
	require.NoError(t, r.ops.InitStorage(t.Context(), r.s0, volume, daemons.Device))
	r.disk, err = r.ops.Client(r.s0).OpenVolume(t.Context(), volume)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.disk.Close() })
	return r
}

// backup makes the first full backup of a volume that is written in parts.
func (r *rig) backup() {
	r.t.Helper()
	r.write(20)
	_, err := r.ops.FullBackup(r.t.Context(), r.s0, volume, group.FullBackupOptions{Timeout: limit})
	require.NoError(r.t, err)
}

// write writes and discards at n random places.
func (r *rig) write(n int) {
	r.t.Helper()
	for range n {
		size := 512 * int64(1+r.rnd.IntN(64))
		off := 512 * r.rnd.Int64N((volumeSize-size)/512+1)
		part := r.model[off : off+size]
		if r.rnd.IntN(8) == 0 {
			clear(part)
			require.NoError(r.t, r.disk.Discard(off, size))
			continue
		}
		for i := range part {
			part[i] = byte(r.rnd.Uint32())
		}
		_, err := r.disk.WriteAt(part, off)
		require.NoError(r.t, err)
	}
}

// snapshot takes a snapshot and waits until a0 has it.
func (r *rig) snapshot() meta.Gid {
	r.t.Helper()
	gid, err := r.ops.Client(r.s0).Snapshot(r.t.Context(), volume)
	require.NoError(r.t, err)
	require.NoError(r.t, r.ops.WaitForRestorable(r.t.Context(), r.a0, volume, gid, limit))
	r.sums[gid] = sha256.Sum256(r.model)
	return gid
}

// restored checks a restored image of an archive against the snapshot.
func (r *rig) restored(ax group.Server, gid meta.Gid) {
	r.t.Helper()
	res, err := r.ops.Restore(r.t.Context(), ax, volume, gid, limit)
	require.NoError(r.t, err)
	if ax.Name == r.a0.Name {
		assert.Equal(r.t, restoredPath(gid), res.Path)
	}
	sameSum(r.t, r.sums[gid], res.Path)
	require.NoError(r.t, r.ops.DelRestored(r.t.Context(), ax, volume, gid))
}

// restoredPath is the device of a restored image of a0.
func restoredPath(gid meta.Gid) string { return fmt.Sprintf("/dev/%s/wr_%s_%d", vg, volume, gid) }

// sameSum checks what a device or file holds, from the disk.
func sameSum(t *testing.T, want [32]byte, path string) {
	t.Helper()
	dropCaches(t)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.CopyN(h, f, volumeSize)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%x", want), fmt.Sprintf("%x", h.Sum(nil)), path)
}

func dropCaches(t *testing.T) {
	t.Helper()
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o644))
}

// scanned checks a snapshot as the archive itself reads it.
func scanned(t *testing.T, c *client.Client, gid meta.Gid, want [32]byte) {
	t.Helper()
	h := sha256.New()
	var b bytes.Buffer
	require.NoError(t, c.VirtualFullScan(t.Context(), volume, gid, &b, client.ScanOptions{}))
	h.Write(b.Bytes()[:volumeSize])
	assert.Equal(t, fmt.Sprintf("%x", want), fmt.Sprintf("%x", h.Sum(nil)), "snapshot %d", gid)
}

// logical lists the logical volumes of the group.
func logical(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("lvm", "lvs", "--noheadings", "-o", "lv_name", vg).Output()
	require.NoError(t, err)
	return strings.Join(strings.Fields(string(out)), " ")
}

// noGarbage checks that nothing unfinished is left, neither as a logical volume
// nor as a file.
func noGarbage(t *testing.T) {
	t.Helper()
	assert.NotContains(t, logical(t), "_tmp")
	files, err := filepath.Glob(archiveDir + "/*/tmp*")
	require.NoError(t, err)
	assert.Empty(t, files)
}
