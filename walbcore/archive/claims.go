package archive

import (
	"maps"
	"slices"
	"sync"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/server"
	"walbsh/walbcore/walberr"
)

// claims keeps apart who reads the base image for long, as the ground of a
// snapshot, and who brings it beyond that snapshot. What an apply writes up to
// the snapshot is under the records of the reader's own diffs, and harms nobody.
type claims struct {
	mu     sync.Mutex
	held   map[meta.Gid]int // readers of each snapshot
	moving map[meta.Gid]int // who brings the image there; MaxGid: to another image
}

// hold keeps the base image of a volume from coming beyond gid, until release
// is called.
func (c *claims) hold(name, vol string, gid meta.Gid) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for to := range c.moving {
		if to > gid {
			return nil, server.Refusef(walberr.Conflict, "%s:there are running action:%s:the base image goes beyond %d", name, vol, gid)
		}
	}
	return c.count(&c.held, gid), nil
}

// move announces that the base image of a volume may come up to gid, until
// done is called. MaxGid announces that it may become another image.
func (c *claims) move(name, vol string, gid meta.Gid) (done func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := slices.Sorted(maps.Keys(c.held)); len(held) > 0 {
		if at := held[0]; at < gid {
			return nil, server.Refusef(walberr.BadState, "%s:snapshot %d of %s is exported", name, at, vol)
		}
	}
	return c.count(&c.moving, gid), nil
}

// count counts one more at gid, until the returned function is called. The lock
// is held.
func (c *claims) count(at *map[meta.Gid]int, gid meta.Gid) func() {
	if *at == nil {
		*at = map[meta.Gid]int{}
	}
	(*at)[gid]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if (*at)[gid]--; (*at)[gid] == 0 {
			delete(*at, gid)
		}
	})
}
