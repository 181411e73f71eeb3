// Package archive is the archive server: it keeps a base image and diffs for
// each volume, takes in full backups, diffs and replications, restores any
// snapshot, and replicates volumes to other archives.
//
// # Files of a volume, in <base>/<volume>/
//
//	state            str: SyncReady, Archived or Stopped
//	base             state record: what the base image is at
//	uuid             16 bytes: life of the log that the diffs come from
//	archive_uuid     16 bytes: lineage of the base image
//	*.wdiff          the diffs (package diffstore)
//	full_repl_state  how far a full replication from another archive had come
//	wb_*, wr_*       base and restored images (package image)
//	tmpXXXXXX        being written; garbage after a crash
//
// A volume without a directory is in state Clear. `state` is written last when
// a volume is made and removed first when it is cleared, so a directory without
// it is what an interruption left, and is removed at the next start.
//
// # Rules
//
//   - A diff or image is acknowledged when it is durable under its final name,
//     and listed. Nothing is listed that is not.
//   - The latest state is computed from base and diffs when it is asked for;
//     there is no copy that could go stale.
//   - Discarded blocks of a restored image are as the option Discard says.
//
// # Locks
//
// volume.mu guards the copies of the small files in memory; it is never held
// while a peer is waited for. The diffs and the state machine have locks of
// their own. What may run beside what is decided by states, transactions and
// actions (package fsm). A force stop ends the context of everything that runs
// on the volume.
//
// What may come in: image.Store for images, other archives only over TCP.
package archive
