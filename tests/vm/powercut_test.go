package vm

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

// TestUntilPowerCut lets a0 receive, restore, apply and merge, tells which
// snapshots it has acknowledged, and ends in a power cut.
func TestUntilPowerCut(t *testing.T) {
	r := newRig(t)
	r.backup()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	acked := make(chan meta.Gid, 100)
	go r.churn(ctx, acked)
	moment := 4 + r.rnd.IntN(4)
	for i := 0; ; i++ {
		r.write(10)
		gid := r.snapshot()
		fmt.Printf("ACKED %d %x\n", gid, r.sums[gid])
		acked <- gid
		if i == moment {
			time.AfterFunc(time.Duration(r.rnd.IntN(1500))*time.Millisecond, func() { fmt.Println("POWER-CUT") })
		}
	}
}

// churn does what changes images and files of a0, one after the other, with
// the newest snapshots, in any order. What is refused or fails tells nothing here.
func (r *rig) churn(ctx context.Context, acked <-chan meta.Gid) {
	var before, gid meta.Gid
	for ctx.Err() == nil {
		before = gid
		for gid == before {
			select {
			case <-ctx.Done():
				return
			case gid = <-acked:
			}
		}
		if before == 0 {
			continue
		}
		for _, what := range rand.Perm(3) {
			switch what {
			case 0:
				_, _ = r.ops.Restore(ctx, r.a0, volume, gid, limit)
			case 1:
				_, _ = r.ops.Merge(ctx, r.a0, volume, before, gid, limit)
			case 2:
				_, _ = r.ops.Apply(ctx, r.a0, volume, before, limit)
			}
		}
	}
}

// TestAfterPowerCut starts a0 again on what a power cut left.
// $WALBSH_VM_ACKED holds what it had acknowledged: GID:SHA256, separated by
// commas.
func TestAfterPowerCut(t *testing.T) {
	k := kind(t)
	known, newest := map[meta.Gid][32]byte{}, meta.Gid(0)
	for pair := range strings.SplitSeq(os.Getenv("WALBSH_VM_ACKED"), ",") {
		text, sum, _ := strings.Cut(pair, ":")
		gid, err := meta.ParseGid(text)
		require.NoError(t, err)
		raw, err := hex.DecodeString(sum)
		require.NoError(t, err)
		known[gid], newest = [32]byte(raw), max(newest, gid)
	}
	before := logical(t)
	t.Log("found " + before)
	cmd := serve(t, archiveDir, append([]string{"-discard", "zero"}, storeArgs(k)...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Log(log.String())
		}
	}()
	ctx := t.Context()
	a0 := client.New("127.0.0.1:10200", client.Options{ID: "test", Timeout: limit})
	require.Eventually(t, func() bool { _, err := a0.HostType(ctx); return err == nil }, limit, 20*time.Millisecond, "it starts")
	noGarbage(t)

	state, err := a0.State(ctx, volume)
	require.NoError(t, err)
	require.Equal(t, "Archived", state)
	list, err := a0.Restorable(ctx, volume, true)
	require.NoError(t, err)
	var compared []string
	for _, s := range list {
		if sum, ok := known[s.Gid]; ok {
			scanned(t, a0, s.Gid, sum)
			compared = append(compared, strconv.FormatUint(uint64(s.Gid), 10))
		}
	}
	t.Logf("compared %s of %d", strings.Join(compared, " "), len(known))
	assert.Contains(t, compared, newest.String(), "the newest acknowledged snapshot")

	restored, err := a0.Restored(ctx, volume)
	require.NoError(t, err)
	for _, gid := range restored {
		sameSum(t, known[gid], restoredPath(gid))
		require.NoError(t, a0.DelRestored(ctx, volume, gid))
	}
	ops, err := group.New(group.Layout{Archives: []group.Server{{Kind: group.Archive, Name: "a0", Host: "127.0.0.1", Port: 10200}}}, group.Options{})
	require.NoError(t, err)
	defer func() { assert.NoError(t, ops.Close(context.WithoutCancel(ctx))) }()
	ax := ops.Layout().Archives[0]
	_, err = ops.Restore(ctx, ax, volume, newest, limit)
	require.NoError(t, err)
	sameSum(t, known[newest], restoredPath(newest))
	require.NoError(t, a0.DelRestored(ctx, volume, newest))
	_, err = ops.Apply(ctx, ax, volume, newest, limit)
	require.NoError(t, err)
	sameSum(t, known[newest], "/dev/"+vg+"/wb_"+volume)
	noGarbage(t)

	require.NoError(t, a0.Shutdown(ctx, false))
	ended = true
	require.NoError(t, cmd.Wait(), log.String())
}
