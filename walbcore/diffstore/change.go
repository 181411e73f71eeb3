package diffstore

import (
	"errors"
	"io/fs"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

// Add publishes a completely written temporary file of this directory as the
// file of d, durably, and lists it. It returns d with its size as listed.
//
// If d's identity is listed already it fails with an [*ExistsError] and leaves
// the temporary file alone, so that Replace may follow. In any case the caller
// defers tmp.Abort.
func (s *Store) Add(tmp *vfs.TempFile, d meta.Diff) (meta.Diff, error) {
	return s.publish(tmp, d, false)
}

// Replace is Add that puts the new file in the place of the listed one, if
// there is one. At no moment, and after no crash, are both or none of them there.
// Use it when the listed file belongs to a log life that has ended, or is the
// same range sent again.
func (s *Store) Replace(tmp *vfs.TempFile, d meta.Diff) (meta.Diff, error) {
	return s.publish(tmp, d, true)
}

func (s *Store) publish(tmp *vfs.TempFile, d meta.Diff, replace bool) (meta.Diff, error) {
	if tmp.Dir() != s.dir {
		return d, &walberr.Error{
			Op: "add diff " + d.String(), Code: walberr.Internal,
			Found: "a temporary file of " + tmp.Dir(), Expected: "one of " + s.dir,
		}
	}
	// The long part of the work, before anyone has to wait for it.
	if err := tmp.Sync(); err != nil {
		return d, err
	}
	info, err := tmp.Stat()
	if err != nil {
		return d, err
	}
	d.Size = uint64(info.Size())

	s.op.Lock()
	defer s.op.Unlock()
	if err := s.makeRoom(d, replace); err != nil {
		return d, err
	}
	published, err := tmp.Commit(d.FileName())
	return d, s.settle(d, published, err)
}

// LinkTo gives d's file a second name in dst, durably, and lists it there. It
// fails with an [*ExistsError] of dst if dst lists d's identity, and with code
// NotFound if this store does not.
func (s *Store) LinkTo(dst *Store, d meta.Diff) error { return s.link(dst, d, false) }

// LinkReplace is LinkTo that replaces what dst lists, as Replace does.
func (s *Store) LinkReplace(dst *Store, d meta.Diff) error { return s.link(dst, d, true) }

func (s *Store) link(dst *Store, d meta.Diff, replace bool) error {
	listed, tmp, err := s.linkTemp(d, dst.dir)
	if err != nil {
		return err
	}
	dst.op.Lock()
	defer dst.op.Unlock()
	if err := dst.makeRoom(listed, replace); err != nil {
		return errors.Join(err, tmp.Abort())
	}
	published, err := tmp.Commit(listed.FileName())
	return dst.settle(listed, published, err)
}

// linkTemp gives the file of d a temporary name in dir.
func (s *Store) linkTemp(d meta.Diff, dir string) (meta.Diff, *vfs.TempLink, error) {
	s.op.Lock()
	defer s.op.Unlock()
	listed, e, found := s.find(d)
	if !found {
		return d, nil, s.notFound("link diff", d)
	}
	tmp, err := vfs.LinkTemp(s.fs, s.path(e.name), dir)
	return listed, tmp, err
}

// makeRoom prepares the directory for a file named d.FileName: afterwards no
// other name has d's identity. Called with op held.
//
// A diff that is to be replaced first gets the new name itself: so a crash
// finds one file of this identity, whatever it was doing.
func (s *Store) makeRoom(d meta.Diff, replace bool) error {
	if err := d.Check(); err != nil {
		return err
	}
	if err := s.unlinkStale(); err != nil {
		return err
	}
	old, e, found := s.find(d)
	if !found {
		return nil
	}
	if !replace {
		return &ExistsError{Existing: old, Path: s.path(e.name)}
	}
	name := d.FileName()
	if e.name == name {
		return nil
	}
	if err := s.fs.Rename(s.path(e.name), s.path(name)); err != nil {
		return err
	}
	renamed := d
	renamed.Size = old.Size
	if err := s.register(renamed, name); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// settle brings the list in line with the directory after d's file was
// published, or failed to be with err, which it returns with what goes wrong
// here. Called with op held, after makeRoom.
//
// A name that is not durable is taken back, unless it has replaced a listed
// file: that one is gone, and the new one is the better of the two.
func (s *Store) settle(d meta.Diff, published bool, err error) error {
	if !published {
		return err
	}
	name := d.FileName()
	if _, _, replaced := s.find(d); err != nil && !replaced {
		s.stale[name] = true
		return errors.Join(err, s.unlinkStale())
	}
	return errors.Join(err, s.register(d, name))
}

// register lists d with a new file, in place of one with the same identity.
func (s *Store) register(d meta.Diff, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list.Remove(d)
	if err := s.list.Add(d); err != nil {
		return err
	}
	s.gen++
	s.files[idOf(d)] = entry{name, s.gen}
	return nil
}

// ChangeSnapshot makes the snapshot gid explicit (or implicit): the file of
// every diff that begins there is renamed to say not mergeable (or mergeable),
// durably. It lists the diffs that really changed, as they are now. Nothing is
// found for the newest snapshot, since no diff begins there.
func (s *Store) ChangeSnapshot(gid meta.Gid, explicit bool) (changed []meta.Diff, found bool, err error) {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.unlinkStale(); err != nil {
		return nil, false, err
	}
	type move struct {
		id       identity
		from, to string
	}
	var moves []move
	for _, d := range s.All() {
		if d.B.B != gid || d.Mergeable != explicit {
			continue
		}
		_, e, _ := s.find(d)
		d.Mergeable = !explicit
		moves = append(moves, move{idOf(d), e.name, d.FileName()})
	}
	for i, m := range moves {
		if err := s.fs.Rename(s.path(m.from), s.path(m.to)); err != nil {
			for _, done := range moves[:i] {
				err = errors.Join(err, s.fs.Rename(s.path(done.to), s.path(done.from)))
			}
			return nil, false, err
		}
	}
	s.mu.Lock()
	changed, found = s.list.ChangeSnapshot(gid, explicit)
	for _, m := range moves {
		s.files[m.id] = entry{m.to, s.files[m.id].gen}
	}
	s.mu.Unlock()
	if len(moves) == 0 {
		return changed, found, nil
	}
	return changed, found, s.fs.SyncDir(s.dir)
}

// Remove forgets the diffs with the identities of those given and unlinks
// their files, durably. Those that are not listed are ignored.
func (s *Store) Remove(diffs ...meta.Diff) error {
	_, err := s.removeIf(func(m *meta.Manager) []meta.Diff {
		m.Remove(diffs...)
		return diffs
	})
	return err
}

// RemoveFiles is Remove for diffs that were opened: one whose file has been
// replaced since is kept, so nobody removes what he has not read.
func (s *Store) RemoveFiles(files ...*File) error {
	_, err := s.removeIf(func(m *meta.Manager) []meta.Diff {
		var same []meta.Diff
		for _, f := range files {
			if s.files[idOf(f.Diff)].gen == f.gen {
				same = append(same, f.Diff)
			}
		}
		m.Remove(same...)
		return same
	})
	return err
}

// RemoveAll removes every diff.
func (s *Store) RemoveAll() error { return s.Remove(s.All()...) }

// GC removes what is not on the way from snap to the latest snapshot, and
// returns it.
func (s *Store) GC(snap meta.Snap) ([]meta.Diff, error) {
	return s.removeIf(func(m *meta.Manager) []meta.Diff { return m.GC(snap) })
}

// GCRange removes the diffs inside the gid range from b to e, except those of
// exactly that range, and returns them.
func (s *Store) GCRange(b, e meta.Gid) ([]meta.Diff, error) {
	return s.removeIf(func(m *meta.Manager) []meta.Diff { return m.GCRange(b, e) })
}

// EraseBefore removes the diffs that end at or before gid, and returns them.
func (s *Store) EraseBefore(gid meta.Gid) ([]meta.Diff, error) {
	return s.removeIf(func(m *meta.Manager) []meta.Diff { return m.EraseBefore(gid) })
}

// removeIf lets choose remove diffs from the list and unlinks the files of
// those it returns. choose runs with both locks held.
func (s *Store) removeIf(choose func(*meta.Manager) []meta.Diff) ([]meta.Diff, error) {
	s.op.Lock()
	defer s.op.Unlock()
	s.mu.Lock()
	removed := choose(s.list)
	for _, d := range removed {
		if e, found := s.files[idOf(d)]; found {
			delete(s.files, idOf(d))
			s.stale[e.name] = true
		}
	}
	s.mu.Unlock()
	return removed, s.unlinkStale()
}

// unlinkStale unlinks the files that are listed no more, durably. If that fails
// it is tried again before the next change. Called with op held.
func (s *Store) unlinkStale() error {
	if len(s.stale) == 0 {
		return nil
	}
	var errs []error
	for name := range s.stale {
		if err := s.fs.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, s.fs.SyncDir(s.dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	clear(s.stale)
	return nil
}
