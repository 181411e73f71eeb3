package group

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

const vol = "vol"

// stage is a group of scripted servers with the volume backed up from s0 to a0.
type stage struct {
	*world
	g      *Group
	s0     *fakeStorage
	p0, p1 *fakeProxy
	a0, a1 *fakeArchive
	ended  chan plan.Info
}

func newStage(t *testing.T) *stage {
	t.Helper()
	w := newWorld(t)
	st := &stage{
		world: w, s0: w.storage("s0", vol), p0: w.proxy("p0", vol), p1: w.proxy("p1", vol),
		a0: w.archive("a0", vol), a1: w.archive("a1", vol), ended: make(chan plan.Info, 64),
	}
	st.locked(func() {
		st.s0.state = "Target"
		st.a0.fill(0)
		st.a0.fill(0, 1, 2, 3)
		st.s0.gid = 3
		for _, p := range []*fakeProxy{st.p0, st.p1} {
			p.state = "Started"
			p.infos["a0"] = info(st.a0.conf)
		}
	})
	st.g = st.newGroup(t)
	return st
}

func (st *stage) layout() Layout {
	return Layout{
		Storages: []Server{st.s0.conf}, Proxies: []Server{st.p0.conf, st.p1.conf}, Archives: []Server{st.a0.conf, st.a1.conf},
	}
}

func (st *stage) newGroup(t *testing.T) *Group {
	t.Helper()
	g, err := New(st.layout(), Options{
		Timeout: 300 * time.Millisecond, Patience: 250 * time.Millisecond, Busy: 300 * time.Millisecond, Retries: -1,
		Jobs: plan.Options{OnEnd: func(i plan.Info) { st.ended <- i }},
	})
	require.NoError(t, err)
	g.settle = 50 * time.Millisecond
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.NoError(t, g.Close(ctx))
	})
	return g
}

func info(ax Server) wire.ArchiveInfo {
	return wire.ArchiveInfo{
		Addr: wire.Addr{Host: ax.Host, Port: ax.Port}, Compress: compress.Opt{Type: compress.Snappy, CPUs: 1},
	}
}

func (st *stage) replicateOnce(opt ReplicateOptions) (Copy, error) {
	return st.g.ReplicateOnce(context.Background(), st.a0.conf, vol, st.a1.conf, opt)
}

func (st *stage) synchronize(ctx context.Context, timeout time.Duration) (SyncResult, error) {
	return st.g.Synchronize(ctx, st.a0.conf, vol, st.a1.conf, SynchronizeOptions{Timeout: timeout})
}

func (st *stage) isSynchronizing(t *testing.T, ax *fakeArchive) bool {
	t.Helper()
	ok, err := st.g.IsSynchronizing(context.Background(), ax.conf, vol)
	require.NoError(t, err)
	return ok
}

// proxyState is what a proxy is asked to be: its state and its archives.
func (st *stage) proxyState(p *fakeProxy) (state string, archives []string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for name := range p.infos {
		archives = append(archives, name)
	}
	return p.state, archives
}

// eventually waits for a fact, looked at with the lock held.
func (st *stage) eventually(t *testing.T, fact func() bool, what string) {
	t.Helper()
	require.Eventually(t, func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return fact()
	}, 5*time.Second, time.Millisecond, what)
}

func gids(list ...meta.Gid) []meta.Gid { return list }

func failureOf(t *testing.T, err error) *plan.Failure {
	t.Helper()
	f, ok := errors.AsType[*plan.Failure](err)
	require.True(t, ok, "%v", err)
	return f
}

func errorOf(t *testing.T, err error) *walberr.Error {
	t.Helper()
	require.Error(t, err)
	e, ok := errors.AsType[*walberr.Error](err)
	require.True(t, ok, "%v", err)
	return e
}
