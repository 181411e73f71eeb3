package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// exportTimeout is how long a server may keep silent.
const exportTimeout = time.Minute

// exports is the face that exports snapshots as block devices.
func exports(ctx context.Context, e env, words []string) int {
	if len(words) == 0 {
		return printed(e.stdout, exportHelp)
	}
	err := runExports(ctx, e, words)
	if errors.Is(err, flag.ErrHelp) {
		return printed(e.stdout, exportHelp)
	}
	return fail(e.stderr, err)
}

func runExports(ctx context.Context, e env, words []string) error {
	const hint = "walbsh export -h"
	flags := newFlags("export")
	addr := flags.String("a", "localhost:5000", "")
	overlay := flags.Bool("overlay", false, "")
	list := flags.Bool("list", false, "")
	end := flags.Bool("end", false, "")
	force := flags.Bool("force", false, "")
	args, err := parseMixed(flags, words, hint)
	if err != nil {
		return err
	}
	if _, err := wire.ParseAddr(*addr); err != nil {
		return usagef("as in -a localhost:5000", "-a: %v", err)
	}
	switch {
	case *list && (*end || *overlay), *end && *overlay:
		return usagef(hint, "--list, --end and --overlay exclude each other")
	case *force && !*end:
		return usagef(hint, "--force is for --end")
	}
	c := client.New(*addr, client.Options{ID: "walbsh", Timeout: exportTimeout})
	if *list {
		if len(args) > 1 {
			return usagef(hint, "--list wants VOLUME or nothing")
		}
		return listExports(ctx, e, c, append(args, "")[0])
	}
	if len(args) != 2 {
		return usagef(hint, "export wants VOLUME and GID")
	}
	gid, err := meta.ParseGid(args[1])
	if err != nil {
		return usagef(hint, "GID %q is no number", args[1])
	}
	if *end {
		return c.Unexport(ctx, args[0], gid, *force)
	}
	mode := wire.ExportReadOnly
	if *overlay {
		mode = wire.ExportOverlay
	}
	x, err := c.Export(ctx, args[0], gid, mode)
	if err == nil {
		say(e.stdout, "%s\n", x.URI)
	}
	return err
}

func listExports(ctx context.Context, e env, c *client.Client, vol string) error {
	list, err := c.Exports(ctx, vol)
	for _, x := range list {
		say(e.stdout, "%s\t%d\t%s\tsize %s\tclients %d\t%s\n", x.Volume, x.Gid, x.Mode, block.FormatSize(x.Blocks.Bytes()), x.Clients, x.URI)
	}
	return err
}
