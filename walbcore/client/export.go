package client

import (
	"context"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// Commands of archives of ours that have [wire.FeatureExport].

// Export exports the snapshot gid of a volume as a block device, without
// copying it, and tells where it is. One that is exported in that mode already
// stays so.
func (c *Client) Export(ctx context.Context, vol string, gid meta.Gid, mode wire.ExportMode) (wire.Export, error) {
	var line string
	cmd := command{
		name: wire.ProtoExport, volume: vol, status: wire.OK, body: words(vol, gid.String(), string(mode)),
		answer: func(r *wire.Reader) error {
			line = r.Str()
			return nil
		},
	}
	if err := c.checked(cmd); err != nil {
		return wire.Export{}, err
	}
	if err := c.once(ctx, cmd); err != nil {
		return wire.Export{}, err
	}
	return wire.ParseExport(line)
}

// Unexport ends an export, and throws away what was written to an overlay. It
// is refused while clients use it, unless force is true: they are disconnected
// then.
func (c *Client) Unexport(ctx context.Context, vol string, gid meta.Gid, force bool) error {
	more := []string{gid.String()}
	if force {
		more = append(more, wire.ExportForce)
	}
	return c.simple(ctx, wire.ProtoUnexport, vol, wire.OK, more...)
}

// Exports answers what is exported of a volume, or of all if vol is empty, by
// volume and gid.
func (c *Client) Exports(ctx context.Context, vol string) ([]wire.Export, error) {
	var more []string
	if vol != "" {
		more = []string{vol}
	}
	return get(ctx, c, vol, parsedLines(wire.ParseExport), wire.TargetExports, more...)
}
