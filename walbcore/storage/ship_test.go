package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// group is a storage with an archive and proxies that play along.
type group struct {
	*rig
	archive *fakeArchive
	proxies []*fakeProxy
}

// newGroup makes a group whose storage does not run yet.
func newGroup(t *testing.T, proxies int) *group {
	t.Helper()
	g := &group{rig: newRig(t), archive: newArchive(t)}
	g.rig.archive, g.rig.proxies = g.archive.addr, nil
	for range proxies {
		p := newProxy(t)
		g.proxies = append(g.proxies, p)
		g.rig.proxies = append(g.rig.proxies, p.addr)
	}
	return g
}

// started starts the storage and backs volume v0 up.
func (g *group) started(t *testing.T) *group {
	t.Helper()
	g.start(t)
	g.backUp(t)
	return g
}

// backUp brings volume v0 to Target, and waits for the first, empty diff.
func (g *group) backUp(t *testing.T) {
	t.Helper()
	g.rig.backUp(t)
	g.awaitFact(t, "the first diff", func() bool { return g.done(t).Gid == 1 })
	g.awaitShipped(t)
}

// write writes n bytes of noise at off.
func (r *rig) write(t *testing.T, off, n int64) {
	t.Helper()
	require.NoError(t, r.dev.WriteAt(t.Context(), noise(n), off))
}

// noise gives bytes that do not come twice.
func noise(n int64) []byte {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], rand.Uint64())
	p := make([]byte, n)
	_, _ = rand.NewChaCha8(seed).Read(p) // never fails
	return p
}

// verify demands that the latest backup with the diffs at all proxies is what
// the device holds now.
func (g *group) verify(t *testing.T) {
	t.Helper()
	g.archive.mu.Lock()
	b := g.archive.backups[len(g.archive.backups)-1]
	g.archive.mu.Unlock()
	img := b.clone()
	var diffs []takenDiff
	for _, p := range g.proxies {
		diffs = append(diffs, p.diffs()...)
	}
	img.apply(t, b.uuid, 0, g.done(t).Gid, diffs)
	assert.True(t, bytes.Equal(g.content(t), img.data), "backup and diffs give the device's content")
}

func TestAnIsolatedWriteIsShippedByItself(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.options.FlushInterval = 0 // as in real life
	g.started(t)
	g.write(t, 4096, 8192)
	g.proxies[0].awaitTaken(t, 2)
	g.awaitShipped(t)
	g.verify(t)
	assert.Empty(t, g.server.tasks.List(), "nothing is left to do")
	assert.Zero(t, g.log.count("WARN"), "%s", &g.log)
}

func TestFallOverInTheOrderOfTheList(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 3)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	g.rig.proxies[0], err = wire.ParseAddr(dead.Addr().String())
	require.NoError(t, err)
	g.proxies[1].refuse(true)
	g.started(t)
	for i := range 3 {
		g.write(t, int64(i)<<16, 512)
		require.NoError(t, g.dev.Flush(t.Context()))
		g.awaitShipped(t)
	}
	assert.Empty(t, g.proxies[0].diffs())
	assert.Empty(t, g.proxies[1].diffs())
	assert.GreaterOrEqual(t, len(g.proxies[2].diffs()), 4)
	g.proxies[1].await(t, "an offer", func() bool { return len(g.proxies[1].offers) == len(g.proxies[2].offers) })
	assert.Zero(t, g.log.count("WARN"), "somebody took it: %s", &g.log)
	g.verify(t)
}

func TestRefusalByAllBacksOff(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 2)
	g.change = func(c *Config) { c.Delay, c.MaxDelay = 20*time.Millisecond, 80*time.Millisecond }
	g.started(t)
	for range 2 {
		g.proxies[0].refuse(true)
		g.proxies[1].refuse(true)
		before := g.log.count("next try in")
		g.write(t, 0, 512)
		g.awaitFact(t, "four failures", func() bool { return g.log.count("next try in") >= before+4 })
		tries := strings.Split(g.log.String(), "next try in ")[before+1:]
		for i, want := range []string{"20ms", "40ms", "80ms", "80ms"} {
			assert.True(t, strings.HasPrefix(tries[i], want), "try %d: %s", i, tries[i])
		}
		assert.Contains(t, tries[0], "There is no available proxy")
		assert.Contains(t, tries[0], "bad state:Stopped")
		g.proxies[1].refuse(false)
		g.awaitShipped(t)
		g.await(t, fsm.StorageTarget)
	}
	g.verify(t)
}

