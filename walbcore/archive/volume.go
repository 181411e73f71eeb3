package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"

	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// maxSmallFile bounds the small files of a volume when they are read.
const maxSmallFile = 64 << 10

// Names of the small files.
const (
	fileState       = "state"
	fileBase        = "base"
	fileUUID        = "uuid"
	fileArchiveUUID = "archive_uuid"
	fileFullRepl    = "full_repl_state"
)

// volume is one volume in memory.
type volume struct {
	name   string
	dir    string
	fsys   vfs.FS
	images image.Store
	sm     *fsm.Machine[fsm.ArchiveState]

	// progress is how many blocks a running full backup or replication has
	// taken in; 0 when none runs.
	progress atomic.Uint64

	// mu guards what follows and the small files.
	mu          sync.Mutex
	base        meta.State
	uuid        meta.UUID
	archiveUUID meta.UUID
	fullRepl    *wire.FullReplState // as in the file; nil when there is none
	diffs       *diffstore.Store    // nil iff the state is Clear
	lastSync    uint64              // when the last backup or replication ended, Unix seconds; 0 = never since the start
	lastWdiff   uint64              // when the last diff came, likewise
	began       map[fsm.Action]uint64
	repls       map[string]*replRun // by address of the destination
}

func (v *volume) file(name string) string { return filepath.Join(v.dir, name) }

// create makes the directory and files of a new volume.
func (v *volume) create() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ok, err := vfs.Exists(v.fsys, v.dir); err != nil {
		return err
	} else if ok {
		return &walberr.Error{
			Op: "init-vol", Volume: v.name, Code: walberr.Conflict, Found: v.dir + " exists already",
			Hint: "it does not belong to a volume that this server knows; move it away",
		}
	}
	if err := vfs.MakeDir(v.fsys, v.dir); err != nil {
		return err
	}
	diffs, err := diffstore.Open(v.fsys, v.dir)
	if err != nil {
		return err
	}
	if err := v.saveFresh(); err != nil {
		return err
	}
	v.diffs = diffs
	return v.saveState(fsm.ArchiveSyncReady)
}

// saveFresh writes the small files of a volume that holds nothing. The caller
// holds mu.
func (v *volume) saveFresh() error {
	if err := v.saveUUID(meta.UUID{}); err != nil {
		return err
	}
	if err := v.saveArchiveUUID(meta.UUID{}); err != nil {
		return err
	}
	return v.saveBase(meta.State{B: meta.NoSnap(), E: meta.NoSnap()})
}

