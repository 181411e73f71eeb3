package group

import (
	"context"
	"maps"
	"slices"
	"sync"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
)

// VolumeStatus is what all servers of the layout say about one volume.
type VolumeStatus struct {
	Volume   string
	Storages []StorageStatus
	Proxies  []ProxyStatus
	Archives []ArchiveStatus
}

// StorageStatus is a volume at a storage. Err is nil unless the server did not
// answer; then only State may be valid. The rest is valid iff State is not Clear.
type StorageStatus struct {
	Server   Server
	Err      error
	State    string
	Overflow bool  // the log was full; a new backup is needed
	LogUsed  int64 // bytes
	LogSize  int64 // bytes

	// LatestGid is the newest snapshot; valid iff State is Target.
	LatestGid meta.Gid
}

// ProxyStatus is a volume at a proxy. Err as for [StorageStatus].
type ProxyStatus struct {
	Server   Server
	Err      error
	State    string
	Archives []Registration // by name
}

// Registration is an archive in a proxy's list.
type Registration struct {
	Name       string
	Addr       string
	Compress   string // type:level:cpus
	Delay      uint32 // seconds
	Waiting    int    // diffs that wait for the archive
	WaitingLen int64  // bytes of them
	SendError  bool   // sending has ended for good, until a kick or new data
}

// ArchiveStatus is a volume at an archive. Err as for [StorageStatus].
type ArchiveStatus struct {
	Server Server
	Err    error
	State  string

	// Synchronizing: every proxy has it in its list. Partly: some have. Both
	// count only proxies that answered.
	Synchronizing bool
	Partly        bool

	// Valid iff the state is active, that is Archived or a transfer on top of it.
	Active     bool
	Size       int64 // bytes of the base image
	Latest     meta.Snap
	Restorable []meta.Gid // ascending
	Restored   []meta.Gid // ascending
	Diffs      int
	DiffBytes  int64
	Actions    []client.Action
}

// Status asks all servers of the layout about a volume, all at the same time.
// A server that does not answer has its error in its entry; Status itself fails
// only for a bad name, or with NotFound when no server knows the volume.
func (g *Group) Status(ctx context.Context, vol string) (VolumeStatus, error) {
	const op = "status"
	if err := volumeArg(op, vol); err != nil {
		return VolumeStatus{}, err
	}
	l := g.Layout()
	st := VolumeStatus{
		Volume:   vol,
		Storages: make([]StorageStatus, len(l.Storages)),
		Proxies:  make([]ProxyStatus, len(l.Proxies)),
		Archives: make([]ArchiveStatus, len(l.Archives)),
	}
	var wg sync.WaitGroup
	for i, sx := range l.Storages {
		wg.Go(func() { st.Storages[i] = g.storageStatus(ctx, sx, vol) })
	}
	for i, px := range l.Proxies {
		wg.Go(func() { st.Proxies[i] = g.proxyStatus(ctx, px, vol) })
	}
	for i, ax := range l.Archives {
		wg.Go(func() { st.Archives[i] = g.archiveStatus(ctx, ax, vol) })
	}
	wg.Wait()
	for i := range st.Archives {
		st.Archives[i].registered(st.Proxies)
	}
	if !st.known() {
		return st, g.knownSomewhere(ctx, op, vol)
	}
	return st, nil
}

// known reports whether some server knows the volume, or may.
func (st VolumeStatus) known() bool {
	for _, s := range st.Storages {
		if s.Err != nil || s.State != fsm.StorageClear.String() {
			return true
		}
	}
	for _, s := range st.Proxies {
		if s.Err != nil || s.State != fsm.ProxyClear.String() {
			return true
		}
	}
	for _, s := range st.Archives {
		if s.Err != nil || s.State != fsm.ArchiveClear.String() {
			return true
		}
	}
	return false
}

// registered sets what the proxies' lists say about the archive.
func (a *ArchiveStatus) registered(proxies []ProxyStatus) {
	asked, have := 0, 0
	for _, p := range proxies {
		if p.Err != nil {
			continue
		}
		asked++
		if slices.ContainsFunc(p.Archives, func(r Registration) bool { return r.Name == a.Server.Name }) {
			have++
		}
	}
	a.Synchronizing = asked > 0 && have == asked
	a.Partly = have > 0 && have < asked
}

