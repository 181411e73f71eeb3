package embed_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"walbsh/walbcore/embed"
	"walbsh/walbcore/group"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/walberr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// small is a volume that takes no time.
func small(dir string) embed.Options {
	return embed.Options{Dir: dir, Size: 4 << 20, LogSize: 2 << 20, Version: "version:test"}
}

func open(t *testing.T, o embed.Options) *embed.Group {
	t.Helper()
	g, err := embed.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, g.Close()) })
	return g
}

func operate(t *testing.T, g *embed.Group) *group.Group {
	t.Helper()
	ops, err := group.New(g.Layout(), group.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, ops.Close(context.Background())) })
	return ops
}

// restorable gives the number of clean snapshots at an archive.
func restorable(t *testing.T, ops *group.Group, ax group.Server, vol string) int {
	t.Helper()
	list, err := ops.Client(ax).Restorable(t.Context(), vol, true)
	require.NoError(t, err)
	return len(list)
}

func backups(t *testing.T, g *embed.Group) int {
	t.Helper()
	log, err := os.ReadFile(g.LogFile("s0"))
	require.NoError(t, err)
	return strings.Count(string(log), "full-bkp succeeded")
}

func TestATemporaryGroupIsReadyAndLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	g, err := embed.Open(t.Context(), small(""))
	require.NoError(t, err)
	defer g.Close()
	assert.True(t, g.Temporary())
	assert.Equal(t, "vol", g.Volume())
	assert.Equal(t, "/dev/walb/vol", g.Device())
	assert.FileExists(t, g.LayoutFile())

	ops := operate(t, g)
	l := g.Layout()
	assert.Equal(t, "s0 p0 a0 a1", names(l))
	primary, err := l.Primary()
	require.NoError(t, err)
	assert.Equal(t, "a0", primary.Name)
	assert.Positive(t, restorable(t, ops, l.Archives[0], "vol"))
	for server, want := range map[group.Server]string{
		l.Storages[0]: "Target", l.Proxies[0]: "Started", l.Archives[0]: "Archived", l.Archives[1]: "Clear",
	} {
		state, err := ops.Client(server).State(t.Context(), "vol")
		require.NoError(t, err)
		assert.Equal(t, want, state, server.Name)
		version, err := ops.Client(server).Version(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "version:test", version)
		log, err := os.ReadFile(g.LogFile(server.Name))
		require.NoError(t, err)
		assert.Contains(t, string(log), "Ready to accept connections")
	}

	require.NoError(t, g.Close())
	require.NoError(t, g.Close(), "a second time")
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// awaitProtocol waits until a connection of the protocol came to the relay.
func awaitProtocol(ctx context.Context, r *simnet.Relay, protocol string) error {
	return r.Await(ctx, func(records []simnet.Record) bool {
		return slices.ContainsFunc(records, func(c simnet.Record) bool { return c.Protocol == protocol })
	})
}

func names(l group.Layout) string {
	var list []string
	for _, s := range l.All() {
		list = append(list, s.Name)
	}
	return strings.Join(list, " ")
}

func TestAKeptGroupGoesOnWhereItWas(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "group")
	g := open(t, small(dir))
	before := g.Layout()
	data := make([]byte, 1<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data)
	write := func(g *embed.Group, off int64) {
		v, err := operate(t, g).Client(g.Layout().Storages[0]).OpenVolume(t.Context(), "vol")
		require.NoError(t, err)
		defer v.Close()
		_, err = v.WriteAt(data, off)
		require.NoError(t, err)
	}
	write(g, 1<<20)
	require.NoError(t, g.Close())
	assert.DirExists(t, dir)

	g = open(t, embed.Options{Dir: dir})
	assert.Equal(t, before, g.Layout())
	assert.Equal(t, 1, backups(t, g))
	write(g, 2<<20)
	ops := operate(t, g)
	a0 := g.Layout().Archives[0]
	gid, err := ops.Snapshot(t.Context(), g.Layout().Storages[0], "vol", g.Layout().Archives[:1], 0)
	require.NoError(t, err)
	restored, err := ops.Restore(t.Context(), a0, "vol", gid, 0)
	require.NoError(t, err)
	image, err := os.ReadFile(restored.Path)
	require.NoError(t, err)
	want := make([]byte, 4<<20)
	copy(want[1<<20:], data)
	copy(want[2<<20:], data)
	assert.True(t, bytes.Equal(want, image))
}

