package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// replicate runs a replication into a.
func replicate(tb testing.TB, p ReplParams, src *fakeSource, a *fakeArchive, o Options) (res ReplResult, clientErr, serverErr error) {
	tb.Helper()
	clientErr, serverErr = converse(tb,
		func(c *wire.Conn) error {
			var err error
			res, err = SendRepl(tb.Context(), c, p, src, o)
			return err
		},
		func(ctx context.Context, c *wire.Conn, reply Reply) error {
			return ServeRepl(ctx, c, reply, a, Options{SyncInterval: 4096})
		})
	return res, clientErr, serverErr
}

// TestReplicationKeepsEveryRestorableSnapshot replicates random chains of
// diffs and follows the destination's image from state to state.
func TestReplicationKeepsEveryRestorableSnapshot(t *testing.T) {
	const volume = 200
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 31))
		src := &fakeSource{base: meta.NewState(meta.CleanSnap(0), 1), size: volume, img: randomImage(rng, volume), store: newStore(t)}
		images := map[meta.Gid][]byte{0: slices.Clone(src.img.data)}
		now := slices.Clone(src.img.data)
		last, ends := meta.Gid(0), []meta.Gid{0}
		for range rng.IntN(8) {
			next := last + 1 + meta.Gid(rng.IntN(3))
			at, fill := block.LB(rng.IntN(volume-2)), byte(1+rng.IntN(200))
			addDiff(t, src.store, clean(last, next, rng.IntN(3) > 0), sortedFile(t, meta.UUID{1}, fill, at))
			copy(now[at.Bytes():], bytes.Repeat([]byte{fill}, 1024))
			images[next] = slices.Clone(now)
			last, ends = next, append(ends, next)
		}
		var restorable []meta.Restorable
		src.store.View(func(m *meta.Manager) { restorable = m.Restorable(src.base, false) })
		p := ReplParams{
			Volume: "vol", ByGid: true, Gid: meta.Gid(rng.IntN(int(last) + 2)), Bulk: 1 + block.LB(rng.IntN(64)),
			FullCompress: snappy1, DiffCompress: snappy1, MaxMerge: uint64(rng.IntN(30000)), MaxFiles: rng.IntN(4), DontMerge: rng.IntN(4) == 0,
		}
		a := &fakeArchive{kind: wire.ReplFull, img: newImage(volume, 0xee)}
		var progress []Progress
		res, clientErr, serverErr := replicate(t, p, src, a, Options{Progress: func(p Progress) { progress = append(progress, p) }})
		require.NoError(t, clientErr, "seed %d", seed)
		require.NoError(t, serverErr, "seed %d", seed)
		require.True(t, bytes.Equal(src.img.data, a.img.data), "base image")
		assert.True(t, res.Full)
		assert.Positive(t, res.Sent)

		reached := map[meta.Gid]bool{0: true}
		img, gid := slices.Clone(a.img.data), meta.Gid(0)
		for _, call := range a.all() {
			var b, e meta.Gid
			if n, _ := fmt.Sscanf(call, "diff |%d|-->|%d|", &b, &e); n == 2 {
				require.Equal(t, gid, b)
				dst := &memImage{data: img}
				_, err := wdiff.Apply(t.Context(), openDiff(t, a.files[len(reached)-1].Bytes()).Records(), dst, wdiff.ApplyOptions{Size: volume})
				require.NoError(t, err)
				gid = e
				reached[gid] = true
				require.True(t, bytes.Equal(images[gid], img), "seed %d: image at %d", seed, gid)
			}
		}
		assert.Equal(t, gid, res.Latest.B.B)
		assert.Equal(t, len(a.files), res.Rounds)
		for _, r := range restorable {
			if r.Gid <= gid {
				assert.True(t, reached[r.Gid], "seed %d: restorable %d was merged away", seed, r.Gid)
			}
		}
		target := min(p.Gid, last)
		i := slices.IndexFunc(ends, func(g meta.Gid) bool { return g >= target })
		assert.Equal(t, ends[i], gid, "seed %d: the end of the first diff that reaches %d", seed, target)
		for i, now := range progress {
			assert.LessOrEqual(t, now.Done, now.Total)
			if i > 0 && progress[i-1].Phase == now.Phase {
				assert.GreaterOrEqual(t, now.Done, progress[i-1].Done)
			}
		}
	}
}

