package archive

import (
	"bytes"
	"context"
	"errors"
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
func (w *world) next(writes int, mergeable bool) (meta.Diff, []byte) {
	changes := make([]change, w.size)
	w.writes(writes, changes)
	var file bytes.Buffer
	sorted, err := wdiff.NewSortedWriter(&file, "diff", w.uuid, w.size)
	must(err)
	for addr := block.LB(0); addr < w.size; {
		end := addr + 1
		for end < w.size && changes[end] == changes[addr] && end-addr < 32 {
			end++
		}
		rec := wdiff.IO{Addr: addr, Blocks: end - addr, Kind: wdiff.Discard}
		if changes[addr] == written {
			rec, err = wdiff.NewIO(addr, w.image[addr.Bytes():end.Bytes()], nil, snappy)
			must(err)
		}
		if changes[addr] != unchanged {
			must(sorted.Add(&rec))
		}
		addr = end
	}
	must(sorted.Close())
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

// must is for what cannot fail in memory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// backup makes a full backup to an archive.
func (w *world) backup(ctx context.Context, addr, vol string) error {
	c, err := open(ctx, addr, "st0", wire.ProtoFullSync)
	if err != nil {
		return err
	}
	defer c.Close()
	return w.backupOn(ctx, c, vol, w)
}

func (w *world) backupOn(ctx context.Context, c *wire.Conn, vol string, src transfer.BackupSource) error {
	return transfer.SendFullBackup(ctx, c, wire.FullSyncRequest{
		HostType: wire.HostStorage, Volume: vol, Size: w.size, Timestamp: w.time, Bulk: bulk, Compress: snappy,
	}, src, transfer.Options{})
}

// send ships diffs, merged into one, as a proxy does.
func (w *world) send(ctx context.Context, addr, vol string, d meta.Diff, files ...[]byte) error {
	c, err := open(ctx, addr, "px0", wire.ProtoWdiffTransfer)
	if err != nil {
		return err
	}
	defer c.Close()
	diffs := make([]*wdiff.File, len(files))
	for i, p := range files {
		if diffs[i], err = wdiff.Open("diff", bytes.NewReader(p), int64(len(p))); err != nil {
			return err
		}
	}
	return transfer.SendWdiff(ctx, c, wire.WdiffRequest{
		Volume: vol, HostType: wire.HostProxy, UUID: w.uuid, Size: w.size, Diff: d,
	}, diffs, snappy, transfer.Options{})
}

// ship makes writes and a snapshot, and ships the diff.
func (w *world) ship(t *testing.T, addr, vol string, mergeable bool) {
	t.Helper()
	d, file := w.next(8, mergeable)
	require.NoError(t, w.send(t.Context(), addr, vol, d, file))
}

// open begins a conversation.
func open(ctx context.Context, addr, id, protocol string) (*wire.Conn, error) {
	c, err := wire.Dial(ctx, addr, testWire)
	if err != nil {
		return nil, err
	}
	if _, err := wire.ClientHello(c, id, protocol); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func dial(t *testing.T, addr, id, protocol string) *wire.Conn {
	t.Helper()
	c, err := open(t.Context(), addr, id, protocol)
	require.NoError(t, err)
	return c
}

// sameAs demands that every snapshot that the archive lists is in the model,
// and restores to the same image. It gives the gids.
func (r *rig) sameAs(t *testing.T, vol string, w *world) []meta.Gid {
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
func (r *rig) restore(t *testing.T, vol string, gid meta.Gid) []byte {
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

func readImage(t *testing.T, s *Server, vol string, gid meta.Gid) []byte {
	t.Helper()
	img, err := s.cfg.Store.OpenRestored(vol, gid)
	require.NoError(t, err)
	return content(t, img)
}

// content reads an image and closes it.
func content(t *testing.T, img image.Image) []byte {
	t.Helper()
	defer img.Close()
	p := make([]byte, img.Size().Bytes())
	_, err := img.ReadAt(p, 0)
	require.NoError(t, err)
	return p
}

// offline is sameAs at a server that does not run.
func offline(t *testing.T, s *Server, vol string, w *world) []meta.Gid {
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
