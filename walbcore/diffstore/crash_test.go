package diffstore

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/vfs/vfstest"
)

// absent is the state of a diff that is not there; otherwise it is its flag
// and the text of its file.
const absent = "-"

func state(d meta.Diff, text string) string { return fmt.Sprintf("%t %s", d.Mergeable, text) }

// world is two stores, the second fed by links from the first, on a disk that
// loses power and fails at random, and what may be found there.
type world struct {
	t     *testing.T
	rnd   *rand.Rand
	mem   *vfstest.Mem
	quiet bool // no crashes and failures now: the test itself looks
	dirs  []string
	s     []*Store
	// may holds, per store and diff, every state that may be found after a crash.
	may []map[identity][]string
	log []string
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{
		t: t, rnd: rand.New(rand.NewPCG(seed, 5)), mem: vfstest.NewMem("/received", "/a0"),
		dirs: []string{"/received", "/a0"}, may: []map[identity][]string{{}, {}},
	}
	fsys := vfstest.Intercept(w.mem, w.hook)
	w.quiet = true
	for _, dir := range w.dirs {
		w.s = append(w.s, open(t, fsys, dir))
	}
	w.quiet = false
	return w
}

// hook crashes before every third change or so and fails one in fifteen.
func (w *world) hook(op vfstest.Op, path string) error {
	if w.quiet || !op.Changes() {
		return nil
	}
	if w.rnd.IntN(3) == 0 {
		w.crash()
	}
	if w.rnd.IntN(15) == 0 {
		w.log = append(w.log, fmt.Sprintf("  %s %s fails", op, path))
		return errBoom
	}
	return nil
}

// crash checks what a restart after a loss of power finds.
func (w *world) crash() {
	disk := w.mem.Crash(w.rnd)
	for i, dir := range w.dirs {
		s, err := Open(disk, dir)
		require.NoError(w.t, err, w.log)
		w.check(i, s, w.may[i])
		_, err = s.RemoveTemps()
		require.NoError(w.t, err)
	}
}

// check compares what s holds with what it may hold.
func (w *world) check(i int, s *Store, may map[identity][]string) {
	found := w.states(s)
	for id := range found {
		require.Contains(w.t, may, id, "%s %v", w.dirs[i], w.log)
	}
	for id, allowed := range may {
		got, ok := found[id]
		if !ok {
			got = absent
		}
		require.Contains(w.t, allowed, got, "%s: %v-->%v %v", w.dirs[i], id.b, id.e, w.log)
	}
}

func (w *world) states(s *Store) map[identity]string {
	found := map[identity]string{}
	for _, d := range s.All() {
		found[idOf(d)] = state(d, w.read(s, d))
	}
	return found
}

// read gives the text of a diff, without crashes and failures.
func (w *world) read(s *Store, d meta.Diff) string {
	was := w.quiet
	w.quiet = true
	defer func() { w.quiet = was }()
	return read(w.t, s, d)
}

// try runs an operation on store i that takes the given diffs to one of the
// given states, and checks list, directory and crashes.
func (w *world) try(i int, what string, to map[identity][]string, op func() error) {
	w.log = append(w.log, what)
	before := w.states(w.s[i])
	for id, states := range to {
		if w.may[i][id] == nil {
			w.may[i][id] = []string{absent}
		}
		w.may[i][id] = append(w.may[i][id], states...)
	}
	err := op()
	after := w.states(w.s[i])
	if err == nil {
		// The directory was synced behind the change.
		for id, states := range to {
			final := states[len(states)-1]
			if final == absent {
				require.NotContains(w.t, after, id, w.log)
			} else {
				require.Equal(w.t, final, after[id], w.log)
			}
			w.may[i][id] = []string{final}
		}
	}
	for id, was := range before {
		if to[id] == nil {
			require.Equal(w.t, was, after[id], "others are not touched: %v", w.log)
		}
	}
	for id, got := range after {
		require.Contains(w.t, w.may[i][id], got, w.log)
	}
	w.crash()
}

func (w *world) step(n int) {
	b := meta.Gid(w.rnd.IntN(4))
	d := clean(b, b+1+meta.Gid(w.rnd.IntN(2)), uint64(w.rnd.IntN(3)))
	d.Mergeable = w.rnd.IntN(2) == 0
	id := idOf(d)
	text := fmt.Sprint("text", n)
	i := w.rnd.IntN(2)
	s := w.s[i]
	old, there := w.states(s)[id]
	// replaced is the way from the old file to the new one: it may get the
	// new name, and with it the flag, before.
	replaced := func(d meta.Diff, text string) []string {
		if !there {
			return []string{state(d, text)}
		}
		var flag bool
		var oldText string
		_, err := fmt.Sscan(old, &flag, &oldText)
		require.NoError(w.t, err)
		return []string{state(d, oldText), state(d, text)}
	}
	switch w.rnd.IntN(7) {
	case 0, 1:
		var exists *ExistsError
		if there {
			w.quiet = true
			require.ErrorAs(w.t, add(s, d, text, false), &exists)
			w.quiet = false
			return
		}
		w.try(i, "add "+d.Verbose(), map[identity][]string{id: {state(d, text)}},
			func() error { return add(s, d, text, false) })
	case 2:
		w.try(i, "replace "+d.Verbose(), map[identity][]string{id: replaced(d, text)},
			func() error { return add(s, d, text, true) })
	case 3, 4:
		i, s = 1, w.s[1]
		old, there = w.states(s)[id]
		src, e, found := w.s[0].find(d)
		if !found {
			return
		}
		text := w.read(w.s[0], src)
		w.try(i, "link "+e.name, map[identity][]string{id: replaced(src, text)},
			func() error { return w.s[0].LinkReplace(s, d) })
	case 5:
		if !there {
			return
		}
		w.try(i, "remove "+d.String(), map[identity][]string{id: {absent}}, func() error { return s.Remove(d) })
	case 6:
		explicit := w.rnd.IntN(2) == 0
		to := map[identity][]string{}
		for _, listed := range s.All() {
			if listed.B.B == b && listed.Mergeable == explicit {
				text := w.read(s, listed)
				listed.Mergeable = !explicit
				to[idOf(listed)] = []string{state(listed, text)}
			}
		}
		w.try(i, fmt.Sprintf("change %d %t", b, explicit), to, func() error {
			_, _, err := s.ChangeSnapshot(b, explicit)
			return err
		})
	}
}

// TestCrashesAndFailures does random operations on a disk that fails now and
// then. At every change it looks at what a loss of power would leave: a store
// that opens, every acknowledged diff, nothing that was removed, and of the
// operation under way the state before or behind it.
func TestCrashesAndFailures(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for n := range 100 {
				w.step(n)
			}
			// In the end, once a change has gone well, list and directory agree.
			w.quiet = true
			for _, s := range w.s {
				mustAdd(t, s, clean(100, 101, 1), "last")
				require.Equal(t, contents(t, w.mem, s), contents(t, w.mem, open(t, vfs.FS(w.mem), s.Dir())))
			}
			require.NotEmpty(t, w.may[1])
		})
	}
}
