package meta

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"

	"walbsh/walbcore/walberr"
)

// Gid is a generation number of a volume's image.
type Gid uint64

// MaxGid is the all-ones gid. A volume that was never synchronized is at it.
const MaxGid Gid = math.MaxUint64

// String prints the gid in decimal.
func (g Gid) String() string { return strconv.FormatUint(uint64(g), 10) }

// ParseGid reads a gid: decimal digits only, leading zeros allowed, at most 64 bits.
func ParseGid(s string) (Gid, error) {
	n, err := parseUint(s)
	return Gid(n), err
}

// Lsid is a position in a log device: a count of physical blocks since the
// log's last reset.
type Lsid uint64

// MaxLsid is the all-ones lsid, which stands for none.
const MaxLsid Lsid = math.MaxUint64

// String prints the lsid in decimal.
func (l Lsid) String() string { return strconv.FormatUint(uint64(l), 10) }

// ParseLsid reads an lsid as [ParseGid] reads a gid.
func ParseLsid(s string) (Lsid, error) {
	n, err := parseUint(s)
	return Lsid(n), err
}

// parseUint takes decimal digits and nothing else. Its refusal shows at most
// the first 16 bytes.
func parseUint(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || digitsEnd(s, 0) != len(s) {
		return 0, errorf(walberr.Usage, "atoi::convertToUint:%s", s[:min(16, len(s))])
	}
	return n, nil
}

// UUID identifies a log life or an archive lineage. All zero means none.
type UUID [16]byte

// IsZero reports whether it is the all-zero UUID.
func (u UUID) IsZero() bool { return u == UUID{} }

// String prints 32 lower-case hex digits.
func (u UUID) String() string { return hex.EncodeToString(u[:]) }

// ParseUUID reads exactly 32 hex digits of either case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 2*len(u) {
		return UUID{}, errorf(walberr.Usage, "strToBinary:bad size:%s:%d", s, 2*len(u))
	}
	if _, err := hex.Decode(u[:], []byte(s)); err != nil {
		return UUID{}, errorf(walberr.Usage, "strToBinary:bad hex digit:%s", s)
	}
	return u, nil
}

// LsidGid ties a position in the log to the gid that it stands for.
type LsidGid struct {
	Mergeable bool   // the snapshot is implicit
	Timestamp uint64 // when it was taken, seconds since 1970 UTC
	Lsid      Lsid
	Gid       Gid
}

// String prints the record as the storage's status shows it.
func (r LsidGid) String() string {
	return fmt.Sprintf("LsidGid timestamp %s isMergeable %d lsid %d gid %d",
		PrettyTime(r.Timestamp), boolDigit(r.Mergeable), r.Lsid, r.Gid)
}

// Restorable is one line of the list of snapshots that can be restored.
type Restorable struct {
	Gid       Gid
	Timestamp uint64 // seconds since 1970 UTC
	Explicit  bool   // taken on purpose, or the newest; never set for the base image itself
}

// String prints "gid time flag", flag 0 or 1.
func (r Restorable) String() string {
	return fmt.Sprintf("%d %s %d", r.Gid, PrettyTime(r.Timestamp), boolDigit(r.Explicit))
}

func boolDigit(b bool) int {
	if b {
		return 1
	}
	return 0
}
