// Package imagetest holds what every image.Store must do, as one suite that
// runs on each of them.
package imagetest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Volume is the volume whose images the suite uses. Size is their size: 2 MiB,
// which an LVM store must know as a number of extents.
const (
	Volume = "vol-1"
	Size   = block.LB(4096)
)

// Open gives an empty store. It is called once per test, and puts away at the
// end of the test what it needs to.
type Open func(t *testing.T) image.Store

// Run runs the suite.
func Run(t *testing.T, open Open) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, image.Store){
		"create, open, delete":     createOpenDelete,
		"impossible arguments":     impossibleArguments,
		"reads, writes and bounds": bounds,
		"grow":                     grow,
		"zero":                     zero,
		"zero as a model does":     zeroLikeAModel,
		"next data":                nextData,
		"restore":                  restore,
		"many restored":            manyRestored,
		"base changes later":       baseChangesLater,
		"abort and leftovers":      abortAndLeftovers,
		"given up":                 givenUp,
		"two volumes":              twoVolumes,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, open(t))
		})
	}
}

// create makes the base image, all zeros; it is closed at the end of the test.
func create(t *testing.T, s image.Store, vol string) image.Image {
	t.Helper()
	img, err := s.Create(vol, Size)
	require.NoError(t, err)
	require.NoError(t, img.Clear())
	require.True(t, block.IsZero(content(t, img)), "cleared")
	return img
}

func closed(t *testing.T, img image.Image) {
	t.Helper()
	require.NoError(t, img.Close())
}

func fill(t *testing.T, img image.Image, addr, n block.LB, b byte) {
	t.Helper()
	got, err := img.WriteAt(bytes.Repeat([]byte{b}, int(n.Bytes())), addr.Bytes())
	require.NoError(t, err)
	require.Equal(t, int(n.Bytes()), got)
}

