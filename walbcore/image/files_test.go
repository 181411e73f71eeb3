package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

const size = block.LB(4096) // 2 MiB

func newStore(t *testing.T) *Files {
	t.Helper()
	base := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(base, "vol"), 0o755))
	return NewFiles(base)
}

// create makes the base image of vol; it is closed at the end of the test.
func create(t *testing.T, s *Files) Image {
	t.Helper()
	img, err := s.Create("vol", size)
	require.NoError(t, err)
	t.Cleanup(func() { _ = img.Close() })
	return img
}

func fill(t *testing.T, img Image, r block.Range, b byte) {
	t.Helper()
	n, err := img.WriteAt(bytes.Repeat([]byte{b}, int(r.Len.Bytes())), r.Addr.Bytes())
	require.NoError(t, err)
	require.Equal(t, int(r.Len.Bytes()), n)
}

func content(t *testing.T, img Image) []byte {
	t.Helper()
	p := make([]byte, img.Size().Bytes())
	_, err := img.ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

// dataRanges walks NextData and checks that what it skips is zeros.
func dataRanges(t *testing.T, img Image) []block.Range {
	t.Helper()
	whole := content(t, img)
	var list []block.Range
	at := block.LB(0)
	for {
		r, err := img.NextData(t.Context(), at)
		require.NoError(t, err)
		require.GreaterOrEqual(t, r.Addr, at)
		require.LessOrEqual(t, r.End(), img.Size())
		require.True(t, block.IsZero(whole[at.Bytes():r.Addr.Bytes()]), "skipped blocks from %d are zeros", at)
		if r.Len == 0 {
			require.Equal(t, img.Size(), r.Addr)
			return list
		}
		list = append(list, r)
		at = r.End()
	}
}

// TestDataBehindAHoleThatIsJustMade is found all the same: what NextData leaves
// out is taken for zeros.
func TestDataBehindAHoleThatIsJustMade(t *testing.T) {
	img := create(t, newStore(t))
	first, last := block.Range{Len: 8}, block.Range{Addr: size - 8, Len: 8}
	fill(t, img, last, 'x')
	if r, err := img.NextData(t.Context(), 0); err != nil || r != last {
		t.Skip("this file system does not tell holes")
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		var err error
		for data := bytes.Repeat([]byte{'y'}, int(first.Len.Bytes())); ctx.Err() == nil && err == nil; {
			if _, err = img.WriteAt(data, 0); err == nil {
				err = img.Zero(first)
			}
		}
		ended <- err
	}()
	defer func() { assert.NoError(t, <-ended) }()
	defer stop()
	for range 5000 {
		r, err := img.NextData(t.Context(), 0)
		require.NoError(t, err)
		require.NotZero(t, r.Len, "nothing from block 0 on")
	}
}

// space is how much disk a file takes, in bytes.
func space(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	require.NoError(t, syscall.Stat(path, &st))
	return st.Blocks * 512
}

func TestCreateOpenDelete(t *testing.T) {
	s := newStore(t)
	_, err := s.Open("vol")
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	img := create(t, s)
	assert.Equal(t, size, img.Size())
	assert.Equal(t, filepath.Join(s.base, "vol", "wb_vol"), s.Path("vol"))
	assert.True(t, block.IsZero(content(t, img)))
	assert.Zero(t, space(t, s.Path("vol")), "a new image is one hole")
	_, err = s.Create("vol", size)
	assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)

	fill(t, img, block.Range{Addr: 8, Len: 8}, 'x')
	again, err := s.Open("vol")
	require.NoError(t, err)
	assert.Equal(t, content(t, img), content(t, again))
	require.NoError(t, again.Close())
	got, err := s.Size("vol")
	require.NoError(t, err)
	assert.Equal(t, size, got)

	require.NoError(t, s.Delete("vol"))
	require.NoError(t, s.Delete("vol"))
	_, err = s.Size("vol")
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	assert.Equal(t, byte('x'), content(t, img)[8*block.Size], "an open image stays readable")
}

func TestImpossibleArguments(t *testing.T) {
	s := newStore(t)
	for _, vol := range []string{"", ".", "..", "a/b", "a_b", "ä", "vol\x00", string(bytes.Repeat([]byte{'a'}, 65))} {
		for _, err := range []error{
			first(s.Create(vol, size)), first(s.Open(vol)), first(s.Size(vol)), s.Grow(vol, size), s.Delete(vol),
			first(s.BeginRestore(t.Context(), vol, 1)), s.CommitRestore(vol, 1), s.AbortRestore(vol, 1),
			first(s.Restored(vol)), first(s.OpenRestored(vol, 1)), s.DeleteRestored(vol, 1), first(s.RemoveLeftovers(vol)),
		} {
			require.True(t, walberr.Is(err, walberr.Usage), "%q: %v", vol, err)
		}
	}
	for _, n := range []block.LB{0, block.MaxLB + 1} {
		_, err := s.Create("vol", n)
		assert.True(t, walberr.Is(err, walberr.Range), "%v", err)
	}

	img := create(t, s)
	end := size.Bytes()
	for _, c := range []struct{ off, n int64 }{{end, 512}, {end - 511, 512}, {-1, 512}, {-512, 512}, {1 << 62, 512}} {
		n, err := img.WriteAt(make([]byte, c.n), c.off)
		assert.True(t, walberr.Is(err, walberr.Range), "%v", err)
		assert.Zero(t, n)
	}
	for _, r := range []block.Range{{Addr: size, Len: 1}, {Addr: 1, Len: size}, {Addr: 1<<64 - 1, Len: 2}} {
		assert.True(t, walberr.Is(img.Zero(r), walberr.Range), "%s", r)
	}
	require.NoError(t, img.Zero(block.Range{}))
	info, err := os.Stat(s.Path("vol"))
	require.NoError(t, err)
	assert.Equal(t, end, info.Size(), "it never gets longer")
	_, err = img.ReadAt(make([]byte, 1), end)
	require.ErrorIs(t, err, io.EOF)

	require.NoError(t, os.Truncate(s.Path("vol"), 513))
	_, err = s.Open("vol")
	assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
}