func TestWhatIsFixedCannotBeChanged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	require.NoError(t, open(t, small(dir)).Close())
	for name, c := range map[string]struct {
		o    embed.Options
		want string
	}{
		"size":     {embed.Options{Dir: dir, Size: 8 << 20}, "has the size 4194304, not 8388608"},
		"log size": {embed.Options{Dir: dir, LogSize: 8 << 20}, "has the log size 2097152, not 8388608"},
		"volume":   {embed.Options{Dir: dir, Volume: "other"}, "has the volume vol, not other"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := embed.Open(t.Context(), c.o)
			require.ErrorContains(t, err, c.want)
			assert.True(t, walberr.Is(err, walberr.Conflict))
		})
	}
	open(t, small(dir)) // the same values are fine
}

func TestBadOptions(t *testing.T) {
	for name, o := range map[string]embed.Options{
		"size":     {Size: 1000},
		"negative": {Size: -512},
		"volume":   {Volume: "no_such"},
		"long":     {Volume: strings.Repeat("v", 40)},
		"log size": {LogSize: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			_, err := embed.Open(t.Context(), o)
			require.Error(t, err)
			assert.True(t, walberr.Is(err, walberr.Usage), "%v", err)
			left, err := os.ReadDir(os.Getenv("TMPDIR"))
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}

func TestADirectoryHasOneOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	o := small(dir)
	o.Bare = true
	g := open(t, o)
	_, err := embed.Open(t.Context(), o)
	require.ErrorContains(t, err, "in use by another walbsh")
	require.ErrorContains(t, err, "walbsh -c "+g.LayoutFile())
	assert.True(t, walberr.Is(err, walberr.Conflict))
	_, err = operate(t, g).Client(g.Layout().Storages[0]).HostType(t.Context())
	assert.NoError(t, err, "the first one still runs")
}

func TestAForeignDirectoryIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
	_, err := embed.Open(t.Context(), small(dir))
	require.ErrorContains(t, err, "other files (thesis.tex)")
	assert.True(t, walberr.Is(err, walberr.Conflict))
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 1)
}

func TestATakenPortIsNamed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	o := small(dir)
	o.Bare = true
	g := open(t, o)
	require.NoError(t, g.Close())
	port := strconv.Itoa(int(g.Layout().Archives[1].Port))
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	defer l.Close()

	_, err = embed.Open(t.Context(), o)
	require.ErrorContains(t, err, "at a1: its port "+port+" on 127.0.0.1 is taken")
	require.ErrorContains(t, err, "ss -ltnp")
	assert.True(t, walberr.Is(err, walberr.Conflict))
	require.NoError(t, l.Close())
	open(t, o)
}

func TestBareLeavesTheVolumeAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	o := small(dir)
	o.Bare, o.Volume = true, "v-1"
	g := open(t, o)
	ops := operate(t, g)
	for _, s := range g.Layout().All() {
		list, err := ops.Client(s).Volumes(t.Context())
		require.NoError(t, err)
		assert.Empty(t, list, s.Name)
	}
	require.NoError(t, ops.InitStorage(t.Context(), g.Layout().Storages[0], "v-1", g.Device()), "the device is there")
	require.NoError(t, g.Close())

	g = open(t, embed.Options{Dir: dir})
	assert.Equal(t, "v-1", g.Volume())
	assert.Equal(t, 1, backups(t, g))
}

