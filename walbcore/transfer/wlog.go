package transfer

import (
	"context"
	"fmt"

	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wlog"
)

// LogReader reads a log device by lsid. wdev.Device is one.
type LogReader interface {
	// ReadLog reads the physical blocks [lsid, lsid+len(p)/pbs) into p.
	ReadLog(ctx context.Context, lsid meta.Lsid, p []byte) error
}

// WlogStretch is the log that one wlog-transfer carries.
type WlogStretch struct {
	Begin meta.Lsid // first log pack
	// Limit is where the stretch ends at the latest; a pack that reaches
	// behind it is left for the next transfer. At most the permanent lsid.
	Limit meta.Lsid
	// MaxPB is the largest number of blocks, header included, that a single
	// pack may have; a larger one is an error.
	MaxPB uint64
	// Diff describes the diff that the log from Begin up to reached makes.
	// It is clean.
	Diff func(reached meta.Lsid) meta.Diff
}

// OfferWlog asks a proxy to take log. A refusal is a *wire.Refusal: the caller
// closes the connection and asks the next proxy, as after any other error.
func OfferWlog(ctx context.Context, c *wire.Conn, req wire.WlogRequest) error {
	defer c.Bind(ctx)()
	req.Encode(c.W)
	return ask(c, wire.Accept)
}

// SendWlog sends the log after OfferWlog returned nil on the same connection,
// and returns the lsid that was reached once the proxy has the diff durably
// (ACK). The caller then makes `done` durable. Packs and data are verified as
// they are read; the first failure ends the transfer at once. An error of a
// log that is broken on the device itself is a *BrokenLogError.
func SendWlog(ctx context.Context, c *wire.Conn, req wire.WlogRequest, log LogReader, s WlogStretch, o Options) (reached meta.Lsid, err error) {
	defer c.Bind(ctx)()
	if !wlog.ValidPBS(req.PBS) {
		return 0, &walberr.Error{Op: "wlog-transfer", Code: walberr.Usage, Found: fmt.Sprintf("physical blocks of %d bytes", req.PBS), Expected: "512 or 4096"}
	}
	w := &wlogSender{c: c, log: log, pbs: req.PBS, salt: req.Salt, s: s}
	reached = s.Begin
	for reached != s.Limit {
		next, err := w.pack(ctx, reached)
		if err != nil {
			w.tell()
			return 0, err
		}
		if next == reached {
			break
		}
		reached = next
		o.report(c, PhaseLog, uint64(reached-s.Begin)*uint64(req.PBS), uint64(s.Limit-s.Begin)*uint64(req.PBS))
	}
	c.W.U8(wire.CtlEnd)
	c.W.Diff(s.Diff(reached))
	if err := awaitAck(c); err != nil {
		return 0, err
	}
	return reached, nil
}

// BrokenLogError says that the log on the device cannot be shipped: a pack
// header or the data of a record are invalid.
type BrokenLogError struct {
	Lsid  meta.Lsid // of the pack
	Block []byte    // the header block as it was read, to be kept for inspection
	Err   error     // what is wrong
}

// Error gives the cause with its place.
func (e *BrokenLogError) Error() string {
	return "log pack at lsid " + e.Lsid.String() + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *BrokenLogError) Unwrap() error { return e.Err }

type wlogSender struct {
	c    *wire.Conn
	log  LogReader
	pbs  uint32
	salt uint32
	s    WlogStretch

	header  wlog.PackHeader
	block   []byte
	data    []byte
	encoded []byte
}

