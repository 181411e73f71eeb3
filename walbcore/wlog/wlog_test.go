package wlog

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

func TestUnits(t *testing.T) {
	assert.Equal(t, 15, MaxRecords(512))
	assert.Equal(t, 127, MaxRecords(4096))
	for _, c := range []struct {
		n    block.LB
		pbs  uint32
		want uint64
	}{{0, 512, 0}, {1, 512, 1}, {65535, 512, 65535}, {0, 4096, 0}, {1, 4096, 1}, {8, 4096, 1}, {9, 4096, 2}, {65535, 4096, 8192}} {
		assert.Equal(t, c.want, PB(c.n, c.pbs), c)
	}
	assert.Equal(t, "E--", Write.String())
	assert.Equal(t, "EP-", Padding.String())
	assert.Equal(t, "E-D", Discard.String())
}

// aPack is a valid header of every kind of record: lsids 100..114 at pbs 512.
func aPack() PackHeader {
	return PackHeader{Total: 14, Lsid: 100, NPadding: 1, Records: []Record{
		{Checksum: 7, Kind: Write, Offset: 8, Size: 4, Local: 1, Lsid: 101},
		{Kind: Discard, Offset: 1000, Size: 1 << 20, Local: 5, Lsid: 105},
		{Kind: Padding, Size: 7, Local: 5, Lsid: 105},
		{Checksum: 9, Kind: Write, Offset: 4, Size: 3, Local: 12, Lsid: 112},
	}}
}

// TestPackRules breaks one rule at a time.
func TestPackRules(t *testing.T) {
	good := aPack()
	require.NoError(t, good.Validate(512))
	assert.Equal(t, meta.Lsid(115), good.Next())
	for name, spoil := range map[string]func(h *PackHeader){
		"total too large":        func(h *PackHeader) { h.Total++ },
		"total too small":        func(h *PackHeader) { h.Total-- },
		"padding not counted":    func(h *PackHeader) { h.NPadding = 0 },
		"padding counted twice":  func(h *PackHeader) { h.NPadding = 2 },
		"lsid at the end":        func(h *PackHeader) { h.Lsid = MaxLsid },
		"write of nothing":       func(h *PackHeader) { h.Records[0].Size = 0 },
		"write too long":         func(h *PackHeader) { h.Records[0].Size = 65536 },
		"padding too long":       func(h *PackHeader) { h.Records[2].Size = 65536 },
		"discard of nothing":     func(h *PackHeader) { h.Records[1].Size = 0 },
		"does not exist":         func(h *PackHeader) { h.Records[0].Kind = 0 },
		"padding and discard":    func(h *PackHeader) { h.Records[2].Kind = 7 },
		"unknown flag":           func(h *PackHeader) { h.Records[0].Kind = 9 },
		"offset out of the disk": func(h *PackHeader) { h.Records[0].Offset = 1 << 60 },
		"local 0":                func(h *PackHeader) { h.Records[0].Local = 0 },
		"a gap in the data":      func(h *PackHeader) { h.Records[3].Local++; h.Records[3].Lsid++ },
		"lsid is not pack+local": func(h *PackHeader) { h.Records[3].Lsid++ },
		"too many records": func(h *PackHeader) {
			for range 12 {
				h.Records = append(h.Records, Record{Kind: Discard, Size: 1, Local: 15, Lsid: 115})
			}
		},
	} {
		h := aPack()
		spoil(&h)
		err := h.Validate(512)
		require.Error(t, err, name)
		assert.True(t, walberr.Is(err, walberr.Checksum), name)
		if len(h.Records) > MaxRecords(512) {
			continue
		}
		p := make([]byte, 512)
		h.Encode(p, 5)
		_, err = DecodePack(p, 5)
		require.Error(t, err, name)
	}
	unaligned := PackHeader{Total: 7, Lsid: 1, NPadding: 1, Records: []Record{{Kind: Padding, Size: 7, Local: 1, Lsid: 2}}}
	require.NoError(t, unaligned.Validate(512))
	assert.ErrorContains(t, unaligned.Validate(4096), "whole physical blocks")
}

