package storage

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

// The files of a volume.
const (
	pathFile  = "path"
	stateFile = "state"
	doneFile  = "done"
	queueName = "queue"
	uuidFile  = "uuid"
	// brokenPackFile begins the name of a pack header that could not be shipped.
	brokenPackFile = "logpackheader-"
)

var volumeFiles = [...]string{pathFile, stateFile, doneFile, queueName, uuidFile}

// maxSmallFile bounds the small files of a volume when they are read.
const maxSmallFile = 64 << 10

// volume is one volume in memory.
type volume struct {
	name string
	dir  string
	fsys vfs.FS
	sm   *fsm.Machine[fsm.StorageState]

	// mu guards what follows and the files in dir.
	mu    sync.Mutex
	path  string      // of the device; valid iff dev is
	dev   wdev.Device // nil in Clear and before the first init-vol has ended
	done  meta.LsidGid
	queue *queueFile
	uuid  meta.UUID // log life that done and queue speak of; zero before the first backup

	retry    time.Duration     // before the next try; > 0 iff the last one failed, and then a task is queued
	pace     pace              // of shipments
	unwatch  func()            // ends the watching of the device; nil while it is not watched
	breakers map[*breaker]bool // of what can be broken off
}

func (v *volume) file(name string) string { return filepath.Join(v.dir, name) }

// load reads a volume that has a directory, and gives its state.
func (v *volume) load(devices Devices) (fsm.StorageState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var stateName string
	for _, f := range []struct {
		name   string
		decode func(r *wire.Reader)
	}{
		{stateFile, func(r *wire.Reader) { stateName = r.StrMax(64) }},
		{pathFile, func(r *wire.Reader) { v.path = r.StrMax(4096) }},
		{doneFile, func(r *wire.Reader) { v.done = r.LsidGid() }},
		{uuidFile, func(r *wire.Reader) { v.uuid = r.UUID() }},
	} {
		data, err := vfs.ReadFile(v.fsys, v.file(f.name), maxSmallFile)
		if err == nil {
			err = wire.Unmarshal(data, f.decode)
		}
		if err != nil {
			return 0, &walberr.Error{
				Op: "load " + v.file(f.name), Volume: v.name, Code: walberr.Checksum, Err: err,
				Hint: "restore the file, or remove the volume's directory and back the volume up again",
			}
		}
	}
	state, err := fsm.ParseStorageState(stateName)
	if err != nil || !state.Steady() || state == fsm.StorageClear {
		return 0, &walberr.Error{
			Op: "load " + v.file(stateFile), Volume: v.name, Code: walberr.Checksum,
			Found: "state " + stateName, Expected: "SyncReady, Stopped, Target or Standby",
		}
	}
	if v.queue, err = openQueue(v.fsys, v.file(queueName)); err != nil {
		return 0, err
	}
	if v.dev, err = devices.Lookup(v.path); err != nil {
		return 0, err
	}
	return state, nil
}

// create makes the directory and files of a new volume. If that fails nothing
// is left. The state comes last: a directory without it means nothing.
func (v *volume) create(path string, dev wdev.Device, now uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := vfs.MakeDir(v.fsys, v.dir); err != nil {
		return err
	}
	if err := v.fill(path, now); err != nil {
		return errors.Join(err, v.remove())
	}
	v.path, v.dev = path, dev
	return nil
}

func (v *volume) fill(path string, now uint64) error {
	salt, err := randomSalt()
	if err != nil {
		return err
	}
	if v.queue, err = createQueue(v.fsys, v.file(queueName), salt); err != nil {
		return err
	}
	if err := v.save(pathFile, func(w *wire.Writer) { w.Str(path) }); err != nil {
		return err
	}
	if err := v.saveDone(meta.LsidGid{Lsid: meta.MaxLsid, Gid: meta.MaxGid, Timestamp: now}); err != nil {
		return err
	}
	if err := v.saveUUID(meta.UUID{}); err != nil {
		return err
	}
	return v.saveState(fsm.StorageSyncReady)
}

func randomSalt() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}

// clear forgets the volume, durably, and gives the path of its device. After
// an error it can be repeated.
func (v *volume) clear() (path string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.remove(); err != nil {
		return "", err
	}
	path = v.path
	v.dev, v.queue, v.path = nil, nil, ""
	return path, nil
}

