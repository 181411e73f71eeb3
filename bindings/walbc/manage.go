package walbc

import (
	"context"
	"slices"

	"walbsh/bindings/kit"
	"walbsh/walbcore/group"
)

// restoring lists the verbs about restored images.
func (s *Session) restoring() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "restore",
			Summary: "make a writable image of a snapshot at an archive",
			Doc:     "Waits until the image is complete. It fails where there is one already.",
			Params:  []kit.Param{archiveParam("archive that has the snapshot"), volParam(), gidParam("snapshot, one of walbc.get_restorable"), timeoutParam()},
			Tier:    kit.Safe,
			Result:  "the path of the image, where the archive's files are on this machine, else its name",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.Restore(ctx, ax(a), vol(a), gid(a), timeout(a))
				if err != nil {
					return nil, err
				}
				return restoredPath(r), nil
			},
		},
		{
			Name:    "del_restored",
			Summary: "remove a restored image from an archive",
			Doc:     "The snapshot stays and can be restored again.",
			Params:  []kit.Param{archiveParam("archive that has the image"), volParam(), gidParam("snapshot of the image")},
			Tier:    kit.Disruptive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.DelRestored(ctx, ax(a), vol(a), gid(a))
			}),
		},
		{
			Name:    "get_restorable",
			Summary: "list the snapshots that an archive can restore",
			Doc:     "Each entry has gid, timestamp (Unix seconds) and explicit. With opt \"all\" implicit snapshots are listed too.",
			Params:  []kit.Param{archiveParam("archive to ask"), volParam(), restorableOpt()},
			Tier:    kit.Query,
			Result:  "a list of tables, ascending",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.GetRestorable(ctx, ax(a), vol(a), kit.Get[string](a, "opt") == "all")
			},
		},
		{
			Name:    "get_restorable_gid",
			Summary: "list the gids of the snapshots that an archive can restore",
			Doc:     "As walbc.get_restorable, the gids alone.",
			Params:  []kit.Param{archiveParam("archive to ask"), volParam(), restorableOpt()},
			Tier:    kit.Query,
			Result:  "a list of gids, ascending",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				list, err := g.GetRestorable(ctx, ax(a), vol(a), kit.Get[string](a, "opt") == "all")
				return gidsOf(list), err
			},
		},
		{
			Name:    "get_restored",
			Summary: "list the snapshots of which an archive has a restored image",
			Doc:     "walbc.restore makes such images, walbc.del_restored removes them.",
			Params:  []kit.Param{archiveParam("archive to ask"), volParam()},
			Tier:    kit.Query,
			Result:  "a list of gids, ascending",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.GetRestored(ctx, ax(a), vol(a))
			},
		},
		{
			Name:    "get_restored_path",
			Summary: "tell where the restored image of a snapshot is, or would be",
			Doc:     "Whether it is there is not looked at.",
			Params:  []kit.Param{archiveParam("archive to ask"), volParam(), gidParam("snapshot of the image")},
			Tier:    kit.Query,
			Result:  "the path of the logical volume, or of the file where the layout tells the archive's directory; else the image's name",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.GetRestoredPath(ctx, ax(a), vol(a), gid(a))
				return restoredPath(r), err
			},
		},
	}
}

func restoredPath(r group.Restored) string {
	if r.Path != "" {
		return r.Path
	}
	return r.Name
}

func restorableOpt() kit.Param {
	return kit.Param{Name: "opt", PyName: "opt", Type: kit.OneOf("explicit", "all"), Default: "explicit", Doc: "\"all\" lists implicit snapshots too"}
}

