package walbc

import (
	"context"

	"walbsh/bindings/kit"
	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// upkeep lists the verbs about the base image and the diffs of an archive.
func (s *Session) upkeep() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "apply",
			Summary: "write the diffs up to a snapshot into the base image of an archive",
			Doc: "The snapshots before it are gone then, and their diffs; there is no way back. " +
				"An application that was broken off is completed. That the base image is there already is a success.",
			Params: []kit.Param{archiveParam("archive that has the snapshot"), volParam(), gidParam("snapshot to bring the base image to"), timeoutParam()},
			Tier:   kit.Destructive,
			Result: "the gid",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.Apply(ctx, ax(a), vol(a), gid(a), timeout(a))
				if err != nil {
					return nil, err
				}
				s.notice("%s", r)
				return r.Gid, nil
			},
		},
		{
			Name:    "merge",
			Summary: "make one diff of those between two gids at an archive",
			Doc: "Both gids are exact ends of diffs, see walbc.get_diff_list. Implicit snapshots between them are gone then; " +
				"an explicit one is refused: walbc.disable_snapshot gives it up.",
			Params: []kit.Param{
				archiveParam("archive that has the diffs"), volParam(),
				{Name: "gid_b", PyName: "gidB", Type: kit.Uint64, Required: true, Doc: "where the first diff begins"},
				{Name: "gid_e", PyName: "gidE", Type: kit.Uint64, Required: true, Doc: "where the last diff ends"},
				timeoutParam(),
			},
			Tier:   kit.Disruptive,
			Result: "the number of diffs that became one; 1 if it was one already",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				r, err := g.Merge(ctx, ax(a), vol(a), meta.Gid(kit.Get[uint64](a, "gid_b")), meta.Gid(kit.Get[uint64](a, "gid_e")), timeout(a))
				if err != nil {
					return nil, err
				}
				s.notice("%s", r)
				return r.Merged, nil
			},
		},
		{
			Name:    "gc_diff",
			Summary: "remove the diffs at an archive that lead to no snapshot",
			Doc:     "Such diffs are left where a replication or a merge was broken off. No snapshot is lost.",
			Params:  []kit.Param{archiveParam("archive to clean up"), volParam()},
			Tier:    kit.Safe,
			Result:  "the number of diffs that were removed",
			Run:     func(ctx context.Context, a kit.Args) (any, error) { return g.GCDiff(ctx, ax(a), vol(a)) },
		},
		{
			Name:    "disable_snapshot",
			Summary: "make snapshots at an archive implicit: a merge may take them away",
			Doc:     "They stay restorable until then. Other archives keep their own marks. The newest snapshot has none yet.",
			Params:  []kit.Param{archiveParam("archive that has the snapshots"), volParam(), gidListParam()},
			Tier:    kit.Disruptive,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.DisableSnapshots(ctx, ax(a), vol(a), gidList(a))
			}),
		},
		{
			Name:    "enable_snapshot",
			Summary: "make snapshots at an archive explicit: no merge takes them away",
			Doc:     "It undoes walbc.disable_snapshot as long as they are not merged away.",
			Params:  []kit.Param{archiveParam("archive that has the snapshots"), volParam(), gidListParam()},
			Tier:    kit.Safe,
			Result:  "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.EnableSnapshots(ctx, ax(a), vol(a), gidList(a))
			}),
		},
		{
			Name:    "resize_archive",
			Summary: "make the base image of a volume at an archive larger",
			Doc:     "There is no way back. That it has the size already is a success; a larger one is refused.",
			Params: []kit.Param{
				archiveParam("archive that has the image"), volParam(),
				{Name: "size_mb", PyName: "sizeMb", Type: kit.Int(1, 1<<40), Required: true, Doc: "the size in MiB"},
				{Name: "do_zero_clear", PyName: "doZeroClear", Type: kit.Bool, Default: false, Doc: "write zeros to the new part, where it is not zeros in any case"},
			},
			Tier:   kit.Destructive,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				size := block.FromBytes(int64(kit.Get[int](a, "size_mb")) << 20)
				return g.ResizeArchive(ctx, ax(a), vol(a), size, kit.Get[bool](a, "do_zero_clear"))
			}),
		},
		{
			Name:    "get_block_hash",
			Summary: "compute the hash of a snapshot at an archive",
			Doc: "It takes as long as reading the image. Archives that have the same snapshot give the same hash for the same bulk size, " +
				"if they treat discards alike.",
			Params: []kit.Param{
				archiveParam("archive that has the snapshot"), volParam(), gidParam("snapshot to read"),
				{Name: "bulk_size_u", PyName: "bulkSizeU", Type: kit.Size, Default: int64(64 << 10), Doc: "bytes that are hashed at a time, 512 to 4M"},
				{Name: "scan_size_u", PyName: "scanSizeU", Type: kit.Size, Default: int64(0), Doc: "how much of the image; 0 is all of it"},
			},
			Tier:   kit.Query,
			Result: "32 hexadecimal digits",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				bulk, size := block.FromBytes(kit.Get[int64](a, "bulk_size_u")), block.FromBytes(kit.Get[int64](a, "scan_size_u"))
				h, err := g.BlockHash(ctx, ax(a), vol(a), gid(a), bulk, size)
				return h.String(), err
			},
		},
		{
			Name:    "verify",
			Summary: "read all that an archive has of a volume, and tell what cannot be read",
			Doc: "Base image and diffs are read, with all checksums. Each fault has what (a file, or base), addr and blocks, " +
				"the gids of the snapshots that need it (hurts), and the error. Only an archive of walbsh can do it.",
			Params: []kit.Param{
				archiveParam("archive to look at"), volParam(),
				{Name: "rate_u", PyName: "rateU", Type: kit.Size, Default: int64(0), Doc: "most bytes a second; 0 is as fast as it goes"},
				timeoutParam(),
			},
			Tier:   kit.Query,
			Result: "a list of faults, empty if all is well",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				faults, err := g.Verify(ctx, ax(a), vol(a), uint64(kit.Get[int64](a, "rate_u")), timeout(a))
				return faultTables(faults), err
			},
		},
	}
}

// faultEntry is a fault as scripts see it.
type faultEntry struct {
	What   string
	Addr   uint64
	Blocks uint64
	Hurts  []meta.Gid
	Error  string
}

func faultTables(faults []wire.Fault) []faultEntry {
	list := make([]faultEntry, len(faults))
	for i, f := range faults {
		list[i] = faultEntry{f.What, uint64(f.Addr), uint64(f.Blocks), f.Hurts, f.Error}
	}
	return list
}

func gidListParam() kit.Param {
	return kit.Param{Name: "gid_l", PyName: "gidL", Type: kit.List(kit.Uint64), Required: true, Doc: "list of gids, as {3, 5}"}
}

func gidList(a kit.Args) []meta.Gid {
	var gids []meta.Gid
	for _, v := range kit.Get[[]any](a, "gid_l") {
		gids = append(gids, meta.Gid(v.(uint64)))
	}
	return gids
}
