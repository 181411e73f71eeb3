package archive

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/wire"
)

// actionRun tells how an action goes, or how the last of its kind went.
type actionRun struct {
	now func() time.Time

	mu     sync.Mutex
	status wire.ActionStatus
}

// track begins to tell about an action that leads to gid.
func (s *Server) track(v *volume, a fsm.Action, gid meta.Gid) *actionRun {
	run := &actionRun{now: s.cfg.Now, status: wire.ActionStatus{
		Action: string(a), State: wire.ReplRunning, Gid: gid, Started: s.cfg.Now().UnixMilli(),
	}}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.runs == nil {
		v.runs = map[fsm.Action]*actionRun{}
	}
	v.runs[a] = run
	return run
}

// expect says how many bytes of diff files there are to work off.
func (r *actionRun) expect(bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Total = bytes
}

// reach says how many of them are worked off. It never goes back.
func (r *actionRun) reach(bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Done = max(r.status.Done, min(bytes, r.status.Total))
}

// end tells the outcome.
func (r *actionRun) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Ended = r.now().UnixMilli()
	if err != nil {
		r.status.State, r.status.Error = wire.ReplFailed, err.Error()
		return
	}
	r.status.State, r.status.Done = wire.ReplDone, r.status.Total
}

func (r *actionRun) view() wire.ActionStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// targetActions answers how the actions of a volume go.
func targetActions(v *volume, _ []string) (server.Value, error) {
	v.mu.Lock()
	runs := slices.Collect(maps.Values(v.runs))
	v.mu.Unlock()
	list := make([]wire.ActionStatus, len(runs))
	for i, r := range runs {
		list[i] = r.view()
	}
	slices.SortFunc(list, func(a, b wire.ActionStatus) int { return cmp.Compare(a.Action, b.Action) })
	lines := make([]string, len(list))
	for i, st := range list {
		lines[i] = st.String()
	}
	return server.Lines(lines), nil
}

// restAfter is how long a pace works between two rests.
const restAfter = 20 * time.Millisecond

// pace makes work rest for a share of the time.
type pace struct {
	pct   int // of the time to rest, 0 to 99
	began time.Time
}

func newPace(pct int) *pace { return &pace{pct: pct, began: time.Now()} }

// rest rests, if it is time. It gives the cause of ctx's end.
func (p *pace) rest(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	worked := time.Since(p.began)
	if p.pct == 0 || worked < restAfter {
		return nil
	}
	err := pause(ctx, worked*time.Duration(p.pct)/time.Duration(100-p.pct))
	p.began = time.Now()
	return err
}

// pause waits. It gives the cause of ctx's end.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
