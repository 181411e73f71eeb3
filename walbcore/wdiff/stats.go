package wdiff

import (
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
)

// Stats counts the records of one or several diffs.
type Stats struct {
	Files     int      // number of files
	Normal    int      // records by kind
	AllZero   int      //
	Discard   int      //
	NormalLB  block.LB // blocks by kind
	AllZeroLB block.LB //
	DiscardLB block.LB //
	DataSize  int64    // stored bytes of normal records
}

// Add sums up.
func (s *Stats) Add(o Stats) {
	s.Files += o.Files
	s.Normal += o.Normal
	s.AllZero += o.AllZero
	s.Discard += o.Discard
	s.NormalLB += o.NormalLB
	s.AllZeroLB += o.AllZeroLB
	s.DiscardLB += o.DiscardLB
	s.DataSize += o.DataSize
}

// String is the one-line form: "wdiffNr 3  nrN 10 nrZ 3 nrD 3  lbN 107 lbZ 13
// lbD 17  dataSize 4285".
func (s Stats) String() string {
	return fmt.Sprintf("wdiffNr %d  nrN %d nrZ %d nrD %d  lbN %d lbZ %d lbD %d  dataSize %d",
		s.Files, s.Normal, s.AllZero, s.Discard, s.NormalLB, s.AllZeroLB, s.DiscardLB, s.DataSize)
}

// Count adds a record.
func (s *Stats) Count(r Record) { s.count(r.Kind, r.Blocks, int(r.Image.Size)) }

func (s *Stats) count(kind Kind, blocks block.LB, size int) {
	switch kind {
	case Normal:
		s.Normal++
		s.NormalLB += blocks
		s.DataSize += int64(size)
	case AllZero:
		s.AllZero++
		s.AllZeroLB += blocks
	case Discard:
		s.Discard++
		s.DiscardLB += blocks
	}
}

func (s *Stats) add(o *IO) { s.count(o.Kind, o.Blocks, len(o.Data)) }

// Stats counts the records of the file. DataSize of an indexed file is all that
// lies before the index, with padding and images that were replaced.
func (f *File) Stats() (Stats, error) { return f.StatsOf(f.Records()) }

// StatsOf is [File.Stats] by way of a stream that gives all records of the file.
func (f *File) StatsOf(s Stream) (Stats, error) {
	st := Stats{Files: 1}
	for {
		r, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Stats{}, err
		}
		st.Count(r)
	}
	if f.header.Indexed {
		st.DataSize = f.index - HeaderSize
	}
	return st, nil
}
