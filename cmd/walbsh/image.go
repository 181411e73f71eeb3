package main

import (
	"context"
	"io"
	"os"

	"walbsh/walbcore/block"
	"walbsh/walbcore/image"
	"walbsh/walbcore/offline"
)

const imageHelp = `usage:
  walbsh image hash [--bulk SIZE] BASE [DIFF...]
                                         identify the content of an image
  walbsh image cat [-o OUT] BASE [DIFF...]
                                         print an image, or copy it to a file

BASE is a file or a block device; with diffs behind it, the oldest first, the
image is what it would be after they were applied, with discards as zeros. A
diff with a record at the end of BASE belongs to a larger image and is refused.
BASE or a DIFF may be - for stdin. With --json a JSON object is printed.

  --bulk SIZE  print the block hash, too, that the archive's command bhash gives
               for bulks of that size (bhash itself takes 256k)
  -o OUT       make a sparse file instead of printing to stdout

Exit status: 0 done, 1 a file is bad or the work failed, 2 wrong command line.
`

// images is the face that reads images.
func images(ctx context.Context, e env, words []string) int {
	return runFileTool(ctx, e, "image", imageHelp, fileCommands{"hash": hashImage, "cat": catImage}, words)
}

// view opens BASE and DIFFs.
func (t *fileTool) view(ctx context.Context, names []string, step string) (*offline.View, error) {
	base, err := t.openBase(ctx, names[0])
	if err != nil {
		return nil, err
	}
	var ins []*offline.Input
	for _, name := range names[1:] {
		in, err := t.open(ctx, name)
		if err != nil {
			return nil, err
		}
		ins = append(ins, in)
	}
	return offline.NewView(ctx, base, ins, t.meter(step, base.Size().Bytes()))
}

func (t *fileTool) openBase(ctx context.Context, name string) (offline.Base, error) {
	st, err := os.Stat(name)
	if name == "-" || err == nil && st.Mode()&os.ModeNamedPipe != 0 {
		in, err := t.open(ctx, name)
		if err != nil {
			return nil, err
		}
		return in.Base()
	}
	img, err := image.OpenPath(name, false)
	if err != nil {
		return nil, asUsage(err)
	}
	t.inputs = append(t.inputs, img)
	return img, nil
}

func hashImage(ctx context.Context, t *fileTool, words []string) error {
	bulk := t.blocksFlag("bulk", 0)
	names, err := t.parse(words, 1, 0, "BASE")
	if err != nil {
		return err
	}
	if t.params["bulk"] && *bulk == 0 || *bulk > offline.MaxBulk {
		return t.usage("--bulk is 512 to %s", block.FormatSize(offline.MaxBulk*block.Size))
	}
	v, err := t.view(ctx, names, "hash "+names[0])
	if err != nil {
		return err
	}
	h, err := v.Hash(ctx, *bulk)
	if err != nil {
		return err
	}
	text := "sha256 " + h.SHA256 + "\n"
	if h.Blocks != "" {
		text += "bhash " + h.Blocks + "\n"
	}
	return t.tell(t.result(""), text, struct {
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
		Bulk   int64  `json:"bulk,omitempty"`
		Blocks string `json:"bhash,omitempty"`
	}{h.Size.Bytes(), h.SHA256, bulk.Bytes(), h.Blocks})
}

func catImage(ctx context.Context, t *fileTool, words []string) error {
	out := t.flags.String("o", "-", "")
	names, err := t.parse(words, 1, 0, "BASE")
	if err != nil {
		return err
	}
	if t.json && *out == "-" {
		return t.usage("--json of %s wants -o OUT", t.face)
	}
	v, err := t.view(ctx, names, "copy "+names[0])
	if err != nil {
		return err
	}
	if *out == "-" {
		return t.write(*out, func(w io.Writer) error { return v.WriteTo(ctx, w) })
	}
	if err := v.WriteFile(ctx, *out); err != nil {
		return asUsage(err)
	}
	return t.tell(t.result(*out), "", struct {
		File string `json:"file"`
		Size int64  `json:"size"`
	}{*out, v.Size().Bytes()})
}
