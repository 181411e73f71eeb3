package meta

import (
	"fmt"
	"strings"

	"walbsh/walbcore/walberr"
)

// FileSuffix ends the name of every diff file.
const FileSuffix = ".wdiff"

const (
	minFileName = len("YYYYMMDDhhmmss-MC-b-e" + FileSuffix)
	flagsAt     = len("YYYYMMDDhhmmss-")
	gidsAt      = len("YYYYMMDDhhmmss-MC-")
)

// IsFileName reports whether a directory scan takes the name for a diff's:
// something, and then the suffix.
func IsFileName(name string) bool {
	return len(name) > len(FileSuffix) && strings.HasSuffix(name, FileSuffix)
}

// FileName gives the name of the diff's file, without directory.
func (d Diff) FileName() string {
	gids := fmt.Sprintf("%d-%d", d.B.B, d.E.B)
	if !d.IsClean() {
		gids = fmt.Sprintf("%d-%d-%d-%d", d.B.B, d.B.E, d.E.B, d.E.E)
	}
	return FormatStamp(d.Timestamp) + "-" + d.flags() + "-" + gids + FileSuffix
}

// ParseFileName reads a diff from the name of its file, without directory. The
// size of the result is 0.
//
// It is as lenient as the original: any flag letter but M and C means off,
// numbers may have leading zeros, a fifth number and what follows the first
// suffix are ignored. So a file's name need not equal FileName of its diff.
func ParseFileName(name string) (Diff, error) {
	refuse := func(what string) (Diff, error) {
		return Diff{}, errorf(walberr.Checksum, "parseDiffFileName:%s:%s", what, name)
	}
	if len(name) < minFileName {
		return refuse("too short name")
	}
	ts, err := ParseStamp(name[:flagsAt-1])
	if err != nil {
		return Diff{}, err
	}
	if name[flagsAt-1] != '-' {
		return refuse("invalid timestamp str")
	}
	if name[gidsAt-1] != '-' {
		return refuse("must be - at 17th char")
	}
	gids, err := parseNameGids(name)
	if err != nil {
		return Diff{}, err
	}
	d := Diff{Mergeable: name[flagsAt] == 'M', Comp: name[flagsAt+1] == 'C', Timestamp: ts}
	switch len(gids) {
	case 2:
		d.B, d.E = CleanSnap(gids[0]), CleanSnap(gids[1])
	case 4:
		d.B, d.E = Snap{B: gids[0], E: gids[1]}, Snap{B: gids[2], E: gids[3]}
	default:
		return refuse("number of gids must be 2 or 4")
	}
	if err := d.Check(); err != nil {
		return Diff{}, err
	}
	return d, nil
}

// parseNameGids reads at most four numbers; the last one ends at the suffix.
func parseNameGids(name string) ([]Gid, error) {
	var gids []Gid
	rest := name[gidsAt:]
	for len(gids) < 4 {
		digits, tail, more := strings.Cut(rest, "-")
		if !more {
			var found bool
			if digits, _, found = strings.Cut(rest, FileSuffix); !found {
				return nil, errorf(walberr.Checksum, "parseDiffFileName:wrong suffix:%s", name)
			}
		}
		gid, err := ParseGid(digits)
		if err != nil {
			return nil, errorf(walberr.Checksum, "parseDiffFileName:wrong digit value:%s:%d", name, len(gids))
		}
		gids = append(gids, gid)
		if !more {
			break
		}
		rest = tail
	}
	return gids, nil
}
