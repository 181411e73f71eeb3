// Package wdev is the walb device: a disk whose every write goes to a log
// first, so that the log can be shipped elsewhere. [Device] is what a storage
// server works with, [Disk] its part for applications, [Userspace] a device
// made of two files, and [Dir] a directory of such devices.
//
// # Log file
//
//	byte            size                what
//	0               4096                never touched
//	4096            pbs                 super sector
//	4096 + pbs      metadata*pbs        0 in all new devices
//	+ metadata*pbs  pbs                 never touched
//	R*pbs           ring*pbs            packs (package wlog), lsid at (R + lsid mod ring)*pbs
//
// R = 4096/pbs + 2 + metadata. pbs is 512 or 4096; PB is a block of pbs bytes.
// The files hold no other state: the layout is that of a log device of the
// original, whose tools read a log file with pbs 512 as it is.
//
// # Super sector: one PB, little-endian, the rest zero
//
//	off size field
//	  0    2 sector type, 1
//	  2    2 version, 2
//	  4    4 checksum of the PB with salt 0
//	  8    4 512
//	 12    4 pbs
//	 16    4 metadata size [PB], 0
//	 20    4 salt of pack headers and data
//	 24   16 uuid
//	 40   32 name, NUL terminated
//	 72    8 ring size [PB]
//	 80    8 oldest lsid
//	 88    8 written lsid
//	 96    8 device size [LB]
//
// All of it lies in one sector of 512 bytes, so that a torn write leaves the
// old or the new one.
//
// What may come in: any bytes in the two files; requests of any size and
// place. Damaged super sectors and redo targets outside the device are
// refused; a damaged pack is the end of the log.
package wdev
