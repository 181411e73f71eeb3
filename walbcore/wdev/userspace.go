package wdev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// FullPolicy says what happens to writes when the log is full of packs that
// nobody gave up by SetOldest.
type FullPolicy uint8

const (
	// Overflow lets writes go on over the oldest log, as the original does:
	// the device is Overflowed and its log can not be shipped any more until
	// ResetLog.
	Overflow FullPolicy = iota
	// Block makes writers wait until SetOldest makes room.
	Block
)

// Options tune a device. The zero value is the original's behaviour.
type Options struct {
	OnFull FullPolicy
	// FlushInterval is the longest time a write stays out of Permanent
	// without a Flush; 0 means 100 ms.
	FlushInterval time.Duration
	// FlushBytes is the most log that is not Permanent before it is made so
	// [bytes]; 0 means 16 MiB, more than 64 MiB means 64 MiB.
	FlushBytes int64
	// MaxPending bounds the memory for writes that are not yet on the data
	// file [bytes]; writers wait beyond it. 0 means 32 MiB; less than 2 MiB
	// means 2 MiB.
	MaxPending int64
	// CheckpointInterval is the time between checkpoints; 0 means 10 s.
	// Checkpoints are taken earlier when much was written or log space runs
	// short.
	CheckpointInterval time.Duration
	// Logger is told of redo, overflow and IO errors; nil means nobody.
	Logger *slog.Logger
}

const (
	maxFlushBytes = 64 << 20
	minMaxPending = 2 * maxPiece
	// checkpointBytes is the most log that is on the data file without a
	// checkpoint [bytes].
	checkpointBytes = 64 << 20
)

