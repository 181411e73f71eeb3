package fault

import (
	"context"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/group"
	"walbsh/walbcore/wire"
)

// TestKillMatrix kills a server, or two, in each of the things that a group does,
// while an application keeps writing: in full backup, log shipping, delivery
// of diffs, replication from nothing and of what is new, restore, and while an
// archive begins to follow. Afterwards every snapshot of which the content is
// known can be restored at both archives.
//
// $WALBSH_FAULT_CYCLES says how often, $WALBSH_FAULT_SEED repeats a run as far
// as moments can be repeated.
func TestKillMatrix(t *testing.T) {
	seed := number(t, "WALBSH_FAULT_SEED", uint64(time.Now().UnixNano()))
	cycles := number(t, "WALBSH_FAULT_CYCLES", 1)
	t.Logf("WALBSH_FAULT_SEED=%d", seed)
	r := newRig(t, seed)
	ctx := t.Context()
	require.NoError(t, r.app.fill(ctx, 0, volumeSize/2))
	writing, stop := context.WithCancel(ctx)
	var work errgroup.Group
	work.Go(func() error { return r.app.run(writing) })
	defer func() {
		stop()
		require.NoError(t, work.Wait())
		t.Logf("%d writes, %d of them cut off", r.app.writes, r.app.repairs)
	}()
	for cycle := range cycles {
		t.Logf("cycle %d", cycle+1)
		for _, p := range phases {
			victims := r.victims(p.involved)
			t.Logf("  %s, victims %s", p.name, victims)
			require.NoError(t, p.run(r, ctx, victims), "%s, victims %s", p.name, victims)
			require.NoError(t, until(ctx, "a snapshot comes to a0", func() error { return r.arrives(ctx, r.a0) }), "after %s", p.name)
		}
		require.NoError(t, r.app.check(ctx))
		require.NoError(t, r.replicate(ctx))
		r.checkSnapshots(ctx, r.a0)
		r.checkSnapshots(ctx, r.a1)
	}
	stop()
	require.NoError(t, work.Wait())
	require.NoError(t, r.arrives(ctx, r.a0))
	r.checkQueues(ctx)
	r.checkGarbage()
	overflow, err := r.ops.Client(r.s0).IsOverflow(ctx, vol)
	require.NoError(t, err)
	require.False(t, overflow)
}

