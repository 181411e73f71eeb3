package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// HashStream is the shape of a hash stream, as both sides agreed on it.
type HashStream struct {
	Size     block.LB     // blocks compared, from the first one on
	Bulk     block.LB     // blocks per hash, 1 to MaxBulk; the last one may be shorter
	Seed     uint32       // of the hashes
	Compress compress.Opt // of the differences
	Phase    Phase        // under which progress is reported
}

// Limits of a hash stream.
const (
	// maxPackSpan is how far, in blocks, a pack may reach before it is sent.
	maxPackSpan block.LB = 256 << 20 / block.Size
	// hashPatience is how long a side may be silent. It is what the original
	// allows with its default timeout, four tries of 10 s and pauses between.
	hashPatience = 47 * time.Second
	// hashFlush is how long what was written may stay in the buffer while
	// there is more to do.
	hashFlush = time.Second
	// hashBurst is how many hashes are sent at a time at most.
	hashBurst = 32
)

// blocks is the stream as one that is read block by block; workers hash.
func (s HashStream) blocks() BlockStream {
	return BlockStream{Size: s.Size, Bulk: s.Bulk, Compress: compress.Opt{CPUs: 2}}
}

// bulks is the number of bulks.
func (s HashStream) bulks() uint64 { return uint64((s.Size + s.Bulk - 1) / s.Bulk) }

// hash is what workers do with bulks that were read.
func (s HashStream) hash(f *outFrame) error {
	f.hash = checksum.Murmur3(f.raw, s.Seed)
	return nil
}

// zeroHash gives the hash of zero bulks, whose length is always the same but
// for the last one.
type zeroHash struct {
	seed   uint32
	zeros  []byte
	length block.LB
	known  checksum.Hash
}

func (z *zeroHash) of(blocks block.LB) checksum.Hash {
	if blocks != z.length {
		n := int(blocks.Bytes())
		if n > len(z.zeros) {
			z.zeros = make([]byte, n)
		}
		z.length, z.known = blocks, checksum.Murmur3(z.zeros[:n], z.seed)
	}
	return z.known
}

// ReceiveDifferences is the side with the old image of a hash stream: it sends
// the hashes of the old image, and takes the differences of the new one in as
// packs of w, which it does not close. op names the conversation in errors.
// When it returns nil the whole image was compared.
func ReceiveDifferences(ctx context.Context, c *wire.Conn, old BlockSource, s HashStream, w *wdiff.SortedWriter, op string, o Options) error {
	defer c.Patience(hashPatience)()
	ctx, cancel := context.WithCancelCause(ctx)
	sent := make(chan error, 1)
	go func() { sent <- sendHashes(ctx, c, old, s) }()
	err := takeDifferences(c, s, w, op, o)
	if err != nil {
		cancel(err) // nobody wants the rest of the hashes
		release := c.Bind(ctx)
		defer release()
	}
	sendErr := <-sent
	cancel(nil)
	unread := sendErr != nil && c.W.Err() == nil && !errors.Is(sendErr, err)
	if err == nil || unread {
		return sendErr
	}
	return err
}

// sendHashes sends the hash of every bulk. When the image cannot be read it
// tells the peer.
func sendHashes(ctx context.Context, c *wire.Conn, old BlockSource, s HashStream) error {
	zero, burst := zeroHash{seed: s.Seed}, 0
	send := func(h checksum.Hash) {
		c.W.U8(wire.CtlNext)
		c.W.Raw(h[:])
	}
	err := eachBulk(ctx, c, old, s.blocks(), s.hash, func(f *outFrame) error {
		if f.data {
			send(f.hash)
			if burst++; burst < hashBurst {
				return c.W.Err()
			}
			burst = 0
			return c.Flush()
		}
		for pos := f.pos; pos < f.end; pos += s.Bulk {
			send(zero.of(min(s.Bulk, f.end-pos)))
			if c.W.Err() != nil {
				break
			}
		}
		return c.W.Err()
	})
	if err == nil {
		c.W.U8(wire.CtlEnd)
		return c.Flush()
	}
	if c.W.Err() == nil && ctx.Err() == nil {
		c.W.U8(wire.CtlError)
		_ = c.Flush() // if it cannot be sent, the closed connection tells the peer
	}
	return err
}

// takeDifferences takes packs until the peer ends.
func takeDifferences(c *wire.Conn, s HashStream, w *wdiff.SortedWriter, op string, o Options) error {
	total, compared := s.bulks(), uint64(0)
	for {
		switch ctl := c.R.U8(); {
		case c.R.Err() != nil:
			return c.R.Err()
		case ctl == wire.CtlDummy:
			if compared++; compared > total {
				return violation(op, "more bulks compared than there are", fmt.Sprint(total))
			}
			o.report(c, s.Phase, min(compared*uint64(s.Bulk.Bytes()), uint64(s.Size.Bytes())), uint64(s.Size.Bytes()))
		case ctl == wire.CtlNext:
			size := c.R.U64()
			if err := c.R.Err(); err != nil {
				return err
			}
			if err := w.CopyPack(rawReader{c.R}, size); err != nil {
				return err
			}
		case ctl == wire.CtlEnd:
			if compared != total {
				return violation(op, fmt.Sprintf("the end after %d bulks", compared), fmt.Sprint(total))
			}
			return nil
		case ctl == wire.CtlError:
			return violation(op, "client sent an error", "differences")
		default:
			return violation(op, fmt.Sprintf("control byte %d", ctl), "0 (pack), 1 (end), 2 (error) or 3 (compared)")
		}
	}
}

