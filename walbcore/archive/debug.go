package archive

import (
	"context"
	"errors"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// The debug commands write what they are told, true or not. But they keep out
// of everything that runs, and what they refuse has changed nothing.

// debugVolume reads the words volume and value, and keeps everything else out
// of the volume until end is called, exports too.
func (s *Server) debugVolume(name string, words []string) (v *volume, value string, end func(), err error) {
	if err := server.ExactWords(name, words, 2); err != nil {
		return nil, "", nil, err
	}
	if v, err = s.volume(words[0], false); err != nil {
		return nil, "", nil, err
	}
	done, err := v.claims.move(name, v.name, meta.MaxGid)
	if err != nil {
		return nil, "", nil, err
	}
	endAction, err := v.sm.StartAction(name, tending, append(fsm.ArchiveActions(), receiving, tending)...)
	if err != nil {
		done()
		return nil, "", nil, err
	}
	return v, words[1], func() {
		endAction()
		done()
	}, nil
}

// requireDir refuses a volume without a directory.
func (v *volume) requireDir() error {
	if v.facts().diffs == nil {
		return server.Refusef(walberr.NotFound, "dirPath not found.")
	}
	return nil
}

// setUUID changes the log life that diffs are taken from: words volume and
// uuid.
func (s *Server) setUUID(_ context.Context, _ *server.Request, words []string) error {
	v, value, end, err := s.debugVolume("c2aSetUuidServer", words)
	if err != nil {
		return err
	}
	defer end()
	if len(value) != 2*len(meta.UUID{}) {
		return server.Refusef(walberr.Usage, "strToBinary:bad size:%s:%d", value, 2*len(meta.UUID{}))
	}
	uuid, err := meta.ParseUUID(value)
	if err != nil {
		return err
	}
	if err := v.requireDir(); err != nil {
		return err
	}
	return v.saveUUID(uuid)
}

// setBase changes what the base image is believed to be at: words volume and
// state.
func (s *Server) setBase(_ context.Context, _ *server.Request, words []string) error {
	v, value, end, err := s.debugVolume("c2aSetBaseServer", words)
	if err != nil {
		return err
	}
	defer end()
	st, err := meta.ParseState(value, s.now())
	if err != nil {
		return err
	}
	if err := v.requireDir(); err != nil {
		return err
	}
	return v.saveBase(st)
}

// setState changes the state: words volume and one of SyncReady, Archived and
// Stopped. With the latter two there must be a base image, as the next start of
// the server demands.
func (s *Server) setState(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aSetStateServer"
	v, value, end, err := s.debugVolume(name, words)
	if err != nil {
		return err
	}
	defer end()
	state, err := fsm.ParseArchiveState(value)
	if err != nil || !state.Steady() {
		return server.Refusef(walberr.Usage, "%s:bad state:%s", name, value)
	}
	if state == fsm.ArchiveClear {
		return server.Refusef(walberr.BadState, "ArchiveVolInfo::setState:bad state:%s", state)
	}
	if err := v.requireDir(); err != nil {
		return err
	}
	if state != fsm.ArchiveSyncReady {
		if _, err := v.images.Size(v.name); err != nil {
			return server.Refusef(walberr.BadState, "base lv must exist")
		}
	}
	before := v.sm.State()
	if err := v.sm.Set(name, state); err != nil {
		return err
	}
	if err := v.saveState(state); err != nil {
		return errors.Join(err, v.sm.Set(name, before))
	}
	return nil
}
