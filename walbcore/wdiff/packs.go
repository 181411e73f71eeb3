package wdiff

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// PackOptions says how EachPack packs.
type PackOptions struct {
	// Opt is the wanted codec; Opt.CPUs goroutines compress, but not more than
	// there are processors. Records that are all of an image stored with this
	// codec pass through as they are.
	Opt compress.Opt
	// MaxBytes is the size in bytes at which a pack is closed, counted before
	// compression; 0 means [MaxPackData], which is also the most.
	MaxBytes int
}

// EachPack packs the records of s and calls emit for every pack, in order, on
// the calling goroutine. The bytes that emit gets, block and data, are valid
// during the call only. A pack is closed by the sizes of its records before
// compression, so that one pack never weighs more than [MaxPackSize]. It returns
// at the first error, also that of emit or ctx, after its goroutines ended.
func EachPack(ctx context.Context, s Stream, o PackOptions, emit func(pack []byte) error) (Stats, error) {
	if err := o.Opt.Validate(); err != nil {
		return Stats{}, err
	}
	limit := MaxPackData
	if o.MaxBytes > 0 {
		limit = min(o.MaxBytes, MaxPackData)
	}
	var st Stats
	pack := newPacker(limit)
	err := eachBatch(ctx, s, o.Opt, func(ios []IO) error {
		for i := range ios {
			weight := 0
			if ios[i].Kind == Normal {
				weight = int(ios[i].Blocks.Bytes())
			}
			if !pack.fits(weight) {
				if err := emit(pack.finish()); err != nil {
					return err
				}
				pack.reset()
			}
			pack.add(&ios[i], weight)
			st.add(&ios[i])
		}
		return nil
	})
	if err == nil && pack.n > 0 {
		err = emit(pack.finish())
	}
	return st, err
}

// WriteSorted writes a sorted file of the records of s: the header, packs as
// EachPack makes them, the end pack. Errors are those of EachPack and of w.
func WriteSorted(ctx context.Context, w io.Writer, uuid meta.UUID, s Stream, o PackOptions) (Stats, error) {
	write := func(p []byte) error {
		_, err := w.Write(p)
		return err
	}
	if err := write(Header{UUID: uuid}.Append(nil)); err != nil {
		return Stats{}, err
	}
	st, err := EachPack(ctx, s, o, write)
	if err == nil {
		err = write(endPack())
	}
	return st, err
}

// AddAll appends the records of s, compressed with opt as [EachPack] does it.
// Unlike there, packs are closed by the sizes of their stored data. It returns
// at the first error, also that of ctx, after its goroutines ended.
func (s *SortedWriter) AddAll(ctx context.Context, recs Stream, opt compress.Opt) (Stats, error) {
	if err := opt.Validate(); err != nil {
		return Stats{}, err
	}
	var st Stats
	err := eachBatch(ctx, recs, opt, func(ios []IO) error {
		for i := range ios {
			if err := s.Add(&ios[i]); err != nil {
				return err
			}
			st.add(&ios[i])
		}
		return nil
	})
	return st, err
}

// A batch is a run of records that one worker loads and compresses at a go.
const (
	batchRecords = 32
	batchBlocks  = 1024 // a batch that holds this many blocks of data is closed
)

type batch struct {
	recs   []Record
	ios    []IO
	stored []byte // data of the IOs, one after another
	raw    []byte // one record, expanded
	packed []byte // the same, compressed
	done   chan error
}

// eachBatch loads and compresses the records of s, several batches at a time,
// and gives them to use in order on the calling goroutine.
func eachBatch(ctx context.Context, s Stream, opt compress.Opt, use func([]IO) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	workers := min(int(opt.CPUs), runtime.GOMAXPROCS(0)) // more would only cost memory
	batches := 2*workers + 1
	free := make(chan *batch, batches)
	work := make(chan *batch, batches)
	order := make(chan *batch, batches)
	for range batches {
		free <- &batch{done: make(chan error, 1)}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	var readErr error // written before order is closed
	wg.Go(func() {
		defer close(order)
		defer close(work)
		for {
			select {
			case b := <-free:
				err := b.read(s)
				if len(b.recs) > 0 {
					order <- b
					work <- b
				}
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					readErr = err
					return
				}
			case <-ctx.Done():
				readErr = context.Cause(ctx)
				return
			}
		}
	})
	load := NewLoader(DefaultCache)
	for range workers {
		wg.Go(func() {
			for b := range work {
				if ctx.Err() != nil {
					b.done <- context.Cause(ctx)
					continue
				}
				b.done <- b.load(load, opt)
			}
		})
	}
	for b := range order {
		if err := <-b.done; err != nil {
			return err
		}
		if err := use(b.ios); err != nil {
			return err
		}
		free <- b
	}
	return readErr
}

// read fills the batch with records. The error, io.EOF included, stands for
// what came behind them.
func (b *batch) read(s Stream) error {
	b.recs, b.ios = b.recs[:0], b.ios[:0]
	blocks := block.LB(0)
	for len(b.recs) < batchRecords && blocks < batchBlocks {
		r, err := s.Next()
		if err != nil {
			return err
		}
		b.recs = append(b.recs, r)
		if r.Kind == Normal {
			blocks += r.Blocks
		}
	}
	return nil
}

func (b *batch) load(l *Loader, opt compress.Opt) error {
	size := 0
	for _, r := range b.recs {
		switch {
		case passes(r, opt):
			size += int(r.Image.Size)
		case r.Kind == Normal:
			size += int(r.Blocks.Bytes())
		}
	}
	b.stored = grow(b.stored, size)[:0] // so that it does not move any more
	for _, r := range b.recs {
		o := IO{Addr: r.Addr, Blocks: r.Blocks, Kind: r.Kind}
		if r.Kind == Normal {
			if err := b.loadData(&o, r, l, opt); err != nil {
				return err
			}
		}
		b.ios = append(b.ios, o)
	}
	return nil
}

// passes reports whether the data of a record are passed on as they are stored.
func passes(r Record, opt compress.Opt) bool { return r.Whole() && r.Image.Codec == opt.Type }

// loadData puts the stored form of a normal record's data behind those before.
func (b *batch) loadData(o *IO, r Record, l *Loader, opt compress.Opt) error {
	if passes(r, opt) {
		data, err := l.Stored(r, b.stored[len(b.stored):])
		if err != nil {
			return err
		}
		b.stored = b.stored[:len(b.stored)+len(data)]
		o.Codec, o.Data, o.Sum = opt.Type, data, r.Image.Sum
		return nil
	}
	b.raw = grow(b.raw, int(r.Blocks.Bytes()))
	if err := l.Read(b.raw, r, 0); err != nil {
		return err
	}
	data, codec, err := compress.CompressOrStore(b.packed, b.raw, opt.Type, opt.Level)
	if err != nil {
		return err
	}
	if codec != compress.None {
		b.packed = data
	}
	begin := len(b.stored)
	b.stored = append(b.stored, data...)
	o.Codec, o.Data = codec, b.stored[begin:]
	o.Sum = checksum.Sum(o.Data, 0)
	return nil
}
