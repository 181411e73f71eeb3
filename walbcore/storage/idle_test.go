package storage

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/fsm"
	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs/vfstest"
	"walbsh/walbcore/wire"
)

// TestIdleVolumesCostNothing: a thousand volumes at rest are a goroutine each,
// which nothing wakes: no timer, no queued task, no question to a device, while
// another volume is written to and shipped.
func TestIdleVolumesCostNothing(t *testing.T) {
	const n = 1000
	g := newGroup(t, 1)
	disk := vfstest.NewMem("/base")
	devices := fakeDevices{}
	for i := range n {
		dev := newFakeDevice()
		path := fmt.Sprintf("/dev/walb/w%d", i)
		devices[path] = dev
		dir := fmt.Sprintf("/base/v%d", i)
		require.NoError(t, disk.Mkdir(dir, 0o755))
		for name, content := range map[string][]byte{
			pathFile:  wire.Marshal(func(w *wire.Writer) { w.Str(path) }),
			stateFile: wire.Marshal(func(w *wire.Writer) { w.Str(fsm.StorageTarget.String()) }),
			doneFile:  wire.Marshal(func(w *wire.Writer) { w.LsidGid(meta.LsidGid{Gid: 1}) }),
			uuidFile:  wire.Marshal(func(w *wire.Writer) { w.UUID(dev.id.UUID) }),
			queueName: encodeQueue(nil, 1),
		} {
			f, err := disk.Open(dir+"/"+name, os.O_RDWR|os.O_CREATE, 0o644)
			require.NoError(t, err)
			_, err = f.Write(content)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
	}
	g.base, g.devices = "/base", devices
	g.change = func(c *Config) { c.FS = disk }
	before, goroutines := memory(), runtime.NumGoroutine()
	g.start(t)
	v := g.volume(t)
	dev := devices["/dev/walb/w0"]
	shipOne := func() {
		t.Helper()
		dev.append(1)
		dev.permanent()
		g.awaitFact(t, "the shipment", func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.done.Lsid == dev.Lsids().Latest && len(v.queue.records) == 0
		})
	}
	asked := func() (sum int) {
		for path, d := range devices {
			if path != "/dev/walb/w0" {
				d.mu.Lock()
				sum += d.asked
				d.mu.Unlock()
			}
		}
		return sum
	}
	shipOne()
	// A watcher looks once: for changes, overflow and lsids. From then on there
	// is nothing to ask for.
	g.awaitFact(t, "rest", func() bool { return asked() >= 3*(n-1) && len(g.server.tasks.List()) == 0 })
	atRest := asked()
	extra := runtime.NumGoroutine() - goroutines - n
	perVolume := (memory() - before) / n
	for range 3 {
		shipOne()
	}
	assert.Equal(t, atRest, asked(), "nobody asks an idle device")
	assert.Empty(t, g.server.tasks.List())
	assert.Less(t, extra, 20, "goroutines of the server itself")
	assert.Less(t, perVolume, int64(16<<10), "bytes for each volume")
	t.Logf("%d bytes for each volume, %d goroutines beside theirs", perVolume, extra)
}

// memory is the memory in use, heap and stacks.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
