package vm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
)

// TestFailingDisk lets the disk of the images fail, save for its first MiB,
// where LVM keeps its own data.
func TestFailingDisk(t *testing.T) {
	k := kind(t)
	if _, err := os.Stat(device); err != nil {
		t.Skipf("the disk cannot be made to fail: %v", err)
	}
	if k != "thick" {
		t.Skip("a thin pool that failed needs repair by hand")
	}
	r := newRig(t)
	ctx, a0 := t.Context(), r.ops.Client(r.a0)

	// A backup that fails, and the next one.
	r.write(20)
	fail(t, "1 error_writes")
	_, err := r.ops.FullBackup(ctx, r.s0, volume, group.FullBackupOptions{Timeout: limit})
	require.Error(t, err)
	r.logged("dirty-full-sync failed", "lvm lvcreate")
	assert.NotContains(t, logical(t), "wb_"+volume, "nothing is left of it")
	heal(t)
	_, err = r.ops.FullBackup(ctx, r.s0, volume, group.FullBackupOptions{Timeout: limit})
	require.NoError(t, err, "it can be repeated")

	// Writing fails: diffs, whose disk is another, come all the same.
	r.snapshot()
	r.write(20)
	second := r.snapshot()
	fail(t, "1 error_writes")
	_, err = r.ops.Apply(ctx, r.a0, volume, second, limit)
	require.Error(t, err)
	r.logged("apply", "input/output error")
	r.write(20)
	third := r.snapshot()
	_, err = r.ops.Restore(ctx, r.a0, volume, third, limit)
	require.Error(t, err)
	assert.NotContains(t, logical(t), "wr_"+volume, "nothing is left of it")
	heal(t)
	_, err = r.ops.Apply(ctx, r.a0, volume, second, limit)
	require.NoError(t, err)
	scanned(t, a0, second, r.sums[second])
	r.restored(r.a0, third)

	// Reading fails.
	dropCaches(t)
	fail(t, "")
	require.Error(t, a0.VirtualFullScan(ctx, volume, third, discard{}, client.ScanOptions{}))
	r.logged("", "input/output error")
	_, err = r.ops.Restore(ctx, r.a0, volume, third, limit)
	require.Error(t, err)
	r.write(5)
	last := r.snapshot()
	heal(t)
	dropCaches(t)
	r.restored(r.a0, last)
	r.restored(r.a0, third)
	_, err = r.ops.Apply(ctx, r.a0, volume, last, limit)
	require.NoError(t, err)
	sameSum(t, sha256.Sum256(r.model), "/dev/"+vg+"/wb_"+volume)
	noGarbage(t)
}

// discard takes what nobody looks at.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// logged checks that a line of the archive's log says both.
func (r *rig) logged(what, why string) {
	r.t.Helper()
	text, err := os.ReadFile(r.group.LogFile("a0"))
	require.NoError(r.t, err)
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, what) && strings.Contains(line, why) {
			return
		}
	}
	assert.Fail(r.t, "no such line in the log", "%s: %s\n%s", what, why, text)
}

// fail makes the disk fail: all of it behind the first MiB, as the features of
// dm-flakey say.
func fail(t *testing.T, features string) {
	t.Helper()
	const head = 2048
	n := sectors(t)
	load(t, fmt.Sprintf("0 %d linear /dev/vda 0\n%d %d flakey /dev/vda %d 0 3600 %s\n", head, head, n-head, head, features))
}

func heal(t *testing.T) {
	t.Helper()
	load(t, fmt.Sprintf("0 %d linear /dev/vda 0\n", sectors(t)))
}

func sectors(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/sys/block/vda/size")
	require.NoError(t, err)
	_, err = fmt.Sscan(string(text), &n)
	require.NoError(t, err)
	return n
}

// load gives the disk another table.
func load(t *testing.T, table string) {
	t.Helper()
	for _, args := range [][]string{{"suspend", "--noflush", device}, {"load", device}, {"resume", device}} {
		cmd := exec.Command("dmsetup", args...)
		if args[0] == "load" {
			cmd.Stdin = strings.NewReader(table)
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", args, out)
	}
}
