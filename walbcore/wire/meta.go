package wire

import (
	"fmt"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
)

// Constants in front of structures.
const (
	snapMark    uint16 = 0x0311
	diffMark    uint16 = 0x0312
	stateMark   uint16 = 0x0313
	lsidGidMark uint16 = 0x0314
)

// mark reads the constant in front of the structure that the original calls name.
func (r *Reader) mark(name string, want uint16) {
	at := r.pos
	if v := r.U16(); r.err == nil && v != want {
		r.err = malformed(fmt.Sprintf("%s::check:wrong preamble:%d", name, v),
			fmt.Sprintf("%s constant %04x at byte %d", name, v, at), fmt.Sprintf("%04x", want))
	}
}

// judge keeps err, the verdict on a structure just read, as a failure whose
// text for the peer is err's own.
func (r *Reader) judge(what string, err error) {
	if r.err != nil || err == nil {
		return
	}
	r.err = &Error{
		Text: RefusalText(err),
		Err: &walberr.Error{
			Op: "receive", Code: walberr.Checksum,
			Found: fmt.Sprintf("impossible %s before byte %d", what, r.pos), Err: err,
		},
	}
}

// Snap reads a snapshot; B must not be above E.
func (r *Reader) Snap() meta.Snap {
	r.mark("MetaSnap", snapMark)
	s := meta.Snap{B: meta.Gid(r.U64()), E: meta.Gid(r.U64())}
	r.judge("snapshot", s.Check())
	return s
}

// Diff reads a diff; it must make progress.
func (r *Reader) Diff() meta.Diff {
	r.mark("MetaDiff", diffMark)
	var d meta.Diff
	d.Mergeable = r.Bool()
	d.Comp = r.Bool()
	d.Timestamp = r.U64()
	d.B = r.Snap()
	d.E = r.Snap()
	d.Size = r.U64()
	r.judge("diff", d.Check())
	return d
}

// State reads the state of a base image; an applying one must make progress.
func (r *Reader) State() meta.State {
	r.mark("MetaState", stateMark)
	var s meta.State
	s.Applying = r.Bool()
	s.Timestamp = r.U64()
	s.B = r.Snap()
	s.E = r.Snap()
	r.judge("state", s.Check())
	return s
}

// LsidGid reads a record that ties a log position to a snapshot.
func (r *Reader) LsidGid() meta.LsidGid {
	r.mark("MetaLsidGid", lsidGidMark)
	var g meta.LsidGid
	g.Mergeable = r.Bool()
	g.Timestamp = r.U64()
	g.Lsid = meta.Lsid(r.U64())
	g.Gid = meta.Gid(r.U64())
	return g
}

// UUID reads 16 raw bytes.
func (r *Reader) UUID() (u meta.UUID) {
	r.fill(u[:], "stream:read")
	return u
}

// CompressOpt reads a compression option and validates it.
func (r *Reader) CompressOpt() compress.Opt {
	o := compress.Opt{Type: compress.Type(r.U8()), Level: r.U8(), CPUs: r.U8()}
	r.judge("compression option", o.Validate())
	return o
}

// Snap writes a snapshot.
func (w *Writer) Snap(s meta.Snap) {
	w.U16(snapMark)
	w.U64(uint64(s.B))
	w.U64(uint64(s.E))
}

// Diff writes a diff.
func (w *Writer) Diff(d meta.Diff) {
	w.U16(diffMark)
	w.Bool(d.Mergeable)
	w.Bool(d.Comp)
	w.U64(d.Timestamp)
	w.Snap(d.B)
	w.Snap(d.E)
	w.U64(d.Size)
}

// State writes the state of a base image. Both snapshots are always written;
// that of a state which is not applying are equal by custom.
func (w *Writer) State(s meta.State) {
	w.U16(stateMark)
	w.Bool(s.Applying)
	w.U64(s.Timestamp)
	w.Snap(s.B)
	w.Snap(s.E)
}

// LsidGid writes a record that ties a log position to a snapshot.
func (w *Writer) LsidGid(g meta.LsidGid) {
	w.U16(lsidGidMark)
	w.Bool(g.Mergeable)
	w.U64(g.Timestamp)
	w.U64(uint64(g.Lsid))
	w.U64(uint64(g.Gid))
}

// UUID writes 16 raw bytes.
func (w *Writer) UUID(u meta.UUID) { w.Raw(u[:]) }

// CompressOpt writes a compression option.
func (w *Writer) CompressOpt(o compress.Opt) {
	w.U8(uint8(o.Type))
	w.U8(o.Level)
	w.U8(o.CPUs)
}