func content(t *testing.T, img image.Image) []byte {
	t.Helper()
	p := make([]byte, img.Size().Bytes())
	_, err := img.ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

func base(t *testing.T, s image.Store, vol string) []byte {
	t.Helper()
	img, err := s.Open(vol)
	require.NoError(t, err)
	defer closed(t, img)
	return content(t, img)
}

func restored(t *testing.T, s image.Store, gid meta.Gid) []byte {
	t.Helper()
	img, err := s.OpenRestored(Volume, gid)
	require.NoError(t, err)
	defer closed(t, img)
	return content(t, img)
}

// same compares long contents without printing them.
func same(t *testing.T, want, got []byte, what string) {
	t.Helper()
	assert.True(t, bytes.Equal(want, got), what)
}

func hasCode(t *testing.T, code walberr.Code, err error) {
	t.Helper()
	assert.True(t, walberr.Is(err, code), "%s, not %v", code, err)
}

func second[T any](_ T, err error) error { return err }

func createOpenDelete(t *testing.T, s image.Store) {
	t.Helper()
	hasCode(t, walberr.NotFound, second(s.Open(Volume)))
	hasCode(t, walberr.NotFound, second(s.Size(Volume)))
	require.NoError(t, s.Delete(Volume), "nothing to delete")

	img := create(t, s, Volume)
	assert.Equal(t, Size, img.Size())
	hasCode(t, walberr.Conflict, second(s.Create(Volume, Size)))
	fill(t, img, 8, 8, 'x')
	same(t, content(t, img), base(t, s, Volume), "seen before it is synced")
	require.NoError(t, img.Sync())
	closed(t, img)
	size, err := s.Size(Volume)
	require.NoError(t, err)
	assert.Equal(t, Size, size)
	assert.Equal(t, byte('x'), base(t, s, Volume)[8*block.Size])

	require.NoError(t, s.Delete(Volume))
	require.NoError(t, s.Delete(Volume))
	hasCode(t, walberr.NotFound, second(s.Size(Volume)))
	again := create(t, s, Volume)
	closed(t, again)
}

func impossibleArguments(t *testing.T, s image.Store) {
	t.Helper()
	for _, vol := range []string{"", ".", "..", "a/b", "a_b", "ä", "vol\x00", string(bytes.Repeat([]byte{'a'}, image.MaxNameLen+1))} {
		for _, err := range []error{
			second(s.Create(vol, Size)), second(s.Open(vol)), second(s.Size(vol)), s.Grow(vol, Size), s.Delete(vol),
			second(s.BeginRestore(t.Context(), vol, 1)), s.CommitRestore(vol, 1), s.AbortRestore(vol, 1),
			second(s.Restored(vol)), second(s.OpenRestored(vol, 1)), s.DeleteRestored(vol, 1), second(s.RemoveLeftovers(vol)),
		} {
			hasCode(t, walberr.Usage, err)
		}
	}
	for _, n := range []block.LB{0, block.MaxLB + 1} {
		hasCode(t, walberr.Range, second(s.Create(Volume, n)))
	}
}

func bounds(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	defer closed(t, img)
	end := Size.Bytes()
	fill(t, img, Size-1, 1, 'e')
	for _, c := range []struct{ off, n int64 }{{end, 512}, {end - 511, 512}, {-1, 512}, {-512, 512}, {1 << 62, 512}} {
		n, err := img.WriteAt(make([]byte, c.n), c.off)
		hasCode(t, walberr.Range, err)
		assert.Zero(t, n)
	}
	for _, r := range []block.Range{{Addr: Size, Len: 1}, {Addr: 1, Len: Size}, {Addr: 1<<64 - 1, Len: 2}} {
		hasCode(t, walberr.Range, img.Zero(r))
	}
	require.NoError(t, img.Zero(block.Range{}))
	_, err := img.ReadAt(make([]byte, 1), end)
	require.ErrorIs(t, err, io.EOF)
	n, err := img.ReadAt(make([]byte, 1024), end-512)
	require.ErrorIs(t, err, io.EOF)
	assert.Equal(t, 512, n)
	img.WriteBack(0, end)
	img.WriteBack(-1, -1)
	require.NoError(t, img.Sync())
	assert.Equal(t, byte('e'), content(t, img)[end-1])
}

func grow(t *testing.T, s image.Store) {
	t.Helper()
	hasCode(t, walberr.NotFound, s.Grow(Volume, Size))
	// Leave something where a volume may be put next.
	dirty, err := s.Create("old", 3*Size)
	require.NoError(t, err)
	fill(t, dirty, 0, 3*Size, 'd')
	require.NoError(t, dirty.Sync())
	closed(t, dirty)
	require.NoError(t, s.Delete("old"))

	img := create(t, s, Volume)
	defer closed(t, img)
	fill(t, img, 0, Size, 'a')
	require.NoError(t, s.Grow(Volume, Size))
	hasCode(t, walberr.Range, s.Grow(Volume, Size-1))
	require.NoError(t, s.Grow(Volume, 2*Size))
	assert.Equal(t, Size, img.Size(), "open images keep their size")
	size, err := s.Size(Volume)
	require.NoError(t, err)
	assert.Equal(t, 2*Size, size)
	got := base(t, s, Volume)
	same(t, content(t, img), got[:Size.Bytes()], "the old part")
	assert.True(t, block.IsZero(got[Size.Bytes():]), "the new part is zeros")
}

func zero(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	defer closed(t, img)
	fill(t, img, 0, Size, 'a')
	require.NoError(t, img.Sync())
	r := block.Range{Addr: 1003, Len: 1001} // on no border of anything
	require.NoError(t, img.Zero(r))
	for range 2 {
		got := content(t, img)
		assert.True(t, block.IsZero(got[r.Addr.Bytes():r.End().Bytes()]))
		for _, p := range [][]byte{got[:r.Addr.Bytes()], got[r.End().Bytes():]} {
			same(t, bytes.Repeat([]byte{'a'}, len(p)), p, "beside the zeros")
		}
		require.NoError(t, img.Sync())
	}
	require.NoError(t, img.Clear())
	assert.True(t, block.IsZero(content(t, img)))
}

// zeroLikeAModel writes and zeroes at random beside a flat twin.
func zeroLikeAModel(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	model := make([]byte, Size.Bytes())
	rnd := rand.New(rand.NewPCG(3, 3))
	for i := range 200 {
		addr := block.LB(rnd.IntN(int(Size)))
		n := min(Size-addr, block.LB(1+rnd.IntN(600)))
		part := model[addr.Bytes():(addr + n).Bytes()]
		if rnd.IntN(2) == 0 {
			clear(part)
			require.NoError(t, img.Zero(block.Range{Addr: addr, Len: n}))
			continue
		}
		fill(t, img, addr, n, byte(1+i))
		copy(part, bytes.Repeat([]byte{byte(1 + i)}, len(part)))
	}
	same(t, model, content(t, img), "while open")
	require.NoError(t, img.Sync())
	closed(t, img)
	same(t, model, base(t, s, Volume), "opened again")
}

func nextData(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	defer closed(t, img)
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		addr := block.LB(rnd.IntN(int(Size) - 20))
		fill(t, img, addr, block.LB(1+rnd.IntN(20)), 'x')
		walkData(t, img)
	}
	r, err := img.NextData(t.Context(), Size+5)
	require.NoError(t, err)
	assert.Equal(t, block.Range{Addr: Size}, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, second(img.NextData(ctx, 0)), context.Canceled)
}

