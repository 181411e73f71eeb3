package archive

import (
	"context"
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// serveWdiff takes in a diff from a proxy.
func (s *Server) serveWdiff(ctx context.Context, r *server.Request) error {
	w := &wdiffTransfer{s: s, conn: r.Conn}
	defer w.end()
	return transfer.ServeWdiff(ctx, r.Conn, r.Reply, w, transfer.Options{SyncInterval: s.cfg.SyncInterval})
}

// wdiffTransfer is the transfer's WdiffServer.
type wdiffTransfer struct {
	s    *Server
	conn *wire.Conn
	scope
	req wire.WdiffRequest
}

// Judge decides whether the diff is wanted.
func (w *wdiffTransfer) Judge(ctx context.Context, req *wire.WdiffRequest) (string, error) {
	const name = "p2aWdiffTransferServer"
	w.req = *req
	if req.Volume == "" {
		return "", server.Refusef(walberr.Usage, "ArchiveVolInfo:volId is empty")
	}
	if req.HostType != wire.HostProxy && req.HostType != wire.HostArchive {
		return "", server.Refusef(walberr.Usage, "%s:bad hostType:%s", name, req.HostType)
	}
	v, err := w.s.peerVolume(name, req.Volume)
	if err != nil {
		return "", err
	}
	release, err := w.s.core.Foreground(name)
	if err != nil {
		return "", err
	}
	w.hold(release)
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return "", err
	}
	switch v.sm.State() {
	case fsm.ArchiveStopped, fsm.ArchiveStart:
		return wire.StoppedWord, nil
	case fsm.ArchiveFullSync, fsm.ArchiveHashSync:
		return wire.SyncingWord, nil
	case fsm.ArchiveWdiffRecv:
		return wire.WdiffRecvWord, nil
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveArchived); err != nil {
		return "", err
	}
	// From here on nothing else changes the volume's diffs.
	if w.tx, err = v.sm.Begin(name, fsm.ArchiveArchived, fsm.ArchiveWdiffRecv, fsm.ArchiveArchived); err != nil {
		return "", err
	}
	w.v = v
	word, err := w.judgeDiff(name)
	if err != nil || word != wire.Accept {
		w.end()
		return word, err
	}
	w.bindStop(ctx, w.conn)
	return word, nil
}

// judgeDiff compares the request with what the volume has.
func (w *wdiffTransfer) judgeDiff(name string) (string, error) {
	f := w.v.facts()
	if w.req.HostType == wire.HostProxy && w.req.UUID != f.uuid {
		return wire.DifferentUUID, nil
	}
	if size, err := w.s.fit(w.v, w.req.Size); err != nil {
		return "", err
	} else if size < w.req.Size {
		return wire.SmallerLvSize, nil
	}
	latest := f.latest().B
	switch rel := latest.Relation(w.req.Diff); rel {
	case meta.Applicable:
		return wire.Accept, nil
	case meta.TooOld:
		return wire.TooOldDiff, nil
	case meta.TooNew:
		return wire.TooNewDiff, nil
	default:
		return "", server.Refusef(walberr.BadState, "%s:bad meta diff relation:%d:%s:%s", name, int(rel), latest, w.req.Diff)
	}
}

// fit gives the size of the base image. Where it is smaller than what comes,
// the option AutoResize makes it large enough first.
func (s *Server) fit(v *volume, size block.LB) (block.LB, error) {
	have, err := v.images.Size(v.name)
	if err != nil || have >= size || !s.cfg.AutoResize {
		return have, err
	}
	return size, v.images.Grow(v.name, size)
}

// Create makes the file that the diff is written to.
func (w *wdiffTransfer) Create(context.Context) (transfer.DiffSink, error) {
	sink, err := w.s.createDiff(w.v, w.req.Diff, "wdiff-transfer")
	if err != nil {
		return nil, err
	}
	return &wdiffSink{diffSink: sink, w: w}, nil
}

// wdiffSink takes a proxy's diff in.
type wdiffSink struct {
	diffSink
	w *wdiffTransfer
}

// Commit publishes the diff and frees the volume, so that the proxy finds it
// free when it is told.
func (k *wdiffSink) Commit(ctx context.Context) error {
	if err := k.diffSink.Commit(ctx); err != nil {
		return err
	}
	k.w.end()
	return nil
}

// diffSink takes one diff in.
type diffSink struct {
	*vfs.TempFile
	s    *Server
	v    *volume
	diff meta.Diff
	what string // for the log
}

// createDiff makes the file that a diff is written to.
func (s *Server) createDiff(v *volume, d meta.Diff, what string) (diffSink, error) {
	tmp, err := v.facts().diffs.CreateTemp()
	return diffSink{TempFile: tmp, s: s, v: v, diff: d, what: what}, err
}

// Commit publishes the diff. One of the same range that is listed already is
// replaced: it is on no way to a snapshot, or this one would be too old.
func (k *diffSink) Commit(context.Context) error {
	if _, err := k.v.facts().diffs.Replace(k.TempFile, k.diff); err != nil {
		return err
	}
	k.v.learn(func(f *facts) { f.lastWdiff = k.s.now() })
	k.s.cfg.Log.Info(fmt.Sprintf("%s succeeded:%s:%s", k.what, k.v.name, k.diff))
	return nil
}

// Close removes what was not published.
func (k *diffSink) Close() error { return k.Abort() }
