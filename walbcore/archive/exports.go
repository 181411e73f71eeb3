package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"

	"walbsh/walbcore/image"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/nbd"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// socketFile is where exports are found, in the base directory, when the option
// NBD does not say.
const socketFile = "nbd.sock"

// exportKey names an export.
type exportKey struct {
	vol string
	gid meta.Gid
}

// name is what NBD clients call it.
func (k exportKey) name() string { return fmt.Sprintf("%s@%d", k.vol, k.gid) }

// export is a snapshot that is exported.
type export struct {
	mode    wire.ExportMode
	view    *view
	overlay *image.Overlay // nil unless the mode is that
}

func (e *export) device() nbd.Device {
	if e.overlay != nil {
		return e.overlay
	}
	return e.view
}

func (e *export) close() error {
	var err error
	if e.overlay != nil {
		err = e.overlay.Close()
	}
	return errors.Join(err, e.view.Close())
}

// exports are what an archive exports. They end with the server: after a new
// start there are none. An export is no action of its volume, and does not keep
// it from being stopped.
type exports struct {
	s   *Server
	nbd *nbd.Server
	// listening passes the listener, which the first export makes, to run.
	listening chan net.Listener

	mu     sync.Mutex // guards what follows; held while an export is made or ended
	addr   net.Addr   // of the listener; nil as long as there is none
	closed bool       // the server ends
	list   map[exportKey]*export
}

func newExports(s *Server) *exports {
	return &exports{
		s: s, nbd: nbd.NewServer(nbd.Config{Log: s.cfg.Log}),
		listening: make(chan net.Listener, 1), list: map[exportKey]*export{},
	}
}

// run serves the exports until ctx ends, and ends them.
func (x *exports) run(ctx context.Context) error {
	select {
	case l := <-x.listening:
		if err := x.nbd.Serve(ctx, l); err != nil {
			x.s.cfg.Log.Error("the server of exports ended: " + err.Error())
		}
	case <-ctx.Done():
	}
	<-ctx.Done()
	if err := x.close(); err != nil {
		x.s.cfg.Log.Error("the end of exports: " + err.Error())
	}
	return nil
}

// close ends all exports. No connection is left, or none ever came.
func (x *exports) close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed = true
	var errs []error
	select {
	case l := <-x.listening:
		errs = append(errs, l.Close())
	default:
	}
	for _, k := range x.keys("") {
		errs = append(errs, x.end(k))
	}
	return errors.Join(errs...)
}

// keys lists the exports of a volume, or of all. mu is held.
func (x *exports) keys(vol string) []exportKey {
	keys := slices.SortedFunc(maps.Keys(x.list), func(a, b exportKey) int {
		return cmp.Or(cmp.Compare(a.vol, b.vol), cmp.Compare(a.gid, b.gid))
	})
	return slices.DeleteFunc(keys, func(k exportKey) bool { return vol != "" && k.vol != vol })
}

// line tells about an export. mu is held.
func (x *exports) line(k exportKey) string {
	e := x.list[k]
	return wire.Export{
		Volume: k.vol, Gid: k.gid, Mode: e.mode, Blocks: e.view.Size(), Clients: x.nbd.Clients(k.name()), URI: nbd.URI(x.addr, k.name()),
	}.String()
}

