package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdiff"
)

// mergeAttempts is how often a merge is begun whose inputs are replaced before
// they are open.
const mergeAttempts = 10

// mergeRequest is a parsed merge command.
type mergeRequest struct {
	from  meta.Gid
	byGid bool
	to    meta.Gid // if byGid: diffs that begin before it
	size  uint64   // otherwise: most bytes of all diffs
}

func parseMerge(words []string) (mergeRequest, error) {
	var req mergeRequest
	from, err := meta.ParseGid(words[1])
	if err != nil {
		return req, err
	}
	n, err := meta.ParseGid(words[3])
	if err != nil {
		return req, err
	}
	req.from = from
	switch words[2] {
	case "size":
		req.size = math.MaxUint64
		if mib := uint64(n); mib <= math.MaxUint64>>20 {
			req.size = mib << 20
		}
	case "gid":
		req.byGid, req.to = true, n
		if n <= from {
			return req, server.Refusef(walberr.Range, "parseMergeParam:bad gid range:%d:%d", from, n)
		}
	default:
		return req, server.Refusef(walberr.Usage, "parseMergeParam:specify size or gid:%s", words[2])
	}
	return req, nil
}

// merge makes one diff of several that follow each other: words volume, first
// gid, size|gid, and MiB or last gid. It answers when it has begun.
//
// The merged file is published before its inputs are removed. In between, and
// after a crash there, it is preferred to them, since it leads further.
func (s *Server) merge(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aMergeServer"
	if err := server.ExactWords(name, words, 4); err != nil {
		return err
	}
	v, err := s.volume(words[0], false)
	if err != nil {
		return err
	}
	req, err := parseMerge(words)
	if err != nil {
		return err
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	end, err := v.beginAction(name, fsm.Merge, s.now())
	if err != nil {
		return err
	}
	defer end()
	if v.facts().base.Applying {
		return server.Refusef(walberr.BadState, "verifyNotApplying:merge is not permitted because the volume is under applying:%s", v.name)
	}
	if len(s.toMerge(v, req)) < 2 {
		return server.Refusef(walberr.NotFound, "verifyMergeable:There is no mergeable diff.")
	}
	if err := r.Accept(); err != nil {
		return err
	}
	ctx, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	err = s.runMerge(ctx, v, req)
	s.logEnd(fmt.Sprintf("merge from %d", req.from), v, err)
	return err
}

// toMerge lists the diffs that the request names. There are no more of them
// than two steps can merge.
func (s *Server) toMerge(v *volume, req mergeRequest) (list []meta.Diff) {
	most := s.mergeRound() * s.mergeRound()
	v.facts().view(func(m *meta.Manager) {
		if req.byGid {
			list = m.ListToMergeGid(req.from, req.to)
		} else {
			list = m.ListToMerge(req.from, req.size, most)
		}
	})
	return list[:min(len(list), most)]
}

// mergeRound is how many files are open at a time for a merge.
func (s *Server) mergeRound() int { return max(2, s.round()) }

func (s *Server) runMerge(ctx context.Context, v *volume, req mergeRequest) error {
	run := s.track(v, fsm.Merge, req.to)
	for attempt := 1; ; attempt++ {
		list := s.toMerge(v, req)
		if len(list) < 2 {
			err := server.Refusef(walberr.NotFound, "verifyMergeable:There is no mergeable diff.")
			run.end(err)
			return err
		}
		run.expect(meta.TotalSize(list))
		err := s.mergeDiffs(ctx, v, list, run)
		if err == nil || attempt == mergeAttempts || !walberr.Is(err, walberr.NotFound) || ctx.Err() != nil {
			run.end(err)
			return err
		}
	}
}

// mergeDiffs makes one diff of a list, publishes it and removes the others.
func (s *Server) mergeDiffs(ctx context.Context, v *volume, list []meta.Diff, run *actionRun) (err error) {
	sum, err := meta.MergeAll(list)
	if err != nil {
		return err
	}
	m := &merger{s: s, v: v, total: meta.TotalSize(list), run: run}
	defer func() { err = errors.Join(err, m.close()) }()
	tmp, err := m.merge(ctx, list)
	if err != nil {
		return err
	}
	store := v.facts().diffs
	if _, err := store.Add(tmp, sum); err != nil {
		return err
	}
	return store.RemoveFiles(m.inputs...)
}

// merger merges files, in two steps where they are too many to be open at a
// time.
type merger struct {
	s      *Server
	v      *volume
	run    *actionRun
	total  uint64 // bytes of the inputs
	inputs []*diffstore.File
	parts  []*vfs.TempFile // made on the way, with the result
	read   uint64          // bytes of inputs that are read
}

// close closes the inputs and removes the files that are not published.
func (m *merger) close() error {
	var errs []error
	for _, t := range m.parts {
		errs = append(errs, t.Abort())
	}
	return errors.Join(errs...)
}

// merge gives the merged file, complete but not synced.
func (m *merger) merge(ctx context.Context, list []meta.Diff) (*vfs.TempFile, error) {
	lots := 1
	if round := m.s.mergeRound(); len(list) > round {
		lots = (len(list) + round - 1) / round
	}
	var files []*wdiff.File
	var last *vfs.TempFile
	for i := range lots {
		lot := list[i*len(list)/lots : (i+1)*len(list)/lots]
		part, f, err := m.mergeLot(ctx, lot)
		if err != nil {
			return nil, err
		}
		files, last = append(files, f), part
	}
	if lots == 1 {
		return last, nil
	}
	last, _, err := m.write(ctx, files, func(block.LB) {})
	return last, err
}

// mergeLot merges diffs that are open together.
func (m *merger) mergeLot(ctx context.Context, lot []meta.Diff) (part *vfs.TempFile, f *wdiff.File, err error) {
	o, err := m.v.openDiffs(lot)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, o.Close()) }()
	m.inputs = append(m.inputs, o.files...)
	bytes, size := meta.TotalSize(lot), block.LB(0)
	if size, err = m.v.images.Size(m.v.name); err != nil {
		return nil, nil, err
	}
	part, f, err = m.write(ctx, o.diffs, func(pos block.LB) {
		m.run.reach(m.read + uint64(min(1, float64(pos)/float64(size))*float64(bytes)))
	})
	m.read += bytes
	return part, f, err
}

