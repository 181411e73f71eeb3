package proxy

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

// sending starts a proxy whose volume v0 is sent to the archives, named a0, a1
// and so on. Retries wait for an hour: what happens, happens by facts.
func sending(t *testing.T, change func(*Config), archives ...*fakeArchive) *rig {
	t.Helper()
	r := start(t, newDisk(), func(c *Config) {
		c.RetryDelay, c.MaxRetryDelay = time.Hour, time.Hour
		if change != nil {
			change(c)
		}
	})
	for i, a := range archives {
		require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", fmt.Sprintf("a%d", i), info(a.addr)))
	}
	require.NoError(t, r.client.Start(t.Context(), "v0", client.RoleNone))
	return r
}

func TestDiffsAreDeliveredAndForgotten(t *testing.T) {
	a0, a1 := newFakeArchive(t), newFakeArchive(t)
	r := sending(t, nil, a0, a1)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	for _, a := range []*fakeArchive{a0, a1} {
		got := a.await(t, 1)
		assert.Equal(t, []string{"accept |0|-->|1| life 1 x"}, show(got))
		assert.Equal(t, "v0", got[0].req.Volume)
		assert.Equal(t, wire.HostProxy, got[0].req.HostType)
		assert.Equal(t, block.LB(8192), got[0].req.Size)
		assert.NotZero(t, got[0].req.Diff.Size, "a single diff is announced as it is listed")
	}
	r.awaitEmpty(t, "a0")
	r.awaitEmpty(t, "a1")
	require.Eventually(t, func() bool {
		status, err := r.client.Status(t.Context(), "v0")
		require.NoError(t, err)
		return !slices.Contains(status, "  lastWdiffSentTime ---")
	}, 5*time.Second, time.Millisecond)
}

func TestWaitingDiffsAreMergedUpToTheNextLogLife(t *testing.T) {
	a := newFakeArchive(t, wire.SyncingWord)
	r := sending(t, nil, a)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	r.stillTask(t)
	require.NoError(t, r.feed(t, life1, diff(1, 2, 110), 'y'))
	require.NoError(t, r.feed(t, life1, diff(2, 3, 120), 'z'))
	require.NoError(t, r.feed(t, life2, diff(3, 4, 130), 'w'))
	a.script()
	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	got := a.await(t, 3)
	assert.Equal(t, []string{"syncing |0|-->|1| life 1", "accept |0|-->|3| life 1 z", "accept |3|-->|4| life 2 w"}, show(got))
	assert.Equal(t, uint64(120), got[1].req.Diff.Timestamp)
	assert.True(t, got[1].req.Diff.Mergeable)
	assert.Zero(t, got[1].req.Diff.Size)
	r.awaitEmpty(t, "a0")
}

func TestDiffsThatTheArchiveNeverNeedsAreForgotten(t *testing.T) {
	for _, word := range []string{wire.DifferentUUID, wire.TooOldDiff} {
		a := newFakeArchive(t, word, wire.Accept)
		r := sending(t, nil, a)
		require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
		a.await(t, 1)
		require.NoError(t, r.feed(t, life1, diff(1, 2, 110), 'y'))
		assert.Equal(t, []string{word + " |0|-->|1| life 1", "accept |1|-->|2| life 1 y"}, show(a.await(t, 2)))
		r.awaitEmpty(t, "a0")
		r.end()
	}
}

func TestLostAcknowledgementIsSentAgain(t *testing.T) {
	a := newFakeArchive(t, lostAck, wire.TooOldDiff, wire.Accept)
	r := sending(t, nil, a)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	assert.Equal(t, []string{"|0|-->|1| 1 x"}, r.waitingFor(t, "a0"))
	require.NoError(t, r.client.Kick(t.Context(), "v0", "a0"))
	a.await(t, 2)
	r.awaitEmpty(t, "a0")
}

func TestErrorFlag(t *testing.T) {
	a := newFakeArchive(t, wire.SmallerLvSize)
	r := sending(t, nil, a)
	flag := func() bool {
		set, err := r.client.IsWdiffSendError(t.Context(), "v0", "a0")
		require.NoError(t, err)
		return set
	}
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	require.Eventually(t, flag, 5*time.Second, time.Millisecond)
	assert.Empty(t, r.queue.List(), "it is not tried again")

	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	a.await(t, 2)
	require.Eventually(t, flag, 5*time.Second, time.Millisecond)

	a.script()
	require.NoError(t, r.feed(t, life1, diff(1, 2, 110), 'y'))
	assert.Equal(t, "accept |0|-->|2| life 1 y", show(a.await(t, 3))[2])
	r.awaitEmpty(t, "a0")
	assert.False(t, flag())
}