// begin exports a snapshot. mu is held.
func (x *exports) begin(ctx context.Context, name string, v *volume, k exportKey, mode wire.ExportMode) error {
	if x.closed {
		return server.ErrShutdown
	}
	if e := x.list[k]; e != nil {
		if e.mode != mode {
			return server.Refusef(walberr.Conflict, "%s:already exists:%s as %s", name, k.name(), e.mode)
		}
		return nil
	}
	if err := x.listen(ctx); err != nil {
		return server.Refusef(walberr.CodeOf(err), "%s:%s", name, err)
	}
	w, err := x.s.openView(ctx, name, v, k.gid)
	if err != nil {
		return err
	}
	e := &export{mode: mode, view: w}
	if mode == wire.ExportOverlay {
		if e.overlay, err = image.NewOverlay(x.s.cfg.BaseDir, w); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	about := nbd.Export{
		Name: k.name(), Device: e.device(), ReadOnly: mode == wire.ExportReadOnly,
		Description: fmt.Sprintf("snapshot %d of %s at %s", k.gid, k.vol, x.s.cfg.NodeID),
	}
	if err := x.nbd.Add(about); err != nil {
		return errors.Join(err, e.close())
	}
	x.list[k] = e
	x.s.cfg.Log.Info(fmt.Sprintf("exported snapshot %d as %s:%s", k.gid, mode, k.vol))
	return nil
}

// listen makes the listener, once. mu is held.
func (x *exports) listen(ctx context.Context) error {
	if x.addr != nil {
		return nil
	}
	l, err := nbd.Listen(ctx, cmp.Or(x.s.cfg.NBD, "unix:"+filepath.Join(x.s.cfg.BaseDir, socketFile)))
	if err != nil {
		return err
	}
	x.addr = l.Addr()
	x.listening <- l
	return nil
}

// end ends an export, and disconnects its clients. mu is held.
func (x *exports) end(k exportKey) error {
	e := x.list[k]
	x.nbd.Remove(k.name())
	delete(x.list, k)
	x.s.cfg.Log.Info(fmt.Sprintf("ended the export of snapshot %d:%s", k.gid, k.vol))
	return e.close()
}

// export exports a snapshot: words volume, gid and mode.
func (s *Server) export(ctx context.Context, r *server.Request, words []string) error {
	const name = wire.ProtoExport
	if err := server.ExactWords(name, words, 3); err != nil {
		return err
	}
	v, gid, err := s.volumeAndGid(name, words[:2])
	if err != nil {
		return err
	}
	mode, err := wire.ParseExportMode(words[2])
	if err != nil {
		return server.Refusef(walberr.Usage, "%s:%s", name, err)
	}
	line, err := s.exportLine(ctx, name, v, exportKey{v.name, gid}, mode)
	if err != nil {
		return err
	}
	if err := r.Reply(wire.OK); err != nil {
		return err
	}
	r.W.Str(line)
	return r.Finish()
}

func (s *Server) exportLine(ctx context.Context, name string, v *volume, k exportKey, mode wire.ExportMode) (string, error) {
	x := s.exports
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.begin(ctx, name, v, k, mode); err != nil {
		return "", err
	}
	return x.line(k), nil
}

// unexport ends an export: words volume and gid, and force if clients that use
// it are to be disconnected.
func (s *Server) unexport(_ context.Context, _ *server.Request, words []string) error {
	const name = wire.ProtoUnexport
	force := len(words) == 3 && words[2] == wire.ExportForce
	if force {
		words = words[:2]
	}
	v, gid, err := s.volumeAndGid(name, words)
	if err != nil {
		return err
	}
	x, k := s.exports, exportKey{v.name, gid}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.list[k] == nil {
		return server.Refusef(walberr.NotFound, "%s:export not found:%s", name, k.name())
	}
	if n := x.nbd.Clients(k.name()); n > 0 && !force {
		return server.Refusef(walberr.Conflict, "%s:is already used:%s by %d clients", name, k.name(), n)
	}
	return x.end(k)
}

// targetExports lists the exports, all or of one volume.
func (s *Server) targetExports(_ context.Context, args []string) (server.Value, error) {
	vol := ""
	if len(args) > 0 {
		v, err := s.volume(args[0], false)
		if err != nil {
			return server.Value{}, err
		}
		vol = v.name
	}
	x := s.exports
	x.mu.Lock()
	defer x.mu.Unlock()
	var lines []string
	for _, k := range x.keys(vol) {
		lines = append(lines, x.line(k))
	}
	return server.Lines(lines), nil
}