// write merges files into a new one, which it opens again.
func (m *merger) write(ctx context.Context, files []*wdiff.File, reached func(pos block.LB)) (*vfs.TempFile, *wdiff.File, error) {
	tmp, err := m.v.facts().diffs.CreateTemp()
	if err != nil {
		return nil, nil, err
	}
	m.parts = append(m.parts, tmp)
	buffered := bufio.NewWriterSize(&syncing{TempFile: tmp}, 256<<10)
	w, err := wdiff.NewSortedWriter(buffered, tmp.Name(), files[len(files)-1].UUID(), 0)
	if err != nil {
		return nil, nil, err
	}
	recs := &watched{mergeFiles(wdiff.DefaultMaxBlocks, files), reached}
	if _, err := w.AddAll(ctx, recs, compress.Opt{Type: compress.Snappy, CPUs: m.s.cfg.Compress.CPUs}); err != nil {
		return nil, nil, err
	}
	if err := errors.Join(w.Close(), buffered.Flush()); err != nil {
		return nil, nil, err
	}
	f, err := wdiff.Open(tmp.Name(), tmp, w.Size())
	return tmp, f, err
}

// watched is a stream that tells how far it is.
type watched struct {
	wdiff.Stream
	reached func(pos block.LB)
}

// Next implements [wdiff.Stream].
func (w *watched) Next() (wdiff.Record, error) {
	r, err := w.Stream.Next()
	if err == nil {
		w.reached(r.Addr)
	}
	return r, err
}

// syncEvery is how many bytes of a merged file are written between two syncs,
// so that none of them takes long.
const syncEvery = 64 << 20

// syncing is a file that is synced while it is written.
type syncing struct {
	*vfs.TempFile
	unsynced int
}

var _ io.Writer = (*syncing)(nil)

// Write writes behind what was written.
func (f *syncing) Write(p []byte) (int, error) {
	n, err := f.TempFile.Write(p)
	if f.unsynced += n; err == nil && f.unsynced >= syncEvery {
		f.unsynced = 0
		err = f.Sync()
	}
	return n, err
}