func TestConsequences(t *testing.T) {
	s := withArchives(t, newDisk(), "a0")
	now := uint64(10_000)
	s.config.Server.Now = func() time.Time { return time.Unix(int64(now), 0) }
	v := s.find("v0")
	a := v.archives["a0"]
	delays := func(ends ...outcome) (out []time.Duration) {
		for _, end := range ends {
			delay, retry := s.consequence(v, a, end)
			if !retry {
				delay = -1
			}
			out = append(out, delay)
		}
		return out
	}
	const sec = time.Second
	assert.Equal(t, []time.Duration{1 * sec, 2 * sec, 4 * sec, 8 * sec}, delays(busy, refused, busy, refused))
	assert.Equal(t, []time.Duration{0, 1 * sec}, delays(sent, refused))
	assert.Equal(t, []time.Duration{2 * sec, 1 * sec, 2 * sec}, delays(busy, broken, busy), "no answer is tried again each second")
	assert.Equal(t, []time.Duration{0, 1 * sec}, delays(obsolete, busy))
	a.backoff.delay = 200 * sec
	assert.Equal(t, []time.Duration{300 * sec, 300 * sec}, delays(busy, busy))
	assert.Equal(t, now, a.lastSent)
	assert.Equal(t, []time.Duration{-1}, delays(failed))
	assert.True(t, a.failed)

	a.revive()
	v.lastWlog = now - 1800
	assert.Equal(t, []time.Duration{1 * sec}, delays(refused))
	now++
	assert.Equal(t, []time.Duration{2 * sec, -1}, delays(busy, refused), "given up when no log came for half an hour")
	assert.True(t, a.failed)
	v.lastWlog = 0
	assert.Equal(t, []time.Duration{1 * sec}, delays(refused), "but not after a restart")

	tx, err := v.state.Begin("", fsm.ProxyStarted, fsm.ProxyWaitForEmpty, fsm.ProxyStopped)
	require.NoError(t, err)
	assert.Equal(t, []time.Duration{1 * sec}, delays(failed), "stop empty waits for it")
	tx.Rollback()
}

func TestSendDelayAndWlogDoNotShortenATask(t *testing.T) {
	s := withArchives(t, newDisk(), "a0")
	s.dropTasks(s.find("v0"))
	s.find("v0").archives["a0"].info.SendDelay = 600
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	in := s.queue.List()[0].In
	assert.InDelta(t, 600, in.Seconds(), 5)
	s.find("v0").archives["a0"].info.SendDelay = 0
	require.NoError(t, s.feed(t, life1, diff(1, 2, 110), 'y'))
	assert.InDelta(t, 600, s.queue.List()[0].In.Seconds(), 5)
}

func TestCorruptDiffIsTheArchivesErrorAndBlocksNobodyElse(t *testing.T) {
	a0, a1 := newFakeArchive(t, wire.SyncingWord), newFakeArchive(t, wire.SyncingWord)
	r := sending(t, func(c *Config) { c.SendWorkers = 2 }, a0, a1)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a0.await(t, 1)
	a1.await(t, 1)
	path := filepath.Join(testBase, "v0/sendto/a0", diff(0, 1, 100).FileName())
	require.NoError(t, r.disk.Remove(path)) // its own copy, so that the other name keeps the good one
	f, err := r.disk.Open(path, os.O_RDWR|os.O_CREATE, 0o644)
	require.NoError(t, err)
	_, err = f.Write(make([]byte, 100))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	a0.script()
	a1.script()
	require.NoError(t, r.client.Kick(t.Context(), "", ""))
	a1.await(t, 2)
	r.awaitEmpty(t, "a1")
	require.Eventually(t, func() bool {
		set, err := r.client.IsWdiffSendError(t.Context(), "v0", "a0")
		require.NoError(t, err)
		return set
	}, 5*time.Second, time.Millisecond)
	assert.Len(t, a0.await(t, 1), 1)
}

func TestQueuedAsRecorded(t *testing.T) {
	a := newFakeArchive(t, wire.StoppedWord)
	r := start(t, newDisk(), func(c *Config) { c.RetryDelay, c.MaxRetryDelay = time.Hour, time.Hour })
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", "ar0", info(a.addr)))
	require.NoError(t, r.client.Start(t.Context(), "v0", client.RoleNone))
	require.NoError(t, r.feed(t, life1, diff(1, 2, 100), 'x'))
	a.await(t, 1)
	r.stillTask(t)
	require.NoError(t, r.feed(t, life1, diff(2, 3, 110), 'y'))
	require.NoError(t, r.feed(t, life1, diff(3, 4, 120), 'z'))
	r.stillTask(t)
	p := wiretest.New(t, r.Addr().String()).MaskTimes().
		Mask(`timeDiffMs -?\d+`, "timeDiffMs N").
		Mask(`host 127.0.0.1:\d+`, "host ADDR").
		Mask(`DelaySecForRetry \d+`, "DelaySecForRetry N").
		Mask(`otalSize \d+`, "otalSize N").
		Mask(`Measured \d+`, "Measured N").
		Mask(`(SentTime|maxGid 4) (---|TIME)`, "$1 TIME or never")
	p.Play(t, "proxy-get-latest-snap-queued", "proxy-status-all-queued", "proxy-status-vol-queued")
	diffs, err := r.client.ProxyDiffs(t.Context(), "v0", "ar0")
	require.NoError(t, err)
	require.Len(t, diffs, 3)
	assert.Equal(t, "|3|-->|4|", diffs[2].String())

	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopGraceful))
	r.await(t, "v0", "Stopped")
	p.Play(t, "proxy-status-vol-stopped-queued")
}

