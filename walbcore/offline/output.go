package offline

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"

	"walbsh/walbcore/vfs"
)

// chunkSize is how much is read or written at a time [bytes].
const chunkSize = 1 << 20

// WriteFile makes the file at path of what fill writes. It appears under its
// name when it is complete and durable; a regular file of that name is
// replaced, anything else is refused with the code Usage.
func WriteFile(path string, fill func(w io.Writer) error) error {
	return replaceFile(path, func(f *vfs.TempFile) error {
		w := bufio.NewWriterSize(f, chunkSize)
		if err := fill(w); err != nil {
			return err
		}
		return w.Flush()
	})
}

// replaceFile is WriteFile for those that write at offsets.
func replaceFile(path string, fill func(f *vfs.TempFile) error) error {
	path, err := outputPath(path)
	if err != nil {
		return err
	}
	f, err := vfs.CreateTemp(vfs.OS{}, filepath.Dir(path))
	if err != nil {
		return asNotFound(err)
	}
	if err := fill(f); err != nil {
		return errors.Join(err, f.Abort())
	}
	_, err = f.Commit(filepath.Base(path))
	return err
}

// outputPath gives the path that may be replaced: what a link leads to rather
// than the link, and nothing that is there but a regular file.
func outputPath(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return path, nil
	}
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			info, err = os.Stat(path)
		}
	}
	if err == nil && !info.Mode().IsRegular() {
		err = notRegular(path)
	}
	return path, asNotFound(err)
}
