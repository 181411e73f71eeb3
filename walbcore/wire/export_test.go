package wire

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

func TestExportLines(t *testing.T) {
	e := Export{Volume: "v", Gid: 8, Mode: ExportOverlay, Blocks: 2048, Clients: 2, URI: "nbd+unix:///v@8?socket=/a/nbd.sock"}
	line := e.String()
	assert.Equal(t, "volume:v\tgid:8\tmode:overlay\tblocks:2048\tclients:2\turi:nbd+unix:///v@8?socket=/a/nbd.sock", line)
	back, err := ParseExport(line)
	require.NoError(t, err)
	assert.Equal(t, e, back)
	back, err = ParseExport("more:of it\tvolume:v")
	require.NoError(t, err)
	assert.Equal(t, Export{Volume: "v"}, back)
	for _, bad := range []string{"", "volume", "gid:x", "mode:rw", "blocks:-1", "clients:x"} {
		_, err := ParseExport(bad)
		assert.Equal(t, walberr.Checksum, walberr.CodeOf(err), bad)
	}
}