func (g *Group) storageStatus(ctx context.Context, sx Server, vol string) StorageStatus {
	st := StorageStatus{Server: sx}
	cl := g.Client(sx)
	if st.State, st.Err = cl.State(ctx, vol); st.Err != nil || st.State == fsm.StorageClear.String() {
		return st
	}
	if st.Overflow, st.Err = cl.IsOverflow(ctx, vol); st.Err != nil {
		return st
	}
	usage, err := cl.LogUsages(ctx, vol)
	if err != nil {
		st.Err = err
		return st
	}
	for _, u := range usage {
		st.LogUsed, st.LogSize = int64(u.UsagePB*u.PBS), int64(u.CapacityPB*u.PBS)
	}
	if st.State != fsm.StorageTarget.String() {
		return st
	}
	snaps, err := cl.LatestSnaps(ctx, vol)
	st.Err = err
	for _, s := range snaps {
		st.LatestGid = s.Gid
	}
	return st
}

func (g *Group) proxyStatus(ctx context.Context, px Server, vol string) ProxyStatus {
	st := ProxyStatus{Server: px}
	cl := g.Client(px)
	if st.State, st.Err = cl.State(ctx, vol); st.Err != nil || st.State == fsm.ProxyClear.String() {
		return st
	}
	names, err := cl.ArchiveInfoList(ctx, vol)
	if err != nil {
		st.Err = err
		return st
	}
	for _, name := range names {
		r, err := registrationStatus(ctx, cl, vol, name)
		if err != nil {
			st.Err = err
			return st
		}
		st.Archives = append(st.Archives, r)
	}
	return st
}

func registrationStatus(ctx context.Context, cl *client.Client, vol, name string) (Registration, error) {
	r := Registration{Name: name}
	info, err := cl.ArchiveInfoGet(ctx, vol, name)
	if err != nil {
		return r, err
	}
	r.Addr, r.Compress, r.Delay = info.Addr.String(), info.Compress.String(), info.SendDelay
	diffs, err := cl.ProxyDiffs(ctx, vol, name)
	if err != nil {
		return r, err
	}
	for _, d := range diffs {
		r.Waiting++
		r.WaitingLen += int64(d.Size)
	}
	r.SendError, err = cl.IsWdiffSendError(ctx, vol, name)
	return r, err
}

func (g *Group) archiveStatus(ctx context.Context, ax Server, vol string) ArchiveStatus {
	st := ArchiveStatus{Server: ax}
	state, err := g.archiveState(ctx, ax, vol)
	if err != nil {
		st.Err = err
		return st
	}
	st.State = state.String()
	if st.Active = active(state); st.Active {
		st.Err = g.activeStatus(ctx, &st, vol)
	}
	return st
}

// activeStatus fills in what an archive says about a volume that it serves.
func (g *Group) activeStatus(ctx context.Context, st *ArchiveStatus, vol string) error {
	cl := g.Client(st.Server)
	lb, err := cl.VolSize(ctx, vol)
	if err != nil {
		return err
	}
	st.Size = lb.Bytes()
	if st.Latest, err = cl.MetaSnap(ctx, vol, meta.MaxGid); err != nil {
		return err
	}
	list, err := cl.Restorable(ctx, vol, false)
	if err != nil {
		return err
	}
	for _, r := range list {
		st.Restorable = append(st.Restorable, r.Gid)
	}
	if st.Restored, err = cl.Restored(ctx, vol); err != nil {
		return err
	}
	diffs, err := cl.Diffs(ctx, vol, client.GidRange{})
	if err != nil {
		return err
	}
	for _, d := range diffs {
		st.Diffs++
		st.DiffBytes += int64(d.Size)
	}
	all, err := cl.AllActions(ctx)
	for _, v := range all {
		if v.Volume == vol {
			st.Actions = v.Actions
		}
	}
	return err
}

// Volumes lists the volumes that at least one server of the layout knows,
// sorted, and the error of the servers that do not answer.
func (g *Group) Volumes(ctx context.Context) ([]string, error) {
	lists, err := each(ctx, g.Layout().All(), func(ctx context.Context, s Server) ([]string, error) {
		return g.Client(s).Volumes(ctx)
	})
	all := map[string]bool{}
	for _, names := range lists {
		for _, n := range names {
			all[n] = true
		}
	}
	return slices.Sorted(maps.Keys(all)), err
}
