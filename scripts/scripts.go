// Package scripts holds the runbooks that ship inside the binary: Lua files
// that are run by name (walbsh run NAME) and read as documentation.
//
// What may come in: nothing. A runbook uses only what a user's script can.
package scripts

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed *.lua
var files embed.FS

const suffix = ".lua"

// Names lists the runbooks, sorted.
func Names() []string {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), suffix))
	}
	return names
}

// Read gives the text of a runbook, and whether there is one of that name.
func Read(name string) (text string, ok bool) {
	data, err := files.ReadFile(name + suffix)
	return string(data), err == nil
}