func TestAKickShortensABackoffAndWritesDoNot(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.change = func(c *Config) { c.Delay = time.Hour }
	g.started(t)
	assert.Equal(t, time.Hour, g.server.cfg.MaxDelay, "the limit is not below the first delay")
	g.proxies[0].refuse(true)
	g.write(t, 0, 512)
	g.awaitFact(t, "a failure", func() bool { return g.log.count("next try in") == 1 })
	g.write(t, 512, 512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.server.wake(g.volume(t))
	tasks := g.server.tasks.List()
	require.Len(t, tasks, 1)
	assert.Greater(t, tasks[0].In, 50*time.Minute)

	g.proxies[0].refuse(false)
	require.NoError(t, g.client().Kick(t.Context(), "", ""))
	g.awaitShipped(t)
	g.verify(t)

	g.proxies[0].refuse(true)
	g.write(t, 0, 512)
	g.awaitFact(t, "a failure", func() bool { return g.log.count("next try in 1h0m0s") == 2 })
	g.proxies[0].refuse(false)
	gid, err := g.client().Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	g.proxies[0].awaitGid(t, gid)
	g.awaitShipped(t)
	g.verify(t)
}

func TestALostAckSendsAgain(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.change = func(c *Config) { c.Delay = 10 * time.Millisecond }
	g.started(t)
	lost := 0
	g.proxies[0].play(func() {
		g.proxies[0].onCommit = func(int) error {
			if lost++; lost <= 2 {
				return errPlayed
			}
			return nil
		}
	})
	before := g.done(t)
	g.write(t, 0, 64<<10)
	g.proxies[0].awaitTaken(t, 3)
	g.write(t, 32<<10, 64<<10)
	g.awaitShipped(t)
	diffs := g.proxies[0].diffs()[1:]
	assert.Equal(t, before.Gid, diffs[0].diff.B.B)
	assert.Equal(t, diffs[0].diff, diffs[1].diff, "the same stretch under the same gids")
	assert.Equal(t, diffs[0].file, diffs[1].file)
	g.verify(t)
}

func TestDeathInTheMiddleSendsAllAgain(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 2)
	g.change = func(c *Config) { c.Delay = 10 * time.Millisecond }
	g.started(t)
	first, second := g.proxies[0], g.proxies[1]
	before := g.done(t)
	first.play(func() {
		first.onWrite = func(_, written int) error {
			if written > 256<<10 {
				first.refuse(true)
				return errPlayed
			}
			return nil
		}
	})
	g.write(t, 0, 1<<20)
	second.awaitTaken(t, 1)
	g.awaitShipped(t)
	assert.Len(t, first.diffs(), 1)
	assert.Equal(t, before.Gid, second.diffs()[0].diff.B.B)
	g.verify(t)
}

// TestGidsAreLeftForPieces is a recorded run of the original: three megabytes
// are written while no proxy takes log, in shipments of at most one.
func TestGidsAreLeftForPieces(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	var now atomic.Int64
	now.Store(1700000000)
	g.logSize = 4 << 20
	g.options.FlushInterval = time.Hour // only flushes make log permanent
	g.change = func(c *Config) {
		c.MaxWlogMB, c.Delay, c.MaxDelay = 1, 5*time.Millisecond, 5*time.Millisecond
		c.Now = func() time.Time { return time.Unix(now.Load(), 0) }
	}
	g.started(t)
	g.write(t, 0, 17*512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)
	require.Equal(t, meta.LsidGid{Mergeable: true, Timestamp: uint64(now.Load()), Lsid: 18, Gid: 2}, g.done(t))

	g.proxies[0].refuse(true)
	queued := func(n int) bool {
		v := g.volume(t)
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.queue.records) == n
	}
	for i := range 3 {
		if i < 2 { // before that no snapshot but the explicit one is due
			now.Add(10)
		}
		for k := range 16 { // a record of 64 KiB and a header: 129 blocks
			g.write(t, int64(i*16+k)<<16, 64<<10)
		}
		require.NoError(t, g.dev.Flush(t.Context()))
		if i < 2 {
			g.awaitFact(t, "a snapshot", func() bool { return queued(i + 1) })
		}
	}
	gid, err := g.client().Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	assert.Equal(t, meta.Gid(8), gid)
	g.proxies[0].refuse(false)
	g.proxies[0].awaitGid(t, 8)
	g.awaitShipped(t)

	var got []string
	for _, d := range g.proxies[0].diffs()[2:] {
		got = append(got, fmt.Sprintf("%s-->%s %t %d", d.diff.B, d.diff.E, d.diff.Mergeable, d.diff.Timestamp-1700000000))
	}
	assert.Equal(t, []string{
		"|2|-->|3| true 10", "|3|-->|4| true 10", "|4|-->|5| true 20", "|5|-->|6| true 20", "|6|-->|7| true 20", "|7|-->|8| true 20",
	}, got)
	assert.Equal(t, meta.LsidGid{Timestamp: 1700000020, Lsid: 6210, Gid: 8}, g.done(t))
	for _, offer := range g.proxies[0].offers {
		assert.LessOrEqual(t, offer.MaxLogPB, uint64(2048))
	}
	g.verify(t)

	now.Add(1)
	g.write(t, 0, 512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)
	diffs := g.proxies[0].diffs()
	last := diffs[len(diffs)-1].diff
	assert.Equal(t, meta.CleanSnap(8), last.B)
	assert.False(t, last.Mergeable, "an explicit snapshot stays restorable")
}

