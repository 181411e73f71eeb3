package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/wire"
)

// pair is two archives with a relay on the way from the first to the second,
// both with a volume v0, and the world that the first one follows.
type pair struct {
	a0, a1 *rig
	link   *simnet.Relay
	w      *world
}

// newPair makes a pair; the first one has a full backup and n diffs.
func newPair(t *testing.T, size block.LB, n int, change ...func(*Config)) *pair {
	t.Helper()
	p := &pair{a0: runMem(t), a1: runMem(t, append(change, named("ar1"))...), w: newWorld(7, size)}
	link, err := simnet.Listen(p.a1.addr)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, link.Close()) })
	p.link = link
	require.NoError(t, p.w.backup(t.Context(), p.a0.addr, "v0"))
	for range n {
		p.w.ship(t, p.a0.addr, "v0", p.w.rnd.IntN(3) > 0)
	}
	return p
}

// dest is the address of the second archive behind the relay.
func (p *pair) dest(t *testing.T) wire.Addr { t.Helper(); return addrOf(t, p.link.Addr()) }

func addrOf(t *testing.T, s string) wire.Addr {
	t.Helper()
	a, err := wire.ParseAddr(s)
	require.NoError(t, err)
	return a
}

// replicate copies up to a gid, waits for the end, and gives the status.
func (p *pair) replicate(t *testing.T, gid meta.Gid) wire.ReplStatus {
	t.Helper()
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{
		Dest: p.dest(t), ByGid: true, Value: uint64(gid), Bulk: bulk.Bytes(),
	}))
	return p.ended(t)
}

// ended waits for the end of a replication, and gives its status.
func (p *pair) ended(t *testing.T) wire.ReplStatus {
	t.Helper()
	p.a0.awaitIdle(t, "v0")
	p.a1.awaitIdle(t, "v0")
	lines, err := p.a0.client().GetStrings(t.Context(), wire.TargetRepl, "v0")
	require.NoError(t, err)
	require.Len(t, lines, 1)
	st, err := wire.ParseReplStatus(lines[0])
	require.NoError(t, err)
	return st
}

func TestReplicationBringsEverySnapshot(t *testing.T) {
	p := newPair(t, 400, 12)
	promised, err := p.a0.client().Restorable(t.Context(), "v0", false)
	require.NoError(t, err)
	st := p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Equal(t, "ar1", st.Dest)
	assert.Equal(t, p.dest(t).String(), st.Addr)
	assert.Eventually(t, func() bool { return uint64(p.link.Bytes(simnet.ToServer)) == st.BytesSent }, patience, 1e6, "as many as the relay saw")
	assert.EqualValues(t, len(promised)+1, st.Rounds, "the full one, and one for each snapshot")
	assert.Equal(t, st.LBTotal, st.LBDone)
	have := p.a1.sameAs(t, "v0", p.w)
	for _, s := range promised {
		assert.Contains(t, have, s.Gid)
	}
	player(t, p.a0).Mask(`gid:\d+`, "gid:5").Play(t, "archive-get-ts-delta")

	// Only what is new comes now.
	before := p.link.Bytes(simnet.ToServer)
	p.w.ship(t, p.a0.addr, "v0", false)
	st = p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.EqualValues(t, 1, st.Rounds)
	assert.Equal(t, "diff", st.Kind)
	assert.Less(t, p.link.Bytes(simnet.ToServer)-before, p.w.size.Bytes()/2)
	assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)

	// And nothing where nothing is new.
	st = p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Zero(t, st.Rounds)
	uuids := [2]meta.UUID{}
	for i, r := range []*rig{p.a0, p.a1} {
		f, state := inspect(t, reload(t, r), "v0")
		assert.Equal(t, fsm.ArchiveArchived, state)
		assert.Equal(t, p.w.uuid, f.uuid)
		uuids[i] = f.archiveUUID
	}
	assert.Equal(t, uuids[0], uuids[1])
}

