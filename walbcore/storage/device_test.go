package storage

import (
	"context"
	"errors"
	"io"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wlog"
)

// fakeDevice is a device that does only what a test makes it do. It counts how
// often it is asked for anything.
type fakeDevice struct {
	mu       sync.Mutex
	id       wdev.Identity
	lsids    wdev.Lsids
	capacity uint64
	overflow bool
	size     block.LB
	disk     []byte // nil: all zeros
	log      map[meta.Lsid][]byte
	changed  chan struct{}
	asked    int

	afterReset wdev.Identity // valid iff its PBS is not 0
	atReset    wdev.Lsids
}

func newFakeDevice() *fakeDevice {
	return &fakeDevice{
		id: wdev.Identity{UUID: meta.UUID{1}, Salt: 7, PBS: 512}, capacity: 30000, size: rigVolumeSize,
		log: map[meta.Lsid][]byte{}, changed: make(chan struct{}),
	}
}

// set changes the device and tells so.
func (d *fakeDevice) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
	close(d.changed)
	d.changed = make(chan struct{})
}

// append logs a write of n blocks, at address 0, that is not permanent yet.
func (d *fakeDevice) append(n block.LB) {
	d.mu.Lock()
	defer d.mu.Unlock()
	packer := wlog.Packer{PBS: d.id.PBS, Ring: d.capacity}
	packs, end := packer.Pack([]wlog.IO{{Op: wlog.OpWrite, Len: n, Data: make([]byte, n.Bytes())}}, d.lsids.Latest)
	for i := range packs {
		buf := make([]byte, int(packs[i].Next()-packs[i].Lsid)*int(d.id.PBS))
		packs[i].Encode(buf, d.id.PBS, d.id.Salt)
		d.put(packs[i].Lsid, buf)
	}
	d.lsids.Latest, d.lsids.Completed = end, end
}

// put keeps blocks of log. mu is held, or nobody else knows the device.
func (d *fakeDevice) put(lsid meta.Lsid, p []byte) {
	for ; len(p) > 0; p = p[d.id.PBS:] {
		d.log[lsid] = p[:d.id.PBS]
		lsid++
	}
}

// permanent makes all log permanent.
func (d *fakeDevice) permanent() {
	d.set(func() { d.lsids.Flush, d.lsids.Permanent = d.lsids.Latest, d.lsids.Latest })
}

// checkpoint makes all permanent log written back.
func (d *fakeDevice) checkpoint() {
	d.set(func() { d.lsids.Written, d.lsids.PrevWritten = d.lsids.Permanent, d.lsids.Permanent })
}

// ask counts a question, and locks.
func (d *fakeDevice) ask() func() {
	d.mu.Lock()
	d.asked++
	return d.mu.Unlock
}

func (d *fakeDevice) Name() string { return "fake" }

func (d *fakeDevice) Identity() wdev.Identity {
	defer d.ask()()
	return d.id
}

func (d *fakeDevice) Lsids() wdev.Lsids {
	defer d.ask()()
	return d.lsids
}

func (d *fakeDevice) LogCapacity() uint64 {
	defer d.ask()()
	return d.capacity
}

func (d *fakeDevice) Overflowed() bool {
	defer d.ask()()
	return d.overflow
}

func (d *fakeDevice) Changed() <-chan struct{} {
	defer d.ask()()
	return d.changed
}

func (d *fakeDevice) Err() error { return nil }

func (d *fakeDevice) Size() block.LB {
	defer d.ask()()
	return d.size
}

func (d *fakeDevice) ReadLog(_ context.Context, lsid meta.Lsid, p []byte) error {
	defer d.ask()()
	for ; len(p) > 0; p = p[d.id.PBS:] {
		b, ok := d.log[lsid]
		if !ok || lsid >= d.lsids.Permanent {
			return &walberr.Error{Op: "read log", Code: walberr.Range, Found: lsid.String()}
		}
		copy(p, b)
		lsid++
	}
	return nil
}

func (d *fakeDevice) SetOldest(_ context.Context, lsid meta.Lsid) error {
	defer d.ask()()
	if lsid < d.lsids.Oldest || lsid > d.lsids.PrevWritten {
		return &walberr.Error{Op: "set oldest", Code: walberr.Range, Found: lsid.String()}
	}
	d.lsids.Oldest = lsid
	return nil
}

func (d *fakeDevice) Checkpoint(context.Context) error {
	defer d.ask()()
	d.lsids.PrevWritten = d.lsids.Written
	return nil
}

func (d *fakeDevice) ResetLog(context.Context) error {
	d.set(func() {
		d.lsids, d.overflow = d.atReset, false
		d.log = map[meta.Lsid][]byte{}
		d.id.UUID[0]++
		if d.afterReset.PBS != 0 {
			d.id = d.afterReset
		}
	})
	return nil
}

func (d *fakeDevice) Resize(context.Context, block.LB) error { return errors.ErrUnsupported }

func (d *fakeDevice) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(p)
	if off+int64(len(p)) > d.size.Bytes() {
		return 0, io.EOF
	}
	copy(p, d.disk[min(off, int64(len(d.disk))):])
	return len(p), nil
}

func (d *fakeDevice) NextData(_ context.Context, from block.LB) (block.Range, error) {
	if d.disk == nil {
		return block.Range{Addr: d.size}, nil
	}
	return block.Range{Addr: from, Len: d.size - from}, nil
}

func (d *fakeDevice) WriteAt(context.Context, []byte, int64) error { return errors.ErrUnsupported }

func (d *fakeDevice) WriteThrough(context.Context, []byte, int64) error { return errors.ErrUnsupported }
func (d *fakeDevice) Flush(context.Context) error                       { d.permanent(); return nil }
func (d *fakeDevice) Discard(context.Context, int64, int64) error       { return errors.ErrUnsupported }

// fakeDevices are devices by path.
type fakeDevices map[string]*fakeDevice

func (f fakeDevices) Lookup(path string) (wdev.Device, error) {
	dev, ok := f[path]
	if !ok {
		return nil, &walberr.Error{Op: "look up device", Code: walberr.NotFound, Found: path}
	}
	return dev, nil
}
