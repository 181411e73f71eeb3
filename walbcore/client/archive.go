package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// Commands of archives on the images and diffs that they have.

// Apply begins to write the diffs up to gid into the base image of a volume:
// the snapshots before it are gone then. It is accepted as soon as there is one
// diff to apply; a gid behind the newest is as good as the newest.
func (c *Client) Apply(ctx context.Context, vol string, gid meta.Gid) error {
	return c.simple(ctx, wire.ProtoApply, vol, wire.Accept, gid.String())
}

// MergeGid begins to merge the diffs from gid b on, as far as they begin before
// gid e, into one. The implicit snapshots between them are gone then.
func (c *Client) MergeGid(ctx context.Context, vol string, b, e meta.Gid) error {
	return c.simple(ctx, wire.ProtoMerge, vol, wire.Accept, b.String(), "gid", e.String())
}

// MergeSize begins to merge the diffs from gid b on into one, as long as they
// are at most mib MiB in all.
func (c *Client) MergeSize(ctx context.Context, vol string, b meta.Gid, mib uint64) error {
	return c.simple(ctx, wire.ProtoMerge, vol, wire.Accept, b.String(), "size", strconv.FormatUint(mib, 10))
}

// DisableSnapshot makes snapshots implicit: a merge may take them away. A
// snapshot where no diff begins is an error; the others are changed all the same.
func (c *Client) DisableSnapshot(ctx context.Context, vol string, gids ...meta.Gid) error {
	return c.simple(ctx, wire.ProtoDisableSnapshot, vol, wire.OK, gidWords(gids)...)
}

// EnableSnapshot makes snapshots explicit: no merge takes them away. Errors are
// as those of [Client.DisableSnapshot].
func (c *Client) EnableSnapshot(ctx context.Context, vol string, gids ...meta.Gid) error {
	return c.simple(ctx, wire.ProtoEnableSnapshot, vol, wire.OK, gidWords(gids)...)
}

func gidWords(gids []meta.Gid) []string {
	words := make([]string, len(gids))
	for i, g := range gids {
		words[i] = g.String()
	}
	return words
}

// GCDiff removes the diffs that lead to no snapshot.
func (c *Client) GCDiff(ctx context.Context, vol string) error {
	return c.simple(ctx, wire.ProtoGCDiff, vol, wire.OK)
}

// Resize makes a volume larger: an archive its base image, a proxy what it
// takes, a storage what it serves of its device. With zeroClear an archive
// writes zeros to the new part; it may do so after the answer.
func (c *Client) Resize(ctx context.Context, vol string, size block.LB, zeroClear bool) error {
	more := []string{block.FormatSize(size.Bytes())}
	if zeroClear {
		more = append(more, "zeroclear")
	}
	return c.simple(ctx, wire.ProtoResize, vol, wire.OK, more...)
}

// DelCold removes the cold snapshot gid from an archive with thin volumes.
func (c *Client) DelCold(ctx context.Context, vol string, gid meta.Gid) error {
	return c.simple(ctx, wire.ProtoDelCold, vol, wire.OK, gid.String())
}

// ReloadMetadata makes an archive list its diff files anew.
func (c *Client) ReloadMetadata(ctx context.Context, vol string) error {
	return c.simple(ctx, wire.ProtoReloadMetadata, vol, wire.OK)
}

// SetUUID changes the log life that an archive takes diffs from.
func (c *Client) SetUUID(ctx context.Context, vol string, uuid meta.UUID) error {
	return c.simple(ctx, wire.ProtoSetUUID, vol, wire.OK, uuid.String())
}

// SetState changes the state of a volume at an archive, whatever is true.
func (c *Client) SetState(ctx context.Context, vol, state string) error {
	return c.simple(ctx, wire.ProtoSetState, vol, wire.OK, state)
}

// SetBase changes what an archive believes its base image is at.
func (c *Client) SetBase(ctx context.Context, vol string, st meta.State) error {
	return c.simple(ctx, wire.ProtoSetBase, vol, wire.OK, st.Text())
}

