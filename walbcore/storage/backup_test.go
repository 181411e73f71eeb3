package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// TestARefusedBackupChangesNothing: the controller learns why.
func TestARefusedBackupChangesNothing(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.change = func(c *Config) { c.MaxForeground = 1 }
	g.start(t)
	c := g.client()
	require.ErrorContains(t, c.FullBackup(t.Context(), "v0", 0), "backupClient:StateMachineTransaction:bad state:Clear:SyncReady:FullSync")
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	g.write(t, 0, 512)
	require.NoError(t, g.dev.Flush(t.Context()))
	life, before := g.dev.Identity(), g.done(t)
	unchanged := func() {
		t.Helper()
		assert.Equal(t, fsm.StorageSyncReady, g.volume(t).sm.State())
		assert.Equal(t, life, g.dev.Identity())
		assert.Equal(t, before, g.done(t))
	}
	g.archive.update(func() {
		g.archive.onAccept = func(int) error { return server.Refusef("", "backupServer:bad state:Clear") }
	})
	require.ErrorContains(t, c.FullBackup(t.Context(), "v0", 0), "backupClient:not accepted by archive:ar0:backupServer:bad state:Clear")
	unchanged()
	for bulk, want := range map[string]string{
		"": "Invalid argument.", "511": "parseBackupParam:too small size:511", "4097k": "parseBackupParam:too large size:4195328",
		"x": "Invalid suffix charactor.", //nolint:misspell // the original's words
	} {
		err := refusalOf(t, g.rig, wire.ProtoFullBkp, "v0", bulk)
		assert.Equal(t, want, err, "bulk %q", bulk)
		unchanged()
	}
	g.archive.update(func() {
		g.archive.onAccept = func(int) error {
			assert.Equal(t, "backupClient:exceeds max foreground tasks:1", refusalOf(t, g.rig, wire.ProtoFullBkp, "v1"))
			assert.Equal(t, "c2sClearVolServer:StateMachineTransaction:tryChange:already called:FullSync:SyncReady:ClearVol",
				refusalOf(t, g.rig, wire.ProtoClearVol, "v0"))
			assert.Equal(t, "c2sSnapshotServer:bad state:FullSync", refusalOf(t, g.rig, wire.ProtoSnapshot, "v0"))
			return errPlayed
		}
	})
	require.ErrorContains(t, c.FullBackup(t.Context(), "v0", 0), errPlayed.Error())
	unchanged()

	g.stop()
	g.rig.archive = wire.Addr{Host: "127.0.0.1", Port: 1}
	g.start(t)
	require.ErrorContains(t, g.client().FullBackup(t.Context(), "v0", 0), "Connection refused")
	unchanged()
	assert.Empty(t, g.proxies[0].offers)
}

// refusalOf sends a command and gives the server's words, "" for none.
func refusalOf(t *testing.T, r *rig, protocol string, words ...string) string {
	t.Helper()
	conn, err := wire.Dial(t.Context(), r.addr, wire.Options{Timeout: 10 * time.Second})
	require.NoError(t, err)
	defer conn.Close()
	_, err = wire.ClientHello(conn, "ctl0", protocol)
	require.NoError(t, err)
	conn.W.StrVec(words)
	require.NoError(t, conn.Flush())
	word := conn.R.Str()
	require.NoError(t, conn.R.Err())
	if word == wire.OK || word == wire.Accept {
		return ""
	}
	return word
}

// stamps writes numbered blocks all over the device, one after the other, and
// remembers them.
type stamps struct {
	dev     wdev.Disk
	initial []byte
	blocks  []block.LB // where the n-th stamp went
}

const stampBlocks = 8

func (s *stamps) write(ctx context.Context, rnd *rand.Rand) error {
	at := block.LB(rnd.IntN(rigVolumeSize/stampBlocks) * stampBlocks)
	s.blocks = append(s.blocks, at)
	return s.dev.WriteAt(ctx, stamp(len(s.blocks)), at.Bytes())
}

func stamp(n int) []byte {
	p := make([]byte, stampBlocks*block.Size)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(n)<<32|0xbeef)
	}
	return p
}

// prefix checks that an image is what the device held after some number of
// stamps, and gives that number.
func (s *stamps) prefix(t *testing.T, image []byte) int {
	t.Helper()
	last := 0
	for at := 0; at < len(image); at += stampBlocks * block.Size {
		v := binary.LittleEndian.Uint64(image[at:])
		if n := int(v >> 32); uint32(v) == 0xbeef && n <= len(s.blocks) {
			last = max(last, n)
		}
	}
	model := slices.Clone(s.initial)
	for i, at := range s.blocks[:last] {
		copy(model[at.Bytes():], stamp(i+1))
	}
	require.True(t, bytes.Equal(model, image), "the image is the device after %d of %d writes", last, len(s.blocks))
	return last
}

