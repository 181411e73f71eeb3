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
// atomically and durably (package vfs), the queue too. A directory without a
// state is what an interrupted init-vol or clear-vol left, and is removed at
// the start, if it holds nothing else. The base directory is locked by its file
// walbsh.lock.
//
// # How log is shipped
//
// A volume in Target, being backed up, or in Standby is watched: at every
// change of its device one goroutine looks whether log can be shipped or given
// up, and queues a task. The task asks chooseShipment what to send, sends it to
// the first proxy that takes it, and records it as done when the proxy
// acknowledged. Log is given up below the smaller of done and the device's
// checkpoint. Nothing polls: besides the heartbeat of the proxies, retries and
// the pace of a volume that is written to all the time are the only timers.
//
// # Who may do what when
//
// volume.mu guards a volume's files and their copies in memory; it is never
// held while a peer is waited for. The state machine has a lock of its own,
// which may be taken under mu, as may that of the task queue.
//
// A task counts as an action. While one runs, the volume does not leave Target,
// FullSync, HashSync or Standby and its log is not reset: a stop and the end of a failed
// backup wait for it, or break it off. A task looks at the state after it has
// begun to count, so it never works on a volume that was taken away. Whatever
// keeps a task from running (another one, a stop) calls Server.wake at its end:
// no change of a device is lost.
//
// What may come in: package wdev's Device for everything about the disk, other
// servers only over TCP.
package storage
