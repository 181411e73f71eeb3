package storage

import (
	"context"
	"slices"
	"sync"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/wire"
)

const (
	heartbeatInterval = 10 * time.Second // between two checks of one proxy
	heartbeatPace     = 1 * time.Second  // between two checks of any
	heartbeatTimeout  = 3 * time.Second  // of connecting, and of each read and write
)

// proxyState is what is known of one proxy. A proxy counts as available until
// a check says otherwise.
type proxyState struct {
	addr      wire.Addr
	available bool
	checked   time.Time // of the last check; zero = due
}

// proxySet is the list of proxies in order of preference, with a heartbeat
// that tells which of them answer.
type proxySet struct {
	clientID string
	now      func() time.Time
	due      chan struct{} // tells the heartbeat that checks are wanted now
	back     func()        // called when a proxy answers again

	mu   sync.Mutex
	list []proxyState
}

func newProxySet(addrs []wire.Addr, clientID string, now func() time.Time, back func()) *proxySet {
	p := &proxySet{clientID: clientID, now: now, due: make(chan struct{}, 1), back: back}
	for _, a := range addrs {
		p.list = append(p.list, proxyState{addr: a, available: true})
	}
	return p
}

// view copies the list.
func (p *proxySet) view() []proxyState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

// usable lists the proxies to try, in order.
func (p *proxySet) usable() []wire.Addr {
	var addrs []wire.Addr
	for _, st := range p.view() {
		if st.available {
			addrs = append(addrs, st.addr)
		}
	}
	return addrs
}

// run checks the proxies, one at a time, until ctx ends.
func (p *proxySet) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.due:
		case <-timer.C:
		}
		if i, wait := p.next(); wait <= 0 {
			p.check(ctx, i)
			timer.Reset(heartbeatPace)
		} else {
			timer.Reset(wait)
		}
	}
}

// next gives the proxy whose check is longest ago, and how long it has until
// it is due.
func (p *proxySet) next() (int, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := 0
	for i := range p.list {
		if p.list[i].checked.Before(p.list[oldest].checked) {
			oldest = i
		}
	}
	return oldest, p.list[oldest].checked.Add(heartbeatInterval).Sub(p.now())
}

// check asks one proxy what it is. It blocks for a few timeouts at most.
func (p *proxySet) check(ctx context.Context, i int) {
	addr := p.view()[i].addr
	c := client.New(addr.DialString(), client.Options{ID: p.clientID, Timeout: heartbeatTimeout})
	kind, err := c.HostType(ctx)
	if p.note(i, err == nil && kind == wire.HostProxy) {
		p.back()
	}
}

// note takes the outcome of a check, and reports whether the proxy is back.
func (p *proxySet) note(i int, available bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	back := available && !p.list[i].available
	p.list[i].available = available
	p.list[i].checked = p.now()
	return back
}

// kick makes every proxy due for a check. When none is available it checks
// one at once, so that the caller's next shipment may have a proxy.
func (p *proxySet) kick(ctx context.Context) {
	p.mu.Lock()
	none := true
	for i := range p.list {
		p.list[i].checked = time.Time{}
		none = none && !p.list[i].available
	}
	p.mu.Unlock()
	if none {
		i, _ := p.next()
		p.check(ctx, i)
	}
	select {
	case p.due <- struct{}{}:
	default:
	}
}
