package archive

import (
	"context"
	"fmt"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// tending is the action of the short commands that change the list of diffs,
// so that none of them comes between the choice of a merge and its removals. The
// original has no name for it and never shows it.
const tending fsm.Action = "ChangeDiffs"

// tend counts a short change of the diffs as running until end is called. It
// may begin while the volume is being stopped; the stop waits for it.
func (v *volume) tend(handler string, conflicts []fsm.Action, states ...fsm.ArchiveState) (end func(), err error) {
	end, err = v.sm.StartAction(handler, tending, append(conflicts, tending)...)
	if err != nil {
		return nil, err
	}
	if err := v.sm.VerifyState(handler, states...); err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// changeSnapshots gives the command that makes snapshots explicit, or implicit:
// words volume and gids. All of them are tried, whatever happens to one.
func (s *Server) changeSnapshots(explicit bool) func(context.Context, *server.Request, []string) error {
	const name = "changeSnapshot"
	return func(_ context.Context, _ *server.Request, words []string) error {
		if err := server.RequireWords(words, 1); err != nil {
			return err
		}
		if len(words) < 2 {
			return server.Refusef(walberr.Usage, "parseChangeSnapshotParam:specify gid list.")
		}
		v, err := s.volume(words[0], false)
		if err != nil {
			return err
		}
		var gids []meta.Gid
		for _, w := range words[1:] {
			gid, err := meta.ParseGid(w)
			if err != nil {
				return err
			}
			gids = append(gids, gid)
		}
		end, err := v.tend(name, []fsm.Action{fsm.Apply, fsm.Merge}, fsm.ArchiveActive()...)
		if err != nil {
			return err
		}
		defer end()
		failed := false
		for _, gid := range gids {
			_, found, err := v.facts().diffs.ChangeSnapshot(gid, explicit)
			if err != nil {
				s.cfg.Log.Error(fmt.Sprintf("%s:%s:%d:%s", name, v.name, gid, err))
			}
			failed = failed || err != nil || !found
		}
		if failed {
			return server.Refusef(walberr.NotFound, "%s:change snapshot failed:%s:%d", name, v.name, bit(explicit))
		}
		return nil
	}
}

// gcDiff removes the diffs that lead to no snapshot: word volume.
func (s *Server) gcDiff(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aGarbageCollectDiffServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	end, err := v.tend(name, append(fsm.ArchiveActions(), receiving), append(fsm.ArchiveActive(), fsm.ArchiveStopped)...)
	if err != nil {
		return err
	}
	defer end()
	f := v.facts()
	removed, err := f.diffs.GC(f.base.B)
	if err == nil {
		s.cfg.Log.Info(fmt.Sprintf("gc-diff removed %d diffs:%s", len(removed), v.name))
	}
	return err
}

// reloadMetadata lists the diff files anew: word volume.
func (s *Server) reloadMetadata(_ context.Context, _ *server.Request, words []string) error {
	const name = "c2aReloadMetadataServer"
	if err := server.ExactWords(name, words, 1); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	end, err := v.sm.StartAction(name, tending, append(fsm.ArchiveActions(), receiving, tending)...)
	if err != nil {
		return err
	}
	defer end()
	f := v.facts()
	if f.diffs == nil {
		return server.Refusef(walberr.NotFound, "cybozu:GetFileList:%s:Invalid argument(22)", v.dir)
	}
	return f.diffs.Reload()
}
