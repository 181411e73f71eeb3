package archive

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
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

// isSmallFile reports whether a name in a volume's directory is that of a
// small file, or of one that was being written.
func isSmallFile(name string) bool {
	small := []string{fileState, fileBase, fileUUID, fileArchiveUUID, fileFullRepl}
	return slices.Contains(small, name) || vfs.IsTempName(name)
}

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

	claims claims // on the base image

	mu    sync.Mutex // guards what follows; never held over I/O
	kept  facts
	began map[fsm.Action]uint64
	repls map[string]*replRun // by id of the destination
	runs  map[fsm.Action]*actionRun
}

// facts are what is known of a volume.
type facts struct {
	base        meta.State
	uuid        meta.UUID
	archiveUUID meta.UUID
	fullRepl    *wire.FullReplState // as in the file, never changed in place; nil when there is none
	diffs       *diffstore.Store    // nil iff the volume has no files
	baseOnly    bool                // the diffs could not be read when images were compared
	lastSync    uint64              // when the last backup or full replication ended, Unix seconds; 0 = never since the start
	lastWdiff   uint64              // when the last diff came, likewise
}

// facts copies what is known at the moment.
func (v *volume) facts() facts {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.kept
}

// learn changes what is known.
func (v *volume) learn(change func(f *facts)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.kept)
}

// view lets fn look at the diffs; a volume without files has none.
func (f facts) view(fn func(m *meta.Manager)) {
	if f.diffs == nil {
		fn(&meta.Manager{})
		return
	}
	f.diffs.View(fn)
}

// latest is the state behind all applicable diffs.
func (f facts) latest() (st meta.State) {
	f.view(func(m *meta.Manager) { st = m.LatestState(f.base) })
	return st
}

func (v *volume) file(name string) string { return filepath.Join(v.dir, name) }

// create makes the directory and files of a new volume.
func (v *volume) create() error {
	exists, err := vfs.Exists(v.fsys, v.dir)
	if err != nil {
		return err
	}
	if exists {
		remnant, err := v.isRemnant()
		if err != nil {
			return err
		}
		if !remnant {
			return server.Refusef(walberr.Conflict, "ArchiveVolInfo::init:already exists:%s", v.dir)
		}
		if err := vfs.RemoveAll(v.fsys, v.dir); err != nil {
			return err
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
	if err := v.saveState(fsm.ArchiveSyncReady); err != nil {
		return err
	}
	v.learn(func(f *facts) { f.diffs = diffs })
	return nil
}

// isRemnant reports whether the directory is what an interrupted init-vol or
// clear-vol left: without a state, and nothing in it but other small files.
func (v *volume) isRemnant() (bool, error) {
	entries, err := v.fsys.ReadDir(v.dir)
	if err != nil {
		return false, err
	}
	foreign := slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.IsDir() || e.Name() == fileState || !isSmallFile(e.Name())
	})
	return !foreign, nil
}

// saveFresh writes the small files of a volume that holds nothing, but not its
// state.
func (v *volume) saveFresh() error {
	if err := v.saveUUID(meta.UUID{}); err != nil {
		return err
	}
	if err := v.saveArchiveUUID(meta.UUID{}); err != nil {
		return err
	}
	return v.saveBase(meta.State{B: meta.NoSnap(), E: meta.NoSnap()})
}

// removeData removes all that was received: what is left is a volume that
// holds nothing. The file `state` promises nothing, the caller sees to that.
func (v *volume) removeData() error {
	// These go before the image that they speak of.
	if err := v.removeFullRepl(); err != nil {
		return err
	}
	if err := v.removeResync(); err != nil {
		return err
	}
	if err := v.removeRestored(); err != nil {
		return err
	}
	if err := v.images.Delete(v.name); err != nil {
		return err
	}
	return v.facts().diffs.RemoveAll()
}

// removeDir removes the directory, in which no image and no diff is left.
// Whatever moment a crash comes at, the next start finds an empty volume, or a
// remnant. gone tells that the volume is no more, even if not all was removed.
func (v *volume) removeDir() (gone bool, err error) {
	entries, err := v.fsys.ReadDir(v.dir)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.IsDir() || !isSmallFile(e.Name()) {
			if err := vfs.RemoveAll(v.fsys, v.file(e.Name())); err != nil {
				return false, err
			}
		}
	}
	if err := v.fsys.Remove(v.file(fileState)); err != nil {
		return false, err
	}
	if err := v.fsys.SyncDir(v.dir); err != nil {
		return true, err
	}
	return true, vfs.RemoveAll(v.fsys, v.dir)
}

