package wdev

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

const pageSize = 4096

type page = [pageSize]byte

// image is the content of a file. Images share pages, which never change.
type image struct {
	size  int64
	fill  *page // of pages that are not in the map
	pages map[int64]*page
}

func (m image) page(n int64) *page {
	if p := m.pages[n]; p != nil {
		return p
	}
	return m.fill
}

func (m image) equal(o image) bool {
	for n := range (m.size + pageSize - 1) / pageSize {
		if a, b := m.page(n), o.page(n); a != b && *a != *b {
			return false
		}
	}
	return m.size == o.size
}

func (m image) sha256() string {
	sum := sha256.New()
	for n := range m.size / pageSize {
		sum.Write(m.page(n)[:])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// filled is an image of one byte all over.
func filled(b byte, size int64) image {
	return image{size, (*page)(bytes.Repeat([]byte{b}, pageSize)), map[int64]*page{}}
}

// images reads a collection of recorded device images. Each is a name, the
// name of the image it differs from (may be empty), its size, the byte that
// fills it if there is no such image, and the 4096-byte pages that differ.
func images(tb testing.TB, path string) map[string]image {
	tb.Helper()
	f, err := os.Open(path)
	require.NoError(tb, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(tb, err)
	r := bufio.NewReader(z)
	le := binary.LittleEndian
	take := func(n int) []byte {
		p := make([]byte, n)
		_, err := io.ReadFull(r, p)
		require.NoError(tb, err)
		return p
	}
	text := func() string { return string(take(int(le.Uint16(take(2))))) }
	all := map[string]image{}
	for {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			return all
		}
		name, base := text(), text()
		size, fill := int64(le.Uint64(take(8))), take(1)[0]
		img := filled(fill, size)
		if base != "" {
			img.fill = all[base].fill
			img.pages = maps.Clone(all[base].pages)
		}
		for range le.Uint32(take(4)) {
			n := int64(le.Uint32(take(4)))
			img.pages[n] = (*page)(take(pageSize))
		}
		all[name] = img
	}
}

// memFile is a file without a cache that begins as an image.
type memFile struct {
	image
	zeroBytes func(n int64) int64
}

func newMemFile(m image) *memFile {
	m.pages = maps.Clone(m.pages)
	return &memFile{image: m}
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < f.size {
		m := copy(p[n:min(len(p), n+int(f.size-off))], f.page(off / pageSize)[off%pageSize:])
		n, off = n+m, off+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		changed := *f.page(off / pageSize)
		m := copy(changed[off%pageSize:], p[n:])
		f.pages[off/pageSize] = &changed
		n, off = n+m, off+int64(m)
	}
	return len(p), nil
}

func (f *memFile) Zero(off, n int64) error {
	if f.zeroBytes != nil {
		n = f.zeroBytes(n)
	}
	return writeZeros(f, off, n)
}

func (f *memFile) Close() error                             { return nil }
func (f *memFile) Sync() error                              { return nil }
func (f *memFile) Size() (int64, error)                     { return f.size, nil }
func (f *memFile) Truncate(int64) error                     { return errors.New("has a fixed size") }
func (f *memFile) NextData(off int64) (int64, int64, error) { return off, f.size, nil }

func readJSON(tb testing.TB, path string, into any) {
	tb.Helper()
	p, err := os.ReadFile(path)
	require.NoError(tb, err)
	require.NoError(tb, json.Unmarshal(p, into))
}

type recordedImage struct {
	Name  string
	PBS   uint32
	Super struct {
		Checksum uint32
		Salt     uint32
		UUID     string
		Name     string
		Ring     uint64    `json:"ring_buffer_size"`
		Oldest   meta.Lsid `json:"oldest_lsid"`
		Written  meta.Lsid `json:"written_lsid"`
		Size     block.LB  `json:"device_size"`
	}
	NPacks int
	Info   string
	Show   []string
	Cat    string `json:"cat_sha256"`
	Redo   *struct {
		Written meta.Lsid
		Data    string `json:"ddev_sha256"`
		After   string
	}
	Stale []meta.Lsid
}

// recorded are the images made with the original's tools and a writer of the
// driver's packing rules, with what the tools said about them.
func recorded(tb testing.TB) ([]recordedImage, map[string]image, image) {
	tb.Helper()
	var m struct {
		DataSize int64 `json:"ddev_size"`
		Images   []recordedImage
	}
	readJSON(tb, "testdata/device.json", &m)
	return m.Images, images(tb, "testdata/device.images.gz"), filled(0, m.DataSize)
}

func openRing(tb testing.TB, img image) ring {
	tb.Helper()
	f := newMemFile(img)
	s, err := readSuper(f)
	require.NoError(tb, err)
	return ring{f, s}
}

// packs lists the headers from lsid to the end of the log.
func packs(tb testing.TB, r ring, lsid meta.Lsid) []*wlog.PackHeader {
	tb.Helper()
	var all []*wlog.PackHeader
	for {
		h, err := r.header(lsid)
		if walberr.Is(err, walberr.Checksum) {
			return all
		}
		require.NoError(tb, err)
		all = append(all, h)
		lsid = h.Next()
	}
}

// torn is the number of the first record with bad data; -1 if there is none.
func torn(tb testing.TB, r ring, h *wlog.PackHeader) int {
	tb.Helper()
	for i, rec := range h.Records {
		p := make([]byte, rec.PB(r.PBS)*uint64(r.PBS))
		require.NoError(tb, r.readBlocks(rec.Lsid, p))
		if rec.VerifyData(p, r.Salt) != nil {
			return i
		}
	}
	return -1
}

func TestRecordedSupers(t *testing.T) {
	list, imgs, _ := recorded(t)
	for _, im := range list {
		s, err := readSuper(newMemFile(imgs[im.Name]))
		require.NoError(t, err, im.Name)
		w := im.Super
		uuid, err := meta.ParseUUID(w.UUID)
		require.NoError(t, err)
		assert.Equal(t, Super{w.Checksum, im.PBS, 0, w.Salt, uuid, w.Name, w.Ring, w.Oldest, w.Written, w.Size}, s, im.Name)
		assert.Equal(t, im.Info, s.Info(), im.Name)
		got, want := make([]byte, im.PBS), make([]byte, im.PBS)
		s.Encode(got)
		_, err = newMemFile(imgs[im.Name]).ReadAt(want, superOffset)
		require.NoError(t, err)
		assert.Equal(t, want, got, im.Name)
	}
}

func TestRecordedLogsListAsInTheOriginal(t *testing.T) {
	list, imgs, _ := recorded(t)
	for _, im := range list {
		r := openRing(t, imgs[im.Name])
		var lines []string
		all := packs(t, r, r.Oldest)
		for _, h := range all {
			lines = append(lines, strings.Split(strings.TrimSpace(h.Listing()), "\n")...)
		}
		assert.Len(t, all, im.NPacks, im.Name)
		if im.Show != nil {
			assert.Equal(t, im.Show, append([]string{}, lines...), im.Name)
		}
	}
}

// TestRecordedLogsMakeTheSameFile makes a wlog file of each log, as the
// original's wlog-cat does: a torn pack keeps its good records.
func TestRecordedLogsMakeTheSameFile(t *testing.T) {
	list, imgs, _ := recorded(t)
	checked := 0
	for _, im := range list {
		if im.Cat == "" {
			continue
		}
		checked++
		r := openRing(t, imgs[im.Name])
		sum := sha256.New()
		var p [wlog.FileHeaderSize]byte
		(&wlog.FileHeader{Salt: r.Salt, PBS: r.PBS, UUID: r.UUID, Begin: r.Oldest, End: meta.MaxLsid}).Encode(p[:])
		sum.Write(p[:])
		for _, h := range packs(t, r, r.Oldest) {
			bad := torn(t, r, h)
			if bad == 0 {
				break
			}
			if bad > 0 {
				h.Shrink(bad, r.PBS)
			}
			blocks := make([]byte, (1+int(h.Total))*int(r.PBS))
			require.NoError(t, r.readBlocks(h.Lsid, blocks))
			h.Encode(blocks[:r.PBS], r.Salt)
			sum.Write(blocks)
			if bad > 0 {
				break
			}
		}
		end := wlog.EndPack()
		end.Encode(p[:r.PBS], r.Salt)
		sum.Write(p[:r.PBS])
		assert.Equal(t, im.Cat, hex.EncodeToString(sum.Sum(nil)), im.Name)
	}
	assert.Greater(t, checked, 10)
}

// TestRecordedRedo repeats the torn and other logs and compares log and data
// with what the original's wdev-redo made of them.
func TestRecordedRedo(t *testing.T) {
	list, imgs, empty := recorded(t)
	checked := 0
	for _, im := range list {
		if im.Redo == nil {
			continue
		}
		checked++
		data := newMemFile(empty)
		_, err := data.WriteAt(bytes.Repeat([]byte{0xee}, 1<<20), 0)
		require.NoError(t, err)
		r := openRing(t, imgs[im.Name])
		end, err := redo(r, data)
		require.NoError(t, err, im.Name)
		assert.Equal(t, im.Redo.Written, end, im.Name)
		assert.Equal(t, im.Redo.Data, data.sha256(), im.Name)

		s := r.Super
		s.Written = end
		require.NoError(t, writeSuper(r.f, &s))
		after := ring{newMemFile(imgs[im.Redo.After]), s}
		if im.Name == "torn-512-rec0" { // the tool leaves an end block there, the driver and we nothing
			block := make([]byte, 512)
			require.NoError(t, after.readBlocks(end, block))
			require.NoError(t, r.writeBlocks(end, block))
		}
		assert.True(t, r.f.(*memFile).equal(after.f.(*memFile).image), im.Name)
	}
	assert.Equal(t, 10, checked)
}

type kernelIndex struct {
	Logs []string
	Redo []struct {
		Before     string
		After      string
		Data       string
		DataBefore string `json:"data_before"`
	}
}

// TestRecordedDriver reads the logs that the original's driver wrote: every
// header encodes to the same bytes. Logs that were damaged by hand and by power
// cuts are repeated and compared with the driver's redo. That one gives up only
// one in 512 blocks of a discard; here the data file does the same.
func TestRecordedDriver(t *testing.T) {
	var m kernelIndex
	readJSON(t, "testdata/kernel.json", &m)
	imgs := images(t, "testdata/kernel.images.gz")
	headers := 0
	for _, name := range m.Logs {
		r := openRing(t, imgs[name])
		for _, h := range packs(t, r, r.Oldest) {
			if torn(t, r, h) >= 0 {
				break
			}
			want, got := make([]byte, r.PBS), make([]byte, r.PBS)
			require.NoError(t, r.readBlocks(h.Lsid, want))
			h.Encode(got, r.Salt)
			require.Equal(t, want, got, "%s lsid %d", name, h.Lsid)
			headers++
		}
	}
	assert.Equal(t, 395, headers)

	require.Len(t, m.Redo, 21)
	for _, c := range m.Redo {
		r := openRing(t, imgs[c.Before])
		data := newMemFile(filled(0xee, imgs[c.Data].size))
		if c.DataBefore != "" {
			data = newMemFile(imgs[c.DataBefore])
		}
		data.zeroBytes = func(n int64) int64 { return n / block.Size / 512 * block.Size }
		end, err := redo(r, data)
		require.NoError(t, err, c.Before)
		after := openRing(t, imgs[c.After])
		assert.Equal(t, after.Written, end, c.Before)
		assert.True(t, data.equal(imgs[c.Data]), "%s data", c.Before)
		require.NoError(t, writeSuper(r.f, &after.Super))
		assert.True(t, r.f.(*memFile).equal(imgs[c.After]), "%s log", c.Before)
	}
}

// TestStalePacksAreZeroed: behind the end of the recorded log lie valid packs.
// Once they are zeroed, log that grows up to one does not continue with it.
func TestStalePacksAreZeroed(t *testing.T) {
	list, imgs, empty := recorded(t)
	for _, im := range list {
		if im.Name != "stale-512" {
			continue
		}
		r := openRing(t, imgs[im.Name])
		end, err := redo(r, newMemFile(empty))
		require.NoError(t, err)
		require.NotEmpty(t, im.Stale)
		for _, lsid := range im.Stale {
			ok, err := r.hasHeader(lsid)
			require.NoError(t, err)
			require.True(t, ok, lsid)
		}
		before := packs(t, r, r.Oldest)
		require.NoError(t, zeroStale(r, end))
		for _, lsid := range im.Stale {
			ok, err := r.hasHeader(lsid)
			require.NoError(t, err)
			assert.False(t, ok, lsid)
		}
		assert.Equal(t, before, packs(t, r, r.Oldest), "log that is needed is untouched")
		return
	}
	t.Fatal("image is missing")
}

// TestRecordedImagesOpen starts a device on every recorded log.
func TestRecordedImagesOpen(t *testing.T) {
	list, imgs, empty := recorded(t)
	ctx := context.Background()
	for _, im := range list {
		logFile := newMemFile(imgs[im.Name])
		d, err := open(ctx, "", logFile, newMemFile(empty), Options{})
		require.NoError(t, err, im.Name)
		assert.Equal(t, im.Super.Name, d.Name())
		assert.Equal(t, im.Super.Size, d.Size())
		assert.Equal(t, im.Super.Ring, d.LogCapacity())
		l := d.Lsids()
		if im.Redo != nil {
			assert.Equal(t, im.Redo.Written, l.Latest, im.Name)
		}
		assert.Equal(t, Lsids{l.Latest, l.Latest, l.Latest, l.Latest, l.Latest, l.Latest, im.Super.Oldest}, l)
		assert.Equal(t, im.Name == "overflow-512", d.Overflowed(), im.Name)
		require.NoError(t, d.Close())
		s, err := readSuper(logFile)
		require.NoError(t, err)
		assert.Equal(t, l.Latest, s.Written, im.Name)
	}
}
