package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/offline"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// fileTool is one run of a face that works on files: wdiff, wlog or image.
type fileTool struct {
	env
	face   string          // "wdiff check"
	flags  *flag.FlagSet   // of this command; --json is in it
	json   bool            // print JSON, one object a line
	lines  *bufio.Writer   // over stdout, for everything that is text
	bars   *bars           // nil where stderr is no terminal
	inputs []io.Closer     // closed at the end
	status int             // the first one that is not statusOK
	params map[string]bool // flags that were given
}

// fileCommands are the commands of one face, by name.
type fileCommands map[string]func(ctx context.Context, t *fileTool, words []string) error

// runFileTool runs one command of a face. A signal ends its work; what was
// begun is taken away then.
func runFileTool(ctx context.Context, e env, face, help string, commands fileCommands, words []string) int {
	if len(words) == 0 || words[0] == "-h" || words[0] == "--help" {
		return printed(e.stdout, help)
	}
	do := commands[words[0]]
	if do == nil {
		return fail(e.stderr, usagef("walbsh "+face+" -h", "%s has no command %q", face, words[0]))
	}
	t := &fileTool{env: e, face: face + " " + words[0], lines: bufio.NewWriter(e.stdout)}
	t.flags = newFlags(t.face)
	t.flags.BoolVar(&t.json, "json", false, "")
	if e.bars != nil {
		t.bars = &bars{out: e.bars, visible: func() bool { return true }}
	}
	signals, work, _ := catchSignals(ctx, e, e.exit)
	defer signals.end()
	err := do(work, t, words[1:])
	t.bars.clear()
	err = errors.Join(err, t.lines.Flush())
	for _, in := range t.inputs {
		err = errors.Join(err, in.Close())
	}
	if errors.Is(err, flag.ErrHelp) {
		return printed(e.stdout, help)
	}
	if err != nil {
		t.report(err)
	}
	return t.status
}

// report prints an error and keeps its status, unless an earlier one did.
func (t *fileTool) report(err error) {
	t.bars.clear()
	_ = t.lines.Flush() // where this fails it fails at the end, too
	if status := fail(t.stderr, err); t.status == statusOK {
		t.status = status
	}
}

// parse takes the flags and gives the arguments, of which there are at least
// least and at most most; 0 is no limit.
func (t *fileTool) parse(words []string, least, most int, what string) ([]string, error) {
	args, err := parseMixed(t.flags, words, "walbsh "+t.face+" -h")
	if err != nil {
		return nil, err
	}
	t.params = map[string]bool{}
	t.flags.Visit(func(f *flag.Flag) { t.params[f.Name] = true })
	if len(args) < least || most > 0 && len(args) > most {
		return nil, t.usage("%s wants %s", t.face, what)
	}
	if i := slices.Index(args, "-"); i >= 0 && slices.Contains(args[i+1:], "-") {
		return nil, t.usage("- is given twice")
	}
	return args, nil
}

func (t *fileTool) usage(format string, args ...any) error {
	return usagef("walbsh "+t.face+" -h", format, args...)
}

// open opens an input. "-" is stdin, and what is no regular file is read to its
// end, too.
func (t *fileTool) open(ctx context.Context, name string) (*offline.Input, error) {
	in, err := t.openInput(ctx, name)
	if err != nil {
		return nil, asUsage(err)
	}
	t.inputs = append(t.inputs, in)
	return in, nil
}

