package client

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// LatestSnap is the newest snapshot that a server has of a volume.
type LatestSnap struct {
	Volume    string
	Kind      string    // kind of the server: [wire.HostStorage], [wire.HostProxy] or [wire.HostArchive]
	Archive   string    // of a proxy: whom it is sent to
	Gid       meta.Gid  // [meta.MaxGid] where nothing waits at a proxy
	Lsid      meta.Lsid // of a storage: its place in the log; else [meta.MaxLsid]
	Timestamp uint64    // Unix seconds
}

// TsDelta tells how far a destination is behind its source.
type TsDelta struct {
	Volume        string
	Dest          string // server id of the destination
	Kind          string // of the source
	DestKind      string
	Gid           meta.Gid
	Timestamp     uint64   // of Gid, Unix seconds
	DestGid       meta.Gid // [meta.MaxGid] where the destination has no snapshot
	DestTimestamp uint64   // of DestGid, Unix seconds; 0 where it has none
	Delta         int64    // Timestamp - DestTimestamp in seconds; 0 where it has none
}

// LogUsage tells how full the log of a storage volume is.
type LogUsage struct {
	Volume     string
	UsagePB    uint64 // physical blocks in use
	CapacityPB uint64 // physical blocks of the log
	PBS        uint64 // size of a physical block in bytes
}

// Action is the count of one kind of action.
type Action struct {
	Name    string
	Running uint64
	Started uint64 // when the latest one began, Unix seconds; 0 = never
}

// VolumeActions are the actions of one archive volume.
type VolumeActions struct {
	Volume  string
	Actions []Action
}

// VolumeBase is the state of one archive volume's base image.
type VolumeBase struct {
	Volume string
	State  meta.State
}

// Kinds of [HandlerStat].
const (
	ProtocolCount   = "PROTOCOL_COUNT"
	ProtocolLatency = "PROTOCOL_LATENCY"
	GetCount        = "GET_COUNT"
)

// HandlerStat is one counter of a server's requests since it was last read.
type HandlerStat struct {
	Kind    string        // [ProtocolCount], [ProtocolLatency] or [GetCount]
	Name    string        // protocol, or target of get
	Client  string        // id of the client; none for a latency
	Count   uint64        // of a count
	Latency time.Duration // of a latency: average
}

// badAnswer is the failure of an answer that cannot be parsed, or nil.
func badAnswer(answer string, err error) error {
	if err == nil {
		return nil
	}
	return &walberr.Error{Op: "parse", Code: walberr.Checksum, Found: strconv.Quote(answer), Err: err}
}

// ltsv reads tab separated name:value fields. A value may hold colons.
func ltsv(line string) map[string]string {
	fields := make(map[string]string)
	for f := range strings.SplitSeq(line, "\t") {
		name, value, _ := strings.Cut(f, ":")
		fields[name] = value
	}
	return fields
}

// scanner reads the fields of a line and keeps the first failure.
type scanner struct {
	fields map[string]string
	err    error
}

func (s *scanner) text(name string) string {
	v, ok := s.fields[name]
	if !ok && s.err == nil {
		s.err = fmt.Errorf("field %q is missing", name)
	}
	return v
}

// number reads a required field; an empty one gives none.
func (s *scanner) number(name string, none uint64) uint64 {
	v := s.text(name)
	if s.err != nil || v == "" {
		return none
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		s.err = fmt.Errorf("field %q is not a number: %q", name, v)
	}
	return n
}

// time reads a required field; an empty one gives 0.
func (s *scanner) time(name string) uint64 {
	v := s.text(name)
	if s.err != nil || v == "" {
		return 0
	}
	t, err := meta.ParseTime(v)
	s.err = err
	return t
}

func parseLatestSnap(line string) (LatestSnap, error) {
	s := scanner{fields: ltsv(line)}
	v := LatestSnap{
		Volume:    s.text("name"),
		Kind:      s.text("kind"),
		Archive:   s.fields["archive"],
		Gid:       meta.Gid(s.number("gid", uint64(meta.MaxGid))),
		Lsid:      meta.MaxLsid,
		Timestamp: s.time("timestamp"),
	}
	if _, ok := s.fields["lsid"]; ok {
		v.Lsid = meta.Lsid(s.number("lsid", uint64(meta.MaxLsid)))
	}
	return v, s.err
}

func parseTsDelta(line string) (TsDelta, error) {
	s := scanner{fields: ltsv(line)}
	v := TsDelta{
		Volume:        s.text("name"),
		Dest:          s.text("dest"),
		Kind:          s.text("kind"),
		DestKind:      s.text("dest_kind"),
		Gid:           meta.Gid(s.number("gid", uint64(meta.MaxGid))),
		Timestamp:     s.time("ts"),
		DestGid:       meta.Gid(s.number("dest_gid", uint64(meta.MaxGid))),
		DestTimestamp: s.time("dest_ts"),
	}
	if delta := s.text("ts_delta"); delta != "" && s.err == nil {
		v.Delta, s.err = strconv.ParseInt(delta, 10, 64)
	}
	return v, s.err
}

func parseLogUsage(line string) (LogUsage, error) {
	s := scanner{fields: ltsv(line)}
	v := LogUsage{
		Volume:     s.text("name"),
		UsagePB:    s.number("usage_pb", 0),
		CapacityPB: s.number("capacity_pb", 0),
		PBS:        s.number("pbs", 0),
	}
	return v, s.err
}

func parseVolumeBase(line string) (VolumeBase, error) {
	s := scanner{fields: ltsv(line)}
	v := VolumeBase{Volume: s.text("name")}
	text := s.text("metastate")
	if s.err == nil {
		v.State, s.err = parseState(text)
	}
	return v, s.err
}

// parseState reads a state with its timestamp, as servers print it.
func parseState(s string) (meta.State, error) { return meta.ParseState(s, 0) }

func parseVolumeActions(line string) (VolumeActions, error) {
	words := strings.Fields(line)
	if len(words)%3 != 1 {
		return VolumeActions{}, fmt.Errorf("%d words are not a volume and groups of three", len(words))
	}
	v := VolumeActions{Volume: words[0]}
	for rest := words[1:]; len(rest) > 0; rest = rest[3:] {
		n, err := strconv.ParseUint(rest[1], 10, 64)
		if err != nil {
			return VolumeActions{}, err
		}
		t, err := meta.ParseTime(rest[2])
		if err != nil {
			return VolumeActions{}, err
		}
		v.Actions = append(v.Actions, Action{Name: rest[0], Running: n, Started: t})
	}
	return v, nil
}

func parseHandlerStat(line string) (HandlerStat, error) {
	f := strings.Split(line, "\t")
	switch {
	case len(f) == 4 && (f[0] == ProtocolCount || f[0] == GetCount):
		n, err := strconv.ParseUint(f[3], 10, 64)
		return HandlerStat{Kind: f[0], Name: f[1], Client: f[2], Count: n}, err
	case len(f) == 3 && f[0] == ProtocolLatency:
		d, err := time.ParseDuration(f[2] + "s")
		return HandlerStat{Kind: f[0], Name: f[1], Latency: d}, err
	}
	return HandlerStat{}, fmt.Errorf("not a counter")
}
