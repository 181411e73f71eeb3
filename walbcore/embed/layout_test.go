package embed

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLuaStringIsALiteral(t *testing.T) {
	for in, want := range map[string]string{
		"/srv/a0":      `"/srv/a0"`,
		`a"b\c`:        `"a\"b\\c"`,
		"a\nb\x00\x7f": `"a\010b\000\127"`,
		"größe":        `"größe"`,
	} {
		assert.Equal(t, want, luaString(in))
	}
}