// load reads a volume that has a directory, and removes what a crash left.
func (v *volume) load() (fsm.ArchiveState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var stateName string
	for _, f := range []struct {
		name   string
		decode func(r *wire.Reader)
	}{
		{fileState, func(r *wire.Reader) { stateName = r.StrMax(64) }},
		{fileBase, func(r *wire.Reader) { v.base = r.State() }},
		{fileUUID, func(r *wire.Reader) { v.uuid = r.UUID() }},
		{fileArchiveUUID, func(r *wire.Reader) { v.archiveUUID = r.UUID() }},
	} {
		if err := v.read(f.name, f.decode); err != nil {
			return 0, err
		}
	}
	state, err := fsm.ParseArchiveState(stateName)
	if err != nil || !state.Steady() || state == fsm.ArchiveClear {
		return 0, &walberr.Error{
			Op: "load " + v.file(fileState), Volume: v.name, Code: walberr.Checksum,
			Found: "state " + stateName, Expected: "SyncReady, Archived or Stopped",
		}
	}
	var repl wire.FullReplState
	switch err := v.read(fileFullRepl, repl.Decode); {
	case err == nil:
		v.fullRepl = &repl
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if v.diffs, err = diffstore.Open(v.fsys, v.dir); err != nil {
		return 0, err
	}
	return state, v.recover(state)
}

func (v *volume) read(name string, decode func(r *wire.Reader)) error {
	data, err := vfs.ReadFile(v.fsys, v.file(name), maxSmallFile)
	if err == nil {
		err = wire.Unmarshal(data, decode)
	}
	if err != nil {
		return &walberr.Error{
			Op: "load " + v.file(name), Volume: v.name, Code: walberr.Checksum, Err: err,
			Hint: "restore the file, or remove the volume's directory and back the volume up again",
		}
	}
	return nil
}

// recover removes temporary files, unfinished restores, and, of an Archived
// volume, diffs that lead nowhere.
func (v *volume) recover(state fsm.ArchiveState) error {
	if _, err := v.diffs.RemoveTemps(); err != nil {
		return err
	}
	if _, err := v.images.RemoveLeftovers(v.name); err != nil {
		return err
	}
	if state == fsm.ArchiveSyncReady {
		return nil
	}
	if _, err := v.images.Size(v.name); err != nil {
		return &walberr.Error{
			Op: "load " + v.dir, Volume: v.name, Code: walberr.NotFound, Err: err, Found: "no base image",
			Expected: "one at " + v.images.Path(v.name), Hint: "bring it back, or remove the volume's directory and back the volume up again",
		}
	}
	if state == fsm.ArchiveArchived {
		if _, err := v.diffs.GC(v.base.B); err != nil {
			return err
		}
	}
	return nil
}

// latest is the state behind all applicable diffs.
func (v *volume) latest() meta.State {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.latestLocked()
}

// latestLocked is latest for callers that hold mu.
func (v *volume) latestLocked() meta.State {
	st := v.base
	if v.diffs != nil {
		v.diffs.View(func(m *meta.Manager) { st = m.LatestState(v.base) })
	}
	return st
}

// The small files. The caller holds mu; durable on return.

func (v *volume) save(name string, encode func(w *wire.Writer)) error {
	return vfs.WriteFile(v.fsys, v.file(name), wire.Marshal(encode))
}

func (v *volume) saveState(s fsm.ArchiveState) error {
	return v.save(fileState, func(w *wire.Writer) { w.Str(s.String()) })
}

func (v *volume) saveBase(st meta.State) error {
	if err := v.save(fileBase, func(w *wire.Writer) { w.State(st) }); err != nil {
		return err
	}
	v.base = st
	return nil
}

func (v *volume) saveUUID(u meta.UUID) error {
	if err := v.save(fileUUID, func(w *wire.Writer) { w.UUID(u) }); err != nil {
		return err
	}
	v.uuid = u
	return nil
}

func (v *volume) saveArchiveUUID(u meta.UUID) error {
	if err := v.save(fileArchiveUUID, func(w *wire.Writer) { w.UUID(u) }); err != nil {
		return err
	}
	v.archiveUUID = u
	return nil
}

func (v *volume) saveFullRepl(st wire.FullReplState) error {
	if err := v.save(fileFullRepl, st.Encode); err != nil {
		return err
	}
	v.fullRepl = &st
	return nil
}

func (v *volume) removeFullRepl() error {
	if v.fullRepl == nil {
		return nil
	}
	if err := v.fsys.Remove(v.file(fileFullRepl)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := v.fsys.SyncDir(v.dir); err != nil {
		return err
	}
	v.fullRepl = nil
	return nil
}

// storeState is saveState for callers that do not hold mu.
func (v *volume) storeState(s fsm.ArchiveState) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.saveState(s)
}

// newUUID makes a random identity.
func newUUID() (meta.UUID, error) {
	var u meta.UUID
	_, err := rand.Read(u[:])
	return u, err
}

// startAction counts an action as running, and remembers when it began.
func (v *volume) startAction(handler string, a fsm.Action, now uint64) (end func(), err error) {
	end, err = v.sm.StartAction(handler, a, fsm.ArchiveConflicts(a)...)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.began == nil {
		v.began = map[fsm.Action]uint64{}
	}
	v.began[a] = now
	return end, nil
}

// actionTimes copies when each action began last.
func (v *volume) actionTimes() map[fsm.Action]uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.began)
}

// breakable gives a context that also ends when the volume is force stopped.
// The returned function must be called; it waits for the watcher.
func (v *volume) breakable(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		err := v.sm.Wait(ctx, func(view fsm.View[fsm.ArchiveState]) bool { return view.Stop == fsm.ForceStopping })
		if err == nil {
			cancel(&walberr.Error{Op: "stop", Volume: v.name, Code: walberr.Stopped, Found: "force stopped"})
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-watched
	}
}
