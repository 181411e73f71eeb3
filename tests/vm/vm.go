// Package vm holds the tests that run inside a virtual machine, as its root:
// an archive on real logical volumes, power cuts in the middle of its work, and
// disks that fail. The script run in this directory builds them, and boots the
// machines by run-in-vm.
//
// What may come in: the servers as processes (tests/daemons), and the
// operations of walbcore/group on them. What the machine tells the script are
// whole lines on the standard output: "ACKED GID SHA256" for a snapshot that the
// archive has acknowledged, and "POWER-CUT".
package vm
