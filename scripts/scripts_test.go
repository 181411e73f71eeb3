package scripts

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	lua "github.com/yuin/gopher-lua"
)

func TestEveryRunbookCompilesAndSaysHowItIsRun(t *testing.T) {
	require.NotEmpty(t, Names())
	for _, name := range Names() {
		text, ok := Read(name)
		require.True(t, ok, name)
		assert.True(t, strings.HasPrefix(text, "-- "), "%s begins with what it does", name)
		assert.Contains(t, text, "run "+name, "%s says how it is run", name)
		L := lua.NewState()
		_, err := L.LoadString(text)
		assert.NoError(t, err, name)
		L.Close()
	}
	_, ok := Read("nosuch")
	assert.False(t, ok)
}