func (t *fileTool) openInput(ctx context.Context, name string) (*offline.Input, error) {
	if name == "-" {
		return offline.Spool(ctx, "stdin", &endable{ctx: ctx, in: t.stdin})
	}
	st, err := os.Stat(name)
	if err != nil || st.Mode()&os.ModeNamedPipe == 0 {
		return offline.Open(name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	in, err := offline.Spool(ctx, name, &endable{ctx: ctx, in: f})
	return in, errors.Join(err, f.Close())
}

// openAll opens all inputs and gives them one meter that counts them times
// times.
func (t *fileTool) openAll(ctx context.Context, names []string, step string, times int64) ([]*offline.Input, error) {
	var ins []*offline.Input
	total := int64(0)
	for _, name := range names {
		in, err := t.open(ctx, name)
		if err != nil {
			return nil, err
		}
		ins = append(ins, in)
		total += in.Size
	}
	meter := t.meter(step, times*total)
	for _, in := range ins {
		in.Meter = meter
	}
	return ins, nil
}

// each works on the inputs one by one. A bad one is reported and does not keep
// the others from their turn.
func (t *fileTool) each(ctx context.Context, names []string, do func(in *offline.Input) error) error {
	for _, name := range names {
		in, err := t.open(ctx, name)
		if err == nil {
			err = do(in)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			t.report(err)
		}
	}
	return nil
}

// meter shows the progress of a step of total bytes, if there is somebody to
// see it.
func (t *fileTool) meter(step string, total int64) *offline.Meter {
	if t.bars == nil {
		return nil
	}
	start := time.Now()
	return offline.NewMeter(total, func(done, total int64) {
		elapsed := time.Since(start)
		t.bars.observe(plan.Event{
			Kind: plan.StepBytes, Step: step, Elapsed: elapsed,
			Bytes: plan.Bytes{Done: done, Total: total, Rate: float64(done) / max(elapsed.Seconds(), 1e-3)},
		})
	})
}

// write makes the output that -o names: a file that appears when it is
// complete, or stdout for "-".
func (t *fileTool) write(out string, fill func(w io.Writer) error) error {
	if out != "-" {
		return asUsage(offline.WriteFile(out, fill))
	}
	if t.screen != nil {
		return t.usage("stdout is a terminal")
	}
	w := bufio.NewWriterSize(t.stdout, 1<<20)
	if err := fill(w); err != nil {
		return err
	}
	return w.Flush()
}

// result is where text goes that tells what was done: stdout, unless the
// output itself goes there.
func (t *fileTool) result(out string) io.Writer {
	t.bars.clear()
	if out == "-" {
		return t.stderr
	}
	return t.lines
}

// tell prints what was done, as text or as a JSON object.
func (t *fileTool) tell(w io.Writer, text string, v any) error {
	if t.json {
		return json.NewEncoder(w).Encode(v)
	}
	_, err := io.WriteString(w, text)
	return err
}

// Flags that several commands have.

func (t *fileTool) outFlag() *string { return t.flags.String("o", "", "") }

// compressFlag is how data are stored.
func (t *fileTool) compressFlag() *compress.Opt {
	o := &compress.Opt{Type: compress.Snappy, CPUs: uint8(min(runtime.NumCPU(), 8))}
	t.flags.Func("compress", "", func(word string) (err error) {
		*o, err = compress.ParseOpt(word)
		return err
	})
	return o
}

// blocksFlag is a size that is given in bytes, a multiple of 512.
func (t *fileTool) blocksFlag(name string, def block.LB) *block.LB {
	v := def
	t.flags.Func(name, "", func(word string) error {
		n, err := block.ParseSize(word)
		if err == nil && n%block.Size != 0 {
			err = fmt.Errorf("%s is no multiple of %d", word, block.Size)
		}
		v = block.FromBytes(n)
		return err
	})
	return &v
}

func (t *fileTool) discardFlag() *wdiff.DiscardMode {
	m := wdiff.DiscardIgnore
	t.flags.Func("discard", "", func(word string) (err error) {
		m, err = wdiff.ParseDiscardMode(word)
		return err
	})
	return &m
}

func (t *fileTool) uuidFlag() *meta.UUID {
	u := new(meta.UUID)
	t.flags.Func("uuid", "", func(word string) (err error) {
		*u, err = meta.ParseUUID(word)
		return err
	})
	return u
}

// openImage opens the image that is to be changed.
func (t *fileTool) openImage(path string) (image.Image, error) {
	img, err := image.OpenPath(path, true)
	if err != nil {
		return nil, asUsage(err)
	}
	t.inputs = append(t.inputs, img)
	return img, nil
}

// The JSON forms. Names are those of the text forms.

type statsJSON struct {
	WdiffNr   int   `json:"wdiffNr"`
	NormalNr  int   `json:"normalNr"`
	AllZeroNr int   `json:"allZeroNr"`
	DiscardNr int   `json:"discardNr"`
	NormalLb  int64 `json:"normalLb"`
	AllZeroLb int64 `json:"allZeroLb"`
	DiscardLb int64 `json:"discardLb"`
	DataSize  int64 `json:"dataSize"`
}

func jsonStats(s wdiff.Stats) *statsJSON {
	return &statsJSON{
		s.Files, s.Normal, s.AllZero, s.Discard, int64(s.NormalLB), int64(s.AllZeroLB), int64(s.DiscardLB), s.DataSize,
	}
}

// errorJSON is what is wrong with a file.
type errorJSON struct {
	Code     walberr.Code `json:"code"`
	Text     string       `json:"text"`
	Found    string       `json:"found,omitempty"`
	Expected string       `json:"expected,omitempty"`
}

func jsonError(err error) *errorJSON {
	if err == nil {
		return nil
	}
	e := &errorJSON{Code: walberr.CodeOf(err), Text: oneLine(err)}
	if w, ok := errors.AsType[*walberr.Error](err); ok {
		e.Found, e.Expected = w.Found, w.Expected
	}
	return e
}
