package wdev

import (
	"encoding/binary"
	"fmt"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wlog"
)

// staleWindow is how far behind the end of the log redo looks for packs that
// a crash left over [bytes]. It is more than any device has in flight:
// maxFlushBytes and a group.
const staleWindow = 256 << 20

// redo repeats the log from Written on the data file and returns where the log
// ends. It makes nothing durable.
//
// The log ends at the first lsid without a valid pack header. A pack with bad
// data is the last: its records before the bad one are kept, and its header is
// rewritten to hold only these; if none is left, the log ends before it and
// nothing is rewritten. Repeating redo after a crash gives the same result.
func redo(r ring, data file) (meta.Lsid, error) {
	var buf []byte
	for lsid := r.Written; ; {
		h, err := r.header(lsid)
		if walberr.Is(err, walberr.Checksum) {
			return lsid, nil
		}
		if err != nil {
			return lsid, err
		}
		for i, rec := range h.Records {
			if rec.Range().End() > r.Size {
				return lsid, walberr.Corrupt("redo log", fmt.Sprintf("record at lsid %d for blocks %v", rec.Lsid, rec.Range()),
					fmt.Sprintf("blocks below the device size %d", uint64(r.Size)))
			}
			switch rec.Kind {
			case wlog.Discard:
				if err := data.Zero(rec.Offset.Bytes(), rec.Size.Bytes()); err != nil {
					return lsid, err
				}
			case wlog.Write:
				n := int(rec.PB(r.PBS)) * int(r.PBS)
				if cap(buf) < n {
					buf = make([]byte, n)
				}
				buf = buf[:n]
				if err := r.readBlocks(rec.Lsid, buf); err != nil {
					return lsid, err
				}
				if rec.VerifyData(buf, r.Salt) != nil {
					return cutPack(r, h, i)
				}
				if _, err := data.WriteAt(buf[:rec.Size.Bytes()], rec.Offset.Bytes()); err != nil {
					return lsid, err
				}
			}
		}
		lsid = h.Next()
	}
}

// cutPack rewrites the header of a torn pack to hold its first n records only,
// and returns the end of the log.
func cutPack(r ring, h *wlog.PackHeader, n int) (meta.Lsid, error) {
	if n == 0 {
		return h.Lsid, nil
	}
	h.Shrink(n, r.PBS)
	p := make([]byte, r.PBS)
	h.Encode(p, r.Salt)
	return h.Next(), r.writeBlocks(h.Lsid, p)
}

// zeroStale overwrites every block behind the end of the log that would be
// taken for a part of it once the log has grown up to there: valid headers of
// packs that were in flight when the power went, behind one that was lost. It
// never touches log that is still needed, [oldest, end).
func zeroStale(r ring, end meta.Lsid) error {
	n := min(r.Ring, staleWindow/uint64(r.PBS))
	if used := uint64(end - r.Oldest); used <= r.Ring {
		n = min(n, r.Ring-used)
	}
	const chunk = 1 << 20
	buf := make([]byte, min(n*uint64(r.PBS), chunk))
	zeros := make([]byte, r.PBS)
	for last := end + meta.Lsid(n); end < last; {
		p := buf[:min(uint64(len(buf)), uint64(last-end)*uint64(r.PBS))]
		if err := r.readBlocks(end, p); err != nil {
			return err
		}
		for ; len(p) > 0; end++ {
			b := p[:r.PBS]
			p = p[r.PBS:]
			if meta.Lsid(binary.LittleEndian.Uint64(b[8:])) != end {
				continue
			}
			if _, err := wlog.DecodePack(b, r.Salt); err != nil {
				continue
			}
			if err := r.writeBlocks(end, zeros); err != nil {
				return err
			}
		}
	}
	return nil
}
