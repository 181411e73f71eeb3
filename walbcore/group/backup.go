package group

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// InitStorage makes a volume known to a storage, on the walb device at path
// ("/dev/walb/NAME"), and brings it to Standby, where its log is thrown away
// until a backup begins.
func (g *Group) InitStorage(ctx context.Context, sx Server, vol, path string) error {
	const op = "init_storage"
	if err := firstError(arg(op, "sx", sx, Storage), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		state, err := g.storageState(ctx, sx, vol)
		if err == nil && state != fsm.StorageClear {
			err = refusal(op, sx, vol, walberr.BadState, "state "+state.String(), "Clear", "the volume is there already")
		}
		if err != nil {
			return nil, err
		}
		return plan.New(op, vol).Then(plan.Step{
			Name: "init the volume at " + sx.Name, Server: sx.Name,
			Do:       func(ctx context.Context) error { return g.Client(sx).InitVol(ctx, vol, path) },
			UndoName: "clear the volume at " + sx.Name,
			Undo:     func(ctx context.Context) error { return g.clearIfSyncReady(ctx, sx, vol) },
		}).Then(g.standbyStep(sx, vol)), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

// clearIfSyncReady forgets a storage volume that was only initialized.
func (g *Group) clearIfSyncReady(ctx context.Context, sx Server, vol string) error {
	state, err := g.storageState(ctx, sx, vol)
	if err != nil || state != fsm.StorageSyncReady {
		return err
	}
	return g.Client(sx).ClearVol(ctx, vol)
}

// standbyStep brings a SyncReady volume to Standby.
func (g *Group) standbyStep(sx Server, vol string) plan.Step {
	return plan.Step{
		Name: "start " + sx.Name + " as standby", Server: sx.Name,
		Do:     func(ctx context.Context) error { return g.Client(sx).Start(ctx, vol, client.RoleStandby) },
		Verify: func(ctx context.Context) error { return g.awaitStorage(ctx, "start", sx, vol, fsm.StorageStandby) },
	}
}

// awaitStorage waits until a storage's volume has left its temporary states,
// and fails unless it is in the wanted one then.
func (g *Group) awaitStorage(ctx context.Context, op string, sx Server, vol string, want fsm.StorageState) error {
	w := wait{op: op, server: sx.Name, volume: vol, expected: "state " + want.String()}
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		state, err := g.storageState(ctx, sx, vol)
		if err == nil && state.Steady() && state != want {
			err = refusal(op, sx, vol, walberr.BadState, "state "+state.String(), "state "+want.String(),
				"the log of "+sx.Name+" says why")
		}
		return "state " + state.String(), state == want, err
	})
}

// refusal makes the error of a fact at a server.
func refusal(op string, s Server, vol string, code walberr.Code, found, expected, hint string) error {
	return &walberr.Error{
		Op: op, Server: s.Name, Volume: vol, Code: code, Found: found, Expected: expected, Hint: hint,
	}
}

const backupOp = "full_backup"

// backup is a full or hash backup at work.
type backup struct {
	g       *Group
	op      string
	command string           // of the storage
	via     fsm.StorageState // of the storage, while it runs
	begin   func(ctx context.Context) error
	archive func(ctx context.Context, state fsm.ArchiveState) error // judges the primary
	sx, a0  Server
	vol     string
	opt     FullBackupOptions
	facts   []proxyFact
	changes []*proxyChange
	state   fsm.StorageState  // of the storage, before
	fresh   bool              // the archive did not know the volume before
	others  []string          // archives that were synchronizing and will not be
	had     []meta.Restorable // what the primary could restore before
	between []plan.Step       // done while the proxies stand still
	passed  bool              // the backup reached its end though the plan did not see it

	elsewhere string // where the storage backs up to if not to the primary
	out       BackupResult
}