func (o Options) withDefaults() Options {
	orElse := func(v, def int64) int64 {
		if v <= 0 {
			return def
		}
		return v
	}
	o.FlushInterval = time.Duration(orElse(int64(o.FlushInterval), int64(100*time.Millisecond)))
	o.FlushBytes = min(orElse(o.FlushBytes, 16<<20), maxFlushBytes)
	o.MaxPending = max(orElse(o.MaxPending, 32<<20), minMaxPending)
	o.CheckpointInterval = time.Duration(orElse(int64(o.CheckpointInterval), int64(10*time.Second)))
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Userspace is a walb device made of a log file and a data file. It
// implements [Device].
//
// A write is appended to the log and acknowledged when the file has it. Log is
// made permanent by fdatasync: at a flush, after FlushBytes, or after
// FlushInterval. Only what is permanent is written to the data file, in the
// order of the log; until then reads find it in memory. A checkpoint syncs the
// data file and records in the super sector from where redo has to start.
//
// Three goroutines do this: one writes the log (and is the only one that
// appends), one writes the data file, one takes checkpoints. While the log is
// being synced nothing is appended, so that no more than FlushBytes and one
// group of writes can be torn or out of order after a power cut.
type Userspace struct {
	name string
	opt  Options
	log  *slog.Logger

	logFile, dataFile file
	pending           pendingMap
	buffers           bufferPool
	wg                sync.WaitGroup

	wakeLog, wakeData, wakeCheckpoint signal

	// superMu is held while the super sector is written, and by those who
	// must not see it change. It is taken before mu.
	superMu sync.Mutex

	mu       sync.Mutex // guards all below
	super    Super      // as in the log file; its Oldest and Written hold too
	lsids    Lsids
	overflow bool
	err      error // valid iff the device is read-only or closed
	closing  bool  // nothing new is accepted
	changed  chan struct{}

	queue    []*op     // waiting for the log, in order of arrival
	waiters  []*op     // logged writes through and flushes, for the next sync
	calls    []func()  // for the log goroutine between two groups
	groups   []*group  // logged, not yet on the data file, in lsid order
	bytes    int64     // held by groups and the one being written
	seq      uint64    // number of the last IO logged
	unsynced time.Time // valid iff Permanent < Completed: when that began
	logEnded bool      // the log goroutine is gone
}

var _ Device = (*Userspace)(nil)

// Open opens the device of two files, which no one else may have open, and
// repeats what its log holds and its data file may not. It has a background
// of goroutines until [Userspace.Close].
//
// The name goes to the super sector; an empty name means the one that is
// there. Errors: NotFound for a missing file, Conflict if a file is in use,
// Checksum if the files are not a device or the log asks for the impossible.
func Open(ctx context.Context, name, logPath, dataPath string, opt Options) (*Userspace, error) {
	logFile, err := openFile(logPath, 0)
	if err != nil {
		return nil, err
	}
	dataFile, err := openFile(dataPath, 0)
	if err != nil {
		_ = logFile.Close()
		return nil, err
	}
	return open(ctx, name, logFile, dataFile, opt)
}

// open is Open on files that it owns from now on.
func open(ctx context.Context, name string, logFile, dataFile file, opt Options) (*Userspace, error) {
	d := &Userspace{
		name: name, opt: opt.withDefaults(), logFile: logFile, dataFile: dataFile,
		wakeLog: newSignal(), wakeData: newSignal(), wakeCheckpoint: newSignal(),
		changed: make(chan struct{}),
	}
	if err := d.repeatLog(ctx); err != nil {
		_ = logFile.Close()
		_ = dataFile.Close()
		return nil, err
	}
	d.wg.Add(3)
	go d.runLog()
	go d.runData()
	go d.runCheckpoints()
	return d, nil
}

// repeatLog reads the super sector, repeats the log on the data file and
// writes the super sector.
func (d *Userspace) repeatLog(ctx context.Context) error {
	s, err := readSuper(d.logFile)
	if err != nil {
		return err
	}
	if d.name == "" {
		d.name = s.Name
	}
	if err := CheckName(d.name); err != nil {
		return err
	}
	d.log = d.opt.Logger.With("device", d.name)
	s.Name = d.name
	if err := d.checkSizes(&s); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// What the last owner wrote may be in the cache only, if it was killed:
	// nothing may reach the data file before its log is on stable storage.
	if err := d.logFile.Sync(); err != nil {
		return d.ioError("open device", err)
	}
	r := ring{d.logFile, s}
	end, err := redo(r, d.dataFile)
	if err == nil {
		err = zeroStale(r, end)
	}
	if err == nil {
		err = d.logFile.Sync()
	}
	if err == nil {
		err = d.dataFile.Sync()
	}
	if err == nil {
		s.Written = end
		err = writeSuper(d.logFile, &s)
	}
	if err != nil {
		return d.ioError("open device", err)
	}
	if end != r.Written {
		d.log.Info("redo", "from", uint64(r.Written), "to", uint64(end))
	}
	return d.start(s, end)
}

// start sets the state of a device whose log ends at end, all of it applied.
func (d *Userspace) start(s Super, end meta.Lsid) error {
	d.super = s
	d.lsids = Lsids{Latest: end, Completed: end, Flush: end, Permanent: end, Written: end, PrevWritten: end, Oldest: s.Oldest}
	switch {
	case d.lsids.Usage() > s.Ring:
		d.overflow = true
	case d.lsids.Usage() > 0:
		ok, err := ring{d.logFile, s}.hasHeader(s.Oldest)
		if err != nil {
			return d.ioError("open device", err)
		}
		d.overflow = !ok
	}
	if d.overflow {
		d.log.Warn("log has overflowed, reset is required")
	}
	return nil
}

func (d *Userspace) checkSizes(s *Super) error {
	logSize, err := d.logFile.Size()
	if err != nil {
		return d.ioError("open device", err)
	}
	dataSize, err := d.dataFile.Size()
	if err != nil {
		return d.ioError("open device", err)
	}
	if s.Ring < MinRing {
		return corruptSuper("ring size", fmt.Sprint(s.Ring), fmt.Sprintf("at least %d blocks", MinRing))
	}
	if need := int64(s.RingOffset()+s.Ring) * int64(s.PBS); logSize < need {
		return corruptSuper("ring", fmt.Sprintf("%d bytes long in a log file of %d", need, logSize), "a ring inside the file")
	}
	if dataSize < s.Size.Bytes() {
		return corruptSuper("device size", fmt.Sprintf("%d bytes with a data file of %d", s.Size.Bytes(), dataSize), "a device inside the file")
	}
	return nil
}

// Close ends the device: what was acknowledged goes to the data file, the
// super sector is written, the files are closed. Writers that still wait get
// an error with code Stopped. Not to be called twice. The error is the first
// IO error of the device, if any; its log holds what was acknowledged then.
func (d *Userspace) Close() error {
	d.mu.Lock()
	d.closing = true
	d.failQueue(d.stopped("write"))
	d.mu.Unlock()
	d.wakeAll()
	d.wg.Wait()

	d.mu.Lock()
	err := d.err
	d.mu.Unlock()
	if err == nil {
		err = d.checkpoint()
	}
	d.mu.Lock()
	d.err = d.stopped("use device")
	d.notify()
	d.mu.Unlock()
	if cerr := d.logFile.Close(); err == nil {
		err = cerr
	}
	if cerr := d.dataFile.Close(); err == nil {
		err = cerr
	}
	return err
}

// Name implements [Device].
func (d *Userspace) Name() string { return d.name }

// Size implements [Disk].
func (d *Userspace) Size() block.LB {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.super.Size
}

// Identity implements [Device].
func (d *Userspace) Identity() Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Identity{UUID: d.super.UUID, Salt: d.super.Salt, PBS: d.super.PBS}
}

// Lsids implements [Device].
func (d *Userspace) Lsids() Lsids {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lsids
}

// LogCapacity implements [Device].
func (d *Userspace) LogCapacity() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.super.Ring
}

// Overflowed implements [Device].
func (d *Userspace) Overflowed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.overflow
}

// Changed implements [Device].
func (d *Userspace) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// Err implements [Device].
func (d *Userspace) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// notify tells those who wait on Changed. mu is held.
func (d *Userspace) notify() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// fail makes the device read-only because of an IO error.
func (d *Userspace) fail(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return
	}
	d.err = d.ioError(what, err)
	d.log.Error("device is read-only", "op", what, "error", err)
	d.notify()
	d.wakeAll()
}

