package proxy

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"walbsh/walbcore/block"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

const (
	sizeFile      = "size"
	receivedDir   = "received"
	sendtoDir     = "sendto"
	archiveSuffix = ".archive"
	maxSmallFile  = 1 << 20 // bytes in a size or archive file
)

// volume is one volume. In state Clear the zero values of the guarded fields
// hold.
type volume struct {
	name  string
	dir   string
	state *fsm.Machine[fsm.ProxyState] // has its own lock

	mu       sync.Mutex // the lock of the volume
	size     block.LB   // largest size that a storage announced
	lastWlog uint64     // when a log was received, Unix seconds; 0 = not since the start
	received *diffstore.Store
	archives map[string]*archive
	works    map[*work]bool // what a force stop has to break off
}

// archive is one archive that a volume is sent to. It is guarded by the lock
// of the volume; the store has its own lock too.
type archive struct {
	name  string
	info  wire.ArchiveInfo
	store *diffstore.Store

	lastSent uint64  // when a diff was delivered, Unix seconds; 0 = not since the start
	failed   bool    // sending ended for good; until the next log, kick or start
	backoff  backoff // of refusals
	again    bool    // a task came while another one was sending
}

// work is a transfer that can be broken off.
type work struct{ cancel context.CancelCauseFunc }

func (s *Server) newVolume(name string, state fsm.ProxyState) *volume {
	return &volume{
		name: name,
		dir:  filepath.Join(s.config.Base, name),
		state: fsm.NewProxy(state, func(from, to fsm.ProxyState) {
			s.log.Debug(fmt.Sprintf("%s: %s=>%s", name, from, to))
		}),
		works: make(map[*work]bool),
	}
}

func (v *volume) sizePath() string                 { return filepath.Join(v.dir, sizeFile) }
func (v *volume) receivedPath() string             { return filepath.Join(v.dir, receivedDir) }
func (v *volume) sendtoPath(archive string) string { return filepath.Join(v.dir, sendtoDir, archive) }

func (v *volume) archivePath(archive string) string {
	return filepath.Join(v.dir, archive+archiveSuffix)
}

// load reads a volume's directory. It finishes what a crash left half done;
// see the package comment.
func (s *Server) load(name string) (*volume, error) {
	v := s.newVolume(name, fsm.ProxyStopped)
	if _, err := vfs.RemoveTemps(s.fs, v.dir); err != nil {
		return nil, err
	}
	infos, err := s.loadInfos(v)
	if err != nil {
		return nil, err
	}
	if len(infos) == 0 {
		remnant, err := s.isRemnant(v)
		if err != nil {
			return nil, err
		}
		if remnant {
			s.log.Warn("remove the rest of a volume without archives: " + v.dir)
			return s.newVolume(name, fsm.ProxyClear), vfs.RemoveAll(s.fs, v.dir)
		}
	}
	if v.size, err = s.loadSize(v); err != nil {
		return nil, err
	}
	if v.received, err = diffstore.Open(s.fs, v.receivedPath()); err != nil {
		return nil, err
	}
	v.archives = make(map[string]*archive, len(infos))
	for archiveName, info := range infos {
		store, err := diffstore.Open(s.fs, v.sendtoPath(archiveName))
		if err != nil {
			return nil, err
		}
		v.archives[archiveName] = &archive{name: archiveName, info: info, store: store}
	}
	return v, nil
}

// loadInfos reads the registered archives. One whose directory is missing was
// being deleted, or never came to be.
func (s *Server) loadInfos(v *volume) (map[string]wire.ArchiveInfo, error) {
	entries, err := s.fs.ReadDir(v.dir)
	if err != nil {
		return nil, err
	}
	infos := make(map[string]wire.ArchiveInfo)
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), archiveSuffix)
		if !ok || e.IsDir() || checkArchiveName(name) != nil {
			continue
		}
		found, err := vfs.Exists(s.fs, v.sendtoPath(name))
		if err != nil {
			return nil, err
		}
		if !found {
			s.log.Warn("remove the rest of an archive's registration: " + v.archivePath(name))
			if err := s.removeFile(v.archivePath(name)); err != nil {
				return nil, err
			}
			continue
		}
		var info wire.ArchiveInfo
		if err := s.loadFile(v.archivePath(name), info.Decode); err != nil {
			return nil, err
		}
		infos[name] = info
	}
	return infos, nil
}

