package transfer

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// blockMemory bounds the buffers of one block stream, in bytes.
const blockMemory = 24 << 20

// workersOf is the number of goroutines that (de)compress a stream.
func workersOf(opt compress.Opt) int {
	return max(1, min(int(opt.CPUs), runtime.GOMAXPROCS(0)))
}

// slotsOf is the number of bulks in flight: enough to keep the workers busy,
// within the bound on memory.
func slotsOf(s BlockStream, workers int) int {
	perBulk := 2 * s.Bulk.Bytes()
	return max(2, min(2*workers+2, int(blockMemory/perBulk)))
}

// outFrame is one bulk on its way to the peer, or a run of zero bulks.
type outFrame struct {
	pos   block.LB // where it begins
	end   block.LB // of what it stands for
	data  bool     // raw was read; done tells when it is prepared
	zeros uint64   // number of zero bulks; 0 for one of data
	raw   []byte
	out   []byte
	sum   uint32
	hash  checksum.Hash // in a hash stream
	done  chan error
}

// SendBlocks sends the block stream of a volume: one goroutine reads, some
// compress, the calling one sends in order. It flushes what it sent. Holes of
// the source are not read.
func SendBlocks(ctx context.Context, c *wire.Conn, src BlockSource, s BlockStream, o Options) error {
	encode := func(f *outFrame) error { return f.encode(s.Compress) }
	err := eachBulk(ctx, c, src, s, encode, func(f *outFrame) error {
		if err := f.send(c); err != nil {
			return err
		}
		o.report(c, PhaseFull, uint64(f.end.Bytes()), uint64(s.Size.Bytes()))
		return nil
	})
	if err != nil {
		return err
	}
	return c.Flush()
}

// eachBulk gives the bulks of a volume to use, in order, on the calling
// goroutine: another one reads ahead, and some prepare what was read. Whenever
// it has to wait the peer gets what is buffered.
func eachBulk(ctx context.Context, c *wire.Conn, src BlockSource, s BlockStream, prepare, use func(f *outFrame) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	workers := workersOf(s.Compress)
	slots := slotsOf(s, workers)
	free := make(chan *outFrame, slots)
	work := make(chan *outFrame, slots)
	order := make(chan *outFrame, slots)
	for range slots {
		free <- &outFrame{done: make(chan error, 1)}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	var readErr error // written before order is closed
	wg.Go(func() {
		defer close(order)
		defer close(work)
		readErr = readBlocks(ctx, src, s, free, work, order)
	})
	for range workers {
		wg.Go(func() {
			for f := range work {
				f.done <- prepare(f)
			}
		})
	}
	for {
		f, ok := next(c, order)
		if !ok {
			return readErr
		}
		if f.data {
			if err := f.await(c); err != nil {
				return err
			}
		}
		if err := use(f); err != nil {
			return err
		}
		free <- f
	}
}

// next takes the next frame; while there is none the peer gets what is buffered.
func next(c *wire.Conn, order <-chan *outFrame) (*outFrame, bool) {
	select {
	case f, ok := <-order:
		return f, ok
	default:
	}
	_ = c.Flush() // a failure is kept in c.W, and comes back with the next value
	f, ok := <-order
	return f, ok
}

// await waits until the frame is prepared; while it is not, the peer gets what
// is buffered.
func (f *outFrame) await(c *wire.Conn) error {
	select {
	case err := <-f.done:
		return err
	default:
	}
	if err := c.Flush(); err != nil {
		return err
	}
	return <-f.done
}

// readBlocks reads the stream's data into free frames, in order.
func readBlocks(ctx context.Context, src BlockSource, s BlockStream, free <-chan *outFrame, work, order chan<- *outFrame) error {
	var data block.Range // the last one found; it ends at or behind pos
	for pos := s.Start; pos < s.Size; {
		var f *outFrame
		select {
		case f = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if data.End() <= pos {
			var err error
			if data, err = src.NextData(ctx, pos); err != nil {
				return err
			}
			if data.Len == 0 && data.Addr < s.Size {
				return &walberr.Error{
					Op: "read volume", Code: walberr.Range,
					Found: fmt.Sprintf("a volume of %d blocks", data.Addr), Expected: fmt.Sprint(s.Size),
				}
			}
		}
		if n := zeroFrames(s, pos, data.Addr); n > 0 {
			f.data, f.zeros, f.pos = false, n, pos
			pos = min(pos+block.LB(n)*s.Bulk, s.Size)
			f.end = pos
			order <- f
			continue
		}
		bulk := min(s.Bulk, s.Size-pos)
		f.data, f.zeros, f.pos, f.end = true, 0, pos, pos+bulk
		f.raw = resize(f.raw, int(bulk.Bytes()))
		if n, err := src.ReadAt(f.raw, pos.Bytes()); n < len(f.raw) {
			return readError(pos, n, len(f.raw), err)
		}
		pos += bulk
		order <- f
		work <- f
	}
	return nil
}

// zeroFrames is the number of whole frames from pos on that lie before the
// next data.
func zeroFrames(s BlockStream, pos, data block.LB) uint64 {
	if data >= s.Size {
		return uint64((s.Size - pos + s.Bulk - 1) / s.Bulk)
	}
	if data <= pos {
		return 0
	}
	return uint64((data - pos) / s.Bulk)
}

// encode compresses the frame's data. A frame of zeros has no encoding.
func (f *outFrame) encode(opt compress.Opt) error {
	if block.IsZero(f.raw) {
		f.zeros = 1
		return nil
	}
	if opt.Type == compress.None {
		f.raw, f.out = f.out, f.raw
	} else {
		var err error
		if f.out, err = compress.Compress(f.out, f.raw, opt.Type, opt.Level); err != nil {
			return err
		}
	}
	f.sum = checksum.Sum(f.out, 0)
	return nil
}

// zeroRun is many zero frames.
var zeroRun [4096]byte

func (f *outFrame) send(c *wire.Conn) error {
	for n := f.zeros; n > 0; {
		part := min(n, uint64(len(zeroRun)))
		c.W.Raw(zeroRun[:part])
		n -= part
	}
	if f.zeros == 0 {
		c.W.U64(uint64(len(f.out)))
		c.W.U32(f.sum)
		c.W.Raw(f.out)
	}
	return c.W.Err()
}

// resize gives a slice of n bytes in p's capacity or a new buffer.
func resize(p []byte, n int) []byte {
	if cap(p) < n {
		return make([]byte, n)
	}
	return p[:n]
}
