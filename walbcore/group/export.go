package group

import (
	"context"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// ExportSnapshot exports a snapshot of a volume at an archive as a block device
// over NBD, without copying it, and tells where it is. With overlay it takes
// writes, and throws them away at the end of the export. While it is exported
// the base image is not brought beyond it. One that is exported in that way
// already stays so. An original cannot do that.
func (g *Group) ExportSnapshot(ctx context.Context, ax Server, vol string, gid meta.Gid, overlay bool) (wire.Export, error) {
	const op = "export_snapshot"
	if err := g.canExport(ctx, op, ax, vol); err != nil {
		return wire.Export{}, err
	}
	if err := g.activeArchive(ctx, op, ax, vol); err != nil {
		return wire.Export{}, err
	}
	mode := wire.ExportReadOnly
	if overlay {
		mode = wire.ExportOverlay
	}
	return g.Client(ax).Export(ctx, vol, gid, mode)
}

// UnexportSnapshot ends an export. It is refused while clients use it, unless
// force is true: they are disconnected then.
func (g *Group) UnexportSnapshot(ctx context.Context, ax Server, vol string, gid meta.Gid, force bool) error {
	if err := g.canExport(ctx, "unexport_snapshot", ax, vol); err != nil {
		return err
	}
	return g.Client(ax).Unexport(ctx, vol, gid, force)
}

// GetExports lists what an archive exports of a volume, by gid.
func (g *Group) GetExports(ctx context.Context, ax Server, vol string) ([]wire.Export, error) {
	if err := g.canExport(ctx, "get_exports", ax, vol); err != nil {
		return nil, err
	}
	return g.Client(ax).Exports(ctx, vol)
}

func (g *Group) canExport(ctx context.Context, op string, ax Server, vol string) error {
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	can, err := g.Client(ax).HasFeature(ctx, wire.FeatureExport)
	if err == nil && !can {
		err = refusal(op, ax, vol, walberr.Unavailable, ax.Name+" is an original, which cannot export", "an archive of walbsh", "restore makes a copy")
	}
	return err
}
