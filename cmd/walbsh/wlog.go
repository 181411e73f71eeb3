package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/offline"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wlog"
)

const wlogHelp = `usage:
  walbsh wlog show [--data] FILE...      list headers, packs and records
  walbsh wlog check FILE...              read everything and say what is wrong
  walbsh wlog redo --image IMG [--discard MODE] [--salvage] FILE...
                                         write logs into an image
  walbsh wlog to-wdiff -o OUT [--indexed] [-x SIZE] [--compress OPT] [--salvage] FILE...
                                         make one diff of logs
  walbsh wlog gen -o OUT [options]       make a log of random IOs, for tests

FILE may be - for stdin, and so may OUT for stdout. A FILE may hold several logs.
The logs of one command follow each other: the same uuid, and each begins at the
lsid where the one before ended. With --json each command prints JSON objects,
one a line.

  --data          read the data of each record, and tell where they are bad
  --image IMG     a file or a block device that is as large as the volume
  --discard MODE  what discards do to the image: ignore (the default), zero, or
                  passdown, which gives their space back
  --indexed       make an indexed diff, as proxies do, instead of a sorted one
  -x SIZE         the longest record of the diff in bytes (default 1m); 0 is no
                  limit, in a sorted one
  --compress OPT  how data are stored, TYPE:LEVEL:THREADS as in zstd:9:2
  --salvage       take whatever is no pack for the end of a log. Without it a log
                  that does not end with its end block is a bad file.

  of gen: --size N (of the volume, 64m), --log-size N (16m), --pbs 512|4096,
          --min-io SIZE (512), --max-io SIZE (64k), --max-discard SIZE (64k),
          --ring-size N (of the log device, 64m), --lsid N (0), --uuid HEX, --seed N (1)

redo and to-wdiff verify everything before they write.

Exit status: 0 done, 1 a file is bad or the work failed, 2 wrong command line.
`

// logs is the face that works on log files.
func logs(ctx context.Context, e env, words []string) int {
	return runFileTool(ctx, e, "wlog", wlogHelp, fileCommands{
		"show": showLogs, "check": checkLogs, "redo": redoLogs, "to-wdiff": convertLogs, "gen": generateLog,
	}, words)
}

// logJSON tells about one log of a file.
type logJSON struct {
	Type    string     `json:"type,omitempty"` // "header" or "log" in a list
	File    string     `json:"file"`
	Offset  int64      `json:"offset"`
	UUID    string     `json:"uuid"`
	PBS     uint32     `json:"pbs"`
	Salt    string     `json:"salt"`
	BgnLsid meta.Lsid  `json:"bgnLsid"`
	EndLsid meta.Lsid  `json:"endLsid"`
	Numbers *logCounts `json:"numbers,omitempty"` // not in a header
}

// logCounts are the numbers of a log that was read to its end.
type logCounts struct {
	ReallyEndLsid meta.Lsid `json:"reallyEndLsid"`
	NrPacks       int       `json:"nrPacks"`
	NormalLb      block.LB  `json:"normalLb"`
	DiscardLb     block.LB  `json:"discardLb"`
	PaddingPb     uint64    `json:"paddingPb"`
}

func jsonLog(kind string, l *offline.Log) logJSON {
	j := logJSON{
		Type: kind, File: l.Name, Offset: l.Offset, UUID: l.Header.UUID.String(), PBS: l.Header.PBS,
		Salt: fmt.Sprintf("%08x", l.Header.Salt), BgnLsid: l.Header.Begin, EndLsid: l.Header.End,
	}
	if kind != "header" {
		j.Numbers = &logCounts{l.End, l.Packs, l.NormalLB, l.DiscardLB, l.PaddingPB}
	}
	return j
}

func jsonLogs(list []offline.Log) []logJSON {
	out := []logJSON{}
	for i := range list {
		out = append(out, jsonLog("", &list[i]))
	}
	return out
}

