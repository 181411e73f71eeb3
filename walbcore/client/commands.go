package client

import (
	"context"
	"fmt"
	"strconv"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/wire"
)

// Role of a storage volume that is started.
type Role string

// The roles. A proxy or archive volume takes none.
const (
	RoleNone    Role = ""
	RoleTarget  Role = "target"  // its log is shipped
	RoleStandby Role = "standby" // its log is thrown away
)

// StopMode says how a volume is stopped.
type StopMode string

// The modes.
const (
	StopGraceful StopMode = ""      // running transfers end first
	StopForce    StopMode = "force" // running transfers are broken off
	StopEmpty    StopMode = "empty" // proxies only: all received diffs are sent first
)

// simple performs a command on a checked volume, whose reply is one word.
func (c *Client) simple(ctx context.Context, name, vol, status string, more ...string) error {
	cmd := command{name: name, volume: vol, status: status, body: words(append([]string{vol}, more...)...)}
	if err := c.checked(cmd); err != nil {
		return err
	}
	return c.once(ctx, cmd)
}

// Version answers the server's version line:
// version:V, build_date:T, log_version:N and commit:H, separated by tabs.
func (c *Client) Version(ctx context.Context) (string, error) {
	var line string
	err := c.once(ctx, command{name: wire.ProtoVersion, answer: func(r *wire.Reader) error {
		line = r.Str()
		return nil
	}})
	return line, err
}

// Sleep makes the server wait for a number of seconds before it answers.
func (c *Client) Sleep(ctx context.Context, seconds uint64) error {
	return c.once(ctx, command{
		name: wire.ProtoSleep, status: wire.OK,
		body: func(w *wire.Writer) { w.U64(seconds) },
	})
}

// Shutdown ends the server process, or the embedded server. With force,
// running transfers are broken off.
func (c *Client) Shutdown(ctx context.Context, force bool) error {
	return c.once(ctx, command{
		name: wire.ProtoShutdown, status: wire.Accept,
		body: func(w *wire.Writer) { w.Bool(force) },
	})
}

// InitVol makes a volume known to a storage or archive: Clear to SyncReady. A
// storage needs the path of its walb device, an archive takes none ("").
func (c *Client) InitVol(ctx context.Context, vol, wdevPath string) error {
	return c.simple(ctx, wire.ProtoInitVol, vol, wire.OK, given(wdevPath)...)
}

// ClearVol removes a stopped volume and all its data from a server.
func (c *Client) ClearVol(ctx context.Context, vol string) error {
	return c.simple(ctx, wire.ProtoClearVol, vol, wire.OK)
}

// ResetVol brings a stopped volume of a storage or archive back to SyncReady;
// at an archive all its data is removed.
func (c *Client) ResetVol(ctx context.Context, vol string) error {
	return c.simple(ctx, wire.ProtoResetVol, vol, wire.OK)
}

// ResetVolTo is ResetVol at a storage, with the gid that the log's new life
// begins at.
func (c *Client) ResetVolTo(ctx context.Context, vol string, gid meta.Gid) error {
	return c.simple(ctx, wire.ProtoResetVol, vol, wire.OK, gid.String())
}

// Start starts a stopped volume. A storage needs a role, the others take [RoleNone].
func (c *Client) Start(ctx context.Context, vol string, role Role) error {
	return c.simple(ctx, wire.ProtoStart, vol, wire.OK, given(string(role))...)
}

// Stop asks a server to stop a volume. The server works on after the answer,
// for up to 60 seconds, and then gives up silently: the caller looks at the state.
func (c *Client) Stop(ctx context.Context, vol string, mode StopMode) error {
	return c.simple(ctx, wire.ProtoStop, vol, wire.Accept, given(string(mode))...)
}

