package vm

import lua "github.com/yuin/gopher-lua"

// LoadFile compiles the script in the file at path without running it; see
// Load. Reading may fail too.
func (v *VM) LoadFile(path string) (*lua.LFunction, error) {
	source, err := readScript(path)
	if err != nil {
		return nil, err
	}
	return v.Load(path, source)
}