func first[T any](_ T, err error) error { return err }

func TestGrow(t *testing.T) {
	s := newStore(t)
	assert.True(t, walberr.Is(s.Grow("vol", size), walberr.NotFound))
	img := create(t, s)
	fill(t, img, block.Range{Len: size}, 'a')
	require.NoError(t, s.Grow("vol", size))
	assert.True(t, walberr.Is(s.Grow("vol", size-1), walberr.Range))
	require.NoError(t, s.Grow("vol", size+8))
	assert.Equal(t, size, img.Size(), "open images keep their size")
	larger, err := s.Open("vol")
	require.NoError(t, err)
	defer larger.Close()
	assert.Equal(t, size+8, larger.Size())
	got := content(t, larger)
	assert.Equal(t, content(t, img), got[:size.Bytes()])
	assert.True(t, block.IsZero(got[size.Bytes():]))
}

func TestZeroAndClearGiveUpSpace(t *testing.T) {
	s := newStore(t)
	img := create(t, s)
	fill(t, img, block.Range{Len: size}, 'a')
	require.NoError(t, img.Sync())
	full := space(t, s.Path("vol"))

	hole := block.Range{Addr: 1003, Len: 1001} // not on a page border
	require.NoError(t, img.Zero(hole))
	got := content(t, img)
	assert.True(t, block.IsZero(got[hole.Addr.Bytes():hole.End().Bytes()]))
	for _, p := range [][]byte{got[:hole.Addr.Bytes()], got[hole.End().Bytes():]} {
		assert.Equal(t, bytes.Repeat([]byte{'a'}, len(p)), p)
	}
	assert.Less(t, space(t, s.Path("vol")), full)

	require.NoError(t, img.Clear())
	assert.True(t, block.IsZero(content(t, img)))
	assert.Zero(t, space(t, s.Path("vol")))
	assert.Empty(t, dataRanges(t, img))
}

func TestWriteZerosWhereHolesCannotBePunched(t *testing.T) {
	s := newStore(t)
	img := create(t, s).(*file)
	fill(t, img, block.Range{Len: size}, 'a')
	r := block.Range{Addr: 3, Len: copyChunk/block.Size + 5}
	require.NoError(t, img.writeZeros(r))
	got := content(t, img)
	assert.True(t, block.IsZero(got[r.Addr.Bytes():r.End().Bytes()]))
	assert.Equal(t, byte('a'), got[r.Addr.Bytes()-1])
	assert.Equal(t, byte('a'), got[r.End().Bytes()])
}