// failQueue answers every request that waits for room with err. mu is held.
func (d *Userspace) failQueue(err error) {
	finish(d.queue, err)
	d.queue = nil
}

func (d *Userspace) wakeAll() {
	d.wakeLog.set()
	d.wakeData.set()
	d.wakeCheckpoint.set()
}

func (d *Userspace) ioError(op string, err error) error {
	if walberr.CodeOf(err) == walberr.Checksum {
		return err
	}
	return &walberr.Error{
		Op: op, Code: walberr.Unavailable, Found: "device " + d.name + " has an IO error", Err: err,
		Hint: "repair the disk and open the device again; what was acknowledged is in its log",
	}
}

func (d *Userspace) stopped(op string) error {
	return &walberr.Error{Op: op, Code: walberr.Stopped, Found: "device " + d.name + " is closed"}
}

// ReadAt implements [Disk].
func (d *Userspace) ReadAt(p []byte, off int64) (int, error) {
	size, err := d.readable()
	if err != nil {
		return 0, err
	}
	if err := aligned("read", off, int64(len(p))); err != nil {
		return 0, err
	}
	if off >= size.Bytes() {
		return 0, io.EOF
	}
	n := min(int64(len(p)), size.Bytes()-off)
	for done := int64(0); done < n; {
		part := p[done:min(done+maxPiece, n)]
		err := d.pending.read(part, block.FromBytes(off+done), func(p []byte, addr block.LB) error {
			_, err := d.dataFile.ReadAt(p, addr.Bytes())
			return unexpectedEOF(err)
		})
		if err != nil {
			return int(done), d.ioError("read", err)
		}
		done += int64(len(part))
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// readable is the size of the disk, or the error of a closed device.
func (d *Userspace) readable() (block.LB, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return 0, d.stopped("read")
	}
	return d.super.Size, nil
}

// NextData implements [Disk].
func (d *Userspace) NextData(ctx context.Context, from block.LB) (block.Range, error) {
	if ctx.Err() != nil {
		return block.Range{}, context.Cause(ctx)
	}
	size, err := d.readable()
	if err != nil {
		return block.Range{}, err
	}
	none := block.Range{Addr: size}
	if from >= size {
		return none, nil
	}
	// What leaves the pending map between the two looks is in the file.
	found := d.pending.nextPending(from)
	begin, end, err := d.dataFile.NextData(from.Bytes())
	switch {
	case errors.Is(err, io.EOF):
	case err != nil:
		return none, d.ioError("read", err)
	case found.Len == 0 || block.FromBytes(begin) < found.Addr:
		found.Addr = block.FromBytes(begin)
		found.Len = block.CeilBytes(end) - found.Addr
	}
	if found.Len == 0 || found.Addr >= size {
		return none, nil
	}
	found.Len = min(found.Len, size-found.Addr)
	return found, nil
}

// ReadLog implements [Device].
func (d *Userspace) ReadLog(ctx context.Context, lsid meta.Lsid, p []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s, err := d.logReadable(lsid, p)
	if err != nil {
		return err
	}
	if err := (ring{d.logFile, s}).readBlocks(lsid, p); err != nil {
		return d.ioError("read log", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.super.UUID != s.UUID || uint64(d.lsids.Latest-lsid) > d.super.Ring {
		return &walberr.Error{
			Op: "read log", Code: walberr.Unavailable, Found: fmt.Sprintf("log at lsid %d was overwritten", lsid),
			Hint: "the log has overflowed or was reset; a backup is needed",
		}
	}
	return nil
}

func (d *Userspace) logReadable(lsid meta.Lsid, p []byte) (Super, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return Super{}, d.stopped("read log")
	}
	n := meta.Lsid(uint64(len(p)) / uint64(d.super.PBS))
	if len(p)%int(d.super.PBS) != 0 {
		return Super{}, &walberr.Error{
			Op: "read log", Code: walberr.Usage, Found: fmt.Sprintf("%d bytes", len(p)),
			Expected: fmt.Sprintf("a multiple of %d", d.super.PBS),
		}
	}
	if lsid < d.lsids.Oldest || lsid > d.lsids.Permanent || n > d.lsids.Permanent-lsid {
		return Super{}, &walberr.Error{
			Op: "read log", Code: walberr.Range, Found: fmt.Sprintf("%d blocks at lsid %d", n, lsid),
			Expected: fmt.Sprintf("blocks in %d..%d", d.lsids.Oldest, d.lsids.Permanent),
		}
	}
	return d.super, nil
}

func aligned(op string, off, n int64) error {
	if off < 0 || n < 0 || off%block.Size != 0 || n%block.Size != 0 {
		return &walberr.Error{Op: op, Code: walberr.Usage, Found: fmt.Sprintf("%d bytes at %d", n, off), Expected: "multiples of 512"}
	}
	return nil
}
