package group

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestLayout(t *testing.T) {
	a0 := Server{Name: "a0", Host: "127.0.0.1", Port: 10200, Kind: Archive}
	a1 := Server{Name: "a1", Host: "127.0.0.1", Port: 10201, Kind: Archive}
	s0 := Server{Name: "s0", Host: "localhost", Port: 10000, Kind: Storage}
	p0 := Server{Name: "p0", Host: "localhost", Port: 10100, Kind: Proxy}
	l := Layout{Storages: []Server{s0}, Proxies: []Server{p0}, Archives: []Server{a0, a1}}
	require.NoError(t, l.Validate())
	assert.Equal(t, []Server{s0, p0, a0, a1}, l.All())
	got, err := l.Primary()
	require.NoError(t, err)
	assert.Equal(t, a0, got)
	got, err = l.Find("p0")
	require.NoError(t, err)
	assert.Equal(t, "localhost:10100", got.Addr())
	_, err = l.Find("po")
	require.EqualError(t, err, `layout: no server "po" (hint: did you mean p0?)`)
	_, err = Layout{}.Primary()
	assert.Equal(t, walberr.NotFound, walberr.CodeOf(err))

	for name, change := range map[string]func(*Layout){
		"two names":     func(l *Layout) { l.Archives[1].Name = "a0" },
		"two addresses": func(l *Layout) { l.Archives[1].Port = 10200 },
		"no port":       func(l *Layout) { l.Proxies[0].Port = 0 },
		"no host":       func(l *Layout) { l.Proxies[0].Host = "" },
		"wrong kind":    func(l *Layout) { l.Proxies[0].Kind = Storage },
		"name as path":  func(l *Layout) { l.Proxies[0].Name = "../p0" },
		"no name":       func(l *Layout) { l.Proxies[0].Name = "" },
		"IPv6":          func(l *Layout) { l.Proxies[0].Host = "::1" },
	} {
		bad := Layout{Storages: []Server{s0}, Proxies: []Server{p0}, Archives: []Server{a0, a1}}
		change(&bad)
		assert.Equal(t, walberr.Usage, walberr.CodeOf(bad.Validate()), name)
		_, err := New(bad, Options{})
		assert.Error(t, err, name)
	}
}

func TestKindsAndModes(t *testing.T) {
	for _, k := range []Kind{Storage, Proxy, Archive} {
		got, err := ParseKind(k.String())
		require.NoError(t, err)
		assert.Equal(t, k, got)
	}
	_, err := ParseKind("tape")
	assert.Equal(t, walberr.Usage, walberr.CodeOf(err))
	assert.Len(t, StopModes(), 3)
}

func TestNearHint(t *testing.T) {
	names := []string{"vol", "home", "database"}
	assert.Equal(t, "did you mean vol?", nearHint("vool", names))
	assert.Equal(t, "did you mean database?", nearHint("databse", names))
	assert.Equal(t, "there are database home vol", nearHint("xyzzy-plugh", names))
	assert.Equal(t, "there is none", nearHint("vol", nil))
}

func TestAwait(t *testing.T) {
	lost := &walberr.Error{Op: "get state", Server: "p0", Code: walberr.Unreachable, Found: "refused"}
	w := wait{op: "stop", server: "p0", volume: "vol", expected: "state Stopped", hint: "look there"}
	t.Run("looks at once and then less and less often", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			looks := 0
			err := await(context.Background(), time.Second, w, func(context.Context) (string, bool, error) {
				looks++
				return "", looks == 20, nil
			})
			require.NoError(t, err)
			assert.Equal(t, 20, looks)
		})
	})
	t.Run("a server may be away for the time of patience", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			err := await(context.Background(), 10*time.Second, w, func(context.Context) (string, bool, error) {
				if time.Since(began) < 9*time.Second {
					return "", false, lost
				}
				return "", true, nil
			})
			require.NoError(t, err)
			began = time.Now()
			err = await(context.Background(), 10*time.Second, w, func(context.Context) (string, bool, error) {
				return "", false, lost
			})
			require.ErrorIs(t, err, lost)
			assert.InDelta(t, 10, time.Since(began).Seconds(), 1)
		})
	})
	t.Run("other failures end it", func(t *testing.T) {
		boom := errors.New("boom")
		assert.ErrorIs(t, await(context.Background(), time.Minute, w, func(context.Context) (string, bool, error) {
			return "", false, boom
		}), boom)
	})
	t.Run("the deadline tells what was seen", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			err := await(ctx, time.Minute, w, func(context.Context) (string, bool, error) {
				return "state WaitForEmpty", false, nil
			})
			require.EqualError(t, err, "stop at p0 volume vol: timeout: still state WaitForEmpty; expected state Stopped (hint: look there)")
			assert.Equal(t, walberr.Timeout, walberr.CodeOf(err))
		})
	})
	t.Run("the caller may leave", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			why := errors.New("enough")
			err := await(ctx, time.Minute, w, func(context.Context) (string, bool, error) {
				cancel(why)
				return "", false, lost
			})
			require.ErrorIs(t, err, why)
			assert.Equal(t, walberr.Canceled, walberr.CodeOf(err))
		})
	})
}
