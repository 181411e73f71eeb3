// Package fsm holds the life of a volume at each of the three servers: its
// states and the moves between them, the actions that run beside the states,
// and the stop that waits for both.
//
// A move leads from a steady state through a temporary one to a steady one:
//
//	SyncReady --FullSync--> Archived
//
// [Machine.Begin] enters the temporary state and opens the one transaction that
// a volume may have; [Tx.Commit] leaves it forward, [Tx.Rollback] backward. Only
// steady states are ever stored, so a server never starts in a temporary one.
// The tables of all moves are [StorageTable], [ProxyTable] and [ArchiveTable].
//
// Actions are counted, not exclusive by nature; which one is refused while
// which others run is data too, for example [ArchiveConflicts].
//
// A [Machine] is safe for concurrent use. Each call is atomic by itself; a
// handler whose checks and move must be one step holds the volume's lock around
// them. Nobody needs to poll: [Machine.Watch] and [Machine.Wait] tell of any change.
//
// The package is pure: no os, net, clock, log or goroutine may come in, and of
// this system only walberr. The texts of its errors are those of the original,
// since servers send them to their peers; each begins with the handler's name
// that the caller gives.
package fsm
