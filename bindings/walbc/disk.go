package walbc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// chunk is how much of a volume is read or written at a time [bytes].
const chunk = 1 << 20

// Disk gives the module group: a volume of the group as a disk, used over TCP
// at its storage, which has to offer that (the embedded group does). Without
// an application on the volume there would be nothing to replicate.
func Disk(s *Session, vol string) kit.Module {
	d := &disk{g: s.Group, vol: vol}
	volume := kit.Param{Name: "vol", PyName: "vol", Type: kit.String, Default: vol, Doc: "volume, when it is not the group's own"}
	offset := kit.Param{Name: "offset", PyName: "offset", Type: kit.Size, Required: true, Doc: "place in the volume, a multiple of 512"}
	length := kit.Param{Name: "length", PyName: "length", Type: kit.Size, Required: true, Doc: "number of bytes, a multiple of 512"}
	archive := archiveParam("archive that has the snapshot")
	snapshot := gidParam("snapshot")
	return kit.Module{
		Name:    "group",
		Summary: "use the volume of the group like a disk, and compare it with what archives have",
		Verbs: []kit.Verb{
			{
				Name:    "write",
				Summary: "write a text to the volume",
				Doc:     "The text is filled up with zeros to a multiple of 512 bytes. When it returns the log has it.",
				Params:  []kit.Param{offset, {Name: "data", PyName: "data", Type: textType, Required: true, Doc: "what to write"}, volume},
				Tier:    kit.Disruptive,
				Result:  "the number of bytes written",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					data := []byte(kit.Get[string](a, "data"))
					data = append(data, make([]byte, block.CeilBytes(int64(len(data))).Bytes()-int64(len(data)))...)
					return len(data), d.use(ctx, a, func(v *client.Volume) error {
						_, err := v.WriteAt(data, kit.Get[int64](a, "offset"))
						return err
					})
				},
			},
			{
				Name:    "fill",
				Summary: "fill a part of the volume with random data",
				Doc:     "The same seed gives the same data. With repeated true the data compresses well.",
				Params: []kit.Param{
					offset, length,
					{Name: "seed", PyName: "seed", Type: kit.Uint64, Default: uint64(1), Doc: "where the random data begins"},
					{Name: "repeated", PyName: "repeated", Type: kit.Bool, Default: false, Doc: "data that compresses to about a tenth"},
					volume,
				},
				Tier:   kit.Disruptive,
				Result: "the number of bytes written",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					n := kit.Get[int64](a, "length")
					return n, d.use(ctx, a, func(v *client.Volume) error {
						src := newPattern(kit.Get[uint64](a, "seed"), kit.Get[bool](a, "repeated"))
						return eachChunk(ctx, kit.Get[int64](a, "offset"), n, func(p []byte, off int64) error {
							src.fill(p)
							_, err := v.WriteAt(p, off)
							return err
						})
					})
				},
			},
			{
				Name:    "read",
				Summary: "read a part of the volume",
				Doc:     "Sees everything that was written before.",
				Params:  []kit.Param{offset, length, volume},
				Tier:    kit.Query,
				Result:  "the bytes, as a string",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					n := kit.Get[int64](a, "length")
					if n > maxRead {
						return nil, &walberr.Error{Op: "group.read", Volume: d.name(a), Code: walberr.Range, Found: fmt.Sprintf("length %d", n), Expected: fmt.Sprintf("at most %d", int64(maxRead)), Hint: "read in parts, or compare with group.sha256"}
					}
					p := make([]byte, n)
					err := d.use(ctx, a, func(v *client.Volume) error {
						_, err := v.ReadAt(p, kit.Get[int64](a, "offset"))
						return err
					})
					return lua.LString(p), err
				},
			},
			{
				Name:    "discard",
				Summary: "give up a part of the volume, which reads as zeros then",
				Doc:     "As an application's trim.",
				Params:  []kit.Param{offset, length, volume},
				Tier:    kit.Disruptive,
				Result:  "nothing",
				Run: nothing(func(ctx context.Context, a kit.Args) error {
					return d.use(ctx, a, func(v *client.Volume) error {
						return v.Discard(kit.Get[int64](a, "offset"), kit.Get[int64](a, "length"))
					})
				}),
			},
			{
				Name:    "flush",
				Summary: "make everything written before survive a power cut",
				Doc:     "Without it, what was written survives the end of the storage's process only.",
				Params:  []kit.Param{volume},
				Tier:    kit.Safe,
				Result:  "nothing",
				Run: nothing(func(ctx context.Context, a kit.Args) error {
					return d.use(ctx, a, func(v *client.Volume) error { return v.Flush() })
				}),
			},
			{
				Name:    "size",
				Summary: "tell the size of the volume",
				Doc:     "In bytes.",
				Params:  []kit.Param{volume},
				Tier:    kit.Query,
				Result:  "a number of bytes",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					var n int64
					err := d.use(ctx, a, func(v *client.Volume) error {
						n = v.Size().Bytes()
						return nil
					})
					return n, err
				},
			},
			{
				Name:    "sha256",
				Summary: "compute the SHA-256 of the volume's whole content",
				Doc:     "It means something as long as nobody writes meanwhile.",
				Params:  []kit.Param{volume},
				Tier:    kit.Query,
				Result:  "64 hexadecimal digits",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					sum := sha256.New()
					err := d.use(ctx, a, func(v *client.Volume) error {
						return eachChunk(ctx, 0, v.Size().Bytes(), func(p []byte, off int64) error {
							if _, err := v.ReadAt(p, off); err != nil {
								return err
							}
							_, err := sum.Write(p)
							return err
						})
					})
					return hex.EncodeToString(sum.Sum(nil)), err
				},
			},
			{
				Name:    "image_sha256",
				Summary: "compute the SHA-256 of a restored image",
				Doc:     "The image has to be restored already, by walbc.restore, and it has to be on this machine.",
				Params:  []kit.Param{archive, snapshot, volume},
				Tier:    kit.Query,
				Result:  "64 hexadecimal digits",
				Run: func(ctx context.Context, a kit.Args) (any, error) {
					f, err := d.openRestored(ctx, ax(a), d.name(a), gid(a))
					if err != nil {
						return nil, err
					}
					defer f.Close()
					sum := sha256.New()
					_, err = io.Copy(sum, f)
					return hex.EncodeToString(sum.Sum(nil)), err
				},
			},
			{
				Name:    "compare",
				Summary: "compare a snapshot at an archive with the volume as it is now, byte by byte",
				Doc: "Restores the snapshot if it is not restored already, and removes the image again then. The image has to be " +
					"on this machine. It means something as long as nobody writes meanwhile.",
				Params: []kit.Param{archive, snapshot, volume},
				Tier:   kit.Safe,
				Result: "true if they are equal, else false and the offset of the first byte that differs",
				Run:    func(ctx context.Context, a kit.Args) (any, error) { return d.compare(ctx, a) },
			},
		},
	}
}

