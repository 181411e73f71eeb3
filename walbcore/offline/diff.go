package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// Diff tells about a diff file as a whole.
type Diff struct {
	Name       string
	Size       int64 // of the file, bytes
	Indexed    bool
	UUID       meta.UUID
	HeaderSum  uint32      // checksum of the file header
	Stats      wdiff.Stats // of its records, as far as they were read
	headerText string
}

// HeaderText prints the file header as the original's listings do.
func (d *Diff) HeaderText() string { return d.headerText }

func describe(f *wdiff.File) Diff {
	return Diff{
		Name: f.Name(), Size: f.Size(), Indexed: f.Header().Indexed, UUID: f.UUID(),
		HeaderSum: f.HeaderSum(), headerText: f.HeaderText(),
	}
}

// StatDiff counts the records of a diff. It does not read their data.
func StatDiff(ctx context.Context, in *Input) (Diff, error) {
	f, err := in.diff()
	if err != nil {
		return Diff{}, err
	}
	d := describe(f)
	d.Stats, err = f.StatsOf(bound(ctx, f.Records()))
	return d, err
}

// DiffLister is told what a diff holds, in order. Its errors end the list.
type DiffLister struct {
	Header func(Diff) error // the file header was read
	Record func(e wdiff.Entry, badData string) error
	// Data asks to read the stored data of each record and to compare it with
	// its checksum. Where it differs badData says so, as the original does.
	Data bool
}

// ListDiff lists a diff. The error also tells, at the end of the list, of bad
// data.
func ListDiff(ctx context.Context, in *Input, l DiffLister) (Diff, error) {
	f, err := in.diff()
	if err != nil {
		return Diff{}, err
	}
	d := describe(f)
	if err := l.Header(d); err != nil {
		return d, err
	}
	v := &visited{entries: f.Entries(), list: l, load: wdiff.NewLoader(0)}
	if d.Stats, err = f.StatsOf(bound(ctx, v)); err == nil {
		err = v.bad
	}
	return d, err
}

// visited gives the records of a file and lists them.
type visited struct {
	entries *wdiff.Entries
	list    DiffLister
	load    *wdiff.Loader
	buf     []byte
	bad     error // the first bad data
}

// Next implements [wdiff.Stream].
func (v *visited) Next() (wdiff.Record, error) {
	r, e, err := v.entries.Next()
	if err != nil {
		return r, err
	}
	text := ""
	if v.list.Data && r.Kind == wdiff.Normal {
		v.buf, err = v.load.Stored(r, v.buf)
		if e, ok := errors.AsType[*wdiff.DataError](err); ok {
			text, err = " invalid data checksum", nil
			if !r.File().Header().Indexed {
				text += fmt.Sprintf(": %08x", e.Sum)
			}
			if v.bad == nil {
				v.bad = e.Err
			}
		}
		if err != nil {
			return r, err
		}
	}
	return r, v.list.Record(e, text)
}

// CheckDiff reads all of a diff, data included, and tells whether it is as a
// writer left it: the error is the first thing that is not.
func CheckDiff(ctx context.Context, in *Input) (Diff, error) {
	f, err := in.diff()
	if err != nil {
		return Diff{}, err
	}
	d := describe(f)
	if err := verify(ctx, f.StrictRecords()); err != nil {
		return d, err
	}
	// The checked file says the same once more: now it is counted.
	d.Stats, err = f.StatsOf(bound(ctx, f.Records()))
	return d, err
}

// verify reads and expands the data of all records.
func verify(ctx context.Context, s wdiff.Stream) error {
	_, err := wdiff.Apply(ctx, s, nowhere{}, wdiff.ApplyOptions{Size: math.MaxUint64})
	if e, ok := errors.AsType[*walberr.Error](err); ok && e.Code == walberr.Checksum {
		return e // without the word that a record was to be applied
	}
	return err
}

// nowhere is an image that forgets.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Zero(block.Range) error                 { return nil }

// bound ends a stream with its context.
func bound(ctx context.Context, s wdiff.Stream) wdiff.Stream { return &boundStream{ctx: ctx, s: s} }

type boundStream struct {
	ctx context.Context //nolint:containedctx // Next has no parameter for it
	s   wdiff.Stream
}

// Next implements [wdiff.Stream].
func (b *boundStream) Next() (wdiff.Record, error) {
	if b.ctx.Err() != nil {
		return wdiff.Record{}, context.Cause(b.ctx)
	}
	return b.s.Next()
}