// load reads a volume that has a state, and removes what a crash left.
func (v *volume) load() (fsm.ArchiveState, error) {
	var stateName string
	var f facts
	for _, file := range []struct {
		name   string
		decode func(r *wire.Reader)
	}{
		{fileState, func(r *wire.Reader) { stateName = r.StrMax(64) }},
		{fileBase, func(r *wire.Reader) { f.base = r.State() }},
		{fileUUID, func(r *wire.Reader) { f.uuid = r.UUID() }},
		{fileArchiveUUID, func(r *wire.Reader) { f.archiveUUID = r.UUID() }},
	} {
		if err := v.read(file.name, file.decode); err != nil {
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
		f.fullRepl = &repl
	case !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if f.diffs, err = diffstore.Open(v.fsys, v.dir); err != nil {
		return 0, err
	}
	v.learn(func(kept *facts) { *kept = f })
	return state, nil
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
func (v *volume) recover(state fsm.ArchiveState, f facts) error {
	if _, err := f.diffs.RemoveTemps(); err != nil {
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
		_, err := f.diffs.GC(f.base.B)
		return err
	}
	return nil
}

// The small files. Whoever writes one has a transaction open, so there is one
// writer at a time. Each is durable on return, and known then.

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
	v.learn(func(f *facts) { f.base = st })
	return nil
}

func (v *volume) saveUUID(u meta.UUID) error {
	if err := v.save(fileUUID, func(w *wire.Writer) { w.UUID(u) }); err != nil {
		return err
	}
	v.learn(func(f *facts) { f.uuid = u })
	return nil
}

func (v *volume) saveArchiveUUID(u meta.UUID) error {
	if err := v.save(fileArchiveUUID, func(w *wire.Writer) { w.UUID(u) }); err != nil {
		return err
	}
	v.learn(func(f *facts) { f.archiveUUID = u })
	return nil
}

func (v *volume) saveFullRepl(st wire.FullReplState) error {
	if err := v.save(fileFullRepl, st.Encode); err != nil {
		return err
	}
	v.learn(func(f *facts) { f.fullRepl = &st })
	return nil
}

// removeFullRepl removes the file whether it is known of or not: one whose
// writing failed at the end may be there.
func (v *volume) removeFullRepl() error {
	if err := v.fsys.Remove(v.file(fileFullRepl)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := v.fsys.SyncDir(v.dir); err != nil {
		return err
	}
	v.learn(func(f *facts) { f.fullRepl = nil })
	return nil
}

// newUUID makes a random identity.
func newUUID() (meta.UUID, error) {
	var u meta.UUID
	_, err := rand.Read(u[:])
	return u, err
}

// receiving is the action that runs while another archive replicates to the
// volume, also between its rounds, so that a stop waits for the end and nothing
// is reset meanwhile. The original has no name for it and never shows it.
const receiving fsm.Action = "ReplSyncAsServer"

// startAction counts an action as running until end is called. It is refused
// beside conflicting actions, while the volume is being stopped, and in states
// other than those given. These two are looked at when the action is counted
// already: who stops or resets a volume looks at the actions last, so one of
// the two sees the other.
func (v *volume) startAction(handler string, a fsm.Action, now uint64, states ...fsm.ArchiveState) (end func(), err error) {
	conflicts := fsm.ArchiveConflicts(a)
	switch a {
	case receiving:
		conflicts = append(fsm.ArchiveActions(), receiving)
	case fsm.Apply, fsm.Merge:
		conflicts = append(conflicts, tending)
	}
	end, err = v.sm.StartAction(handler, a, conflicts...)
	if err != nil {
		return nil, err
	}
	if err := v.admits(handler, states...); err != nil {
		end()
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

// admits refuses what begins while the volume is being stopped, or is in a
// state other than those given.
func (v *volume) admits(handler string, states ...fsm.ArchiveState) error {
	if err := v.sm.VerifyStop(handler, v.name, fsm.NotStopping); err != nil {
		return err
	}
	return v.sm.VerifyState(handler, states...)
}

// breakable gives a context that also ends when the volume is force stopped.
// The returned function must be called; it waits for the watcher.
func (v *volume) breakable(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	before := v.sm.View().Forced
	go func() {
		defer close(watched)
		err := v.sm.Wait(ctx, func(view fsm.View[fsm.ArchiveState]) bool {
			return view.Stop == fsm.ForceStopping || view.Forced > before
		})
		if err == nil {
			cancel(&walberr.Error{Op: "stop", Volume: v.name, Code: walberr.Stopped, Found: "force stopped"})
		}
	}()
	return ctx, func() {
		cancel(context.Canceled)
		<-watched
	}
}
