package embed

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"walbsh/walbcore/block"
	"walbsh/walbcore/vfs"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wire"
)

const (
	lockName     = "lock"
	stateName    = "group.json"
	stateVersion = 1
	maxStateSize = 64 << 10 // bytes
)

// state is the content of group.json.
type state struct {
	Version int               `json:"version"`
	Volume  string            `json:"volume"`
	Size    int64             `json:"size"`     // bytes
	LogSize int64             `json:"log_size"` // bytes
	Ready   bool              `json:"ready"`
	Ports   map[string]uint16 `json:"ports"`
}

// validate checks everything that later code relies on.
func (s state) validate() error {
	switch {
	case s.Version != stateVersion:
		return fmt.Errorf("version %d, this program knows %d", s.Version, stateVersion)
	case s.Size <= 0 || s.Size%block.Size != 0:
		return fmt.Errorf("size of %d bytes is no positive multiple of %d", s.Size, block.Size)
	case s.LogSize <= 0:
		return fmt.Errorf("log size of %d bytes", s.LogSize)
	}
	if err := wire.CheckVolumeName(s.Volume); err != nil {
		return err
	}
	if err := wdev.CheckName(s.Volume); err != nil {
		return err
	}
	return nil
}

// validatePorts checks that there is one port for every server.
func (s state) validatePorts() error {
	var used []uint16
	for _, m := range newMembers() {
		port := s.Ports[m.id]
		if port == 0 || slices.Contains(used, port) {
			return fmt.Errorf("server %s has the port %d, expected one of its own", m.id, port)
		}
		used = append(used, port)
	}
	return nil
}

// checkDir refuses a directory that holds something else than a group, so that
// nobody's files are mixed with those of a group.
func checkDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	foreign := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == stateName:
			return nil
		case name != lockName && !vfs.IsTempName(name):
			foreign = name
		}
	}
	if foreign != "" {
		return &walberr.Error{
			Op: "open group", Code: walberr.Conflict, Found: fmt.Sprintf("%s holds no group but other files (%s)", dir, foreign),
			Hint: "give a directory that is empty or does not exist",
		}
	}
	return nil
}

// loadState reads group.json, or begins a new one, and lays the options over
// it. What is fixed cannot be changed.
func loadState(dir string, o Options) (state, error) {
	path := filepath.Join(dir, stateName)
	data, err := vfs.ReadFile(vfs.OS{}, path, maxStateSize)
	if errors.Is(err, fs.ErrNotExist) {
		s := state{
			Version: stateVersion, Volume: orDefault(o.Volume, DefaultVolume),
			Size: orDefault(o.Size, DefaultSize), LogSize: orDefault(o.LogSize, DefaultLogSize),
		}
		if err := s.validate(); err != nil {
			return state{}, &walberr.Error{Op: "open group", Code: walberr.Usage, Err: err}
		}
		return s, nil
	}
	if err != nil {
		return state{}, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return state{}, walberr.Corrupt("read "+path, err.Error(), "a group's description in JSON")
	}
	err = s.validate()
	if err == nil {
		err = s.validatePorts()
	}
	if err != nil {
		return state{}, walberr.Corrupt("read "+path, err.Error(), "a group's description")
	}
	for _, c := range []struct {
		what        string
		given, have any
	}{
		{"volume", orDefault(o.Volume, s.Volume), s.Volume},
		{"size", orDefault(o.Size, s.Size), s.Size},
		{"log size", orDefault(o.LogSize, s.LogSize), s.LogSize},
	} {
		if c.given != c.have {
			return state{}, &walberr.Error{
				Op: "open group", Code: walberr.Conflict,
				Found: fmt.Sprintf("the group in %s has the %s %v, not %v", dir, c.what, c.have, c.given),
				Hint:  "leave the option out, or make a new group in another directory",
			}
		}
	}
	return s, nil
}

// save publishes group.json.
func (s state) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return vfs.WriteFile(vfs.OS{}, filepath.Join(dir, stateName), append(data, '\n'))
}

func orDefault[T comparable](value, def T) T {
	var zero T
	if value == zero {
		return def
	}
	return value
}