// FullBackup copies a whole volume from a storage to the primary archive, and
// waits until a clean snapshot is restorable there. Everything that can be known
// to fail is refused first.
//
// The storage must be SyncReady, Standby or Stopped (whose log is then thrown
// away); other storages Standby or Clear; the primary Clear (it is
// initialized) or SyncReady. The primary becomes the only archive of the
// volume at all proxies: with a full backup a new lineage begins, which
// archives of the old one cannot follow, and the result names them.
//
// If it fails or is ended before the storage has become Target, what was
// before is brought back; a log that was thrown away is not. Later failures
// leave the backup as it is.
func (g *Group) FullBackup(ctx context.Context, sx Server, vol string, opt FullBackupOptions) (BackupResult, error) {
	if err := firstError(arg(backupOp, "sx", sx, Storage), volumeArg(backupOp, vol)); err != nil {
		return BackupResult{}, err
	}
	a0, err := g.Layout().Primary()
	if err != nil {
		return BackupResult{}, err
	}
	began := time.Now()
	b := &backup{g: g, op: backupOp, command: "full-bkp", via: fsm.StorageFullSync, sx: sx, a0: a0, vol: vol, opt: opt}
	b.begin = func(ctx context.Context) error { return g.Client(sx).FullBackup(ctx, vol, opt.Bulk) }
	b.archive = b.mustBeEmpty
	warnings, err := g.run(ctx, opt.Timeout, plan.Spec{Op: b.op, Volume: vol, Build: b.build})
	if err != nil {
		return BackupResult{}, err
	}
	b.out.Elapsed = time.Since(began)
	if len(b.others) > 0 {
		b.out.Warnings = append(b.out.Warnings, strings.Join(b.others, ", ")+
			" no longer synchronizing: their data belongs to the backup before")
	}
	if opt.NoWait && b.elsewhere != "" {
		b.out.Warnings = append(b.out.Warnings, b.elsewhere)
	}
	b.out.Warnings = append(b.out.Warnings, warnings...)
	return b.out, nil
}

func (b *backup) build(ctx context.Context) (*plan.Plan, error) {
	if err := b.look(ctx); err != nil {
		return nil, err
	}
	p := plan.New(b.op, b.vol)
	if b.fresh {
		p.Then(b.initArchiveStep())
	}
	stopAndChange(p, b.changes)
	p.Then(b.between...)
	startAll(p, b.changes)
	switch b.state {
	case fsm.StorageStandby:
		p.Then(b.leaveStandbyStep())
	case fsm.StorageStopped:
		p.Then(b.resetStep())
	}
	if b.opt.NoWait {
		return p.Then(plan.Step{
			Name: "begin " + b.command + " at " + b.sx.Name, Server: b.sx.Name, Do: b.begin, Final: true,
		}), nil
	}
	return p.Then(plan.Step{
		Name: b.command + " from " + b.sx.Name + " to " + b.a0.Name, Server: b.sx.Name, Final: true,
		Do: b.run, UndoName: "cancel the backup", Undo: b.cancel,
	}).Then(plan.Step{
		Name: "wait for a clean snapshot at " + b.a0.Name, Server: b.a0.Name, Do: b.awaitClean,
	}), nil
}

// look refuses what cannot succeed and learns what was before.
func (b *backup) look(ctx context.Context) error {
	if err := b.lookStorages(ctx); err != nil {
		return err
	}
	state, err := b.g.archiveState(ctx, b.a0, b.vol)
	if err != nil {
		return err
	}
	if err := b.archive(ctx, state); err != nil {
		return err
	}
	if b.facts, err = b.g.lookProxies(ctx, b.op, b.vol); err != nil {
		return err
	}
	others := map[string]bool{}
	runs := false
	for _, f := range b.facts {
		for name := range f.archives {
			if name != b.a0.Name {
				others[name] = true
			}
		}
		// What waits for the primary is of an older life of the log; an original loses diffs that meet it.
		c := b.g.changeTo(b.vol, f, client.StopForce, map[string]wire.ArchiveInfo{
			b.a0.Name: registration(f, b.a0, b.opt.Sync),
		})
		c.renew = b.a0.Name
		c.run = f.state != fsm.ProxyStopped
		c.keep = func() bool { return b.passed }
		runs = runs || c.run
		b.changes = append(b.changes, c)
	}
	b.others = slices.Sorted(maps.Keys(others))
	if !runs {
		return refusal(b.op, b.facts[0].server, b.vol, walberr.BadState, "all proxies are stopped for the volume", "one that runs",
			fmt.Sprintf("start(%s, %q)", b.facts[0].server.Name, b.vol))
	}
	return nil
}

