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
	"walbsh/walbcore/wlog"
)

// log is one log of a file as scripts see it.
type log struct {
	File      string
	Offset    int64
	UUID      meta.UUID
	PBS       uint32
	Salt      string
	BeginLsid uint64
	EndLsid   uint64 // behind the last pack
	Packs     int
	NormalLB  block.LB
	DiscardLB block.LB
	PaddingPB uint64
	Ended     error // what was found in the place of the end block, nil if that was there
}

// logRecord is one record of a log.
type logRecord struct {
	Pack     uint64 // lsid of its pack
	Lsid     uint64
	Kind     string // write, padding or discard
	Addr     block.LB
	Blocks   block.LB
	Checksum string
}

func logTable(l offline.Log) log {
	return log{
		File: l.Name, Offset: l.Offset, UUID: l.Header.UUID, PBS: l.Header.PBS, Salt: fmt.Sprintf("%08x", l.Header.Salt),
		BeginLsid: uint64(l.Header.Begin), EndLsid: uint64(l.End), Packs: l.Packs,
		NormalLB: l.NormalLB, DiscardLB: l.DiscardLB, PaddingPB: l.PaddingPB, Ended: l.Why,
	}
}

func logTables(list []offline.Log) []log {
	out := []log{}
	for _, l := range list {
		out = append(out, logTable(l))
	}
	return out
}

// logVerbs are the verbs about logs.
func logVerbs() []kit.Verb {
	logs := filesParam("logs that follow each other: the same uuid, each begins where the one before ended")
	return []kit.Verb{
		{
			Name:    "wlog_show",
			Summary: "list the records of a log file",
			Doc:     "Fails with the code checksum where a log does not end with its end block, or, if data are read, where they are bad.",
			Params:  []kit.Param{fileParam("file with one log or several"), dataParam(), limitParam()},
			Tier:    kit.Query,
			Result:  "a table: logs, records, and more, the number of records that are not listed",
			Run:     run(showLog),
		},
		{
			Name:    "wlog_check",
			Summary: "read all of a log file and tell whether it is good",
			Doc:     "Fails with the code checksum at the first thing that is wrong, a missing end block included.",
			Params:  []kit.Param{fileParam("file with one log or several")},
			Tier:    kit.Query,
			Result:  "a list of the logs in it",
			Run: run(func(ctx context.Context, a kit.Args) ([]log, error) {
				var list []offline.Log
				err := withInputs([]string{kit.Get[string](a, "file")}, func(ins inputs) (err error) {
					list, err = offline.CheckLogs(ctx, ins[0])
					return err
				})
				return logTables(list), err
			}),
		},
		{
			Name:    "wlog_redo",
			Summary: "write logs into an image file",
			Doc: "All are read and verified before the image is changed. What reaches beyond the end of the image is left out. The image " +
				"is durable afterwards.",
			Params: []kit.Param{imageParam(), logs, discardParam(), salvageParam()},
			Tier:   kit.Disruptive,
			Result: "a table: logs, and blocks by what became of them",
			Run:    run(redoLogs),
		},
		{
			Name:    "wlog_to_wdiff",
			Summary: "make one diff of logs",
			Doc:     "Later writes replace earlier ones, writes of zeros become all-zero records. The diff has the uuid of the logs.",
			Params: []kit.Param{
				outParam(), logs,
				{Name: "indexed", PyName: "indexed", Type: kit.Bool, Default: false, Doc: "an indexed diff, as proxies make, instead of a sorted one"},
				sizeParam("max_io", "the longest record of the diff; 0 is no limit, in a sorted one", wdiff.DefaultMaxBlocks),
				compressParam(), salvageParam(),
			},
			Tier:   kit.Safe,
			Result: "a table: logs, and input, the statistics of their records",
			Run:    run(convertLogs),
		},
		{
			Name:    "wlog_gen",
			Summary: "make a log of random writes and discards, for tests",
			Doc:     "A tenth of them is discards, and an eighth of the writes zeros.",
			Params: []kit.Param{
				outParam(), sizeParam("size", "of the volume", 64<<20/block.Size),
				{Name: "log_size", PyName: "logSize", Type: kit.Size, Default: int64(16 << 20), Doc: "of the log, about"},
				{Name: "pbs", PyName: "pbs", Type: kit.Int(512, 4096), Default: 512, Doc: "physical block size, 512 or 4096"},
				sizeParam("min_io", "the shortest write", 1),
				sizeParam("max_io", "the longest write", 64<<10/block.Size),
				sizeParam("max_discard", "the longest discard; 0 makes none", 64<<10/block.Size),
				{Name: "ring_size", PyName: "ringSize", Type: kit.Size, Default: int64(64 << 20), Doc: "of the log device, whose end no write crosses"},
				{Name: "lsid", PyName: "lsid", Type: kit.Uint64, Default: uint64(0), Doc: "of the first pack"},
				seedParam(), uuidParam(),
			},
			Tier:   kit.Safe,
			Result: "a table about the log",
			Run:    run(generateLog),
		},
	}
}

