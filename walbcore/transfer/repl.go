package transfer

import (
	"context"
	"fmt"
	"io"
	"math"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// ReplParams say what a replication shall do.
type ReplParams struct {
	Volume string
	// ByGid: the replication ends when the destination has reached Gid; it
	// ends there exactly when the diffs allow. Otherwise it goes on while the
	// diffs that the destination lacks weigh more than SizeMB MiB in all.
	ByGid  bool
	Gid    meta.Gid // valid iff ByGid
	SizeMB uint64   // valid iff not ByGid

	ArchiveUUID  meta.UUID    // lineage of our base image
	Resync       bool         // the destination shall overwrite its image by comparison
	DontMerge    bool         // send every diff as it is
	Bulk         block.LB     // of block and hash streams
	FullCompress compress.Opt // of block and hash streams
	DiffCompress compress.Opt // of merged diffs
	MaxMerge     uint64       // bytes of diff files merged for one round; at least one file is sent
	MaxFiles     int          // files merged for one round; 0 is no limit
}

// ReplSource is the source archive in a replication. The action
// ReplSyncAsClient runs all the while, so the base is not applied to; diffs may
// come, and be merged. No lock is held when a method is called.
type ReplSource interface {
	// Accepted: the destination took the volume. The controller is told
	// "accept" and let go here. Called once, first.
	Accepted(ctx context.Context) error
	// Base is the content of the `base` file, UUID that of `uuid`, Size the
	// size of the base image.
	Base(ctx context.Context) (meta.State, error)
	UUID(ctx context.Context) (meta.UUID, error)
	Size(ctx context.Context) (block.LB, error)
	// Image opens the base image, for a full replication. It is closed before
	// the rounds begin.
	Image(ctx context.Context) (SourceImage, error)
	// Snapshot opens the image at any snapshot, that of the base or one that
	// the diffs lead to, clean or not, to be compared. It is closed before
	// the next round.
	Snapshot(ctx context.Context, s meta.Snap) (SourceImage, error)
	// Diffs is the volume's diffs.
	Diffs() *diffstore.Store
}

// SourceImage is an open image to be read.
type SourceImage interface {
	BlockSource
	io.Closer
}

// ReplResult says what a replication did.
type ReplResult struct {
	Full     bool       // the base image was sent
	Resync   bool       // the destination's image was compared with the base image
	Start    block.LB   // block from which it was sent; valid iff Full
	Rounds   int        // diff and hash rounds
	Hashed   int        // of these, those in which images were compared
	Diffs    int        // diff files that went into the others
	Latest   meta.State // of the destination at the end
	Sent     uint64     // bytes on the wire, with the negotiation
	Received uint64
}

// SendRepl is the source's side of repl-sync3. Each diff round carries diffs
// merged into one, up to the limits of p, but a round ends at every gid that
// was restorable at the source when the replication began, so that it is
// restorable at the destination too. When it returns nil the destination has
// everything durably and has ended well. A refusal is a *wire.Refusal.
//
// The result is valid beside an error too: it says what was done until then.
func SendRepl(ctx context.Context, c *wire.Conn, p ReplParams, src ReplSource, o Options) (ReplResult, error) {
	defer c.Bind(ctx)()
	r := &replSender{c: c, p: p, src: src, o: o}
	err := r.run(ctx)
	r.result.Sent, r.result.Received = c.BytesOut(), c.BytesIn()
	return r.result, err
}

type replSender struct {
	c      *wire.Conn
	p      ReplParams
	src    ReplSource
	o      Options
	base   meta.State
	stops  []meta.Gid // rounds end at these gids
	target meta.State // of the hash round that was decided on
	sent   uint64     // bytes of diff files that are done
	result ReplResult
}

func (r *replSender) run(ctx context.Context) error {
	r.c.W.StrVec([]string{r.p.Volume})
	if err := ask(r.c, wire.Accept); err != nil {
		return err
	}
	if err := r.src.Accepted(ctx); err != nil {
		return err
	}
	var err error
	if r.base, err = r.src.Base(ctx); err != nil {
		return err
	}
	r.src.Diffs().View(func(m *meta.Manager) {
		for _, s := range m.Restorable(r.base, false) {
			r.stops = append(r.stops, s.Gid)
		}
	})
	if r.p.ByGid {
		r.stops = append(r.stops, r.p.Gid)
	}
	wire.ReplOffer{ArchiveUUID: r.p.ArchiveUUID, Resync: r.p.Resync}.Encode(r.c.W)
	if err := ask(r.c, wire.Accept); err != nil {
		return err
	}
	kind := r.c.R.U32()
	if err := r.c.R.Err(); err != nil {
		return err
	}
	switch kind {
	case wire.ReplNone:
	case wire.ReplFull:
		if err := r.full(ctx); err != nil {
			return err
		}
	case wire.ReplResync:
		if !r.p.Resync {
			return violation("repl-sync3", "a resync that was not offered", "0 or 2")
		}
		if err := r.resync(ctx); err != nil {
			return err
		}
	default:
		return violation("repl-sync3", fmt.Sprintf("kind of replication %d", kind), "0, 1 or 2")
	}
	return r.rounds(ctx)
}

// full sends the base image.
func (r *replSender) full(ctx context.Context) error {
	if r.base.Applying {
		return &walberr.Error{
			Op: "replicate", Volume: r.p.Volume, Code: walberr.BadState,
			Found: "base image between two snapshots: " + r.base.String(), Expected: "one that no apply has left half done",
			Hint: "run apply at the source to its end, then replicate again",
		}
	}
	size, err := r.src.Size(ctx)
	if err != nil {
		return err
	}
	uuid, err := r.src.UUID(ctx)
	if err != nil {
		return err
	}
	wire.ReplFullRequest{Size: size, Bulk: r.p.Bulk, Base: r.base, UUID: uuid, Compress: r.p.FullCompress}.Encode(r.c.W)
	if err := ask(r.c, wire.OK); err != nil {
		return err
	}
	start := block.LB(r.c.R.U64())
	if err := r.c.R.Err(); err != nil {
		return err
	}
	if start > size {
		return violation("repl-sync3", fmt.Sprintf("start at block %d", start), fmt.Sprintf("at most %d, the size", size))
	}
	img, err := r.src.Image(ctx)
	if err != nil {
		return err
	}
	r.result.Full, r.result.Start = true, start
	stream := BlockStream{Size: size, Start: start, Bulk: r.p.Bulk, Compress: r.p.FullCompress}
	if err := closing(img, SendBlocks(ctx, r.c, img, stream, r.o)); err != nil {
		return err
	}
	return awaitAck(r.c)
}

// rounds sends diffs until the destination has what it shall have.
func (r *replSender) rounds(ctx context.Context) error {
	for {
		restore := r.c.Patience(ackPatience)
		st := r.c.R.State()
		restore()
		if err := r.c.R.Err(); err != nil {
			return err
		}
		if r.result.Rounds > 0 && st.B.B <= r.result.Latest.B.B {
			return violation("repl-sync3", fmt.Sprintf("the destination at %s after it took a diff at %s", st.B, r.result.Latest.B), "a newer snapshot")
		}
		r.result.Latest = st
		kind, err := r.decide(st.B)
		if err != nil || kind == wire.RoundStop {
			r.c.W.U32(wire.RoundStop)
			if ackErr := awaitAck(r.c); err == nil {
				return ackErr
			}
			return err
		}
		if kind == wire.RoundHash {
			err = r.hash(ctx, st.B)
		} else {
			err = r.round(ctx, st.B)
		}
		if err != nil {
			return err
		}
		r.result.Rounds++
	}
}

// decide chooses the round that the destination, at srv, needs.
func (r *replSender) decide(srv meta.Snap) (round uint32, err error) {
	var own meta.Snap
	var todo []meta.Diff
	r.src.Diffs().View(func(m *meta.Manager) {
		own = m.LatestState(r.base).B
		todo = m.ApplicableList(srv)
	})
	switch {
	case srv.B >= own.B:
		return wire.RoundStop, nil
	case srv.B < r.base.B.B:
		return r.decideHash(srv)
	case len(todo) == 0:
		return wire.RoundStop, &walberr.Error{
			Op: "replicate", Server: r.c.Peer(), Volume: r.p.Volume, Code: walberr.TooNewDiff,
			Found: fmt.Sprintf("no diff of the source leads on from the destination's %s", srv), Expected: "a way to " + own.String(),
			Hint: "try again; if it stays so, replicate with resync",
		}
	case r.p.ByGid:
		if srv.B >= r.p.Gid {
			return wire.RoundStop, nil
		}
		return wire.RoundDiff, nil
	}
	limit := min(r.p.SizeMB, math.MaxUint64>>20) << 20
	if limit > 0 && meta.TotalSize(todo) <= limit {
		return wire.RoundStop, nil
	}
	return wire.RoundDiff, nil
}

// round sends one diff: as many as may be merged into one.
func (r *replSender) round(ctx context.Context, srv meta.Snap) error {
	files, err := r.open(srv)
	if err != nil {
		return err
	}
	err = r.sendDiff(ctx, srv, files)
	for _, f := range files {
		err = closing(f, err)
	}
	return err
}

// openTries is how often files are chosen anew because one of those chosen
// was merged away before it was open.
const openTries = 10

// open chooses the diffs of a round and opens them, oldest first.
func (r *replSender) open(srv meta.Snap) ([]*diffstore.File, error) {
	for try := 1; ; try++ {
		files, err := r.openOnce(srv)
		if err == nil || !walberr.Is(err, walberr.NotFound) || try == openTries {
			return files, err
		}
	}
}

func (r *replSender) openOnce(srv meta.Snap) ([]*diffstore.File, error) {
	var list []meta.Diff
	r.src.Diffs().View(func(m *meta.Manager) {
		if r.p.DontMerge {
			if d, ok := m.Applicable(srv); ok {
				list = []meta.Diff{d}
			}
			return
		}
		list = m.ListToSendUntil(srv, r.p.MaxMerge, r.p.MaxFiles, r.stops)
	})
	if len(list) == 0 {
		return nil, &walberr.Error{Op: "replicate", Volume: r.p.Volume, Code: walberr.NotFound, Found: "no diff to send from " + srv.String()}
	}
	var files []*diffstore.File
	for _, d := range list {
		f, err := r.src.Diffs().OpenFile(d)
		if err != nil {
			for _, g := range files {
				err = closing(g, err)
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (r *replSender) sendDiff(ctx context.Context, srv meta.Snap, files []*diffstore.File) error {
	diffs, list, weight := make([]*wdiff.File, len(files)), make([]meta.Diff, len(files)), uint64(0)
	for i, f := range files {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if diffs[i], err = wdiff.Open(f.Name(), f, info.Size()); err != nil {
			return err
		}
		list[i] = f.Diff
		weight += uint64(info.Size())
	}
	merged, err := meta.MergeAll(list)
	if err != nil {
		return err
	}
	size, err := r.src.Size(ctx)
	if err != nil {
		return err
	}
	r.c.W.U32(wire.RoundDiff)
	wire.ReplDiffRequest{Size: size, UUID: diffs[len(diffs)-1].UUID(), Diff: merged}.Encode(r.c.W)
	if err := ask(r.c, wire.OK); err != nil {
		return err
	}
	total, done := r.sent+r.toSend(srv), uint64(0)
	sent := func(pack int) {
		done = min(done+uint64(pack), weight)
		r.o.report(r.c, PhaseDiff, r.sent+done, max(total, r.sent+done))
	}
	if err := r.sendRecords(ctx, diffs, sent); err != nil {
		return err
	}
	r.c.W.U8(wire.CtlEnd)
	if err := awaitAck(r.c); err != nil {
		return err
	}
	r.sent += weight
	r.result.Diffs += len(files)
	return nil
}

// toSend sums the sizes of the diffs that the destination, at srv, shall get.
func (r *replSender) toSend(srv meta.Snap) uint64 {
	last := meta.MaxGid
	if r.p.ByGid {
		last = r.p.Gid
	}
	var todo []meta.Diff
	r.src.Diffs().View(func(m *meta.Manager) { todo = m.ApplicableListByGid(srv, last) })
	return meta.TotalSize(todo)
}

// sendRecords sends the data of a round, without its end.
func (r *replSender) sendRecords(ctx context.Context, diffs []*wdiff.File, sent func(pack int)) error {
	if !r.p.DontMerge {
		return sendPacks(ctx, r.c, mergeOf(diffs), r.p.DiffCompress, sent)
	}
	if packs := diffs[0].Packs(); packs != nil {
		return copyPacks(ctx, r.c, packs, sent)
	}
	return sendPacks(ctx, r.c, diffs[0].Records(), compress.Opt{Type: compress.Snappy, CPUs: 1}, sent)
}