// Kick makes a storage or proxy do its waiting transfers now: of all volumes,
// or at a proxy of one volume, or of one archive of that volume. Empty
// arguments are left out; an archive needs a volume.
func (c *Client) Kick(ctx context.Context, vol, archive string) error {
	if vol == "" && archive == "" {
		return c.once(ctx, command{name: wire.ProtoKick, status: wire.OK, body: words()})
	}
	return c.simple(ctx, wire.ProtoKick, vol, wire.OK, given(archive)...)
}

// FullBackup begins a full backup of a SyncReady volume from a storage to its
// archive. Bulk is the size of the transferred pieces in bytes, 512 to 4 MiB;
// 0 is the server's default.
func (c *Client) FullBackup(ctx context.Context, vol string, bulk int64) error {
	return c.simple(ctx, wire.ProtoFullBkp, vol, wire.Accept, sizeGiven(bulk)...)
}

// HashBackup begins a hash backup of a SyncReady volume from a storage to its
// archive, which has the volume: what differs from the archive's latest image
// is sent. Bulk is the size of the compared pieces, as in [Client.FullBackup].
func (c *Client) HashBackup(ctx context.Context, vol string, bulk int64) error {
	return c.simple(ctx, wire.ProtoHashBkp, vol, wire.Accept, sizeGiven(bulk)...)
}

// SetFullScanBps limits how fast a storage reads volumes for full and hash
// backups, in bytes per second; 0 is no limit. It holds for backups that run,
// too, until the server ends.
func (c *Client) SetFullScanBps(ctx context.Context, bps int64) error {
	cmd := command{name: wire.ProtoSetFullScan, status: wire.OK, body: words(strconv.FormatInt(bps, 10))}
	if bps < 0 {
		return c.usage(cmd, fmt.Errorf("%d bytes per second", bps))
	}
	return c.once(ctx, cmd)
}

// sizeGiven is the list of a size in bytes that may be left out as 0.
func sizeGiven(size int64) []string {
	if size == 0 {
		return nil
	}
	return []string{strconv.FormatInt(size, 10)}
}

// Snapshot takes an explicit snapshot at a storage and answers its gid. It is
// restorable at an archive when the log up to it has arrived there.
func (c *Client) Snapshot(ctx context.Context, vol string) (meta.Gid, error) {
	var gid meta.Gid
	cmd := command{
		name: wire.ProtoSnapshot, volume: vol, status: wire.OK, body: words(vol),
		answer: func(r *wire.Reader) error {
			gid = meta.Gid(r.U64())
			return nil
		},
	}
	if err := c.checked(cmd); err != nil {
		return 0, err
	}
	err := c.once(ctx, cmd)
	return gid, err
}

// Restore begins to make an image of a snapshot at an archive.
func (c *Client) Restore(ctx context.Context, vol string, gid meta.Gid) error {
	return c.simple(ctx, wire.ProtoRestore, vol, wire.Accept, gid.String())
}

// DelRestored removes the restored image of a snapshot from an archive.
func (c *Client) DelRestored(ctx context.Context, vol string, gid meta.Gid) error {
	return c.simple(ctx, wire.ProtoDelRestored, vol, wire.OK, gid.String())
}

// Replication says what an archive sends to another one, and how. Zero values
// of the optional fields leave the choice to the server.
type Replication struct {
	Dest wire.Addr // the other archive, as the sending one reaches it

	// ByGid ends the replication once the destination has reached Value, a
	// gid; else it ends once what is missing is at most Value MiB of diffs.
	ByGid bool
	Value uint64

	Resync       bool         // the destination's image may be overwritten by comparison
	DontMerge    bool         // diffs are sent one by one as they are
	Compress     compress.Opt // optional
	MaxMergeSize int64        // most diff data merged into one, in bytes; optional
	Bulk         int64        // size of the pieces of a full replication, in bytes; optional
}

