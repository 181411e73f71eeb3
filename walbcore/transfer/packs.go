package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// packBytes is the size at which packs that we make are closed, counted before
// compression. The format allows eight times as much; smaller packs keep both
// sides busy and the memory small.
const packBytes = 4 << 20

// fileBuffer is the buffer in front of a file that is being received.
const fileBuffer = 256 << 10

// sendPacks sends records as a pack stream, without its end.
func sendPacks(ctx context.Context, c *wire.Conn, s wdiff.Stream, opt compress.Opt, sent func(pack int)) error {
	_, err := wdiff.EachPack(ctx, s, wdiff.PackOptions{Opt: opt, MaxBytes: packBytes}, func(p []byte) error {
		return sendPack(c, p, sent)
	})
	return err
}

// copyPacks sends the packs of a sorted file as they are, without the end.
func copyPacks(ctx context.Context, c *wire.Conn, packs *wdiff.Packs, sent func(pack int)) error {
	var buf []byte
	for ctx.Err() == nil {
		p, err := packs.Next(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := sendPack(c, p, sent); err != nil {
			return err
		}
		buf = p
	}
	return context.Cause(ctx)
}

func sendPack(c *wire.Conn, p []byte, sent func(pack int)) error {
	c.W.U8(wire.CtlNext)
	c.W.U64(uint64(len(p)))
	c.W.Raw(p)
	if err := c.Flush(); err != nil {
		return err
	}
	sent(len(p))
	return nil
}

// receiveDiff takes a pack stream in, as a sorted file in the sink, and
// commits it. op names the conversation in errors.
func receiveDiff(ctx context.Context, c *wire.Conn, sink DiffSink, op string, uuid meta.UUID, volume block.LB, o Options) error {
	f := newSyncedFile(sink)
	defer func() { _ = f.syncer.wait() }() // its failure was reported before, or another one was
	w, err := wdiff.NewSortedWriter(f, op, uuid, volume)
	if err != nil {
		return err
	}
	for {
		switch ctl := c.R.U8(); {
		case c.R.Err() != nil:
			return c.R.Err()
		case ctl == wire.CtlEnd:
			if err := w.Close(); err != nil {
				return err
			}
			if err := f.finish(); err != nil {
				return err
			}
			return sink.Commit(ctx)
		case ctl != wire.CtlNext:
			return violation(op, fmt.Sprintf("control byte %d", ctl), "0 (pack) or 1 (end)")
		}
		size := c.R.U64()
		if err := c.R.Err(); err != nil {
			return err
		}
		if err := w.CopyPack(rawReader{c.R}, size); err != nil {
			return err
		}
		o.report(c, PhaseDiff, uint64(w.Size()), 0)
	}
}

// rawReader reads whole pieces, so that an early end is the reader's own error.
type rawReader struct{ r *wire.Reader }

func (r rawReader) Read(p []byte) (int, error) {
	r.r.Raw(p)
	if err := r.r.Err(); err != nil {
		return 0, err
	}
	return len(p), nil
}

// syncedFile buffers what is written to a file, and syncs it beside.
type syncedFile struct {
	*bufio.Writer
	syncer syncer
}

func newSyncedFile(f interface {
	io.Writer
	Sync() error
},
) *syncedFile {
	s := &syncedFile{syncer: syncer{sync: f.Sync}}
	s.Writer = bufio.NewWriterSize(countedFile{f, &s.syncer}, fileBuffer)
	return s
}

// finish writes what is buffered and waits for the sync that is running.
func (s *syncedFile) finish() error {
	if err := s.Flush(); err != nil {
		return err
	}
	return s.syncer.wait()
}

type countedFile struct {
	io.Writer
	syncer *syncer
}

func (f countedFile) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if err == nil {
		err = f.syncer.wrote(int64(n))
	}
	return n, err
}