// TestStopWaitsForAShipmentOrBreaksItOff: with the proxy busy, a graceful stop
// waits, a forced one does not.
func TestStopWaitsForAShipmentOrBreaksItOff(t *testing.T) {
	t.Parallel()
	for _, mode := range []client.StopMode{client.StopGraceful, client.StopForce} {
		t.Run(string(mode), func(t *testing.T) {
			g := newGroup(t, 1).started(t)
			before := g.done(t)
			release := make(chan struct{})
			free := sync.OnceFunc(func() { close(release) })
			defer free()
			entered := make(chan struct{}, 10)
			g.proxies[0].play(func() {
				g.proxies[0].onWrite = func(int, int) error {
					entered <- struct{}{}
					<-release
					return nil
				}
			})
			g.write(t, 0, 512)
			<-entered
			require.NoError(t, g.client().Stop(t.Context(), "v0", mode))
			if mode == client.StopGraceful {
				require.Error(t, g.client().Stop(t.Context(), "v0", client.StopForce), "already under stopping")
				assert.Equal(t, fsm.StorageTarget, g.volume(t).sm.State())
				free()
			}
			g.await(t, fsm.StorageStopped)
			if mode == client.StopGraceful {
				assert.Greater(t, g.done(t).Lsid, before.Lsid)
			} else {
				assert.Equal(t, before, g.done(t))
				g.awaitFact(t, "the reason", func() bool { return g.log.count("force stopped") > 0 })
			}
			assert.Empty(t, g.server.tasks.List(), "no task outlives the stop")
			free()

			// A stopped volume keeps its log and takes snapshots.
			g.write(t, 4096, 512)
			gid, err := g.client().Snapshot(t.Context(), "v0")
			require.NoError(t, err)
			g.stop()
			g.start(t)
			g.await(t, fsm.StorageStopped)
			require.NoError(t, g.client().Start(t.Context(), "v0", client.RoleTarget))
			g.proxies[0].awaitGid(t, gid)
			g.awaitShipped(t)
			g.verify(t)
		})
	}
}

// TestAStopThatComesToNothing: a client that never closes its connection gets
// no stop, and what was written meanwhile is shipped all the same.
func TestAStopThatComesToNothing(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.options.CheckpointInterval = time.Hour // nothing else wakes the storage
	g.started(t)
	g.stop()
	g.change = func(c *Config) { c.Wire.Timeout = 300 * time.Millisecond }
	g.start(t)
	conn, err := wire.Dial(t.Context(), g.addr, wire.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	defer conn.Close()
	_, err = wire.ClientHello(conn, "ctl0", wire.ProtoStop)
	require.NoError(t, err)
	conn.W.StrVec([]string{"v0"})
	require.NoError(t, conn.Flush())
	_, err = wire.Status(conn.R, "st0", wire.Accept)
	require.NoError(t, err)
	assert.Equal(t, fsm.Stopping, g.volume(t).sm.StopState())
	g.write(t, 0, 512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)
	assert.Equal(t, fsm.StorageTarget, g.volume(t).sm.State())
	g.verify(t)
}

func TestOverflowStopsTheVolume(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.logSize = 1 << 20
	g.change = func(c *Config) { c.Delay = time.Hour }
	g.started(t)
	c := g.client()
	g.proxies[0].refuse(true)
	g.write(t, 0, 512)
	g.awaitFact(t, "a failure", func() bool { return g.log.count("next try in") == 1 })
	for i := range 40 {
		g.write(t, int64(i%8)<<16, 64<<10)
	}
	g.await(t, fsm.StorageStopped)
	over, err := c.IsOverflow(t.Context(), "v0")
	require.NoError(t, err)
	assert.True(t, over)
	err = c.Start(t.Context(), "v0", client.RoleTarget)
	require.ErrorContains(t, err, "c2sStartServer:overflow:v0:/dev/walb/w0")
	_, err = c.Snapshot(t.Context(), "v0")
	require.ErrorContains(t, err, "takeSnapshotDetail:wlog overflow:/dev/walb/w0")
	g.stop()
	g.start(t)
	g.await(t, fsm.StorageStopped)
	c = g.client()

	g.proxies[0].refuse(false)
	require.NoError(t, c.ResetVol(t.Context(), "v0"))
	g.await(t, fsm.StorageSyncReady)
	over, err = c.IsOverflow(t.Context(), "v0")
	require.NoError(t, err)
	assert.False(t, over)
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	g.await(t, fsm.StorageTarget)
	g.write(t, 0, 4096)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)
	g.verify(t)
}

