package transfer

import (
	"context"
	"fmt"
	"io"

	"walbsh/walbcore/block"
	"walbsh/walbcore/checksum"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wlog"
)

// wlogServer begins the refusals of a wlog-transfer.
const wlogServer = "s2pWlogTransferServer"

// WlogServer is the proxy in a wlog-transfer, for one request.
type WlogServer interface {
	// Accept judges the request: limits, disk space, stop, state; its error
	// is the refusal. On return of nil the move Started to WlogRecv is
	// begun and the volume's lock is not held. "accept" is sent next. The
	// physical block size was checked before, and that the volume's size is
	// not 0.
	Accept(ctx context.Context, req *wire.WlogRequest) error
	// Create makes a temporary file in `received` for an indexed diff. If it
	// fails, or the connection does before, the server rolls the move back
	// when ServeWlog has returned.
	Create(ctx context.Context) (WlogSink, error)
}

// WlogSink takes the diff of one wlog-transfer in: an indexed wdiff file.
// Write is called from one goroutine at a time, Sync may run beside it.
type WlogSink interface {
	io.Writer
	Sync() error
	// Commit publishes the completely written file as d, which is clean. On
	// return: durable in `received`, linked into and durable in every
	// `sendto`, registered, removed from `received`, `size` raised if the
	// request's is larger, and the move committed. The ACK follows at once,
	// and with it the storage may begin its next transfer.
	Commit(ctx context.Context, d meta.Diff) error
	// Close is called once, whatever happened; without a successful Commit it
	// removes the temporary file and rolls the move back.
	Close() error
}

// ServeWlog is the proxy's side of wlog-transfer. reply sends the first status
// word.
func ServeWlog(ctx context.Context, c *wire.Conn, reply Reply, s WlogServer, o Options) error {
	defer c.Bind(ctx)()
	var req wire.WlogRequest
	req.Decode(c.R)
	if err := c.R.Err(); err != nil {
		return err
	}
	if !wlog.ValidPBS(req.PBS) {
		return refusal(walberr.Usage, "%s:invalid pbs:%d", wlogServer, req.PBS)
	}
	if err := checkSize(wlogServer, req.Size); err != nil {
		return err
	}
	if err := s.Accept(ctx, &req); err != nil {
		return err
	}
	if err := reply(wire.Accept); err != nil {
		return err
	}
	sink, err := s.Create(ctx)
	if err != nil {
		return err
	}
	err = receiveWlog(ctx, c, &req, sink, o)
	if err == nil {
		c.W.Ack()
		err = c.Finish()
	}
	return closing(sink, err)
}

// receiveWlog takes the log stream and the diff behind it in, and commits.
func receiveWlog(ctx context.Context, c *wire.Conn, req *wire.WlogRequest, sink WlogSink, o Options) error {
	f := newSyncedFile(sink)
	defer func() { _ = f.syncer.wait() }() // its failure was reported before, or another one was
	w, err := wdiff.NewIndexedWriter(f, "wlog-transfer of "+req.Volume, req.UUID, req.Size, wdiff.DefaultMaxBlocks)
	if err != nil {
		return err
	}
	r := &wlogReceiver{c: c, pbs: req.PBS, salt: req.Salt, w: w, units: unitReader{c: c}}
	for {
		more, err := r.pack()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		o.report(c, PhaseLog, r.received*uint64(req.PBS), req.MaxLogPB*uint64(req.PBS))
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := f.finish(); err != nil {
		return err
	}
	d := c.R.Diff()
	if err := c.R.Err(); err != nil {
		return err
	}
	if !d.IsClean() || d.Comp {
		return refusal(walberr.Checksum, "%s:diff is not clean:%s", wlogServer, d.Verbose())
	}
	return sink.Commit(ctx, d)
}

type wlogReceiver struct {
	c     *wire.Conn
	pbs   uint32
	salt  uint32
	w     *wdiff.IndexedWriter
	units unitReader

	header   wlog.PackHeader
	next     meta.Lsid // where the next pack must be; valid iff received > 0
	received uint64    // physical blocks of log
	enc      []byte
}

// pack receives one pack. It is false at the end of the stream.
func (r *wlogReceiver) pack() (bool, error) {
	switch ctl := r.c.R.U8(); {
	case r.c.R.Err() != nil:
		return false, r.c.R.Err()
	case ctl == wire.CtlEnd:
		return false, nil
	case ctl == wire.CtlError:
		return false, errPeerFailed
	case ctl != wire.CtlNext:
		return false, violation("wlog-transfer", fmt.Sprintf("control byte %d", ctl), "0 (pack), 1 (end) or 2 (failed)")
	}
	p, _, err := r.units.read(int(r.pbs))
	if err != nil {
		return false, err
	}
	h := &r.header
	if err := h.Decode(p, r.salt); err != nil {
		return false, err
	}
	if h.IsEnd() || len(h.Records) == 0 {
		return false, violation("wlog-transfer", "log pack without records", "records")
	}
	if r.received > 0 && h.Lsid != r.next {
		return false, violation("wlog-transfer", fmt.Sprintf("log pack at lsid %d", h.Lsid), fmt.Sprintf("the next one, at %d", r.next))
	}
	for _, rec := range h.Records {
		if err := r.record(rec); err != nil {
			return false, err
		}
	}
	r.next = h.Next()
	r.received += uint64(h.Total) + 1
	return true, nil
}

// record receives the data of a record and adds what it means to the diff.
func (r *wlogReceiver) record(rec wlog.Record) error {
	if !rec.HasData() {
		return r.w.Add(&wdiff.IO{Addr: rec.Offset, Blocks: rec.Size, Kind: wdiff.Discard})
	}
	switch ctl := r.c.R.U8(); {
	case r.c.R.Err() != nil:
		return r.c.R.Err()
	case ctl == wire.CtlError:
		return errPeerFailed
	case ctl != wire.CtlNext:
		return violation("wlog-transfer", fmt.Sprintf("control byte %d", ctl), "0 (the data of a record) or 2 (failed)")
	}
	size := rec.PB(r.pbs) * uint64(r.pbs)
	if size == 0 {
		return violation("wlog-transfer", "padding of size 0", "blocks to pad")
	}
	data, enc, err := r.units.read(int(size))
	if err != nil {
		return err
	}
	if rec.Kind != wlog.Write {
		return nil
	}
	if err := rec.VerifyData(data, r.salt); err != nil {
		return err
	}
	return r.write(rec, data[:rec.Size.Bytes()], enc)
}

// write adds a write. Data that came compressed and whole are kept as they came.
func (r *wlogReceiver) write(rec wlog.Record, data, enc []byte) error {
	if enc != nil && rec.Size.Bytes() == int64(len(r.units.plain)) && len(enc) < len(data) && !block.IsZero(data) {
		return r.w.Add(&wdiff.IO{Addr: rec.Offset, Blocks: rec.Size, Codec: compress.Snappy, Data: enc, Sum: checksum.Sum(enc, 0)})
	}
	rec2, err := wdiff.NewIO(rec.Offset, data, r.enc, compress.Opt{Type: compress.Snappy, CPUs: 1})
	if err != nil {
		return err
	}
	if rec2.Codec != compress.None {
		r.enc = rec2.Data
	}
	return r.w.Add(&rec2)
}
