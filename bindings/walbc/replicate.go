package walbc

import (
	"context"
	"fmt"
	"time"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

// Copied is how scripts see a copy between archives: a record with these
// fields, which prints as one line.
type Copied struct {
	Gid      lua.LValue // snapshot that was asked for
	Sent     float64    // bytes that the source sent to the network; 0 where the source does not count
	Rounds   int        // transfers of which the copy consisted
	ElapsedS float64    // seconds from the call to the proof of success
	Joined   bool       // a copy that ran already was waited for
	text     string
}

// String prints one line, for people.
func (c Copied) String() string { return c.text }

// copied converts a result. The gid becomes a Lua value where a state is there.
type copied group.Copy

// LuaValue makes the record.
func (c copied) LuaValue(L *lua.LState) (lua.LValue, error) {
	return kit.Record(L, Copied{
		Gid: kit.U64(L, uint64(c.Gid)), Sent: float64(c.Sent), Rounds: c.Rounds,
		ElapsedS: c.Elapsed.Seconds(), Joined: c.Joined, text: group.Copy(c).String(),
	})
}

// Synchronized is how scripts see what synchronize and replicate did.
type Synchronized struct {
	Gid         lua.LValue // snapshot at which the last copy ended
	Sent        float64    // bytes that the source sent while the proxies stood still, or in the only copy
	StandstillS float64    // seconds that the proxies stood still at most
	ElapsedS    float64    // seconds of the whole
	Already     bool       // it was synchronizing before, so no proxy had to stop
	text        string
}

// String prints one line, for people.
func (s Synchronized) String() string { return s.text }

type synchronized group.SyncResult

// LuaValue makes the record.
func (r synchronized) LuaValue(L *lua.LState) (lua.LValue, error) {
	res := group.SyncResult(r)
	return kit.Record(L, Synchronized{
		Gid: kit.U64(L, uint64(res.Copy.Gid)), Sent: float64(res.Copy.Sent), StandstillS: res.Standstill().Seconds(),
		ElapsedS: res.Elapsed.Seconds(), Already: res.Already, text: res.String(),
	})
}

// syncOptType is a table that tells how data goes to an archive.
var syncOptType = kit.Type{
	Name: "a table of compress, delay, max_merge, bulk",
	From: func(v lua.LValue) (any, error) {
		t, ok := v.(*lua.LTable)
		if !ok {
			return nil, kit.Mismatch("a table of compress, delay, max_merge, bulk", v)
		}
		opt := group.DefaultSyncOpt()
		var err error
		t.ForEach(func(k, v lua.LValue) {
			if err == nil {
				err = setSyncOpt(&opt, k.String(), v)
			}
		})
		return opt, err
	},
}

func setSyncOpt(opt *group.SyncOpt, name string, v lua.LValue) error {
	take := func(t kit.Type) (any, error) {
		value, err := t.From(v)
		if err != nil {
			return nil, fmt.Errorf("%s %w", name, err)
		}
		return value, nil
	}
	names := []string{"compress", "delay", "max_merge", "bulk"}
	switch name {
	case "compress":
		text, err := take(kit.String)
		if err != nil {
			return err
		}
		opt.Compress, err = compress.ParseOpt(text.(string))
		return err
	case "delay":
		d, err := take(kit.Seconds)
		if err != nil {
			return err
		}
		opt.Delay = d.(time.Duration)
	case "max_merge", "bulk":
		n, err := take(kit.Size)
		if err != nil {
			return err
		}
		if name == "bulk" {
			opt.Bulk = n.(int64)
		} else {
			opt.MaxMerge = n.(int64)
		}
	default:
		return kit.NoSuchName("a table of compress, delay, max_merge, bulk", name, names)
	}
	return nil
}

func syncOptParam() kit.Param {
	return kit.Param{
		Name: "sync_opt", PyName: "syncOpt", Type: syncOptType,
		Doc: "how data goes to the archive, for example {compress=\"zstd:3:2\", delay=10}; unset leaves what is",
	}
}

// syncOpt reads sync_opt.
func syncOpt(a kit.Args) *group.SyncOpt {
	if !a.Given("sync_opt") {
		return nil
	}
	opt := kit.Get[group.SyncOpt](a, "sync_opt")
	return &opt
}

func resyncParam() kit.Param {
	return kit.Param{
		Name: "do_resync", PyName: "doResync", Type: kit.Bool, Default: false,
		Doc: "let the destination overwrite its image by comparison, also one of another full backup; its own snapshots are lost then",
	}
}

func dontMergeParam() kit.Param {
	return kit.Param{Name: "dont_merge", PyName: "dontMerge", Type: kit.Bool, Default: false, Doc: "send every diff as it is"}
}

// replicateOptions reads the options that the replicate verbs share.
func replicateOptions(a kit.Args, withGid bool) group.ReplicateOptions {
	opt := group.ReplicateOptions{
		Resync: kit.Get[bool](a, "do_resync"), DontMerge: kit.Get[bool](a, "dont_merge"), Sync: syncOpt(a),
	}
	if withGid && a.Given("gid") {
		g := gid(a)
		opt.Gid = &g
	}
	return opt
}

func optionalGidParam() kit.Param {
	return kit.Param{
		Name: "gid", PyName: "gid", Type: kit.Uint64,
		Doc: "snapshot that the destination shall reach at least; unset means the newest of the source",
	}
}

// replication lists the verbs that copy between archives.
func (s *Session) replication() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "replicate_once",
			Summary: "copy a volume's archive data to another archive, once",
			Doc: "Afterwards every snapshot that could be restored at the source when the call began can be restored at the " +
				"destination, which need not have seen the volume before. Called again it brings only what is new. " +
				"Ctrl-C or the timeout ends the wait; the copy goes on at the archives and the next call joins it.",
			Params: []kit.Param{sourceParam(), volParam(), destParam(), timeoutParam(), resyncParam(), dontMergeParam(), syncOptParam(), optionalGidParam()},
			Tier:   kit.Safe,
			Result: "the gid that was replicated, and a record of sent, rounds, elapsed_s, joined",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				opt := replicateOptions(a, true)
				opt.Timeout = timeout(a)
				c, err := g.ReplicateOnce(ctx, at(a, "a_src"), vol(a), at(a, "a_dst"), opt)
				if err != nil {
					return nil, err
				}
				s.warn(c.Warnings)
				return kit.Values{c.Gid, copied(c)}, nil
			},
		},
		{
			Name:    "replicate_once_nbk",
			Summary: "begin to copy a volume's archive data to another archive, and come back at once",
			Doc:     "The copy runs at the archives. walbc.wait_for_replicated waits for it; so does walbc.replicate_once, which joins it.",
			Params:  []kit.Param{sourceParam(), volParam(), destParam(), resyncParam(), dontMergeParam(), syncOptParam(), optionalGidParam()},
			Tier:    kit.Safe,
			Result:  "the gid that will be replicated",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.ReplicateOnceNbk(ctx, at(a, "a_src"), vol(a), at(a, "a_dst"), replicateOptions(a, true))
			},
		},
		{
			Name:    "wait_for_replicated",
			Summary: "wait for a copy that walbc.replicate_once_nbk began",
			Doc:     "It begins nothing, and fails unless the destination has reached the gid when the copy has ended.",
			Params:  []kit.Param{sourceParam(), volParam(), destParam(), gidParam("snapshot to wait for"), timeoutParam()},
			Tier:    kit.Query,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.WaitForReplicated(ctx, at(a, "a_src"), vol(a), at(a, "a_dst"), gid(a), timeout(a))
			}),
		},
		{
			Name:    "replicate",
			Summary: "copy a volume's archive data to another archive, and keep it synchronizing if wanted",
			Doc: "With synchronizing false it does what walbc.replicate_once does. With true it then makes the destination a live " +
				"target, as walbc.synchronize does, with little left to copy while the proxies stand still.",
			Params: []kit.Param{
				sourceParam(), volParam(), destParam(),
				{Name: "synchronizing", PyName: "synchronizing", Type: kit.Bool, Required: true, Doc: "whether the destination shall follow from then on"},
				timeoutParam(), resyncParam(), dontMergeParam(), syncOptParam(),
			},
			Tier:   kit.Disruptive,
			Result: "a record of gid, sent, standstill_s, elapsed_s, already",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				opt := replicateOptions(a, false)
				opt.Timeout = timeout(a)
				r, err := g.Replicate(ctx, at(a, "a_src"), vol(a), at(a, "a_dst"), kit.Get[bool](a, "synchronizing"), opt)
				if err != nil {
					return nil, err
				}
				s.warn(r.Warnings)
				return synchronized(r), nil
			},
		},
	}
}

