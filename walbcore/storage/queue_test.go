package storage

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

func sampleRecords() []meta.LsidGid {
	return []meta.LsidGid{
		{Mergeable: true, Timestamp: 1700000020, Lsid: 300, Gid: 3},
		{Mergeable: true, Timestamp: 1700000010, Lsid: 250, Gid: 2},
		{Mergeable: false, Timestamp: 1700000000, Lsid: 100, Gid: 1},
	}
}

func TestQueueFilesOfTheOriginal(t *testing.T) {
	for name, want := range map[string][]meta.LsidGid{
		"queue-empty":         nil,
		"queue-sample":        sampleRecords(),
		"queue-sample-popped": sampleRecords()[1:2],
	} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		records, salt, err := decodeQueue(name, file)
		require.NoError(t, err, name)
		assert.Equal(t, want, records, name)

		again, salt2, err := decodeQueue(name, encodeQueue(records, salt))
		require.NoError(t, err, name)
		assert.Equal(t, want, again, name)
		assert.Equal(t, salt, salt2)
	}
}

func TestQueueRefusesDamage(t *testing.T) {
	whole := encodeQueue(sampleRecords(), 77)
	_, _, err := decodeQueue("q", whole)
	require.NoError(t, err)
	for n := range queuePage {
		records, _, err := decodeQueue("q", whole[:n])
		if err == nil {
			assert.Equal(t, sampleRecords(), records, "cut at %d", n)
			continue
		}
		assert.True(t, walberr.Is(err, walberr.Checksum), "cut at %d: %v", n, err)
	}
	flipped := append([]byte(nil), whole...)
	flipped[5] ^= 1
	records, _, err := decodeQueue("q", flipped)
	require.NoError(t, err, "the second header copy serves")
	assert.Equal(t, sampleRecords(), records)
	flipped[queueHeaderSize+5] ^= 1
	_, _, err = decodeQueue("q", flipped)
	require.ErrorContains(t, err, "header")
	flipped = append([]byte(nil), whole...)
	flipped[queueRecords+queueRecordHead+3] ^= 1
	_, _, err = decodeQueue("q", flipped)
	assert.ErrorContains(t, err, "checksum")
}

func FuzzDecodeQueue(f *testing.F) {
	for _, name := range []string{"queue-empty", "queue-sample", "queue-sample-popped"} {
		file, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(f, err)
		f.Add(file[:200])
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		records, salt, err := decodeQueue("q", file)
		if err != nil {
			return
		}
		again, _, err := decodeQueue("q", encodeQueue(records, salt))
		require.NoError(t, err)
		assert.Equal(t, records, again)
	})
}

func TestQueueIsDurableAndKeepsOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue")
	q, err := createQueue(vfs.OS{}, path, 5)
	require.NoError(t, err)
	_, ok := q.newest()
	assert.False(t, ok)
	records := sampleRecords()
	for _, rec := range slices.Backward(records) {
		require.NoError(t, q.push(rec))
	}
	require.NoError(t, q.dropShipped(meta.LsidGid{Lsid: 100, Gid: 1}))
	q, err = openQueue(vfs.OS{}, path)
	require.NoError(t, err)
	assert.Equal(t, records[:2], q.records)
	old, _ := q.oldest()
	assert.Equal(t, meta.Gid(2), old.Gid)
	latest, _ := q.newest()
	assert.Equal(t, meta.Gid(3), latest.Gid)
}

// recordJSON is an lsid-gid record in the recorded run.
type recordJSON struct {
	Lsid      meta.Lsid `json:"lsid"`
	Gid       meta.Gid  `json:"gid"`
	Mergeable bool      `json:"mergeable"`
	TS        uint64    `json:"ts"`
}

func (r recordJSON) record() meta.LsidGid {
	return meta.LsidGid{Mergeable: r.Mergeable, Timestamp: r.TS, Lsid: r.Lsid, Gid: r.Gid}
}

