package storage

import (
	"time"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// snapshotAfter gives the record of a snapshot taken at lsid, when the record
// before it is prev. Gids are left free for a long stretch of log, so that it
// can be shipped in pieces of at most maxPB physical blocks, each with a gid of
// its own. An equal lsid is allowed: the diff between the two is empty.
func snapshotAfter(prev meta.LsidGid, lsid meta.Lsid, maxPB uint64, mergeable bool, now uint64) (meta.LsidGid, error) {
	if prev.Lsid > lsid {
		return meta.LsidGid{}, server.Refusef(walberr.BadState, "takeSnapshotDetail:invalid lsid:%d:%d", prev.Lsid, lsid)
	}
	step := 1 + uint64(lsid-prev.Lsid)/maxPB
	if step >= uint64(meta.MaxGid-prev.Gid) { // the last gid means none
		return meta.LsidGid{}, server.Refusef(walberr.Range, "takeSnapshotDetail:no gid is left:%d", prev.Gid)
	}
	return meta.LsidGid{Mergeable: mergeable, Timestamp: now, Lsid: lsid, Gid: prev.Gid + meta.Gid(step)}, nil
}

// shipment is the stretch of log that one wlog-transfer carries: from the
// record reached so far towards the record of a snapshot.
type shipment struct {
	from, to meta.LsidGid
	// limit is where the transfer ends at the latest; a pack that passes it
	// is left for the next one.
	limit meta.Lsid
}

// chooseShipment decides what to ship next. queue is newest first and not
// empty; everything in it is behind done. Implicit snapshots are skipped as
// long as no more than maxPB blocks come together; an explicit one always ends
// a shipment, so that it can be restored.
func chooseShipment(done meta.LsidGid, queue []meta.LsidGid, permanent meta.Lsid, maxPB uint64) shipment {
	i := len(queue) - 1
	for i > 0 && queue[i].Mergeable {
		next := queue[i-1]
		if uint64(next.Lsid-done.Lsid) > maxPB || next.Lsid > permanent {
			break
		}
		i--
	}
	s := shipment{from: done, to: queue[i]}
	switch full := done.Lsid + meta.Lsid(maxPB); {
	case i == len(queue)-1 && s.to.Gid == done.Gid+1:
		// No gid is left to cut the stretch in two.
		s.limit = s.to.Lsid
	default:
		s.limit = min(full, s.to.Lsid)
	}
	return s
}

// diff describes the diff that the log up to reached makes.
func (s shipment) diff(reached meta.Lsid) meta.Diff {
	end := s.from.Gid + 1
	if reached == s.to.Lsid {
		end = s.to.Gid
	}
	return meta.Diff{
		B:         meta.CleanSnap(s.from.Gid),
		E:         meta.CleanSnap(end),
		Mergeable: s.from.Mergeable,
		Timestamp: s.to.Timestamp,
	}
}

// done is the record to keep once a proxy has the log up to reached.
func (s shipment) done(reached meta.Lsid) meta.LsidGid {
	if reached == s.to.Lsid {
		return s.to
	}
	return meta.LsidGid{Mergeable: true, Timestamp: s.from.Timestamp, Lsid: reached, Gid: s.from.Gid + 1}
}

// monitorDelay lets writes that come close together go in one shipment.
const monitorDelay = 100 * time.Millisecond

// pace spreads the shipments of a volume that is written to all the time, which
// would else be very many and small: the gap between two doubles as long as
// they follow one another. A volume at rest ships its next write soon.
type pace struct {
	last time.Time     // when the latest shipment ended
	gap  time.Duration // how long after it the next one waits
}

// shipped says that a shipment has ended now.
func (p *pace) shipped(now time.Time) {
	if now.Sub(p.last) > batchDelay(0, 1) {
		p.gap = 0
	}
	p.gap = max(2*p.gap, monitorDelay)
	p.last = now
}

// delay is how long from now on the next shipment waits, when megabytes of log
// are there and at most limit go in one.
func (p *pace) delay(now time.Time, megabytes, limit uint64) time.Duration {
	gap := min(p.gap, batchDelay(megabytes, limit))
	return max(monitorDelay, p.last.Add(gap).Sub(now))
}

// batchDelay is how long to wait for more log before shipping remaining
// megabytes of it, when at most limit go in one shipment: short when much is
// there already. It is the original's rule.
func batchDelay(remaining, limit uint64) time.Duration {
	const longest, shortest = 1000, 100 // milliseconds
	switch {
	case 2*remaining >= limit:
		return shortest * time.Millisecond
	case 10*remaining <= limit:
		return longest * time.Millisecond
	}
	return time.Duration(longest-(longest-shortest)*(10*remaining-limit)/(4*limit)) * time.Millisecond
}

// newestOr is the newest record of the queue, or done when it is empty.
func newestOr(q *queueFile, done meta.LsidGid) meta.LsidGid {
	if rec, ok := q.newest(); ok {
		return rec
	}
	return done
}

// implicitIsDue reports whether the log up to end has to be given a snapshot by
// itself: there is none to ship towards, or the newest is older than interval
// seconds and there is log behind it.
func implicitIsDue(q *queueFile, end meta.Lsid, interval, now uint64) bool {
	rec, ok := q.newest()
	return !ok || (rec.Lsid < end && rec.Timestamp+interval <= now)
}