func TestNextDataFindsEveryWrite(t *testing.T) {
	s := newStore(t)
	img := create(t, s)
	assert.Empty(t, dataRanges(t, img))
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		addr := block.LB(rnd.IntN(int(size) - 20))
		fill(t, img, block.Range{Addr: addr, Len: block.LB(1 + rnd.IntN(20))}, 'x')
		require.NotEmpty(t, dataRanges(t, img)) // checks the rest itself
	}
	var sum block.LB
	for _, r := range dataRanges(t, img) {
		sum += r.Len
	}
	assert.Less(t, sum, size/2, "holes are seen")

	r, err := img.NextData(t.Context(), size+5)
	require.NoError(t, err)
	assert.Equal(t, block.Range{Addr: size}, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = img.NextData(ctx, 0)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestRestore(t *testing.T) {
	s := newStore(t)
	_, err := s.BeginRestore(t.Context(), "vol", 5)
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
	img := create(t, s)
	fill(t, img, block.Range{Addr: 100, Len: 50}, 'b')
	fill(t, img, block.Range{Addr: 4000, Len: 96}, 'c')
	require.NoError(t, os.WriteFile(s.RestoredPath("vol", 5)+"_tmp", []byte("leftover"), 0o600))

	tmp, err := s.BeginRestore(t.Context(), "vol", 5)
	require.NoError(t, err)
	assert.Equal(t, content(t, img), content(t, tmp))
	assert.Less(t, space(t, s.RestoredPath("vol", 5)+"_tmp"), size.Bytes()/4, "the copy is sparse")
	gids, err := s.Restored("vol")
	require.NoError(t, err)
	assert.Empty(t, gids, "not restored yet")

	fill(t, tmp, block.Range{Addr: 100, Len: 1}, 'z')
	assert.Equal(t, byte('b'), content(t, img)[100*block.Size], "the base is another file")
	want := content(t, tmp)
	require.NoError(t, tmp.Sync())
	require.NoError(t, tmp.Close())
	require.NoError(t, s.CommitRestore("vol", 5))

	_, err = s.BeginRestore(t.Context(), "vol", 5)
	assert.True(t, walberr.Is(err, walberr.Conflict), "%v", err)
	assert.True(t, walberr.Is(s.CommitRestore("vol", 5), walberr.Conflict))
	assert.True(t, walberr.Is(s.CommitRestore("vol", 6), walberr.NotFound))

	got, err := s.OpenRestored("vol", 5)
	require.NoError(t, err)
	assert.Equal(t, want, content(t, got))
	require.NoError(t, got.Close())
	require.NoError(t, s.DeleteRestored("vol", 5))
	assert.True(t, walberr.Is(s.DeleteRestored("vol", 5), walberr.NotFound))
	_, err = s.OpenRestored("vol", 5)
	assert.True(t, walberr.Is(err, walberr.NotFound), "%v", err)
}

func TestRestoredListAndLeftovers(t *testing.T) {
	s := newStore(t)
	create(t, s)
	for _, gid := range []meta.Gid{12, 3, meta.MaxGid} {
		tmp, err := s.BeginRestore(t.Context(), "vol", gid)
		require.NoError(t, err)
		require.NoError(t, tmp.Close())
		require.NoError(t, s.CommitRestore("vol", gid))
	}
	for _, name := range []string{"wr_vol_007", "wr_vol_x", "wr_vol_", "wr_other_1", "wb_vol_1_tmp", "wr_vol_9_tmp", "wr_vol_8_tmp", "state"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.base, "vol", name), nil, 0o600))
	}
	gids, err := s.Restored("vol")
	require.NoError(t, err)
	assert.Equal(t, []meta.Gid{3, 12, meta.MaxGid}, gids)
	n, err := s.RemoveLeftovers("vol")
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	for _, gid := range []meta.Gid{8, 9} {
		assert.NoFileExists(t, s.RestoredPath("vol", gid)+"_tmp")
	}
	assert.FileExists(t, filepath.Join(s.base, "vol", "wb_vol_1_tmp"))
}

func TestRestoreIsCancelled(t *testing.T) {
	s := newStore(t)
	img := create(t, s)
	fill(t, img, block.Range{Len: size}, 'a')
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dst, err := createFile(filepath.Join(s.base, "vol", "copy"), size)
	require.NoError(t, err)
	defer dst.Close()
	require.ErrorIs(t, copyData(ctx, dst, img.(*file)), context.Canceled)

	if tmp, err := s.BeginRestore(ctx, "vol", 1); err == nil { // a reflink is done in no time
		require.NoError(t, tmp.Close())
		require.NoError(t, s.AbortRestore("vol", 1))
	}
	assert.NoFileExists(t, s.RestoredPath("vol", 1)+"_tmp")
}

// TestCopyIsTheSame copies random images in the way used without reflinks.
func TestCopyIsTheSame(t *testing.T) {
	s := newStore(t)
	img := create(t, s)
	rnd := rand.New(rand.NewPCG(2, 2))
	for i := range 10 {
		addr := block.LB(rnd.IntN(int(size)))
		fill(t, img, block.Range{Addr: addr, Len: min(size-addr, block.LB(1+rnd.IntN(800)))}, byte(rnd.IntN(3)))
		dst, err := createFile(filepath.Join(s.base, "vol", fmt.Sprintf("copy%d", i)), size)
		require.NoError(t, err)
		require.NoError(t, copyData(t.Context(), dst, img.(*file)))
		assert.True(t, bytes.Equal(content(t, img), content(t, dst)))
		require.NoError(t, dst.Close())
	}
}

func TestWriteBackIsAHint(t *testing.T) {
	img := create(t, newStore(t))
	img.WriteBack(0, size.Bytes())
	img.WriteBack(-1, -1)
	require.NoError(t, img.Sync())
	require.NoError(t, img.Close())
	img.WriteBack(0, 1)
	assert.Error(t, img.Sync())
}

// TestReflink needs a file system that can share blocks, such as XFS or
// Btrfs: run with TMPDIR there.
func TestReflink(t *testing.T) {
	s := newStore(t)
	img := create(t, s)
	fill(t, img, block.Range{Len: size}, 'a')
	dst, err := createFile(filepath.Join(s.base, "vol", "copy"), size)
	require.NoError(t, err)
	defer dst.Close()
	err = reflink(dst, img.(*file))
	if err != nil && cannotReflink(err) {
		t.Skipf("no reflinks in %s: %v", s.base, err)
	}
	require.NoError(t, err)
	assert.Equal(t, content(t, img), content(t, dst))
	fill(t, dst, block.Range{Len: 1}, 'b')
	assert.Equal(t, byte('a'), content(t, img)[0])
}
