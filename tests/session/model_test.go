package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// model is what the test knows about a volume: its content now, and as it was
// at snapshots.
type model struct {
	now     []byte
	digests map[uint64][sha256.Size]byte // by gid
}

func newModel(size int64) *model {
	return &model{now: make([]byte, size), digests: map[uint64][sha256.Size]byte{}}
}

// fill does what group.fill(off, n, seed) does to the volume: its random data
// is the stream of ChaCha8 with the seed as the first bytes of the key.
func (m *model) fill(off, n int64, seed uint64) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(m.now[off : off+n])
}

// discard makes a part zero.
func (m *model) discard(off, n int64) { clear(m.now[off : off+n]) }

// snapshot notes that a snapshot has the present content.
func (m *model) snapshot(gid uint64) { m.digests[gid] = sha256.Sum256(m.now) }

// checkImage compares a restored image, wr_VOLUME_GID, with what the volume
// held at that snapshot, or now for one that the test did not take itself.
func (m *model) checkImage(path string) error {
	name := filepath.Base(path)
	gid, err := strconv.ParseUint(name[strings.LastIndexByte(name, '_')+1:], 10, 64)
	if err != nil {
		return fmt.Errorf("%s is no restored image: %w", path, err)
	}
	want, taken := m.digests[gid]
	if !taken {
		want = sha256.Sum256(m.now)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if n != int64(len(m.now)) || !bytes.Equal(sum.Sum(nil), want[:]) {
		return fmt.Errorf("%s with %d bytes is not what was written, taken by the test: %v", path, n, taken)
	}
	return nil
}
