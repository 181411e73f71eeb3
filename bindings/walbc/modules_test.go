package walbc

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/bindings"
	"walbsh/walbcore/group"
)

// session is one over servers that do not answer.
func session(t *testing.T) *Session {
	t.Helper()
	st := manual()
	var l group.Layout
	l.Storages = []group.Server{st.Storages[0].Server}
	l.Proxies = []group.Server{st.Proxies[0].Server}
	l.Archives = []group.Server{st.Archives[0].Server, st.Archives[1].Server}
	for i, s := range []*group.Server{&l.Storages[0], &l.Proxies[0], &l.Archives[0], &l.Archives[1]} {
		s.Host, s.Port = "127.0.0.1", uint16(i+1)
	}
	g, err := group.New(l, group.Options{Retries: -1})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.Close(context.WithoutCancel(t.Context()))) })
	return &Session{Group: g}
}

// TestEveryVerbIsComplete: name, help, parameters, tier and result of each.
func TestEveryVerbIsComplete(t *testing.T) {
	s := session(t)
	r, err := bindings.New(Module(s), Disk(s, "vol"))
	require.NoError(t, err)
	assert.Len(t, r.Modules(), 2)
}