// packJSON is one pack of a list.
type packJSON struct {
	Type     string          `json:"type"` // "pack"
	Lsid     meta.Lsid       `json:"lsid"`
	Total    uint16          `json:"total"`
	NPadding uint16          `json:"n_pad"`
	Checksum string          `json:"checksum"`
	Records  []logRecordJSON `json:"records"`
}

// logRecordJSON is one record of a pack.
type logRecordJSON struct {
	Lsid     meta.Lsid `json:"lsid"`
	Kind     string    `json:"kind"` // write, padding or discard
	Addr     block.LB  `json:"addr"`
	Blocks   block.LB  `json:"blocks"`
	Checksum string    `json:"checksum"`
}

func jsonPack(h *wlog.PackHeader) packJSON {
	p := packJSON{
		Type: "pack", Lsid: h.Lsid, Total: h.Total, NPadding: h.NPadding, Checksum: fmt.Sprintf("%08x", h.Checksum),
		Records: []logRecordJSON{},
	}
	for _, r := range h.Records {
		kind := map[wlog.Kind]string{wlog.Write: "write", wlog.Padding: "padding", wlog.Discard: "discard"}[r.Kind]
		p.Records = append(p.Records, logRecordJSON{r.Lsid, kind, r.Offset, r.Size, fmt.Sprintf("%08x", r.Checksum)})
	}
	return p
}

func showLogs(ctx context.Context, t *fileTool, words []string) error {
	data := t.flags.Bool("data", false, "")
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	lister := offline.LogLister{
		Header: func(l *offline.Log) error {
			return t.tell(t.lines, l.Header.String()+"\n", jsonLog("header", l))
		},
		Pack: func(h *wlog.PackHeader) error { return t.tell(t.lines, h.Listing(), jsonPack(h)) },
		End:  func(l *offline.Log) error { return t.tell(t.lines, l.Text(), jsonLog("log", l)) },
	}
	if *data {
		lister.Bad = func(r wlog.Record, sum uint32) error {
			return t.tell(t.lines, offline.BadDataText(r, sum)+"\n", struct {
				Type string    `json:"type"`
				Lsid meta.Lsid `json:"lsid"`
				Sum  string    `json:"checksum"` // of the data
			}{"bad_data", r.Lsid, fmt.Sprintf("%08x", sum)})
		}
	}
	return t.each(ctx, files, func(in *offline.Input) error {
		if err := t.heading(in.Name, len(files)); err != nil {
			return err
		}
		_, err := offline.ListLogs(ctx, in, lister)
		return err
	})
}

func checkLogs(ctx context.Context, t *fileTool, words []string) error {
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	type result struct {
		File    string     `json:"file"`
		OK      bool       `json:"ok"`
		Size    int64      `json:"size"`
		Logs    []logJSON  `json:"logs,omitempty"`
		Problem *errorJSON `json:"error,omitempty"`
	}
	return t.each(ctx, files, func(in *offline.Input) error {
		in.Meter = t.meter("check "+in.Name, in.Size)
		list, err := offline.CheckLogs(ctx, in)
		t.bars.clear()
		if err == nil {
			return t.tell(t.lines, in.Name+": ok\n", result{File: in.Name, OK: true, Size: in.Size, Logs: jsonLogs(list)})
		}
		if t.json && ctx.Err() == nil {
			if err := t.tell(t.lines, "", result{File: in.Name, Size: in.Size, Problem: jsonError(err)}); err != nil {
				return err
			}
		}
		return err
	})
}

// salvaged tells of the logs that ended before they should.
func (t *fileTool) salvaged(list []offline.Log) {
	for _, l := range list {
		if l.Why != nil {
			t.bars.clear()
			say(t.stderr, "walbsh: salvaged up to lsid %d: %s\n", l.End, oneLine(l.Why))
		}
	}
}