// mustBeEmpty refuses a primary that holds something: it says what would be
// lost, since only the operator may throw it away.
func (b *backup) mustBeEmpty(ctx context.Context, state fsm.ArchiveState) error {
	switch state {
	case fsm.ArchiveClear:
		b.fresh = true
		return nil
	case fsm.ArchiveSyncReady:
		return nil
	}
	found := "state " + state.String()
	if list, err := b.g.Client(b.a0).Restorable(ctx, b.vol, true); err == nil && len(list) > 0 {
		found += fmt.Sprintf(", with %s to gid %d", count(len(list), "snapshot"), list[len(list)-1].Gid)
	}
	return refusal(b.op, b.a0, b.vol, walberr.BadState, found, "Clear or SyncReady",
		fmt.Sprintf("it holds a backup already; hash_backup(%[3]s, %[2]q) refreshes it, stop(%[1]s, %[2]q) and reset(%[1]s, %[2]q) throw it away",
			b.a0.Name, b.vol, b.sx.Name))
}

// lookStorages refuses a storage that cannot begin, and others that would send
// logs of the volume, too.
func (b *backup) lookStorages(ctx context.Context) error {
	storages := b.g.Layout().Storages
	if !slices.Contains(storages, b.sx) {
		storages = append(slices.Clone(storages), b.sx)
	}
	states, err := each(ctx, storages, func(ctx context.Context, sx Server) (fsm.StorageState, error) {
		return b.g.storageState(ctx, sx, b.vol)
	})
	if err != nil {
		return err
	}
	for i, state := range states {
		switch {
		case storages[i] != b.sx:
			if state != fsm.StorageStandby && state != fsm.StorageClear {
				return refusal(b.op, storages[i], b.vol, walberr.BadState, "state "+state.String(), "Standby or Clear",
					"only one storage may be the target of a volume")
			}
		case state == fsm.StorageClear:
			return refusal(b.op, b.sx, b.vol, walberr.NotFound, b.sx.Name+" does not know this volume", "",
				fmt.Sprintf("init_storage(%s, %q, \"/dev/walb/NAME\") first", b.sx.Name, b.vol))
		case state == fsm.StorageSyncReady, state == fsm.StorageStandby, state == fsm.StorageStopped:
			b.state = state
		default:
			return refusal(b.op, b.sx, b.vol, walberr.BadState, "state "+state.String(), "SyncReady, Standby or Stopped",
				fmt.Sprintf("stop(%s, %q) first if it is the target", b.sx.Name, b.vol))
		}
	}
	return b.learnTarget(ctx)
}

// learnTarget notes where the storage sends its backups when that is not the
// primary of the layout: its own configuration decides.
func (b *backup) learnTarget(ctx context.Context) error {
	lines, err := b.g.Client(b.sx).Status(ctx, "")
	if err != nil {
		return err
	}
	i := slices.Index(lines, "-----Archive-----")
	if i < 0 || i+1 >= len(lines) {
		return nil
	}
	host, ok := strings.CutPrefix(lines[i+1], "host ")
	if ok && !strings.HasSuffix(host, fmt.Sprintf(":%d", b.a0.Port)) {
		b.elsewhere = fmt.Sprintf("%s backs up to the archive at %s, the layout has %s at %s",
			b.sx.Name, host, b.a0.Name, b.a0.Addr())
	}
	return nil
}

func (b *backup) initArchiveStep() plan.Step {
	return b.g.initArchiveStep(b.op, b.a0, b.vol, func(context.Context) (bool, error) { return b.passed, nil })
}

// leaveStandbyStep brings the storage from Standby to SyncReady.
func (b *backup) leaveStandbyStep() plan.Step {
	standby := fsm.StorageStandby.String()
	return plan.Step{
		Name: "stop " + b.sx.Name, Server: b.sx.Name,
		Do: func(ctx context.Context) error {
			return b.g.stopVolume(ctx, b.sx, b.vol, client.StopGraceful, standby, fsm.StorageSyncReady.String())
		},
		UndoName: "start " + b.sx.Name + " as standby again",
		Undo: func(ctx context.Context) error {
			return b.unlessPassed(ctx, func(ctx context.Context) error { return b.g.undoStop(ctx, b.sx, b.vol, standby) })
		},
	}
}

// resetStep brings the storage from Stopped to SyncReady; its log is lost.
func (b *backup) resetStep() plan.Step {
	return plan.Step{
		Name: "reset " + b.sx.Name, Server: b.sx.Name,
		Do: func(ctx context.Context) error { return b.g.Client(b.sx).ResetVol(ctx, b.vol) },
	}
}

