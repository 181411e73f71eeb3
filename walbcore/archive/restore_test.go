package archive

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/meta"
)

// TestRestoredImagesAreTheModels: random writes become diffs, some merged on
// their way; whatever is restorable equals the model, byte for byte.
func TestRestoredImagesAreTheModels(t *testing.T) {
	for seed := range uint64(4) {
		r := runMem(t)
		w := newWorld(seed, 300)
		require.NoError(t, w.backup(t.Context(), r.addr, "v0"))
		var want []meta.Gid
		for range 12 {
			d, file := w.next(1+w.rnd.IntN(12), w.rnd.IntN(2) == 0)
			files := [][]byte{file}
			for w.rnd.IntN(3) == 0 {
				next, file := w.next(w.rnd.IntN(6), true)
				merged, err := d.Merge(next)
				require.NoError(t, err)
				d, files = merged, append(files, file)
			}
			require.NoError(t, w.send(t.Context(), r.addr, "v0", d, files...))
			want = append(want, d.E.B)
		}
		assert.Equal(t, want, r.sameAs(t, "v0", w))
	}
}
