package transfer

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/wire"
)

// TestASlowDiskDoesNotLookLikeADeadPeer: the sender's writes wait while the
// receiver waits for its disk, and they have a limit.
func TestASlowDiskDoesNotLookLikeADeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, piece = 4 << 20, 256 << 10
		var written, synced atomic.Int64
		s := syncer{sync: func() error {
			n := written.Load() - synced.Load()
			synced.Add(n)
			time.Sleep(time.Duration(n) * time.Second / perSecond)
			return nil
		}}
		longest := time.Duration(0)
		for written.Load() < 256<<20 {
			written.Add(piece)
			begin := time.Now()
			require.NoError(t, s.wrote(piece))
			longest = max(longest, time.Since(begin))
		}
		assert.Less(t, longest, wire.DefaultTimeout)
		begin := time.Now()
		require.NoError(t, s.wait())
		require.NoError(t, s.sync())
		assert.Less(t, time.Since(begin), ackPatience, "the acknowledgement comes in time")
	})
}
