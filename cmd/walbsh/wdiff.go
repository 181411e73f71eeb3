package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/offline"
	"walbsh/walbcore/wdiff"
)

const wdiffHelp = `usage:
  walbsh wdiff show [--data] FILE...     list header, records and statistics
  walbsh wdiff check FILE...             read everything and say what is wrong
  walbsh wdiff stat FILE...              count records, one line for each file
  walbsh wdiff merge -o OUT [-x SIZE] [--compress OPT] FILE...
                                         make one diff of several, the oldest first
  walbsh wdiff redo --image IMG [--discard MODE] FILE...
                                         write diffs into an image, the oldest first
  walbsh wdiff gen -o OUT [options]      make a diff of random records, for tests

FILE may be - for stdin, and so may OUT for stdout. With --json each command
prints JSON objects, one a line.

  --data          read the data of each record, and mark it where they are bad
  -x SIZE         the longest record of the result in bytes; 0, the default, is
                  no limit (servers write 1m)
  --compress OPT  how data are stored, TYPE:LEVEL:THREADS as in zstd:9:2; TYPE is
                  none, gzip, snappy (the default), lzma, lz4 or zstd
  --image IMG     a file or a block device that is as large as the volume
  --discard MODE  what discards do to the image: ignore (the default), zero, or
                  passdown, which gives their space back

  of gen: --size N (of the volume, 64m), --records N (1000), --max-io SIZE (64k),
          --indexed, --compress OPT, --uuid HEX, --seed N (1)

check is stricter than servers are: it refuses what a writer would not leave.
redo verifies all files before it changes the image; records beyond its end are
told and left out. The result of merge has no uuid, as the original's.

Exit status: 0 done, 1 a file is bad or the work failed, 2 wrong command line.
`

// diffs is the face that works on diff files.
func diffs(ctx context.Context, e env, words []string) int {
	return runFileTool(ctx, e, "wdiff", wdiffHelp, fileCommands{
		"show": showDiffs, "check": checkDiffs, "stat": statDiffs, "merge": mergeDiffs, "redo": redoDiffs, "gen": generateDiff,
	}, words)
}

// diffJSON tells about a diff file.
type diffJSON struct {
	Type    string     `json:"type,omitempty"` // "header" in a list
	File    string     `json:"file"`
	OK      *bool      `json:"ok,omitempty"` // of check
	Kind    string     `json:"kind,omitempty"`
	UUID    string     `json:"uuid,omitempty"`
	Size    int64      `json:"size"`
	Stats   *statsJSON `json:"stats,omitempty"`
	Problem *errorJSON `json:"error,omitempty"`
}

func jsonDiff(d *offline.Diff) diffJSON {
	kind := "sorted"
	if d.Indexed {
		kind = "indexed"
	}
	return diffJSON{File: d.Name, Kind: kind, UUID: d.UUID.String(), Size: d.Size}
}

// recordJSON is one record of a list.
type recordJSON struct {
	Type       string  `json:"type"` // "record"
	Addr       int64   `json:"addr"`
	Blocks     int64   `json:"blocks"`
	Kind       string  `json:"kind"`
	Codec      string  `json:"codec"`
	DataOffset uint64  `json:"data_offset"`
	DataSize   uint32  `json:"data_size"`
	Checksum   string  `json:"checksum"`
	OrigBlocks *uint32 `json:"orig_blocks,omitempty"` // indexed
	IOOffset   *uint32 `json:"io_offset,omitempty"`   // indexed
	BadData    bool    `json:"bad_data,omitempty"`
}

func jsonRecord(e wdiff.Entry, bad bool) recordJSON {
	kind := wdiff.Normal
	switch {
	case e.AllZero:
		kind = wdiff.AllZero
	case e.Discard:
		kind = wdiff.Discard
	}
	r := recordJSON{
		Type: "record", Addr: int64(e.Addr), Blocks: int64(e.Blocks), Kind: kind.String(), Codec: e.Codec.String(),
		DataOffset: e.DataOffset, DataSize: e.DataSize, Checksum: fmt.Sprintf("%08x", e.Sum), BadData: bad,
	}
	if e.Indexed {
		r.OrigBlocks, r.IOOffset = &e.OrigBlocks, &e.Skip
	}
	return r
}

func showDiffs(ctx context.Context, t *fileTool, words []string) error {
	data := t.flags.Bool("data", false, "")
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	return t.each(ctx, files, func(in *offline.Input) error {
		if err := t.heading(in.Name, len(files)); err != nil {
			return err
		}
		d, err := offline.ListDiff(ctx, in, offline.DiffLister{
			Header: func(d offline.Diff) error {
				j := jsonDiff(&d)
				j.Type = "header"
				return t.tell(t.lines, d.HeaderText(), j)
			},
			Record: func(e wdiff.Entry, badData string) error {
				return t.tell(t.lines, e.String()+badData+"\n", jsonRecord(e, badData != ""))
			},
			Data: *data,
		})
		if err != nil {
			return err
		}
		return t.tell(t.lines, d.Stats.Text(), struct {
			Type string `json:"type"`
			*statsJSON
		}{"stat", jsonStats(d.Stats)})
	})
}

// heading names the file that is listed, if it is one of several.
func (t *fileTool) heading(name string, files int) error {
	if files < 2 || t.json {
		return nil
	}
	_, err := fmt.Fprintf(t.lines, "==> %s <==\n", name)
	return err
}