// pack sends the pack at lsid and gives the lsid behind it; lsid itself if the
// pack reaches behind the limit.
func (w *wlogSender) pack(ctx context.Context, lsid meta.Lsid) (meta.Lsid, error) {
	w.block = resize(w.block, int(w.pbs))
	if err := w.log.ReadLog(ctx, lsid, w.block); err != nil {
		return 0, err
	}
	h := &w.header
	if err := w.verify(lsid); err != nil {
		return 0, w.broken(lsid, err)
	}
	if size := uint64(h.Total) + 1; size > w.s.MaxPB {
		return 0, &walberr.Error{
			Op: "wlog-transfer", Code: walberr.Range,
			Found: fmt.Sprintf("log pack of %d physical blocks at lsid %d", size, lsid), Expected: fmt.Sprintf("at most %d", w.s.MaxPB),
			Hint: "raise the largest amount of log for one transfer (-wl)",
		}
	}
	next := h.Next()
	if next > w.s.Limit {
		return lsid, nil
	}
	if err := w.unit(w.block); err != nil {
		return 0, err
	}
	for _, r := range h.Records {
		if !r.HasData() {
			continue
		}
		w.data = resize(w.data, int(r.PB(w.pbs)*uint64(w.pbs)))
		if err := w.log.ReadLog(ctx, r.Lsid, w.data); err != nil {
			return 0, err
		}
		if err := r.VerifyData(w.data, w.salt); err != nil {
			return 0, w.broken(lsid, err)
		}
		if err := w.unit(w.data); err != nil {
			return 0, err
		}
	}
	return next, nil
}

// verify decodes the header block and judges what the stream cannot carry.
func (w *wlogSender) verify(lsid meta.Lsid) error {
	h := &w.header
	if err := h.Decode(w.block, w.salt); err != nil {
		return err
	}
	if h.Lsid != lsid || len(h.Records) == 0 {
		return violation("read log", fmt.Sprintf("pack of %d records with lsid %d", len(h.Records), h.Lsid), fmt.Sprintf("records and lsid %d", lsid))
	}
	for _, r := range h.Records {
		if r.HasData() && r.Size == 0 {
			return violation("read log", "padding of size 0", "blocks to pad")
		}
	}
	return nil
}

func (w *wlogSender) broken(lsid meta.Lsid, err error) error {
	return &BrokenLogError{Lsid: lsid, Block: append([]byte(nil), w.block...), Err: err}
}

// unit sends one unit, compressed if that makes it smaller.
func (w *wlogSender) unit(p []byte) error {
	enc, codec, err := compress.CompressOrStore(w.encoded, p, compress.Snappy, 0)
	if err != nil {
		return err
	}
	w.c.W.U8(wire.CtlNext)
	if codec == compress.None {
		w.c.W.U32(0)
	} else {
		w.encoded = enc
		w.c.W.U32(uint32(len(enc)))
	}
	w.c.W.U32(uint32(len(p)))
	w.c.W.Raw(enc)
	return w.c.W.Err()
}

// tell says that we failed, so that the proxy need not wait for its timeout. It
// is a courtesy: the closed connection says the same.
func (w *wlogSender) tell() {
	w.c.W.U8(wire.CtlError)
	_ = w.c.Flush()
}

// unitReader reads the units of a log stream.
type unitReader struct {
	c     *wire.Conn
	enc   []byte // as received; valid iff compressed
	plain []byte
}

// errPeerFailed is what the control byte 2 means.
var errPeerFailed error = &walberr.Error{Op: "wlog-transfer", Code: walberr.Unavailable, Found: "WlogReceiver:process:isError", Expected: "log"}

// read reads a unit behind its control byte; it must expand to want bytes. enc
// is its compressed form, nil if it came as it is. Both are valid until the
// next call.
func (u *unitReader) read(want int) (plain, enc []byte, err error) {
	encSize, size := u.c.R.U32(), u.c.R.U32()
	if err := u.c.R.Err(); err != nil {
		return nil, nil, err
	}
	if int64(size) != int64(want) || encSize > size {
		return nil, nil, violation("wlog-transfer", fmt.Sprintf("unit of %d bytes, compressed %d", size, encSize), fmt.Sprintf("%d bytes", want))
	}
	u.plain = resize(u.plain, want)
	if encSize == 0 {
		u.c.R.Raw(u.plain)
		return u.plain, nil, u.c.R.Err()
	}
	u.enc = resize(u.enc, int(encSize))
	u.c.R.Raw(u.enc)
	if err := u.c.R.Err(); err != nil {
		return nil, nil, err
	}
	if err := compress.Decompress(u.plain, u.enc, compress.Snappy); err != nil {
		return nil, nil, err
	}
	return u.plain, u.enc, nil
}