// TestShipmentsOfTheOriginal replays a recorded run of the original's choice of
// what to ship.
func TestShipmentsOfTheOriginal(t *testing.T) {
	raw, err := os.ReadFile("testdata/storage_queue.json")
	require.NoError(t, err)
	var run struct {
		Steps []struct {
			Op        string
			Now       uint64
			Latest    meta.Lsid
			Permanent meta.Lsid
			Args      struct {
				MaxSendPB uint64    `json:"max_send_pb"`
				Interval  uint64    `json:"interval"`
				LsidE     meta.Lsid `json:"lsid_e"`
			}
			Result json.RawMessage
			Done   recordJSON
			Queue  []recordJSON
		}
	}
	require.NoError(t, json.Unmarshal(raw, &run))
	require.NotEmpty(t, run.Steps)

	var done meta.LsidGid
	q, err := createQueue(vfs.OS{}, filepath.Join(t.TempDir(), "queue"), 1)
	require.NoError(t, err)
	var last shipment
	for i, step := range run.Steps {
		switch step.Op {
		case "set_done":
			done = step.Done.record()
		case "snapshot":
			rec, err := snapshotAfter(newestOr(q, done), step.Latest, step.Args.MaxSendPB, false, step.Now)
			var refused struct{ Error string }
			if json.Unmarshal(step.Result, &refused) == nil && refused.Error != "" {
				require.Error(t, err, i)
				assert.Equal(t, refused.Error, wire.RefusalText(err))
				break
			}
			require.NoError(t, err, i)
			require.NoError(t, q.push(rec))
		case "prepare":
			require.NoError(t, q.dropShipped(done))
			if implicitIsDue(q, step.Latest, step.Args.Interval, step.Now) {
				rec, err := snapshotAfter(newestOr(q, done), step.Latest, step.Args.MaxSendPB, true, step.Now)
				require.NoError(t, err, i)
				require.NoError(t, q.push(rec))
			}
			last = chooseShipment(done, q.records, step.Permanent, step.Args.MaxSendPB)
			var want struct {
				RecB, RecE recordJSON
				LsidLimit  meta.Lsid `json:"lsid_limit"`
				Later      bool
			}
			require.NoError(t, json.Unmarshal(step.Result, &want))
			assert.Equal(t, want.RecB.record(), last.from, "step %d", i)
			assert.Equal(t, want.RecE.record(), last.to, "step %d", i)
			assert.Equal(t, want.LsidLimit, last.limit, "step %d", i)
			assert.Equal(t, want.Later, step.Permanent < last.limit, "step %d", i)
		case "finish":
			var want struct {
				Diff struct {
					B, E      [2]meta.Gid
					Mergeable bool
					TS        uint64
				}
			}
			require.NoError(t, json.Unmarshal(step.Result, &want))
			got := last.diff(step.Args.LsidE)
			assert.Equal(t, meta.Diff{
				B: meta.Snap{B: want.Diff.B[0], E: want.Diff.B[1]}, E: meta.Snap{B: want.Diff.E[0], E: want.Diff.E[1]},
				Mergeable: want.Diff.Mergeable, Timestamp: want.Diff.TS,
			}, got, "step %d", i)
			done = last.done(step.Args.LsidE)
			require.NoError(t, q.dropShipped(done))
		default:
			t.Fatalf("step %d: unknown op %s", i, step.Op)
		}
		assert.Equal(t, step.Done.record(), done, "step %d done", i)
		require.Len(t, q.records, len(step.Queue), "step %d queue", i)
		for k, rec := range step.Queue {
			assert.Equal(t, rec.record(), q.records[k], "step %d queue[%d]", i, k)
		}
	}
}

// TestGidNumbering is three megabytes written while no proxy was there, with
// shipments of at most one, then an explicit snapshot.
func TestGidNumbering(t *testing.T) {
	const maxPB = 2048
	rec := meta.LsidGid{Mergeable: true, Lsid: 18, Gid: 2}
	var gids []meta.Gid
	for _, lsid := range []meta.Lsid{2082, 4146, 6210} {
		var err error
		rec, err = snapshotAfter(rec, lsid, maxPB, lsid != 6210, 1)
		require.NoError(t, err)
		gids = append(gids, rec.Gid)
	}
	assert.Equal(t, []meta.Gid{4, 6, 8}, gids)
	_, err := snapshotAfter(rec, 6209, maxPB, true, 1)
	assert.True(t, walberr.Is(err, walberr.BadState))
}

func TestBatchDelay(t *testing.T) {
	for _, c := range []struct {
		remaining, limit uint64
		ms               int64
	}{{1, 128, 1000}, {13, 128, 997}, {64, 128, 100}, {1000, 128, 100}, {1, 1, 100}, {12, 128, 1000}} {
		assert.Equal(t, c.ms, batchDelay(c.remaining, c.limit).Milliseconds(), "%d of %d", c.remaining, c.limit)
	}
}