// TestReplicationUpToASize ends when little enough is missing.
func TestReplicationUpToASize(t *testing.T) {
	p := newPair(t, 64, 2)
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{Dest: p.dest(t), Value: 1}))
	assert.Equal(t, wire.ReplDone, p.ended(t).State)
	assert.Equal(t, meta.Snap{B: 0, E: 1}, p.a1.latest(t, "v0"), "the diffs weigh less than 1 MiB")
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{Dest: p.dest(t), Value: 0, DontMerge: true}))
	assert.EqualValues(t, 2, p.ended(t).Rounds)
	assert.Equal(t, []meta.Gid{1, 2}, p.a1.sameAs(t, "v0", p.w))
}

// markEvery makes checkpoints of full transfers as often as a test needs them.
func markEvery(blocks block.LB) func(*Config) {
	return func(c *Config) { c.SyncInterval = blocks.Bytes() }
}

// cutFull replicates over a line that breaks in the full part, and gives how
// far the destination says that it has come.
func (p *pair) cutFull(t *testing.T, bytes int64) block.LB {
	t.Helper()
	p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: bytes, Cut: simnet.ToServer})
	st := p.replicate(t, p.w.gid)
	p.link.SetRules()
	assert.Equal(t, wire.ReplFailed, st.State)
	assert.NotEmpty(t, st.Error)
	assert.Equal(t, "SyncReady", p.a1.state(t, "v0"))
	f := p.a1.known(t, "v0").facts()
	if f.fullRepl == nil {
		return 0
	}
	return f.fullRepl.Progress
}

func TestBrokenFullReplicationGoesOnAtItsMark(t *testing.T) {
	p := newPair(t, 1024, 2, markEvery(128))
	require.Zero(t, p.cutFull(t, 20<<10), "before the first mark")
	mark := p.cutFull(t, 100<<10)
	require.NotZero(t, mark)
	require.Zero(t, mark%128)

	// The server is started anew, and what lies behind the mark is garbage.
	p.a1.stop()
	p.a1 = run(t, p.a1.s.cfg)
	p.link.SetTarget(p.a1.addr)
	img, err := p.a1.s.cfg.Store.Open("v0")
	require.NoError(t, err)
	_, err = img.WriteAt(bytes.Repeat([]byte{0xee}, int((p.w.size-mark).Bytes())), mark.Bytes())
	require.NoError(t, err)
	require.NoError(t, img.Close())
	status, err := p.a1.client().Status(t.Context(), "v0")
	require.NoError(t, err)
	assert.Contains(t, status[len(status)-1], fmt.Sprintf("fullReplState <|0,1|> %d ", mark))

	st := p.replicate(t, p.w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)

	p.link.SetTarget(runMem(t, named("ar1")).addr)
	whole := p.replicate(t, p.w.gid)
	assert.Less(t, st.BytesSent+50<<10, whole.BytesSent, "only what is behind the mark, and the diffs")
	assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)
	f, _ := inspect(t, reload(t, p.a1), "v0")
	assert.Nil(t, f.fullRepl)
}

// TestMarkOfAnotherLineageIsNoMark: what is left of one source's replication
// is not taken for a part of another's.
func TestMarkOfAnotherLineageIsNoMark(t *testing.T) {
	p := newPair(t, 1024, 1, markEvery(128))
	require.NotZero(t, p.cutFull(t, 100<<10))
	other := runMem(t)
	w := newWorld(8, p.w.size)
	require.NoError(t, w.backup(t.Context(), other.addr, "v0"))
	w.ship(t, other.addr, "v0", false)
	q := &pair{a0: other, a1: p.a1, link: p.link, w: w}
	st := q.replicate(t, w.gid)
	assert.Equal(t, wire.ReplDone, st.State, st.Error)
	assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", w))
}

