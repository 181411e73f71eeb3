package fsm

// StorageState is the state of a volume at a storage.
type StorageState uint8

// The states of a storage volume, the steady ones first.
const (
	StorageClear     StorageState = iota // unknown or forgotten: no directory
	StorageSyncReady                     // initialized, waits for a full or hash backup
	StorageStopped                       // backed up, its log is kept but not sent
	StorageTarget                        // its log is sent to the proxies
	StorageStandby                       // its log is thrown away

	StorageInitVol
	StorageClearVol
	StorageStartStandby
	StorageStopStandby
	StorageFullSync
	StorageHashSync
	StorageReset
	StorageStartTarget
	StorageStopTarget
)

var storageNames = [...]string{
	StorageClear:        "Clear",
	StorageSyncReady:    "SyncReady",
	StorageStopped:      "Stopped",
	StorageTarget:       "Target",
	StorageStandby:      "Standby",
	StorageInitVol:      "InitVol",
	StorageClearVol:     "ClearVol",
	StorageStartStandby: "StartStandby",
	StorageStopStandby:  "StopStandby",
	StorageFullSync:     "FullSync",
	StorageHashSync:     "HashSync",
	StorageReset:        "Reset",
	StorageStartTarget:  "StartTarget",
	StorageStopTarget:   "StopTarget",
}

// String gives the name on the wire.
func (s StorageState) String() string { return nameOf(storageNames[:], s) }

// Steady reports whether it is Clear, SyncReady, Stopped, Target or Standby.
// All of these but Clear are stored.
func (s StorageState) Steady() bool { return s <= StorageStandby }

// ParseStorageState reads a name, also of a temporary state.
func ParseStorageState(name string) (StorageState, error) {
	return parseName[StorageState](storageNames[:], name)
}

// The actions at a storage. At most one runs at a time.
const (
	WlogSend   Action = "WlogSend"   // in Target, and at the end of FullSync and HashSync
	WlogRemove Action = "WlogRemove" // in Standby
)

// StorageActions lists the actions in the order of the status line.
func StorageActions() []Action { return []Action{WlogSend, WlogRemove} }

// StorageTable lists all moves of a storage volume.
func StorageTable() []Move[StorageState] {
	return []Move[StorageState]{
		{StorageClear, StorageInitVol, StorageSyncReady},        // init-vol
		{StorageSyncReady, StorageClearVol, StorageClear},       // clear-vol
		{StorageSyncReady, StorageStartStandby, StorageStandby}, // start standby
		{StorageStandby, StorageStopStandby, StorageSyncReady},  // stop
		{StorageSyncReady, StorageFullSync, StorageStopped},     // full-bkp, then at once StartTarget
		{StorageSyncReady, StorageHashSync, StorageStopped},     // hash-bkp, then at once StartTarget
		{StorageStopped, StorageReset, StorageSyncReady},        // reset-vol
		{StorageStopped, StorageStartTarget, StorageTarget},     // start target
		{StorageTarget, StorageStopTarget, StorageStopped},      // stop, or the log overflowed
	}
}

// NewStorage makes the machine of a storage volume. initial must be steady.
// observe, which may be nil, is told every change of state in order; it runs
// under the machine's lock and must not call it.
func NewStorage(initial StorageState, observe func(from, to StorageState)) *Machine[StorageState] {
	return newMachine(StorageTable(), StorageActions(), initial, observe)
}
