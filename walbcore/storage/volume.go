package storage

import (
	"context"
	"crypto/rand"
	"encoding/binary"
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
	path  string      // device path; valid iff the state is not Clear
	dev   wdev.Device // valid iff the state is not Clear
	done  meta.LsidGid
	queue *queueFile
	uuid  meta.UUID // log life that done and queue speak of; zero before the first backup

	retry     time.Duration // delay before the next try after a failed shipment
	unmonitor func()        // stops watching the device; nil while it is not watched
}

func (v *volume) file(name string) string { return filepath.Join(v.dir, name) }

// load reads a volume that has a directory.
func (v *volume) load(devices Devices) (fsm.StorageState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var stateName string
	for _, f := range []struct {
		name   string
		decode func(r *wire.Reader)
	}{
		{"state", func(r *wire.Reader) { stateName = r.StrMax(64) }},
		{"path", func(r *wire.Reader) { v.path = r.StrMax(4096) }},
		{"done", func(r *wire.Reader) { v.done = r.LsidGid() }},
		{"uuid", func(r *wire.Reader) { v.uuid = r.UUID() }},
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
			Op: "load " + v.file("state"), Volume: v.name, Code: walberr.Checksum,
			Found: "state " + stateName, Expected: "SyncReady, Stopped, Target or Standby",
		}
	}
	if v.queue, err = openQueue(v.fsys, v.file("queue")); err != nil {
		return 0, err
	}
	if v.dev, err = devices.Lookup(v.path); err != nil {
		return 0, err
	}
	return state, nil
}

// create makes the directory and files of a new volume. The state comes last:
// a directory without it is what an interrupted create left, and means nothing.
func (v *volume) create(path string, dev wdev.Device, now uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := vfs.MakeDir(v.fsys, v.dir); err != nil {
		return err
	}
	salt, err := randomSalt()
	if err != nil {
		return err
	}
	if v.queue, err = createQueue(v.fsys, v.file("queue"), salt); err != nil {
		return err
	}
	if err := v.save("path", func(w *wire.Writer) { w.Str(path) }); err != nil {
		return err
	}
	if err := v.saveDone(meta.LsidGid{Lsid: meta.MaxLsid, Gid: meta.MaxGid, Timestamp: now}); err != nil {
		return err
	}
	if err := v.saveUUID(meta.UUID{}); err != nil {
		return err
	}
	v.path, v.dev = path, dev
	return v.saveState(fsm.StorageSyncReady)
}

func randomSalt() (uint32, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
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

// snapshot takes a snapshot at the end of the log and gives its gid; durable
// on return.
func (v *volume) snapshot(maxWlogMB uint64, now uint64) (meta.Gid, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dev.Overflowed() {
		return 0, server.Refusef(walberr.BadState, "takeSnapshotDetail:wlog overflow:%s", v.path)
	}
	rec, err := snapshotAfter(newestOr(v.queue, v.done), v.dev.Lsids().Latest, v.maxPB(maxWlogMB), false, now)
	if err != nil {
		return 0, err
	}
	return rec.Gid, v.queue.push(rec)
}

// maxPB converts megabytes of log to physical blocks of the device.
func (v *volume) maxPB(mb uint64) uint64 { return mb << 20 / uint64(v.dev.Identity().PBS) }

// giveUpShipped lets the device overwrite the log that a proxy has and the
// device itself needs no longer. When log gets scarce the device is asked to
// need less. The caller holds mu.
func (v *volume) giveUpShipped(ctx context.Context) error {
	if v.dev.Overflowed() {
		return nil
	}
	l := v.dev.Lsids()
	if v.done.Lsid > l.PrevWritten && l.Written > l.PrevWritten && l.Usage() > v.dev.LogCapacity()/4 {
		if err := v.dev.Checkpoint(ctx); err != nil {
			return err
		}
		l = v.dev.Lsids()
	}
	if oldest := min(v.done.Lsid, l.PrevWritten); oldest > l.Oldest {
		return v.dev.SetOldest(ctx, oldest)
	}
	return nil
}

// latest is the newest record: a snapshot in the queue, or what is done. The
// caller holds mu.
func (v *volume) latest() meta.LsidGid { return newestOr(v.queue, v.done) }

// The small files. The caller holds mu; durable on return.

func (v *volume) save(name string, encode func(w *wire.Writer)) error {
	return vfs.WriteFile(v.fsys, v.file(name), wire.Marshal(encode))
}

func (v *volume) saveState(s fsm.StorageState) error {
	return v.save("state", func(w *wire.Writer) { w.Str(s.String()) })
}

func (v *volume) saveDone(rec meta.LsidGid) error {
	if err := v.save("done", func(w *wire.Writer) { w.LsidGid(rec) }); err != nil {
		return err
	}
	v.done = rec
	return nil
}

func (v *volume) saveUUID(uuid meta.UUID) error {
	if err := v.save("uuid", func(w *wire.Writer) { w.UUID(uuid) }); err != nil {
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

// breakable gives a context that also ends when the volume is force stopped.
// The returned function must be called; it waits for the watcher.
func (v *volume) breakable(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		err := v.sm.Wait(ctx, func(view fsm.View[fsm.StorageState]) bool { return view.Stop == fsm.ForceStopping })
		if err == nil {
			cancel(&walberr.Error{Op: "stop", Volume: v.name, Code: walberr.Stopped, Found: "force stopped"})
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-watched
	}
}

// overflowed reports whether the device lost log that nobody has. A volume
// without a device did not.
func (v *volume) overflowed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.dev != nil && v.dev.Overflowed()
}