func TestReplicationBySize(t *testing.T) {
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(0), 1), size: 100, img: newImage(100, 0), store: newStore(t)}
	addDiff(t, src.store, clean(0, 1, false), sortedFile(t, meta.UUID{1}, 1, 0))
	for limit, rounds := range map[uint64]int{0: 1, 1: 0, 1 << 60: 0} {
		a := &fakeArchive{kind: wire.ReplNone, latest: src.base}
		res, clientErr, serverErr := replicate(t, ReplParams{Volume: "vol", SizeMB: limit, DiffCompress: snappy1, MaxMerge: 1}, src, a, Options{})
		require.NoError(t, clientErr)
		require.NoError(t, serverErr)
		assert.Equal(t, rounds, res.Rounds, "limit of %d MiB", limit)
		assert.False(t, res.Full)
	}
}

func TestReplicationResumes(t *testing.T) {
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(4), 1), size: 64, img: newImage(64, 7), store: newStore(t)}
	a := &fakeArchive{kind: wire.ReplFull, start: 24, img: newImage(64, 0xee)}
	res, clientErr, serverErr := replicate(t, ReplParams{Volume: "vol", Bulk: 8, FullCompress: snappy1}, src, a, Options{})
	require.NoError(t, clientErr)
	require.NoError(t, serverErr)
	assert.Equal(t, block.LB(24), res.Start)
	want := append(bytes.Repeat([]byte{0xee}, 24*512), bytes.Repeat([]byte{7}, 40*512)...)
	assert.True(t, bytes.Equal(want, a.img.data))
	assert.Equal(t, []string{
		"accept vol", "offer 0000", "full", "begin full",
		"checkpoint 32", "checkpoint 40", "checkpoint 48", "checkpoint 56",
		"commit full", "close full", "latest", "stop",
	}, a.all())
	assert.Equal(t, []string{"accepted", "image closed"}, src.all())
}

func TestReplicationsThatCannotBe(t *testing.T) {
	base := meta.NewState(meta.CleanSnap(5), 1)
	applying := base
	applying.Applying, applying.E = true, meta.CleanSnap(9)
	p := ReplParams{Volume: "vol", Bulk: 8, FullCompress: snappy1, DiffCompress: snappy1, MaxMerge: 1 << 20}
	for what, c := range map[string]struct {
		base   meta.State
		a      *fakeArchive
		diffs  []meta.Diff
		text   string
		code   walberr.Code
		server string // text of the server's error; "" is none
	}{
		"volume refused":     {base: base, a: &fakeArchive{refuse: errors.New("a2aReplSyncServer:bad state:Clear")}, text: "bad state:Clear", server: "bad state:Clear"},
		"resync not allowed": {base: base, a: &fakeArchive{offerErr: ErrResyncNotAllowed}, text: "resync is required but not allowed", server: "lineage"},
		"resync not offered": {
			base: base, a: &fakeArchive{kind: wire.ReplResync}, text: "a resync that was not offered", code: walberr.Checksum, server: "stream",
		},
		"hash diff refused": {
			base: base, a: &fakeArchive{kind: wire.ReplNone, latest: meta.NewState(meta.CleanSnap(3), 1), diffErr: errors.New("runHashReplServer:diff is not applicable")},
			text: "diff is not applicable", server: "not applicable",
		},
		"base half applied":  {base: applying, a: &fakeArchive{kind: wire.ReplFull}, text: "run apply", code: walberr.BadState, server: "stream"},
		"no clean snapshot":  {base: meta.NewState(meta.Snap{B: 5, E: 7}, 1), a: &fakeArchive{kind: wire.ReplNone, latest: meta.NewState(meta.CleanSnap(3), 1)}, text: "could not execute hash-repl", code: walberr.TooNewDiff},
		"destination beside": {base: base, a: &fakeArchive{kind: wire.ReplNone, latest: meta.NewState(meta.CleanSnap(6), 1)}, diffs: []meta.Diff{{B: meta.CleanSnap(5), E: meta.CleanSnap(7), Comp: true}}, text: "no diff of the source leads on", code: walberr.TooNewDiff},
		"diff refused": {
			base: base, a: &fakeArchive{kind: wire.ReplNone, latest: base, diffErr: errors.New("runDiffReplServer:can not apply:|5|:|5|-->|6|")},
			diffs: []meta.Diff{clean(5, 6, true)}, text: "can not apply", server: "can not apply",
		},
	} {
		src := &fakeSource{base: c.base, size: 64, img: newImage(64, 7), store: newStore(t)}
		for _, d := range c.diffs {
			addDiff(t, src.store, d, sortedFile(t, meta.UUID{1}, 1, 0))
		}
		_, clientErr, serverErr := replicate(t, p, src, c.a, Options{})
		require.ErrorContains(t, clientErr, c.text, what)
		if c.code != "" {
			assert.Equal(t, c.code, walberr.CodeOf(clientErr), what)
		}
		if c.server == "" {
			require.NoError(t, serverErr, what)
			assert.Equal(t, "stop", c.a.all()[len(c.a.all())-1], what)
		} else {
			require.Error(t, serverErr, what)
		}
	}
}