// TestFullBackupAfterABrokenReplication: the mark is gone with the image.
func TestFullBackupAfterABrokenReplication(t *testing.T) {
	p := newPair(t, 1024, 1, markEvery(128))
	require.NotZero(t, p.cutFull(t, 100<<10))
	w := newWorld(9, 100)
	require.NoError(t, w.backup(t.Context(), p.a1.addr, "v0"))
	w.ship(t, p.a1.addr, "v0", false)
	assert.Equal(t, []meta.Gid{1}, p.a1.sameAs(t, "v0", w))
	f, _ := inspect(t, reload(t, p.a1), "v0")
	assert.Nil(t, f.fullRepl)
}

// TestBrokenDiffRoundIsSentAgain cuts the line at several places in the rounds.
func TestBrokenDiffRoundIsSentAgain(t *testing.T) {
	p := newPair(t, 128, 1)
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
	for range 6 {
		p.w.ship(t, p.a0.addr, "v0", false)
	}
	failed := 0
	for cut := int64(30); ; cut += 2500 {
		p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, CutAfter: cut, Cut: simnet.ToServer, Reset: failed%2 == 0})
		st := p.replicate(t, p.w.gid)
		assert.Equal(t, "Archived", p.a1.state(t, "v0"))
		if st.State == wire.ReplDone {
			break
		}
		failed++
		p.a1.sameAs(t, "v0", p.w)
	}
	assert.Greater(t, failed, 1)
	assert.Len(t, p.a1.sameAs(t, "v0", p.w), 7)
}

// TestReplicationBesideProxies: diffs come to both archives all the while, and
// the volume is receiving one when a round shall begin.
func TestReplicationBesideProxies(t *testing.T) {
	p := newPair(t, 128, 3)
	require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)

	p.w.ship(t, p.a0.addr, "v0", false)
	sm := p.a1.known(t, "v0").sm
	tx, err := sm.Begin("test", fsm.ArchiveArchived, fsm.ArchiveWdiffRecv, fsm.ArchiveArchived)
	require.NoError(t, err)
	require.NoError(t, p.a0.client().Replicate(t.Context(), "v0", client.Replication{Dest: p.dest(t), ByGid: true, Value: uint64(p.w.gid)}))
	p.a1.await(t, "v0", func(v fsm.View[fsm.ArchiveState]) bool { return v.Running[receiving] == 1 })
	assert.Equal(t, fsm.ArchiveWdiffRecv, sm.State())
	tx.Commit()
	require.Equal(t, wire.ReplDone, p.ended(t).State)

	begun := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 20 {
			d, file := p.w.next(4, i%2 == 0)
			for _, addr := range []string{p.a0.addr, p.a1.addr} {
				for {
					err := p.w.send(t.Context(), addr, "v0", d, file)
					refusal, refused := errors.AsType[*wire.Refusal](err)
					if err == nil || refused && refusal.Text == wire.TooOldDiff {
						break
					}
					if !assert.True(t, refused, "%v", err) {
						return
					}
				}
			}
			if i == 0 {
				close(begun)
			}
		}
	}()
	<-begun
	for range 8 {
		st := p.replicate(t, meta.MaxGid)
		assert.Equal(t, wire.ReplDone, st.State, st.Error)
	}
	<-ended
	assert.Equal(t, meta.CleanSnap(p.w.gid), p.a1.latest(t, "v0"))
	p.a0.sameAs(t, "v0", p.w)
	assert.Contains(t, p.a1.sameAs(t, "v0", p.w), p.w.gid)
}

