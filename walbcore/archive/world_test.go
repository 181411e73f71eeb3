package archive

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

var snappy = compress.Opt{Type: compress.Snappy, CPUs: 1}

// world is a volume at its storage, with all that it ever was: the dumb model
// that archives are compared with.
type world struct {
	rnd   *rand.Rand
	size  block.LB
	uuid  meta.UUID
	time  uint64
	gid   meta.Gid
	image []byte
	at    map[meta.Gid][]byte // the image at each snapshot
}

// change is what happened to a block since the last snapshot.
type change byte

const (
	unchanged change = iota
	written
	discarded
)

func newWorld(seed uint64, size block.LB) *world {
	w := &world{
		rnd: rand.New(rand.NewPCG(seed, 1)), size: size, uuid: meta.UUID{1, byte(seed)}, time: 1_700_000_000,
		image: make([]byte, size.Bytes()), at: map[meta.Gid][]byte{},
	}
	w.writes(int(size)/16+1, make([]change, size))
	return w
}

// writes makes n random writes, of which some are zeros and some discards.
func (w *world) writes(n int, changes []change) {
	for range n {
		addr := block.LB(w.rnd.Uint64N(uint64(w.size)))
		length := min(1+block.LB(w.rnd.Uint64N(24)), w.size-addr)
		part := w.image[addr.Bytes():(addr + length).Bytes()]
		kind := written
		switch w.rnd.IntN(6) {
		case 0:
			kind = discarded
			clear(part)
		case 1:
			clear(part)
		case 2:
			for i := range part {
				part[i] = byte(addr) // compresses well
			}
		default:
			for i := range part {
				part[i] = byte(w.rnd.Uint32())
			}
		}
		for b := addr; b < addr+length; b++ {
			changes[b] = kind
		}
	}
}

// next makes writes and a snapshot, and gives the diff that leads to it.
func (w *world) next(t testing.TB, writes int, mergeable bool) (meta.Diff, []byte) {
	t.Helper()
	changes := make([]change, w.size)
	w.writes(writes, changes)
	var file bytes.Buffer
	sorted, err := wdiff.NewSortedWriter(&file, "diff", w.uuid, w.size)
	require.NoError(t, err)
	for addr := block.LB(0); addr < w.size; {
		end := addr + 1
		for end < w.size && changes[end] == changes[addr] && end-addr < 32 {
			end++
		}
		rec := wdiff.IO{Addr: addr, Blocks: end - addr, Kind: wdiff.Discard}
		if changes[addr] == written {
			rec, err = wdiff.NewIO(addr, w.image[addr.Bytes():end.Bytes()], nil, snappy)
			require.NoError(t, err)
		}
		if changes[addr] != unchanged {
			require.NoError(t, sorted.Add(&rec))
		}
		addr = end
	}
	require.NoError(t, sorted.Close())
	w.gid++
	w.time++
	w.at[w.gid] = bytes.Clone(w.image)
	d := meta.Diff{
		B: meta.CleanSnap(w.gid - 1), E: meta.CleanSnap(w.gid),
		Mergeable: mergeable, Timestamp: w.time, Size: uint64(file.Len()),
	}
	return d, file.Bytes()
}

// grow makes the volume larger.
func (w *world) grow(size block.LB) {
	w.image = append(w.image, make([]byte, (size-w.size).Bytes())...)
	w.size = size
}

// The world is the storage's side of a full backup.

func (w *world) Accepted(context.Context) error                       { return nil }
func (w *world) ResetLog(context.Context) (meta.UUID, error)          { return w.uuid, nil }
func (w *world) Begun(context.Context) error                          { return nil }
func (w *world) Snapshot(context.Context) (meta.Gid, error)           { return w.gid + 1, nil }
func (w *world) Source(context.Context) (transfer.BlockSource, error) { return w, nil }

func (w *world) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(w.image).ReadAt(p, off)
}

func (w *world) NextData(_ context.Context, from block.LB) (block.Range, error) {
	for from < w.size && block.IsZero(w.image[from.Bytes():][:block.Size]) {
		from++
	}
	return block.Range{Addr: from, Len: w.size - from}, nil
}

// bulk is the bulk of full backups in tests.
const bulk block.LB = 16