func TestPackHeaderRoundTrip(t *testing.T) {
	h := aPack()
	p := make([]byte, 512)
	h.Encode(p, 0xdeadbeef)
	again, err := DecodePack(p, 0xdeadbeef)
	require.NoError(t, err)
	assert.Equal(t, h, *again)
	_, err = DecodePack(p, 1)
	assert.True(t, walberr.Is(err, walberr.Checksum), "another salt")
	_, err = DecodePack(p[:511], 0xdeadbeef)
	require.Error(t, err)

	binary.LittleEndian.PutUint16(p[16:], 65535) // n_records beyond the block
	_, err = DecodePack(p, 0xdeadbeef)
	assert.ErrorContains(t, err, "n_records 65535")
}

func TestOneBitIsAlwaysNoticed(t *testing.T) {
	h := aPack()
	p := make([]byte, 512)
	h.Encode(p, 1)
	for i := range 512 * 8 {
		p[i/8] ^= 1 << (i % 8)
		_, err := DecodePack(p, 1)
		assert.Error(t, err, "bit %d", i)
		p[i/8] ^= 1 << (i % 8)
	}
}

func TestShrink(t *testing.T) {
	h := aPack()
	h.Shrink(3, 512)
	assert.Equal(t, uint16(11), h.Total)
	assert.Equal(t, uint16(1), h.NPadding)
	require.NoError(t, h.Validate(512))
	h.Shrink(2, 512)
	assert.Equal(t, uint16(4), h.Total)
	assert.Equal(t, uint16(0), h.NPadding)
	require.NoError(t, h.Validate(512))
}

func TestVerifyData(t *testing.T) {
	data := bytes.Repeat([]byte{1, 2, 3, 4}, 128)
	r := Record{Kind: Write, Size: 1, Checksum: checksum.Sum(data, 42)}
	require.NoError(t, r.VerifyData(append(data, 9), 42), "what lies behind is not looked at")
	require.Error(t, r.VerifyData(data, 43))
	require.Error(t, r.VerifyData(data[:511], 42))
	r.Kind = Discard
	assert.NoError(t, r.VerifyData(nil, 42))
}

// TestPackerLaws packs random IOs and checks what readers rely on.
func TestPackerLaws(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range 300 {
		pbs := []uint32{512, 4096}[rnd.IntN(2)]
		k := Packer{PBS: pbs, Ring: uint64(64 + rnd.IntN(500)), MaxPack: uint64(rnd.IntN(3) * 32)}
		longest := int(min(uint64(MaxIO), k.Ring/4*uint64(pbs/512)))
		lsid := meta.Lsid(rnd.IntN(10000))
		var ios []IO
		for range 1 + rnd.IntN(60) {
			io := IO{Op: Op(rnd.IntN(3)), Addr: block.LB(rnd.IntN(1000)), Len: block.LB(1 + rnd.IntN(longest)), Preflush: rnd.IntN(9) == 0}
			if io.Op == OpWrite {
				io.Data = make([]byte, io.Len.Bytes())
			}
			ios = append(ios, io)
		}
		packs, end := k.Pack(ios, lsid)
		var got []IO
		for _, p := range packs {
			require.Equal(t, lsid, p.Lsid)
			require.NoError(t, p.Validate(pbs))
			require.Len(t, p.Data, len(p.Records))
			for i, r := range p.Records {
				switch r.Kind {
				case Write:
					require.LessOrEqual(t, uint64(r.Lsid)%k.Ring+r.PB(pbs), k.Ring, "a write crosses the ring end")
					got = append(got, IO{Op: OpWrite, Addr: r.Offset, Len: r.Size, Data: p.Data[i]})
				case Padding:
					require.Zero(t, (uint64(r.Lsid)+r.PB(pbs))%k.Ring, "padding reaches the ring end")
				case Discard:
					got = append(got, IO{Op: OpDiscard, Addr: r.Offset, Len: r.Size})
				}
			}
			lsid = p.Next()
		}
		require.Equal(t, end, lsid)
		var want []IO
		for _, io := range ios {
			if io.Op != OpFlush {
				io.Preflush = false
				want = append(want, io)
			}
		}
		for i := range want {
			if want[i].Op == OpDiscard {
				want[i].Data = nil
			}
		}
		require.Equal(t, want, got, "the same IOs in the same order")
	}
}