// TestABackupUnderWrites: with the diffs up to its end snapshot a backup is
// what the device held at that moment; with all diffs it is what it holds now.
func TestABackupUnderWrites(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.options.OnFull = wdev.Block
	g.logSize = 2 << 20
	g.start(t)
	g.write(t, 1<<20, 1<<20)
	require.NoError(t, g.dev.Discard(t.Context(), 1<<20+1<<18, 1<<18))
	s := &stamps{dev: g.dev, initial: g.content(t)}

	// Each write of the archive lets the writer make some, so that writes are
	// spread over the whole scan.
	turns := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	g.archive.update(func() {
		g.archive.onWrite = func(int, int64) error {
			for range 8 {
				select {
				case turns <- struct{}{}:
				case <-ctx.Done():
				}
			}
			return nil
		}
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-turns:
			case <-ctx.Done():
				return
			case <-time.After(2 * time.Millisecond):
			}
			if err := s.write(ctx, rnd); err != nil {
				assert.ErrorIs(t, err, context.Canceled)
				s.blocks = s.blocks[:len(s.blocks)-1]
				return
			}
		}
	})
	defer wg.Wait()
	defer cancel()
	c := g.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.NoError(t, c.FullBackup(t.Context(), "v0", 64<<10))
	g.await(t, fsm.StorageTarget)
	b := g.archive.awaitBackup(t, 1)
	require.True(t, b.taken)
	assert.Equal(t, wire.FullSyncRequest{
		HostType: wire.HostStorage, Volume: "v0", Size: rigVolumeSize, Timestamp: b.req.Timestamp, Bulk: 128, Compress: g.server.cfg.Compress,
	}, b.req)
	assert.Equal(t, g.dev.Identity().UUID, b.uuid)
	assert.Zero(t, b.snap.B)
	g.proxies[0].awaitGid(t, b.snap.E)
	gid, err := c.Snapshot(t.Context(), "v0")
	require.NoError(t, err)
	g.proxies[0].awaitGid(t, gid)
	cancel()
	wg.Wait()
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)

	diffs := g.proxies[0].diffs()
	assert.Equal(t, meta.CleanSnap(0), diffs[0].diff.B)
	assert.False(t, diffs[0].diff.Mergeable)
	at := 0
	for _, to := range []meta.Gid{b.snap.E, gid, g.done(t).Gid} {
		img := b.clone()
		img.apply(t, b.uuid, 0, to, diffs)
		n := s.prefix(t, img.data)
		assert.GreaterOrEqual(t, n, at)
		at = n
	}
	assert.Equal(t, len(s.blocks), at, "nothing is missing at the end")
	assert.Positive(t, at)
	g.verify(t)
}

// TestABrokenBackupIsRepeated: however a backup ends too early, the volume is
// SyncReady at once, nothing is shipped any more, and the next one succeeds.
func TestABrokenBackupIsRepeated(t *testing.T) {
	t.Parallel()
	for name, play := range map[string]struct {
		archive func(g *group, a *fakeArchive) // called with the archive's mutex held
		log     string
	}{
		"cut in the scan": {func(_ *group, a *fakeArchive) {
			a.onWrite = func(_ int, off int64) error {
				if off >= 1<<20 {
					return errPlayed
				}
				return nil
			}
		}, ""},
		"last ack lost": {func(_ *group, a *fakeArchive) {
			a.onCommit = func(int) error { return errPlayed }
		}, "stream:read"},
		"force stopped": {func(g *group, a *fakeArchive) {
			stop := sync.OnceValue(func() error { return g.client().Stop(context.Background(), "v0", client.StopForce) })
			a.onWrite = func(int, int64) error { return errors.Join(errPlayed, stop()) }
		}, "force stopped"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, 1)
			g.start(t)
			g.write(t, 0, 2<<20)
			g.archive.update(func() { play.archive(g, g.archive) })
			c := g.client()
			require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
			require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
			g.archive.awaitBackup(t, 1)
			g.await(t, fsm.StorageSyncReady)
			g.awaitFact(t, "the reason", func() bool { return g.log.count(play.log) > 0 })
			assert.Empty(t, g.server.tasks.List())
			assert.Nil(t, g.volume(t).unwatch)

			g.stop()
			g.archive.update(func() { g.archive.onWrite, g.archive.onCommit = nil, nil })
			g.start(t)
			g.await(t, fsm.StorageSyncReady)
			require.NoError(t, g.client().FullBackup(t.Context(), "v0", 0))
			g.await(t, fsm.StorageTarget)
			g.write(t, 4096, 512)
			require.NoError(t, g.dev.Flush(t.Context()))
			g.awaitShipped(t)
			g.verify(t)
		})
	}
}

