package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/diffstore"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// defaultMaxMerge is how many bytes of diff files one round merges when the
// command does not say.
const defaultMaxMerge = 1 << 30

// replicateRequest is a parsed replicate command.
type replicateRequest struct {
	params transfer.ReplParams
	addr   wire.Addr
}

// parseReplicate reads the words of a replicate command: volume, size|gid,
// number, addr:port, and optionally doResync, dontMerge, compression, largest
// merge, bulk size. Further words are ignored.
func (s *Server) parseReplicate(words []string) (replicateRequest, error) {
	req := replicateRequest{params: transfer.ReplParams{
		Bulk: transfer.DefaultBulk, FullCompress: s.cfg.Compress,
		DiffCompress: compress.Opt{Type: compress.Snappy, CPUs: 1},
		MaxMerge:     defaultMaxMerge, MaxFiles: s.cfg.MaxFiles,
	}}
	if err := server.RequireWords(words, 4); err != nil {
		return req, err
	}
	p := &req.params
	p.Volume = words[0]
	n, err := meta.ParseGid(words[2])
	if err != nil {
		return req, err
	}
	switch words[1] {
	case "gid":
		p.ByGid, p.Gid = true, n
	case "size":
		p.SizeMB = uint64(n)
	default:
		return req, server.Refusef(walberr.Usage, "parseReplicateParam:specify size or gid:%s", words[1])
	}
	if req.addr, err = wire.ParseAddr(words[3]); err != nil {
		return req, err
	}
	for i, word := range words[4:min(len(words), 9)] {
		if err := setReplicateOption(p, i, word); err != nil {
			return req, err
		}
	}
	return req, nil
}

// setReplicateOption takes the i-th optional word.
func setReplicateOption(p *transfer.ReplParams, i int, word string) error {
	switch i {
	case 0, 1:
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return server.Refusef(walberr.Usage, "atoi::convertToUint:%s", word[:min(len(word), 16)])
		}
		if i == 0 {
			p.Resync = n != 0
		} else {
			p.DontMerge = n != 0
		}
	case 2:
		opt, err := compress.ParseOpt(word)
		if err != nil {
			return err
		}
		p.DiffCompress = opt
	case 3:
		size, err := block.ParseSize(word)
		if err != nil {
			return server.Refusef(walberr.Usage, "Invalid suffix charactor.")
		}
		if size == 0 {
			return server.Refusef(walberr.Range, "HostInfoForRepl::verify:maxWdiffMergeSize must not be 0")
		}
		p.MaxMerge = uint64(size)
	case 4:
		size, err := block.ParseSize(word)
		if err != nil {
			return server.Refusef(walberr.Usage, "Invalid suffix charactor.")
		}
		p.Bulk = block.FromBytes(size)
		if p.Bulk == 0 {
			return server.Refusef(walberr.Range, "HostInfoForRepl::verify:bulkLb must not be 0")
		}
		if p.Bulk > transfer.MaxBulk {
			return server.Refusef(walberr.Range, "parseHostInfoForRepl:too large size:%d:%d", transfer.MaxBulk.Bytes(), p.Bulk)
		}
	}
	return nil
}

// replicate copies a volume to another archive. It answers when the other one
// has accepted.
func (s *Server) replicate(ctx context.Context, r *server.Request, words []string) error {
	const name = "c2aReplicateServer"
	req, err := s.parseReplicate(words)
	if err != nil {
		return err
	}
	v, err := s.volume(req.params.Volume, false)
	if err != nil {
		return err
	}
	release, err := s.core.Foreground(name)
	if err != nil {
		return err
	}
	defer release()
	if err := v.sm.VerifyStop(name, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.sm.VerifyNone(name, fsm.ArchiveConflicts(fsm.ReplSyncAsClient)...); err != nil {
		return err
	}
	if err := v.sm.VerifyState(name, fsm.ArchiveActive()...); err != nil {
		return err
	}
	end, err := v.startAction(name, fsm.ReplSyncAsClient, s.now())
	if err != nil {
		return err
	}
	defer end()
	ctx, stopBreaking := v.breakable(ctx)
	defer stopBreaking()
	return s.runReplication(ctx, r, v, req)
}

// runReplication is replicate once everything else is kept out.
func (s *Server) runReplication(ctx context.Context, r *server.Request, v *volume, req replicateRequest) error {
	conn, err := wire.Dial(ctx, req.addr.DialString(), s.cfg.Wire)
	if err != nil {
		return err
	}
	defer conn.Close()
	dest, err := wire.ClientHello(conn, s.cfg.NodeID, wire.ProtoReplSync)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		return server.Refusef(walberr.BadState, "run1stNegotiateAsClient:%s", refusal.Text)
	} else if err != nil {
		return err
	}
	src := &replSource{s: s, v: v, r: r, run: newReplRun(dest, req, s.cfg.Now)}
	v.mu.Lock()
	req.params.ArchiveUUID = v.archiveUUID
	v.mu.Unlock()
	result, err := transfer.SendRepl(ctx, conn, req.params, src, transfer.Options{Progress: src.run.progress})
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok && !r.Replied() {
		return server.Refusef(walberr.BadState, "runReplSync1stNegotiation:%s", refusal.Text)
	}
	if r.Replied() {
		src.run.ended(result, err)
		s.logEnd(fmt.Sprintf("replicate to %s (%s)", dest, req.addr), v, err)
	}
	return err
}

