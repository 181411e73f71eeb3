package group

import (
	"time"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
)

// DefaultTimeout is the deadline of an operation that was given none: one day.
const DefaultTimeout = 24 * time.Hour

// SyncOpt tells how data goes to an archive. Two commands use it: registering
// an archive at a proxy takes Compress and Delay, replicating takes Compress,
// MaxMerge and Bulk. Where a nil *SyncOpt is given, the servers' defaults
// hold, and an existing registration is left as it is.
type SyncOpt struct {
	Compress compress.Opt
	Delay    time.Duration // how long a proxy keeps a diff before it sends it, whole seconds
	MaxMerge int64         // bytes; diffs are merged up to this size for one transfer
	Bulk     int64         // bytes of one block of a full copy, 512 to 4 MiB
}

// DefaultSyncOpt is what the operators' library fills in: snappy:0:1, no
// delay, merged up to 1 GiB, blocks of 64 KiB.
func DefaultSyncOpt() SyncOpt {
	return SyncOpt{
		Compress: compress.Opt{Type: compress.Snappy, CPUs: 1}, MaxMerge: 1 << 30, Bulk: 64 << 10,
	}
}

// ReplicateOptions are the options of copying a volume between two archives.
// The zero value means the defaults.
type ReplicateOptions struct {
	Timeout   time.Duration // 0 = [DefaultTimeout]
	Resync    bool          // overwrite the destination by comparison, also one of another lineage; it loses its snapshots
	DontMerge bool          // send every diff as it is
	Sync      *SyncOpt

	// Gid is the snapshot that the destination shall reach at least; nil means
	// the newest that is restorable at the source.
	Gid *meta.Gid
}

// SynchronizeOptions are the options of making an archive a live target.
type SynchronizeOptions struct {
	Timeout time.Duration // 0 = [DefaultTimeout]
	Sync    *SyncOpt
}

// FullBackupOptions are the options of a full or hash backup.
type FullBackupOptions struct {
	Timeout time.Duration // 0 = [DefaultTimeout]
	Bulk    int64         // bytes of one block, 512 to 4 MiB; 0 = the storage's default
	Sync    *SyncOpt      // for the registration of the primary archive

	// NoWait comes back as soon as the archive has accepted the backup. What
	// fails afterwards is neither seen nor brought back.
	NoWait bool
}

// Restorable filters for [Group.GetRestorable].
const (
	ExplicitOnly = false // snapshots that were taken, and the newest
	AllSnapshots = true  // implicit ones too
)
