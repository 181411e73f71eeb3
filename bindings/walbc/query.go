package walbc

import (
	"context"
	"time"

	"walbsh/bindings/kit"
	"walbsh/walbcore/client"
	"walbsh/walbcore/group"
	"walbsh/walbcore/meta"
)

// queries lists the verbs that only ask.
func (s *Session) queries() []kit.Verb {
	g := s.Group
	return []kit.Verb{
		{
			Name:    "layout",
			Summary: "draw the group as it is now",
			Doc: "An arrow leads from a proxy to each archive that follows the volume, and from a storage around them to the primary " +
				"archive, where backups go.",
			Params: []kit.Param{{Name: "vol", PyName: "vol", Type: kit.String, Doc: "name of the volume; unset means the only one"}},
			Tier:   kit.Query,
			Result: "the picture, which prints as its lines and has them as text",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return s.picture(ctx, kit.Get[string](a, "vol"))
			},
		},
		{
			Name:    "status",
			Summary: "tell everything about a volume at all servers",
			Doc:     "A server that does not answer has err in its entry.",
			Params:  []kit.Param{volParam()},
			Tier:    kit.Query,
			Result:  "a table of storages, proxies, archives",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				st, err := g.Status(ctx, vol(a))
				if err != nil {
					return nil, err
				}
				return statusTable(st), nil
			},
		},
		{
			Name:    "get_state",
			Summary: "tell the state of a volume at a server",
			Doc:     "A server that does not know the volume says Clear.",
			Params:  []kit.Param{serverParam(), volParam()},
			Tier:    kit.Query,
			Result:  "the name of the state",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.GetState(ctx, at(a, "s"), vol(a))
			},
		},
		{
			Name:    "get_state_all",
			Summary: "tell the state of a volume at every server",
			Doc:     "A server that does not answer is left out of the table and told as a warning.",
			Params:  []kit.Param{volParam()},
			Tier:    kit.Query,
			Result:  "a table of states by server name",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				states := map[string]string{}
				for _, server := range g.Layout().All() {
					st, err := g.GetState(ctx, server, vol(a))
					if err != nil {
						s.notice("warning: %s", err)
						continue
					}
					states[server.Name] = st
				}
				return states, nil
			},
		},
		{
			Name:    "get_ts_delta",
			Summary: "tell how far the destinations of a server are behind it",
			Doc: "An archive tells of the replications that it ran since it was started, a storage of the last time that it asked its " +
				"archive, which it does every minute. Where a destination has no snapshot, dest_gid, dest_ts and ts_delta are nil.",
			Params: []kit.Param{{Name: "ax", PyName: "ax", Type: server("an archive or storage server", group.Archive, group.Storage), Required: true, Doc: "source"}},
			Tier:   kit.Query,
			Result: "a table of records: name, dest, kind, dest_kind, gid, ts, dest_gid, dest_ts, ts_delta",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				list, err := g.Client(ax(a)).TsDeltas(ctx)
				if err != nil {
					return nil, err
				}
				return tsDeltas(list), nil
			},
		},
		{
			Name:    "get_vol_list",
			Summary: "list the volumes that a server knows",
			Doc:     "In the order in which the server gives them.",
			Params:  []kit.Param{serverParam()},
			Tier:    kit.Query,
			Result:  "a list of names",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.Client(at(a, "s")).Volumes(ctx)
			},
		},
		{
			Name:    "get_host_type",
			Summary: "ask a server what it is",
			Doc:     "A quick way to see whether it answers.",
			Params:  []kit.Param{serverParam()},
			Tier:    kit.Query,
			Result:  "storage, proxy or archive",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.Client(at(a, "s")).HostType(ctx)
			},
		},
		archiveQuery(g, "get_base", "tell what the base image of a volume is at", "an active volume only", "the state as the servers print it",
			func(ctx context.Context, c *client.Client, vol string) (any, error) {
				st, err := c.Base(ctx, vol)
				return st.Text(), err
			}),
		archiveQuery(g, "get_archive_uuid", "tell the lineage of a volume's base image", "Archives of one lineage can replicate to each other.",
			"32 hexadecimal digits",
			func(ctx context.Context, c *client.Client, vol string) (any, error) {
				u, err := c.ArchiveUUID(ctx, vol)
				return u.String(), err
			}),
		archiveQuery(g, "get_vol_size_lb", "tell the size of a volume's base image", "In logical blocks of 512 bytes.", "a number of blocks",
			func(ctx context.Context, c *client.Client, vol string) (any, error) { return c.VolSize(ctx, vol) }),
		archiveQuery(g, "get_progress_lb", "tell how far a running full backup or full replication is",
			"In logical blocks of 512 bytes; 0 when none runs.", "a number of blocks",
			func(ctx context.Context, c *client.Client, vol string) (any, error) { return c.Progress(ctx, vol) }),
		{
			Name:    "get_uuid",
			Summary: "tell the life of the log that a volume's data comes from",
			Doc:     "Storage and archive agree on it while diffs flow.",
			Params:  []kit.Param{{Name: "s", PyName: "s", Type: server("a storage or archive server", group.Storage, group.Archive), Required: true, Doc: "server to ask"}, volParam()},
			Tier:    kit.Query,
			Result:  "32 hexadecimal digits",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				u, err := g.Client(at(a, "s")).UUID(ctx, vol(a))
				return u.String(), err
			},
		},
		{
			Name:    "get_diff_list",
			Summary: "list the diffs that an archive has of a volume",
			Doc:     "As the servers print them: snapshots, flags (M mergeable, C compared), time, bytes.",
			Params: []kit.Param{
				archiveParam("archive to ask"), volParam(),
				{Name: "gid0", PyName: "gid0", Type: kit.Uint64, Default: uint64(0), Doc: "begin of the range in which diffs begin"},
				{Name: "gid1", PyName: "gid1", Type: kit.Uint64, Default: uint64(meta.MaxGid), Doc: "end of the range, not included"},
			},
			Tier:   kit.Query,
			Result: "a list of lines",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				diffs, err := g.Client(ax(a)).Diffs(ctx, vol(a), client.GidRange{
					From: meta.Gid(kit.Get[uint64](a, "gid0")), To: meta.Gid(kit.Get[uint64](a, "gid1")),
				})
				return diffTexts(diffs), err
			},
		},
		{
			Name:    "get_latest_snapshot_info",
			Summary: "tell the newest snapshot of each volume at an archive",
			Doc:     "It may be dirty; walbc.get_restorable lists those that can be restored.",
			Params:  []kit.Param{archiveParam("archive to ask"), {Name: "vol", PyName: "vol", Type: kit.String, Default: "", Doc: "one volume only"}},
			Tier:    kit.Query,
			Result:  "a table of gids by volume name",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				snaps, err := g.Client(ax(a)).LatestSnaps(ctx, vol(a))
				if err != nil {
					return nil, err
				}
				gids := map[string]meta.Gid{}
				for _, snap := range snaps {
					gids[snap.Volume] = snap.Gid
				}
				return gids, nil
			},
		},
		{
			Name:    "get_archive_info_list",
			Summary: "list the archives that a proxy sends a volume's diffs to",
			Doc:     "A proxy that does not know the volume has none.",
			Params:  []kit.Param{proxyParam(), volParam()},
			Tier:    kit.Query,
			Result:  "a list of archive names",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.Client(at(a, "px")).ArchiveInfoList(ctx, vol(a))
			},
		},
		{
			Name:    "is_overflow",
			Summary: "tell whether the log of a volume was full",
			Doc:     "Then log was lost that no archive has, and the volume needs a new backup.",
			Params:  []kit.Param{storageParam(), volParam()},
			Tier:    kit.Query,
			Result:  "true or false",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.Client(at(a, "sx")).IsOverflow(ctx, vol(a))
			},
		},
		{
			Name:    "is_wdiff_send_error",
			Summary: "tell whether a proxy gave up sending a volume's diffs to an archive",
			Doc:     "walbc.kick_proxy makes it try again. That it did not give up does not prove that diffs flow.",
			Params:  []kit.Param{proxyParam(), volParam(), archiveParam("archive to send to")},
			Tier:    kit.Query,
			Result:  "true or false",
			Run: func(ctx context.Context, a kit.Args) (any, error) {
				return g.Client(at(a, "px")).IsWdiffSendError(ctx, vol(a), ax(a).Name)
			},
		},
		{
			Name:    "jobs",
			Summary: "list the operations of this session, running and ended",
			Doc:     "Also those whose caller has gone and that are bringing back what they changed.",
			Tier:    kit.Query,
			Result:  "a list of lines",
			Run: func(context.Context, kit.Args) (any, error) {
				return jobLines(g.Jobs().List()), nil
			},
		},
	}
}

