package formats

import (
	"context"
	"fmt"
	"io"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/offline"
	"walbsh/walbcore/wdiff"
)

// diff is a diff file as scripts see it.
type diff struct {
	File    string
	Kind    string // sorted or indexed
	UUID    meta.UUID
	Size    int64
	Stats   wdiff.Stats
	Records []record // of a list
	More    int      // records that are not listed
}

// record is one record of a diff.
type record struct {
	Addr       block.LB
	Blocks     block.LB
	Kind       wdiff.Kind
	Codec      compress.Type
	DataOffset uint64
	DataSize   uint32
	Checksum   string
}

func diffTable(d offline.Diff) diff {
	kind := "sorted"
	if d.Indexed {
		kind = "indexed"
	}
	return diff{File: d.Name, Kind: kind, UUID: d.UUID, Size: d.Size, Stats: d.Stats, Records: []record{}}
}

func recordTable(e wdiff.Entry) record {
	r := record{
		Addr: e.Addr, Blocks: e.Blocks, Codec: e.Codec, DataOffset: e.DataOffset, DataSize: e.DataSize,
		Checksum: fmt.Sprintf("%08x", e.Sum),
	}
	switch {
	case e.AllZero:
		r.Kind = wdiff.AllZero
	case e.Discard:
		r.Kind = wdiff.Discard
	}
	return r
}

// counted is a diff file without its records.
type counted struct {
	File  string
	Kind  string
	UUID  meta.UUID
	Size  int64
	Stats wdiff.Stats
}

func countedTable(d offline.Diff) counted {
	t := diffTable(d)
	return counted{t.File, t.Kind, t.UUID, t.Size, t.Stats}
}

// diffVerbs are the verbs about diff files.
func diffVerbs() []kit.Verb {
	return []kit.Verb{
		{
			Name:    "wdiff_show",
			Summary: "list the records of a diff",
			Doc:     "Reads it as servers do. Data are read only where that is asked for.",
			Params:  []kit.Param{fileParam("diff"), dataParam(), limitParam()},
			Tier:    kit.Query,
			Result:  "a table: file, kind, uuid, size, stats, records, and more, the number of records that are not listed",
			Run:     run(showDiff),
		},
		{
			Name:    "wdiff_check",
			Summary: "read all of a diff and tell whether it is good",
			Doc:     "Stricter than servers are: refuses what a writer would not leave. Fails with the code checksum at the first thing that is wrong.",
			Params:  []kit.Param{fileParam("diff")},
			Tier:    kit.Query,
			Result:  "a table: file, kind, uuid, size, stats",
			Run:     run(perDiff(offline.CheckDiff)),
		},
		{
			Name:    "wdiff_stat",
			Summary: "count the records of a diff",
			Doc:     "Reads no data.",
			Params:  []kit.Param{fileParam("diff")},
			Tier:    kit.Query,
			Result:  "a table: file, kind, uuid, size, stats",
			Run:     run(perDiff(offline.StatDiff)),
		},
		{
			Name:    "wdiff_merge",
			Summary: "make one diff of several",
			Doc:     "The result is sorted, does what the others do one after the other, and has no uuid, as the original's tool leaves it.",
			Params: []kit.Param{
				outParam(), filesParam("diffs, the oldest first"),
				sizeParam("max_io", "the longest record of the result; 0 is no limit", 0), compressParam(),
			},
			Tier:   kit.Safe,
			Result: "a table: input and output, the statistics of both",
			Run:    run(mergeDiffs),
		},
		{
			Name:    "wdiff_redo",
			Summary: "write diffs into an image file",
			Doc: "All are read and verified before the image is changed. Records that reach beyond the end of the image are left out. The " +
				"image is durable afterwards.",
			Params: []kit.Param{imageParam(), filesParam("diffs, the oldest first"), discardParam()},
			Tier:   kit.Disruptive,
			Result: "a table: input, output and outside, the statistics of what was read, written and left out",
			Run:    run(redoDiffs),
		},
		{
			Name:    "wdiff_gen",
			Summary: "make a diff of random records, for tests",
			Doc:     "An eighth of them is all-zero and an eighth discards. Those of an indexed diff overlap.",
			Params: []kit.Param{
				outParam(), sizeParam("size", "of the volume", 64<<20/block.Size),
				{Name: "records", PyName: "records", Type: kit.Int(0, 1<<31-1), Default: 1000, Doc: "how many"},
				sizeParam("max_io", "the longest record", 64<<10/block.Size),
				{Name: "indexed", PyName: "indexed", Type: kit.Bool, Default: false, Doc: "an indexed file"},
				compressParam(), seedParam(), uuidParam(),
			},
			Tier:   kit.Safe,
			Result: "its statistics",
			Run:    run(generateDiff),
		},
	}
}

