package wdiff

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
)

// DiscardMode says what Apply does with discard records.
type DiscardMode uint8

// The modes, with their names in options.
const (
	DiscardIgnore   DiscardMode = iota // "ignore": the blocks keep what they held
	DiscardPassdown                    // "passdown": the blocks are given back to the store
	DiscardZero                        // "zero": the blocks become zero
)

// ParseDiscardMode reads "ignore", "passdown" or "zero".
func ParseDiscardMode(s string) (DiscardMode, error) {
	for _, m := range []DiscardMode{DiscardIgnore, DiscardPassdown, DiscardZero} {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("discard type %q is unknown, want ignore, passdown or zero", s)
}

// String gives the mode's name in options.
func (m DiscardMode) String() string {
	switch m {
	case DiscardIgnore:
		return "ignore"
	case DiscardPassdown:
		return "passdown"
	case DiscardZero:
		return "zero"
	}
	return fmt.Sprintf("discardmode(%d)", uint8(m))
}

// Target is an image that records are applied to; image.Image is one. Ranges
// are whole blocks. The methods are called from several goroutines at once, on
// ranges that do not overlap.
type Target interface {
	io.WriterAt
	// Zero makes the range read as zeros; whether it takes up space is the
	// target's choice.
	Zero(r block.Range) error
}

// ApplyOptions says how Apply works.
type ApplyOptions struct {
	Size    block.LB    // of the target; a record beyond it is an error
	Discard DiscardMode // what to do with discard records
	// Passdown gives a range back to the store, for DiscardPassdown. nil is
	// Target.Zero, which does that in a sparse file.
	Passdown func(r block.Range) error
	Workers  int // goroutines that expand and write; 0 means 2
}

// Apply writes the records of s to the target. It does not sync the target. It
// returns at the first error, also that of ctx, after its goroutines ended;
// any part of the records may have been written then.
func Apply(ctx context.Context, s Stream, dst Target, o ApplyOptions) (Stats, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := o.Workers
	if workers <= 0 {
		workers = 2
	}
	recs := make(chan Record, 2*workers)
	load := NewLoader(DefaultCache)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			var buf []byte
			for r := range recs {
				if ctx.Err() != nil {
					continue
				}
				buf = grow(buf, int(r.Blocks.Bytes()))
				err := load.Read(buf, r, 0)
				if err == nil {
					_, err = dst.WriteAt(buf, r.Addr.Bytes())
				}
				if err != nil {
					cancel(fmt.Errorf("apply record %d+%d: %w", r.Addr, r.Blocks, err))
				}
			}
		})
	}
	st, err := applyRecords(ctx, s, dst, o, recs)
	close(recs)
	wg.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return st, err
}

// applyRecords hands normal records to the workers and does the others itself.
func applyRecords(ctx context.Context, s Stream, dst Target, o ApplyOptions, recs chan<- Record) (Stats, error) {
	passdown := o.Passdown
	if passdown == nil {
		passdown = dst.Zero
	}
	var st Stats
	for {
		r, err := s.Next()
		if errors.Is(err, io.EOF) {
			return st, nil
		}
		if err != nil {
			return st, err
		}
		if r.End() > o.Size {
			return st, &walberr.Error{
				Op: "apply diff", Code: walberr.Range,
				Found:    fmt.Sprintf("applyOpenedDiffs:out of range:%d:%d:%d", r.Addr, r.Blocks, o.Size),
				Expected: "records inside the image",
			}
		}
		switch {
		case ctx.Err() != nil:
			return st, context.Cause(ctx)
		case r.Kind == Normal:
			select {
			case recs <- r:
			case <-ctx.Done():
				return st, context.Cause(ctx)
			}
		case r.Kind == AllZero || o.Discard == DiscardZero:
			err = dst.Zero(r.Range())
		case o.Discard == DiscardPassdown:
			err = passdown(r.Range())
		}
		if err != nil {
			return st, fmt.Errorf("apply record %d+%d: %w", r.Addr, r.Blocks, err)
		}
		st.Count(r)
	}
}
