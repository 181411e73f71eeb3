package offline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// Input is an open file that is read. Its ReadAt may be used concurrently.
type Input struct {
	Name  string // with which errors call it
	Size  int64  // bytes
	Meter *Meter // counts what is read; nil counts nothing

	r    io.ReaderAt
	file *os.File // nil if the input is no file of ours
}

// NewInput makes an input of size bytes that r has.
func NewInput(name string, r io.ReaderAt, size int64) *Input {
	return &Input{Name: name, Size: size, r: r}
}

// Open opens a regular file. Anything else has the code Usage: a pipe or a
// device could block for ever. A pipe can be read with [Spool].
func Open(path string) (*Input, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path)
	}
	if err != nil {
		return nil, asNotFound(err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, asNotFound(err)
	}
	if info, err = f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Input{Name: path, Size: info.Size(), r: f, file: f}, nil
}

func notRegular(path string) error {
	return &walberr.Error{Op: "open " + path, Code: walberr.Usage, Found: "not a regular file"}
}

// asNotFound gives the error of a file that is not there its code.
func asNotFound(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return &walberr.Error{Op: "open", Code: walberr.NotFound, Err: err}
	}
	return err
}

// Spool copies a stream into a file that has no name and is gone when it is
// closed, in the directory for temporary files. Zeros become holes.
func Spool(ctx context.Context, name string, src io.Reader) (*Input, error) {
	f, err := os.CreateTemp("", "walbsh-spool-")
	if err != nil {
		return nil, err
	}
	in := &Input{Name: name, r: f, file: f}
	err = os.Remove(f.Name())
	if err == nil {
		in.Size, err = spool(ctx, f, src)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", name, err), f.Close())
	}
	return in, nil
}

func spool(ctx context.Context, f *os.File, src io.Reader) (int64, error) {
	buf := make([]byte, chunkSize)
	size := int64(0)
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		n, err := io.ReadFull(src, buf)
		if n > 0 && !block.IsZero(buf[:n]) {
			if _, err := f.WriteAt(buf[:n], size); err != nil {
				return 0, err
			}
		}
		size += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return size, f.Truncate(size)
		}
		if err != nil {
			return 0, err
		}
	}
}

// ReadAt implements [io.ReaderAt].
func (in *Input) ReadAt(p []byte, off int64) (int, error) {
	n, err := in.r.ReadAt(p, off)
	in.Meter.Add(int64(n))
	return n, err
}

// Close closes the file.
func (in *Input) Close() error {
	if in.file == nil {
		return nil
	}
	return in.file.Close()
}

// diff opens the input as a diff.
func (in *Input) diff() (*wdiff.File, error) { return wdiff.Open(in.Name, in, in.Size) }

// Meter counts the bytes of a long work. It may be used from many goroutines;
// a nil Meter counts nothing.
type Meter struct {
	total  int64
	report func(done, total int64)
	done   atomic.Int64
}

// NewMeter makes a meter that calls report, from any goroutine, whenever
// something was added. total is how much the work is, in bytes; done is never
// more.
func NewMeter(total int64, report func(done, total int64)) *Meter {
	return &Meter{total: total, report: report}
}

// Add counts n bytes.
func (m *Meter) Add(n int64) {
	if m != nil {
		m.report(min(m.done.Add(n), m.total), m.total)
	}
}
