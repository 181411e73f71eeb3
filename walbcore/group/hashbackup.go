package group

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// hashBackup is a hash backup at work.
type hashBackup struct {
	backup
	infos map[string]wire.ArchiveInfo // how the other archives were registered
	ahead map[string]meta.Snap        // of these, those that have more than the primary, and up to where
}

// HashBackup brings a volume from a storage to the primary archive, which has
// it already: only what differs is sent, and the snapshots there stay. It is for
// a storage whose log was lost, or that takes the place of another one. It waits
// until a new clean snapshot is restorable at the primary.
//
// The storage must be SyncReady, Standby or Stopped (whose log is then thrown
// away); other storages Standby or Clear; the primary Archived. With the backup
// the log begins a new life, which the other archives of the volume cannot take
// by themselves: they are taken out of the proxies' lists meanwhile, and made
// synchronizing again afterwards, as by [Group.Synchronize]. Where that cannot be,
// the backup is good all the same, and the result names them, the reason, and
// what to do: an archive that has snapshots which the primary never got must be
// compared (replicate with resync).
//
// If it fails or is ended before the storage has become Target, what was before
// is brought back; a log that was thrown away is not.
func (g *Group) HashBackup(ctx context.Context, sx Server, vol string, opt FullBackupOptions) (BackupResult, error) {
	const op = "hash_backup"
	if err := firstError(arg(op, "sx", sx, Storage), volumeArg(op, vol)); err != nil {
		return BackupResult{}, err
	}
	a0, err := g.Layout().Primary()
	if err != nil {
		return BackupResult{}, err
	}
	began := time.Now()
	b := &hashBackup{
		backup: backup{g: g, op: op, command: "hash-bkp", via: fsm.StorageHashSync, sx: sx, a0: a0, vol: vol, opt: opt},
		infos:  map[string]wire.ArchiveInfo{}, ahead: map[string]meta.Snap{},
	}
	b.begin = func(ctx context.Context) error { return g.Client(sx).HashBackup(ctx, vol, opt.Bulk) }
	b.archive = b.mustHold
	b.between = []plan.Step{{
		Name: "see what " + a0.Name + " and the other archives have", Server: a0.Name, Do: b.lookArchives,
	}}
	warnings, err := g.run(ctx, opt.Timeout, plan.Spec{Op: op, Volume: vol, Build: b.build})
	if err != nil {
		return BackupResult{}, err
	}
	if b.elsewhere != "" && opt.NoWait {
		b.out.Warnings = append(b.out.Warnings, b.elsewhere)
	}
	b.out.Warnings = append(b.out.Warnings, warnings...)
	for _, name := range b.others {
		if reason := b.putBack(ctx, began, name); reason != "" {
			b.out.Warnings = append(b.out.Warnings, name+" no longer synchronizing: "+reason)
		}
	}
	b.out.Elapsed = time.Since(began)
	return b.out, nil
}

// mustHold refuses a primary that there is nothing to compare with.
func (b *hashBackup) mustHold(_ context.Context, state fsm.ArchiveState) error {
	if active(state) {
		return nil
	}
	hint := fmt.Sprintf("full_backup(%s, %q) makes the first one", b.sx.Name, b.vol)
	if state == fsm.ArchiveStopped {
		hint = fmt.Sprintf("start(%s, %q)", b.a0.Name, b.vol)
	}
	return refusal(b.op, b.a0, b.vol, walberr.BadState, "state "+state.String(), fsm.ArchiveArchived.String(), hint)
}

// lookArchives learns what the archives have when nothing is sent any more.
func (b *hashBackup) lookArchives(ctx context.Context) error {
	for _, f := range b.facts {
		maps.Copy(b.infos, f.archives)
	}
	w := wait{op: b.op, server: b.a0.Name, volume: b.vol, expected: "state Archived"}
	err := await(ctx, b.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		state, err := b.g.archiveState(ctx, b.a0, b.vol)
		return "state " + state.String(), state == fsm.ArchiveArchived, err
	})
	if err != nil {
		return err
	}
	latest, err := b.g.Client(b.a0).MetaSnap(ctx, b.vol, meta.MaxGid)
	if err != nil {
		return err
	}
	if b.had, err = b.g.Client(b.a0).Restorable(ctx, b.vol, true); err != nil {
		return err
	}
	for _, name := range b.others {
		ax, ok := b.inLayout(name)
		if !ok {
			continue
		}
		// One that does not answer is found out about when it is put back.
		snap, err := b.g.Client(ax).MetaSnap(ctx, b.vol, meta.MaxGid)
		if err == nil && snap.B != meta.MaxGid && snap.B > latest.B {
			b.ahead[name] = snap
		}
	}
	return nil
}

func (b *hashBackup) inLayout(name string) (Server, bool) {
	archives := b.g.Layout().Archives
	i := slices.IndexFunc(archives, func(s Server) bool { return s.Name == name })
	if i < 0 {
		return Server{}, false
	}
	return archives[i], true
}

// putBack makes an archive synchronizing again. If it is not, it says why.
func (b *hashBackup) putBack(ctx context.Context, began time.Time, name string) (reason string) {
	ax, ok := b.inLayout(name)
	if !ok {
		return "it is not in the layout, so it cannot be asked what it lacks"
	}
	again := fmt.Sprintf("; replicate(%s, %q, %s, true) makes it follow again", b.a0.Name, b.vol, name)
	if b.opt.NoWait {
		return "the backup was not waited for" + again
	}
	if snap, ok := b.ahead[name]; ok {
		return fmt.Sprintf("it has %s, which the primary never got; replicate(%s, %q, %s, true, {do_resync=true}) compares it",
			snap, b.a0.Name, b.vol, name)
	}
	timeout := b.opt.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	info := b.infos[name]
	sync := DefaultSyncOpt()
	sync.Compress, sync.Delay = info.Compress, time.Duration(info.SendDelay)*time.Second
	r, err := b.g.synchronize(ctx, b.op, b.a0, b.vol, ax, ReplicateOptions{Timeout: max(timeout-time.Since(began), time.Second), Sync: &sync}, true)
	if err != nil {
		return err.Error() + again
	}
	b.out.PutBack = append(b.out.PutBack, name)
	b.out.Warnings = append(b.out.Warnings, r.Warnings...)
	return ""
}