// backup makes a full backup to an archive.
func (w *world) backup(t testing.TB, addr, vol string) error {
	t.Helper()
	c := dial(t, addr, "st0", wire.ProtoFullSync)
	defer c.Close()
	return w.backupOn(t.Context(), c, vol, w)
}

func (w *world) backupOn(ctx context.Context, c *wire.Conn, vol string, src transfer.BackupSource) error {
	return transfer.SendFullBackup(ctx, c, wire.FullSyncRequest{
		HostType: wire.HostStorage, Volume: vol, Size: w.size, Timestamp: w.time, Bulk: bulk, Compress: snappy,
	}, src, transfer.Options{})
}

// send ships diffs, merged into one, as a proxy does.
func (w *world) send(t testing.TB, addr, vol string, d meta.Diff, files ...[]byte) error {
	t.Helper()
	c := dial(t, addr, "px0", wire.ProtoWdiffTransfer)
	defer c.Close()
	diffs := make([]*wdiff.File, len(files))
	for i, p := range files {
		f, err := wdiff.Open("diff", bytes.NewReader(p), int64(len(p)))
		require.NoError(t, err)
		diffs[i] = f
	}
	return transfer.SendWdiff(t.Context(), c, wire.WdiffRequest{
		Volume: vol, HostType: wire.HostProxy, UUID: w.uuid, Size: w.size, Diff: d,
	}, diffs, snappy, transfer.Options{})
}

// ship makes writes and a snapshot, and ships the diff.
func (w *world) ship(t testing.TB, addr, vol string, mergeable bool) {
	t.Helper()
	d, file := w.next(t, 8, mergeable)
	require.NoError(t, w.send(t, addr, vol, d, file))
}

func dial(t testing.TB, addr, id, protocol string) *wire.Conn {
	t.Helper()
	c, err := wire.Dial(t.Context(), addr, testWire)
	require.NoError(t, err)
	_, err = wire.ClientHello(c, id, protocol)
	require.NoError(t, err)
	return c
}

// sameAs demands that every snapshot that the archive lists is in the model,
// and restores to the same image. It gives the gids.
func (r *rig) sameAs(t testing.TB, vol string, w *world) []meta.Gid {
	t.Helper()
	list, err := r.client().Restorable(t.Context(), vol, true)
	require.NoError(t, err)
	var gids []meta.Gid
	for _, s := range list {
		gids = append(gids, s.Gid)
		require.Contains(t, w.at, s.Gid)
		require.True(t, bytes.Equal(w.at[s.Gid], r.restore(t, vol, s.Gid)), "snapshot %d of %v", s.Gid, slices.Sorted(maps.Keys(w.at)))
	}
	return gids
}

// restore restores a snapshot by command, and gives the image, which it
// removes again.
func (r *rig) restore(t testing.TB, vol string, gid meta.Gid) []byte {
	t.Helper()
	require.NoError(t, r.client().Restore(t.Context(), vol, gid))
	r.awaitIdle(t, vol)
	restored, err := r.client().Restored(t.Context(), vol)
	require.NoError(t, err)
	require.Contains(t, restored, gid)
	image := readImage(t, r.s, vol, gid)
	require.NoError(t, r.client().DelRestored(t.Context(), vol, gid))
	return image
}

func readImage(t testing.TB, s *Server, vol string, gid meta.Gid) []byte {
	t.Helper()
	img, err := s.cfg.Store.OpenRestored(vol, gid)
	require.NoError(t, err)
	return content(t, img)
}

// content reads an image and closes it.
func content(t testing.TB, img image.Image) []byte {
	t.Helper()
	defer img.Close()
	p := make([]byte, img.Size().Bytes())
	_, err := img.ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

// offline is sameAs at a server that does not run.
func offline(t testing.TB, s *Server, vol string, w *world) []meta.Gid {
	t.Helper()
	v, err := s.volume(vol, false)
	require.NoError(t, err)
	f := v.facts()
	var gids []meta.Gid
	f.view(func(m *meta.Manager) {
		for _, r := range m.Restorable(f.base, true) {
			gids = append(gids, r.Gid)
		}
	})
	for _, gid := range gids {
		require.NoError(t, s.restoreOnce(t.Context(), v, gid))
		require.True(t, bytes.Equal(w.at[gid], readImage(t, s, vol, gid)), "snapshot %d", gid)
		require.NoError(t, s.cfg.Store.DeleteRestored(vol, gid))
	}
	return gids
}