// TestSizesOfDestinations: an empty volume takes any size, whatever image is
// left there; a smaller one with data refuses, or grows if it may.
func TestSizesOfDestinations(t *testing.T) {
	for _, grow := range []bool{false, true} {
		p := newPair(t, 128, 2, func(c *Config) { c.AutoResize = grow })
		leftover, err := p.a1.s.cfg.Store.Create("v0", 4096)
		require.NoError(t, err)
		require.NoError(t, leftover.Close())
		require.Equal(t, wire.ReplDone, p.replicate(t, p.w.gid).State)
		size, err := p.a1.client().VolSize(t.Context(), "v0")
		require.NoError(t, err)
		assert.Equal(t, p.w.size, size)

		require.NoError(t, p.a0.s.cfg.Store.Grow("v0", 160))
		p.w.grow(160)
		p.w.ship(t, p.a0.addr, "v0", false)
		st := p.replicate(t, p.w.gid)
		size, err = p.a1.client().VolSize(t.Context(), "v0")
		require.NoError(t, err)
		if !grow {
			assert.Equal(t, wire.ReplFailed, st.State)
			assert.Contains(t, st.Error, "verifyVolumeSize:volume size is smaller than the received size:v0:160:128")
			assert.EqualValues(t, 128, size)
			continue
		}
		assert.Equal(t, wire.ReplDone, st.State, st.Error)
		assert.EqualValues(t, 160, size)
		got := p.a1.restore(t, "v0", p.w.gid)
		assert.True(t, bytes.Equal(p.w.at[p.w.gid], got))
	}
}

func TestRefusedReplications(t *testing.T) {
	p := newPair(t, 64, 1)
	ctx := t.Context()
	refused := func(words string, dest wire.Addr) {
		t.Helper()
		err := p.a0.client().Replicate(ctx, "v0", client.Replication{Dest: dest, ByGid: true, Value: 1})
		assert.ErrorContains(t, err, words)
	}
	failed := func(words string) {
		t.Helper()
		st := p.replicate(t, p.w.gid)
		assert.Equal(t, wire.ReplFailed, st.State)
		assert.Contains(t, st.Error, words)
		assert.NotZero(t, st.Ended)
	}
	refused("a2aReplSyncServer:there are running action:ReplSyncAsClient:1", addrOf(t, p.a0.addr))

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	notArchive := server.New(l, server.Config{NodeID: "px0", HostType: wire.HostProxy, Log: slog.New(slog.DiscardHandler)})
	serving, shut := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- notArchive.Serve(serving) }()
	refused("run1stNegotiateAsClient:findServerHandler:bad protocol:repl-sync3:ar0", addrOf(t, l.Addr().String()))
	shut()
	require.NoError(t, <-served)

	// At the destination.
	require.NoError(t, p.a1.client().ClearVol(ctx, "v0"))
	refused("runReplSync1stNegotiation:a2aReplSyncServer:bad state:Clear", p.dest(t))
	require.NoError(t, p.a1.client().InitVol(ctx, "v0", ""))
	w := newWorld(3, 64)
	require.NoError(t, w.backup(t.Context(), p.a1.addr, "v0"))
	failed("resync is required but not allowed")
	assert.Equal(t, w.uuid, p.a1.known(t, "v0").facts().uuid, "nothing was touched")
	p.a1.halt(t, "v0", client.StopGraceful)
	refused("runReplSync1stNegotiation:a2aReplSyncServer:bad state:Stopped", p.dest(t))
	require.NoError(t, p.a1.client().ResetVol(ctx, "v0"))
	var releases []func()
	for range server.DefaultMaxForeground {
		release, err := p.a1.s.core.Foreground("test")
		require.NoError(t, err)
		releases = append(releases, release)
	}
	refused("runReplSync1stNegotiation:a2aReplSyncServer:exceeds max foreground tasks:2", p.dest(t))
	for _, release := range releases {
		release()
	}

	// A second one beside the first, to whichever archive.
	p.link.SetRules(simnet.Rule{Protocol: wire.ProtoReplSync, Hang: true})
	require.NoError(t, p.link.Await(ctx, func([]simnet.Record) bool { return true }))
	hung := make(chan error, 1)
	slow := client.Replication{Dest: p.dest(t), ByGid: true, Value: 1}
	go func() { hung <- p.a0.client().Replicate(ctx, "v0", slow) }()
	p.a0.await(t, "v0", func(v fsm.View[fsm.ArchiveState]) bool { return v.Running[fsm.ReplSyncAsClient] == 1 })
	refused("c2aReplicateServer:there are running action:ReplSyncAsClient:1", addrOf(t, p.a1.addr))
	p.link.SetRules()
	require.NoError(t, <-hung)
	assert.Equal(t, wire.ReplDone, p.ended(t).State)

	// Two sources at one destination.
	c := dial(t, p.a1.addr, "ax", wire.ProtoReplSync)
	c.W.StrVec([]string{"v0"})
	require.NoError(t, c.Flush())
	assert.Equal(t, wire.Accept, c.R.Str())
	refused("runReplSync1stNegotiation:a2aReplSyncServer:there are running action:ReplSyncAsServer:1", p.dest(t))
	require.NoError(t, c.Close())
	p.a1.awaitIdle(t, "v0")

	// At the source.
	p.a0.halt(t, "v0", client.StopGraceful)
	refused("c2aReplicateServer:bad state:Stopped", p.dest(t))
}

