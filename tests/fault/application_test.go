package fault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"walbsh/walbcore/block"
	"walbsh/walbcore/client"
	"walbsh/walbcore/meta"
)

const (
	// writePace lets the application write about 1 MiB per second, which the
	// log and the archives of the test can take for long.
	writePace = 5 * time.Millisecond
	maxWrite  = 16 << 10 // bytes
	piece     = 64 << 10 // of an image that has a digest of its own [bytes]
)

// application keeps writing to the volume and knows what it must hold: every
// write that was acknowledged, and nothing else. A write that a kill cut off
// may be there or not, sector by sector; what is found then counts.
type application struct {
	disk func(ctx context.Context) (*client.Volume, error)
	rnd  *rand.Rand

	mu     sync.Mutex // held through a write with its repair, and a snapshot
	volume *client.Volume
	model  []byte
	images map[meta.Gid][][sha256.Size]byte // at snapshots, by pieces

	writes, repairs int
}

func newApplication(size int64, seed uint64, disk func(ctx context.Context) (*client.Volume, error)) *application {
	return &application{
		disk: disk, rnd: rand.New(rand.NewPCG(seed, 1)), model: make([]byte, size), images: map[meta.Gid][][sha256.Size]byte{},
	}
}

// run writes until ctx ends.
func (a *application) run(ctx context.Context) error {
	defer func() {
		if a.volume != nil {
			_ = a.volume.Close()
		}
	}()
	tick := time.NewTicker(writePace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.step(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// step does one random thing to the volume.
func (a *application) step(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := int64(1+a.rnd.IntN(maxWrite/block.Size)) * block.Size
	off := a.rnd.Int64N((int64(len(a.model))-n)/block.Size+1) * block.Size
	data := make([]byte, n)
	what := a.rnd.IntN(20)
	switch what {
	case 0, 1: // a discard, so zeros
	case 2:
		return a.flush(ctx)
	default:
		for i := range data {
			data[i] = byte(a.rnd.Uint32())
		}
	}
	if err := a.open(ctx); err != nil {
		return err
	}
	var err error
	if what < 2 {
		err = a.volume.Discard(off, n)
	} else {
		_, err = a.volume.WriteAt(data, off)
	}
	return a.written(ctx, off, data, err)
}

// fill writes a part of the volume at once.
func (a *application) fill(ctx context.Context, off, n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(ctx); err != nil {
		return err
	}
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(a.rnd.Uint32())
	}
	_, err := a.volume.WriteAt(data, off)
	return a.written(ctx, off, data, err)
}

// written takes the outcome of a write into the model.
func (a *application) written(ctx context.Context, off int64, data []byte, err error) error {
	if err != nil {
		return a.repair(ctx, off, data)
	}
	a.writes++
	copy(a.model[off:], data)
	return nil
}

func (a *application) flush(ctx context.Context) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	if a.volume.Flush() != nil {
		return a.repair(ctx, 0, nil)
	}
	return nil
}

// open connects to the storage, however long that takes.
func (a *application) open(ctx context.Context) error {
	if a.volume != nil {
		return nil
	}
	return until(ctx, "open the volume", func() (err error) {
		a.volume, err = a.disk(ctx)
		return err
	})
}

// repair finds out what became of a write that was cut off.
func (a *application) repair(ctx context.Context, off int64, data []byte) error {
	a.repairs++
	found := make([]byte, len(data))
	err := until(ctx, "read after a broken write", func() error {
		if a.volume != nil {
			_ = a.volume.Close() // its connection is broken
			a.volume = nil
		}
		if err := a.open(ctx); err != nil {
			return err
		}
		_, err := a.volume.ReadAt(found, off)
		return err
	})
	if err != nil {
		return err
	}
	for at := 0; at < len(data); at += block.Size {
		got := found[at : at+block.Size]
		before := a.model[off+int64(at):][:block.Size]
		if !bytes.Equal(got, before) && !bytes.Equal(got, data[at:at+block.Size]) {
			return fmt.Errorf("sector %d is neither what it was before a write that was cut off nor what it wrote", (off+int64(at))/block.Size)
		}
	}
	copy(a.model[off:], found)
	return nil
}

// snapshot takes a snapshot between two writes, and notes what it must hold.
func (a *application) snapshot(ctx context.Context, take func(ctx context.Context) (meta.Gid, error)) (meta.Gid, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	gid, err := take(ctx)
	if err != nil {
		return 0, err
	}
	a.images[gid] = digests(a.model)
	return gid, nil
}

// forget drops the images of snapshots that a new backup makes void.
func (a *application) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.images)
}

// check compares the volume with the model, over the wire.
func (a *application) check(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(ctx); err != nil {
		return err
	}
	got := make([]byte, len(a.model))
	if _, err := a.volume.ReadAt(got, 0); err != nil {
		return err
	}
	return compare("the volume", digests(got), digests(a.model))
}

// checkImage compares a restored image with what the volume held then.
func (a *application) checkImage(gid meta.Gid, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	return compare(path, digests(got), a.images[gid])
}

func digests(p []byte) (list [][sha256.Size]byte) {
	for at := 0; at < len(p); at += piece {
		list = append(list, sha256.Sum256(p[at:min(at+piece, len(p))]))
	}
	return list
}

func compare(what string, got, want [][sha256.Size]byte) error {
	if len(got) != len(want) {
		return fmt.Errorf("%s has %d pieces, expected %d", what, len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("%s differs from what was written, in the %d KiB at %d first", what, piece>>10, i*piece)
		}
	}
	return nil
}

// untilLimit is how long anything may need to succeed after a kill.
const untilLimit = 90 * time.Second

// until repeats do until it succeeds.
func until(ctx context.Context, what string, do func() error) error {
	limited, cancel := context.WithTimeout(ctx, untilLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-limited.Done():
			return fmt.Errorf("%s: no success within %s: %w", what, untilLimit, err)
		case <-tick.C:
		}
	}
}
