package formats

import (
	"context"
	"errors"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/offline"
)

// imageVerbs are the verbs about images.
func imageVerbs() []kit.Verb {
	base := kit.Param{Name: "base", PyName: "base", Type: kit.String, Required: true, Doc: "image file"}
	diffs := kit.Param{
		Name: "diffs", PyName: "diffs", Type: filesType,
		Doc: "diffs over it, the oldest first: the image is what it would be after they were applied, with discards as zeros",
	}
	return []kit.Verb{
		{
			Name:    "image_hash",
			Summary: "identify the content of an image, with diffs over it",
			Doc:     "The block hash is that of an archive's command bhash for bulks of the same size.",
			Params:  []kit.Param{base, diffs, sizeParam("bulk", "size of the bulks of the block hash; 0 makes none", 0)},
			Tier:    kit.Query,
			Result:  "a table: size in bytes, sha256, and bhash where a bulk is given",
			Run:     run(hashImage),
		},
		{
			Name:    "image_cat",
			Summary: "copy an image, with diffs over it, to a sparse file",
			Doc:     "What reads as zeros takes no space in the copy.",
			Params:  []kit.Param{outParam(), base, diffs},
			Tier:    kit.Safe,
			Result:  "the size of the copy in bytes",
			Run: run(func(ctx context.Context, a kit.Args) (int64, error) {
				size := int64(0)
				err := withView(ctx, a, func(v *offline.View) error {
					size = v.Size().Bytes()
					return v.WriteFile(ctx, kit.Get[string](a, "out"))
				})
				return size, err
			}),
		},
	}
}

// withView opens base and diffs for the time of do.
func withView(ctx context.Context, a kit.Args, do func(v *offline.View) error) error {
	return withInputs(names(a, "diffs"), func(ins inputs) error {
		base, err := offline.OpenBase(kit.Get[string](a, "base"))
		if err != nil {
			return err
		}
		v, err := offline.NewView(ctx, base, ins, nil)
		if err == nil {
			err = do(v)
		}
		return errors.Join(err, base.Close())
	})
}

type imageHash struct {
	Size   int64
	SHA256 string
	Bhash  *string
}

func hashImage(ctx context.Context, a kit.Args) (imageHash, error) {
	var h offline.ImageHash
	err := withView(ctx, a, func(v *offline.View) (err error) {
		h, err = v.Hash(ctx, kit.Get[block.LB](a, "bulk"))
		return err
	})
	t := imageHash{Size: h.Size.Bytes(), SHA256: h.SHA256}
	if h.Blocks != "" {
		t.Bhash = &h.Blocks
	}
	return t, err
}
