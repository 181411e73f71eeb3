package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

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
		size, err := sizeWord(word)
		if err != nil {
			return err
		}
		if size == 0 {
			return server.Refusef(walberr.Range, "HostInfoForRepl::verify:maxWdiffMergeSize must not be 0")
		}
		p.MaxMerge = uint64(size)
	case 4:
		size, err := sizeWord(word)
		if err != nil {
			return err
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

// sizeWord reads a size, and refuses in the original's words.
func sizeWord(word string) (int64, error) {
	if word == "" {
		return 0, server.Refusef(walberr.Usage, "Invalid argument.")
	}
	size, err := block.ParseSize(word)
	if err != nil {
		return 0, server.Refusef(walberr.Usage, "Invalid suffix charactor.") //nolint:misspell // as the original spells it
	}
	return size, nil
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
	end, err := v.startAction(name, fsm.ReplSyncAsClient, s.now(), fsm.ArchiveActive()...)
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
	defer func() { _ = conn.Close() }() // what matters was acknowledged, or failed, before
	dest, err := wire.ClientHello(conn, s.cfg.NodeID, wire.ProtoReplSync)
	if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
		return server.Refusef(walberr.BadState, "run1stNegotiateAsClient:%s", refusal.Text)
	} else if err != nil {
		return err
	}
	req.params.ArchiveUUID = v.facts().archiveUUID
	src := &replSource{s: s, v: v, r: r, run: newReplRun(dest, req, s.cfg.Now)}
	result, err := transfer.SendRepl(ctx, conn, req.params, src, transfer.Options{Progress: src.run.progress})
	if !r.Replied() {
		if refusal, ok := errors.AsType[*wire.Refusal](err); ok {
			return server.Refusef(walberr.BadState, "runReplSync1stNegotiation:%s", refusal.Text)
		}
		return err
	}
	src.run.ended(result, err)
	s.logEnd(fmt.Sprintf("replicate to %s (%s)", src.run.dest, req.addr), v, err)
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
	a.v.remember(a.run)
	return a.r.Accept()
}

// Base is what the base image is at.
func (a *replSource) Base(context.Context) (meta.State, error) { return a.v.facts().base, nil }

// UUID is the life of the log.
func (a *replSource) UUID(context.Context) (meta.UUID, error) { return a.v.facts().uuid, nil }

// Size is that of the base image.
func (a *replSource) Size(context.Context) (block.LB, error) { return a.v.images.Size(a.v.name) }

// Image opens the base image.
func (a *replSource) Image(context.Context) (transfer.SourceImage, error) {
	return a.v.images.Open(a.v.name)
}

// Diffs is the volume's diffs.
func (a *replSource) Diffs() *diffstore.Store { return a.v.facts().diffs }

// maxRuns is how many destinations of a volume's replications are remembered.
const maxRuns = 64

// replRun is the running or the last replication to one destination.
type replRun struct {
	dest string // id of the destination, in one printable word
	now  func() time.Time

	mu     sync.Mutex
	status wire.ReplStatus
	fullLB uint64 // blocks of the full or compared part, once it is over
	phase  transfer.Phase
	heard  meta.State // where the destination was when it was heard of last, also in runs before
	known  bool       // heard is valid
}

func newReplRun(dest string, req replicateRequest, now func() time.Time) *replRun {
	// The id is the peer's own invention, and becomes part of lines.
	dest = strings.Map(func(c rune) rune {
		if c <= ' ' || c == utf8.RuneError || !unicode.IsPrint(c) {
			return '_'
		}
		return c
	}, dest)
	st := wire.ReplStatus{
		Dest: dest, Addr: req.addr.String(), State: wire.ReplRunning, Gid: meta.MaxGid,
		Started: now().UnixMilli(),
	}
	if req.params.ByGid {
		st.Gid = req.params.Gid
	}
	return &replRun{dest: dest, now: now, status: st}
}

// progress is told how far the transfer is.
func (r *replRun) progress(p transfer.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.Phase != r.phase {
		if r.phase == transfer.PhaseFull || r.phase == transfer.PhaseHash {
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
	r.status.BytesSent = result.Sent
	r.status.Rounds = uint64(result.Rounds)
	if result.Full || result.Resync {
		r.status.Rounds++
	}
	if result.Latest != (meta.State{}) {
		r.heard, r.known = result.Latest, true
	}
	if err != nil {
		r.status.State, r.status.Error = wire.ReplFailed, err.Error()
		return
	}
	r.status.State = wire.ReplDone
	r.status.LBDone = r.status.LBTotal
}

// view copies the status.
func (r *replRun) view() wire.ReplStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// lastHeard is where the destination was when it was heard of last, if it was.
func (r *replRun) lastHeard() (meta.State, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard, r.known
}

// remember puts a run that begins in the place of the last one to the same
// destination. All others have ended, as the action excludes itself.
func (v *volume) remember(run *replRun) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.repls == nil {
		v.repls = map[string]*replRun{}
	}
	if last := v.repls[run.dest]; last != nil {
		run.heard, run.known = last.lastHeard()
	} else if len(v.repls) >= maxRuns {
		oldest := slices.MinFunc(slices.Collect(maps.Values(v.repls)), func(a, b *replRun) int {
			return cmp.Compare(a.view().Started, b.view().Started)
		})
		delete(v.repls, oldest.dest)
	}
	v.repls[run.dest] = run
}

// replRuns lists the volume's replications by destination.
func (v *volume) replRuns() []*replRun {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.repls), func(a, b *replRun) int { return strings.Compare(a.dest, b.dest) })
}
