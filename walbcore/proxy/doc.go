// Package proxy is the server between storages and archives: it turns the log
// it receives into diffs and delivers them to every registered archive, at
// least once and in the order of their snapshots.
//
// # What is on disk
//
//	<base>/<volume>/                       exists iff the volume is not Clear
//	    size                               u64: size of the volume in LB
//	    <archive>.archive                  wire.ArchiveInfo: where and how to send
//	    received/                          diffs that are not yet linked to every archive
//	    sendto/<archive>/                  diffs that wait for this archive
//	<base>/walbsh.lock                     held while a proxy works on the directory
//
// All diffs are indexed files, and those in sendto are hard links of what was
// in received. States are not stored: a volume with a directory begins as
// Stopped and is then started.
//
// # Order of persisting
//
// A received diff is acknowledged when it is durable in sendto/ of every
// archive and gone from received/. So a crash leaves it at worst in received/,
// from where the start links it again; the storage, which has no
// acknowledgement, sends it again, and the copy replaces the first one.
//
// The file <archive>.archive makes an archive registered: it is written last
// when one is added, and removed first when one is deleted. What a crash in
// between leaves behind is finished at the start: a volume without any archive
// is removed, unless it is complete otherwise and holds diffs.
//
// A diff with the same snapshots as one that waits already replaces it: it is
// the same range sent again, or the other one belongs to a log life that has
// ended. A sender that has the old file open goes on with it, and does not
// take the new one for delivered.
//
// # Locks
//
// Each volume has one lock. Checks, entering a state, and changes of the
// volume's archives happen under it; sending and receiving do not. The lock of
// the volume table is taken alone or inside no other.
package proxy
