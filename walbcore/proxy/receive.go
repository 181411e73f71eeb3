package proxy

import (
	"context"
	"fmt"
	"math/bits"

	"walbsh/walbcore/block"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

const wlogServer = "s2pWlogTransferServer"

// wlogTransfer serves wlog-transfer: it receives log and makes a diff of it.
func (s *Server) wlogTransfer(ctx context.Context, r *server.Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rx := &reception{server: s, cancel: cancel}
	defer rx.end()
	if err := transfer.ServeWlog(ctx, r.Conn, r.Reply, rx, transfer.Options{}); err != nil {
		return err
	}
	r.Log.Info(fmt.Sprintf("wlog-transfer succeeded:%s:%s", rx.volume.name, rx.diff))
	return nil
}

// reception is one wlog-transfer. It is the transfer's server and its sink.
type reception struct {
	server     *Server
	cancel     context.CancelCauseFunc
	foreground func() // gives the place among the foreground tasks back

	// Valid from Accept on, if it succeeded.
	volume *volume
	tx     *fsm.Tx[fsm.ProxyState]
	work   *work
	size   block.LB

	tmp  *vfs.TempFile // valid from Create on
	diff meta.Diff     // valid after Commit
}

// Accept implements [transfer.WlogServer].
func (rx *reception) Accept(_ context.Context, req *wire.WlogRequest) error {
	s := rx.server
	var err error
	if rx.foreground, err = s.core.Foreground(wlogServer); err != nil {
		return err
	}
	if err := s.verifySpace(req); err != nil {
		return err
	}
	if !req.Size.Valid() {
		return server.Refusef(walberr.Range, "%s:too large size:%d", wlogServer, req.Size)
	}
	v := s.find(req.Volume)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.state.VerifyStop(wlogServer, v.name, fsm.NotStopping); err != nil {
		return err
	}
	if err := v.state.VerifyState(wlogServer, fsm.ProxyStarted); err != nil {
		return err
	}
	tx, err := v.state.Begin(wlogServer, fsm.ProxyStarted, fsm.ProxyWlogRecv, fsm.ProxyStarted)
	if err != nil {
		return err
	}
	rx.volume, rx.tx, rx.size = v, tx, req.Size
	rx.work = v.register(rx.cancel)
	return nil
}

// verifySpace refuses a log that might not fit on the disk.
func (s *Server) verifySpace(req *wire.WlogRequest) error {
	const mib = 1 << 20
	free, err := s.config.FreeSpace()
	if err != nil {
		return err
	}
	available := free / mib
	high, bytes := bits.Mul64(req.MaxLogPB, uint64(req.PBS))
	if needed := bytes/mib + 1; high != 0 || available < needed {
		return server.Refusef(walberr.Unavailable, "%s:Not enough available disk space:%d:%d", wlogServer, available, needed)
	}
	return nil
}

// Create implements [transfer.WlogServer].
func (rx *reception) Create(context.Context) (transfer.WlogSink, error) {
	tmp, err := rx.volume.received.CreateTemp()
	if err != nil {
		return nil, err
	}
	rx.tmp = tmp
	return rx, nil
}

// Write implements [transfer.WlogSink].
func (rx *reception) Write(p []byte) (int, error) { return rx.tmp.Write(p) }

// Sync implements [transfer.WlogSink].
func (rx *reception) Sync() error { return rx.tmp.Sync() }

// Commit implements [transfer.WlogSink]: the diff is durable for every archive
// when it returns.
func (rx *reception) Commit(_ context.Context, d meta.Diff) error {
	if err := rx.tmp.Sync(); err != nil { // the long part, before anybody has to wait for it
		return err
	}
	s, v := rx.server, rx.volume
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.received.Replace(rx.tmp, d)
	if err != nil {
		return err
	}
	if err := s.distribute(v); err != nil {
		return err
	}
	if rx.size > v.size {
		if err := s.saveSize(v, rx.size); err != nil {
			return err
		}
		v.size = rx.size
	}
	v.lastWlog = s.now()
	for name, a := range v.archives {
		a.failed = false
		s.queue.Push(task{v.name, name}, a.sendDelay())
	}
	rx.diff = d
	rx.tx.Commit()
	return nil
}

func (s *Server) saveSize(v *volume, size block.LB) error {
	return vfs.WriteFile(s.fs, v.sizePath(), wire.Marshal(func(w *wire.Writer) { w.U64(uint64(size)) }))
}

// Close implements [transfer.WlogSink].
func (rx *reception) Close() error {
	rx.tx.Rollback()
	return rx.tmp.Abort()
}

// end gives back what the request holds, however far it came.
func (rx *reception) end() {
	if rx.tx != nil {
		rx.tx.Rollback()
		rx.volume.mu.Lock()
		delete(rx.volume.works, rx.work)
		rx.volume.mu.Unlock()
	}
	if rx.foreground != nil {
		rx.foreground()
	}
}
