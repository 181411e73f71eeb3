package proxy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/client"
	"walbsh/walbcore/wire"
	"walbsh/walbcore/wire/wiretest"
)

// TestStopEmptyAsRecorded follows the recordings of a proxy that cannot become
// empty, then lets it.
func TestStopEmptyAsRecorded(t *testing.T) {
	a := newFakeArchive(t, wire.StoppedWord)
	r := sending(t, func(c *Config) { c.RetryDelay, c.MaxRetryDelay = time.Millisecond, 10*time.Millisecond }, a)
	require.NoError(t, r.feed(t, life1, diff(1, 2, 100), 'x'))
	a.await(t, 1)
	p := wiretest.New(t, r.Addr().String())
	p.Play(t, "proxy-stop-empty")
	r.await(t, "v0", "WaitForEmpty")
	p.Play(t, "proxy-get-state-waitforempty", "proxy-clear-vol-waitforempty", "proxy-start-waitforempty", "proxy-kick-waitforempty")
	assert.Equal(t, "s2pWlogTransferServer:verifyStopState:v0:2:1", wire.RefusalText(r.feed(t, life1, diff(2, 3, 110), 'y')))

	// Another stop is accepted and fails; the first one is not disturbed.
	p.Play(t, "proxy-stop-waitforempty")
	r.idleHandlers(t)
	p.Play(t, "proxy-start-waitforempty")

	a.script()
	r.await(t, "v0", "Stopped")
	r.awaitEmpty(t, "a0")
	assert.Empty(t, r.queue.List())
	p.Play(t, "proxy-get-state-after-empty")
}

// idleHandlers waits until the handlers of earlier connections but the waiting
// stop are through.
func (r *rig) idleHandlers(t *testing.T) {
	t.Helper()
	_, err := r.client.HandlerStats(t.Context())
	require.NoError(t, err)
}

func TestRegistrationWhileEmptyingAsRecorded(t *testing.T) {
	a := newFakeArchive(t, wire.StoppedWord)
	r := sending(t, nil, a)
	require.NoError(t, r.feed(t, life1, diff(1, 2, 100), 'x'))
	a.await(t, 1)
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopEmpty))
	r.await(t, "v0", "WaitForEmpty")
	a.await(t, 2) // the stop makes the transfer due at once
	r.stillTask(t)
	wiretest.New(t, r.Addr().String()).Play(t, "proxy-archive-info-add-waitforempty", "proxy-archive-info-delete-waitforempty")
	a.script()
	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	r.await(t, "v0", "Stopped")
}

func TestStopEmptyIsGivenUpAndTheVolumeGoesOn(t *testing.T) {
	a := newFakeArchive(t, wire.StoppedWord)
	r := sending(t, func(c *Config) { c.Server.StopLimit = 50 * time.Millisecond }, a)
	require.NoError(t, r.feed(t, life1, diff(1, 2, 100), 'x'))
	a.await(t, 1)
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopEmpty))
	r.await(t, "v0", "WaitForEmpty")
	r.await(t, "v0", "Started")
	v := r.find("v0")
	require.Eventually(t, func() bool { return v.state.StopState() == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, r.feed(t, life1, diff(2, 3, 110), 'y'))
	a.script()
	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	r.awaitEmpty(t, "a0")
}

func TestGracefulStopWaitsAndForceDoesNot(t *testing.T) {
	a := newFakeArchive(t, hang)
	r := sending(t, nil, a)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	v := r.find("v0")
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopGraceful))
	require.Eventually(t, func() bool { return v.state.StopState() == 4 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, 1, v.state.View().TotalRunning())
	assert.Equal(t, "Started", v.state.State().String())
	a.close() // the transfer breaks
	r.await(t, "v0", "Stopped")
	assert.Empty(t, r.queue.List(), "nothing is left in the queue of a stopped volume")

	b := newFakeArchive(t, hang)
	require.NoError(t, r.client.ArchiveInfoUpdate(t.Context(), "v0", "a0", info(b.addr)))
	require.NoError(t, r.client.Start(t.Context(), "v0", client.RoleNone))
	b.await(t, 1)
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopForce))
	r.await(t, "v0", "Stopped")
	assert.Empty(t, r.queue.List())
	assert.Equal(t, []string{"|0|-->|1| 1 x"}, r.waitingFor(t, "a0"))
}

func TestForceStopBreaksReceptionOff(t *testing.T) {
	r := sending(t, nil, newFakeArchive(t))
	canceled := make(chan error, 1)
	rx := &reception{server: r.Server, cancel: func(cause error) { canceled <- cause }}
	require.NoError(t, rx.Accept(t.Context(), &wire.WlogRequest{Volume: "v0", PBS: 512}))
	sink, err := rx.Create(t.Context())
	require.NoError(t, err)
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopForce))
	require.ErrorIs(t, <-canceled, errForceStopped)
	assert.Equal(t, "WlogRecv", r.find("v0").state.State().String())
	require.NoError(t, sink.Close())
	rx.end()
	r.await(t, "v0", "Stopped")
	names, err := r.readDirIfAny(testBase + "/v0/received")
	require.NoError(t, err)
	assert.Empty(t, names)
}

func TestStopThatFailsLeavesTheVolumeSending(t *testing.T) {
	a := newFakeArchive(t, hang)
	r := sending(t, func(c *Config) { c.Server.StopLimit = 20 * time.Millisecond }, a)
	require.NoError(t, r.feed(t, life1, diff(0, 1, 100), 'x'))
	a.await(t, 1)
	require.NoError(t, r.client.Stop(t.Context(), "v0", client.StopGraceful))
	v := r.find("v0")
	require.Eventually(t, func() bool { return v.state.StopState() == 4 }, 5*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return v.state.StopState() == 1 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, "Started", v.state.State().String())
	a.script()
	v.breakOff()
	require.NoError(t, r.client.Kick(t.Context(), "v0", ""))
	r.awaitEmpty(t, "a0")
}