func TestFlushEndsAPack(t *testing.T) {
	k := Packer{PBS: 512, Ring: 1000}
	w := IO{Len: 1, Data: make([]byte, 512)}
	packs, end := k.Pack([]IO{{Op: OpFlush}, w, {Op: OpFlush}, {Op: OpFlush}, w}, 0)
	assert.Len(t, packs, 2)
	assert.Equal(t, meta.Lsid(4), end)
	packs, end = k.Pack([]IO{{Op: OpFlush}}, 7)
	assert.Empty(t, packs)
	assert.Equal(t, meta.Lsid(7), end)
}

func TestFileHeaderRules(t *testing.T) {
	good := FileHeader{PBS: 512, Begin: 1, End: 2}
	p := make([]byte, FileHeaderSize)
	good.Encode(p)
	_, err := DecodeFileHeader(p)
	require.NoError(t, err)
	_, err = DecodeFileHeader(p[:4095])
	assert.True(t, walberr.Is(err, walberr.Checksum))
	for name, h := range map[string]FileHeader{
		"pbs":   {PBS: 1024, Begin: 1, End: 2},
		"pbs 0": {Begin: 1, End: 2},
		"lsids": {PBS: 512, Begin: 2, End: 2},
	} {
		h.Encode(p)
		_, err := DecodeFileHeader(p)
		assert.True(t, walberr.Is(err, walberr.Checksum), name)
	}
}

func FuzzDecodePack(f *testing.F) {
	for _, file := range loadManifest(f).Files {
		raw := load(f, file.File)
		h, err := DecodeFileHeader(raw)
		require.NoError(f, err)
		for at := FileHeaderSize; at+int(h.PBS) <= len(raw) && at < FileHeaderSize+10*int(h.PBS); at += int(h.PBS) {
			f.Add(raw[at:at+int(h.PBS)], h.Salt)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, salt uint32) {
		if len(p) == 512 || len(p) == 4096 { // let mutations come past the checksum
			binary.LittleEndian.PutUint32(p, 0)
			binary.LittleEndian.PutUint32(p, checksum.Sum(p, salt))
		}
		h, err := DecodePack(p, salt)
		if err != nil {
			return
		}
		again := make([]byte, len(p))
		h.Encode(again, salt)
		h2, err := DecodePack(again, salt)
		require.NoError(t, err)
		require.Equal(t, h, h2)
	})
}

func FuzzReader(f *testing.F) {
	for _, name := range []string{"log-basic512.wlog", "log-basic4096.wlog", "log-two-a.wlog", "l-empty-pack.wlog", "l-bad-io.wlog"} {
		f.Add(load(f, name))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) >= FileHeaderSize {
			binary.LittleEndian.PutUint32(p[8:], 0)
			binary.LittleEndian.PutUint32(p[8:], checksum.Sum(p[:FileHeaderSize], 0))
		}
		_, err := show(bytes.NewReader(p), onlyShow)
		if err != nil {
			require.True(t, walberr.Is(err, walberr.Checksum), err)
		}
	})
}

func BenchmarkDecodePack(b *testing.B) {
	h := aPack()
	p := make([]byte, 512)
	h.Encode(p, 1)
	var into PackHeader
	for b.Loop() {
		if err := into.Decode(p, 1); err != nil {
			b.Fatal(err)
		}
	}
}