// synchronizing lists the verbs about live targets.
func (s *Session) synchronizing() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "synchronize",
			Summary: "make an archive follow a volume from now on, with no gap",
			Doc: "Stops all proxies when they have delivered what they hold, adds the archive to their lists, copies what it lacks, " +
				"and starts them again. If a step fails, the timeout passes or you press Ctrl-C, lists and proxies return to what they were. " +
				"A walbc.replicate_once before makes the time that the proxies stand still shorter.",
			Params: []kit.Param{sourceParam(), volParam(), destParam(), timeoutParam(), syncOptParam()},
			Tier:   kit.Disruptive,
			Result: "a record of gid, sent, standstill_s, elapsed_s, already",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.Synchronize(ctx, at(a, "a_src"), vol(a), at(a, "a_dst"), group.SynchronizeOptions{Timeout: timeout(a), Sync: syncOpt(a)})
				if err != nil {
					return nil, err
				}
				s.warn(r.Warnings)
				return synchronized(r), nil
			},
		},
		{
			Name:    "stop_synchronizing",
			Summary: "let an archive no longer follow a volume",
			Doc: "Takes the archive out of the lists of all proxies, which stop for that and start again. Its data stays and can be " +
				"restored; diffs that waited for it are dropped.",
			Params: []kit.Param{archiveParam("archive that shall no longer follow"), volParam()},
			Tier:   kit.Disruptive,
			Result: "one line about what was done",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.StopSynchronizing(ctx, ax(a), vol(a))
				if err != nil {
					return nil, err
				}
				s.warn(r.Warnings)
				return r.String(), nil
			},
		},
		{
			Name:    "is_synchronizing",
			Summary: "tell whether an archive follows a volume",
			Doc:     "It does when every proxy has it in the volume's list of archives. Where only some have, that is an error that names them.",
			Params:  []kit.Param{archiveParam("archive in question"), volParam()},
			Tier:    kit.Query,
			Result:  "true or false",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.IsSynchronizing(ctx, ax(a), vol(a))
			},
		},
		{
			Name:    "start_synchronizing",
			Summary: "add an archive to the proxies' lists without copying anything",
			Doc:     "Right only for the target of a full backup that follows; for anything else use walbc.synchronize, which leaves no gap.",
			Params:  []kit.Param{archiveParam("archive to register"), volParam(), syncOptParam()},
			Tier:    kit.Disruptive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.StartSynchronizing(ctx, ax(a), vol(a), syncOpt(a))
			}),
		},
		{
			Name:    "add_archive_to_proxy",
			Summary: "register an archive for a volume at one proxy",
			Doc:     "The proxy stops meanwhile. The others are left alone, so the group is half-way until all have it.",
			Params: []kit.Param{
				proxyParam(), volParam(), archiveParam("archive to register"),
				{Name: "do_start", PyName: "doStart", Type: kit.Bool, Default: true, Doc: "start a proxy that knew nothing of the volume"},
				syncOptParam(),
			},
			Tier:   kit.Disruptive,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.AddArchiveToProxy(ctx, at(a, "px"), vol(a), ax(a), kit.Get[bool](a, "do_start"), syncOpt(a))
			}),
		},
		{
			Name:    "del_archive_from_proxy",
			Summary: "take an archive out of a volume's list at one proxy",
			Doc:     "Without stop_empty the diffs that wait for the archive are dropped. The other proxies are left alone.",
			Params: []kit.Param{
				proxyParam(), volParam(), archiveParam("archive to remove"),
				{Name: "stop_empty", PyName: "stopEmpty", Type: kit.Bool, Default: false, Doc: "let the proxy deliver everything first"},
			},
			Tier:   kit.Disruptive,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.DelArchiveFromProxy(ctx, at(a, "px"), vol(a), ax(a), kit.Get[bool](a, "stop_empty"))
			}),
		},
	}
}

