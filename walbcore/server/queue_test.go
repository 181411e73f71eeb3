package server_test

import (
	"context"
	"math/rand"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/server"
)

func keys(list []server.Due[string]) []string {
	var k []string
	for _, d := range list {
		k = append(k, d.Key)
	}
	return k
}

func TestPushKeepsTheDueTimeAndPushForceMovesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue[string]()
		assert.True(t, q.Push("a", 10*time.Second))
		assert.False(t, q.Push("a", 0))
		assert.True(t, q.Push("b", 5*time.Second))
		assert.Equal(t, []server.Due[string]{{Key: "b", In: 5 * time.Second}, {Key: "a", In: 10 * time.Second}}, q.List())
		q.PushForce("a", time.Second)
		assert.Equal(t, []string{"a", "b"}, keys(q.List()))
		q.PushSooner("b", 6*time.Second)
		q.PushSooner("a", 0)
		q.PushSooner("c", time.Hour)
		assert.Equal(t, []server.Due[string]{{Key: "a"}, {Key: "b", In: 5 * time.Second}, {Key: "c", In: time.Hour}}, q.List())
		q.PushForce("a", time.Second)
		time.Sleep(3 * time.Second)
		assert.Equal(t, -2*time.Second, q.List()[0].In, "overdue")
	})
}

func TestTasksRunWhenDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue[string]()
		start := time.Now()
		ran := map[string]time.Duration{}
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			assert.NoError(t, q.Run(ctx, 1, func(_ context.Context, k string) {
				ran[k] = time.Since(start)
			}))
		})
		q.Push("late", time.Hour)
		q.Push("c", 3*time.Second)
		q.Push("a", time.Second)
		synctest.Wait()
		q.Push("now", 0)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		assert.Equal(t, 1, q.Kick(nil))
		synctest.Wait()
		assert.Zero(t, q.Kick(nil))
		cancel()
		done.Wait()
		assert.Equal(t, map[string]time.Duration{"now": 0, "a": time.Second, "c": 3 * time.Second, "late": 10 * time.Second}, ran)
	})
}

func TestTasksEndWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue[string]()
		q.Push("long", 0)
		q.Push("later", time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		var running, ended bool
		var done sync.WaitGroup
		done.Go(func() {
			assert.NoError(t, q.Run(ctx, 2, func(ctx context.Context, _ string) {
				running = true
				<-ctx.Done()
				ended = true
			}))
		})
		synctest.Wait()
		require.True(t, running)
		cancel()
		done.Wait()
		assert.True(t, ended)
		assert.Equal(t, []string{"later"}, keys(q.List()), "what was queued stays queued")
	})
}

func TestWorkersRunSideBySideAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := server.NewQueue[int]()
		for i := range 5 {
			q.Push(i, 0)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		now, most, total := 0, 0, 0
		var done sync.WaitGroup
		done.Go(func() {
			_ = q.Run(ctx, 2, func(context.Context, int) {
				mu.Lock()
				now++
				most = max(most, now)
				mu.Unlock()
				time.Sleep(time.Second)
				mu.Lock()
				now--
				total++
				mu.Unlock()
			})
		})
		time.Sleep(time.Minute)
		cancel()
		done.Wait()
		assert.Equal(t, 2, most)
		assert.Equal(t, 5, total)
	})
}

func TestRemoveTakesOutWhatMatches(t *testing.T) {
	q := server.NewQueue[string]()
	for _, k := range []string{"v0/a", "v1/a", "v0/b"} {
		q.Push(k, time.Hour)
	}
	assert.Equal(t, 2, q.Remove(func(k string) bool { return k[:2] == "v0" }))
	assert.Equal(t, []string{"v1/a"}, keys(q.List()))
	assert.True(t, q.Push("v0/a", 0), "a removed key can be pushed again")
}

// TestQueueAgainstModel compares with a map that is sorted when asked.
func TestQueueAgainstModel(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewSource(seed))
	synctest.Test(t, func(t *testing.T) {
		type entry struct {
			at  time.Time
			seq int
		}
		model := map[int]entry{}
		q := server.NewQueue[int]()
		for seq := range 3000 {
			k := rnd.Intn(12)
			at := time.Now().Add(time.Duration(rnd.Intn(5)) * time.Second)
			switch rnd.Intn(5) {
			case 0:
				_, has := model[k]
				require.Equal(t, !has, q.Push(k, time.Until(at)))
				if !has {
					model[k] = entry{at, seq}
				}
			case 1:
				q.PushForce(k, time.Until(at))
				model[k] = entry{at, seq}
			case 2:
				q.Remove(func(x int) bool { return x == k })
				delete(model, k)
			case 3:
				time.Sleep(time.Duration(rnd.Intn(3)) * time.Second)
			}
			var want []int
			for k := range model {
				want = append(want, k)
			}
			slices.SortFunc(want, func(a, b int) int {
				if c := model[a].at.Compare(model[b].at); c != 0 {
					return c
				}
				return model[a].seq - model[b].seq
			})
			var got []int
			for _, d := range q.List() {
				got = append(got, d.Key)
				require.Equal(t, time.Until(model[d.Key].at), d.In)
			}
			require.Equal(t, want, got)
		}
	})
}
