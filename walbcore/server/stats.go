package server

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// stats counts requests since the last reading. The zero value is ready.
type stats struct {
	mu       sync.Mutex
	requests map[statKey]uint64
	gets     map[statKey]uint64
	latency  map[string]latency
}

// statKey is a protocol or get target, and the client that asked.
type statKey struct{ name, client string }

type latency struct {
	sum time.Duration
	n   int
}

// maxStatKeys bounds each table: client ids are the clients' own invention.
// What does not fit is counted under otherClients.
const (
	maxStatKeys  = 4096
	otherClients = "(others)"
)

// begin counts a request; ended counts how long it took.
func (s *stats) begin(protocol, client string) (ended func()) {
	start := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.requests, protocol, client)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.latency == nil {
			s.latency = make(map[string]latency)
		}
		l := s.latency[protocol]
		s.latency[protocol] = latency{l.sum + time.Since(start), l.n + 1}
	}
}

// countGet counts the look-up of a get target.
func (s *stats) countGet(target, client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count(&s.gets, target, client)
}

func count(table *map[statKey]uint64, name, client string) {
	if *table == nil {
		*table = make(map[statKey]uint64)
	}
	key := statKey{name, client}
	if _, known := (*table)[key]; !known && len(*table) >= maxStatKeys {
		key.client = otherClients
	}
	(*table)[key]++
}

// take gives the lines of handler-stat and begins anew.
//
//	PROTOCOL_COUNT <tab> protocol <tab> client id <tab> number
//	PROTOCOL_LATENCY <tab> protocol <tab> average in seconds
//	GET_COUNT <tab> target <tab> client id <tab> number
func (s *stats) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	lines = appendCounts(lines, "PROTOCOL_COUNT", s.requests)
	for _, name := range slices.Sorted(maps.Keys(s.latency)) {
		l := s.latency[name]
		lines = append(lines, fmt.Sprintf("PROTOCOL_LATENCY\t%s\t%.6f", name, l.sum.Seconds()/float64(l.n)))
	}
	lines = appendCounts(lines, "GET_COUNT", s.gets)
	s.requests, s.gets, s.latency = nil, nil, nil
	return lines
}

func appendCounts(lines []string, kind string, table map[statKey]uint64) []string {
	keys := slices.SortedFunc(maps.Keys(table), func(a, b statKey) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.client, b.client))
	})
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("%s\t%s\t%s\t%d", kind, k.name, k.client, table[k]))
	}
	return lines
}
