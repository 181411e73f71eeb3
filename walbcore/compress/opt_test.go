package compress

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseOpt(t *testing.T) {
	for text, want := range map[string]Opt{
		"snappy:0:1":   {Snappy, 0, 1},
		"none:0:1":     {None, 0, 1},
		"gzip:9:255":   {Gzip, 9, 255},
		"lzma:1:4":     {LZMA, 1, 4},
		"lz4:0:2":      {LZ4, 0, 2},
		"zstd:3:8":     {Zstd, 3, 8},
		"zstd:003:008": {Zstd, 3, 8},
	} {
		got, err := ParseOpt(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got, text)
	}
	assert.Equal(t, "snappy:0:1", Opt{Snappy, 0, 1}.String())

	for text, want := range map[string]string{
		"":                              "parseCompressOpt:parse error:",
		"snappy":                        "parseCompressOpt:parse error:snappy",
		"snappy:0":                      "parseCompressOpt:parse error:snappy:0",
		"bzip:0:1":                      "parseCompressionType:wrong type:bzip",
		"Snappy:0:1":                    "parseCompressionType:wrong type:Snappy",
		"gzip:x:1":                      "atoi::convertToUint:x",
		"gzip::1":                       "atoi::convertToUint:",
		"gzip:256:1":                    "atoi::convertToUint:256",
		"gzip:-1:1":                     "atoi::convertToUint:-1",
		"gzip:0:1:2":                    "atoi::convertToUint:1:2",
		"gzip:0:aaaaaaaaaaaaaaaaaaaaaa": "atoi::convertToUint:aaaaaaaaaaaaaaaa",
		"gzip:65:1":                     "CompressOpt::verify:invalid level:A",
		"gzip:1:0":                      "CompressOpt::verify:invalid num cpu:\x00",
	} {
		_, err := ParseOpt(text)
		var oe OptError
		require.ErrorAs(t, err, &oe, text)
		assert.Equal(t, want, err.Error(), text)
	}
	require.Error(t, Opt{Type: 6, CPUs: 1}.Validate())
	assert.Equal(t, "type(6)", Type(6).String())
}

func FuzzParseOpt(f *testing.F) {
	f.Add("snappy:0:1")
	f.Add("zstd:9:255")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOpt(s)
		if err != nil {
			return
		}
		again, err := ParseOpt(o.String())
		require.NoError(t, err)
		require.Equal(t, o, again)
	})
}
