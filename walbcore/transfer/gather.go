package transfer

import (
	"context"
	"fmt"

	"walbsh/walbcore/wire"
)

// AskLatest is the storage's side of gather-latest-snap, behind the
// negotiation: it asks an archive where it is with some volumes. The answers
// stand in the order of the names.
func AskLatest(ctx context.Context, c *wire.Conn, volumes []string) ([]wire.SnapshotInfo, error) {
	const op = "gather-latest-snap"
	defer c.Bind(ctx)()
	c.W.Str(wire.OK)
	c.W.StrVec(volumes)
	if err := ask(c, wire.Accept); err != nil {
		return nil, err
	}
	if n := c.R.Count(wire.MaxCount); c.R.Err() == nil && n != len(volumes) {
		return nil, violation(op, fmt.Sprintf("%d answers", n), fmt.Sprint(len(volumes)))
	}
	infos := make([]wire.SnapshotInfo, len(volumes))
	for i := range infos {
		infos[i].Decode(c.R)
		if err := c.R.Err(); err != nil {
			return nil, err
		}
		if infos[i].Volume != volumes[i] {
			return nil, violation(op, fmt.Sprintf("an answer about %q", infos[i].Volume), fmt.Sprintf("%q", volumes[i]))
		}
	}
	_, err := wire.Status(c.R, c.Peer(), wire.OK)
	return infos, err
}

// ServeLatest is the archive's side of gather-latest-snap. latest tells where
// it is with a volume of any name. reply sends the first status word. A storage
// that could not collect its volumes says so, and the conversation just ends.
func ServeLatest(ctx context.Context, c *wire.Conn, reply Reply, latest func(volume string) wire.SnapshotInfo) error {
	defer c.Bind(ctx)()
	if _, err := wire.Status(c.R, c.Peer(), wire.OK); err != nil {
		return err
	}
	volumes := c.R.StrVec()
	if err := c.R.Err(); err != nil {
		return err
	}
	if err := reply(wire.Accept); err != nil {
		return err
	}
	c.W.U64(uint64(len(volumes)))
	for _, v := range volumes {
		latest(v).Encode(c.W)
	}
	c.W.Str(wire.OK)
	return c.Finish()
}
