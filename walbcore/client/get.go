package client

import (
	"context"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// Status answers the lines that describe the server (vol is "") or one
// volume. An unknown volume is described as Clear.
func (c *Client) Status(ctx context.Context, vol string) ([]string, error) {
	var lines []string
	cmd := command{
		name: wire.ProtoStatus, volume: vol, status: wire.OK, body: words(given(vol)...),
		answer: func(r *wire.Reader) error {
			lines = r.StrVec()
			r.Ack()
			return nil
		},
	}
	if vol != "" {
		if err := c.checked(cmd); err != nil {
			return nil, err
		}
	}
	err := c.again(ctx, cmd)
	return lines, err
}

// GetUint asks for a target whose answer is a number. Targets of our own
// extensions are asked this way too.
func (c *Client) GetUint(ctx context.Context, target string, args ...string) (uint64, error) {
	return get(ctx, c, "", (*wire.Reader).U64, target, args...)
}

// GetString asks for a target whose answer is a string.
func (c *Client) GetString(ctx context.Context, target string, args ...string) (string, error) {
	return get(ctx, c, "", (*wire.Reader).Str, target, args...)
}

// GetStrings asks for a target whose answer is a vector of strings.
func (c *Client) GetStrings(ctx context.Context, target string, args ...string) ([]string, error) {
	return get(ctx, c, "", (*wire.Reader).StrVec, target, args...)
}

// get asks for a target; vol names the volume in errors.
func get[T any](ctx context.Context, c *Client, vol string, read func(*wire.Reader) T, target string, args ...string) (T, error) {
	var value T
	err := c.again(ctx, command{
		name: wire.ProtoGet, op: wire.ProtoGet + " " + target, volume: vol, status: wire.OK,
		body: words(append([]string{target}, args...)...),
		answer: func(r *wire.Reader) error {
			value = read(r)
			r.Ack()
			return nil
		},
	})
	return value, err
}

// volGet asks for a target of a checked volume.
func volGet[T any](ctx context.Context, c *Client, read func(*wire.Reader) T, target, vol string, args ...string) (T, error) {
	if err := c.checked(command{name: wire.ProtoGet, op: wire.ProtoGet + " " + target, volume: vol}); err != nil {
		var zero T
		return zero, err
	}
	return get(ctx, c, vol, read, target, append([]string{vol}, args...)...)
}

// parsed makes reader of a string and its parser one reader.
func parsed[T any](parse func(string) (T, error)) func(*wire.Reader) T {
	return func(r *wire.Reader) T {
		s := r.Str()
		if r.Err() != nil {
			var zero T
			return zero
		}
		v, err := parse(s)
		r.Fail(badAnswer(s, err))
		return v
	}
}

// parsedLines is parsed for a vector of strings.
func parsedLines[T any](parse func(string) (T, error)) func(*wire.Reader) []T {
	return func(r *wire.Reader) []T {
		var out []T
		for _, s := range r.StrVec() {
			v, err := parse(s)
			if err != nil {
				r.Fail(badAnswer(s, err))
				return nil
			}
			out = append(out, v)
		}
		return out
	}
}

// Targets of every server.

// HostType answers [wire.HostStorage], [wire.HostProxy] or [wire.HostArchive].
func (c *Client) HostType(ctx context.Context) (string, error) {
	return c.GetString(ctx, wire.TargetHostType)
}

// Pid answers the process id of the server.
func (c *Client) Pid(ctx context.Context) (uint64, error) {
	return c.GetUint(ctx, wire.TargetPid)
}

// Volumes answers the names of the server's volumes, in no defined order.
func (c *Client) Volumes(ctx context.Context) ([]string, error) {
	return c.GetStrings(ctx, wire.TargetVol)
}

// State answers the name of a volume's state, steady or temporary; an unknown
// volume is Clear.
func (c *Client) State(ctx context.Context, vol string) (string, error) {
	return volGet(ctx, c, (*wire.Reader).Str, wire.TargetState, vol)
}

// HandlerStats answers the server's request counters and sets them to zero.
func (c *Client) HandlerStats(ctx context.Context) ([]HandlerStat, error) {
	return get(ctx, c, "", parsedLines(parseHandlerStat), wire.TargetHandlerStat)
}

// LatestSnaps answers the newest snapshot of each volume (vol is "") or of
// one; a proxy answers one line for each archive.
func (c *Client) LatestSnaps(ctx context.Context, vol string) ([]LatestSnap, error) {
	if vol == "" {
		return get(ctx, c, "", parsedLines(parseLatestSnap), wire.TargetLatestSnap)
	}
	return volGet(ctx, c, parsedLines(parseLatestSnap), wire.TargetLatestSnap, vol)
}

// UUID answers the identity of a volume's log life; at storages and archives.
func (c *Client) UUID(ctx context.Context, vol string) (meta.UUID, error) {
	return volGet(ctx, c, parsed(meta.ParseUUID), wire.TargetUUID, vol)
}

// TsDeltas answers how far destinations are behind; at storages and archives.
func (c *Client) TsDeltas(ctx context.Context) ([]TsDelta, error) {
	return get(ctx, c, "", parsedLines(parseTsDelta), wire.TargetTsDelta)
}

// Targets of storages.

// IsOverflow reports whether the volume's log has overflowed.
func (c *Client) IsOverflow(ctx context.Context, vol string) (bool, error) {
	return volGet(ctx, c, readFlag, wire.TargetIsOverflow, vol)
}

// LogUsages answers how full the logs are: of all volumes (vol is "") or of one.
func (c *Client) LogUsages(ctx context.Context, vol string) ([]LogUsage, error) {
	if vol == "" {
		return get(ctx, c, "", parsedLines(parseLogUsage), wire.TargetLogUsage)
	}
	return volGet(ctx, c, parsedLines(parseLogUsage), wire.TargetLogUsage, vol)
}

// Targets of proxies.

// IsWdiffSendError reports whether sending to an archive has ended for good.
func (c *Client) IsWdiffSendError(ctx context.Context, vol, archive string) (bool, error) {
	return volGet(ctx, c, readFlag, wire.TargetIsWdiffSendError, vol, archive)
}

// ProxyDiffs answers the diffs that wait for an archive, or (archive is "")
// those just received.
func (c *Client) ProxyDiffs(ctx context.Context, vol, archive string) ([]meta.Diff, error) {
	return volGet(ctx, c, parsedLines(meta.ParseDiffLine), wire.TargetProxyDiff, vol, given(archive)...)
}

// Targets of archives.

// GidRange selects diffs with From <= B.B < To. The zero value selects all.
type GidRange struct {
	From meta.Gid
	To   meta.Gid // 0 is no limit
}

func (g GidRange) words() []string {
	switch {
	case g.To != 0 && g.To != meta.MaxGid:
		return []string{g.From.String(), g.To.String()}
	case g.From != 0:
		return []string{g.From.String()}
	}
	return nil
}

// Diffs answers the diffs of a volume, ascending by B.B.
func (c *Client) Diffs(ctx context.Context, vol string, in GidRange) ([]meta.Diff, error) {
	return volGet(ctx, c, parsedLines(meta.ParseDiffLine), wire.TargetDiff, vol, in.words()...)
}

// TotalDiffSize answers the size in bytes of the diffs of a volume.
func (c *Client) TotalDiffSize(ctx context.Context, vol string, in GidRange) (uint64, error) {
	return volGet(ctx, c, (*wire.Reader).U64, wire.TargetTotalDiffSize, vol, in.words()...)
}

// NumDiff answers the number of the diffs of a volume.
func (c *Client) NumDiff(ctx context.Context, vol string, in GidRange) (uint64, error) {
	return volGet(ctx, c, (*wire.Reader).U64, wire.TargetNumDiff, vol, in.words()...)
}

// ApplicableDiffs answers the chain of diffs that leads from the base image
// up to last; [meta.MaxGid] is no limit.
func (c *Client) ApplicableDiffs(ctx context.Context, vol string, last meta.Gid) ([]meta.Diff, error) {
	return volGet(ctx, c, parsedLines(meta.ParseDiffLine), wire.TargetApplicableDiff, vol, limit(last)...)
}

// ExistsDiff reports whether there is a diff from d.B to d.E.
func (c *Client) ExistsDiff(ctx context.Context, vol string, d meta.Diff) (bool, error) {
	return volGet(ctx, c, readFlag, wire.TargetExistsDiff, vol, d.B.B.String(), d.B.E.String(), d.E.B.String(), d.E.E.String())
}

// ExistsBaseImage reports whether the volume has a base image.
func (c *Client) ExistsBaseImage(ctx context.Context, vol string) (bool, error) {
	return volGet(ctx, c, readFlag, wire.TargetExistsBaseImage, vol)
}

// NumAction answers how many actions of a kind run on a volume: Merge, Apply,
// Restore, ReplSyncAsClient or Resize.
func (c *Client) NumAction(ctx context.Context, vol, action string) (uint64, error) {
	return volGet(ctx, c, (*wire.Reader).U64, wire.TargetNumAction, vol, action)
}

// AllActions answers the actions of all volumes in active states.
func (c *Client) AllActions(ctx context.Context) ([]VolumeActions, error) {
	return get(ctx, c, "", parsedLines(parseVolumeActions), wire.TargetAllActions)
}

// Restored answers the snapshots of which there is a restored image, ascending.
func (c *Client) Restored(ctx context.Context, vol string) ([]meta.Gid, error) {
	return volGet(ctx, c, parsedLines(meta.ParseGid), wire.TargetRestored, vol)
}

// Restorable answers the snapshots that can be restored, ascending; with all,
// the implicit ones too. In a state that is not active there are none.
func (c *Client) Restorable(ctx context.Context, vol string, all bool) ([]meta.Restorable, error) {
	var more []string
	if all {
		more = []string{"all"}
	}
	return volGet(ctx, c, parsedLines(meta.ParseRestorable), wire.TargetRestorable, vol, more...)
}

// ArchiveUUID answers the identity of the base image's lineage.
func (c *Client) ArchiveUUID(ctx context.Context, vol string) (meta.UUID, error) {
	return volGet(ctx, c, parsed(meta.ParseUUID), wire.TargetArchiveUUID, vol)
}

// Base answers the state of the base image.
func (c *Client) Base(ctx context.Context, vol string) (meta.State, error) {
	return volGet(ctx, c, parsed(parseState), wire.TargetBase, vol)
}

// BaseAll answers the states of the base images of all volumes in active states.
func (c *Client) BaseAll(ctx context.Context) ([]VolumeBase, error) {
	return get(ctx, c, "", parsedLines(parseVolumeBase), wire.TargetBaseAll)
}

// VolSize answers the size of the base image.
func (c *Client) VolSize(ctx context.Context, vol string) (block.LB, error) {
	return volGet(ctx, c, readBlocks, wire.TargetVolSize, vol)
}

// Progress answers how much of a running backup or incoming replication is
// done; 0 when none runs.
func (c *Client) Progress(ctx context.Context, vol string) (block.LB, error) {
	return volGet(ctx, c, readBlocks, wire.TargetProgress, vol)
}

// VolumeGroup answers the server's volume group.
func (c *Client) VolumeGroup(ctx context.Context) (string, error) {
	return c.GetString(ctx, wire.TargetVolumeGroup)
}

// MetaSnap answers the snapshot that the chain of diffs leads to, up to last;
// [meta.MaxGid] is no limit.
func (c *Client) MetaSnap(ctx context.Context, vol string, last meta.Gid) (meta.Snap, error) {
	return volGet(ctx, c, parsed(meta.ParseSnap), wire.TargetMetaSnap, vol, limit(last)...)
}

// MetaState answers the state that the chain of diffs leads to, up to last;
// [meta.MaxGid] is no limit. With applying it is shown as an application that
// has begun at the base.
func (c *Client) MetaState(ctx context.Context, vol string, applying bool, last meta.Gid) (meta.State, error) {
	args := append([]string{flag(applying)}, limit(last)...)
	return volGet(ctx, c, parsed(parseState), wire.TargetMetaState, vol, args...)
}

func limit(last meta.Gid) []string {
	if last == meta.MaxGid {
		return nil
	}
	return []string{last.String()}
}

func readFlag(r *wire.Reader) bool { return r.U64() != 0 }

func readBlocks(r *wire.Reader) block.LB { return block.LB(r.U64()) }
