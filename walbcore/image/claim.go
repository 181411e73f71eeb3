package image

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
)

// storeFile remembers under the base which kind of store it was made for.
const storeFile = "walbsh-store"

// Kind is a kind of store.
type Kind string

// The kinds.
const (
	KindFiles Kind = "files"
	KindLVM   Kind = "lvm"
)

// Claim makes sure that the server directory base is used with one kind of
// store for ever. The first start writes the kind down. A base that has
// volumes but says nothing was made by C++ WalB, whose images are in LVM.
// Starting with another kind fails with code Conflict.
func Claim(fsys vfs.FS, base string, kind Kind) error {
	path := filepath.Join(base, storeFile)
	found, err := vfs.ReadFile(fsys, path, 64)
	switch {
	case err == nil:
		return sameKind(base, kind, Kind(strings.TrimSuffix(string(found), "\n")))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	entries, err := fsys.ReadDir(base)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && checkName("open store", e.Name()) == nil {
			if err := sameKind(base, kind, KindLVM); err != nil {
				return err
			}
		}
	}
	return vfs.WriteFile(fsys, path, []byte(string(kind)+"\n"))
}

func sameKind(base string, want, have Kind) error {
	if want == have {
		return nil
	}
	return &walberr.Error{
		Op: "open store " + base, Code: walberr.Conflict,
		Found: "images of kind " + string(have), Expected: string(want),
		Hint: "start with -store " + string(have) + " or with another base directory",
	}
}
