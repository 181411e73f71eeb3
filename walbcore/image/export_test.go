package image

// OpenLVMWith opens a store whose commands are run by another function, and
// whose device nodes are files.
func OpenLVMWith(group, pool, nodes string, run func(words ...string) ([]byte, error)) (*LVM, error) {
	return openLVM(group, pool, nodes, run)
}

// CommandFailed is the error of a command that failed.
var CommandFailed = commandFailed
