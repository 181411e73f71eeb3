package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// maxEncoded is the most bytes that a bulk of n bytes may take on the wire:
// no codec makes data longer than this.
func maxEncoded(n int64) uint64 { return uint64(n + n/4 + 4096) }

// inFrame is one frame of data, or a run of zero frames, on its way to the image.
type inFrame struct {
	pos    block.LB
	blocks block.LB
	zero   bool
	sum    uint32
	enc    []byte
	plain  []byte
}

// blockReceiver is a block stream being received.
type blockReceiver struct {
	c       *wire.Conn
	dst     BlockSink
	s       BlockStream
	o       Options
	cancel  context.CancelCauseFunc
	free    chan *inFrame
	work    chan *inFrame
	pending sync.WaitGroup // frames in the workers' hands
	syncer  syncer
	zeros   block.Range // zero frames not handed on yet
	// checkpoint is called when all below progress is durable; may be nil.
	checkpoint func(ctx context.Context, progress block.LB) error
}

// ReceiveBlocks takes the block stream of a volume in: the calling goroutine
// receives, others verify, expand and write. When it returns nil everything is
// written and synced. checkpoint, which may be nil, is called every
// Options.SyncInterval bytes when everything below progress is durable.
func ReceiveBlocks(ctx context.Context, c *wire.Conn, dst BlockSink, s BlockStream, checkpoint func(ctx context.Context, progress block.LB) error, o Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	workers := workersOf(compress.Opt{CPUs: 2})
	slots := slotsOf(s, workers)
	r := &blockReceiver{
		c: c, dst: dst, s: s, o: o, cancel: cancel, checkpoint: checkpoint,
		free: make(chan *inFrame, slots), work: make(chan *inFrame, slots),
		syncer: syncer{sync: dst.Sync},
	}
	for range slots {
		r.free <- new(inFrame)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = r.syncer.wait() }() // its failure was reported before, or another one was
	defer close(r.work)
	defer cancel(nil)
	// A worker's failure ends the read that the peer may never satisfy.
	defer c.Bind(ctx)()
	for range workers {
		wg.Go(func() { r.write(ctx) })
	}
	return r.receive(ctx)
}

func (r *blockReceiver) receive(ctx context.Context) error {
	interval := block.FromBytes(r.o.syncInterval())
	mark := r.s.Start
	for pos := r.s.Start; pos < r.s.Size; {
		bulk := min(r.s.Bulk, r.s.Size-pos)
		if err := r.frame(ctx, pos, bulk); err != nil {
			return err
		}
		pos += bulk
		r.o.report(r.c, PhaseFull, uint64(pos.Bytes()), uint64(r.s.Size.Bytes()))
		if pos-mark >= interval && pos < r.s.Size {
			mark = pos
			if err := r.settle(ctx); err != nil {
				return err
			}
			if r.checkpoint == nil {
				continue
			}
			if err := r.checkpoint(ctx, pos); err != nil {
				return err
			}
		}
	}
	return r.settle(ctx)
}

// frame receives one frame.
func (r *blockReceiver) frame(ctx context.Context, pos, bulk block.LB) error {
	size := r.c.R.U64()
	if err := r.c.R.Err(); err != nil {
		return err
	}
	if size == 0 {
		if r.zeros.Len == 0 {
			r.zeros.Addr = pos
		}
		r.zeros.Len += bulk
		return nil
	}
	if limit := maxEncoded(bulk.Bytes()); size > limit {
		return violation("receive blocks", fmt.Sprintf("frame of %d bytes for block %d", size, pos), fmt.Sprintf("at most %d", limit))
	}
	if err := r.flushZeros(ctx); err != nil {
		return err
	}
	f, err := r.slot(ctx)
	if err != nil {
		return err
	}
	f.pos, f.blocks, f.zero = pos, bulk, false
	f.sum = r.c.R.U32()
	f.enc = resize(f.enc, int(size))
	r.c.R.Raw(f.enc)
	if err := r.c.R.Err(); err != nil {
		return err
	}
	r.submit(f)
	return r.syncer.wrote(bulk.Bytes())
}

// flushZeros hands the zero frames on that have come together.
func (r *blockReceiver) flushZeros(ctx context.Context) error {
	if r.zeros.Len == 0 {
		return nil
	}
	f, err := r.slot(ctx)
	if err != nil {
		return err
	}
	f.pos, f.blocks, f.zero = r.zeros.Addr, r.zeros.Len, true
	r.zeros = block.Range{}
	r.submit(f)
	return nil
}

func (r *blockReceiver) slot(ctx context.Context) (*inFrame, error) {
	select {
	case f := <-r.free:
		if ctx.Err() == nil {
			return f, nil
		}
	case <-ctx.Done():
	}
	return nil, context.Cause(ctx)
}

func (r *blockReceiver) submit(f *inFrame) {
	r.pending.Add(1)
	r.work <- f
}

// settle waits until all that was received is written and durable.
func (r *blockReceiver) settle(ctx context.Context) error {
	if err := r.flushZeros(ctx); err != nil {
		return err
	}
	r.pending.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := r.syncer.wait(); err != nil {
		return err
	}
	return r.dst.Sync()
}

// write is a worker: it verifies, expands and writes frames.
func (r *blockReceiver) write(ctx context.Context) {
	for f := range r.work {
		if ctx.Err() == nil {
			if err := r.writeFrame(f); err != nil {
				r.cancel(err)
			}
		}
		r.free <- f
		r.pending.Done()
	}
}

func (r *blockReceiver) writeFrame(f *inFrame) error {
	if f.zero {
		return r.dst.Zero(block.Range{Addr: f.pos, Len: f.blocks})
	}
	if sum := checksum.Sum(f.enc, 0); sum != f.sum {
		return violation("receive blocks", fmt.Sprintf("invalid checksum: %08x for block %d", sum, f.pos), fmt.Sprintf("%08x", f.sum))
	}
	data := f.enc
	if n := int(f.blocks.Bytes()); r.s.Compress.Type != compress.None || len(f.enc) != n {
		f.plain = resize(f.plain, n)
		if err := compress.Decompress(f.plain, f.enc, r.s.Compress.Type); err != nil {
			return fmt.Errorf("receive blocks: block %d: %w", f.pos, err)
		}
		data = f.plain
	}
	if _, err := r.dst.WriteAt(data, f.pos.Bytes()); err != nil {
		return err
	}
	r.dst.WriteBack(f.pos.Bytes(), int64(len(data)))
	return nil
}

// readError explains a short read of a source.
func readError(pos block.LB, got, want int, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return &walberr.Error{
			Op: "read volume", Code: walberr.Range,
			Found: fmt.Sprintf("%d bytes at block %d", got, pos), Expected: fmt.Sprint(want),
		}
	}
	return fmt.Errorf("read volume at block %d: %w", pos, err)
}