// walkData checks that what NextData skips is zeros, and that it ends.
func walkData(t *testing.T, img image.Image) {
	t.Helper()
	whole := content(t, img)
	for at := block.LB(0); ; {
		r, err := img.NextData(t.Context(), at)
		require.NoError(t, err)
		require.GreaterOrEqual(t, r.Addr, at)
		require.LessOrEqual(t, r.End(), img.Size())
		require.True(t, block.IsZero(whole[at.Bytes():r.Addr.Bytes()]), "skipped blocks from %d are zeros", at)
		if r.Len == 0 {
			require.Equal(t, img.Size(), r.Addr)
			return
		}
		at = r.End()
	}
}

func restore(t *testing.T, s image.Store) {
	t.Helper()
	hasCode(t, walberr.NotFound, second(s.BeginRestore(t.Context(), Volume, 5)))
	img := create(t, s, Volume)
	fill(t, img, 100, 50, 'b')
	fill(t, img, 4000, 96, 'c')

	tmp, err := s.BeginRestore(t.Context(), Volume, 5)
	require.NoError(t, err)
	same(t, content(t, img), content(t, tmp), "also what was not synced")
	list, err := s.Restored(Volume)
	require.NoError(t, err)
	assert.Empty(t, list, "not restored yet")
	fill(t, tmp, 100, 1, 'z')
	require.NoError(t, tmp.Zero(block.Range{Addr: 4000, Len: 3}))
	assert.Equal(t, byte('b'), content(t, img)[100*block.Size], "the base is another image")
	assert.Equal(t, byte('c'), content(t, img)[4000*block.Size])
	want := content(t, tmp)
	require.NoError(t, tmp.Sync())
	closed(t, tmp)
	closed(t, img)
	require.NoError(t, s.CommitRestore(Volume, 5))

	hasCode(t, walberr.Conflict, second(s.BeginRestore(t.Context(), Volume, 5)))
	hasCode(t, walberr.Conflict, s.CommitRestore(Volume, 5))
	hasCode(t, walberr.NotFound, s.CommitRestore(Volume, 6))
	same(t, want, restored(t, s, 5), "restored")
	require.NoError(t, s.DeleteRestored(Volume, 5))
	hasCode(t, walberr.NotFound, s.DeleteRestored(Volume, 5))
	hasCode(t, walberr.NotFound, second(s.OpenRestored(Volume, 5)))
	require.NoError(t, s.Delete(Volume))
}