// SendDifferences is the side with the new image of a hash stream: it takes the
// hashes of the old image, and sends what is not as there.
func SendDifferences(ctx context.Context, c *wire.Conn, src BlockSource, s HashStream, o Options) error {
	defer c.Patience(hashPatience)()
	d := &differ{c: c, s: s, o: o, zero: zeroHash{seed: s.Seed}, pack: wdiff.NewPackBuilder(), flushed: time.Now()}
	err := eachBulk(ctx, c, src, s.blocks(), s.hash, d.compare)
	if err != nil {
		return err
	}
	if err := d.control(wire.CtlEnd, "1 (end)"); err != nil {
		return err
	}
	if err := d.send(); err != nil {
		return err
	}
	c.W.U8(wire.CtlEnd)
	return c.Flush()
}

// differ compares bulks with the hashes that come from the peer.
type differ struct {
	c       *wire.Conn
	s       HashStream
	o       Options
	zero    zeroHash
	pack    *wdiff.PackBuilder // differences not sent yet
	stored  []byte
	flushed time.Time
}

// compare compares a bulk, or a run of zero bulks.
func (d *differ) compare(f *outFrame) error {
	if f.data {
		return d.bulk(f.pos, f.end-f.pos, f.hash, f.raw)
	}
	for pos := f.pos; pos < f.end; pos += d.s.Bulk {
		n := min(d.s.Bulk, f.end-pos)
		if err := d.bulk(pos, n, d.zero.of(n), nil); err != nil {
			return err
		}
	}
	return nil
}

// bulk compares one bulk; without data it is a zero one.
func (d *differ) bulk(pos, blocks block.LB, own checksum.Hash, data []byte) error {
	if err := d.control(wire.CtlNext, "0 (hash)"); err != nil {
		return err
	}
	var theirs checksum.Hash
	d.c.R.Raw(theirs[:])
	if err := d.c.R.Err(); err != nil {
		return err
	}
	d.c.W.U8(wire.CtlDummy)
	if d.pack.Len() > 0 && pos-d.pack.First() >= maxPackSpan {
		if err := d.send(); err != nil {
			return err
		}
	}
	if own != theirs {
		if err := d.add(pos, blocks, data); err != nil {
			return err
		}
	}
	d.o.report(d.c, d.s.Phase, uint64((pos + blocks).Bytes()), uint64(d.s.Size.Bytes()))
	if time.Since(d.flushed) < hashFlush {
		return d.c.W.Err()
	}
	d.flushed = time.Now()
	return d.c.Flush()
}

// add puts a bulk that differs into the pack.
func (d *differ) add(pos, blocks block.LB, data []byte) error {
	rec := wdiff.IO{Addr: pos, Blocks: blocks, Kind: wdiff.AllZero}
	if data != nil {
		var err error
		if rec, err = wdiff.NewIO(pos, data, d.stored, d.s.Compress); err != nil {
			return err
		}
		if rec.Codec != compress.None {
			d.stored = rec.Data
		}
	}
	if d.pack.Add(&rec) {
		return nil
	}
	if err := d.send(); err != nil {
		return err
	}
	d.pack.Add(&rec)
	return nil
}

// send sends the pack, if there is one.
func (d *differ) send() error {
	if d.pack.Len() == 0 {
		return nil
	}
	return d.pack.Take(func(p []byte) error { return sendPack(d.c, p, func(int) {}) })
}

// control reads a control byte, which must be the wanted one.
func (d *differ) control(want uint8, name string) error {
	const op = "hash stream"
	ctl := d.c.R.U8()
	switch {
	case d.c.R.Err() != nil:
		return d.c.R.Err()
	case ctl == wire.CtlError:
		return violation(op, "the peer could not read its image", "hashes")
	case ctl != want:
		return violation(op, fmt.Sprintf("control byte %d", ctl), name)
	}
	return nil
}

// CompareSink takes the differences to an image of ours in: a sorted wdiff file.
type CompareSink interface {
	DiffSink
	// Old is the image that is compared with. It does not change, and is
	// valid until Close. It is not smaller than the stream.
	Old() BlockSource
}

// receiveCompared takes the differences in, as a sorted file in the sink, which
// is written and closed but not committed on return.
func receiveCompared(ctx context.Context, c *wire.Conn, sink CompareSink, op string, uuid meta.UUID, s HashStream, o Options) error {
	f := newSyncedFile(sink)
	defer func() { _ = f.syncer.wait() }() // its failure was reported before, or another one was
	w, err := wdiff.NewSortedWriter(f, op, uuid, s.Size)
	if err != nil {
		return err
	}
	if err := ReceiveDifferences(ctx, c, sink.Old(), s, w, op, o); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.finish()
}
