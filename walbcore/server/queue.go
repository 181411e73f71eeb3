package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Queue is a set of tasks with due times, ordered by them, and the workers
// that run due tasks. A task is nothing but its key: a key is queued at most
// once, and whatever a task needs to remember belongs to its owner.
//
// A key leaves the queue before its task runs, so it can be pushed again
// while it runs and may then run on another worker at the same time: a caller
// that wants one run per key at a time must see to it.
//
// All methods may be called from any goroutine, also from a running task.
type Queue[K comparable] struct {
	mu      sync.Mutex
	due     map[K]time.Time
	order   []K // ascending by due time; equal times keep the order of pushing
	changed chan struct{}
}

// Due is one waiting task.
type Due[K comparable] struct {
	Key K
	In  time.Duration // until it is due; negative when it is overdue
}

// NewQueue makes an empty queue without workers.
func NewQueue[K comparable]() *Queue[K] {
	return &Queue[K]{due: make(map[K]time.Time), changed: make(chan struct{})}
}

// Push queues the key to run after delay, unless it is queued already: then
// its due time stays as it is. It reports whether the key was put in.
func (q *Queue[K]) Push(key K, delay time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, ok := q.due[key]; ok {
		return false
	}
	q.insert(key, time.Now().Add(delay))
	q.notify()
	return true
}

// PushForce queues the key to run after delay; a queued key is moved there.
func (q *Queue[K]) PushForce(key K, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remove(key)
	q.insert(key, time.Now().Add(delay))
	q.notify()
}

// PushSooner queues the key to run after delay, unless it is queued already and
// due before that.
func (q *Queue[K]) PushSooner(key K, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := time.Now().Add(delay)
	if due, ok := q.due[key]; ok && !at.Before(due) {
		return
	}
	q.remove(key)
	q.insert(key, at)
	q.notify()
}

// Kick makes every waiting task that match accepts due now and gives their
// number. A nil match accepts all.
func (q *Queue[K]) Kick(match func(K) bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	var kicked []K
	for _, k := range q.order {
		if q.due[k].After(now) && (match == nil || match(k)) {
			kicked = append(kicked, k)
		}
	}
	for _, k := range kicked {
		q.remove(k)
		q.insert(k, now)
	}
	if len(kicked) > 0 {
		q.notify()
	}
	return len(kicked)
}

// Remove takes every waiting task that match accepts out and gives their
// number. Running tasks are not touched.
func (q *Queue[K]) Remove(match func(K) bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.order)
	q.order = slices.DeleteFunc(q.order, func(k K) bool {
		if !match(k) {
			return false
		}
		delete(q.due, k)
		return true
	})
	return n - len(q.order)
}

// List gives the waiting tasks in the order in which they become due.
func (q *Queue[K]) List() []Due[K] {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	list := make([]Due[K], len(q.order))
	for i, k := range q.order {
		list[i] = Due[K]{Key: k, In: q.due[k].Sub(now)}
	}
	return list
}

// Run runs due tasks on the given number of workers until ctx ends, then
// waits for the running ones and returns nil. Tasks get ctx. What is still
// queued stays queued.
func (q *Queue[K]) Run(ctx context.Context, workers int, run func(ctx context.Context, key K)) error {
	var g errgroup.Group
	for range workers {
		g.Go(func() error {
			for {
				key, ok := q.next(ctx)
				if !ok {
					return nil
				}
				run(ctx, key)
			}
		})
	}
	return g.Wait()
}

// next waits for a due task and takes it out; false when ctx ended.
func (q *Queue[K]) next(ctx context.Context) (key K, ok bool) {
	for ctx.Err() == nil {
		q.mu.Lock()
		changed := q.changed
		wait := time.Duration(-1)
		if len(q.order) > 0 {
			key = q.order[0]
			if wait = time.Until(q.due[key]); wait <= 0 {
				q.remove(key)
				q.mu.Unlock()
				return key, true
			}
		}
		q.mu.Unlock()
		q.sleep(ctx, changed, wait)
	}
	return key, false
}

// sleep ends when the queue changed, ctx ended or wait passed; a negative
// wait is no limit.
func (q *Queue[K]) sleep(ctx context.Context, changed <-chan struct{}, wait time.Duration) {
	var timeout <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timeout:
	}
}

// insert puts a key that is not queued behind all that are due not later.
func (q *Queue[K]) insert(key K, at time.Time) {
	i, _ := slices.BinarySearchFunc(q.order, at, func(k K, t time.Time) int {
		return cmp.Or(q.due[k].Compare(t), -1)
	})
	q.order = slices.Insert(q.order, i, key)
	q.due[key] = at
}

func (q *Queue[K]) remove(key K) {
	if _, ok := q.due[key]; !ok {
		return
	}
	delete(q.due, key)
	i := slices.Index(q.order, key)
	q.order = slices.Delete(q.order, i, i+1)
}

// notify wakes all workers; q.mu is held.
func (q *Queue[K]) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}
