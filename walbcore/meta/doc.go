// Package meta holds the metadata model of WalB: which point in time an image
// or a diff file stands for, what can be applied to what, and which files are
// needed for a given snapshot.
//
// # Model
//
// A [Gid] counts the generations of a volume's image; it grows with time and
// may skip values. A [Snap] {B, E} says of an image: it is at least as new as
// B and holds nothing newer than E. With B == E it is clean, one consistent
// point in time; otherwise it is dirty, as after a scan of a volume that was
// being written. A [Diff] turns an image at Diff.B into one at Diff.E. A
// [State] is what a base image is at, or between what and what.
//
//	gid      0      1      2            5
//	         |--d1--|--d2--|-----d3-----|      three diffs, two snapshots between
//	         |-------------d------------|      the same, merged
//
// A diff carries the flag Mergeable of the snapshot at which it begins: if it
// is set, that snapshot is implicit and may disappear in a merge.
//
// # Text forms
//
// All numbers are decimal, all times are UTC.
//
//	gid        digits; leading zeros are read, never printed
//	snap       |5|                clean         |5,9|  dirty
//	diff       |0,2|-->|1,5|
//	diff line  |2|-->|3| M- 2026-11-23T14:38:18 11712      M mergeable, C compared, size in bytes
//	state      <|5|>              <|3|-->|4,6|>            the second is being applied
//	           <|5|>-20231114221320                        with its timestamp
//	restorable 5 2026-11-23T14:38:18 1                     gid, time, 1 = explicit
//
// # File names of diffs
//
//	20231114221320-MC-12-345.wdiff        clean: B.B, E.B
//	20231114221320-M--0-0-1-5.wdiff       dirty: B.B, B.E, E.B, E.E
//	|             |||
//	|             ||C compared, else -
//	|             |M mergeable, else -
//	YYYYMMDDhhmmss, time of the snapshot behind the diff
//
// The binary encodings of these types belong to package wire.
//
// # Rules of the package
//
// It is pure: no os, net, clock, log or goroutine may come in. Timestamps are
// seconds since 1970-01-01 UTC and are always given by the caller. Only block
// and walberr of this system may be imported. The texts of its errors are those
// of the original, since servers send them to their peers.
package meta
