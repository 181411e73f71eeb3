package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"walbsh/tests/daemons"
	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/vfs"
)

const (
	vol        = daemons.Volume
	volumeSize = 16 << 20 // bytes
	logSize    = 4 << 20  // bytes
)

// rig is a group of processes, each behind a relay, with an application on its
// volume.
type rig struct {
	t      *testing.T
	rnd    *rand.Rand
	group  *daemons.Group
	relays map[string]*simnet.Relay
	ops    *group.Group
	app    *application

	s0, p0, a0, a1 group.Server
}

func newRig(t *testing.T, seed uint64) *rig {
	t.Helper()
	r := &rig{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), relays: map[string]*simnet.Relay{}}
	var err error
	soon := []string{"-delay", "0", "-maxdelay", "1"}
	r.group, err = daemons.New(t.Context(), daemons.Options{
		Walbsh: walbsh, Dir: t.TempDir(), Size: volumeSize, LogSize: logSize,
		Args: map[string][]string{"s0": soon, "p0": soon},
		Advertise: func(id, addr string) (string, error) {
			relay, err := simnet.Listen(addr)
			if err != nil {
				return "", err
			}
			r.relays[id] = relay
			t.Cleanup(func() { assert.NoError(t, relay.Close()) })
			return relay.Addr(), nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, r.group.Close())
		if t.Failed() {
			t.Log(r.group.LogTails(40))
		}
	})
	require.NoError(t, r.group.StartAll(t.Context()))

	l := r.group.Layout()
	r.s0, r.p0, r.a0, r.a1 = l.Storages[0], l.Proxies[0], l.Archives[0], l.Archives[1]
	r.ops, err = group.New(l, group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.ops.Close(context.WithoutCancel(t.Context()))) })
	require.NoError(t, r.ops.InitStorage(t.Context(), r.s0, vol, daemons.Device))

	direct := client.New(r.group.ListenAddr("s0"), client.Options{ID: "application"})
	r.app = newApplication(volumeSize, seed, func(ctx context.Context) (*client.Volume, error) {
		return direct.OpenVolume(ctx, vol)
	})
	return r
}

// state is the volume's state at a server, which must answer.
func (r *rig) state(ctx context.Context, s group.Server) (string, error) {
	return r.ops.Client(s).State(ctx, vol)
}

