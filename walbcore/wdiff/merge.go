package wdiff

import (
	"container/heap"
	"errors"
	"fmt"
	"io"

	"walbsh/walbcore/block"
)

// Merger overlays diffs: at every block the newest record that covers it wins.
// It reads record heads only, one at a time from each input, so its memory is
// a few words per input; data that a newer diff covers are never read.
//
// The result is as if the records of the oldest input, then of the next, ...
// had been put into one map of intervals, each replacing what it covers. A
// record longer than the limit is cut at multiples of the limit from its own
// start, all kinds alike, and keeps these cuts when a newer record takes a part
// out of it. Neighbours are not joined and nothing is turned into another kind.
type Merger struct {
	limit   block.LB
	inputs  []mergeInput
	waiting []int    // heap by address: inputs whose piece begins behind pos
	active  []int    // heap, newest first: inputs whose piece began at or before pos
	pos     block.LB // everything before it is given out
	started bool
	err     error // final
}

// mergeInput is one input with its present piece.
type mergeInput struct {
	s     Stream
	piece Record // present piece, cut to the limit
	rest  Record // what follows of the record that piece was cut from; Blocks may be 0
}

// Merge overlays the inputs, oldest first. limit is the longest record that is
// given out, 0 for none; servers use [DefaultMaxBlocks]. Records of 0 blocks
// are dropped.
func Merge(limit block.LB, inputs ...Stream) *Merger {
	m := &Merger{limit: limit, inputs: make([]mergeInput, len(inputs))}
	for i, s := range inputs {
		m.inputs[i].s = s
	}
	return m
}

// Next implements [Stream].
func (m *Merger) Next() (Record, error) {
	if m.err != nil {
		return Record{}, m.err
	}
	r, err := m.next()
	m.err = err
	return r, err
}

func (m *Merger) next() (Record, error) {
	if !m.started {
		m.started = true
		for i := range m.inputs {
			if err := m.advance(i); err != nil {
				return Record{}, err
			}
		}
	}
	for {
		if err := m.expire(); err != nil {
			return Record{}, err
		}
		if len(m.active) == 0 {
			if len(m.waiting) == 0 {
				return Record{}, io.EOF
			}
			m.pos = max(m.pos, m.inputs[m.waiting[0]].piece.Addr)
			m.activate()
		}
		top := m.active[0]
		piece := m.inputs[top].piece
		end := piece.End()
		// The newest piece is given out up to where a newer one begins. Older
		// ones that begin inside join the active inputs, behind it.
		for len(m.waiting) > 0 && m.inputs[m.waiting[0]].piece.Addr < end {
			if m.waiting[0] > top {
				end = m.inputs[m.waiting[0]].piece.Addr
				break
			}
			m.activate()
		}
		if end <= m.pos {
			// A newer piece begins right here.
			m.activate()
			continue
		}
		r := piece.cut(m.pos, end)
		m.pos = end
		return r, nil
	}
}

// expire moves every input at the top of the active ones, whose piece is
// given out or covered, to its next piece.
func (m *Merger) expire() error {
	for len(m.active) > 0 {
		i := m.active[0]
		if m.inputs[i].piece.End() > m.pos {
			return nil
		}
		heap.Pop((*activeHeap)(m))
		if err := m.advance(i); err != nil {
			return err
		}
	}
	return nil
}

// activate moves the waiting input with the lowest address to the active ones.
func (m *Merger) activate() {
	i := heap.Pop((*waitingHeap)(m)).(int)
	heap.Push((*activeHeap)(m), i)
}

// advance takes the next piece of input i that ends behind pos, and queues the
// input by it. At the end of the input it is in no queue any more.
func (m *Merger) advance(i int) error {
	in := &m.inputs[i]
	for {
		if in.rest.Blocks == 0 {
			r, err := in.s.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if r.Addr < in.rest.Addr {
				return fmt.Errorf("merge diffs: input %d gives record %d+%d behind block %d", i, r.Addr, r.Blocks, in.rest.Addr)
			}
			in.rest = r
			continue
		}
		n := in.rest.Blocks
		if m.limit > 0 && n > m.limit {
			n = m.limit
		}
		r := in.rest
		in.piece = r.cut(r.Addr, r.Addr+n)
		in.rest = r.cut(r.Addr+n, r.End())
		if in.piece.End() <= m.pos {
			continue
		}
		heap.Push((*waitingHeap)(m), i)
		return nil
	}
}

// waitingHeap orders the waiting inputs by address, of equal ones the newest first.
type waitingHeap Merger

func (h *waitingHeap) Len() int { return len(h.waiting) }

func (h *waitingHeap) Less(a, b int) bool {
	x, y := h.waiting[a], h.waiting[b]
	ax, ay := h.inputs[x].piece.Addr, h.inputs[y].piece.Addr
	return ax < ay || ax == ay && x > y
}

func (h *waitingHeap) Swap(a, b int) { h.waiting[a], h.waiting[b] = h.waiting[b], h.waiting[a] }
func (h *waitingHeap) Push(x any)    { h.waiting = append(h.waiting, x.(int)) }

func (h *waitingHeap) Pop() any {
	x := h.waiting[len(h.waiting)-1]
	h.waiting = h.waiting[:len(h.waiting)-1]
	return x
}

// activeHeap orders the active inputs, the newest first.
type activeHeap Merger

func (h *activeHeap) Len() int           { return len(h.active) }
func (h *activeHeap) Less(a, b int) bool { return h.active[a] > h.active[b] }
func (h *activeHeap) Swap(a, b int)      { h.active[a], h.active[b] = h.active[b], h.active[a] }
func (h *activeHeap) Push(x any)         { h.active = append(h.active, x.(int)) }

func (h *activeHeap) Pop() any {
	x := h.active[len(h.active)-1]
	h.active = h.active[:len(h.active)-1]
	return x
}
