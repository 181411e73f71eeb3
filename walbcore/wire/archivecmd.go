package wire

import (
	"fmt"
	"strconv"
	"strings"

	"walbsh/walbcore/block"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Protocol names of what an archive does with the images and diffs it has.
const (
	ProtoApply           = "apply"
	ProtoMerge           = "merge"
	ProtoResize          = "resize"
	ProtoDelCold         = "del-cold"
	ProtoDisableSnapshot = "disable-snapshot"
	ProtoEnableSnapshot  = "enable-snapshot"
	ProtoGCDiff          = "gc-diff"
	ProtoBlockHash       = "bhash"
	ProtoVirtFullScan    = "virt-full-scan"
	ProtoReloadMetadata  = "dbg-reload-metadata"
	ProtoSetUUID         = "dbg-set-uuid"
	ProtoSetState        = "dbg-set-state"
	ProtoSetBase         = "dbg-set-base"
)

// Targets of get that only an archive with LVM has something to answer for.
const (
	TargetCold     = "cold"     // V
	TargetThinpool = "thinpool" // S
)

// The extension by which an archive of ours tells how its actions go.
const (
	// FeatureActionStatus is the feature's name in the answer of [ProtoFeatures].
	FeatureActionStatus = "action-status"

	// TargetActions is its target of get: argument volume, answer V, one
	// [ActionStatus] line for each kind of action that has run, by its name.
	TargetActions = "walbsh-actions"
)

// ActionStatus describes the running or else the latest action of one kind on
// a volume of an archive, since the server began. One line:
//
//	action:Apply<TAB>state:running<TAB>gid:8<TAB>done:4096<TAB>total:8192<TAB>error:<TAB>started:1700000000123<TAB>ended:0
//
// Fields come in any order; unknown ones are ignored, and missing ones are
// empty or 0. Line breaks and tabs in error are blanks.
type ActionStatus struct {
	Action  string    // Apply, Merge, ...
	State   ReplState // running, done or failed
	Gid     meta.Gid  // what shall be reached; of a merge the end of the merged range
	Done    uint64    // bytes of diff files that are worked off
	Total   uint64    // bytes of diff files in all, as far as is known
	Error   string    // why it failed; empty unless State is failed
	Started int64     // Unix milliseconds; tells one run from another
	Ended   int64     // Unix milliseconds; 0 while it runs
}

// oneLine keeps a text inside one field of a line.
var oneLine = strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")

// String is the line.
func (s ActionStatus) String() string {
	return fmt.Sprintf("action:%s\tstate:%s\tgid:%d\tdone:%d\ttotal:%d\terror:%s\tstarted:%d\tended:%d",
		s.Action, s.State, s.Gid, s.Done, s.Total, oneLine.Replace(s.Error), s.Started, s.Ended)
}

// ParseActionStatus reads a line. The error has the code Checksum.
func ParseActionStatus(line string) (ActionStatus, error) {
	var s ActionStatus
	err := eachField("action status", line, func(name, value string) (err error) {
		switch name {
		case "action":
			s.Action = value
		case "state":
			s.State = ReplState(value)
		case "gid":
			s.Gid, err = meta.ParseGid(value)
		case "done":
			s.Done, err = strconv.ParseUint(value, 10, 64)
		case "total":
			s.Total, err = strconv.ParseUint(value, 10, 64)
		case "error":
			s.Error = value
		case "started":
			s.Started, err = strconv.ParseInt(value, 10, 64)
		case "ended":
			s.Ended, err = strconv.ParseInt(value, 10, 64)
		}
		return err
	})
	if err != nil {
		return ActionStatus{}, err
	}
	switch s.State {
	case ReplRunning, ReplDone, ReplFailed:
		return s, nil
	}
	return ActionStatus{}, walberr.Corrupt("action status", fmt.Sprintf("state %q", s.State), "running, done or failed")
}

// eachField gives the fields of a line of name:value pairs between tabs.
func eachField(what, line string, take func(name, value string) error) error {
	for field := range strings.SplitSeq(line, "\t") {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return walberr.Corrupt(what, strconv.Quote(field), "name:value")
		}
		if err := take(name, value); err != nil {
			return walberr.Corrupt(what, strconv.Quote(field), "a value of its kind")
		}
	}
	return nil
}

// ProtoVerify is our own: an archive reads all that it has of a volume and
// tells what cannot be read. Body: strvec [volume, bytes a second (0 = as fast
// as it goes)]; answer: "ok", then control bytes:
//
//	0 str    a [Fault] line
//	3 u64 u64   bytes read, bytes in all; at least once a second
//	1        the end; half-close follows
//	2 str    it was broken off: the reason
const ProtoVerify = "walbsh-verify"

// FeatureVerify is the name of [ProtoVerify] in the answer of [ProtoFeatures].
const FeatureVerify = "verify"

// Fault is a part of a volume's data at an archive that cannot be read. One line:
//
//	what:base<TAB>addr:16<TAB>blocks:8<TAB>hurts:1,2,5<TAB>error:...
type Fault struct {
	What   string     // name of the diff file, or "base"
	Addr   block.LB   // first block of the volume that is hurt
	Blocks block.LB   // number of blocks; all to the end of the volume where nobody knows better
	Hurts  []meta.Gid // snapshots that can be restored by their names and need it, ascending
	Error  string     // why
}

// FaultBase is the name of the base image in a [Fault].
const FaultBase = "base"

// String is the line.
func (f Fault) String() string {
	gids := make([]string, len(f.Hurts))
	for i, g := range f.Hurts {
		gids[i] = g.String()
	}
	return fmt.Sprintf("what:%s\taddr:%d\tblocks:%d\thurts:%s\terror:%s",
		f.What, f.Addr, f.Blocks, strings.Join(gids, ","), oneLine.Replace(f.Error))
}

// ParseFault reads a line. The error has the code Checksum.
func ParseFault(line string) (Fault, error) {
	var f Fault
	number := func(dst *block.LB, value string) error {
		n, err := strconv.ParseUint(value, 10, 64)
		*dst = block.LB(n)
		return err
	}
	err := eachField("fault", line, func(name, value string) (err error) {
		switch name {
		case "what":
			f.What = value
		case "addr":
			err = number(&f.Addr, value)
		case "blocks":
			err = number(&f.Blocks, value)
		case "hurts":
			f.Hurts, err = parseGids(value)
		case "error":
			f.Error = value
		}
		return err
	})
	return f, err
}

func parseGids(list string) ([]meta.Gid, error) {
	if list == "" {
		return nil, nil
	}
	var gids []meta.Gid
	for word := range strings.SplitSeq(list, ",") {
		g, err := meta.ParseGid(word)
		if err != nil {
			return nil, err
		}
		gids = append(gids, g)
	}
	return gids, nil
}