// ScanOptions say how an archive reads an image.
type ScanOptions struct {
	Bulk     block.LB // size of the pieces, 1 to 8192 blocks; 0 = 512 blocks (256 KiB)
	Size     block.LB // how much of the image from its begin; 0 = all
	SleepPct int      // share of the time in which the archive rests, 0 to 99
}

// defaultBulk is that of the original's commands.
const defaultBulk block.LB = 512

// maxBulk is the largest piece that servers take.
const maxBulk block.LB = 8192

func (o ScanOptions) bulk() block.LB {
	if o.Bulk == 0 {
		return defaultBulk
	}
	return o.Bulk
}

func (o ScanOptions) check() error {
	if o.Bulk > maxBulk {
		return fmt.Errorf("pieces of %d blocks, at most %d are possible", o.Bulk, maxBulk)
	}
	if o.SleepPct < 0 || o.SleepPct > 99 {
		return fmt.Errorf("a rest of %d percent, 0 to 99 are possible", o.SleepPct)
	}
	return nil
}

// words are the arguments behind the gid. Trailing defaults are left out, save
// that the size must be there for the percentage: the caller knows it then.
func (o ScanOptions) words() []string {
	w := []string{block.FormatSize(o.bulk().Bytes())}
	if o.Size != 0 {
		w = append(w, block.FormatSize(o.Size.Bytes()))
		if o.SleepPct != 0 {
			w = append(w, strconv.Itoa(o.SleepPct))
		}
	}
	return w
}

// BlockHash answers the hash of the snapshot gid of a volume. Two hashes can be
// compared if they were made with the same options. It takes as long as reading
// the image.
func (c *Client) BlockHash(ctx context.Context, vol string, gid meta.Gid, o ScanOptions) (checksum.Hash, error) {
	var hash checksum.Hash
	cmd := command{
		name: wire.ProtoBlockHash, volume: vol, status: wire.Accept,
		body: words(append([]string{vol, gid.String()}, o.words()...)...),
		talk: func(conn *wire.Conn, server string) error {
			for {
				switch ctl := conn.R.U8(); {
				case conn.R.Err() != nil:
					return conn.R.Err()
				case ctl == wire.CtlDummy:
					continue
				case ctl != wire.CtlEnd:
					// An original sends the reason of a failure here, whose first
					// byte is its length: what follows cannot be told apart.
					return &walberr.Error{Op: wire.ProtoBlockHash, Code: walberr.Unavailable, Found: "the archive failed", Hint: "its log says why"}
				}
				if _, err := wire.Status(conn.R, server, wire.OK); err != nil {
					return err
				}
				conn.R.Raw(hash[:])
				return conn.R.Err()
			}
		},
	}
	if err := firstOf(c.checked(cmd), c.usageIf(cmd, o.check())); err != nil {
		return checksum.Hash{}, err
	}
	err := c.once(ctx, cmd)
	return hash, err
}

// VirtualFullScan writes the snapshot gid of a volume to w, from front to back,
// in pieces of the bulk's size; holes are zeros. Only when it returns nil is what
// was written worth anything.
func (c *Client) VirtualFullScan(ctx context.Context, vol string, gid meta.Gid, w io.Writer, o ScanOptions) error {
	cmd := command{
		name: wire.ProtoVirtFullScan, volume: vol, status: wire.Accept,
		body: words(append([]string{vol, gid.String()}, o.words()...)...),
		talk: func(conn *wire.Conn, server string) error {
			size := readBlocks(conn.R)
			if err := receiveScan(ctx, conn.R, w, size, o.bulk()); err != nil {
				return err
			}
			conn.W.Ack()
			if err := conn.Flush(); err != nil {
				return err
			}
			_, err := wire.Status(conn.R, server, wire.OK)
			return err
		},
	}
	if err := firstOf(c.checked(cmd), c.usageIf(cmd, o.check())); err != nil {
		return err
	}
	return c.once(ctx, cmd)
}