// archiveQuery is a verb that asks an archive one thing about a volume.
func archiveQuery(g *group.Group, name, summary, doc, result string, ask func(ctx context.Context, c *client.Client, vol string) (any, error)) kit.Verb {
	return kit.Verb{
		Name: name, Summary: summary, Doc: doc, Tier: kit.Query, Result: result,
		Params: []kit.Param{archiveParam("archive to ask"), volParam()},
		Run: func(ctx context.Context, a kit.Args) (any, error) {
			return ask(ctx, g.Client(ax(a)), vol(a))
		},
	}
}

func diffTexts(diffs []meta.Diff) []string {
	lines := make([]string, len(diffs))
	for i, d := range diffs {
		lines[i] = d.Line()
	}
	return lines
}

// The status as scripts see it: plain tables by server name.

type storageEntry struct {
	State     string
	Err       string `lua:"err"`
	Overflow  bool
	LogUsed   int64
	LogSize   int64
	LatestGid meta.Gid
}

type proxyEntry struct {
	State    string
	Err      string
	Archives []registrationEntry
}

type registrationEntry struct {
	Name         string
	Addr         string
	Compress     string
	DelayS       uint32
	Waiting      int
	WaitingBytes int64
	SendError    bool
}

type archiveEntry struct {
	State         string
	Err           string
	Synchronizing bool
	SizeLB        uint64 `lua:"size_lb"`
	Latest        string
	Restorable    []meta.Gid
	Restored      []meta.Gid
	Diffs         int
	DiffBytes     int64
	Actions       []string
}