// number reads a number from the environment.
func number(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return def
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// phase is something that a group does and in which a server is killed.
type phase struct {
	name     string
	involved []string
	run      func(r *rig, ctx context.Context, victims []string) error
}

var phases = []phase{
	{"full backup", []string{"s0", "p0", "a0"}, (*rig).inFullBackup},
	{"log shipping", []string{"s0", "p0"}, (*rig).inLogShipping},
	{"delivery of diffs", []string{"p0", "a0"}, (*rig).inDelivery},
	{"replication from nothing", []string{"a0", "a1"}, (*rig).inFirstReplication},
	{"replication of what is new", []string{"a0", "a1"}, (*rig).inLaterReplication},
	{"restore", []string{"a0"}, (*rig).inRestore},
	{"synchronize", []string{"s0", "p0", "a0", "a1"}, (*rig).inSynchronize},
	{"delivery to two archives", []string{"p0", "a0", "a1"}, (*rig).inDeliveryToBoth},
}

// inFullBackup begins a new lineage: what archives and log had is thrown away.
func (r *rig) inFullBackup(ctx context.Context, victims []string) error {
	for _, s := range []group.Server{r.s0, r.a0, r.a1} {
		if err := r.throwAway(ctx, s); err != nil {
			return err
		}
	}
	r.app.forget()
	moment := r.within("a0", wire.ProtoFullSync, r.rnd.Int64N(volumeSize/2))
	return r.killDuring(ctx, victims, moment, r.fullBackup)
}

// throwAway brings a volume to where a full backup can begin.
func (r *rig) throwAway(ctx context.Context, s group.Server) error {
	state, err := r.state(ctx, s)
	switch {
	case err != nil:
		return err
	case state == fsm.StorageTarget.String(), state == fsm.ArchiveArchived.String(), state == fsm.ArchiveWdiffRecv.String():
		if err := r.ops.Stop(ctx, s, vol, client.StopForce); err != nil {
			return err
		}
		return r.ops.Reset(ctx, s, vol)
	case state == fsm.StorageStopped.String():
		return r.ops.Reset(ctx, s, vol)
	}
	return nil
}

// fullBackup makes a full backup, or sees that it was made.
func (r *rig) fullBackup(ctx context.Context) error {
	state, err := r.state(ctx, r.s0)
	if err != nil {
		return err
	}
	if state == fsm.StorageTarget.String() {
		if err := r.startStopped(ctx, r.p0, r.a0); err != nil {
			return err
		}
		return r.arrives(ctx, r.a0)
	}
	// The archive may have the image of a backup of which the storage did not
	// see the end.
	if err := r.throwAway(ctx, r.a0); err != nil {
		return err
	}
	if err := r.startStopped(ctx, r.p0); err != nil {
		return err
	}
	_, err = r.ops.FullBackup(ctx, r.s0, vol, group.FullBackupOptions{Timeout: untilLimit})
	return err
}

func (r *rig) inLogShipping(ctx context.Context, victims []string) error {
	moment := r.within("p0", wire.ProtoWlogTransfer, r.rnd.Int64N(1<<20))
	return r.killDuring(ctx, victims, moment, func(ctx context.Context) error { return r.busy(ctx, r.a0) })
}

func (r *rig) inDelivery(ctx context.Context, victims []string) error {
	moment := r.within("a0", wire.ProtoWdiffTransfer, r.rnd.Int64N(1<<20))
	return r.killDuring(ctx, victims, moment, func(ctx context.Context) error { return r.busy(ctx, r.a0) })
}

// busy has a good deal of data on its way to archives.
func (r *rig) busy(ctx context.Context, archives ...group.Server) error {
	if err := r.app.fill(ctx, r.rnd.Int64N(volumeSize/2>>20)<<20, 2<<20); err != nil {
		return err
	}
	return r.arrives(ctx, archives...)
}

// replicate brings a1 up to a0.
func (r *rig) replicate(ctx context.Context) error {
	if err := r.startStopped(ctx, r.a0, r.a1); err != nil {
		return err
	}
	_, err := r.ops.ReplicateOnce(ctx, r.a0, vol, r.a1, group.ReplicateOptions{Timeout: untilLimit})
	return err
}

func (r *rig) inFirstReplication(ctx context.Context, victims []string) error {
	if err := r.throwAway(ctx, r.a1); err != nil {
		return err
	}
	moment := r.within("a1", wire.ProtoReplSync, r.rnd.Int64N(volumeSize/2))
	return r.killDuring(ctx, victims, moment, r.replicate)
}

func (r *rig) inLaterReplication(ctx context.Context, victims []string) error {
	for range 3 {
		if err := r.busy(ctx, r.a0); err != nil {
			return err
		}
	}
	moment := r.within("a1", wire.ProtoReplSync, r.rnd.Int64N(6<<20))
	return r.killDuring(ctx, victims, moment, r.replicate)
}

func (r *rig) inRestore(ctx context.Context, victims []string) error {
	list, err := r.ops.GetRestorable(ctx, r.a0, vol, group.ExplicitOnly)
	if err != nil {
		return err
	}
	gid := list[len(list)-1].Gid
	at, err := r.ops.GetRestoredPath(ctx, r.a0, vol, gid)
	if err != nil {
		return err
	}
	moment := whileRestored(at.Path, r.rnd.Int64N(volumeSize/2))
	err = r.killDuring(ctx, victims, moment, func(ctx context.Context) error {
		if _, err := os.Stat(at.Path); err == nil {
			return nil // the restore ended, though nobody saw it
		}
		_, err := r.ops.Restore(ctx, r.a0, vol, gid, untilLimit)
		return err
	})
	if err != nil {
		return err
	}
	if r.app.images[gid] != nil {
		if err := r.app.checkImage(gid, at.Path); err != nil {
			return err
		}
	}
	return r.ops.DelRestored(ctx, r.a0, vol, gid)
}

// synchronize lets a1 follow.
func (r *rig) synchronize(ctx context.Context) error {
	if err := r.startStopped(ctx, r.p0, r.a0, r.a1); err != nil {
		return err
	}
	_, err := r.ops.Synchronize(ctx, r.a0, vol, r.a1, group.SynchronizeOptions{Timeout: untilLimit})
	return err
}

func (r *rig) inSynchronize(ctx context.Context, victims []string) error {
	if err := r.busy(ctx, r.a0); err != nil {
		return err
	}
	moment := r.within("a1", wire.ProtoReplSync, r.rnd.Int64N(2<<20))
	if err := r.killDuring(ctx, victims, moment, r.synchronize); err != nil {
		return err
	}
	return r.arrives(ctx, r.a1)
}

func (r *rig) inDeliveryToBoth(ctx context.Context, victims []string) error {
	moment := r.within("a1", wire.ProtoWdiffTransfer, r.rnd.Int64N(1<<20))
	err := r.killDuring(ctx, victims, moment, func(ctx context.Context) error { return r.busy(ctx, r.a0, r.a1) })
	if err != nil {
		return err
	}
	return until(ctx, "stop synchronizing", func() error {
		_, err := r.ops.StopSynchronizing(ctx, r.a1, vol)
		return err
	})
}