// receiveScan takes the pieces of a scan in, with the end.
func receiveScan(ctx context.Context, r *wire.Reader, w io.Writer, size, bulk block.LB) error {
	buf := make([]byte, bulk.Bytes())
	enc := make([]byte, 0, bulk.Bytes())
	for pos := block.LB(0); pos < size && r.Err() == nil; {
		piece := buf[:min(bulk, size-pos).Bytes()]
		if ctl := r.U8(); r.Err() == nil && ctl != wire.CtlNext {
			return &walberr.Error{Op: wire.ProtoVirtFullScan, Code: walberr.Stopped, Found: "the archive broke the scan off", Hint: "its log says why"}
		}
		n := r.U64()
		switch {
		case r.Err() != nil:
			return r.Err()
		case n == 0:
			clear(piece)
		case n > uint64(2*bulk.Bytes()):
			return walberr.Corrupt(wire.ProtoVirtFullScan, fmt.Sprintf("a piece of %d bytes", n), fmt.Sprintf("at most %d", 2*bulk.Bytes()))
		default:
			if uint64(cap(enc)) < n {
				enc = make([]byte, n)
			}
			enc = enc[:n]
			r.Raw(enc)
			if err := errors.Join(r.Err(), ctx.Err()); err != nil {
				return err
			}
			if err := compress.Decompress(piece, enc, compress.Snappy); err != nil {
				return err
			}
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		pos += block.FromBytes(int64(len(piece)))
	}
	if ctl := r.U8(); r.Err() == nil && ctl != wire.CtlEnd {
		return walberr.Corrupt(wire.ProtoVirtFullScan, fmt.Sprintf("control byte %d behind the image", ctl), "1 (end)")
	}
	return r.Err()
}

// Verify makes an archive of ours read all that it has of a volume, at most
// rate bytes a second (0 = as fast as it goes), and gives what cannot be read.
// progress is called now and then with the bytes that are read, and those in
// all; it may be nil.
func (c *Client) Verify(ctx context.Context, vol string, rate uint64, progress func(done, total uint64)) ([]wire.Fault, error) {
	var faults []wire.Fault
	cmd := command{
		name: wire.ProtoVerify, volume: vol, status: wire.OK, body: words(vol, strconv.FormatUint(rate, 10)),
		talk: func(conn *wire.Conn, _ string) error {
			for {
				switch ctl := conn.R.U8(); {
				case conn.R.Err() != nil:
					return conn.R.Err()
				case ctl == wire.CtlEnd:
					return nil
				case ctl == wire.CtlError:
					return &walberr.Error{Op: wire.ProtoVerify, Code: walberr.Unavailable, Found: conn.R.Str(), Err: conn.R.Err()}
				case ctl == wire.CtlDummy:
					done, total := conn.R.U64(), conn.R.U64()
					if conn.R.Err() == nil && progress != nil {
						progress(done, total)
					}
				case ctl == wire.CtlNext:
					f, err := wire.ParseFault(conn.R.Str())
					if err := errors.Join(conn.R.Err(), err); err != nil {
						return err
					}
					faults = append(faults, f)
				default:
					return walberr.Corrupt(wire.ProtoVerify, fmt.Sprintf("control byte %d", ctl), "0 to 3")
				}
			}
		},
	}
	if err := c.checked(cmd); err != nil {
		return nil, err
	}
	err := c.once(ctx, cmd)
	return faults, err
}

// Actions answers how the running or latest action of each kind goes on a
// volume of an archive that has [wire.FeatureActionStatus].
func (c *Client) Actions(ctx context.Context, vol string) ([]wire.ActionStatus, error) {
	return volGet(ctx, c, parsedLines(wire.ParseActionStatus), wire.TargetActions, vol)
}

// Cold answers the gids of the cold snapshots of a volume, ascending.
func (c *Client) Cold(ctx context.Context, vol string) ([]meta.Gid, error) {
	return volGet(ctx, c, parsedLines(meta.ParseGid), wire.TargetCold, vol)
}

// usageIf is usage of an error that may be nil.
func (c *Client) usageIf(cmd command, err error) error {
	if err == nil {
		return nil
	}
	return c.usage(cmd, err)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