type statusEntry struct {
	Volume   string
	At       time.Time
	Storages map[string]storageEntry
	Proxies  map[string]proxyEntry
	Archives map[string]archiveEntry
}

func statusTable(st group.VolumeStatus) statusEntry {
	e := statusEntry{
		Volume: st.Volume, At: time.Now(),
		Storages: map[string]storageEntry{}, Proxies: map[string]proxyEntry{}, Archives: map[string]archiveEntry{},
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	for _, s := range st.Storages {
		e.Storages[s.Server.Name] = storageEntry{s.State, text(s.Err), s.Overflow, s.LogUsed, s.LogSize, s.LatestGid}
	}
	for _, p := range st.Proxies {
		entry := proxyEntry{State: p.State, Err: text(p.Err)}
		for _, r := range p.Archives {
			entry.Archives = append(entry.Archives, registrationEntry{r.Name, r.Addr, r.Compress, r.Delay, r.Waiting, r.WaitingLen, r.SendError})
		}
		e.Proxies[p.Server.Name] = entry
	}
	for _, a := range st.Archives {
		entry := archiveEntry{
			State: a.State, Err: text(a.Err), Synchronizing: a.Synchronizing, SizeLB: lb(a.Size),
			Restorable: a.Restorable, Restored: a.Restored, Diffs: a.Diffs, DiffBytes: a.DiffBytes,
		}
		if a.Active {
			entry.Latest = a.Latest.String()
		}
		for _, act := range a.Actions {
			if act.Running > 0 {
				entry.Actions = append(entry.Actions, act.Name)
			}
		}
		e.Archives[a.Server.Name] = entry
	}
	return e
}

// tsDeltaEntry is how scripts see how far a destination is behind.
type tsDeltaEntry struct {
	Name     string
	Dest     string
	Kind     string
	DestKind string
	Gid      meta.Gid
	Ts       time.Time
	DestGid  any // nil where the destination has no snapshot, as the following
	DestTs   any
	TsDelta  any // seconds
}

func tsDeltas(list []client.TsDelta) []tsDeltaEntry {
	out := make([]tsDeltaEntry, 0, len(list))
	for _, d := range list {
		e := tsDeltaEntry{
			Name: d.Volume, Dest: d.Dest, Kind: d.Kind, DestKind: d.DestKind, Gid: d.Gid, Ts: time.Unix(int64(d.Timestamp), 0),
		}
		if d.DestGid != meta.MaxGid {
			e.DestGid, e.DestTs, e.TsDelta = d.DestGid, time.Unix(int64(d.DestTimestamp), 0), d.Delta
		}
		out = append(out, e)
	}
	return out
}
