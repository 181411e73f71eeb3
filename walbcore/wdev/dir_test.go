package wdev

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/walberr"
)

func TestDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wdev")
	dir, err := OpenDir(path, Options{})
	require.NoError(t, err)
	ctx := t.Context()
	names, err := dir.Names()
	require.NoError(t, err)
	assert.Empty(t, names)

	spec := Spec{Name: "w1", Size: 2048, LogSize: 1 << 20}
	d, err := dir.Create(ctx, spec)
	require.NoError(t, err)
	_, err = dir.Create(ctx, spec)
	assert.True(t, walberr.Is(err, walberr.Conflict), err)
	require.NoError(t, d.WriteAt(ctx, random(8, 1), 0))
	spec.Name, spec.PBS = "w0", 4096
	_, err = dir.Create(ctx, spec)
	require.NoError(t, err)
	names, err = dir.Names()
	require.NoError(t, err)
	assert.Equal(t, []string{"w0", "w1"}, names)

	again, err := dir.Lookup("/dev/walb/w1")
	require.NoError(t, err)
	assert.Same(t, d, again)
	_, err = dir.Lookup("/dev/walb/nosuch")
	assert.True(t, walberr.Is(err, walberr.NotFound), err)
	require.ErrorContains(t, err, "there are: w0 w1")
	for _, bad := range []string{"", "w1", "/dev/walb/", "/dev/walb/../w1", "/dev/sda", "/dev/walb/a/b"} {
		_, err = dir.Lookup(bad)
		assert.True(t, walberr.Is(err, walberr.Usage), bad)
		require.ErrorContains(t, err, "getWdevNameFromWdevPath:bad name:"+bad)
	}
	require.NoError(t, dir.Close())
	_, err = dir.Open(ctx, "w1")
	assert.True(t, walberr.Is(err, walberr.Stopped), err)

	dir, err = OpenDir(path, Options{})
	require.NoError(t, err)
	d, err = dir.Open(ctx, "w1")
	require.NoError(t, err)
	assert.Equal(t, random(8, 1), read(t, d, 0, 8))
	require.NoError(t, dir.Close())
}

// TestDirForgetsHalfMadeDevices: what a crash left of a creation is not a
// device, and does not stand in the way of the next one.
func TestDirForgetsHalfMadeDevices(t *testing.T) {
	path := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(path, "w0"+newSuffix), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(path, "w0"+newSuffix, "data"), []byte("x"), 0o600))
	dir, err := OpenDir(path, Options{})
	require.NoError(t, err)
	defer dir.Close()
	names, err := dir.Names()
	require.NoError(t, err)
	assert.Empty(t, names)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = dir.Create(canceled, Spec{Name: "w0", Size: 64, LogSize: 1 << 20})
	require.ErrorIs(t, err, context.Canceled)
	entries, err := os.ReadDir(path)
	require.NoError(t, err)
	assert.Empty(t, entries)
	_, err = dir.Create(t.Context(), Spec{Name: "w0", Size: 64, LogSize: 1 << 20})
	require.NoError(t, err)
}

func TestSpecsThatAreRefused(t *testing.T) {
	dir, err := OpenDir(t.TempDir(), Options{})
	require.NoError(t, err)
	for name, s := range map[string]Spec{
		"no name":        {Size: 1, LogSize: 1 << 20},
		"hidden name":    {Name: ".x", Size: 1, LogSize: 1 << 20},
		"long name":      {Name: "abcdefghijklmnopqrstuvwxyz", Size: 1, LogSize: 1 << 20},
		"no size":        {Name: "w", LogSize: 1 << 20},
		"size":           {Name: "w", Size: block.MaxLB + 1, LogSize: 1 << 20},
		"no log":         {Name: "w", Size: 1},
		"negative log":   {Name: "w", Size: 1, LogSize: -1},
		"log too small":  {Name: "w", Size: 1, LogSize: (10+MinRing)*512 - 1},
		"log too small2": {Name: "w", Size: 1, LogSize: (3+MinRing)*4096 - 1, PBS: 4096},
		"pbs":            {Name: "w", Size: 1, LogSize: 1 << 20, PBS: 1024},
	} {
		_, err := dir.Create(t.Context(), s)
		assert.True(t, walberr.Is(err, walberr.Usage), "%s: %v", name, err)
	}
	names, err := dir.Names()
	require.NoError(t, err)
	assert.Empty(t, names)
	_, err = OpenDir(filepath.Join(t.TempDir(), "no", "such"), Options{})
	assert.Error(t, err)
}

