package archive

import (
	"context"
	"errors"
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
	v, err := w.s.volume(req.Volume, false)
	if err != nil {
		return "", err
	}
	release, err := w.s.core.Foreground(name)
	if err != nil {
		return "", err
	}
	w.cleanup = append(w.cleanup, release)
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
		w.tx.Rollback()
		return word, err
	}
	w.bindStop(ctx, w.conn)
	return word, nil
}

// judgeDiff compares the request with what the volume has.
func (w *wdiffTransfer) judgeDiff(name string) (string, error) {
	v := w.v
	v.mu.Lock()
	uuid, latest := v.uuid, v.latestLocked()
	v.mu.Unlock()
	if w.req.HostType == wire.HostProxy && w.req.UUID != uuid {
		return wire.DifferentUUID, nil
	}
	if smaller, err := w.s.isSmaller(v, w.req.Size); err != nil {
		return "", err
	} else if smaller {
		return wire.SmallerLvSize, nil
	}
	switch rel := latest.B.Relation(w.req.Diff); rel {
	case meta.Applicable:
		return wire.Accept, nil
	case meta.TooOld:
		return wire.TooOldDiff, nil
	case meta.TooNew:
		return wire.TooNewDiff, nil
	default:
		return "", server.Refusef(walberr.BadState, "%s:bad meta diff relation:%d:%s:%s", name, int(rel), latest.B, w.req.Diff)
	}
}

// isSmaller reports whether the base image is smaller than what comes; the
// option AutoResize makes it large enough first.
func (s *Server) isSmaller(v *volume, size block.LB) (bool, error) {
	have, err := v.images.Size(v.name)
	if err != nil || have >= size {
		return false, err
	}
	if !s.cfg.AutoResize {
		return true, nil
	}
	return false, v.images.Grow(v.name, size)
}

// Create makes the file that the diff is written to.
func (w *wdiffTransfer) Create(context.Context) (transfer.DiffSink, error) {
	tmp, err := w.v.diffs.CreateTemp()
	if err != nil {
		return nil, err
	}
	return &diffSink{TempFile: tmp, v: w.v, diff: w.req.Diff, committed: func() {
		w.v.mu.Lock()
		w.v.lastWdiff = w.s.now()
		w.v.mu.Unlock()
		w.s.cfg.Log.Info(fmt.Sprintf("wdiff-transfer succeeded:%s:%s", w.v.name, w.req.Diff))
		w.tx.Commit()
	}}, nil
}

// diffSink takes one diff in. It is a DiffSink.
type diffSink struct {
	*vfs.TempFile
	v         *volume
	diff      meta.Diff
	committed func()       // called once the diff is listed
	closed    func() error // called at the end; may be nil
}

// Commit publishes the diff. One of the same range that is listed already is
// replaced: nothing depends on it, or the diff would not be applicable.
func (k *diffSink) Commit(context.Context) error {
	if _, err := k.v.diffs.Replace(k.TempFile, k.diff); err != nil {
		return err
	}
	k.committed()
	return nil
}

// Close removes what was not published.
func (k *diffSink) Close() error {
	err := k.Abort()
	if k.closed != nil {
		err = errors.Join(err, k.closed())
	}
	return err
}
