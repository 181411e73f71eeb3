package proxy

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"unicode"

	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

const archiveInfoServer = "c2pArchiveInfoServer"

// archiveInfo serves the command archive-info.
func (s *Server) archiveInfo(ctx context.Context, r *server.Request) error {
	var req wire.ArchiveInfoRequest
	unbind := r.Bind(ctx)
	req.Decode(r.R)
	unbind()
	if err := r.R.Err(); err != nil {
		return err
	}
	if err := server.ExactWords(archiveInfoServer, req.Words, 2); err != nil {
		return err
	}
	sub, vol := req.Words[0], req.Words[1]
	if err := wire.CheckVolumeName(vol); err != nil {
		return err
	}
	switch sub {
	case wire.InfoList:
		return s.listArchives(r, vol)
	case wire.InfoGet:
		return s.getArchive(r, vol, req.Name)
	case wire.InfoAdd, wire.InfoUpdate:
		if err := s.setArchive(vol, req.Name, req.Info, sub == wire.InfoUpdate); err != nil {
			return err
		}
	case wire.InfoDelete:
		if err := s.deleteArchive(s.find(vol), req.Name); err != nil {
			return err
		}
	default:
		return server.Refusef(walberr.Usage, "parseArchiveInfoParam:bad command name:%s", sub)
	}
	r.Log.Info("archive-info succeeded:" + sub + ":" + vol + ":" + req.Name)
	return r.OK()
}

func (s *Server) listArchives(r *server.Request, vol string) error {
	v := s.find(vol)
	v.mu.Lock()
	names := v.names()
	v.mu.Unlock()
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.StrVec(names)
	return r.Finish()
}

func (s *Server) getArchive(r *server.Request, vol, name string) error {
	v := s.find(vol)
	v.mu.Lock()
	a, found := v.archives[name]
	var info wire.ArchiveInfo
	if found {
		info = a.info
	}
	v.mu.Unlock()
	if !found {
		return server.Refusef(walberr.NotFound, "getArchiveInfo:archive info not exists:%s", name)
	}
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	info.Encode(r.W)
	return r.Finish()
}

// checkArchiveName judges a name that becomes a file name.
func checkArchiveName(name string) error {
	const maxName = 128
	if name == "" || len(name) > maxName || name == "." || name == ".." ||
		strings.Contains(name, "/") || strings.ContainsFunc(name, unicode.IsControl) {
		return server.Refusef(walberr.Usage, "bad archive name:%s", name)
	}
	return nil
}

// setArchive registers an archive, or with update changes it. The first one
// makes the volume.
func (s *Server) setArchive(vol, name string, info wire.ArchiveInfo, update bool) error {
	if err := checkArchiveName(name); err != nil {
		return err
	}
	v := s.obtain(vol)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyNoAction(archiveInfoServer); err != nil {
		return err
	}
	tx, err := v.state.Begin("", v.state.State(), fsm.ProxyAddArchiveInfo, fsm.ProxyStopped)
	if err != nil {
		return err
	}
	defer tx.Rollback()

	a, known := v.archives[name]
	switch {
	case known && !update:
		return server.Refusef(walberr.Conflict, "ProxyVolInfo::addArchiveInfo:already exists:%s", v.sendtoPath(name))
	case known:
		if err := s.saveInfo(v, name, info); err != nil {
			return err
		}
		a.info = info
	default:
		if err := s.addArchive(v, name, info); err != nil {
			return err
		}
	}
	tx.Commit()
	return nil
}

func (s *Server) saveInfo(v *volume, name string, info wire.ArchiveInfo) error {
	return vfs.WriteFile(s.fs, v.archivePath(name), wire.Marshal(info.Encode))
}

// addArchive registers an archive that is not known. If it fails nothing of
// it stays, unless removing fails too. The lock is held.
func (s *Server) addArchive(v *volume, name string, info wire.ArchiveInfo) error {
	if v.received == nil {
		if err := s.makeVolume(v); err != nil {
			return err
		}
	}
	a, err := s.makeArchive(v, name, info)
	if err == nil {
		v.archives[name] = a
		return nil
	}
	if len(v.archives) == 0 {
		return errors.Join(err, s.forget(v))
	}
	return errors.Join(err, s.removeArchive(v, name))
}

// makeVolume makes the directory of a Clear volume, which must not exist. If it
// fails nothing stays, unless removing fails too. The lock is held.
func (s *Server) makeVolume(v *volume) error {
	err := s.makeVolumeDirs(v)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(err, s.forget(v))
}

func (s *Server) makeVolumeDirs(v *volume) error {
	if err := vfs.MakeDir(s.fs, v.dir); err != nil {
		return err
	}
	if err := s.saveSize(v, 0); err != nil {
		return err
	}
	if err := vfs.MakeDir(s.fs, v.receivedPath()); err != nil {
		return err
	}
	if err := vfs.MakeDir(s.fs, filepath.Join(v.dir, sendtoDir)); err != nil {
		return err
	}
	received, err := diffstore.Open(s.fs, v.receivedPath())
	if err != nil {
		return err
	}
	v.received, v.archives = received, make(map[string]*archive)
	return nil
}

// makeArchive makes the directory and then the file that registers it. A
// directory of that name belongs to an archive that was deleted: its diffs
// must not be sent.
func (s *Server) makeArchive(v *volume, name string, info wire.ArchiveInfo) (*archive, error) {
	if err := vfs.RemoveAll(s.fs, v.sendtoPath(name)); err != nil {
		return nil, err
	}
	if err := vfs.MakeDir(s.fs, v.sendtoPath(name)); err != nil {
		return nil, err
	}
	store, err := diffstore.Open(s.fs, v.sendtoPath(name))
	if err != nil {
		return nil, err
	}
	if err := s.saveInfo(v, name, info); err != nil {
		return nil, err
	}
	return &archive{name: name, info: info, store: store}, nil
}

// deleteArchive forgets an archive and what waits for it. The last one takes
// the volume with it. An unknown name is no error.
func (s *Server) deleteArchive(v *volume, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyNoAction(archiveInfoServer); err != nil {
		return err
	}
	_, known := v.archives[name]
	left := len(v.archives)
	if known {
		left--
	}
	to := fsm.ProxyStopped
	if left == 0 {
		to = fsm.ProxyClear
	}
	tx, err := v.state.Begin("", fsm.ProxyStopped, fsm.ProxyDeleteArchiveInfo, to)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if known {
		if err := s.removeArchive(v, name); err != nil {
			return err
		}
	}
	if left == 0 {
		if err := s.forget(v); err != nil {
			return err
		}
	}
	tx.Commit()
	return nil
}

// removeArchive removes the registration of an archive, and then what waits
// for it. The lock is held.
func (s *Server) removeArchive(v *volume, name string) error {
	if err := vfs.RemoveAll(s.fs, v.archivePath(name)); err != nil {
		return err
	}
	delete(v.archives, name)
	return vfs.RemoveAll(s.fs, v.sendtoPath(name))
}

// forget removes a volume: first what makes its archives registered, then the
// rest. The lock is held.
func (s *Server) forget(v *volume) error {
	for _, name := range v.names() {
		if err := vfs.RemoveAll(s.fs, v.archivePath(name)); err != nil {
			return err
		}
		delete(v.archives, name)
	}
	if err := vfs.RemoveAll(s.fs, v.dir); err != nil {
		return err
	}
	v.size, v.lastWlog, v.received, v.archives = 0, 0, nil, nil
	return nil
}
