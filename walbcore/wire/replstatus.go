package wire

import (
	"fmt"
	"strconv"
	"strings"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// The extension by which an archive of ours tells about its replications.
const (
	// FeatureReplStatus is the feature's name in the answer of [ProtoFeatures].
	FeatureReplStatus = "repl-status"

	// TargetRepl is its target of get: arguments [volume], answer V, one
	// [ReplStatus] line for each destination, by its name.
	TargetRepl = "walbsh-repl"
)

// ReplState is where a replication stands.
type ReplState string

// The states of a replication.
const (
	ReplRunning ReplState = "running"
	ReplDone    ReplState = "done"
	ReplFailed  ReplState = "failed"
)

// ReplStatus describes, at the source, the running or else the latest
// replication of a volume to one destination since the server began. One line:
//
//	dest:a1<TAB>addr:127.0.0.1:10201<TAB>state:running<TAB>kind:diff<TAB>gid:8<TAB>rounds:2<TAB>
//	bytes_sent:4711<TAB>bytes_total:8192<TAB>lb_done:16<TAB>lb_total:64<TAB>error:<TAB>started:1700000000123<TAB>ended:0
//
// Fields come in any order; unknown ones are ignored, and missing ones are
// empty or 0. Line breaks and tabs in error are blanks.
type ReplStatus struct {
	Dest       string    // id of the destination server
	Addr       string    // its host:port, as the command named it
	State      ReplState // running, done or failed
	Kind       string    // of the latest round: full, hash, resync or diff; empty before the first
	Gid        meta.Gid  // what shall be reached; [meta.MaxGid] when the command named a size
	Rounds     uint64    // transfers begun
	BytesSent  uint64    // to the network, all rounds
	BytesTotal uint64    // estimate of BytesSent at the end; 0 = unknown
	LBDone     uint64    // logical blocks of the work that are done, all rounds
	LBTotal    uint64    // logical blocks of the whole work; 0 = unknown
	Error      string    // why it failed; empty unless State is failed
	Started    int64     // Unix milliseconds; tells one run from another
	Ended      int64     // Unix milliseconds; 0 while it runs
}

// String is the line.
func (s ReplStatus) String() string {
	clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
	return fmt.Sprintf("dest:%s\taddr:%s\tstate:%s\tkind:%s\tgid:%d\trounds:%d\tbytes_sent:%d\tbytes_total:%d\t"+
		"lb_done:%d\tlb_total:%d\terror:%s\tstarted:%d\tended:%d",
		s.Dest, s.Addr, s.State, s.Kind, s.Gid, s.Rounds, s.BytesSent, s.BytesTotal,
		s.LBDone, s.LBTotal, clean.Replace(s.Error), s.Started, s.Ended)
}

// ParseReplStatus reads a line. The error has the code Checksum.
func ParseReplStatus(line string) (ReplStatus, error) {
	var s ReplStatus
	for field := range strings.SplitSeq(line, "\t") {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return ReplStatus{}, walberr.Corrupt("replication status", strconv.Quote(field), "name:value")
		}
		if err := s.set(name, value); err != nil {
			return ReplStatus{}, walberr.Corrupt("replication status", strconv.Quote(field), "a number")
		}
	}
	switch s.State {
	case ReplRunning, ReplDone, ReplFailed:
		return s, nil
	}
	return ReplStatus{}, walberr.Corrupt("replication status", fmt.Sprintf("state %q", s.State), "running, done or failed")
}

// set takes one field.
func (s *ReplStatus) set(name, value string) (err error) {
	switch name {
	case "dest":
		s.Dest = value
	case "addr":
		s.Addr = value
	case "state":
		s.State = ReplState(value)
	case "kind":
		s.Kind = value
	case "error":
		s.Error = value
	case "gid":
		s.Gid, err = meta.ParseGid(value)
	case "rounds":
		s.Rounds, err = strconv.ParseUint(value, 10, 64)
	case "bytes_sent":
		s.BytesSent, err = strconv.ParseUint(value, 10, 64)
	case "bytes_total":
		s.BytesTotal, err = strconv.ParseUint(value, 10, 64)
	case "lb_done":
		s.LBDone, err = strconv.ParseUint(value, 10, 64)
	case "lb_total":
		s.LBTotal, err = strconv.ParseUint(value, 10, 64)
	case "started":
		s.Started, err = strconv.ParseInt(value, 10, 64)
	case "ended":
		s.Ended, err = strconv.ParseInt(value, 10, 64)
	}
	return err
}
