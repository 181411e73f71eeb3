package wdev

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
)

// TestPendingMapAgainstModel compares the map with one that keeps, for each
// block, the number of the newest IO that covers it.
func TestPendingMapAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	const size = 1200
	for _, longest := range []int{1, 3, 40, size / 4} {
		var m pendingMap
		newest := make([]uint64, size) // 0: not pending
		var live []segment
		for seq := uint64(1); seq < 1500; seq++ {
			if len(live) > 0 && rnd.IntN(3) == 0 { // the oldest one is applied
				m.remove(live[0].Range, live[0].seq)
				for i := range newest {
					if newest[i] == live[0].seq {
						newest[i] = 0
					}
				}
				live = live[1:]
				continue
			}
			n := 1 + rnd.IntN(longest)
			s := segment{Range: block.Range{Addr: block.LB(rnd.IntN(size - n + 1)), Len: block.LB(n)}, seq: seq}
			if rnd.IntN(4) > 0 {
				s.data = bytes.Repeat([]byte{byte(seq)}, n*block.Size)
			}
			live = append(live, s)
			m.insert(s)
			for i := s.Addr; i < s.End(); i++ {
				newest[i] = seq
			}
		}
		zeros := map[uint64]bool{}
		for _, s := range live {
			zeros[s.seq] = s.data == nil
		}
		var want []byte
		for _, seq := range newest {
			b := byte(seq)
			switch {
			case seq == 0:
				b = 0xff
			case zeros[seq]:
				b = 0
			}
			want = append(want, bytes.Repeat([]byte{b}, block.Size)...)
		}
		got := make([]byte, len(want))
		fill := func(p []byte, addr block.LB) error {
			copy(p, bytes.Repeat([]byte{0xff}, len(p)))
			for a := addr; a < addr+block.FromBytes(int64(len(p))); a++ {
				assert.Zero(t, newest[a], "gap at a pending block")
			}
			return nil
		}
		for at := 0; at < size; {
			n := min(1+rnd.IntN(300), size-at)
			require.NoError(t, m.read(got[at*block.Size:(at+n)*block.Size], block.LB(at), fill))
			at += n
		}
		require.True(t, bytes.Equal(want, got))
		checkLeaves(t, &m)

		at := block.LB(0)
		for {
			r := m.nextPending(at)
			if r.Len == 0 {
				break
			}
			for i := at; i < r.Addr; i++ {
				require.Zero(t, newest[i])
			}
			for i := r.Addr; i < r.End(); i++ {
				require.NotZero(t, newest[i])
			}
			at = r.End()
		}
		for _, s := range live {
			m.remove(s.Range, s.seq)
		}
		assert.Empty(t, m.leaves)
	}
}

func checkLeaves(t *testing.T, m *pendingMap) {
	t.Helper()
	end := block.LB(0)
	for _, l := range m.leaves {
		require.NotEmpty(t, l)
		require.LessOrEqual(t, len(l), maxLeaf)
		for _, s := range l {
			require.GreaterOrEqual(t, s.Addr, end)
			require.Positive(t, s.Len)
			if s.data != nil {
				require.Len(t, s.data, int(s.Len.Bytes()))
			}
			end = s.End()
		}
	}
}

func BenchmarkPendingInsertRemove(b *testing.B) {
	var m pendingMap
	data := make([]byte, 4096)
	rnd := rand.New(rand.NewPCG(1, 1))
	var live []segment
	for i := 0; b.Loop(); i++ {
		s := segment{Range: block.Range{Addr: block.LB(rnd.IntN(1<<20)) * 8, Len: 8}, data: data, seq: uint64(i)}
		m.insert(s)
		live = append(live, s)
		if len(live) > 8192 {
			m.remove(live[0].Range, live[0].seq)
			live = live[1:]
		}
	}
}
