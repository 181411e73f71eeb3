package transfer

import "sync"

// syncStep is how many bytes are written between two syncs of a file that is
// being received. A sync of one step runs while the next step is written, and
// must be done when that one is: so at most two steps are not yet durable, and
// neither the pause for one sync nor the last one outlasts the peer's patience.
const syncStep = 16 << 20

// syncer syncs a file beside the writing of it. Its methods are called from
// one goroutine. wait must be called before the file is closed.
type syncer struct {
	sync  func() error
	fresh int64 // bytes written since the last sync began
	wg    sync.WaitGroup
	err   error // of the last sync; read after wg.Wait
}

// wrote counts n more bytes. It gives the failure of an earlier sync.
func (s *syncer) wrote(n int64) error {
	if s.fresh += n; s.fresh < syncStep {
		return nil
	}
	s.fresh = 0
	if err := s.wait(); err != nil {
		return err
	}
	s.wg.Go(func() { s.err = s.sync() })
	return nil
}

// wait waits for the sync that is running, and gives its failure.
func (s *syncer) wait() error {
	s.wg.Wait()
	return s.err
}