// replSource is the transfer's ReplSource.
type replSource struct {
	s   *Server
	v   *volume
	r   *server.Request
	run *replRun
}

// Accepted lets the controller go: the rest happens without it.
func (a *replSource) Accepted(context.Context) error {
	a.v.mu.Lock()
	if a.v.repls == nil {
		a.v.repls = map[string]*replRun{}
	}
	a.v.repls[a.run.status.Addr] = a.run
	a.v.mu.Unlock()
	err := a.r.Accept()
	if err != nil {
		a.run.ended(transfer.ReplResult{}, err)
	}
	return err
}

// Base is what the base image is at.
func (a *replSource) Base(context.Context) (meta.State, error) {
	a.v.mu.Lock()
	defer a.v.mu.Unlock()
	return a.v.base, nil
}

// UUID is the life of the log.
func (a *replSource) UUID(context.Context) (meta.UUID, error) {
	a.v.mu.Lock()
	defer a.v.mu.Unlock()
	return a.v.uuid, nil
}

// Size is that of the base image.
func (a *replSource) Size(context.Context) (block.LB, error) { return a.v.images.Size(a.v.name) }

// Image opens the base image.
func (a *replSource) Image(context.Context) (transfer.SourceImage, error) {
	return a.v.images.Open(a.v.name)
}

// Diffs is the volume's diffs.
func (a *replSource) Diffs() *diffstore.Store { return a.v.diffs }

// replRun is the running or the last replication to one destination.
type replRun struct {
	now func() time.Time

	mu     sync.Mutex
	status wire.ReplStatus
	fullLB uint64 // blocks of the full part, once it is over
	phase  transfer.Phase
	latest meta.State // of the destination; valid iff it ended well
}

func newReplRun(dest string, req replicateRequest, now func() time.Time) *replRun {
	st := wire.ReplStatus{
		Dest: dest, Addr: req.addr.String(), State: wire.ReplRunning, Gid: meta.MaxGid,
		Started: now().UnixMilli(),
	}
	if req.params.ByGid {
		st.Gid = req.params.Gid
	}
	return &replRun{now: now, status: st}
}

// progress is told how far the transfer is.
func (r *replRun) progress(p transfer.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Phase != r.phase {
		if r.phase == transfer.PhaseFull {
			r.fullLB = r.status.LBTotal
		}
		r.phase = p.Phase
		r.status.Rounds++
		r.status.Kind = string(p.Phase)
	}
	r.status.BytesSent = p.Sent
	r.status.LBDone = r.fullLB + p.Done/block.Size
	r.status.LBTotal = r.fullLB + p.Total/block.Size
}

// ended is told the outcome.
func (r *replRun) ended(result transfer.ReplResult, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Ended = r.now().UnixMilli()
	r.status.BytesSent = max(result.Sent, r.status.BytesSent)
	r.status.Rounds = uint64(result.Rounds)
	if result.Full {
		r.status.Rounds++
	}
	if err != nil {
		r.status.State, r.status.Error = wire.ReplFailed, err.Error()
		return
	}
	r.status.State = wire.ReplDone
	r.status.LBDone = r.status.LBTotal
	r.latest = result.Latest
}

// view copies the status.
func (r *replRun) view() wire.ReplStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// replStatuses lists the volume's replications by destination.
func (v *volume) replStatuses() []wire.ReplStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []wire.ReplStatus
	for _, r := range v.repls {
		list = append(list, r.view())
	}
	slices.SortFunc(list, func(a, b wire.ReplStatus) int {
		return strings.Compare(a.Dest+"\t"+a.Addr, b.Dest+"\t"+b.Addr)
	})
	return list
}

// replResult is where a replication that ended well left its destination.
type replResult struct {
	dest   string
	latest meta.State
}

// replResults lists the outcomes of the volume's replications by destination.
func (v *volume) replResults() []replResult {
	v.mu.Lock()
	defer v.mu.Unlock()
	var list []replResult
	for _, r := range v.repls {
		r.mu.Lock()
		if r.status.State == wire.ReplDone {
			list = append(list, replResult{r.status.Dest, r.latest})
		}
		r.mu.Unlock()
	}
	slices.SortFunc(list, func(a, b replResult) int { return strings.Compare(a.dest, b.dest) })
	return list
}
