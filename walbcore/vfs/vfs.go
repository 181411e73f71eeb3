// Package vfs is the file-system seam: everything the servers keep on disk
// besides volume data goes through [FS], so that tests can crash the disk and
// make any operation fail (package vfstest).
//
// Durability is explicit, as POSIX has it: [File.Sync] makes a file's content
// and size durable, [FS.SyncDir] makes the names in a directory durable. A
// file is published by [WriteFile] or [TempFile]: written under a temporary
// name in its final directory, synced, renamed, directory synced. Only then
// may anyone be told of it.
//
//	tmpXXXXXX   temporary file: "tmp" and six characters of [0-9A-Za-z],
//	            exactly 9 in all. Whatever is named so and has no owner
//	            any more is garbage (RemoveTemps).
//
// What may come in: paths that the program composed itself. Nothing here
// checks names that came over the wire.
package vfs

import (
	"io"
	"io/fs"
)

// FS is a file system. Paths are slash-separated. Errors are those of package
// os: they answer to errors.Is with fs.ErrNotExist and fs.ErrExist and name
// the path. All methods are safe for concurrent use.
type FS interface {
	// Open opens an existing file. The flags are os.O_RDONLY or os.O_RDWR,
	// with os.O_CREATE, os.O_EXCL and os.O_TRUNC.
	Open(name string, flag int, perm fs.FileMode) (File, error)
	// Mkdir makes one directory; its parent must exist.
	Mkdir(name string, perm fs.FileMode) error
	// Rename gives a file or directory another name, atomically replacing a
	// file of that name. Durable after SyncDir of both directories.
	Rename(oldName, newName string) error
	// Link gives a file a second name, which must not exist.
	Link(oldName, newName string) error
	// Remove unlinks a file or an empty directory. Open files stay readable.
	Remove(name string) error
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a file or directory. It follows symbolic links.
	Stat(name string) (fs.FileInfo, error)
	// Chmod sets the permission bits.
	Chmod(name string, mode fs.FileMode) error
	// SyncDir makes all earlier creations, renames, links and removals in
	// the directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock on the file, which is created if absent,
	// without waiting. Closing the result releases it, as does the end of
	// the process. If another holds it the error has code Conflict.
	Lock(name string) (io.Closer, error)
}

// File is an open file. Reads and writes at an offset may run concurrently.
type File interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Name is the name the file was opened under.
	Name() string
	// Stat describes the file.
	Stat() (fs.FileInfo, error)
	// Truncate sets the size in bytes; a grown part reads as zeros.
	Truncate(size int64) error
	// Sync makes content and size durable. It says nothing about the name.
	Sync() error
}