func TestReplServersRefuseWhatIsNotThere(t *testing.T) {
	for text, speak := range map[string]func(c *wire.Conn){
		"runHashReplServer:bulkLb is zero": func(c *wire.Conn) {
			c.R.State()
			c.W.U32(wire.RoundHash)
			wire.ReplHashRequest{Size: 1, Diff: clean(5, 6, true), Compress: snappy1}.Encode(c.W)
		},
		"runHashReplServer:not a compared diff": func(c *wire.Conn) {
			c.R.State()
			c.W.U32(wire.RoundHash)
			wire.ReplHashRequest{Size: 1, Bulk: 1, Diff: clean(5, 6, true), Compress: snappy1}.Encode(c.W)
		},
		"round 7": func(c *wire.Conn) { c.R.State(); c.W.U32(7) },
		"runDiffReplServer:bad sizeLb:0": func(c *wire.Conn) {
			c.R.State()
			c.W.U32(wire.RoundDiff)
			wire.ReplDiffRequest{Diff: clean(5, 6, false)}.Encode(c.W)
		},
	} {
		a := &fakeArchive{kind: wire.ReplNone, latest: meta.NewState(meta.CleanSnap(5), 1)}
		_, serverErr := converse(t,
			func(c *wire.Conn) error {
				c.W.StrVec([]string{"vol"})
				if err := ask(c, wire.Accept); err != nil {
					return err
				}
				wire.ReplOffer{}.Encode(c.W)
				if err := ask(c, wire.Accept); err != nil {
					return err
				}
				c.R.U32()
				speak(c)
				_ = c.Flush()
				c.R.Str()
				return nil
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeRepl(ctx, c, reply, a, Options{})
			})
		require.ErrorContains(t, serverErr, text)
	}
	for text, req := range map[string]wire.ReplFullRequest{
		"bad sizeLb:0":        {Bulk: 1, Compress: snappy1},
		"bulkLb is zero":      {Size: 1, Compress: snappy1},
		"too large bulkLb":    {Size: 1, Bulk: MaxBulk + 1, Compress: snappy1},
		"bad metaSt:<|0|-->|": {Size: 1, Bulk: 1, Compress: snappy1, Base: meta.State{Applying: true, E: meta.CleanSnap(2)}},
	} {
		a := &fakeArchive{kind: wire.ReplFull}
		clientErr, serverErr := converse(t,
			func(c *wire.Conn) error {
				c.W.StrVec([]string{"vol"})
				if err := ask(c, wire.Accept); err != nil {
					return err
				}
				wire.ReplOffer{}.Encode(c.W)
				if err := ask(c, wire.Accept); err != nil {
					return err
				}
				c.R.U32()
				req.Encode(c.W)
				return ask(c, wire.OK)
			},
			func(ctx context.Context, c *wire.Conn, reply Reply) error {
				return ServeRepl(ctx, c, reply, a, Options{})
			})
		require.ErrorContains(t, clientErr, text)
		require.ErrorContains(t, serverErr, text)
	}
}

func TestAnOversizedStartIsRefused(t *testing.T) {
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(4), 1), size: 64, img: newImage(64, 7), store: newStore(t)}
	a := &fakeArchive{kind: wire.ReplFull, start: 65, img: newImage(64, 0)}
	_, clientErr, serverErr := replicate(t, ReplParams{Volume: "vol", Bulk: 8, FullCompress: snappy1}, src, a, Options{})
	require.Error(t, clientErr)
	require.ErrorContains(t, serverErr, "start at block 65")
}

// TestADestinationThatDoesNotMoveOnEndsTheReplication, which would send it the
// same diff for ever.
func TestADestinationThatDoesNotMoveOnEndsTheReplication(t *testing.T) {
	src := &fakeSource{base: meta.NewState(meta.CleanSnap(0), 1), size: 64, store: newStore(t)}
	addDiff(t, src.store, clean(0, 1, false), sortedFile(t, meta.UUID{1}, 1, 0))
	a := &fakeArchive{kind: wire.ReplNone, latest: meta.NewState(meta.CleanSnap(0), 1), stuck: true}
	res, clientErr, _ := replicate(t, ReplParams{Volume: "vol", ByGid: true, Gid: 1, DiffCompress: snappy1, MaxMerge: 1}, src, a, Options{})
	require.ErrorContains(t, clientErr, "the destination at |0| after it took a diff at |0|")
	assert.Equal(t, 1, res.Rounds)
}
