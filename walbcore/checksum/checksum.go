// Package checksum computes the WalB checksum, the one integrity check of
// every format of the system: log packs, diffs, queue files and packets.
//
//	sum      = salt
//	sum     += each 4-byte little-endian word of the data    (mod 2^32)
//	           (1..3 bytes left over are padded with zeros to a word)
//	checksum = -sum                                          (mod 2^32)
//
// A block that holds its own checksum in an aligned 4-byte field verifies when
// [Sum] over the whole block with the same salt is 0. To make one: set the
// field to 0, compute, store the result little-endian.
//
// It also holds the hash by which images are compared, [Murmur3], and the block
// hash of a whole image, [Bulks].
//
// The package is pure.
package checksum

import "encoding/binary"

// Sum is the checksum of p with the given salt. Formats without a salt use 0.
func Sum(p []byte, salt uint32) uint32 {
	return -(salt + words(p))
}

// Verify reports whether p, which contains its own checksum field, is intact.
func Verify(p []byte, salt uint32) bool { return Sum(p, salt) == 0 }

// Running computes the checksum of data that arrives in pieces of any length.
// The zero value is ready and has salt 0. It is not safe for concurrent use.
type Running struct {
	sum uint32
	pos uint8 // position inside the current word, 0..3
}

// New starts a running checksum with the given salt.
func New(salt uint32) *Running { return &Running{sum: salt} }

// Write adds p. It always returns len(p) and no error.
func (r *Running) Write(p []byte) (int, error) {
	n := len(p)
	for r.pos != 0 && len(p) > 0 {
		r.sum += uint32(p[0]) << (8 * r.pos)
		r.pos = (r.pos + 1) % 4
		p = p[1:]
	}
	if len(p) > 0 {
		r.sum += words(p)
		r.pos = uint8(len(p) % 4)
	}
	return n, nil
}

// Sum is the checksum of everything written so far. Writing may go on.
func (r *Running) Sum() uint32 { return -r.sum }

// words adds up the little-endian words of p, the last one padded with zeros.
// Two words are loaded at a time: low and high halves are summed apart in 64
// bits, where the carries out of the low half do not matter.
func words(p []byte) uint32 {
	var lo, hi uint64
	for len(p) >= 32 {
		a := binary.LittleEndian.Uint64(p)
		b := binary.LittleEndian.Uint64(p[8:])
		c := binary.LittleEndian.Uint64(p[16:])
		d := binary.LittleEndian.Uint64(p[24:])
		lo += a + b + c + d
		hi += a>>32 + b>>32 + c>>32 + d>>32
		p = p[32:]
	}
	sum := uint32(lo) + uint32(hi)
	for len(p) >= 4 {
		sum += binary.LittleEndian.Uint32(p)
		p = p[4:]
	}
	for i, b := range p {
		sum += uint32(b) << (8 * i)
	}
	return sum
}
