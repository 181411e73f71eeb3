package offline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

// Log tells about one log: a wlog file, or one of several that follow each
// other in a file.
type Log struct {
	Name      string
	Offset    int64 // where it begins in the file
	Header    wlog.FileHeader
	End       meta.Lsid // behind the last pack; Header.End may be larger
	Why       error     // what was found in the place of the end block; nil if that was there
	Packs     int
	NormalLB  block.LB
	DiscardLB block.LB
	PaddingPB uint64
}

// Text prints the numbers as the original's listings do, in seven lines.
func (l *Log) Text() string {
	return fmt.Sprintf("bgnLsid %d\nendLsid %d\nreallyEndLsid %d\nnrPacks %d\nnormalLb %d\ndiscardLb %d\npaddingPb %d\n",
		l.Header.Begin, l.Header.End, l.End, l.Packs, l.NormalLB, l.DiscardLB, l.PaddingPB)
}

func (l *Log) count(h *wlog.PackHeader) {
	l.Packs++
	for _, r := range h.Records {
		switch r.Kind {
		case wlog.Write:
			l.NormalLB += r.Size
		case wlog.Discard:
			l.DiscardLB += r.Size
		case wlog.Padding:
			l.PaddingPB += r.PB(l.Header.PBS)
		}
	}
}

// walk goes over logs. Every part but logs may be nil.
type walk struct {
	// salvage takes what is no pack for the end of a log, and what is no log
	// for the end of a file.
	salvage bool

	begin  func(*Log) error
	pack   func(*wlog.PackHeader) error
	record func(logRecord) error // with it all data are read and verified
	// bad is told of data that do not match their checksum. Without it they
	// end the walk.
	bad func(wlog.Record, *wlog.DataError) error
	end func(*Log) error // also before the error of a log that ended badly

	logs []Log // all of them; the last may be incomplete after an error
}

// logRecord is a record that a walk has come to.
type logRecord struct {
	wlog.Record
	in   *Input
	salt uint32
	data []byte // of a write, else nil
	at   int64  // where the data lie in the file
}

// run walks over the logs of all inputs, which are to follow each other: the
// same uuid, and each begins at the lsid where the one before ended. It
// honours ctx between records.
func (w *walk) run(ctx context.Context, ins ...*Input) error {
	for _, in := range ins {
		for off := int64(0); off == 0 || off < in.Size; {
			left := in.Size - off
			if left < wlog.FileHeaderSize && w.salvage {
				break
			}
			src := bufio.NewReaderSize(io.NewSectionReader(in, off, left), chunkSize)
			end, err := w.log(ctx, in, src, off)
			if err != nil {
				return err
			}
			off = end
		}
	}
	return nil
}

// log walks over one log and gives the offset behind it.
func (w *walk) log(ctx context.Context, in *Input, src io.Reader, off int64) (int64, error) {
	r, err := wlog.NewReader(in.Name, src, off)
	if err != nil {
		return 0, err
	}
	if err := w.checkFollows(in, off, r.Header); err != nil {
		return 0, err
	}
	w.logs = append(w.logs, Log{Name: in.Name, Offset: off, Header: r.Header, End: r.Header.Begin})
	l := &w.logs[len(w.logs)-1]
	if w.begin != nil {
		if err := w.begin(l); err != nil {
			return 0, err
		}
	}
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			l.count(h)
			err = w.inside(ctx, in, r, h)
		}
		if err != nil {
			return 0, err
		}
		l.End = r.End()
	}
	l.Why = r.Ended()
	if w.end != nil {
		if err := w.end(l); err != nil {
			return 0, err
		}
	}
	switch {
	case l.Why == nil:
		return r.Offset(), nil
	case w.salvage:
		return in.Size, nil // nobody knows what the rest is
	}
	return 0, l.Why
}

// inside shows one pack and its records.
func (w *walk) inside(ctx context.Context, in *Input, r *wlog.Reader, h *wlog.PackHeader) error {
	if w.pack != nil {
		if err := w.pack(h); err != nil {
			return err
		}
	}
	if w.record == nil {
		return nil
	}
	for {
		rec, data, err := r.Record()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if e, ok := errors.AsType[*wlog.DataError](err); ok && w.bad != nil {
			err = w.bad(rec, e)
		} else if err == nil {
			err = w.record(logRecord{Record: rec, in: in, salt: r.Header.Salt, data: data, at: r.DataOffset()})
		}
		if err != nil {
			return err
		}
	}
}

// checkFollows compares a log's header with the log before it.
func (w *walk) checkFollows(in *Input, off int64, h wlog.FileHeader) error {
	if len(w.logs) == 0 {
		return nil
	}
	before := w.logs[len(w.logs)-1]
	wrong := func(field string, found, expected any) error {
		return walberr.Corrupt("read "+in.Name, fmt.Sprintf("%s %v in the file header at offset %d", field, found, off),
			fmt.Sprintf("%v, that of the log before it", expected))
	}
	switch {
	case h.UUID != before.Header.UUID:
		return wrong("uuid", h.UUID, before.Header.UUID)
	case h.Begin != before.End:
		return wrong("begin lsid", h.Begin, fmt.Sprintf("%d, the end", before.End))
	}
	return nil
}

// LogLister is told what a log holds, in order. Its errors end the list.
type LogLister struct {
	Header func(*Log) error             // the file header was read
	Pack   func(*wlog.PackHeader) error // valid during the call
	// Bad is called for each record, behind its pack, whose data have another
	// checksum than the record says. If it is nil the data are not looked at.
	Bad func(r wlog.Record, sum uint32) error
	End func(*Log) error // the log ended, well or not
}

// ListLogs lists the logs of a file. The error also tells, at the end of the
// list, of bad data, and of a log that did not end with an end block.
func ListLogs(ctx context.Context, in *Input, l LogLister) ([]Log, error) {
	w := walk{begin: l.Header, pack: l.Pack, end: l.End}
	var first error
	if l.Bad != nil {
		w.record = func(logRecord) error { return nil }
		w.bad = func(r wlog.Record, e *wlog.DataError) error {
			if first == nil {
				first = e.Err
			}
			return l.Bad(r, e.Sum)
		}
	}
	err := w.run(ctx, in)
	if first != nil && walberr.Is(err, walberr.Checksum) || err == nil {
		err = first
	}
	return w.logs, err
}

// BadDataText prints a record with bad data as the original does.
func BadDataText(r wlog.Record, sum uint32) string { return fmt.Sprintf("NG:%s:%08x", r, sum) }

// CheckLogs reads all of a file, data included, and tells whether it holds
// complete logs that follow each other: the error is the first thing that is
// wrong.
func CheckLogs(ctx context.Context, in *Input) ([]Log, error) {
	w := walk{record: func(logRecord) error { return nil }}
	err := w.run(ctx, in)
	return w.logs, err
}
