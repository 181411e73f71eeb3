package archive

import (
	"io"
	"path"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// damagedStore is a store whose base images have blocks that cannot be read.
type damagedStore struct {
	image.Store
	bad []block.Range
}

// Open implements image.Store.
func (s *damagedStore) Open(vol string) (image.Image, error) {
	img, err := s.Store.Open(vol)
	if err != nil {
		return nil, err
	}
	return &damagedImage{img, s}, nil
}

type damagedImage struct {
	image.Image
	s *damagedStore
}

// ReadAt implements image.Image.
func (m *damagedImage) ReadAt(p []byte, off int64) (int, error) {
	asked := block.Range{Addr: block.FromBytes(off), Len: block.FromBytes(int64(len(p)))}
	for _, bad := range m.s.bad {
		if bad.Addr < asked.End() && asked.Addr < bad.End() {
			return 0, syscall.EIO
		}
	}
	return m.Image.ReadAt(p, off)
}

// TestVerifyNamesWhatIsHurt: each damage, and the snapshots that need what is
// damaged.
func TestVerifyNamesWhatIsHurt(t *testing.T) {
	disk := newDisk()
	cfg := memConfig(disk)
	store := &damagedStore{Store: cfg.Store}
	cfg.Store = store
	r, w := run(t, cfg), newWorld(31, 4096)
	require.NoError(t, r.client().InitVol(t.Context(), "v0", ""))
	require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
	for range 3 {
		w.ship(t, r.addr, "v0", false)
	}
	verify := func() []wire.Fault {
		t.Helper()
		var done, total uint64
		faults, err := r.client().Verify(t.Context(), "v0", 0, func(d, all uint64) { done, total = d, all })
		require.NoError(t, err)
		assert.Equal(t, total, done, "it comes to its end")
		assert.Positive(t, total)
		return faults
	}
	assert.Empty(t, verify())

	// The last range lies over the border of two reads.
	store.bad = []block.Range{{Addr: 16, Len: 8}, {Addr: 104, Len: 1}, {Addr: 2040, Len: 16}}
	list, err := r.client().Restorable(t.Context(), "v0", true)
	require.NoError(t, err)
	var all []meta.Gid
	for _, s := range list {
		all = append(all, s.Gid)
	}
	require.Len(t, all, 3)
	var found []block.Range
	for _, f := range verify() {
		assert.Equal(t, wire.FaultBase, f.What)
		assert.Equal(t, all, f.Hurts)
		assert.Contains(t, f.Error, syscall.EIO.Error())
		found = append(found, block.Range{Addr: f.Addr, Len: f.Blocks})
	}
	assert.Equal(t, []block.Range{{Addr: 16, Len: 8}, {Addr: 104, Len: 8}, {Addr: 2040, Len: 8}, {Addr: 2048, Len: 8}}, found)
	store.bad = nil

	diffs := r.known(t, "v0").facts().diffs.All()
	slices.SortFunc(diffs, func(a, b meta.Diff) int { return int(a.B.B) - int(b.B.B) })
	spoil(t, disk, path.Join(memBase, "v0", diffs[1].FileName())) // a record
	head, err := disk.Open(path.Join(memBase, "v0", diffs[2].FileName()), 2, 0)
	require.NoError(t, err)
	_, err = io.WriteString(io.NewOffsetWriter(head, 0), "this is no diff")
	require.NoError(t, err)
	require.NoError(t, head.Close())
	hurts := map[string][]meta.Gid{}
	for _, f := range verify() {
		hurts[f.What] = f.Hurts
		assert.Positive(t, f.Blocks)
		assert.NotEmpty(t, f.Error)
	}
	assert.Equal(t, map[string][]meta.Gid{diffs[1].FileName(): all[1:], diffs[2].FileName(): all[2:]}, hurts)
}
