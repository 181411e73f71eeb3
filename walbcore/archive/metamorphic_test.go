package archive

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// metamorphicSeed replays one run of TestMetamorphic: go test -run Metamorphic
// ./walbcore/archive -metamorphic-seed N.
var metamorphicSeed = flag.Uint64("metamorphic-seed", 0, "the one seed of TestMetamorphic to run; 0 runs some")

// fleet is some archives of one volume, with the model.
type fleet struct {
	t    *testing.T
	rnd  *rand.Rand
	w    *world
	rigs []*rig
	log  []string
}

func newFleet(t *testing.T, seed uint64) *fleet {
	t.Helper()
	f := &fleet{t: t, rnd: rand.New(rand.NewPCG(seed, 77)), w: newWorld(seed, 64)}
	for i := range 3 {
		f.rigs = append(f.rigs, runMem(t, named(fmt.Sprint("ar", i)), func(c *Config) { c.MaxOpen = 1 + f.rnd.IntN(4) }))
	}
	require.NoError(t, f.w.backup(t.Context(), f.rigs[0].addr, "v0"))
	f.ship()
	for _, r := range f.rigs[1:] {
		f.replicate(f.rigs[0], r)
	}
	return f
}

// did notes a step. Refusals because of what is there are right; anything
// else is not.
func (f *fleet) did(r *rig, what string, err error) {
	f.t.Helper()
	r.awaitIdle(f.t, "v0")
	f.log = append(f.log, fmt.Sprintf("%s: %s: %v", r.s.cfg.NodeID, what, err))
	if e, ok := errors.AsType[*walberr.Error](err); ok {
		for _, fine := range []string{"There is no mergeable diff", "change snapshot failed", "gid not applicable", "bad gid range"} {
			if strings.Contains(e.Found, fine) {
				return
			}
		}
	}
	require.NoError(f.t, err, strings.Join(f.log, "\n"))
	for _, st := range f.actions(r) {
		require.Empty(f.t, st, strings.Join(f.log, "\n"))
	}
}

// actions gives why actions failed.
func (f *fleet) actions(r *rig) []string {
	list, err := r.client().Actions(f.t.Context(), "v0")
	require.NoError(f.t, err)
	var out []string
	for _, st := range list {
		out = append(out, st.Error)
	}
	return out
}

// ship makes a snapshot and sends the diff to the first archive, and to the
// others that can take it.
func (f *fleet) ship() {
	d, file := f.w.next(f.rnd.IntN(6), f.rnd.IntN(3) > 0)
	for i, r := range f.rigs {
		if i > 0 && f.rnd.IntN(3) > 0 {
			continue // a replication brings it
		}
		err := f.w.send(f.t.Context(), r.addr, "v0", d, file)
		if i > 0 && err != nil && (strings.Contains(err.Error(), "too-new-diff") || strings.Contains(err.Error(), "bad state:SyncReady")) {
			continue
		}
		f.did(r, "ship "+d.Verbose(), err)
	}
}

func (f *fleet) replicate(from, to *rig) {
	err := from.client().Replicate(f.t.Context(), "v0", client.Replication{
		Dest: addrOf(f.t, to.addr), ByGid: true, Value: uint64(meta.MaxGid), DontMerge: f.rnd.IntN(2) == 0, MaxMergeSize: 1 + int64(f.rnd.IntN(1<<16)),
	})
	to.awaitIdle(f.t, "v0")
	f.did(from, "replicate to "+to.s.cfg.NodeID, err)
}

func (f *fleet) gid() meta.Gid { return meta.Gid(f.rnd.Uint64N(uint64(f.w.gid) + 2)) }

// step does something, at random.
func (f *fleet) step() {
	ctx := f.t.Context()
	r := f.rigs[f.rnd.IntN(len(f.rigs))]
	c := r.client()
	switch f.rnd.IntN(14) {
	default:
		f.ship()
	case 0, 1:
		b, e := f.gid(), f.gid()
		b, e = min(b, e), max(b, e)
		f.did(r, fmt.Sprintf("merge %d to %d", b, e), c.MergeGid(ctx, "v0", b, e))
	case 2:
		b := f.gid()
		f.did(r, fmt.Sprintf("merge %d size", b), c.MergeSize(ctx, "v0", b, uint64(f.rnd.IntN(2))))
	case 3:
		gid := f.gid()
		f.did(r, fmt.Sprintf("apply %d", gid), c.Apply(ctx, "v0", gid))
	case 4:
		gids := []meta.Gid{f.gid(), f.gid()}
		f.did(r, fmt.Sprintf("disable %v", gids), c.DisableSnapshot(ctx, "v0", gids...))
	case 5:
		gid := f.gid()
		f.did(r, fmt.Sprintf("enable %d", gid), c.EnableSnapshot(ctx, "v0", gid))
	case 6:
		f.did(r, "gc", c.GCDiff(ctx, "v0"))
	case 7, 8:
		to := f.rigs[f.rnd.IntN(len(f.rigs))]
		if to != r && r.latest(f.t, "v0").B > to.latest(f.t, "v0").B {
			f.replicate(r, to)
		}
	case 9:
		f.did(r, "reload", c.ReloadMetadata(ctx, "v0"))
	case 10:
		f.grow(f.w.size + block.LB(f.rnd.IntN(8)))
	}
}

// grow makes the volume larger everywhere. What is new reads as zeros at every
// snapshot.
func (f *fleet) grow(size block.LB) {
	more := make([]byte, (size - f.w.size).Bytes())
	f.w.grow(size)
	for gid, image := range f.w.at {
		f.w.at[gid] = slices.Concat(image, more)
	}
	for _, r := range f.rigs {
		f.did(r, fmt.Sprintf("resize %d", size), r.client().Resize(f.t.Context(), "v0", size, f.rnd.IntN(2) == 0))
	}
}

// check demands that every snapshot that an archive lists is that of the model,
// and that archives agree on the hash of those that they share.
func (f *fleet) check() {
	f.t.Helper()
	hashes := map[meta.Gid]string{}
	for _, r := range f.rigs {
		gids := r.sameAs(f.t, "v0", f.w)
		require.NotEmpty(f.t, gids)
		for _, gid := range gids {
			h, err := r.client().BlockHash(f.t.Context(), "v0", gid, client.ScanOptions{Bulk: 8})
			require.NoError(f.t, err)
			if other, shared := hashes[gid]; shared {
				require.Equal(f.t, other, h.String(), "gid %d", gid)
			}
			hashes[gid] = h.String()
		}
		faults, err := r.client().Verify(f.t.Context(), "v0", 0, nil)
		require.NoError(f.t, err)
		require.Empty(f.t, faults)
	}
}

// TestMetamorphic does merges, applies, changes of snapshots, collections,
// resizes and replications among three archives, in random order between random
// writes. Whatever was done, what can be restored is what the volume was.
func TestMetamorphic(t *testing.T) {
	seeds := []uint64{*metamorphicSeed}
	if *metamorphicSeed == 0 {
		seeds = []uint64{1, 2, 3}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			f := newFleet(t, seed)
			defer func() {
				if t.Failed() {
					t.Logf("replay with -metamorphic-seed %d\n%s", seed, strings.Join(f.log, "\n"))
				}
			}()
			for i := range 48 {
				f.step()
				if i%12 == 11 {
					f.check()
				}
			}
		})
	}
}