func showDiff(ctx context.Context, a kit.Args) (diff, error) {
	var list []record
	more, limit := 0, kit.Get[int](a, "limit")
	var d offline.Diff
	err := withInputs([]string{kit.Get[string](a, "file")}, func(ins inputs) (err error) {
		d, err = offline.ListDiff(ctx, ins[0], offline.DiffLister{
			Header: func(offline.Diff) error { return nil },
			Record: func(e wdiff.Entry, _ string) error {
				if len(list) < limit {
					list = append(list, recordTable(e))
				} else {
					more++
				}
				return nil
			},
			Data: kit.Get[bool](a, "data"),
		})
		return err
	})
	t := diffTable(d)
	t.Records, t.More = append(t.Records, list...), more
	return t, err
}

func perDiff(do func(context.Context, *offline.Input) (offline.Diff, error)) func(context.Context, kit.Args) (counted, error) {
	return func(ctx context.Context, a kit.Args) (counted, error) {
		var d offline.Diff
		err := withInputs([]string{kit.Get[string](a, "file")}, func(ins inputs) (err error) {
			d, err = do(ctx, ins[0])
			return err
		})
		return countedTable(d), err
	}
}

type merged struct {
	Input  wdiff.Stats
	Output wdiff.Stats
}

func mergeDiffs(ctx context.Context, a kit.Args) (merged, error) {
	var m offline.Merged
	err := withInputs(names(a, "files"), func(ins inputs) error {
		return write(a, func(w io.Writer) (err error) {
			m, err = offline.MergeDiffs(ctx, w, ins, offline.MergeOptions{
				MaxBlocks: kit.Get[block.LB](a, "max_io"), Opt: kit.Get[compress.Opt](a, "compress"),
			})
			return err
		})
	})
	return merged{m.In, m.Out}, err
}

type redone struct {
	Input   wdiff.Stats
	Output  wdiff.Stats
	Outside wdiff.Stats
}

func redoDiffs(ctx context.Context, a kit.Args) (redone, error) {
	mode, err := discardMode(a)
	if err != nil {
		return redone{}, err
	}
	var done offline.DiffRedone
	err = withInputs(names(a, "files"), func(ins inputs) error {
		return withImage(kit.Get[string](a, "image"), func(img image.Image) (err error) {
			done, err = offline.RedoDiffs(ctx, img, ins, offline.DiffRedo{Discard: mode})
			return err
		})
	})
	return redone{done.In, done.Out, done.Outside}, err
}

func generateDiff(ctx context.Context, a kit.Args) (wdiff.Stats, error) {
	p := offline.DiffPlan{
		Volume: kit.Get[block.LB](a, "size"), Records: kit.Get[int](a, "records"), MaxBlocks: kit.Get[block.LB](a, "max_io"),
		Indexed: kit.Get[bool](a, "indexed"), Opt: kit.Get[compress.Opt](a, "compress"),
		UUID: kit.Get[meta.UUID](a, "uuid"), Seed: kit.Get[uint64](a, "seed"),
	}
	var st wdiff.Stats
	err := write(a, func(w io.Writer) (err error) {
		st, err = offline.GenerateDiff(ctx, w, p)
		return err
	})
	return st, err
}