func redoLogs(ctx context.Context, t *fileTool, words []string) error {
	path := t.flags.String("image", "", "")
	salvage := t.flags.Bool("salvage", false, "")
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
	done, err := offline.RedoLogs(ctx, img, ins, offline.LogRedo{Discard: *discard, Salvage: *salvage})
	if err != nil {
		return err
	}
	t.salvaged(done.Logs)
	return t.tell(t.result(""), done.Text(), struct {
		Logs      []logJSON `json:"logs"`
		NormalLb  block.LB  `json:"normalLb"`
		DiscardLb block.LB  `json:"discardLb"`
		AllZeroLb block.LB  `json:"allZeroLb"`
		IgnoredLb block.LB  `json:"ignoredLb"`
		PaddingPb uint64    `json:"paddingPb"`
		ClippedNr int       `json:"clippedNr"`
		ClippedLb block.LB  `json:"clippedLb"`
	}{jsonLogs(done.Logs), done.NormalLB, done.DiscardLB, done.ZeroLB, done.IgnoredLB, done.PaddingPB, done.Clipped, done.ClippedLB})
}

func convertLogs(ctx context.Context, t *fileTool, words []string) error {
	out := t.outFlag()
	o := offline.Convert{}
	t.flags.BoolVar(&o.Indexed, "indexed", false, "")
	t.flags.BoolVar(&o.Salvage, "salvage", false, "")
	limit, opt := t.blocksFlag("x", wdiff.DefaultMaxBlocks), t.compressFlag()
	files, err := t.parse(words, 1, 0, "FILE")
	if err != nil {
		return err
	}
	if *out == "" {
		return t.usage("%s wants -o OUT", t.face)
	}
	if o.Indexed && (*limit < 1 || *limit > wdiff.DefaultMaxBlocks) {
		return t.usage("-x with --indexed is 512 to %s", block.FormatSize(wdiff.DefaultMaxBlocks.Bytes()))
	}
	o.MaxBlocks, o.Opt = *limit, *opt
	times := int64(2)
	if o.Indexed {
		times = 1
	}
	ins, err := t.openAll(ctx, files, "convert", times)
	if err != nil {
		return err
	}
	var done offline.Converted
	err = t.write(*out, func(w io.Writer) (err error) {
		done, err = offline.ConvertLogs(ctx, w, ins, o)
		return err
	})
	if err != nil {
		return err
	}
	t.salvaged(done.Logs)
	var text strings.Builder
	for _, l := range done.Logs {
		fmt.Fprintf(&text, "converted until lsid %d\n", l.End)
	}
	return t.tell(t.result(*out), text.String(), struct {
		Logs []logJSON  `json:"logs"`
		In   *statsJSON `json:"in"`
	}{jsonLogs(done.Logs), jsonStats(done.In)})
}

func generateLog(ctx context.Context, t *fileTool, words []string) error {
	out := t.outFlag()
	p := offline.LogPlan{}
	size := t.blocksFlag("size", 64<<20/block.Size)
	shortest, longest := t.blocksFlag("min-io", 1), t.blocksFlag("max-io", 64<<10/block.Size)
	discard := t.blocksFlag("max-discard", 64<<10/block.Size)
	logSize, ring := sizeFlag(t.flags, "log-size", 16<<20), sizeFlag(t.flags, "ring-size", 64<<20)
	pbs := t.flags.Uint("pbs", 512, "")
	lsid := t.flags.Uint64("lsid", 0, "")
	t.flags.Uint64Var(&p.Seed, "seed", 1, "")
	uuid := t.uuidFlag()
	if _, err := t.parseGenerator(words, out); err != nil {
		return err
	}
	if !wlog.ValidPBS(uint32(*pbs)) {
		return t.usage("--pbs %d, want 512 or 4096", *pbs)
	}
	p.Volume, p.MinIO, p.MaxIO, p.MaxDiscard = *size, *shortest, *longest, *discard
	p.PBS, p.Begin, p.UUID = uint32(*pbs), meta.Lsid(*lsid), *uuid
	p.Size, p.Ring = uint64(*logSize)/uint64(*pbs), uint64(*ring)/uint64(*pbs)
	var l offline.Log
	err := t.write(*out, func(w io.Writer) (err error) {
		l, err = offline.GenerateLog(ctx, w, p)
		return asUsage(err)
	})
	if err != nil {
		return err
	}
	l.Name = *out
	return t.tell(t.result(*out), l.Text(), jsonLog("", &l))
}