// TestAFullLogMakesWritersWaitAndNoLonger: several times the log is written
// while a slow proxy takes it.
func TestAFullLogMakesWritersWaitAndNoLonger(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	relay, err := simnet.Listen(g.proxies[0].addr.String())
	require.NoError(t, err)
	defer relay.Close()
	g.rig.proxies[0], err = wire.ParseAddr(relay.Addr())
	require.NoError(t, err)
	g.logSize, g.options.OnFull = 1<<20, wdev.Block
	g.started(t)
	relay.SetRules(simnet.Rule{Protocol: wire.ProtoWlogTransfer, Rate: 8 << 20})
	ctx := within(t)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := range 20 {
				assert.NoError(t, g.dev.WriteAt(ctx, noise(64<<10), int64(w*20+i)<<16))
			}
		})
	}
	wg.Wait()
	require.NoError(t, g.dev.Flush(ctx))
	assert.False(t, g.dev.Overflowed())
	assert.Greater(t, uint64(g.dev.Lsids().Oldest), g.dev.LogCapacity(), "the log was given up, more than once")
	g.awaitShipped(t)
	g.verify(t)
}

func TestAStandbyKeepsItsWritersGoing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.logSize, r.options.OnFull = 1<<20, wdev.Block
	r.start(t)
	c := r.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.NoError(t, c.Start(t.Context(), "v0", client.RoleStandby))
	for i := range 48 {
		require.NoError(t, r.dev.WriteAt(within(t), noise(64<<10), int64(i)<<16))
	}
	assert.False(t, r.dev.Overflowed())
	require.NoError(t, c.Stop(t.Context(), "v0", client.StopGraceful))
	r.await(t, fsm.StorageSyncReady)
	assert.Empty(t, r.server.tasks.List())
}

func TestLogOfAnotherLifeIsNotShipped(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1).started(t)
	require.NoError(t, g.dev.ResetLog(t.Context()))
	g.write(t, 0, 4096)
	g.awaitFact(t, "a failure", func() bool { return g.log.count("log of life "+g.dev.Identity().UUID.String()) > 0 })
	assert.Len(t, g.proxies[0].diffs(), 1)
	assert.Zero(t, g.dev.Lsids().Oldest, "nothing is given up")
}

// TestPace: a volume at rest ships soon, one that is written to all the time
// no more than once a second.
func TestPace(t *testing.T) {
	now := time.Unix(1700000000, 0)
	var p pace
	const megabytes, limit = 1, 128
	var got []int64
	for range 6 {
		d := p.delay(now, megabytes, limit)
		got = append(got, d.Milliseconds())
		now = now.Add(d)
		p.shipped(now)
	}
	assert.Equal(t, []int64{100, 100, 200, 400, 800, 1000}, got)
	assert.Equal(t, monitorDelay, p.delay(now, 64, limit), "much is there")
	assert.Equal(t, monitorDelay, p.delay(now.Add(2*time.Second), megabytes, limit))
	p.shipped(now.Add(2 * time.Second))
	assert.Equal(t, monitorDelay, p.gap, "it was at rest")
}

func TestNoGidIsUsedTwice(t *testing.T) {
	for _, gid := range []meta.Gid{meta.MaxGid, meta.MaxGid - 1, meta.MaxGid - 2} {
		_, err := snapshotAfter(meta.LsidGid{Gid: gid}, 10, 5, false, 1)
		assert.True(t, walberr.Is(err, walberr.Range), gid)
	}
	rec, err := snapshotAfter(meta.LsidGid{Gid: meta.MaxGid - 5}, 10, 5, false, 1)
	require.NoError(t, err)
	assert.Equal(t, meta.MaxGid-2, rec.Gid)
}