func (s *Server) loadSize(v *volume) (block.LB, error) {
	var size block.LB
	err := s.loadFile(v.sizePath(), func(r *wire.Reader) { size = block.LB(r.U64()) })
	if err == nil && !size.Valid() {
		err = walberr.Corrupt("load "+v.sizePath(), fmt.Sprintf("%d blocks", size), fmt.Sprintf("at most %d", block.MaxLB))
	}
	return size, err
}

// loadFile decodes a small file.
func (s *Server) loadFile(path string, decode func(*wire.Reader)) error {
	data, err := vfs.ReadFile(s.fs, path, maxSmallFile)
	if err != nil {
		return err
	}
	if err := wire.Unmarshal(data, decode); err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// removeFile unlinks a file durably.
func (s *Server) removeFile(path string) error {
	if err := s.fs.Remove(path); err != nil {
		return err
	}
	return s.fs.SyncDir(filepath.Dir(path))
}

// isRemnant reports whether a volume without archives is what an interruption
// of its making or of its removal left: it lacks what every volume has, or
// holds no diff.
func (s *Server) isRemnant(v *volume) (bool, error) {
	for _, path := range []string{v.sizePath(), v.receivedPath()} {
		if found, err := vfs.Exists(s.fs, path); err != nil || !found {
			return err == nil, err
		}
	}
	return s.hasNoDiffs(v)
}

// hasNoDiffs reports whether there is no diff file in any directory of the
// volume.
func (s *Server) hasNoDiffs(v *volume) (bool, error) {
	dirs := []string{v.receivedPath()}
	sendto := filepath.Join(v.dir, sendtoDir)
	entries, err := s.readDirIfAny(sendto)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		dirs = append(dirs, filepath.Join(sendto, e))
	}
	for _, dir := range dirs {
		files, err := s.readDirIfAny(dir)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(files, meta.IsFileName) {
			return false, nil
		}
	}
	return true, nil
}

// readDirIfAny lists the names in a directory; none when it is not there.
func (s *Server) readDirIfAny(dir string) ([]string, error) {
	found, err := vfs.Exists(s.fs, dir)
	if err != nil || !found {
		return nil, err
	}
	entries, err := s.fs.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// names lists the archives in order. The lock is held.
func (v *volume) names() []string { return slices.Sorted(maps.Keys(v.archives)) }

// watch gives a channel that is closed at the next change of the volume's
// state or actions. A send changes them after it changed its store.
func (v *volume) watch() <-chan struct{} {
	_, changed := v.state.Watch()
	return changed
}

// register makes a force stop call cancel. The lock is held, and the stop
// state was verified under it.
func (v *volume) register(cancel context.CancelCauseFunc) *work {
	w := &work{cancel}
	v.works[w] = true
	return w
}

// breakOff ends every registered work.
func (v *volume) breakOff() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for w := range v.works {
		w.cancel(errForceStopped)
	}
}

// distribute gives every diff in received to every archive, durably, and then
// forgets it there. The lock is held.
func (s *Server) distribute(v *volume) error {
	diffs := v.received.All()
	if len(diffs) == 0 {
		return nil
	}
	if len(v.archives) == 0 {
		return &walberr.Error{Op: "distribute diffs", Volume: v.name, Code: walberr.BadState, Found: "no archive is registered"}
	}
	for _, name := range v.names() {
		for _, d := range diffs {
			if err := v.received.LinkReplace(v.archives[name].store, d); err != nil {
				return err
			}
		}
	}
	return v.received.Remove(diffs...)
}

// isEmpty reports whether no diff waits. The lock is held.
func (v *volume) isEmpty() bool {
	for _, a := range v.archives {
		if len(a.store.All()) > 0 {
			return false
		}
	}
	return len(v.received.All()) == 0
}

// pushAll makes the transfer to every archive due that has diffs waiting. The
// lock is held.
func (s *Server) pushAll(v *volume) {
	for name, a := range v.archives {
		if len(a.store.All()) > 0 {
			s.queue.PushForce(task{v.name, name}, 0)
		}
	}
}

// dropTasks removes the queued transfers of a volume. The lock is held.
func (s *Server) dropTasks(v *volume) {
	s.queue.Remove(func(t task) bool { return t.volume == v.name })
}
