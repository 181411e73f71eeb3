// Package formats is the Lua module for WalB's files: what `walbsh wdiff`,
// `walbsh wlog` and `walbsh image` do, with tables as results, and the algebra
// of snapshots, diffs and states as values.
//
//	formats.wdiff_check("x.wdiff").stats.normal_lb
//	formats.wdiff_merge("out.wdiff", {"old.wdiff", "new.wdiff"})
//	formats.snap("|5|"):apply(formats.diff("|5|-->|7|"))
//
// What may come in: paths of regular files, as for a script's own io, and text
// forms of the algebra. The work is package offline's and meta's; nothing is
// computed here.
package formats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/offline"
	"walbsh/walbcore/wdiff"
)

// Module gives the module formats.
func Module() kit.Module {
	return kit.Module{
		Name:    "formats",
		Summary: "look into diff files, logs and images, merge, apply and make them; compute with snapshots and diffs",
		Verbs:   slices.Concat(diffVerbs(), logVerbs(), imageVerbs(), algebraVerbs()),
	}
}

// The types of parameters.

// filesType is one file or a list of them. Go type: []string.
var filesType = kit.Type{
	Name:  "a file name or a list of file names",
	Table: true,
	From: func(v lua.LValue) (any, error) {
		if one, err := kit.String.From(v); err == nil {
			return []string{one.(string)}, nil
		}
		list, err := kit.List(kit.String).From(v)
		if err != nil {
			return nil, err
		}
		var names []string
		for _, name := range list.([]any) {
			names = append(names, name.(string))
		}
		return names, nil
	},
	Text: func(v any) string { return fmt.Sprintf("%q", v) },
}

// blocksType is a size in bytes that is whole blocks. Go type: block.LB.
var blocksType = kit.Type{
	Name: "a size of whole blocks of 512 bytes",
	From: func(v lua.LValue) (any, error) {
		n, err := kit.Size.From(v)
		if err != nil {
			return nil, err
		}
		if n.(int64)%block.Size != 0 {
			return nil, fmt.Errorf("wants a multiple of 512 bytes, got %d", n)
		}
		return block.FromBytes(n.(int64)), nil
	},
	Text: func(v any) string { return kit.Size.Text(v.(block.LB).Bytes()) },
}

// compressType is a compression option. Go type: compress.Opt.
var compressType = kit.Type{
	Name: `a compression option such as "snappy:0:2"`,
	From: func(v lua.LValue) (any, error) {
		s, ok := v.(lua.LString)
		if !ok {
			return nil, kit.Mismatch(`a compression option such as "snappy:0:2"`, v)
		}
		return compress.ParseOpt(string(s))
	},
	Text: func(v any) string { return fmt.Sprintf("%q", v) },
}

// uuidType is a UUID. Go type: meta.UUID.
var uuidType = kit.Type{
	Name: "32 hexadecimal digits",
	From: func(v lua.LValue) (any, error) {
		s, ok := v.(lua.LString)
		if !ok {
			return nil, kit.Mismatch("32 hexadecimal digits", v)
		}
		return meta.ParseUUID(string(s))
	},
	Text: func(any) string { return "nil" },
}

// The parameters that several verbs share.

func fileParam(doc string) kit.Param {
	return kit.Param{Name: "file", PyName: "file", Type: kit.String, Required: true, Doc: doc}
}

func filesParam(doc string) kit.Param {
	return kit.Param{Name: "files", PyName: "files", Type: filesType, Required: true, Doc: doc}
}

func outParam() kit.Param {
	return kit.Param{
		Name: "out", PyName: "out", Type: kit.String, Required: true,
		Doc: "file to make; it appears when it is complete, and replaces a file of that name",
	}
}

func imageParam() kit.Param {
	return kit.Param{Name: "image", PyName: "image", Type: kit.String, Required: true, Doc: "image file, as large as the volume, that is changed in place"}
}

func limitParam() kit.Param {
	return kit.Param{Name: "limit", PyName: "limit", Type: kit.Int(0, 10_000_000), Default: 10_000, Doc: "how many records are listed at most; all are counted"}
}

func dataParam() kit.Param {
	return kit.Param{Name: "data", PyName: "data", Type: kit.Bool, Default: false, Doc: "read the data of each record, too; bad ones make the verb fail"}
}

func discardParam() kit.Param {
	return kit.Param{
		Name: "discard", PyName: "discard", Type: kit.OneOf("ignore", "passdown", "zero"), Default: "ignore",
		Doc: "what discards do to the image: nothing, give up space, become zeros",
	}
}

func compressParam() kit.Param {
	return kit.Param{
		Name: "compress", PyName: "compress", Type: compressType,
		Default: compress.Opt{Type: compress.Snappy, CPUs: uint8(min(runtime.NumCPU(), 8))}, Doc: "how data are stored: type, level, threads",
	}
}

func salvageParam() kit.Param {
	return kit.Param{Name: "salvage", PyName: "salvage", Type: kit.Bool, Default: false, Doc: "take whatever is no pack for the end of a log"}
}

func sizeParam(name, doc string, def block.LB) kit.Param {
	return kit.Param{Name: name, PyName: name, Type: blocksType, Default: def, Doc: doc}
}

func seedParam() kit.Param {
	return kit.Param{Name: "seed", PyName: "seed", Type: kit.Uint64, Default: uint64(1), Doc: "the same seed and sizes make the same file"}
}

func uuidParam() kit.Param {
	return kit.Param{Name: "uuid", PyName: "uuid", Type: uuidType, Doc: "uuid in the file; unset means one made of the seed"}
}

// Readers of arguments.

func names(a kit.Args, param string) []string { return kit.Get[[]string](a, param) }

func discardMode(a kit.Args) (wdiff.DiscardMode, error) {
	return wdiff.ParseDiscardMode(kit.Get[string](a, "discard"))
}

// inputs are open files.
type inputs []*offline.Input

func openInputs(names []string) (inputs, error) {
	var ins inputs
	for _, name := range names {
		in, err := offline.Open(name)
		if err != nil {
			return nil, errors.Join(err, ins.close())
		}
		ins = append(ins, in)
	}
	return ins, nil
}

func (ins inputs) close() error {
	var errs []error
	for _, in := range ins {
		errs = append(errs, in.Close())
	}
	return errors.Join(errs...)
}

// withInputs opens files for the time of do.
func withInputs(names []string, do func(ins inputs) error) error {
	ins, err := openInputs(names)
	if err != nil {
		return err
	}
	return errors.Join(do(ins), ins.close())
}

// withImage opens an image that is changed for the time of do.
func withImage(path string, do func(img image.Image) error) error {
	in, err := offline.Open(path) // refuses what is no regular file
	if err == nil {
		err = in.Close()
	}
	if err != nil {
		return err
	}
	img, err := image.OpenPath(path, true)
	if err != nil {
		return err
	}
	return errors.Join(do(img), img.Close())
}

// run makes a verb's Run of a function with a typed result. A result beside an
// error is dropped.
func run[T any](do func(ctx context.Context, a kit.Args) (T, error)) func(context.Context, kit.Args) (any, error) {
	return func(ctx context.Context, a kit.Args) (any, error) {
		v, err := do(ctx, a)
		if err != nil {
			return nil, err
		}
		return v, nil
	}
}

// write makes the output file of a verb.
func write(a kit.Args, fill func(w io.Writer) error) error {
	return offline.WriteFile(kit.Get[string](a, "out"), fill)
}
