package group

import (
	"fmt"
	"strings"
	"time"

	"walbsh/walbcore/meta"
)

// Copy is the result of bringing an archive up to a snapshot of another.
type Copy struct {
	Gid meta.Gid // the snapshot that was asked for, restorable at the source when the call began

	// Promised are the snapshots that the destination shall be able to restore
	// afterwards. A source of this program keeps every snapshot that it lists
	// as restorable when the call begins (AllPromised); an original, which
	// merges diffs as it copies, keeps only those taken on purpose.
	Promised    []meta.Gid
	AllPromised bool

	// Missing are those of Promised that the destination cannot restore, since
	// an earlier copy or an apply went past them. Normally empty.
	Missing []meta.Gid

	Joined  bool          // a copy that was running already was waited for
	Sent    int64         // bytes that the source sent for this call, valid if Counted
	Rounds  int           // transfers of which the copy consisted, valid if Counted
	Counted bool          // the source keeps counts; an original does not
	Elapsed time.Duration // from the call to the proof of success

	Warnings []string // what went wrong without spoiling the result
}

// String prints one line, for people.
func (c Copy) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gid %d in %s", c.Gid, shortTime(c.Elapsed))
	if c.Counted {
		fmt.Fprintf(&b, ", %s sent in %s", size(c.Sent), count(c.Rounds, "transfer"))
	}
	if c.Joined {
		b.WriteString(", joined a copy that was running")
	}
	fmt.Fprintf(&b, ", %s restorable", count(len(c.Promised)-len(c.Missing), "snapshot"))
	if !c.AllPromised {
		b.WriteString(" (the source promises only those taken on purpose)")
	}
	if len(c.Missing) > 0 {
		fmt.Fprintf(&b, ", missing %s", gidList(c.Missing))
	}
	return b.String() + warningText(c.Warnings)
}

// Pause tells how long one proxy stood still for a volume.
type Pause struct {
	Proxy string
	For   time.Duration // from the stop command until it was seen running again
}

// SyncResult is the result of synchronize and of replicate with synchronizing.
type SyncResult struct {
	// Copy is the copy that was made while the proxies stood still.
	Copy Copy

	// First is the copy that was made before, with the proxies running, by
	// replicate; nil for synchronize.
	First *Copy

	// Already tells that the archive was synchronizing before the call, so that
	// no proxy had to stop.
	Already bool

	Pauses   []Pause // the proxies that were stopped, in layout order
	Elapsed  time.Duration
	Warnings []string
}

// Standstill is the longest of the pauses.
func (r SyncResult) Standstill() time.Duration {
	var longest time.Duration
	for _, p := range r.Pauses {
		longest = max(longest, p.For)
	}
	return longest
}

// String prints one line, for people.
func (r SyncResult) String() string {
	var b strings.Builder
	if r.First != nil {
		fmt.Fprintf(&b, "first copy: %s; ", *r.First)
	}
	switch {
	case r.Already:
		b.WriteString("was synchronizing already, no proxy stopped")
	case len(r.Pauses) == 0:
		b.WriteString("synchronizing, no proxy was running")
	default:
		fmt.Fprintf(&b, "synchronizing, proxies stood still for %s", shortTime(r.Standstill()))
	}
	fmt.Fprintf(&b, "; copy: %s", r.Copy)
	return b.String() + warningText(r.Warnings)
}

// StopResult is the result of stop_synchronizing.
type StopResult struct {
	Removed  []string // proxies from which the archive was removed
	Pauses   []Pause
	Warnings []string // what was lost or could not be done, for people
}

// String prints one line, for people.
func (r StopResult) String() string {
	if len(r.Removed) == 0 {
		return "was not synchronizing" + warningText(r.Warnings)
	}
	return "no longer synchronizing, removed from " + strings.Join(r.Removed, " ") + warningText(r.Warnings)
}

// BackupResult is the result of full_backup and hash_backup.
type BackupResult struct {
	Gid      meta.Gid // the clean snapshot that the primary can restore; valid if Waited
	Waited   bool
	PutBack  []string // other archives that synchronize again behind a hash backup
	Elapsed  time.Duration
	Warnings []string
}

// String prints one line, for people.
func (r BackupResult) String() string {
	if !r.Waited {
		return "backup accepted" + warningText(r.Warnings)
	}
	return fmt.Sprintf("gid %d in %s", r.Gid, shortTime(r.Elapsed)) + warningText(r.Warnings)
}

// Restored is the result of restore.
type Restored struct {
	Gid  meta.Gid
	Name string // name of the image: wr_VOLUME_GID
	Path string // its path at the archive's machine, as far as it is known, else ""
}

// String prints one line, for people.
func (r Restored) String() string {
	if r.Path != "" {
		return r.Path
	}
	return r.Name
}

func shortTime(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// size prints a byte count with one digit behind the point where it is large.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func gidList(gids []meta.Gid) string {
	parts := make([]string, len(gids))
	for i, g := range gids {
		parts[i] = g.String()
	}
	return strings.Join(parts, " ")
}

func warningText(warnings []string) string {
	if len(warnings) == 0 {
		return ""
	}
	return " (warning: " + strings.Join(warnings, "; ") + ")"
}