// run begins the backup and waits until the storage is the target.
func (b *backup) run(ctx context.Context) error {
	if err := b.begin(ctx); err != nil {
		return err
	}
	began := time.Now()
	w := wait{op: b.command, server: b.sx.Name, volume: b.vol, expected: "state Target"}
	return await(ctx, b.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		state, err := b.g.storageState(ctx, b.sx, b.vol)
		switch {
		case err != nil:
			return "", false, err
		case state == fsm.StorageTarget:
			return "", true, nil
		case state == fsm.StorageSyncReady && time.Since(began) > b.g.settle:
			err = refusal(b.command, b.sx, b.vol, walberr.Unavailable, "the backup ended and the storage is SyncReady again",
				"state Target", fmt.Sprintf("the logs of %s and %s say why; call again", b.sx.Name, b.a0.Name))
		case state == b.via:
			b.progress(ctx)
		}
		return "state " + state.String(), false, err
	})
}

// progress reports how far the scan is. What cannot be learned is left out.
func (b *backup) progress(ctx context.Context) {
	done, err := b.g.Client(b.a0).Progress(ctx, b.vol)
	if err != nil || done == 0 {
		return
	}
	total, err := b.g.Client(b.a0).VolSize(ctx, b.vol)
	if err == nil {
		plan.Report(ctx, plan.Bytes{Done: done.Bytes(), Total: total.Bytes()})
	}
}

// cancel ends a running backup, so that what was before can be brought back. A
// backup that has ended well in the meantime stays.
func (b *backup) cancel(ctx context.Context) error {
	sent := false
	w := wait{op: "cancel", server: b.sx.Name, volume: b.vol, expected: "state SyncReady"}
	began := time.Now()
	return await(ctx, b.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		state, err := b.g.storageState(ctx, b.sx, b.vol)
		switch {
		case err != nil:
			return "", false, err
		case state == fsm.StorageTarget:
			b.passed = true
			return "", true, nil
		case state == fsm.StorageSyncReady && time.Since(began) > b.g.settle:
			return "", true, nil
		case state == b.via && !sent:
			sent = true
			err = b.g.Client(b.sx).Stop(ctx, b.vol, client.StopForce)
		}
		return "state " + state.String(), false, err
	})
}

// unlessPassed runs a compensation unless the backup ended well after all.
func (b *backup) unlessPassed(ctx context.Context, undo func(ctx context.Context) error) error {
	if b.passed {
		return nil
	}
	return undo(ctx)
}

// isNew reports whether the newest snapshot of a list was not there before.
func (b *backup) isNew(list []meta.Restorable) bool {
	if len(list) == 0 || len(b.had) == 0 {
		return len(list) > 0
	}
	return list[len(list)-1].Gid > b.had[len(b.had)-1].Gid
}

// awaitClean waits until the archive has the first clean snapshot of the backup.
func (b *backup) awaitClean(ctx context.Context) error {
	if err := b.g.kickProxies(ctx, b.nowRunning(), b.vol, b.a0); err != nil {
		plan.Warn(ctx, err)
	}
	w := wait{op: b.op, server: b.a0.Name, volume: b.vol, expected: "a restorable snapshot", hint: b.elsewhere}
	if w.hint == "" {
		w.hint = "the backup itself is done; get_restorable shows when its snapshot is there"
	}
	next := time.Now().Add(nudge)
	return await(ctx, b.g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		list, err := b.g.Client(b.a0).Restorable(ctx, b.vol, false)
		if err != nil || !b.isNew(list) {
			if time.Now().After(next) {
				// The storage may have found no proxy before they were started, and waits for its time.
				next = time.Now().Add(nudge)
				_ = b.g.Kick(ctx, b.sx)
				_ = b.g.kickProxies(ctx, b.nowRunning(), b.vol, b.a0)
			}
			return "no new snapshot", false, err
		}
		b.out.Gid, b.out.Waited = list[len(list)-1].Gid, true
		return "", true, nil
	})
}

// nowRunning lists the proxies that run after the changes.
func (b *backup) nowRunning() []proxyFact {
	var out []proxyFact
	for _, c := range b.changes {
		if c.run {
			out = append(out, proxyFact{server: c.before.server, state: fsm.ProxyStarted})
		}
	}
	return out
}