// maxRead is the most that group.read gives at once [bytes].
const maxRead = 64 << 20

// textType is a string that may be empty.
var textType = kit.Type{Name: "a string", From: func(v lua.LValue) (any, error) {
	s, ok := v.(lua.LString)
	if !ok {
		return nil, kit.Mismatch("a string", v)
	}
	return string(s), nil
}}

// disk is the volume that the module group speaks of.
type disk struct {
	g   *group.Group
	vol string
}

func (d *disk) name(a kit.Args) string { return kit.Get[string](a, "vol") }

// use opens the volume at the storage that has it.
func (d *disk) use(ctx context.Context, a kit.Args, do func(v *client.Volume) error) (err error) {
	name := d.name(a)
	var failures []error
	for _, s := range d.g.Layout().Storages {
		v, err := d.g.Client(s).OpenVolume(ctx, name)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		defer func() { err = errors.Join(err, v.Close()) }()
		return do(v)
	}
	if len(failures) == 1 {
		return failures[0]
	}
	return &walberr.Error{
		Op: "group", Volume: name, Code: walberr.NotFound, Found: "no storage lets the volume be used", Err: errors.Join(failures...),
		Hint: "storages do with -volume-io, embedded ones always",
	}
}

// openRestored opens a restored image on this machine.
func (d *disk) openRestored(ctx context.Context, ax group.Server, vol string, gid meta.Gid) (*os.File, error) {
	r, err := d.g.GetRestoredPath(ctx, ax, vol, gid)
	if err != nil {
		return nil, err
	}
	if r.Path == "" {
		return nil, &walberr.Error{
			Op: "open restored image", Server: ax.Name, Volume: vol, Code: walberr.NotFound,
			Found: "the layout names no directory of the server on this machine", Hint: "give its dir in the layout file, or compare at the archive",
		}
	}
	f, err := os.Open(r.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &walberr.Error{
			Op: "open restored image", Server: ax.Name, Volume: vol, Code: walberr.NotFound, Err: err,
			Hint: fmt.Sprintf("walbc.restore(%s, vol, %d) makes it", ax.Name, gid),
		}
	}
	return f, err
}

