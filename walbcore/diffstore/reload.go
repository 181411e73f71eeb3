package diffstore

// Reload lists the directory anew, for a user who has changed it by hand. What
// [Open] refuses is refused, and the list stays as it was. Files that are open
// stay readable, but count as replaced.
func (s *Store) Reload() error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.unlinkStale(); err != nil {
		return err
	}
	fresh, err := Open(s.fs, s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list, s.files = fresh.list, map[identity]entry{}
	for id, e := range fresh.files {
		s.gen++
		s.files[id] = entry{e.name, s.gen}
	}
	return nil
}
