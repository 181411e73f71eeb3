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
//	resync_*         a resync whose differences have all come (see resync.go)
//	wb_*, wr_*       base and restored images (package image)
//	tmpXXXXXX        being written; garbage after a crash
//
// A volume without a directory is in state Clear. `state` is written last when
// a volume is made. When one is cleared it first becomes SyncReady, then its
// data goes, then `state`, then the rest. So a directory without `state` that
// holds nothing but other small files is what an interruption left, and is
// removed at the next start or init-vol. Any other directory without `state` is
// not ours: the server does not start. Directories whose names no volume can
// have are left alone.
//
// SyncReady promises nothing: whatever a volume holds then is removed before
// it is filled, except the part of the base image that full_repl_state vouches
// for, when the same image is sent again.
//
// # Rules
//
//   - A diff or image is acknowledged when it is durable under its final name,
//     and listed. Nothing is listed that is not.
//   - The latest state is computed from base and diffs when it is asked for;
//     there is no copy that could go stale.
//   - Discarded blocks of a restored image are as the option Discard says.
//   - While `base` says that diffs are being applied, the image is somewhere
//     between two snapshots. Whoever reads it lays at least the diffs between
//     them over it (meta.Manager does), and an apply that was broken off is
//     completed at the next start, or by the next apply.
//   - Diffs are removed behind what replaces them: a merged file that is
//     published, a base image that is synced and said to be so.
//
// # What may run beside what
//
// Decided by states, transactions, actions and the stop (package fsm), never by
// a lock held for long: volume.mu guards what is known in memory, and is held
// over neither disk nor network. A transaction is open whenever a small file is
// written, and as long as somebody sends into the volume, save between two
// rounds of a replication. Whoever begins an action counts it first and looks at
// state and stop then; whoever stops or resets a volume looks at the actions
// last. A force stop ends the context of everything that runs on the volume,
// and with it the connections.
//
// An exported snapshot (package nbd) is no action: it may stay for weeks, and
// keeps no stop waiting. It has its files open and a claim on the base image;
// who would bring that beyond the snapshot, or replace it, is refused (claims).
// Exports end with the server.
//
// What may come in: image.Store for images, other archives only over TCP.
package archive
