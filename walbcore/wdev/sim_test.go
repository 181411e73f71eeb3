package wdev

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"sync"

	"walbsh/walbcore/block"
)

var (
	errPower = errors.New("the power is off")
	errDisk  = errors.New("the disk is broken")
)

// simDisk is the hardware below some simFiles: it counts operations, and loses
// its power or breaks at a chosen one.
type simDisk struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	ops     int // writes, zeroings and syncs so far
	powerAt int // the operation that the power cut hits; 0 is none
	breakAt int // from this operation on all of breaks fail; 0 is none
	breaks  *simFile
	off     bool
}

func newSimDisk(seed uint64) *simDisk { return &simDisk{rnd: rand.New(rand.NewPCG(seed, 1))} }

type sector = [block.Size]byte

// simFile is a file with a write cache: a sector is durable once a Sync
// followed its last write. A power cut leaves any of the versions written
// since the last Sync, or the durable one, for each sector by itself.
type simFile struct {
	disk    *simDisk
	size    int64
	fill    byte                // content of sectors in neither map
	durable map[int64]*sector   // by number
	cached  map[int64][]*sector // versions written since the last Sync, oldest first
	// zeroBytes is what of a zeroing is done; nil means all.
	zeroBytes func(n int64) int64
}

func (d *simDisk) file(size int64) *simFile {
	return &simFile{disk: d, size: size, durable: map[int64]*sector{}, cached: map[int64][]*sector{}}
}

// op counts an operation. torn means that the power goes off during it.
func (f *simFile) op() (torn bool, err error) {
	d := f.disk
	if d.off {
		return false, errPower
	}
	d.ops++
	if d.breakAt > 0 && d.ops >= d.breakAt && d.breaks == f {
		return false, errDisk
	}
	if d.ops == d.powerAt {
		d.off = true
		return true, errPower
	}
	return false, nil
}

func (f *simFile) newest(n int64) *sector {
	if v := f.cached[n]; len(v) > 0 {
		return v[len(v)-1]
	}
	return f.durable[n]
}

func (f *simFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.disk.off {
		return 0, errPower
	}
	n := 0
	for n < len(p) && off+int64(n) < f.size {
		at := off + int64(n)
		m := min(len(p)-n, int(block.Size-at%block.Size), int(f.size-at))
		if s := f.newest(at / block.Size); s != nil {
			copy(p[n:n+m], s[at%block.Size:])
		} else {
			for i := range m {
				p[n+i] = f.fill
			}
		}
		n += m
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt takes whole sectors only: the engine writes nothing else.
func (f *simFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if off%block.Size != 0 || len(p)%block.Size != 0 || off+int64(len(p)) > f.size {
		return 0, errors.New("write of part of a sector, or behind the end")
	}
	torn, err := f.op()
	if err != nil && !torn {
		return 0, err
	}
	for i := 0; i < len(p); i += block.Size {
		if torn && f.disk.rnd.IntN(2) == 0 {
			continue
		}
		s := sector(p[i:])
		n := (off + int64(i)) / block.Size
		f.cached[n] = append(f.cached[n], &s)
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *simFile) Zero(off, n int64) error {
	if f.zeroBytes != nil {
		n = f.zeroBytes(n)
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	torn, err := f.op()
	if err != nil && !torn {
		return err
	}
	for i := off / block.Size; i < (off+n)/block.Size; i++ {
		if !torn || f.disk.rnd.IntN(2) == 0 {
			f.cached[i] = append(f.cached[i], &sector{})
		}
	}
	return err
}

func (f *simFile) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if _, err := f.op(); err != nil {
		return err
	}
	for n := range f.cached {
		f.durable[n] = f.newest(n)
	}
	clear(f.cached)
	return nil
}

func (f *simFile) Size() (int64, error) { return f.size, nil }

func (f *simFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.size = size
	return nil
}

func (f *simFile) NextData(off int64) (begin, end int64, err error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n, last := off/block.Size, f.size/block.Size
	for n < last && f.newest(n) == nil && f.fill == 0 {
		n++
	}
	if n == last {
		return 0, 0, io.EOF
	}
	m := n
	for m < last && (f.newest(m) != nil || f.fill != 0) {
		m++
	}
	return n * block.Size, m * block.Size, nil
}

func (f *simFile) Close() error { return nil }

// restart gives the file as it is after the power came back, or, if the process
// was only killed, with its cache, on disk d.
func (f *simFile) restart(d *simDisk, killed bool) *simFile {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	g := d.file(f.size)
	g.fill = f.fill
	maps.Copy(g.durable, f.durable)
	for n, versions := range f.cached {
		if killed {
			g.cached[n] = versions
			continue
		}
		if choice := f.disk.rnd.IntN(len(versions)+1) - 1; choice >= 0 {
			g.durable[n] = versions[choice]
		}
	}
	return g
}

// content is the whole file.
func (f *simFile) content() []byte {
	p := make([]byte, f.size)
	off := f.disk.off
	f.disk.off = false
	_, _ = f.ReadAt(p, 0)
	f.disk.off = off
	return p
}
