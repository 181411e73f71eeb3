package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wlog"
)

// LogRedo says how RedoLogs writes.
type LogRedo struct {
	Discard wdiff.DiscardMode
	Salvage bool // take what is no pack for the end of a log
}

// LogRedone tells what RedoLogs did.
type LogRedone struct {
	Logs      []Log
	NormalLB  block.LB // written
	DiscardLB block.LB // given back
	ZeroLB    block.LB // discards that became zeros
	IgnoredLB block.LB // discards that were passed over
	PaddingPB uint64
	Clipped   int // writes and discards that reach beyond the image and were left out
	ClippedLB block.LB
}

// RedoLogs writes the logs of the inputs, which are to follow each other, into
// the image, in order, and makes it durable. All of them are read and verified
// before.
func RedoLogs(ctx context.Context, img Target, ins []*Input, o LogRedo) (LogRedone, error) {
	check := walk{salvage: o.Salvage, record: func(logRecord) error { return nil }}
	if err := check.run(ctx, ins...); err != nil {
		return LogRedone{}, err
	}
	var done LogRedone
	w := walk{salvage: o.Salvage, record: func(r logRecord) error { return done.redo(img, r, o.Discard) }}
	if err := w.run(ctx, ins...); err != nil {
		return done, errors.Join(err, img.Sync())
	}
	done.Logs = w.logs
	for _, l := range w.logs {
		done.PaddingPB += l.PaddingPB
	}
	return done, img.Sync()
}

func (d *LogRedone) redo(img Target, r logRecord, mode wdiff.DiscardMode) error {
	switch {
	case r.Kind == wlog.Padding:
		return nil
	case r.Range().End() > img.Size():
		d.Clipped++
		d.ClippedLB += r.Size
		return nil
	case r.Kind == wlog.Write:
		d.NormalLB += r.Size
		_, err := img.WriteAt(r.data, r.Offset.Bytes())
		return err
	}
	switch mode {
	case wdiff.DiscardPassdown:
		d.DiscardLB += r.Size
	case wdiff.DiscardZero:
		d.ZeroLB += r.Size
	default:
		d.IgnoredLB += r.Size
		return nil
	}
	return img.Zero(r.Range())
}

