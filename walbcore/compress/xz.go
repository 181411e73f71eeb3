package compress

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"math/bits"

	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"

	"walbsh/walbcore/block"
)

// The .xz container, as far as records use it: one stream of one block with
// the LZMA2 filter. It is read here, not by the library, since the library
// allocates whatever dictionary a block header asks for.
//
//	stream header  fd 37 7a 58 5a 00 | 00 check | crc32 of the two bytes (4)
//	block header   size/4-1 (1) | flags (1) | [packed size] [plain size]
//	               | filter id 21, 01, dictionary code | zeros | crc32 (4)
//	block          LZMA2 chunks | zeros to a multiple of 4 | check (0, 4, 8 or 32)
//	index          00 | 1 | unpadded block size | plain size | zeros | crc32 (4)
//	stream footer  crc32 (4) | index size/4-1 (4) | 00 check | 59 5a
//
// Sizes in brackets and in the index are 7 bits per byte, low bits first.

const (
	xzHeaderLen = 12

	// maxDict is the largest dictionary a record may ask for, in bytes. The
	// memory really used is bounded by the plain size.
	maxDict = 64 << 20
)

var (
	xzMagic       = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	xzFooterMagic = []byte{'Y', 'Z'}

	errXZTruncated = errors.New("xz: truncated")
)

// xzDicts are the dictionaries of the presets, in bytes. Presets 7..9 are
// written as 6: C++ WalB cannot read a dictionary above 8 MiB.
var xzDicts = [MaxLevel + 1]int{
	8 << 20, 1 << 20, 2 << 20, 4 << 20, 4 << 20, 8 << 20, 8 << 20, 8 << 20, 8 << 20, 8 << 20,
}

func xzEncode(dst, src []byte, level uint8) ([]byte, error) {
	out := sink{dst}
	w, err := xz.WriterConfig{DictCap: xzDict(len(src), level), CheckSum: xz.CRC64}.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.buf, nil
}

// xzDict is the dictionary to write n bytes with: a longer one than the data
// would only cost memory.
func xzDict(n int, level uint8) int {
	need := 1 << bits.Len(uint(max(n, 1)-1))
	return min(xzDicts[level], max(lzma.MinDictCap, need))
}

func xzDecode(dst, src []byte) (int, error) {
	check, flags, err := xzStreamHeader(src)
	if err != nil {
		return 0, err
	}
	body := src[xzHeaderLen:]
	headerLen, err := xzBlockHeader(body)
	if err != nil {
		return 0, err
	}

	in := bytes.NewReader(body[headerLen:])
	// No distance can reach further back than the plain data does.
	lz, err := lzma.Reader2Config{DictCap: max(lzma.MinDictCap, len(dst))}.NewReader2(in)
	if err != nil {
		return 0, err
	}
	n, err := readAll(dst, lz)
	if err != nil || n != len(dst) {
		return n, err
	}

	bodyLen := len(body) - in.Len()
	rest := body[bodyLen:]
	pad := -bodyLen & 3
	if len(rest) < pad+check.size {
		return 0, errXZTruncated
	}
	if !block.IsZero(rest[:pad]) {
		return 0, errors.New("xz: block padding is not zero")
	}
	sum := rest[pad : pad+check.size]
	if !check.matches(dst, sum) {
		return 0, errors.New("xz: the check of the block is wrong")
	}
	rest = rest[pad+check.size:]
	return n, xzTail(rest, flags, uint64(bodyLen+check.size), uint64(n))
}

// xzStreamHeader returns the block check and the two flag bytes.
func xzStreamHeader(src []byte) (xzCheck, []byte, error) {
	if len(src) < xzHeaderLen {
		return xzCheck{}, nil, errXZTruncated
	}
	flags := src[6:8]
	switch {
	case !bytes.Equal(src[:6], xzMagic):
		return xzCheck{}, nil, errors.New("xz: no xz stream")
	case crc32.ChecksumIEEE(flags) != binary.LittleEndian.Uint32(src[8:]):
		return xzCheck{}, nil, errors.New("xz: stream header checksum is wrong")
	}
	check, ok := xzChecks[flags[1]]
	if flags[0] != 0 || !ok {
		return xzCheck{}, nil, fmt.Errorf("xz: unknown stream flags %#x", flags)
	}
	return check, flags, nil
}

// xzBlockHeader returns the length of the block header at the start of p.
func xzBlockHeader(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, errXZTruncated
	}
	n := (int(p[0]) + 1) * 4
	if p[0] == 0 {
		return 0, errors.New("xz: stream without a block")
	}
	if len(p) < n {
		return 0, errXZTruncated
	}
	body := p[:n-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(p[n-4:]) {
		return 0, errors.New("xz: block header checksum is wrong")
	}
	flags := body[1]
	if flags&^0xc0 != 0 {
		return 0, fmt.Errorf("xz: block flags %#x, want one filter", flags)
	}
	body = body[2:]
	for _, present := range []byte{0x40, 0x80} {
		if flags&present == 0 {
			continue
		}
		_, k := binary.Uvarint(body)
		if k <= 0 {
			return 0, errors.New("xz: bad size in the block header")
		}
		body = body[k:]
	}
	if len(body) < 3 || body[0] != 0x21 || body[1] != 1 {
		return 0, errors.New("xz: the filter is not LZMA2")
	}
	dict, err := lzma.DecodeDictCap(body[2])
	if err != nil {
		return 0, err
	}
	if dict > maxDict {
		return 0, fmt.Errorf("xz: dictionary of %d bytes, at most %d are read", dict, maxDict)
	}
	if !block.IsZero(body[3:]) {
		return 0, errors.New("xz: block header padding is not zero")
	}
	return n, nil
}

// xzTail verifies index and footer behind the block.
func xzTail(p, flags []byte, unpadded, plain uint64) error {
	index := []byte{0, 1}
	index = binary.AppendUvarint(index, unpadded)
	index = binary.AppendUvarint(index, plain)
	for len(index)%4 != 0 {
		index = append(index, 0)
	}
	index = binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(index))

	footer := binary.LittleEndian.AppendUint32(nil, uint32(len(index)/4-1))
	footer = append(footer, flags...)
	tail := binary.LittleEndian.AppendUint32(index, crc32.ChecksumIEEE(footer))
	tail = append(tail, footer...)
	tail = append(tail, xzFooterMagic...)
	switch {
	case len(p) < len(tail):
		return errXZTruncated
	case !bytes.Equal(p[:len(tail)], tail):
		return errors.New("xz: index or footer is wrong")
	case len(p) > len(tail):
		return fmt.Errorf("xz: %d bytes behind the end of the stream", len(p)-len(tail))
	}
	return nil
}

// xzCheck is one of the block checks of the container. The zero value checks
// nothing.
type xzCheck struct {
	size    int
	newHash func() hash.Hash
}

var xzChecks = map[byte]xzCheck{
	0x0: {},
	0x1: {4, func() hash.Hash { return crc32.NewIEEE() }},
	0x4: {8, func() hash.Hash { return crc64.New(crc64ECMA) }},
	0xa: {sha256.Size, sha256.New},
}

var crc64ECMA = crc64.MakeTable(crc64.ECMA)

func (c xzCheck) matches(data, sum []byte) bool {
	if c.newHash == nil {
		return true
	}
	h := c.newHash()
	h.Write(data)
	got := h.Sum(nil)
	if c.size < sha256.Size { // the CRCs are stored little-endian
		for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
			got[i], got[j] = got[j], got[i]
		}
	}
	return bytes.Equal(got, sum)
}