// restoreTo makes a restored image.
func restoreTo(t *testing.T, s image.Store, gid meta.Gid) {
	t.Helper()
	tmp, err := s.BeginRestore(t.Context(), Volume, gid)
	require.NoError(t, err)
	require.NoError(t, tmp.Sync())
	closed(t, tmp)
	require.NoError(t, s.CommitRestore(Volume, gid))
}

func manyRestored(t *testing.T, s image.Store) {
	t.Helper()
	closed(t, create(t, s, Volume))
	for _, gid := range []meta.Gid{12, 3, meta.MaxGid} {
		restoreTo(t, s, gid)
	}
	list, err := s.Restored(Volume)
	require.NoError(t, err)
	assert.Equal(t, []meta.Gid{3, 12, meta.MaxGid}, list)
	assert.NotEqual(t, s.RestoredPath(Volume, 3), s.RestoredPath(Volume, 12))
	for _, gid := range list {
		require.NoError(t, s.DeleteRestored(Volume, gid))
	}
}

// baseChangesLater writes to the base as an apply does, all of it: restored
// images keep what they had.
func baseChangesLater(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	fill(t, img, 0, Size, '1')
	restoreTo(t, s, 1)
	fill(t, img, 0, Size, '2')
	require.NoError(t, img.Sync())
	restoreTo(t, s, 2)
	require.NoError(t, img.Zero(block.Range{Len: Size}))
	require.NoError(t, img.Sync())
	closed(t, img)
	for gid, b := range map[meta.Gid]byte{1: '1', 2: '2'} {
		same(t, bytes.Repeat([]byte{b}, int(Size.Bytes())), restored(t, s, gid), "restored")
	}
	assert.True(t, block.IsZero(base(t, s, Volume)))
}

func abortAndLeftovers(t *testing.T, s image.Store) {
	t.Helper()
	closed(t, create(t, s, Volume))
	require.NoError(t, s.AbortRestore(Volume, 7), "nothing to abort")
	for _, gid := range []meta.Gid{7, 8} {
		tmp, err := s.BeginRestore(t.Context(), Volume, gid)
		require.NoError(t, err)
		fill(t, tmp, 0, 1, 'l')
		closed(t, tmp)
	}
	tmp, err := s.BeginRestore(t.Context(), Volume, 7) // instead of the first
	require.NoError(t, err)
	assert.True(t, block.IsZero(content(t, tmp)), "begun anew")
	closed(t, tmp)
	require.NoError(t, s.AbortRestore(Volume, 7))
	hasCode(t, walberr.NotFound, s.CommitRestore(Volume, 7))
	restoreTo(t, s, 9)
	n, err := s.RemoveLeftovers(Volume)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	n, err = s.RemoveLeftovers(Volume)
	require.NoError(t, err)
	assert.Zero(t, n)
	list, err := s.Restored(Volume)
	require.NoError(t, err)
	assert.Equal(t, []meta.Gid{9}, list)
}

func givenUp(t *testing.T, s image.Store) {
	t.Helper()
	img := create(t, s, Volume)
	fill(t, img, 0, Size, 'a')
	closed(t, img)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if tmp, err := s.BeginRestore(ctx, Volume, 1); err == nil { // where it is done in no time
		closed(t, tmp)
		require.NoError(t, s.AbortRestore(Volume, 1))
	}
	n, err := s.RemoveLeftovers(Volume)
	require.NoError(t, err)
	assert.Zero(t, n, "nothing is left behind")
}

func twoVolumes(t *testing.T, s image.Store) {
	t.Helper()
	closed(t, create(t, s, Volume))
	other := create(t, s, "old")
	fill(t, other, 0, 1, 'o')
	closed(t, other)
	restoreTo(t, s, 4)
	list, err := s.Restored("old")
	require.NoError(t, err)
	assert.Empty(t, list)
	require.NoError(t, s.Delete("old"))
	assert.True(t, block.IsZero(restored(t, s, 4)))
}
