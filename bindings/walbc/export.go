package walbc

import (
	"context"

	"walbsh/bindings/kit"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// exporting lists the verbs about snapshots as block devices.
func (s *Session) exporting() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "export_snapshot",
			Summary: "serve a snapshot at an archive as a block device over NBD, without copying it",
			Doc: "It is there at once, whatever its size, and diffs go on coming. While it is exported the base image is not brought " +
				"beyond it: walbc.apply is refused. With overlay it takes writes, which are gone when the export ends. It ends with " +
				"walbc.unexport_snapshot or with the archive. One that is exported in that way already stays so.",
			Params: []kit.Param{
				archiveParam("archive that has the snapshot"), volParam(), gidParam("snapshot to serve"),
				{Name: "overlay", PyName: "overlay", Type: kit.Bool, Default: false, Doc: "take writes and throw them away at the end"},
			},
			Tier:   kit.Safe,
			Result: "a table of gid, mode, blocks, clients, uri; uri is as seen from the archive's host",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				e, err := g.ExportSnapshot(ctx, ax(a), vol(a), gid(a), kit.Get[bool](a, "overlay"))
				return exportEntryOf(e), err
			},
		},
		{
			Name:    "unexport_snapshot",
			Summary: "end the export of a snapshot at an archive",
			Doc:     "What was written to an overlay is gone. It is refused while somebody uses the export, unless force is true.",
			Params: []kit.Param{
				archiveParam("archive that serves the snapshot"), volParam(), gidParam("snapshot that is served"),
				{Name: "force", PyName: "force", Type: kit.Bool, Default: false, Doc: "disconnect who uses it"},
			},
			Tier:   kit.Disruptive,
			Result: "nothing",
			Run: nothing(func(ctx context.Context, a kit.Args) error {
				return g.UnexportSnapshot(ctx, ax(a), vol(a), gid(a), kit.Get[bool](a, "force"))
			}),
		},
		{
			Name:    "get_exports",
			Summary: "list the snapshots of a volume that an archive serves as block devices",
			Doc:     "By gid.",
			Params:  []kit.Param{archiveParam("archive to ask"), volParam()},
			Tier:    kit.Query,
			Result:  "a list of tables of gid, mode, blocks, clients, uri",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				list, err := g.GetExports(ctx, ax(a), vol(a))
				entries := make([]exportEntry, len(list))
				for i, e := range list {
					entries[i] = exportEntryOf(e)
				}
				return entries, err
			},
		},
	}
}

// exportEntry is an export as scripts see it.
type exportEntry struct {
	Gid     meta.Gid
	Mode    string
	Blocks  uint64
	Clients int
	URI     string
}

func exportEntryOf(e wire.Export) exportEntry {
	return exportEntry{e.Gid, string(e.Mode), uint64(e.Blocks), e.Clients, e.URI}
}
