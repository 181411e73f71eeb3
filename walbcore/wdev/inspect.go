package wdev

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"walbsh/walbcore/walberr"
)

// Super reads the super sector of a device in the directory, which may be open
// in another process: then its lsids are those of some moment before. NotFound
// if there is no such device, Checksum if it is damaged.
func (d *Dir) Super(name string) (Super, error) {
	if err := CheckName(name); err != nil {
		return Super{}, err
	}
	f, err := os.Open(filepath.Join(d.path, name, "log"))
	if err != nil {
		code := walberr.Unavailable
		if errors.Is(err, fs.ErrNotExist) {
			code = walberr.NotFound
		}
		return Super{}, &walberr.Error{Op: "inspect device", Code: code, Err: err}
	}
	defer func() { _ = f.Close() }()
	return readSuper(f)
}