// TestRunningAsRecorded is a volume whose only diff was delivered.
func TestRunningAsRecorded(t *testing.T) {
	a := newFakeArchive(t)
	r := start(t, newDisk(), func(c *Config) {
		c.Server.Wire.KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 100 * time.Second, Interval: 7 * time.Second, Count: 3}
	})
	require.NoError(t, r.client.ArchiveInfoAdd(t.Context(), "v0", "ar0", info(a.addr)))
	require.NoError(t, r.client.Start(t.Context(), "v0", client.RoleNone))
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	v := r.find("v0")
	require.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.archives["ar0"].lastSent > 0 && len(r.queue.List()) == 0
	}, 5*time.Second, time.Millisecond)
	wiretest.New(t, r.Addr().String()).MaskTimes().Mask(`host 127.0.0.1:\d+`, "host ADDR").
		Play(t, "proxy-status-all-run", "proxy-status-vol-run")
}

// stillTask waits until the only transfer is queued and not running.
func (r *rig) stillTask(t *testing.T) {
	t.Helper()
	v := r.find("v0")
	require.Eventually(t, func() bool {
		return len(r.queue.List()) == 1 && v.state.View().TotalRunning() == 0
	}, 5*time.Second, time.Millisecond)
}

func TestArchiveThatHangsHoldsUpNobodyElse(t *testing.T) {
	a0, a1 := newFakeArchive(t, hang), newFakeArchive(t)
	r := sending(t, func(c *Config) { c.SendWorkers = 2 }, a0, a1)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a0.await(t, 1)
	a1.await(t, 1)
	r.awaitEmpty(t, "a1")
	begin := time.Now()
	r.end()
	assert.Less(t, time.Since(begin), 5*time.Second, "a shutdown does not wait for it either")
	assert.Equal(t, []string{"|0|-->|1| 1 x"}, r.waitingFor(t, "a0"))

	a0.script()
	r = start(t, r.disk, nil)
	a0.await(t, 2)
	r.awaitEmpty(t, "a0")
}

// TestKickDuringATransferIsNotLost holds a transfer, kicks, and lets the
// transfer be refused: the kick makes the next one, however many workers there are.
func TestKickDuringATransferIsNotLost(t *testing.T) {
	for _, refusal := range []string{wire.SmallerLvSize, wire.SyncingWord} {
		for workers := 1; workers <= 2; workers++ {
			a := newFakeArchive(t, hang, refusal, wire.Accept)
			r := sending(t, func(c *Config) { c.SendWorkers = workers }, a)
			require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
			a.await(t, 1)
			require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
			close(a.release)
			got := show(a.await(t, 3))
			assert.Equal(t, "accept |0|-->|1| life 1 x", got[2])
			r.awaitEmpty(t, "a0")
			r.end()
		}
	}
}

func TestChooseGivesUpOnFilesThatVanish(t *testing.T) {
	s := withArchives(t, newDisk(), "a0")
	require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
	store := s.find("v0").archives["a0"].store
	require.NoError(t, s.fs.Remove(filepath.Join(store.Dir(), diff(0, 1, 100).FileName())))
	_, err := s.choose(store)
	require.ErrorIs(t, err, os.ErrNotExist)
	assert.False(t, walberr.Is(err, walberr.Conflict))
}

// TestTroubleWithOurOwnFiles tells what passes by itself, which is tried again,
// from what an operator has to look at.
func TestTroubleWithOurOwnFiles(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want outcome
	}{
		"too many open files": {syscall.EMFILE, broken},
		"disk error":          {syscall.EIO, broken},
		"file is gone":        {syscall.ENOENT, failed},
	} {
		t.Run(name, func(t *testing.T) {
			hook := vfstest.Hook(func(vfstest.Op, string) error { return nil })
			s := withArchives(t, vfstest.Intercept(newDisk(), func(op vfstest.Op, path string) error { return hook(op, path) }), "a0")
			require.NoError(t, s.feed(t, life1, diff(0, 1, 100), 'x'))
			hook = vfstest.Rules(vfstest.Rule{Op: vfstest.OpOpen, Path: "*.wdiff", Err: c.err})
			d, err := s.beginDelivery(task{"v0", "a0"}, func(error) {})
			require.NoError(t, err)
			end, err := s.deliver(t.Context(), d)
			require.ErrorIs(t, err, c.err)
			assert.Equal(t, c.want, end)
			s.endDelivery(d, end, false)
		})
	}
}
