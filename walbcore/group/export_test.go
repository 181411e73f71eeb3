package group

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestExportsNeedAnArchiveOfOurs(t *testing.T) {
	st := newStage(t)
	st.locked(func() { st.a0.original = true })
	ctx := context.Background()
	_, err := st.g.ExportSnapshot(ctx, st.a0.conf, vol, 1, false)
	require.ErrorContains(t, err, "is an original, which cannot export")
	require.ErrorContains(t, st.g.UnexportSnapshot(ctx, st.a0.conf, vol, 1, false), "is an original")
	_, err = st.g.GetExports(ctx, st.p0.conf, vol)
	assert.Equal(t, walberr.Usage, errorOf(t, err).Code)
	assert.Empty(t, st.changes())
}
