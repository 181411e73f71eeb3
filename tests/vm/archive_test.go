package vm

import (
	"crypto/sha256"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/group"
	"walbsh/walbcore/image"
)

// TestArchive is a session on an archive whose images are in LVM: back up,
// restore, replicate, merge, apply, grow, restart and clear.
func TestArchive(t *testing.T) {
	r := newRig(t)
	ctx, a0 := t.Context(), r.ops.Client(r.a0)
	r.backup()

	name, err := a0.VolumeGroup(ctx)
	require.NoError(t, err)
	assert.Equal(t, vg, name)
	pool, err := a0.GetString(ctx, "thinpool")
	require.NoError(t, err)
	status, err := a0.Status(ctx, "")
	require.NoError(t, err)
	assert.Contains(t, status, "volumeGroup "+vg)
	assert.Equal(t, r.kind == "thin", pool == "tp")
	assert.Equal(t, r.kind == "thin", strings.Contains(strings.Join(status, "\n"), "\nthinpool tp\n"))
	line, err := os.ReadFile(archiveDir + "/walbsh-store")
	require.NoError(t, err)
	assert.Equal(t, string(image.KindLVM)+"\n", string(line))

	first := r.snapshot()
	r.write(20)
	second := r.snapshot()
	r.write(20)
	third := r.snapshot()
	r.restored(r.a0, second)
	r.restored(r.a0, third)
	scanned(t, a0, first, r.sums[first])

	_, err = r.ops.ReplicateOnce(ctx, r.a0, volume, r.a1, group.ReplicateOptions{Timeout: limit})
	require.NoError(t, err)
	r.restored(r.a1, third)

	// A restored image stays as it is while the base image goes on.
	_, err = r.ops.Restore(ctx, r.a0, volume, first, limit)
	require.NoError(t, err)
	_, err = r.ops.Apply(ctx, r.a0, volume, second, limit)
	require.NoError(t, err)
	scanned(t, a0, second, r.sums[second])
	scanned(t, a0, third, r.sums[third])
	sameSum(t, r.sums[first], restoredPath(first))

	require.NoError(t, r.group.End("a0"))
	require.NoError(t, r.group.Start(ctx, "a0"))
	sameSum(t, r.sums[first], restoredPath(first))
	require.NoError(t, r.ops.DelRestored(ctx, r.a0, volume, first))
	r.write(10)
	last := r.snapshot()
	_, err = r.ops.Apply(ctx, r.a0, volume, last, limit)
	require.NoError(t, err)
	r.restored(r.a0, last)

	size := block.FromBytes(volumeSize + 1<<20)
	require.NoError(t, r.ops.ResizeArchive(ctx, r.a0, volume, size, false))
	have, err := a0.VolSize(ctx, volume)
	require.NoError(t, err)
	assert.Equal(t, size, have)
	sameSum(t, sha256.Sum256(r.model), "/dev/"+vg+"/wb_"+volume)
	noGarbage(t)

	require.NoError(t, r.ops.Clear(ctx, r.a0, volume))
	assert.NotContains(t, logical(t), "_"+volume, "all images are gone")
}

// TestStartsThatAreRefused starts archives on groups and pools that are not
// there, and with another store than before.
func TestStartsThatAreRefused(t *testing.T) {
	k := kind(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-vg", "nosuch"}, `no volume group "nosuch"`},
		{[]string{"-vg", vg, "-tp", "nosuch"}, `no thin pool "nosuch" in volume group "vg0"`},
		{[]string{"-store", "lvm"}, `no volume group "vg"`},
		{[]string{"-vg", "--all"}, "bad value"},
	} {
		out, err := serve(t, t.TempDir(), c.args...).CombinedOutput()
		require.Error(t, err)
		assert.Contains(t, string(out), c.want)
	}
	base := t.TempDir()
	require.NoError(t, os.WriteFile(base+"/walbsh-store", []byte("files\n"), 0o600))
	out, err := serve(t, base, storeArgs(k)...).CombinedOutput()
	require.Error(t, err)
	assert.Contains(t, string(out), "images of kind files")
}

// serve is the command of an archive on its own.
func serve(t *testing.T, base string, args ...string) *exec.Cmd {
	t.Helper()
	args = append([]string{"serve", "archive", "-bind", "127.0.0.1", "-p", "10200", "-id", "a0", "-b", base}, args...)
	return exec.CommandContext(t.Context(), walbshPath, args...)
}