// Text prints the numbers as the original does.
func (d LogRedone) Text() string {
	var begin, end meta.Lsid
	if n := len(d.Logs); n > 0 {
		begin, end = d.Logs[0].Header.Begin, d.Logs[n-1].End
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Applied lsid range [%d, %d)\n", begin, end)
	for _, f := range []struct {
		name  string
		value uint64
		unit  string
	}{
		{"normal:", uint64(d.NormalLB), "LB"},
		{"discard:", uint64(d.DiscardLB), "LB"},
		{"allZero:", uint64(d.ZeroLB), "LB"},
		{"ignored:", uint64(d.IgnoredLB), "LB"},
		{"padding:", d.PaddingPB, "PB"},
	} {
		fmt.Fprintf(&b, "%-9s%10d %s\n", f.name, f.value, f.unit)
	}
	fmt.Fprintf(&b, "%-13s%10d (%11d LB)\n", "clipped:", d.Clipped, d.ClippedLB)
	return b.String()
}

// Convert says how ConvertLogs writes.
type Convert struct {
	Indexed bool
	// MaxBlocks is the longest record of the diff. For a sorted one 0 is no
	// limit; for an indexed one it is 1 to wdiff.DefaultMaxBlocks and the next
	// power of two below counts.
	MaxBlocks block.LB
	Opt       compress.Opt // how data are stored
	Salvage   bool         // take what is no pack for the end of a log
}

// Converted tells what ConvertLogs did.
type Converted struct {
	Logs []Log
	In   wdiff.Stats // the records of the logs, as they became records of a diff
	// Out are the records of a sorted diff. An indexed one has more pieces than
	// it has images; they are not counted.
	Out wdiff.Stats
}

// ConvertLogs writes one diff that does what the logs of the inputs do, which
// are to follow each other: later writes replace earlier ones, writes of zeros
// become all-zero records, paddings vanish. Its uuid is that of the logs. What
// was written before an error is worthless.
func ConvertLogs(ctx context.Context, w io.Writer, ins []*Input, o Convert) (Converted, error) {
	if err := o.Opt.Validate(); err != nil {
		return Converted{}, err
	}
	if o.Indexed {
		return convertIndexed(ctx, w, ins, o)
	}
	return convertSorted(ctx, w, ins, o)
}

func convertSorted(ctx context.Context, w io.Writer, ins []*Input, o Convert) (Converted, error) {
	var done Converted
	overlay := wdiff.NewOverlay(o.MaxBlocks)
	sources := map[*Input]*wdiff.File{}
	for _, in := range ins {
		sources[in] = wdiff.Raw(in.Name, in, in.Size)
	}
	logs := walk{salvage: o.Salvage, record: func(r logRecord) error {
		rec, ok := diffRecord(r, sources[r.in])
		if ok {
			done.In.Count(rec)
			overlay.Add(rec)
		}
		return nil
	}}
	err := logs.run(ctx, ins...)
	if done.Logs = logs.logs; err != nil {
		return done, err
	}
	out, err := wdiff.NewSortedWriter(w, "the diff", logs.uuid(), 0)
	if err != nil {
		return done, err
	}
	if done.Out, err = out.AddAll(ctx, bound(ctx, overlay.Records()), o.Opt); err != nil {
		return done, err
	}
	done.Out.Files = 1
	return done, out.Close()
}

// diffRecord is what a record of a log becomes, with the log as the source of
// its data; ok is false for what vanishes.
func diffRecord(r logRecord, source *wdiff.File) (rec wdiff.Record, ok bool) {
	switch {
	case r.Kind == wlog.Padding:
		return rec, false
	case r.Kind == wlog.Discard:
		return wdiff.Record{Addr: r.Offset, Blocks: r.Size, Kind: wdiff.Discard}, true
	case block.IsZero(r.data):
		return wdiff.Record{Addr: r.Offset, Blocks: r.Size, Kind: wdiff.AllZero}, true
	}
	// A diff's checksum is the log's with salt 0.
	return source.Record(r.Offset, r.Size, r.at, r.Checksum+r.salt), true
}

// uuid is that of the logs, zero if there are none.
func (w *walk) uuid() meta.UUID {
	if len(w.logs) == 0 {
		return meta.UUID{}
	}
	return w.logs[0].Header.UUID
}

// maxPieces bounds the index of an indexed diff in memory: 24 bytes for each.
// One discard can be of two million pieces.
const maxPieces = 1 << 26

func convertIndexed(ctx context.Context, w io.Writer, ins []*Input, o Convert) (Converted, error) {
	if o.MaxBlocks < 1 || o.MaxBlocks > wdiff.DefaultMaxBlocks {
		return Converted{}, &walberr.Error{
			Op: "convert logs", Code: walberr.Usage, Found: fmt.Sprintf("records of %d blocks in an indexed diff", o.MaxBlocks),
			Expected: fmt.Sprintf("1 to %d", wdiff.DefaultMaxBlocks),
		}
	}
	var done Converted
	var out *wdiff.IndexedWriter
	pieces := uint64(0) // at most, so far
	start := func(uuid meta.UUID) (err error) {
		if out == nil {
			out, err = wdiff.NewIndexedWriter(w, "the diff", uuid, 0, o.MaxBlocks)
		}
		return err
	}
	var buf []byte
	logs := walk{
		salvage: o.Salvage,
		begin:   func(l *Log) error { return start(l.Header.UUID) },
		record: func(r logRecord) error {
			if r.Kind == wlog.Padding {
				return nil
			}
			if pieces += uint64(r.Size/o.MaxBlocks) + 2; pieces > maxPieces {
				return &walberr.Error{
					Op: "convert " + r.in.Name, Code: walberr.Range, Found: fmt.Sprintf("more than %d pieces", uint64(maxPieces)),
					Expected: "an index that fits the memory", Hint: "make a sorted diff, or allow longer records",
				}
			}
			rec := wdiff.IO{Addr: r.Offset, Blocks: r.Size, Kind: wdiff.Discard}
			if r.Kind == wlog.Write {
				var err error
				if rec, err = wdiff.NewIO(r.Offset, r.data, buf, o.Opt); err != nil {
					return err
				}
				if rec.Codec != compress.None {
					buf = rec.Data
				}
			}
			done.In.Count(wdiff.Record{Blocks: rec.Blocks, Kind: rec.Kind, Image: wdiff.Image{Size: uint32(len(rec.Data))}})
			return out.Add(&rec)
		},
	}
	err := logs.run(ctx, ins...)
	if done.Logs = logs.logs; err != nil {
		return done, err
	}
	if err := start(meta.UUID{}); err != nil { // where a salvaged file holds no log
		return done, err
	}
	return done, out.Close()
}