// TestFileHoles: zeroing makes holes of an exact range, and holes are found.
func TestFileHoles(t *testing.T) {
	f, err := openFile(filepath.Join(t.TempDir(), "f"), os.O_CREATE)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(1<<20))
	want := make([]byte, 1<<20)
	_, _, err = f.NextData(0)
	if err == nil {
		t.Skip("this file system does not tell holes")
	}
	require.ErrorIs(t, err, io.EOF)
	copy(want[128<<10:], random(256, 1))
	_, err = f.WriteAt(want[128<<10:256<<10], 128<<10)
	require.NoError(t, err)
	begin, end, err := f.NextData(0)
	require.NoError(t, err)
	assert.Equal(t, []int64{128 << 10, 256 << 10}, []int64{begin, end})
	require.NoError(t, f.Zero(160<<10+512, 64<<10+512))
	clear(want[160<<10+512 : 224<<10+1024])
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 0)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	_, _, err = f.NextData(1 << 20)
	assert.ErrorIs(t, err, io.EOF)
}

func aSuper() Super {
	return Super{PBS: 512, Salt: 1, Name: "w0", Ring: 100, Oldest: 3, Written: 7, Size: 1000}
}

func TestSuperRules(t *testing.T) {
	for name, spoil := range map[string]func(s *Super, p []byte){
		"type":         func(_ *Super, p []byte) { p[0] = 3 },
		"version":      func(_ *Super, p []byte) { p[2] = 1 },
		"lbs":          func(_ *Super, p []byte) { p[8] = 1 },
		"pbs":          func(_ *Super, p []byte) { p[13] = 0x10 },
		"name":         func(_ *Super, p []byte) { copy(p[40:], "12345678901234567890123456789012") },
		"ring 0":       func(s *Super, p []byte) { s.Ring = 0; s.Encode(p) },
		"ring":         func(s *Super, p []byte) { s.Ring = 1 << 63; s.Encode(p) },
		"size":         func(s *Super, p []byte) { s.Size = 1 << 62; s.Encode(p) },
		"oldest":       func(s *Super, p []byte) { s.Oldest = 8; s.Encode(p) },
		"written none": func(s *Super, p []byte) { s.Written = 1<<64 - 1; s.Encode(p) },
	} {
		s := aSuper()
		p := make([]byte, 512)
		s.Encode(p)
		again, err := DecodeSuper(p)
		require.NoError(t, err)
		require.Equal(t, s, again)
		spoil(&s, p)
		clear(p[4:8])
		sum := checksum.Sum(p, 0)
		p[4], p[5], p[6], p[7] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		_, err = DecodeSuper(p)
		assert.True(t, walberr.Is(err, walberr.Checksum), name)
	}
	s := aSuper()
	p := make([]byte, 512)
	s.Encode(p)
	for i := range len(p) * 8 {
		p[i/8] ^= 1 << (i % 8)
		_, err := DecodeSuper(p)
		require.Error(t, err, "bit %d", i)
		p[i/8] ^= 1 << (i % 8)
	}
	_, err := DecodeSuper(p[:100])
	require.Error(t, err)
	_, err = readSuper(newMemFile(filled(0, 100)))
	assert.True(t, walberr.Is(err, walberr.Checksum), err)
}

