package offline

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wlog"
)

// DiffPlan says what GenerateDiff writes. The same plan gives the same file.
type DiffPlan struct {
	Volume    block.LB // size of the volume
	Records   int      // of a sorted diff: at most one for each block of the volume
	MaxBlocks block.LB // the longest record, 1 to wdiff.DefaultMaxBlocks
	Indexed   bool     // records of any order that overlap, in an indexed file
	Opt       compress.Opt
	UUID      meta.UUID // all zero is one made of the seed
	Seed      uint64
}

// GenerateDiff writes a diff of random records, an eighth of them all-zero and
// an eighth discards, as input for tests. It gives their statistics.
func GenerateDiff(ctx context.Context, w io.Writer, p DiffPlan) (wdiff.Stats, error) {
	if err := p.check(); err != nil {
		return wdiff.Stats{}, err
	}
	g := newGenerator(p.Seed)
	if p.UUID.IsZero() {
		p.UUID = g.uuid()
	}
	add, finish, err := p.writer(w)
	if err != nil {
		return wdiff.Stats{}, err
	}
	st := wdiff.Stats{Files: 1}
	var buf []byte
	for i := range p.Records {
		if ctx.Err() != nil {
			return st, context.Cause(ctx)
		}
		addr, blocks := p.place(g, i)
		rec := wdiff.IO{Addr: addr, Blocks: blocks}
		switch g.IntN(8) {
		case 0:
			rec.Kind = wdiff.AllZero
		case 1:
			rec.Kind = wdiff.Discard
		default:
			if rec, err = wdiff.NewIO(addr, g.data(blocks), buf, p.Opt); err != nil {
				return st, err
			}
			if rec.Codec != compress.None {
				buf = rec.Data
			}
		}
		st.Count(wdiff.Record{Blocks: rec.Blocks, Kind: rec.Kind, Image: wdiff.Image{Size: uint32(len(rec.Data))}})
		if err := add(&rec); err != nil {
			return st, err
		}
	}
	return st, finish()
}

func (p *DiffPlan) check() error {
	if err := p.Opt.Validate(); err != nil {
		return err
	}
	switch {
	case p.Volume < 1 || !p.Volume.Valid():
		return badPlan("a volume of %d blocks", p.Volume)
	case p.Records < 0 || !p.Indexed && uint64(p.Records) > uint64(p.Volume):
		return badPlan("%d records in a volume of %d blocks", p.Records, p.Volume)
	case p.MaxBlocks < 1 || p.MaxBlocks > wdiff.DefaultMaxBlocks:
		return badPlan("records of %d blocks, 1 to %d are possible", p.MaxBlocks, wdiff.DefaultMaxBlocks)
	}
	return nil
}

func badPlan(format string, args ...any) error {
	return &walberr.Error{Op: "generate", Code: walberr.Usage, Found: fmt.Sprintf(format, args...)}
}

// writer opens the kind of file that is wanted.
func (p *DiffPlan) writer(w io.Writer) (add func(*wdiff.IO) error, finish func() error, err error) {
	if p.Indexed {
		f, err := wdiff.NewIndexedWriter(w, "the diff", p.UUID, p.Volume, wdiff.DefaultMaxBlocks)
		if err != nil {
			return nil, nil, err
		}
		return f.Add, f.Close, nil
	}
	f, err := wdiff.NewSortedWriter(w, "the diff", p.UUID, p.Volume)
	if err != nil {
		return nil, nil, err
	}
	return f.Add, f.Close, nil
}

// place gives the blocks of record i. Those of a sorted diff have a part of
// the volume each.
func (p *DiffPlan) place(g *generator, i int) (addr, blocks block.LB) {
	from, to := block.LB(0), p.Volume
	if !p.Indexed {
		n := block.LB(p.Records)
		from, to = share(p.Volume, n, block.LB(i)), share(p.Volume, n, block.LB(i)+1)
	}
	blocks = g.between(1, min(p.MaxBlocks, to-from))
	return from + g.between(0, to-from-blocks), blocks
}

// share is total*i/n without overflow.
func share(total, n, i block.LB) block.LB { return total/n*i + total%n*i/n }

// LogPlan says what GenerateLog writes. The same plan gives the same file.
type LogPlan struct {
	Volume     block.LB  // size of the device
	Size       uint64    // physical blocks of log, about
	PBS        uint32    // physical block size, 512 or 4096
	MinIO      block.LB  // the shortest write, at least 1
	MaxIO      block.LB  // the longest write, at most wlog.MaxIO and the ring
	MaxDiscard block.LB  // the longest discard; 0 makes none
	Ring       uint64    // physical blocks of the log device: no write crosses a multiple of it
	Begin      meta.Lsid // of the first pack
	UUID       meta.UUID // all zero is one made of the seed
	Seed       uint64
}

