package fsm

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestForcedCountsForceStops: also one that is over before anybody looks.
func TestForcedCountsForceStops(t *testing.T) {
	m := NewArchive(ArchiveArchived, nil)
	stop, ok := m.BeginStop(Stopping)
	require.True(t, ok)
	stop.End()
	assert.Zero(t, m.View().Forced)
	stop, ok = m.BeginStop(Stopping)
	require.True(t, ok)
	stop.Become(ForceStopping)
	stop.Become(ForceStopping)
	stop.End()
	assert.Equal(t, View[ArchiveState]{State: ArchiveArchived, Stop: NotStopping, Running: map[Action]int{}, Forced: 1}, m.View())
	require.NoError(t, m.Wait(t.Context(), func(v View[ArchiveState]) bool { return v.Forced > 0 }))
}
