// Package block holds the units of the system: bytes, logical blocks of 512
// bytes, and ranges of them. It is the only place where units convert.
//
// The package is pure: no os, net, clock or goroutine may come in.
package block

import (
	"fmt"
	"math"
	"strconv"
)

// Size is the number of bytes in a logical block, everywhere in WalB.
const Size = 512

// LB is an address or a length in logical blocks of [Size] bytes.
type LB uint64

// MaxLB is the largest count of logical blocks whose size in bytes still fits an int64.
const MaxLB LB = math.MaxInt64 / Size

// Bytes converts to bytes. Values above [MaxLB] saturate at the largest
// multiple of [Size]; values from outside are checked with [LB.Valid] first.
func (n LB) Bytes() int64 {
	return int64(min(n, MaxLB)) * Size
}

// Valid reports whether the value can be expressed in bytes.
func (n LB) Valid() bool { return n <= MaxLB }

// FromBytes converts a size in bytes to whole logical blocks, rounding down.
// Negative sizes give 0.
func FromBytes(n int64) LB {
	if n < 0 {
		return 0
	}
	return LB(n / Size)
}

// CeilBytes converts a size in bytes to logical blocks, rounding up.
// Negative sizes give 0.
func CeilBytes(n int64) LB {
	if n <= 0 {
		return 0
	}
	return LB((n-1)/Size + 1)
}

// Range is the half-open interval [Addr, Addr+Len) of logical blocks.
type Range struct {
	Addr LB
	Len  LB
}

// End is the first block behind the range. It saturates instead of wrapping.
func (r Range) End() LB {
	if r.Addr > math.MaxUint64-r.Len {
		return math.MaxUint64
	}
	return r.Addr + r.Len
}

// Overlaps reports whether the two ranges share a block.
func (r Range) Overlaps(o Range) bool {
	return r.Addr < o.End() && o.Addr < r.End()
}

// Contains reports whether o lies wholly inside r.
func (r Range) Contains(o Range) bool {
	return r.Addr <= o.Addr && o.End() <= r.End()
}

// String prints the range as address+length, for example 8+16.
func (r Range) String() string { return fmt.Sprintf("%d+%d", r.Addr, r.Len) }

// IsZero reports whether every byte of p is zero.
func IsZero(p []byte) bool {
	for len(p) >= 8 {
		if p[0]|p[1]|p[2]|p[3]|p[4]|p[5]|p[6]|p[7] != 0 {
			return false
		}
		p = p[8:]
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

const sizeUnits = "kmgtpezy"

// ParseSize reads a size in bytes written as decimal digits and an optional
// unit letter k m g t p e (either case, powers of 1024), as WalB's commands
// take it: "256k", "1G", "4096". Anything behind the unit is refused.
func ParseSize(s string) (int64, error) {
	if s == "" {
		return 0, fmt.Errorf("size is empty, want digits and an optional unit k m g t p e")
	}
	digits, shift := s, 0
	if c := s[len(s)-1] | 0x20; c >= 'a' && c <= 'z' {
		i := indexByte(sizeUnits[:6], c)
		if i < 0 {
			return 0, fmt.Errorf("size %q has the unknown unit %q, want k m g t p or e", s, s[len(s)-1:])
		}
		digits, shift = s[:len(s)-1], 10*(i+1)
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("size %q is not digits with an optional unit k m g t p e", s)
	}
	if n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %q does not fit 63 bits", s)
	}
	return int64(n << shift), nil
}

// FormatSize prints a size in bytes with the largest power-of-1024 unit that
// divides it exactly, as WalB's status lines do: 4194304 is 4m, 11712 is 11712.
func FormatSize(n int64) string {
	if n == 0 {
		return "0"
	}
	unit := -1
	for n%1024 == 0 && unit < len(sizeUnits)-1 {
		n /= 1024
		unit++
	}
	s := strconv.FormatInt(n, 10)
	if unit >= 0 {
		s += sizeUnits[unit : unit+1]
	}
	return s
}

func indexByte(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c {
			return i
		}
	}
	return -1
}