// FuzzOpen starts a device on a log with any bytes in its ring: it starts, or
// is refused, and never touches the disk outside of it.
func FuzzOpen(f *testing.F) {
	disk := newSimDisk(1)
	spec := Spec{Name: "w", Size: 64, LogSize: (10 + MinRing) * 512, PBS: 512}
	logFile, dataFile := disk.file(spec.LogSize), disk.file(spec.Size.Bytes())
	require.NoError(f, format(f.Context(), logFile, dataFile, spec))
	d, err := open(f.Context(), "", logFile, dataFile, Options{})
	require.NoError(f, err)
	for i := range 10 {
		require.NoError(f, d.WriteAt(f.Context(), random(block.LB(1+i%5), uint64(i)), int64(i*512)))
	}
	require.NoError(f, d.Discard(f.Context(), 0, 1024))
	salt := d.Identity().Salt
	require.NoError(f, d.Close())
	valid := logFile.content()
	f.Add(valid[10*512:], uint8(0), uint8(3))
	f.Add(valid[10*512:], uint8(4), uint8(0))
	f.Fuzz(func(t *testing.T, ringBytes []byte, written, fix uint8) {
		if len(ringBytes) > MinRing*512 {
			return
		}
		img := append([]byte{}, valid[:10*512]...)
		img = append(img, ringBytes...)
		img = append(img, make([]byte, len(valid)-len(img))...)
		s, err := DecodeSuper(valid[superOffset : superOffset+512])
		require.NoError(t, err)
		s.Oldest, s.Written = 0, 2*(1+1) // behind the first two packs at most
		if written < 4 {
			s.Written = 0
		}
		s.Encode(img[superOffset : superOffset+512])
		h := img[(10+int(fix)%MinRing)*512:][:512] // one header comes past its checksum
		clear(h[:4])
		sum := checksum.Sum(h, salt)
		h[0], h[1], h[2], h[3] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)

		m := newMemFile(filled(0, int64(len(img))))
		_, err = m.WriteAt(img, 0)
		require.NoError(t, err)
		data := newMemFile(filled(0, spec.Size.Bytes()))
		d, err := open(t.Context(), "", m, data, Options{})
		if err != nil {
			require.True(t, walberr.Is(err, walberr.Checksum), err)
			return
		}
		defer d.Close()
		end := d.Lsids().Latest
		require.LessOrEqual(t, uint64(end), uint64(MinRing)*2)
		p := random(3, rand.Uint64())
		require.NoError(t, d.WriteThrough(t.Context(), p, 512))
		require.Equal(t, p, read(t, d, 1, 3))
	})
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name    string
		bytes   int
		through bool
	}{{"4k", 4096, false}, {"4k-through", 4096, true}, {"64k", 64 << 10, false}, {"1m", 1 << 20, false}} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			logPath, dataPath := filepath.Join(dir, "log"), filepath.Join(dir, "data")
			spec := Spec{Name: "w0", Size: block.FromBytes(1 << 30), LogSize: 64 << 20}
			require.NoError(b, Format(b.Context(), logPath, dataPath, spec))
			d, err := Open(b.Context(), "", logPath, dataPath, Options{})
			require.NoError(b, err)
			p := random(block.FromBytes(int64(c.bytes)), 1)
			b.SetBytes(int64(c.bytes))
			b.ReportAllocs()
			rnd := rand.New(rand.NewPCG(1, 1))
			write := d.WriteAt
			if c.through {
				write = d.WriteThrough
			}
			for b.Loop() {
				if err := write(b.Context(), p, int64(rnd.IntN(1<<30/c.bytes))*int64(c.bytes)); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			require.NoError(b, d.Close())
		})
	}
}

func BenchmarkWriteConcurrent(b *testing.B) {
	dir := b.TempDir()
	logPath, dataPath := filepath.Join(dir, "log"), filepath.Join(dir, "data")
	require.NoError(b, Format(b.Context(), logPath, dataPath, Spec{Name: "w0", Size: block.FromBytes(1 << 30), LogSize: 64 << 20}))
	d, err := Open(b.Context(), "", logPath, dataPath, Options{})
	require.NoError(b, err)
	b.SetBytes(4096)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		p := random(8, 1)
		rnd := rand.New(rand.NewPCG(rand.Uint64(), 1))
		for pb.Next() {
			if err := d.WriteThrough(b.Context(), p, int64(rnd.IntN(1<<18))*4096); err != nil {
				b.Fatal(err)
			}
		}
	})
	require.NoError(b, d.Close())
}

// TestFileHolesWhileOneComesAndGoes: data behind a hole that is just being made
// are found all the same, since a scan takes what it is not told of for zeros.
func TestFileHolesWhileOneComesAndGoes(t *testing.T) {
	f, err := openFile(filepath.Join(t.TempDir(), "f"), os.O_CREATE)
	require.NoError(t, err)
	defer f.Close()
	const last = 1 << 20
	data := random(8, 1)
	_, err = f.WriteAt(data, last)
	require.NoError(t, err)
	if begin, _, err := f.NextData(0); err != nil || begin != last {
		t.Skip("this file system does not tell holes")
	}
	ctx, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	defer func() { assert.NoError(t, g.Wait()) }()
	defer stop()
	g.Go(func() error {
		for ctx.Err() == nil {
			if _, err := f.WriteAt(data, 0); err != nil {
				return err
			}
			if err := f.Zero(0, int64(len(data))); err != nil {
				return err
			}
		}
		return nil
	})
	for range 5000 {
		begin, end, err := f.NextData(0)
		require.NoError(t, err)
		require.Less(t, begin, end, "an empty stretch at %d", begin)
	}
}