// remove removes the directory. The state goes first and for good: what is
// left without it is removed at the next start. The caller holds mu.
func (v *volume) remove() error {
	if err := v.fsys.Remove(v.file(stateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := v.fsys.SyncDir(v.dir); err != nil {
		return err
	}
	return vfs.RemoveAll(v.fsys, v.dir)
}

// resetLog begins a new log life at gid, and stores SyncReady. Every step is
// repeated in full by the next attempt, so an interruption does no harm.
func (v *volume) resetLog(ctx context.Context, gid meta.Gid, now uint64) (meta.UUID, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.dev.ResetLog(ctx); err != nil {
		return meta.UUID{}, err
	}
	if err := v.saveDone(meta.LsidGid{Gid: gid, Timestamp: now}); err != nil {
		return meta.UUID{}, err
	}
	if err := v.queue.replace(nil); err != nil {
		return meta.UUID{}, err
	}
	uuid := v.dev.Identity().UUID
	if err := v.saveUUID(uuid); err != nil {
		return meta.UUID{}, err
	}
	return uuid, v.saveState(fsm.StorageSyncReady)
}

// flush makes everything that was acknowledged to writers permanent.
func (v *volume) flush(ctx context.Context) error {
	v.mu.Lock()
	dev := v.dev
	v.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Flush(ctx)
}

// takeSnapshot takes an explicit snapshot at the end of the permanent log and
// gives its gid; durable on return. The caller has called flush, so that this
// is behind all that was acknowledged before: a snapshot must not be promised
// of log that a power cut may still take, nor lie inside a pack of what is
// written in its place. The caller holds mu.
func (v *volume) takeSnapshot(maxWlogMB, now uint64) (meta.Gid, error) {
	if v.dev.Overflowed() {
		return 0, server.Refusef(walberr.BadState, "takeSnapshotDetail:wlog overflow:%s", v.path)
	}
	rec, err := snapshotAfter(v.latest(), v.dev.Lsids().Permanent, maxPB(v.dev, maxWlogMB), false, now)
	if err != nil {
		return 0, err
	}
	return rec.Gid, v.queue.push(rec)
}

// latest is the newest record: a snapshot in the queue, or what is done. The
// caller holds mu.
func (v *volume) latest() meta.LsidGid { return newestOr(v.queue, v.done) }

// overflowed gives the device's path if it lost log that nobody has. A volume
// without a device did not.
func (v *volume) overflowed() (path string, yes bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.path, v.dev != nil && v.dev.Overflowed()
}

// The small files. The caller holds mu; durable on return.

func (v *volume) save(name string, encode func(w *wire.Writer)) error {
	return vfs.WriteFile(v.fsys, v.file(name), wire.Marshal(encode))
}

func (v *volume) saveState(s fsm.StorageState) error {
	return v.save(stateFile, func(w *wire.Writer) { w.Str(s.String()) })
}

func (v *volume) saveDone(rec meta.LsidGid) error {
	if err := v.save(doneFile, func(w *wire.Writer) { w.LsidGid(rec) }); err != nil {
		return err
	}
	v.done = rec
	return nil
}

func (v *volume) saveUUID(uuid meta.UUID) error {
	if err := v.save(uuidFile, func(w *wire.Writer) { w.UUID(uuid) }); err != nil {
		return err
	}
	v.uuid = uuid
	return nil
}

// storeState is saveState for callers that do not hold mu.
func (v *volume) storeState(s fsm.StorageState) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.saveState(s)
}

// breaker ends the context of something that can be broken off.
type breaker struct{ cancel context.CancelCauseFunc }

// breakable gives a context that breakOff ends too. What must hold when the
// work begins (no stop, a state) is looked at after the call. release must be
// called at the end of the work.
func (v *volume) breakable(ctx context.Context) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &breaker{cancel}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.breakers[b] = true
	return ctx, func() {
		cancel(nil)
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.breakers, b)
	}
}

// breakOff ends what runs for the volume: shipments and backups. It does not
// wait for them.
func (v *volume) breakOff(cause error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.breakAll(cause)
}

// breakAll is breakOff for callers that hold mu.
func (v *volume) breakAll(cause error) {
	for b := range v.breakers {
		b.cancel(cause)
	}
}