func checkDiffs(ctx context.Context, t *fileTool, words []string) error {
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	return t.each(ctx, files, func(in *offline.Input) error {
		in.Meter = t.meter("check "+in.Name, in.Size)
		d, err := offline.CheckDiff(ctx, in)
		t.bars.clear()
		d.Name, d.Size = in.Name, in.Size
		j := jsonDiff(&d)
		ok := err == nil
		if j.OK = &ok; ok {
			j.Stats = jsonStats(d.Stats)
			return t.tell(t.lines, in.Name+": ok\n", j)
		}
		if t.json && ctx.Err() == nil {
			j = diffJSON{File: in.Name, Size: in.Size, OK: &ok, Problem: jsonError(err)}
			if err := t.tell(t.lines, "", j); err != nil {
				return err
			}
		}
		return err
	})
}

func statDiffs(ctx context.Context, t *fileTool, words []string) error {
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	var total wdiff.Stats
	err = t.each(ctx, files, func(in *offline.Input) error {
		d, err := offline.StatDiff(ctx, in)
		if err != nil {
			return err
		}
		total.Add(d.Stats)
		j := jsonDiff(&d)
		j.Stats = jsonStats(d.Stats)
		return t.tell(t.lines, in.Name+"\t"+d.Stats.String()+"\n", j)
	})
	if err != nil || len(files) < 2 {
		return err
	}
	return t.tell(t.lines, "total\t"+total.String()+"\n", struct {
		Total *statsJSON `json:"total"`
	}{jsonStats(total)})
}

func mergeDiffs(ctx context.Context, t *fileTool, words []string) error {
	out := t.outFlag()
	limit := t.blocksFlag("x", 0)
	opt := t.compressFlag()
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	if *out == "" {
		return t.usage("%s wants -o OUT", t.face)
	}
	ins, err := t.openAll(ctx, files, "merge", 1)
	if err != nil {
		return err
	}
	var m offline.Merged
	err = t.write(*out, func(w io.Writer) (err error) {
		m, err = offline.MergeDiffs(ctx, w, ins, offline.MergeOptions{MaxBlocks: *limit, Opt: *opt})
		return err
	})
	if err != nil {
		return err
	}
	return t.tell(t.result(*out), fmt.Sprintf("mergeIn  %s\nmergeOut %s\n", m.In, m.Out), struct {
		In  *statsJSON `json:"in"`
		Out *statsJSON `json:"out"`
	}{jsonStats(m.In), jsonStats(m.Out)})
}

// maxOutside bounds the records beyond the end of an image that JSON lists.
const maxOutside = 100

func redoDiffs(ctx context.Context, t *fileTool, words []string) error {
	path := t.flags.String("image", "", "")
	discard := t.discardFlag()
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	if *path == "" {
		return t.usage("%s wants --image IMG", t.face)
	}
	img, err := t.openImage(*path)
	if err != nil {
		return err
	}
	ins, err := t.openAll(ctx, files, "redo", 2)
	if err != nil {
		return err
	}
	type place struct {
		Addr   block.LB `json:"addr"`
		Blocks block.LB `json:"blocks"`
		Kind   string   `json:"kind"`
	}
	outside := []place{}
	done, err := offline.RedoDiffs(ctx, img, ins, offline.DiffRedo{
		Discard: *discard,
		Outside: func(r wdiff.Record) {
			if !t.json {
				t.bars.clear()
				say(t.lines, "%s\n", offline.OutsideText(r))
			} else if len(outside) < maxOutside {
				outside = append(outside, place{r.Addr, r.Blocks, r.Kind.String()})
			}
		},
	})
	if err != nil {
		return err
	}
	return t.tell(t.result(""), done.Text(), struct {
		In      *statsJSON `json:"in"`
		Out     *statsJSON `json:"out"`
		Outside *statsJSON `json:"outside"`
		Records []place    `json:"outside_records"` // the first ones
	}{jsonStats(done.In), jsonStats(done.Out), jsonStats(done.Outside), outside})
}

func generateDiff(ctx context.Context, t *fileTool, words []string) error {
	out := t.outFlag()
	p := offline.DiffPlan{}
	size := t.blocksFlag("size", 64<<20/block.Size)
	longest := t.blocksFlag("max-io", 64<<10/block.Size)
	t.flags.IntVar(&p.Records, "records", 1000, "")
	t.flags.BoolVar(&p.Indexed, "indexed", false, "")
	t.flags.Uint64Var(&p.Seed, "seed", 1, "")
	uuid, opt := t.uuidFlag(), t.compressFlag()
	if _, err := t.parseGenerator(words, out); err != nil {
		return err
	}
	p.Volume, p.MaxBlocks, p.UUID, p.Opt = *size, *longest, *uuid, *opt
	var st wdiff.Stats
	err := t.write(*out, func(w io.Writer) (err error) {
		st, err = offline.GenerateDiff(ctx, w, p)
		return asUsage(err)
	})
	if err != nil {
		return err
	}
	return t.tell(t.result(*out), st.String()+"\n", jsonStats(st))
}

// parseGenerator parses the flags of a command that takes no arguments and
// makes a file.
func (t *fileTool) parseGenerator(words []string, out *string) ([]string, error) {
	args, err := t.parse(words, 0, 0, "")
	if err == nil && len(args) > 0 {
		err = t.usage("%s takes no arguments: %s", t.face, strings.Join(args, " "))
	}
	if err == nil && *out == "" {
		err = t.usage("%s wants -o OUT", t.face)
	}
	return args, err
}