func TestReplicateWords(t *testing.T) {
	s := &Server{cfg: memConfig(newDisk())}
	s.cfg.setDefaults()
	ok := []string{"v0", "gid", "7", "h:10"}
	req, err := s.parseReplicate(append(ok, "2", "1", "zstd:3:2", "1g", "64k", "more"))
	require.NoError(t, err)
	assert.Equal(t, wire.Addr{Host: "h", Port: 10}, req.addr)
	p := req.params
	assert.True(t, p.ByGid && p.Gid == 7 && p.Resync && p.DontMerge)
	assert.Equal(t, "zstd:3:2", p.DiffCompress.String())
	assert.EqualValues(t, 1<<30, p.MaxMerge)
	assert.EqualValues(t, 128, p.Bulk)
	for _, c := range []struct {
		words []string
		want  string
	}{
		{ok[:3], "missing required params: 3 4"},
		{[]string{"v0", "x", "7", "h:10"}, "parseReplicateParam:specify size or gid:x"},
		{[]string{"v0", "gid", "x", "h:10"}, "atoi::convertToUint:x"},
		{[]string{"v0", "gid", "7", "h"}, "parseAddrPort:parse error:h"},
		{append(ok, "x"), "atoi::convertToUint:x"},
		{append(ok, "0", "0", "snappy:0:1", ""), "Invalid argument."},
		{append(ok, "0", "0", "snappy:0:1", "1y"), "Invalid suffix charactor."}, //nolint:misspell // as the original spells it
		{append(ok, "0", "0", "snappy:0:1", "0"), "HostInfoForRepl::verify:maxWdiffMergeSize must not be 0"},
		{append(ok, "0", "0", "snappy:0:1", "1g", "511"), "HostInfoForRepl::verify:bulkLb must not be 0"},
		{append(ok, "0", "0", "snappy:0:1", "1g", "8m"), "parseHostInfoForRepl:too large size:4194304:16384"},
	} {
		_, err := s.parseReplicate(c.words)
		require.Error(t, err, "%v", c.words)
		assert.Equal(t, c.want, wire.RefusalText(err))
	}
}

// TestRememberedReplications: as many destinations as fit, and no line of
// their making.
func TestRememberedReplications(t *testing.T) {
	v := &volume{}
	for i := range 3 * maxRuns {
		run := newReplRun(fmt.Sprintf("a%d\tstate:done\n\xff", i), replicateRequest{}, time.Now)
		v.remember(run)
		run.ended(transfer.ReplResult{Latest: meta.NewState(meta.CleanSnap(meta.Gid(i)), 1)}, errors.New("a\tb"))
	}
	runs := v.replRuns()
	assert.Len(t, runs, maxRuns)
	for _, r := range runs {
		st, err := wire.ParseReplStatus(r.view().String())
		require.NoError(t, err)
		assert.Equal(t, wire.ReplFailed, st.State)
		assert.Equal(t, r.dest, st.Dest)
	}
	// What was heard of a destination outlives a run that hears nothing.
	again := newReplRun(runs[0].dest, replicateRequest{}, time.Now)
	want, _ := runs[0].lastHeard()
	v.remember(again)
	again.ended(transfer.ReplResult{}, errors.New("unreachable"))
	heard, known := again.lastHeard()
	assert.True(t, known)
	assert.Equal(t, want, heard)
}