// MergeOptions says how MergeDiffs merges.
type MergeOptions struct {
	MaxBlocks block.LB     // the longest record of the result; 0 is no limit
	Opt       compress.Opt // how its data are stored
}

// Merged tells what MergeDiffs did.
type Merged struct {
	In  wdiff.Stats // of all inputs
	Out wdiff.Stats // of the result
}

// MergeDiffs writes one sorted diff that does what the inputs do one after the
// other, the oldest first. Its uuid is zero, since inputs may differ in theirs.
// Data that a newer diff replaces are not read. What was written before an
// error is worthless.
func MergeDiffs(ctx context.Context, w io.Writer, ins []*Input, o MergeOptions) (Merged, error) {
	var m Merged
	streams := make([]wdiff.Stream, len(ins))
	for i, in := range ins {
		d, err := StatDiff(ctx, in)
		if err != nil {
			return m, err
		}
		m.In.Add(d.Stats)
		f, err := in.diff()
		if err != nil {
			return m, err
		}
		streams[i] = bound(ctx, f.Records())
	}
	var err error
	m.Out, err = wdiff.WriteSorted(ctx, w, meta.UUID{}, wdiff.Merge(o.MaxBlocks, streams...), wdiff.PackOptions{Opt: o.Opt})
	m.Out.Files = 1
	return m, err
}

// Target is an image that diffs or logs are written into; image.Image is one.
type Target interface {
	wdiff.Target
	Size() block.LB
	// Sync makes everything written before durable.
	Sync() error
}

// DiffRedo says how RedoDiffs writes.
type DiffRedo struct {
	Discard wdiff.DiscardMode
	// Outside is called for each record that reaches beyond the image; such
	// records are left out. nil calls nothing.
	Outside func(wdiff.Record)
}

// DiffRedone tells what RedoDiffs did.
type DiffRedone struct {
	In      wdiff.Stats // of all inputs
	Out     wdiff.Stats // what was written, ignored discards left out
	Outside wdiff.Stats // what reaches beyond the image
}

// RedoDiffs writes the inputs into the image, in order, and makes it durable.
// All of them are read and verified before.
func RedoDiffs(ctx context.Context, img Target, ins []*Input, o DiffRedo) (DiffRedone, error) {
	var done DiffRedone
	files := make([]*wdiff.File, len(ins))
	for i, in := range ins {
		var err error
		if files[i], err = in.diff(); err != nil {
			return done, err
		}
		if err := verify(ctx, files[i].Records()); err != nil {
			return done, err
		}
	}
	for _, f := range files {
		inside := wdiff.Inside(f.Records(), img.Size(), func(r wdiff.Record) {
			done.Outside.Count(r)
			if o.Outside != nil {
				o.Outside(r)
			}
		})
		st, err := wdiff.Apply(ctx, inside, img, wdiff.ApplyOptions{Size: img.Size(), Discard: o.Discard})
		if err != nil {
			return done, errors.Join(err, img.Sync())
		}
		st.Files = 1
		done.In.Add(st)
		done.Out.Add(st)
	}
	done.In.Add(done.Outside)
	if o.Discard == wdiff.DiscardIgnore {
		done.Out.Discard, done.Out.DiscardLB = 0, 0
	}
	return done, img.Sync()
}

// OutsideText prints a record that was left out as the original does.
func OutsideText(r wdiff.Record) string {
	kind := [...]string{wdiff.Normal: "Normal", wdiff.AllZero: "Allzero", wdiff.Discard: "Discard"}
	return fmt.Sprintf("Failed to redo: %d %d %s", r.Addr, r.Blocks, kind[r.Kind])
}

// Text prints the numbers of records and blocks as the original does, in
// twelve lines.
func (d DiffRedone) Text() string {
	var b strings.Builder
	for _, s := range []struct {
		name string
		wdiff.Stats
	}{{"Input", d.In}, {"Output", d.Out}} {
		fmt.Fprintf(&b, "%s statistics:\nnIoTotal:     %d\n  nIoNormal:  %d\n  nIoDiscard: %d\n  nIoAllZero: %d\nnBlocks:      %d\n",
			s.name, s.Normal+s.AllZero+s.Discard, s.Normal, s.Discard, s.AllZero, s.NormalLB+s.AllZeroLB+s.DiscardLB)
	}
	return b.String()
}
