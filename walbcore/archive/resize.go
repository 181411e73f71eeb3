package archive

import (
	"context"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// resize makes the base image larger: words volume, size, and optionally
// zeroclear. The new part is zeros in any case; with that word it answers before
// they are written, which takes its time in a store that has to write them.
func (s *Server) resize(_ context.Context, r *server.Request, words []string) error {
	const name = "c2aResizeServer"
	if err := server.RequireWords(words, 2); err != nil {
		return err
	}
	if len(words) > 2 && words[2] != "zeroclear" {
		return server.Refusef(walberr.Usage, "parseResizeParam:invalid option:%s", words[2])
	}
	bytes, err := sizeWord(words[1])
	if err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	end, err := v.startAction(name, fsm.Resize, s.now(), append(fsm.ArchiveActive(), fsm.ArchiveSyncReady, fsm.ArchiveStopped)...)
	if err != nil {
		return err
	}
	defer end()
	size := block.FromBytes(bytes)
	have, err := v.images.Size(v.name)
	switch {
	case walberr.Is(err, walberr.NotFound):
		return server.Refusef(walberr.NotFound, "VolLvCache:lv does not existance in memory") //nolint:misspell // as the original spells it
	case err != nil:
		return err
	case size < have:
		return server.Refusef(walberr.Range, "You tried to shrink the volume: %s", v.images.Path(v.name))
	}
	if len(words) > 2 {
		if err := r.OK(); err != nil {
			return err
		}
	}
	run := s.track(v, fsm.Resize, 0)
	err = v.images.Grow(v.name, size)
	run.end(err)
	s.logEnd("resize", v, err)
	return err
}

// delCold removes a cold snapshot, of which there is none in files: words
// volume and gid.
func (s *Server) delCold(_ context.Context, _ *server.Request, words []string) error {
	v, gid, err := s.imageToDelete(words)
	if err != nil {
		return err
	}
	return server.Refusef(walberr.NotFound, "delSnapshot:volume not found:%s:%d:cold", v.name, gid)
}