// backupParams are the parameters of both kinds of backup.
func backupParams() []kit.Param {
	return []kit.Param{
		storageParam(), volParam(), timeoutParam(),
		{Name: "block", PyName: "block", Type: kit.Bool, Default: true, Doc: "wait until a snapshot can be restored"},
		{Name: "bulk_size_u", PyName: "bulkSizeU", Type: kit.Size, Doc: "bytes of one block, 512 to 4M; unset means 256K"},
		syncOptParam(),
	}
}

// runBackup is what both kinds of backup do.
func (s *Session) runBackup(backUp func(context.Context, group.Server, string, group.FullBackupOptions) (group.BackupResult, error)) func(context.Context, kit.Args) (any, error) {
	return func(ctx context.Context, a kit.Args) (any, error) {
		opt := group.FullBackupOptions{Timeout: timeout(a), NoWait: !kit.Get[bool](a, "block"), Sync: syncOpt(a)}
		if a.Given("bulk_size_u") {
			opt.Bulk = kit.Get[int64](a, "bulk_size_u")
		}
		r, err := backUp(ctx, at(a, "sx"), vol(a), opt)
		if err != nil {
			return nil, err
		}
		s.warn(r.Warnings)
		if !r.Waited {
			return nil, nil
		}
		return r.Gid, nil
	}
}