// TestAShipmentDoesNotOutliveItsBackup: a log that a proxy acknowledges after
// its backup failed says nothing about the log of the next one.
func TestAShipmentDoesNotOutliveItsBackup(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.start(t)
	g.write(t, 0, 1<<20)
	shipping, fail := make(chan struct{}), make(chan struct{})
	release := make(chan struct{})
	defer close(release)
	g.proxies[0].play(func() {
		g.proxies[0].onCommit = func(n int) error {
			if n == 1 {
				close(shipping)
				<-release
			}
			return nil
		}
	})
	g.archive.update(func() {
		g.archive.onWrite = func(n int, _ int64) error {
			if n == 1 {
				<-fail
				return errPlayed
			}
			return nil
		}
	})
	c := g.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	g.archive.await(t, "the backup", func() bool { return len(g.archive.backups) == 1 && !g.archive.backups[0].uuid.IsZero() })
	g.write(t, 0, 256<<10)
	<-shipping
	close(fail)
	g.await(t, fsm.StorageSyncReady)
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	g.await(t, fsm.StorageTarget)
	g.write(t, 4096, 512)
	require.NoError(t, g.dev.Flush(t.Context()))
	g.awaitShipped(t)
	g.verify(t)
}

// TestOverflowEndsABackup: not only at its last step.
func TestOverflowEndsABackup(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.logSize = 1 << 20
	g.start(t)
	g.write(t, 0, 1<<20)
	g.proxies[0].refuse(true)
	hold := make(chan struct{})
	g.archive.update(func() {
		g.archive.onWrite = func(int, int64) error {
			<-hold
			return errPlayed
		}
	})
	defer close(hold)
	c := g.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	g.archive.await(t, "the backup", func() bool { return len(g.archive.backups) == 1 && !g.archive.backups[0].uuid.IsZero() })
	for i := range 40 {
		g.write(t, int64(i%8)<<16, 64<<10)
	}
	g.await(t, fsm.StorageSyncReady)
	g.awaitFact(t, "the reason", func() bool { return g.log.count("the log has overflowed") > 0 })
}

// TestAShutdownEndsABackup: the state on the disk is SyncReady all the time.
func TestAShutdownEndsABackup(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.start(t)
	g.write(t, 0, 1<<20)
	hold := make(chan struct{})
	g.archive.update(func() {
		g.archive.onWrite = func(int, int64) error {
			<-hold
			return errPlayed
		}
	})
	c := g.client()
	require.NoError(t, c.InitVol(t.Context(), "v0", "/dev/walb/w0"))
	require.NoError(t, c.FullBackup(t.Context(), "v0", 0))
	g.archive.await(t, "the backup", func() bool { return len(g.archive.backups) == 1 && !g.archive.backups[0].uuid.IsZero() })
	g.stop()
	close(hold)
	g.start(t)
	g.await(t, fsm.StorageSyncReady)
}

// TestScanLimit: the pauses follow from the limit, and none is long enough for
// the archive to give up.
func TestScanLimit(t *testing.T) {
	for _, c := range []struct {
		limit block.LB
		want  time.Duration
	}{
		{limit: 2048, want: 7 * 125 * time.Millisecond}, // 8 bulks of 256 blocks
		{limit: 1, want: 7 * maxScanPause},
	} {
		synctest.Test(t, func(t *testing.T) {
			disk := &memImage{data: noise(8 * 256 * block.Size)}
			s := &throttled{Disk: imageDisk{img: disk}, limit: func() block.LB { return c.limit }, now: time.Now, stopped: make(chan struct{})}
			begin := time.Now()
			p := make([]byte, 256*block.Size)
			for i := range int64(8) {
				n, err := s.ReadAt(p, i*int64(len(p)))
				require.NoError(t, err)
				require.Equal(t, len(p), n)
				require.True(t, bytes.Equal(disk.data[i*int64(len(p)):][:n], p))
			}
			assert.Equal(t, c.want, time.Since(begin))
		})
	}
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan struct{})
		close(stopped)
		s := &throttled{Disk: imageDisk{img: &memImage{data: noise(1 << 20)}}, limit: func() block.LB { return 1 }, now: time.Now, stopped: stopped}
		begin := time.Now()
		for range 10 {
			_, err := s.ReadAt(make([]byte, 1<<20), 0)
			require.NoError(t, err)
		}
		assert.Less(t, time.Since(begin), maxScanPause, "nobody waits for what nobody wants")
	})
}

// imageDisk is a disk of which only reading works.
type imageDisk struct {
	wdev.Disk
	img *memImage
}

func (d imageDisk) ReadAt(p []byte, off int64) (int, error) { return d.img.ReadAt(p, off) }

// TestALimitedBackup comes through as every other one.
func TestALimitedBackup(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 1)
	g.change = func(c *Config) { c.FullScanLBPerSec = 64 * rigVolumeSize }
	g.start(t)
	g.write(t, 0, 2<<20)
	g.backUp(t)
	g.verify(t)
}