// GenerateLog writes a log of random writes, an eighth of them zeros, and
// discards, a tenth of all, as input for tests.
func GenerateLog(ctx context.Context, w io.Writer, p LogPlan) (Log, error) {
	if err := p.check(); err != nil {
		return Log{}, err
	}
	g := newGenerator(p.Seed)
	h := wlog.FileHeader{PBS: p.PBS, UUID: p.UUID, Begin: p.Begin, End: meta.MaxLsid}
	if h.UUID.IsZero() {
		h.UUID = g.uuid()
	}
	h.Salt = checksum.Sum(h.UUID[:], uint32(p.Seed))
	l := Log{Header: h, End: p.Begin}
	out, err := wlog.NewWriter(w, h)
	if err != nil {
		return l, err
	}
	packer := wlog.Packer{PBS: p.PBS, Ring: p.Ring, MaxPack: maxPackBytes / uint64(p.PBS)}
	for uint64(l.End-p.Begin) < p.Size {
		if ctx.Err() != nil {
			return l, context.Cause(ctx)
		}
		packs, end := packer.Pack(p.ios(g, p.Size-uint64(l.End-p.Begin)), l.End)
		for i := range packs {
			if err := out.WritePack(&packs[i]); err != nil {
				return l, err
			}
			l.count(&packs[i].PackHeader)
		}
		l.End = end
	}
	return l, out.Close()
}

// maxPackBytes bounds the packs of a generated log, and what is made at a time.
const maxPackBytes = 1 << 20

// ios gives some IOs that are packed together, of about room blocks at most.
func (p *LogPlan) ios(g *generator, room uint64) []wlog.IO {
	var ios []wlog.IO
	for size := uint64(0); size < min(room, maxPackBytes/uint64(p.PBS)); {
		if p.MaxDiscard > 0 && g.IntN(10) == 0 {
			n := g.between(1, p.MaxDiscard)
			ios = append(ios, wlog.IO{Op: wlog.OpDiscard, Addr: g.between(0, p.Volume-n), Len: n})
			continue
		}
		n := g.between(p.MinIO, p.MaxIO)
		data := make([]byte, n.Bytes())
		if g.IntN(8) > 0 {
			data = append(data[:0], g.data(n)...)
		}
		ios = append(ios, wlog.IO{Op: wlog.OpWrite, Addr: g.between(0, p.Volume-n), Len: n, Data: data})
		size += wlog.PB(n, p.PBS)
	}
	return ios
}

func (p *LogPlan) check() error {
	if !wlog.ValidPBS(p.PBS) {
		return badPlan("physical blocks of %d bytes, 512 or 4096 are possible", p.PBS)
	}
	const maxSize = 1 << 52 // blocks: below every limit of lsids and files
	switch {
	case p.Volume < 1 || !p.Volume.Valid():
		return badPlan("a volume of %d blocks", p.Volume)
	case p.MinIO < 1 || p.MinIO > p.MaxIO || p.MaxIO > min(wlog.MaxIO, p.Volume):
		return badPlan("writes of %d to %d blocks in a volume of %d", p.MinIO, p.MaxIO, p.Volume)
	case p.MaxDiscard > min(wlog.MaxDiscard, p.Volume):
		return badPlan("discards of %d blocks in a volume of %d", p.MaxDiscard, p.Volume)
	case p.Ring < wlog.PB(p.MaxIO, p.PBS):
		return badPlan("writes of %d blocks in a ring of %d physical blocks", p.MaxIO, p.Ring)
	case p.Size > maxSize || p.Begin > maxSize:
		return badPlan("%d physical blocks of log from lsid %d", p.Size, p.Begin)
	}
	return nil
}

// generator makes reproducible choices and data.
type generator struct {
	*rand.Rand
	bytes *rand.ChaCha8
	buf   []byte
}

func newGenerator(seed uint64) *generator {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &generator{Rand: rand.New(rand.NewPCG(seed, 0)), bytes: rand.NewChaCha8(key)}
}

func (g *generator) uuid() (u meta.UUID) {
	_, _ = g.bytes.Read(u[:]) // never fails
	return u
}

// between gives a number from lo to hi.
func (g *generator) between(lo, hi block.LB) block.LB {
	return lo + block.LB(g.Uint64N(uint64(hi-lo)+1))
}

// data gives blocks that are not zero, valid until the next call: half of
// them random, half of them compressible.
func (g *generator) data(blocks block.LB) []byte {
	n := int(blocks.Bytes())
	if cap(g.buf) < n {
		g.buf = make([]byte, n)
	}
	g.buf = g.buf[:n]
	if g.IntN(2) == 0 {
		_, _ = g.bytes.Read(g.buf)
	} else {
		for at := 0; at < n; at += len(pattern) {
			copy(g.buf[at:], pattern)
		}
		_, _ = g.bytes.Read(g.buf[:16])
	}
	g.buf[0] |= 1
	return g.buf
}

const pattern = "the same again, "