// backup lists the verbs that bring data from a storage to archives.
func (s *Session) backup() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "full_backup",
			Summary: "copy a whole volume from its storage to the primary archive, and ship its log from then on",
			Doc: "Comes back when the primary archive can restore a clean snapshot. With it a new lineage begins: the primary becomes " +
				"the only archive of the volume at the proxies, and the others have to be replicated to anew.",
			Params: backupParams(),
			Tier:   kit.Disruptive,
			Result: "the gid that can be restored, or nil without block",
			Run:    s.runBackup(g.FullBackup),
		},
		{
			Name:    "hash_backup",
			Summary: "bring what differs from a storage to the primary archive, and ship its log from then on",
			Doc: "For a storage whose log was lost, or that takes the place of another one: the primary has the volume already, keeps " +
				"its snapshots and gets one more. The storage must not be a target (walbc.stop first). Other archives that " +
				"synchronize are made to again afterwards; those that cannot be are told as warnings, with what to do.",
			Params: backupParams(),
			Tier:   kit.Disruptive,
			Result: "the new gid that can be restored, or nil without block",
			Run:    s.runBackup(g.HashBackup),
		},
		{
			Name:    "set_full_scan_bps",
			Summary: "limit how fast a storage reads volumes for full and hash backups",
			Doc:     "Holds for all volumes of the storage, also for a backup that runs, until its server ends; 0 is no limit.",
			Params: []kit.Param{
				storageParam(),
				{Name: "throughput_u", PyName: "throughputU", Type: kit.Size, Required: true, Doc: "bytes per second, for example \"100M\"; 0 is no limit"},
			},
			Tier:   kit.Safe,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Client(at(a, "sx")).SetFullScanBps(ctx, kit.Get[int64](a, "throughput_u"))
			}),
		},
		{
			Name:    "snapshot",
			Summary: "take a snapshot and wait until archives can restore it",
			Doc:     "The archives must be synchronizing. Without any it comes back at once.",
			Params: []kit.Param{
				storageParam(), volParam(),
				{Name: "ax_l", PyName: "axL", Type: archiveList(), Default: []any{}, Doc: "archives to wait for"},
				timeoutParam(),
			},
			Tier:   kit.Safe,
			Result: "the gid of the snapshot",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				var archives []group.Server
				for _, v := range kit.Get[[]any](a, "ax_l") {
					archives = append(archives, v.(group.Server))
				}
				return g.Snapshot(ctx, at(a, "sx"), vol(a), archives, timeout(a))
			},
		},
		{
			Name:    "snapshot_nbk",
			Summary: "take a snapshot and come back at once",
			Doc:     "It can be restored at an archive when the log up to it has come there.",
			Params:  []kit.Param{storageParam(), volParam()},
			Tier:    kit.Safe,
			Result:  "the gid of the snapshot",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.SnapshotNbk(ctx, at(a, "sx"), vol(a))
			},
		},
	}
}

// archiveList accepts a list of archives, or one alone.
func archiveList() kit.Type {
	list := kit.List(archiveType)
	return kit.Type{Name: "a list of archive servers", Table: true, From: func(v lua.LValue) (any, error) {
		if _, ok := serverClass.From(v); ok {
			one, err := archiveType.From(v)
			return []any{one}, err
		}
		return list.From(v)
	}}
}

// gidsOf are the gids of restorable snapshots.
func gidsOf(list []meta.Restorable) []meta.Gid {
	gids := make([]meta.Gid, len(list))
	for i, r := range list {
		gids[i] = r.Gid
	}
	return gids
}

// lb converts a size to logical blocks.
func lb(bytes int64) uint64 { return uint64(block.FromBytes(bytes)) }
