package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// apply brings the base image to a snapshot: words volume and gid. It answers
// when it has begun.
//
// It works in rounds. In each, `base` says first that the image is somewhere
// between two snapshots; then the diffs are written to the image, and the image
// is synced; then `base` says that it is at the second one, and the diffs up to
// there are removed. Whoever needs the image between lays at least the diffs of
// the round over it, which is what meta.Manager answers. Before the image is
// touched the diffs are checked: a round that begins can end.
func (s *Server) apply(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aApplyServer"
	v, gid, err := s.volumeAndGid(name, words)
	if err != nil {
		return err
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	end, err := v.beginAction(name, fsm.Apply, s.now())
	if err != nil {
		return err
	}
	defer end()
	if f := v.facts(); len(f.toApply(gid, 0)) == 0 {
		return server.Refusef(walberr.NotFound, "verifyApplicable:gid not applicable:%s:%d:%s", v.name, gid, f.base)
	}
	done, err := v.claims.move(name, v.name, v.facts().beyond(gid))
	if err != nil {
		return err
	}
	defer done()
	if err := r.Accept(); err != nil {
		return err
	}
	return s.applyTo(ctx, v, gid)
}

// beginAction is startAction in an active volume, with refusals in the order of
// the commands that are told of their work's begin: of a stop, of other actions,
// of the state.
func (v *volume) beginAction(handler string, a fsm.Action, now uint64) (end func(), err error) {
	if err := v.sm.VerifyStop(handler, v.name, fsm.NotStopping); err != nil {
		return nil, err
	}
	return v.startAction(handler, a, now, fsm.ArchiveActive()...)
}

// beyond is how far the base image comes by an apply up to gid: one that was
// broken off is completed first.
func (f facts) beyond(gid meta.Gid) meta.Gid {
	if f.base.Applying {
		return max(gid, f.base.E.B)
	}
	return gid
}

// toApply lists the diffs that bring the base image to gid, or as near as they go.
func (f facts) toApply(gid meta.Gid, maxNr int) (list []meta.Diff) {
	f.view(func(m *meta.Manager) { list = m.ListToApply(f.base, gid, maxNr) })
	return list
}

// applyTo does all rounds up to gid, and tells the log. The action is counted
// by the caller.
func (s *Server) applyTo(ctx context.Context, v *volume, gid meta.Gid) error {
	ctx, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	run := s.track(v, fsm.Apply, gid)
	run.expect(meta.TotalSize(v.facts().toApply(gid, 0)))
	err := s.applyRounds(ctx, v, gid, run)
	run.end(err)
	s.logEnd(fmt.Sprintf("apply of %d", gid), v, err)
	return err
}

func (s *Server) applyRounds(ctx context.Context, v *volume, gid meta.Gid, run *actionRun) error {
	pace, done := newPace(s.cfg.ApplySleepPct), uint64(0)
	for {
		list := v.facts().toApply(gid, s.round())
		if len(list) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.applyRound(ctx, v, list, pace, func(part float64) {
			run.reach(done + uint64(part*float64(meta.TotalSize(list))))
		}); err != nil {
			return err
		}
		done += meta.TotalSize(list)
	}
}

// applyRound applies a list of diffs. It may be longer than a round where an
// earlier application has to be completed.
func (s *Server) applyRound(ctx context.Context, v *volume, list []meta.Diff, pace *pace, reached func(part float64)) (err error) {
	f := v.facts()
	begun, err := f.base.BeginApplying(list)
	if err != nil {
		return err
	}
	ended, err := f.base.EndApplying(list)
	if err != nil {
		return err
	}
	img, err := v.images.Open(v.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	check := func(_ int, o *openDiffs) error { return o.check(ctx, img.Size()) }
	if err := s.eachRound(v, list, check); err != nil {
		return err
	}
	if err := v.saveBase(begun); err != nil {
		return err
	}
	write := func(first int, o *openDiffs) error {
		w := writing{img: img, discard: s.cfg.Discard, pace: pace, reached: func(pos block.LB) {
			inside := float64(pos) / float64(img.Size()) * float64(len(o.diffs))
			reached((float64(first) + inside) / float64(len(list)))
		}}
		return w.write(ctx, o.merged(0))
	}
	if err := s.eachRound(v, list, write); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return err
	}
	if err := v.saveBase(ended); err != nil {
		return err
	}
	_, err = f.diffs.EraseBefore(ended.B.B)
	return err
}

// eachRound opens the diffs of a list, as many at a time as may be, and calls
// work with each lot and the index of its first.
func (s *Server) eachRound(v *volume, list []meta.Diff, work func(first int, o *openDiffs) error) error {
	first := 0
	for part := range slices.Chunk(list, s.round()) {
		o, err := v.openDiffs(part)
		if err != nil {
			return err
		}
		if err := errors.Join(work(first, o), o.Close()); err != nil {
			return err
		}
		first += len(part)
	}
	return nil
}

// completeApplies ends the applications that the end of the server has broken
// off, in the background. One that cannot be ended now is left to the next apply.
func (s *Server) completeApplies(ctx context.Context) error {
	for _, v := range s.volumes() {
		f := v.facts()
		if !f.base.Applying || ctx.Err() != nil {
			continue
		}
		end, err := v.beginAction("completeApply", fsm.Apply, s.now())
		if err != nil {
			s.cfg.Log.Warn(fmt.Sprintf("the application to %d goes on with the next apply:%s:%s", f.base.E.B, v.name, err))
			continue
		}
		// Who reads the base image as a snapshot before that end is refused.
		if done, err := v.claims.move("completeApply", v.name, f.base.E.B); err == nil {
			_ = s.applyTo(ctx, v, f.base.E.B) // is in the log
			done()
		}
		end()
	}
	return nil
}