// lifecycle lists the verbs that bring volumes and servers up and down.
func (s *Session) lifecycle() []kit.Verb {
	g := s.Group
	modes := group.StopModes()
	var modeNames []string
	for name := range modes {
		modeNames = append(modeNames, name)
	}
	slices.Sort(modeNames)
	modeParam := kit.Param{
		Name: "mode", PyName: "mode", Type: kit.OneOf(modeNames...), Default: "graceful",
		Doc: "graceful waits for running work, force breaks it off, empty (a proxy) delivers everything first",
	}
	verbs := []kit.Verb{
		{
			Name:    "init_storage",
			Summary: "make a volume known to a storage, on a walb device",
			Doc:     "The volume is in Standby then: its log is thrown away until a backup begins.",
			Params: []kit.Param{
				storageParam(), volParam(),
				{Name: "wdev_path", PyName: "wdevPath", Type: kit.String, Required: true, Doc: "path of the device, /dev/walb/NAME"},
			},
			Tier:   kit.Safe,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.InitStorage(ctx, at(a, "sx"), vol(a), kit.Get[string](a, "wdev_path"))
			}),
		},
		{
			Name:    "start",
			Summary: "start a stopped volume at a server",
			Doc:     "A storage ships its log again (target), a proxy takes logs and sends diffs, an archive takes diffs.",
			Params:  []kit.Param{serverParam(), volParam()},
			Tier:    kit.Safe,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Start(ctx, at(a, "s"), vol(a))
			}),
		},
		{
			Name:    "stop",
			Summary: "stop a volume at a server, and wait until it has stopped",
			Doc:     "While it is stopped the storage's log fills. A volume that is stopped already is left alone.",
			Params:  []kit.Param{serverParam(), volParam(), modeParam},
			Tier:    kit.Disruptive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Stop(ctx, at(a, "s"), vol(a), modes[kit.Get[string](a, "mode")])
			}),
		},
		{
			Name:    "stop_nbk",
			Summary: "ask a server to stop a volume, and come back at once",
			Doc:     "walbc.wait_for_stopped waits for the end.",
			Params:  []kit.Param{serverParam(), volParam(), modeParam},
			Tier:    kit.Disruptive,
			Result:  "the state before",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.StopNbk(ctx, at(a, "s"), vol(a), modes[kit.Get[string](a, "mode")])
			},
		},
		{
			Name:    "wait_for_stopped",
			Summary: "wait for the end of a stop that walbc.stop_nbk asked for",
			Doc:     "That the server gave the stop up is an error, seen at once.",
			Params: []kit.Param{
				serverParam(), volParam(),
				{Name: "prev_st", PyName: "prevSt", Type: kit.String, Default: "", Doc: "the state that walbc.stop_nbk gave; a storage needs it"},
				timeoutParam(),
			},
			Tier:   kit.Query,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.WaitForStopped(ctx, at(a, "s"), vol(a), kit.Get[string](a, "prev_st"), timeout(a))
			}),
		},
		{
			Name:    "reset",
			Summary: "throw away what a stopped volume has at a server, and make it ready for a backup",
			Doc:     "A storage loses the log that is not shipped; an archive loses base image, diffs and restored images.",
			Params:  []kit.Param{serverParam(), volParam()},
			Tier:    kit.Destructive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Reset(ctx, at(a, "s"), vol(a))
			}),
		},
		{
			Name:    "clear",
			Summary: "make a server forget a volume",
			Doc:     "Everything that the server has of the volume is removed. A running volume is stopped first.",
			Params:  []kit.Param{serverParam(), volParam()},
			Tier:    kit.Destructive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Clear(ctx, at(a, "s"), vol(a))
			}),
		},
		{
			Name:    "kick_storage_all",
			Summary: "make all storages ship now what waits for its time",
			Doc:     "Failed shipments are tried again at once, and proxies that did not answer are asked again.",
			Tier:    kit.Safe,
			Result:  "nothing",
			Run:     nothing(func(ctx context.Context, _ kit.Args) error { return g.KickStorages(ctx) }),
		},
		{
			Name:    "kick_proxy",
			Summary: "make all proxies send a volume's diffs to an archive now",
			Doc:     "Failed transfers are tried again at once.",
			Params:  []kit.Param{volParam(), archiveParam("archive to send to")},
			Tier:    kit.Safe,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.KickProxy(ctx, vol(a), ax(a))
			}),
		},
		{
			Name:    "shutdown",
			Summary: "end a server",
			Doc:     "Its process ends, or the embedded server. States on disk do not change. It returns when the server has accepted that.",
			Params: []kit.Param{
				serverParam(),
				{Name: "mode", PyName: "mode", Type: kit.OneOf("graceful", "force"), Default: "graceful", Doc: "force also breaks waiting commands off"},
			},
			Tier:   kit.Disruptive,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.Shutdown(ctx, at(a, "s"), kit.Get[string](a, "mode") == "force")
			}),
		},
	}
	return verbs
}
