// Package storage is the storage server: it backs the volumes of walb devices
// up to an archive, ships their logs to proxies, and gives log up only when a
// proxy has it durably.
//
// # Files of a volume, in <base>/<volume>/
//
//	path    str: path of the walb device, /dev/walb/NAME
//	state   str: SyncReady, Stopped, Target or Standby
//	done    lsid-gid record: what a proxy has of the log, and the gid it stands for
//	queue   snapshots that are not wholly shipped, newest first
//	uuid    16 bytes: the life of the log that done and queue speak of
//
// A volume without a directory is in state Clear. Every file is replaced
// atomically and durably (package vfs), the queue too.
//
// # How log is shipped
//
// A volume in Target (or being backed up) is watched: when its device reports
// new permanent log, a task is queued that asks chooseShipment what to send,
// sends it to the first proxy that takes it, and records it as done when the
// proxy acknowledged. Nothing polls: retries after failures are the only
// timers. Log is given up below the smaller of done and the device's checkpoint.
//
// # Locks
//
// volume.mu guards a volume's files and their copies in memory; it is never
// held while a peer is waited for. The state machine has a lock of its own.
// What may run beside what is decided by states, transactions and actions.
//
// What may come in: package wdev's Device for everything about the disk, other
// servers only over TCP.
package storage