// words are the arguments of replicate behind the volume. Trailing defaults
// are left out.
func (p Replication) words() []string {
	kind := "size"
	if p.ByGid {
		kind = "gid"
	}
	v := []string{kind, strconv.FormatUint(p.Value, 10), p.Dest.String(), flag(p.Resync), flag(p.DontMerge), "snappy:0:1", "1g", "256k"}
	used := len(v) - 5
	if p.Resync {
		used = 4
	}
	if p.DontMerge {
		used = 5
	}
	if p.Compress != (compress.Opt{}) {
		v[5], used = p.Compress.String(), 6
	}
	if p.MaxMergeSize != 0 {
		v[6], used = block.FormatSize(p.MaxMergeSize), 7
	}
	if p.Bulk != 0 {
		v[7], used = block.FormatSize(p.Bulk), 8
	}
	return v[:used]
}

// Replicate begins a replication from the archive to another one. It returns
// when the other archive has accepted the volume.
func (c *Client) Replicate(ctx context.Context, vol string, p Replication) error {
	if err := p.Dest.Check(); err != nil {
		return c.usage(command{name: wire.ProtoReplicate, volume: vol}, err)
	}
	return c.simple(ctx, wire.ProtoReplicate, vol, wire.Accept, p.words()...)
}

// ArchiveInfoAdd registers an archive at a stopped proxy volume; the first one
// makes the volume.
func (c *Client) ArchiveInfoAdd(ctx context.Context, vol, archive string, info wire.ArchiveInfo) error {
	return c.archiveInfo(ctx, wire.InfoAdd, vol, archive, info, nil)
}

// ArchiveInfoUpdate changes a registered archive, or adds it.
func (c *Client) ArchiveInfoUpdate(ctx context.Context, vol, archive string, info wire.ArchiveInfo) error {
	return c.archiveInfo(ctx, wire.InfoUpdate, vol, archive, info, nil)
}

// ArchiveInfoGet answers how a registered archive is sent to.
func (c *Client) ArchiveInfoGet(ctx context.Context, vol, archive string) (wire.ArchiveInfo, error) {
	var info wire.ArchiveInfo
	err := c.archiveInfo(ctx, wire.InfoGet, vol, archive, wire.ArchiveInfo{}, func(r *wire.Reader) error {
		info.Decode(r)
		return nil
	})
	return info, err
}

// ArchiveInfoDelete removes an archive and the diffs that wait for it from a
// stopped proxy volume; the last one removes the volume.
func (c *Client) ArchiveInfoDelete(ctx context.Context, vol, archive string) error {
	return c.archiveInfo(ctx, wire.InfoDelete, vol, archive, wire.ArchiveInfo{}, nil)
}

// ArchiveInfoList answers the names of a proxy volume's archives, ascending.
// An unknown volume has none.
func (c *Client) ArchiveInfoList(ctx context.Context, vol string) ([]string, error) {
	var names []string
	err := c.archiveInfo(ctx, wire.InfoList, vol, "", wire.ArchiveInfo{}, func(r *wire.Reader) error {
		names = r.StrVec()
		return nil
	})
	return names, err
}

func (c *Client) archiveInfo(ctx context.Context, sub, vol, archive string, info wire.ArchiveInfo, answer func(*wire.Reader) error) error {
	req := wire.ArchiveInfoRequest{Words: []string{sub, vol}, Name: archive, Info: info}
	cmd := command{
		name: wire.ProtoArchiveInfo, op: wire.ProtoArchiveInfo + " " + sub, volume: vol,
		status: wire.OK, body: req.Encode, answer: answer,
	}
	if err := c.checked(cmd); err != nil {
		return err
	}
	if req.NeedsName() && archive == "" {
		return c.usage(cmd, fmt.Errorf("the archive's name is empty"))
	}
	if req.NeedsInfo() {
		if err := info.Addr.Check(); err != nil {
			return c.usage(cmd, err)
		}
		if err := info.Compress.Validate(); err != nil {
			return c.usage(cmd, err)
		}
	}
	return c.once(ctx, cmd)
}

// given is the list of a word that may be missing.
func given(word string) []string {
	if word == "" {
		return nil
	}
	return []string{word}
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}