// startStopped starts what an operation that was cut off left stopped, as its
// error tells an operator to do.
func (r *rig) startStopped(ctx context.Context, servers ...group.Server) error {
	for _, s := range servers {
		state, err := r.state(ctx, s)
		if err == nil && state == fsm.ProxyStopped.String() { // the word is the same for all kinds
			err = r.ops.Start(ctx, s, vol)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// snapshot takes a snapshot of which the content is known.
func (r *rig) snapshot(ctx context.Context) (meta.Gid, error) {
	return r.app.snapshot(ctx, func(ctx context.Context) (meta.Gid, error) { return r.ops.Client(r.s0).Snapshot(ctx, vol) })
}

// arrives takes a snapshot and waits until it has come to the archives by
// itself.
func (r *rig) arrives(ctx context.Context, archives ...group.Server) error {
	gid, err := r.snapshot(ctx)
	for _, ax := range archives {
		if err == nil {
			err = r.ops.WaitForRestorable(ctx, ax, vol, gid, untilLimit)
		}
	}
	return err
}

// passed counts the bytes of a protocol that went to a server through its
// relay.
func passed(records []simnet.Record, protocol string) (n int64) {
	for _, rec := range records {
		if rec.Protocol == protocol {
			n += rec.Bytes[simnet.ToServer]
		}
	}
	return n
}

// killDuring runs act, kills the victims when moment has come or act has ended,
// starts them again, and lets act succeed.
func (r *rig) killDuring(ctx context.Context, victims []string, moment func(ctx context.Context) error, act func(ctx context.Context) error) error {
	var work errgroup.Group
	acting, ended := context.WithCancel(ctx)
	var first error
	work.Go(func() error {
		defer ended()
		first = act(ctx)
		return nil
	})
	err := moment(acting)
	if err != nil && acting.Err() == nil {
		return errors.Join(err, work.Wait())
	}
	cutOff := acting.Err() == nil
	err = nil
	for _, id := range victims {
		err = errors.Join(err, r.group.Kill(id))
	}
	for _, id := range victims {
		if err == nil {
			err = r.group.Start(ctx, id)
		}
	}
	_ = work.Wait()
	if err != nil {
		return err
	}
	r.t.Logf("    killed in the middle: %v; %s", cutOff, outcome(first))
	if first == nil {
		return nil
	}
	return until(ctx, "again", func() error { return act(ctx) })
}

func outcome(err error) string {
	if err == nil {
		return "it succeeded all the same"
	}
	return fmt.Sprintf("it failed: %.200s", strings.ReplaceAll(err.Error(), "\n", "; "))
}

// checkSnapshots restores every known snapshot at an archive and compares.
func (r *rig) checkSnapshots(ctx context.Context, ax group.Server) {
	r.t.Helper()
	list, err := r.ops.GetRestorable(ctx, ax, vol, group.ExplicitOnly)
	require.NoError(r.t, err)
	there := map[meta.Gid]bool{}
	for _, e := range list {
		there[e.Gid] = true
	}
	for gid := range r.app.images {
		require.True(r.t, there[gid], "snapshot %d is not restorable at %s, which has %v", gid, ax, list)
		restored, err := r.ops.Restore(ctx, ax, vol, gid, untilLimit)
		require.NoError(r.t, err)
		require.NoError(r.t, r.app.checkImage(gid, restored.Path))
		require.NoError(r.t, r.ops.DelRestored(ctx, ax, vol, gid))
	}
	r.t.Logf("    %d snapshots are right at %s", len(r.app.images), ax)
}

// checkQueues waits until the proxy has delivered everything.
func (r *rig) checkQueues(ctx context.Context) {
	r.t.Helper()
	err := until(ctx, "drain the proxy", func() error {
		st, err := r.ops.Status(ctx, vol)
		if err != nil {
			return err
		}
		for _, reg := range st.Proxies[0].Archives {
			if reg.Waiting > 0 || reg.SendError {
				return fmt.Errorf("%d diffs wait for %s, gave up: %v", reg.Waiting, reg.Name, reg.SendError)
			}
		}
		return st.Proxies[0].Err
	})
	require.NoError(r.t, err)
	entries, err := os.ReadDir(filepath.Join(r.p0.Dir, vol, "received"))
	require.NoError(r.t, err)
	require.Empty(r.t, entries, "diffs that belong to no archive any more")
}

// checkGarbage looks for temporary files of all servers.
func (r *rig) checkGarbage() {
	r.t.Helper()
	for _, id := range daemons.IDs() {
		err := filepath.WalkDir(filepath.Join(r.group.Dir(), id), func(path string, e fs.DirEntry, err error) error {
			if err == nil && (vfs.IsTempName(e.Name()) || strings.HasSuffix(e.Name(), "_tmp") || e.Name() == "full_repl_state") {
				err = fmt.Errorf("%s was left behind", path)
			}
			return err
		})
		require.NoError(r.t, err)
	}
}

// victims chooses one of the servers to kill; now and then a second one dies
// with it, whichever that is.
func (r *rig) victims(from []string) []string {
	ids := []string{from[r.rnd.IntN(len(from))]}
	if r.rnd.IntN(4) == 0 {
		all := daemons.IDs()
		if other := all[r.rnd.IntN(len(all))]; other != ids[0] {
			ids = append(ids, other)
		}
	}
	return ids
}

// within gives a moment: when n bytes of a protocol went to a server.
func (r *rig) within(id, protocol string, n int64) func(ctx context.Context) error {
	relay := r.relays[id]
	relay.Forget()
	before := passed(relay.Records(), protocol)
	return func(ctx context.Context) error {
		return relay.Await(ctx, func(records []simnet.Record) bool { return passed(records, protocol)-before >= n })
	}
}

// whileRestored gives a moment: when a part of a restored image is written.
func whileRestored(path string, n int64) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			var st unix.Stat_t
			if unix.Stat(path+"_tmp", &st) == nil && st.Blocks*512 >= n {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}
