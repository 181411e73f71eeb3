package wdev

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
)

// childDir names the environment variable that makes the test binary a process
// to be killed; its value is the directory of the device.
const childDir = "WDEV_TEST_CHILD"

const (
	childBlocks = 8   // of a write [LB]
	childSlots  = 100 // places that are written in turn
)

// childWrite is what write number n puts at its place.
func childWrite(n uint64) (p []byte, off int64) {
	p = make([]byte, childBlocks*block.Size)
	rnd := rand.New(rand.NewPCG(n, 0))
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rnd.Uint64())
	}
	return p, int64(n%childSlots) * int64(len(p))
}

// childMain writes without end from where the last child was, and prints the
// number of every write that was acknowledged.
func childMain(dir string) int {
	d, err := Open(context.Background(), "", filepath.Join(dir, "log"), filepath.Join(dir, "data"), Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var n uint64
	if _, err := fmt.Sscan(os.Getenv(childDir+"_FROM"), &n); err != nil {
		fmt.Println(err)
		return 1
	}
	for ; ; n++ {
		p, off := childWrite(n)
		if err := d.WriteAt(context.Background(), p, off); err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(n)
	}
}

// TestKill kills the owner of a device with SIGKILL, several times: every
// write that it saw acknowledged is there, and of the others only the next.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	logPath, dataPath := filepath.Join(dir, "log"), filepath.Join(dir, "data")
	require.NoError(t, Format(t.Context(), logPath, dataPath, Spec{Name: "w0", Size: childBlocks * childSlots, LogSize: 1 << 20}))
	want := make([]byte, childBlocks*childSlots*block.Size)
	next := uint64(0)
	for _, count := range []int{1, 130, 700} {
		next += killed(t, dir, next, count, want)
		d, err := Open(t.Context(), "", logPath, dataPath, Options{})
		require.NoError(t, err)
		got := read(t, d, 0, childBlocks*childSlots)
		p, off := childWrite(next) // may have been logged, but not seen
		if !bytes.Equal(want, got) {
			copy(want[off:], p)
			next++
		}
		assert.True(t, bytes.Equal(want, got), "after %d writes", next)
		require.NoError(t, d.Close())
	}
}

// killed runs a child until it printed at least count acknowledged writes,
// kills it, applies all that it printed to want, and returns their number.
func killed(t *testing.T, dir string, from uint64, count int, want []byte) uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s_FROM=%d", childDir, from))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	done := uint64(0)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		require.Equal(t, fmt.Sprint(from+done), lines.Text())
		p, off := childWrite(from + done)
		copy(want[off:], p)
		done++
		if done == uint64(count) {
			require.NoError(t, cmd.Process.Kill()) // what is in the pipe is still read
		}
	}
	assert.ErrorContains(t, cmd.Wait(), "killed")
	return done
}
