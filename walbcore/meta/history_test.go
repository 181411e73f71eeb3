package meta

import (
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The model behind the algebra, made of flat images: an image maps a block to
// the generation at which its content was written.

type flatImage map[int]Gid

// history says which blocks were written in which generation; index 0 is empty.
type history []map[int]bool

func randomHistory(r *rand.Rand, gids, blocks int) history {
	h := make(history, gids+1)
	for g := 1; g <= gids; g++ {
		h[g] = map[int]bool{}
		for range r.IntN(4) {
			h[g][r.IntN(blocks)] = true
		}
	}
	return h
}

func (h history) last() Gid { return Gid(len(h) - 1) }

// at is the content of a block in the generation gid.
func (h history) at(block int, gid Gid) Gid {
	for ; gid > 0; gid-- {
		if h[gid][block] {
			return gid
		}
	}
	return 0
}

func (h history) image(gid Gid) flatImage {
	img := flatImage{}
	for g := Gid(1); g <= gid; g++ {
		for block := range h[g] {
			img[block] = g
		}
	}
	return img
}

// holds tests what a snapshot claims of an image: every block is as it was in
// some generation between B and E.
func (h history) holds(img flatImage, s Snap, blocks int) bool {
	for block := range blocks {
		ok := false
		for g := s.B; g <= s.E && !ok; g++ {
			ok = h.at(block, g) == img[block]
		}
		if !ok {
			return false
		}
	}
	return true
}

// fileOf makes the content of a diff: the blocks that were written behind its
// begin, each as of a generation that its end allows.
func (h history) fileOf(r *rand.Rand, d Diff) flatImage {
	file := flatImage{}
	for g := d.B.B + 1; g <= d.E.E; g++ {
		for block := range h[g] {
			as := d.E.B + Gid(r.Uint64N(uint64(d.E.E-d.E.B+1)))
			file[block] = h.at(block, as)
		}
	}
	return file
}

func (img flatImage) overlay(files ...flatImage) flatImage {
	out := maps.Clone(img)
	for _, f := range files {
		maps.Copy(out, f)
	}
	return out
}

func TestAppliedImagesAreWhatTheirSnapshotsClaim(t *testing.T) {
	const blocks = 6
	r := newRand(t)
	applied := 0
	for range 1500 {
		h := randomHistory(r, 12, blocks)
		s := CleanSnap(Gid(r.Uint64N(6)))
		img := h.image(s.B)
		for range 6 {
			d := randomDiff(r, h.last())
			// A dirty diff speaks only for images that are not newer than its end.
			if d.E.E > h.last() || !s.CanApply(d) || !d.IsClean() && s.E > d.E.E {
				continue
			}
			img = img.overlay(h.fileOf(r, d))
			s, _ = s.Apply(d)
			applied++
			require.True(t, h.holds(img, s, blocks), "%s behind %s, image %v of %v", s, d, img, h)
		}
	}
	assert.Greater(t, applied, 500)
}

func TestMergedDiffDoesWhatItsPartsDo(t *testing.T) {
	const blocks = 6
	r := newRand(t)
	merged := 0
	for range 10000 {
		h := randomHistory(r, 12, blocks)
		a, b := randomDiff(r, h.last()), randomDiff(r, h.last())
		sum, err := a.Merge(b)
		overtaken := !b.IsClean() && b.E.E < a.E.E // no list of a manager has such a pair
		if err != nil || max(a.E.E, b.E.E) > h.last() || overtaken {
			continue
		}
		require.NoError(t, sum.Check())
		fileA, fileB := h.fileOf(r, a), h.fileOf(r, b)
		fileSum := fileA.overlay(fileB)

		s := Snap{B: sum.B.B + Gid(r.Uint64N(uint64(sum.E.B-sum.B.B)))}
		s.E = s.B + Gid(r.Uint64N(2))
		if s.E > min(a.B.E, b.E.E) {
			s.E = s.B
		}
		if s.E > h.last() || !s.CanApply(sum) {
			continue
		}
		merged++
		img := h.image(s.B)
		whole, err := s.Apply(sum)
		require.NoError(t, err)
		assert.True(t, h.holds(img.overlay(fileSum), whole, blocks), "%s + %s from %s", a, b, s)

		parts, err := s.Apply(a, b)
		if err != nil {
			continue // s has all of a, and not all of the sum
		}
		assert.Equal(t, img.overlay(fileA, fileB), img.overlay(fileSum))
		assert.Equal(t, parts.B, whole.B, "%s + %s from %s", a, b, s)
		if s.E <= a.B.E {
			assert.Equal(t, parts, whole, "%s + %s from %s", a, b, s)
		}
		assert.Equal(t, b.Timestamp, sum.Timestamp)
		assert.Equal(t, a.Mergeable, sum.Mergeable)
	}
	assert.Greater(t, merged, 50)
}

func TestMergeIsAssociative(t *testing.T) {
	r := newRand(t)
	merged := 0
	for range 10000 {
		a, b, c := randomDiff(r, 8), randomDiff(r, 8), randomDiff(r, 8)
		ab, err1 := a.Merge(b)
		bc, err2 := b.Merge(c)
		if err1 != nil || err2 != nil {
			continue
		}
		left, err1 := ab.Merge(c)
		right, err2 := a.Merge(bc)
		if err1 != nil || err2 != nil {
			continue
		}
		merged++
		assert.Equal(t, left.B, right.B, "%s %s %s", a, b, c)
		assert.Equal(t, left.E.B, right.E.B, "%s %s %s", a, b, c)
		assert.Equal(t, left.Mergeable, right.Mergeable)
		assert.Equal(t, left.Timestamp, right.Timestamp)
	}
	assert.Greater(t, merged, 50)
}

// A receiver that is sent every list of ListToSendUntil as one diff ends up with
// every snapshot that the sender could restore, bit for bit.
func TestReplicationKeepsEverySnapshot(t *testing.T) {
	const blocks = 6
	r := newRand(t)
	for range 300 {
		h := randomHistory(r, 12, blocks)
		base := NewState(CleanSnap(Gid(r.Uint64N(4))), 1)
		source, files := &Manager{}, map[Diff]flatImage{}
		for b := base.B.B; b < h.last(); {
			e := min(b+1+Gid(r.Uint64N(2)), h.last())
			d := Diff{B: CleanSnap(b), E: CleanSnap(e), Mergeable: r.IntN(3) > 0, Timestamp: uint64(e), Size: r.Uint64N(100)}
			require.NoError(t, source.Add(d))
			files[d] = h.fileOf(r, d)
			b = e
		}
		var stops []Gid
		for _, e := range source.Restorable(base, false) {
			stops = append(stops, e.Gid)
		}

		target := &Manager{}
		received := map[Diff]flatImage{}
		at := base.B
		for {
			list := source.ListToSendUntil(at, 1<<30, 0, stops)
			if len(list) == 0 {
				break
			}
			sum, err := MergeAll(list)
			require.NoError(t, err)
			content := flatImage{}
			for _, d := range list {
				content = content.overlay(files[d])
			}
			require.NoError(t, target.Add(sum))
			received[sum] = content
			target.GCRange(sum.B.B, sum.E.B)
			at, err = at.Apply(sum)
			require.NoError(t, err)
		}

		var got []Gid
		for _, e := range target.Restorable(base, false) {
			got = append(got, e.Gid)
			list, ok := target.ListToRestore(base, e.Gid, 0)
			require.True(t, ok)
			img := h.image(base.B.B)
			for _, d := range list {
				img = img.overlay(received[d])
			}
			assert.Equal(t, h.image(e.Gid), img, "snapshot %d", e.Gid)
		}
		assert.Equal(t, stops, got)
	}
}