func TestAnInterruptedFirstBackupIsMadeGood(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "group")
	// The backup cannot come through: the relay holds it back until the opening
	// has been given up.
	ctx, cancel := context.WithCancel(t.Context())
	var relay *simnet.Relay
	o := small(dir)
	o.Advertise = func(id, addr string) (string, error) {
		if id != "a0" {
			return addr, nil
		}
		var err error
		if relay, err = simnet.Listen(addr); err != nil {
			return "", err
		}
		relay.SetRules(simnet.Rule{Protocol: "dirty-full-sync3", Hang: true})
		go func() {
			if awaitProtocol(ctx, relay, "dirty-full-sync3") == nil {
				cancel()
			}
		}()
		return relay.Addr(), nil
	}
	_, err := embed.Open(ctx, o)
	require.ErrorContains(t, err, "the first full backup failed")
	assert.True(t, walberr.Is(err, walberr.Canceled), "%v", err)
	relay.Close()

	g := open(t, embed.Options{Dir: dir})
	assert.Positive(t, restorable(t, operate(t, g), g.Layout().Archives[0], "vol"))
}

func TestADamagedDescriptionIsRefused(t *testing.T) {
	good := `"size": 4194304, "log_size": 2097152, "ready": true`
	for name, c := range map[string]struct{ text, want string }{
		"empty":      {``, "unexpected end"},
		"no json":    {`{`, "unexpected end"},
		"newer":      {`{"version": 2}`, "version 2, this program knows 1"},
		"no volume":  {`{"version": 1, ` + good + `}`, "expected 1 to 64"},
		"no size":    {`{"version": 1, "volume": "vol"}`, "size of 0 bytes"},
		"odd size":   {`{"version": 1, "volume": "vol", "size": 513, "log_size": 1}`, "size of 513 bytes"},
		"no ports":   {`{"version": 1, "volume": "vol", ` + good + `}`, "server s0 has the port 0"},
		"port twice": {`{"version": 1, "volume": "vol", ` + good + `, "ports": {"s0": 1, "p0": 1}}`, "server p0 has the port 1"},
		"large":      {strings.Repeat(" ", 70000), "more than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "group.json"), []byte(c.text), 0o600))
			_, err := embed.Open(t.Context(), embed.Options{Dir: dir})
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, filepath.Join(dir, "group.json"))
			assert.True(t, walberr.Is(err, walberr.Checksum), "%v", err)
		})
	}
}

func TestOneServerEndsAndStartsAgain(t *testing.T) {
	g := open(t, small(filepath.Join(t.TempDir(), "group")))
	ops := operate(t, g)
	a0, a1 := g.Layout().Archives[0], g.Layout().Archives[1]

	require.NoError(t, ops.Client(a0).Shutdown(t.Context(), false))
	require.NoError(t, g.Stop(t.Context(), "a0"), "waits for the end that the command began")
	require.NoError(t, g.Stop(t.Context(), "a0"))
	_, err := ops.Client(a0).HostType(t.Context())
	assert.True(t, walberr.Is(err, walberr.Unreachable), "%v", err)
	_, err = ops.Client(a1).HostType(t.Context())
	require.NoError(t, err)

	require.NoError(t, g.Start(t.Context(), "a0"))
	assert.Positive(t, restorable(t, ops, a0, "vol"))
	assert.True(t, walberr.Is(g.Start(t.Context(), "a0"), walberr.BadState))
	assert.True(t, walberr.Is(g.Start(t.Context(), "a7"), walberr.NotFound))
	assert.True(t, walberr.Is(g.Stop(t.Context(), "a7"), walberr.NotFound))
	require.NoError(t, g.Close())
	assert.True(t, walberr.Is(g.Start(t.Context(), "a0"), walberr.BadState))
}

func TestAdvertisedAddressesAreUsed(t *testing.T) {
	relays := map[string]*simnet.Relay{}
	o := small(filepath.Join(t.TempDir(), "group"))
	o.Advertise = func(id, addr string) (string, error) {
		r, err := simnet.Listen(addr)
		if err != nil {
			return "", err
		}
		relays[id] = r
		t.Cleanup(func() { r.Close() })
		return r.Addr(), nil
	}
	g := open(t, o)
	for _, s := range g.Layout().All() {
		assert.Equal(t, relays[s.Name].Addr(), s.Addr())
	}
	for id, protocol := range map[string]string{"p0": "wlog-transfer", "a0": "wdiff-transfer"} {
		assert.NoError(t, awaitProtocol(t.Context(), relays[id], protocol), id)
	}
}
