package wdev

import (
	"slices"
	"sort"
	"sync"

	"walbsh/walbcore/block"
)

// segment is a part of the disk whose newest content is in memory, as the log
// has it and the data file does not yet.
type segment struct {
	block.Range
	data []byte // Len*512 bytes, or nil for zeros
	seq  uint64 // number of the IO it comes from
}

// from cuts off what lies before addr, which is inside the segment.
func (s segment) from(addr block.LB) segment {
	n := addr - s.Addr
	s.Addr, s.Len = addr, s.Len-n
	if s.data != nil {
		s.data = s.data[n.Bytes():]
	}
	return s
}

// until cuts off what lies at and behind addr, which is inside the segment.
func (s segment) until(addr block.LB) segment {
	s.Len = addr - s.Addr
	if s.data != nil {
		s.data = s.data[:s.Len.Bytes()]
	}
	return s
}

// maxLeaf bounds the cost of an insertion.
const maxLeaf = 256

// pendingMap holds the segments of all IOs that are logged but not yet on the
// data file. Segments never overlap: a newer one cuts the older ones away.
//
// They lie in leaves, in ascending order; no leaf is empty.
type pendingMap struct {
	mu     sync.RWMutex
	leaves [][]segment
}

// insert adds a segment on top of all others.
func (m *pendingMap) insert(s segment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut(s.Range)
	li, si := m.find(s.Addr)
	if li == len(m.leaves) {
		if li == 0 {
			m.leaves = append(m.leaves, []segment{s})
			return
		}
		li, si = li-1, len(m.leaves[li-1])
	}
	m.replace(li, si, si, s)
}

// remove drops what is left of the segment of IO number seq inside r.
func (m *pendingMap) remove(r block.Range, seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := r.Addr; ; {
		li, si := m.find(at)
		if li == len(m.leaves) {
			return
		}
		s := m.leaves[li][si]
		if s.Addr >= r.End() {
			return
		}
		if s.seq == seq {
			m.replace(li, si, si+1)
		}
		at = s.End()
	}
}

// read copies what is pending inside the range of len(p)/512 blocks at addr
// into p, and calls gap for each part of p that is not pending, in order. The
// gaps are called after the copy, outside the lock.
func (m *pendingMap) read(p []byte, addr block.LB, gap func(p []byte, addr block.LB) error) error {
	r := block.Range{Addr: addr, Len: block.FromBytes(int64(len(p)))}
	part := func(from, to block.LB) []byte { return p[(from - addr).Bytes():(to - addr).Bytes()] }
	var gaps []block.Range
	at := addr
	m.mu.RLock()
	for at < r.End() {
		s, ok := m.next(at)
		if !ok || s.Addr >= r.End() {
			break
		}
		if s.Addr > at {
			gaps = append(gaps, block.Range{Addr: at, Len: s.Addr - at})
			at = s.Addr
		}
		end := min(s.End(), r.End())
		if dst := part(at, end); s.data == nil {
			clear(dst)
		} else {
			copy(dst, s.data[(at-s.Addr).Bytes():])
		}
		at = end
	}
	m.mu.RUnlock()
	if at < r.End() {
		gaps = append(gaps, block.Range{Addr: at, Len: r.End() - at})
	}
	for _, g := range gaps {
		if err := gap(part(g.Addr, g.End()), g.Addr); err != nil {
			return err
		}
	}
	return nil
}

// nextPending finds the first pending range at or behind addr; empty if none.
func (m *pendingMap) nextPending(addr block.LB) block.Range {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s, ok := m.next(addr)
	if !ok {
		return block.Range{}
	}
	if s.Addr < addr {
		s = s.from(addr)
	}
	return s.Range
}

// next is the first segment that ends behind addr. The lock is held.
func (m *pendingMap) next(addr block.LB) (segment, bool) {
	li, si := m.find(addr)
	if li == len(m.leaves) {
		return segment{}, false
	}
	return m.leaves[li][si], true
}

// find locates the first segment that ends behind addr; the leaf number is
// len(m.leaves) if there is none.
func (m *pendingMap) find(addr block.LB) (leaf, index int) {
	li := sort.Search(len(m.leaves), func(i int) bool {
		l := m.leaves[i]
		return l[len(l)-1].End() > addr
	})
	if li == len(m.leaves) {
		return li, 0
	}
	l := m.leaves[li]
	return li, sort.Search(len(l), func(i int) bool { return l[i].End() > addr })
}

// cut removes everything inside r.
func (m *pendingMap) cut(r block.Range) {
	for {
		li, si := m.find(r.Addr)
		if li == len(m.leaves) {
			return
		}
		s := m.leaves[li][si]
		if s.Addr >= r.End() {
			return
		}
		var keep []segment
		if s.Addr < r.Addr {
			keep = append(keep, s.until(r.Addr))
		}
		last := s.End() > r.End()
		if last {
			keep = append(keep, s.from(r.End()))
		}
		m.replace(li, si, si+1, keep...)
		if last {
			return
		}
	}
}

// replace puts segments in the place of those at [i, j) of a leaf, and splits
// or drops the leaf where that is due.
func (m *pendingMap) replace(leaf, i, j int, with ...segment) {
	l := slices.Replace(m.leaves[leaf], i, j, with...)
	switch {
	case len(l) == 0:
		m.leaves = slices.Delete(m.leaves, leaf, leaf+1)
	case len(l) > maxLeaf:
		half := len(l) / 2
		m.leaves[leaf] = slices.Clone(l[:half])
		m.leaves = slices.Insert(m.leaves, leaf+1, slices.Clone(l[half:]))
	default:
		m.leaves[leaf] = l
	}
}