// compare restores where needed and compares.
func (d *disk) compare(ctx context.Context, a kit.Args) (_ any, err error) {
	archive, name, snap := ax(a), d.name(a), gid(a)
	f, err := d.openRestored(ctx, archive, name, snap)
	if walberr.Is(err, walberr.NotFound) {
		if _, err := d.g.Restore(ctx, archive, name, snap, 0); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, d.g.DelRestored(context.WithoutCancel(ctx), archive, name, snap)) }()
		f, err = d.openRestored(ctx, archive, name, snap)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	differs := int64(-1)
	err = d.use(ctx, a, func(v *client.Volume) error {
		size, err := f.Seek(0, io.SeekEnd) // a device has no size that Stat would know
		if err != nil {
			return err
		}
		if size < v.Size().Bytes() {
			differs = size
			return nil
		}
		image := make([]byte, chunk)
		return eachChunk(ctx, 0, v.Size().Bytes(), func(p []byte, off int64) error {
			if differs >= 0 {
				return nil
			}
			if _, err := v.ReadAt(p, off); err != nil {
				return err
			}
			if _, err := f.ReadAt(image[:len(p)], off); err != nil {
				return err
			}
			if !bytes.Equal(p, image[:len(p)]) {
				differs = off + int64(firstDifference(p, image))
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if differs >= 0 {
		return kit.Values{false, differs}, nil
	}
	return true, nil
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// eachChunk calls do for the range, a chunk at a time, with one buffer.
func eachChunk(ctx context.Context, off, n int64, do func(p []byte, off int64) error) error {
	buf := make([]byte, min(n, chunk))
	for done := int64(0); done < n; done += chunk {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := do(buf[:min(chunk, n-done)], off+done); err != nil {
			return err
		}
	}
	return nil
}

// pattern makes reproducible data.
type pattern struct {
	rnd      *rand.ChaCha8
	repeated bool
}

func newPattern(seed uint64, repeated bool) *pattern {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &pattern{rnd: rand.NewChaCha8(key), repeated: repeated}
}

// fill sets p to the next bytes.
func (s *pattern) fill(p []byte) {
	if !s.repeated {
		_, _ = s.rnd.Read(p) // never fails
		return
	}
	var word [48]byte
	for at := 0; at < len(p); at += block.Size {
		end := min(at+block.Size, len(p))
		_, _ = s.rnd.Read(word[:])
		for i := at; i < end; i += len(word) {
			copy(p[i:end], word[:])
		}
	}
}