type logList struct {
	Logs    []log
	Records []logRecord
	More    int
}

func showLog(ctx context.Context, a kit.Args) (logList, error) {
	t := logList{Records: []logRecord{}}
	limit := kit.Get[int](a, "limit")
	lister := offline.LogLister{Pack: func(h *wlog.PackHeader) error {
		for _, r := range h.Records {
			if len(t.Records) == limit {
				t.More++
				continue
			}
			kind := map[wlog.Kind]string{wlog.Write: "write", wlog.Padding: "padding", wlog.Discard: "discard"}[r.Kind]
			t.Records = append(t.Records, logRecord{
				Pack: uint64(h.Lsid), Lsid: uint64(r.Lsid), Kind: kind, Addr: r.Offset, Blocks: r.Size, Checksum: fmt.Sprintf("%08x", r.Checksum),
			})
		}
		return nil
	}}
	if kit.Get[bool](a, "data") {
		lister.Bad = func(wlog.Record, uint32) error { return nil }
	}
	err := withInputs([]string{kit.Get[string](a, "file")}, func(ins inputs) error {
		list, err := offline.ListLogs(ctx, ins[0], lister)
		t.Logs = logTables(list)
		return err
	})
	return t, err
}

type logsRedone struct {
	Logs      []log
	NormalLB  block.LB // written
	DiscardLB block.LB // given back
	AllZeroLB block.LB // discards that became zeros
	IgnoredLB block.LB // discards that were passed over
	Clipped   int      // what reaches beyond the image
	ClippedLB block.LB
}

func redoLogs(ctx context.Context, a kit.Args) (logsRedone, error) {
	mode, err := discardMode(a)
	if err != nil {
		return logsRedone{}, err
	}
	var d offline.LogRedone
	err = withInputs(names(a, "files"), func(ins inputs) error {
		return withImage(kit.Get[string](a, "image"), func(img image.Image) (err error) {
			d, err = offline.RedoLogs(ctx, img, ins, offline.LogRedo{Discard: mode, Salvage: kit.Get[bool](a, "salvage")})
			return err
		})
	})
	return logsRedone{logTables(d.Logs), d.NormalLB, d.DiscardLB, d.ZeroLB, d.IgnoredLB, d.Clipped, d.ClippedLB}, err
}

type converted struct {
	Logs  []log
	Input wdiff.Stats
}

func convertLogs(ctx context.Context, a kit.Args) (converted, error) {
	o := offline.Convert{
		Indexed: kit.Get[bool](a, "indexed"), MaxBlocks: kit.Get[block.LB](a, "max_io"),
		Opt: kit.Get[compress.Opt](a, "compress"), Salvage: kit.Get[bool](a, "salvage"),
	}
	var done offline.Converted
	err := withInputs(names(a, "files"), func(ins inputs) error {
		return write(a, func(w io.Writer) (err error) {
			done, err = offline.ConvertLogs(ctx, w, ins, o)
			return err
		})
	})
	return converted{logTables(done.Logs), done.In}, err
}

func generateLog(ctx context.Context, a kit.Args) (log, error) {
	pbs := kit.Get[int](a, "pbs")
	p := offline.LogPlan{
		Volume: kit.Get[block.LB](a, "size"), PBS: uint32(pbs), Size: uint64(kit.Get[int64](a, "log_size")) / uint64(pbs),
		MinIO: kit.Get[block.LB](a, "min_io"), MaxIO: kit.Get[block.LB](a, "max_io"), MaxDiscard: kit.Get[block.LB](a, "max_discard"),
		Ring: uint64(kit.Get[int64](a, "ring_size")) / uint64(pbs), Begin: meta.Lsid(kit.Get[uint64](a, "lsid")),
		UUID: kit.Get[meta.UUID](a, "uuid"), Seed: kit.Get[uint64](a, "seed"),
	}
	var l offline.Log
	err := write(a, func(w io.Writer) (err error) {
		l, err = offline.GenerateLog(ctx, w, p)
		return err
	})
	l.Name = kit.Get[string](a, "out")
	return logTable(l), err
}
