package fsm

// ArchiveState is the state of a volume at an archive.
type ArchiveState uint8

// The states of an archive volume, the steady ones first.
const (
	ArchiveClear     ArchiveState = iota // unknown or forgotten: no directory
	ArchiveSyncReady                     // initialized, waits for a full backup or replication
	ArchiveArchived                      // has a base image and takes diffs
	ArchiveStopped                       // has a base image and takes nothing

	ArchiveInitVol
	ArchiveClearVol
	ArchiveResetVol
	ArchiveFullSync
	ArchiveHashSync
	ArchiveResync
	ArchiveWdiffRecv
	ArchiveReplSyncAsServer
	ArchiveStop
	ArchiveStart
)

var archiveNames = [...]string{
	ArchiveClear:            "Clear",
	ArchiveSyncReady:        "SyncReady",
	ArchiveArchived:         "Archived",
	ArchiveStopped:          "Stopped",
	ArchiveInitVol:          "InitVol",
	ArchiveClearVol:         "ClearVol",
	ArchiveResetVol:         "ResetVol",
	ArchiveFullSync:         "FullSync",
	ArchiveHashSync:         "HashSync",
	ArchiveResync:           "Resync",
	ArchiveWdiffRecv:        "WdiffRecv",
	ArchiveReplSyncAsServer: "ReplSyncAsServer",
	ArchiveStop:             "Stop",
	ArchiveStart:            "Start",
}

// String gives the name on the wire.
func (s ArchiveState) String() string { return nameOf(archiveNames[:], s) }

// Steady reports whether it is Clear, SyncReady, Archived or Stopped. All of
// these but Clear are stored.
func (s ArchiveState) Steady() bool { return s <= ArchiveStopped }

// ParseArchiveState reads a name, also of a temporary state.
func ParseArchiveState(name string) (ArchiveState, error) {
	return parseName[ArchiveState](archiveNames[:], name)
}

// ArchiveActive lists the states in which a volume has a base image that can be
// read, and in which actions may begin.
func ArchiveActive() []ArchiveState {
	return []ArchiveState{ArchiveArchived, ArchiveHashSync, ArchiveWdiffRecv, ArchiveReplSyncAsServer}
}

// The actions at an archive.
const (
	Merge            Action = "Merge"
	Apply            Action = "Apply"
	Restore          Action = "Restore"
	ReplSyncAsClient Action = "ReplSyncAsClient"
	Resize           Action = "Resize"
)

// ArchiveActions lists the actions in the order of the status line.
func ArchiveActions() []Action {
	return []Action{Merge, Apply, Restore, ReplSyncAsClient, Resize}
}

// ArchiveConflicts lists the actions beside which a must not begin. Whatever
// replaces or extends the image from outside (full and hash sync, replication as
// server), and the commands that make or remove a volume, require that none runs at all.
func ArchiveConflicts(a Action) []Action {
	switch a {
	case Merge:
		return []Action{Apply, Merge, Resize}
	case Apply, ReplSyncAsClient:
		return []Action{Restore, ReplSyncAsClient, Apply, Merge, Resize}
	case Restore:
		return []Action{Restore, Resize}
	case Resize:
		return []Action{Restore, ReplSyncAsClient, Apply, Resize}
	}
	return nil
}

// ArchiveTable lists all moves of an archive volume.
func ArchiveTable() []Move[ArchiveState] {
	return []Move[ArchiveState]{
		{ArchiveClear, ArchiveInitVol, ArchiveSyncReady},            // init-vol
		{ArchiveSyncReady, ArchiveClearVol, ArchiveClear},           // clear-vol
		{ArchiveStopped, ArchiveClearVol, ArchiveClear},             // clear-vol
		{ArchiveSyncReady, ArchiveResetVol, ArchiveSyncReady},       // reset-vol
		{ArchiveStopped, ArchiveResetVol, ArchiveSyncReady},         // reset-vol, resync
		{ArchiveSyncReady, ArchiveFullSync, ArchiveArchived},        // full backup, full replication as server
		{ArchiveSyncReady, ArchiveResync, ArchiveArchived},          // resync as server
		{ArchiveArchived, ArchiveHashSync, ArchiveArchived},         // hash backup
		{ArchiveArchived, ArchiveWdiffRecv, ArchiveArchived},        // wdiff-transfer
		{ArchiveArchived, ArchiveReplSyncAsServer, ArchiveArchived}, // diff and hash replication as server
		{ArchiveArchived, ArchiveStop, ArchiveStopped},              // stop, resync
		{ArchiveStopped, ArchiveStart, ArchiveArchived},             // start
	}
}

// NewArchive makes the machine of an archive volume. initial must be steady.
// observe is as in [NewStorage].
func NewArchive(initial ArchiveState, observe func(from, to ArchiveState)) *Machine[ArchiveState] {
	return newMachine(ArchiveTable(), ArchiveActions(), initial, observe)
}
