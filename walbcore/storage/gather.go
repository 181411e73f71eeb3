package storage

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// firstGathering is when the archive is first asked where it is, after the start.
const firstGathering = 5 * time.Second

// gathered is where storage and archive were when the archive was last asked.
type gathered struct {
	mu    sync.Mutex
	dest  string // id of the archive
	pairs []gatheredPair
}

// gatheredPair is one volume.
type gatheredPair struct {
	src  meta.LsidGid
	dest wire.SnapshotInfo
}

// keepGathering asks the archive now and then where it is with the volumes. A
// failure leaves what was known.
func (s *Server) keepGathering(ctx context.Context) error {
	pause := time.NewTimer(firstGathering)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
		if err := s.gather(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("gather-latest-snap failed:" + err.Error())
		}
		pause.Reset(s.cfg.TsDeltaInterval)
	}
}

// gather asks the archive once.
func (s *Server) gather(ctx context.Context) error {
	var names []string
	var pairs []gatheredPair
	for _, v := range s.volumes() {
		if v.sm.State() != fsm.StorageTarget {
			continue
		}
		v.mu.Lock()
		known := v.dev != nil
		var rec meta.LsidGid
		if known {
			rec = v.latest()
		}
		v.mu.Unlock()
		if known {
			names = append(names, v.name)
			pairs = append(pairs, gatheredPair{src: rec})
		}
	}
	dest := ""
	if len(names) > 0 {
		conn, err := s.dial(ctx, s.cfg.Archive, wire.ProtoGatherLatest)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // what matters was said before
		infos, err := transfer.AskLatest(ctx, conn, names)
		if err != nil {
			return err
		}
		for i, info := range infos {
			pairs[i].dest = info
		}
		dest = strings.Join(strings.Fields(conn.Peer()), "_") // it becomes part of lines
	}
	s.gathered.mu.Lock()
	defer s.gathered.mu.Unlock()
	s.gathered.dest, s.gathered.pairs = dest, pairs
	return nil
}

// tsDelta tells how far the archive was behind when it was last asked.
func (s *Server) tsDelta(context.Context, []string) (server.Value, error) {
	s.gathered.mu.Lock()
	defer s.gathered.mu.Unlock()
	var lines []string
	for _, p := range s.gathered.pairs {
		lines = append(lines, p.line(s.gathered.dest))
	}
	return server.Lines(lines), nil
}

func (p gatheredPair) line(dest string) string {
	line := fmt.Sprintf("name:%s\tdest:%s\tkind:storage\tdest_kind:archive\tgid:%d\tts:%s\t",
		p.dest.Volume, dest, p.src.Gid, meta.FormatTime(p.src.Timestamp))
	if p.dest.Gid == meta.MaxGid {
		return line + "dest_ts:\tdest_gid:\tts_delta:"
	}
	return line + fmt.Sprintf("dest_gid:%d\tdest_ts:%s\tts_delta:%d",
		p.dest.Gid, meta.FormatTime(p.dest.Timestamp), int64(p.src.Timestamp)-int64(p.dest.Timestamp))
}

// fullScan is the limit of backup scans at the moment, 0 if there is none.
func (s *Server) fullScan() block.LB { return block.LB(s.scanLimit.Load()) }

// setFullScan changes the limit, of backups that run too, until the server
// ends: word bytes per second, 0 for none.
func (s *Server) setFullScan(_ context.Context, r *server.Request, words []string) error {
	if err := server.RequireWords(words, 1); err != nil {
		return err
	}
	size, err := block.ParseSize(words[0])
	if err != nil {
		return server.Refusef(walberr.Usage, "Invalid suffix charactor.") //nolint:misspell // as the original spells it
	}
	s.scanLimit.Store(uint64(block.FromBytes(size)))
	r.Log.Info(fmt.Sprintf("set-full-scan-bps succeeded:%d", size))
	return nil
}
