package storage

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"walbsh/walbcore/wire"
)

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	good := newProxy(t)
	archive := newArchive(t)
	now := time.Unix(1700000000, 0)
	back := 0
	p := newProxySet([]wire.Addr{archive.addr, good.addr}, "st0", func() time.Time { return now }, func() { back++ })
	assert.Len(t, p.usable(), 2, "available until a check says otherwise")
	p.check(t.Context(), 0)
	assert.Equal(t, []wire.Addr{good.addr}, p.usable(), "an archive is no proxy")
	i, wait := p.next()
	assert.Equal(t, 1, i)
	assert.LessOrEqual(t, wait, time.Duration(0))
	p.check(t.Context(), 1)
	assert.Equal(t, []wire.Addr{good.addr}, p.usable())
	_, wait = p.next()
	assert.Equal(t, heartbeatInterval, wait)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	p.check(ended, 1)
	assert.Empty(t, p.usable())
	p.kick(t.Context()) // checks one at once: the archive, as no check was longer ago
	i, wait = p.next()
	assert.Equal(t, 1, i)
	assert.LessOrEqual(t, wait, time.Duration(0), "the other one is due")
	assert.Zero(t, back)
	for range 2 {
		p.check(t.Context(), 1)
		assert.Equal(t, 1, back, "a proxy that answers again is told, once")
	}
}
