package checksum

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"
)

// Hash is the result of [Murmur3]: two little-endian 64-bit words. It tells
// whether two stretches of an image are equal; it is no protection against
// anybody who wants them to look so.
type Hash [16]byte

// String prints 32 lower-case hex digits, in the order of the bytes.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

const (
	murmurC1 = 0x87c37b91114253d5
	murmurC2 = 0x4cf5ad432745937f
)

// Murmur3 is MurmurHash3 x64 128 of p with the given seed.
func Murmur3(p []byte, seed uint32) Hash {
	h1, h2 := uint64(seed), uint64(seed)
	size := uint64(len(p))
	for len(p) >= 16 {
		h1 ^= murmurK1(binary.LittleEndian.Uint64(p))
		h1 = (bits.RotateLeft64(h1, 27)+h2)*5 + 0x52dce729
		h2 ^= murmurK2(binary.LittleEndian.Uint64(p[8:]))
		h2 = (bits.RotateLeft64(h2, 31)+h1)*5 + 0x38495ab5
		p = p[16:]
	}
	// What is left over counts as a block padded with zeros, which mix to zero.
	var tail [16]byte
	copy(tail[:], p)
	h1 ^= murmurK1(binary.LittleEndian.Uint64(tail[:]))
	h2 ^= murmurK2(binary.LittleEndian.Uint64(tail[8:]))

	h1, h2 = h1^size, h2^size
	h1 += h2
	h2 += h1
	h1, h2 = murmurMix(h1), murmurMix(h2)
	h1 += h2
	h2 += h1
	var out Hash
	binary.LittleEndian.PutUint64(out[:], h1)
	binary.LittleEndian.PutUint64(out[8:], h2)
	return out
}

func murmurK1(k uint64) uint64 { return bits.RotateLeft64(k*murmurC1, 31) * murmurC2 }
func murmurK2(k uint64) uint64 { return bits.RotateLeft64(k*murmurC2, 33) * murmurC1 }

func murmurMix(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}

// Bulks is the block hash of an image, which the archive's command bhash
// gives: the exclusive or, over i = 0, 1, 2, ..., of [Murmur3] of bulk i with
// seed + i. The last bulk may be shorter; the result depends on the size of
// the bulks. It is not safe for concurrent use.
type Bulks struct {
	seed uint32
	sum  Hash
	bulk []byte // of the present bulk, what has arrived; its capacity is the size
}

// NewBulks begins a block hash in bulks of size bytes, which must be positive.
func NewBulks(size int, seed uint32) *Bulks { return &Bulks{seed: seed, bulk: make([]byte, 0, size)} }

// Write adds p, of any length. It always returns len(p) and no error.
func (b *Bulks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		room := cap(b.bulk) - len(b.bulk)
		if len(b.bulk) == 0 && len(p) >= room {
			b.add(p[:room]) // a whole bulk: no need to collect it
			p = p[room:]
			continue
		}
		k := min(room, len(p))
		b.bulk = append(b.bulk, p[:k]...)
		p = p[k:]
		if len(b.bulk) == cap(b.bulk) {
			b.add(b.bulk)
			b.bulk = b.bulk[:0]
		}
	}
	return n, nil
}

func (b *Bulks) add(bulk []byte) {
	h := Murmur3(bulk, b.seed)
	b.seed++
	for i := range b.sum {
		b.sum[i] ^= h[i]
	}
}

// Sum ends the last bulk and gives the hash. Nothing can be written afterwards.
func (b *Bulks) Sum() Hash {
	if len(b.bulk) > 0 {
		b.add(b.bulk)
		b.bulk = b.bulk[:0]
	}
	return b.sum
}
