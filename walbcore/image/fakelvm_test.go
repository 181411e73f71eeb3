package image_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"walbsh/walbcore/image"
)

const fakeExtent = 1 << 20

// fakeLVM understands the commands that an image.LVM gives, and keeps volumes
// as files. New space in an ordinary volume holds rubbish.
type fakeLVM struct {
	t       *testing.T
	dir     string
	volumes map[string]map[string]string // fields of a report, by name
	// before and after are called around each command that changes something;
	// an error becomes that of the command.
	before, after func(words []string) error
	commands      []string
}

func newFakeLVM(t *testing.T) *fakeLVM {
	t.Helper()
	f := &fakeLVM{t: t, dir: t.TempDir(), volumes: map[string]map[string]string{}}
	f.add("tp", 64<<20, map[string]string{"lv_attr": "twi-aotz--", "chunk_size": "65536", "zero": "zero", "discards": "passdown"})
	return f
}

func (f *fakeLVM) open(pool string) image.Store {
	s, err := image.OpenLVMWith("vg0", pool, f.dir, f.run)
	require.NoError(f.t, err)
	return s
}

func (f *fakeLVM) add(name string, size int64, fields map[string]string) {
	line := map[string]string{
		"lv_name": name, "lv_attr": "-wi-a-----", "pool_lv": "", "origin": "", "lv_tags": "",
		"chunk_size": "0", "zero": "unknown", "discards": "",
	}
	maps.Copy(line, fields)
	line["lv_size"] = strconv.FormatInt(size, 10)
	f.volumes[name] = line
}

func (f *fakeLVM) node(name string) string { return filepath.Join(f.dir, name) }

func (f *fakeLVM) run(words ...string) ([]byte, error) {
	switch words[0] {
	case "vgs":
		return []byte(`{"report": [{"vg": [{"vg_name":"vg0", "vg_extent_size":"1048576"}]}]}`), nil
	case "lvs":
		var lines []map[string]string
		for _, name := range slices.Sorted(maps.Keys(f.volumes)) {
			lines = append(lines, f.volumes[name])
		}
		return json.Marshal(map[string]any{"report": []any{map[string]any{"lv": lines}}})
	}
	f.commands = append(f.commands, strings.Join(words, " "))
	if f.before != nil {
		if err := f.before(words); err != nil {
			return nil, image.CommandFailed(words, []byte("  refused\n"), err)
		}
	}
	if err := f.change(words); err != nil {
		return nil, image.CommandFailed(words, []byte(err.Error()), errors.New("exit status 5"))
	}
	if f.after != nil {
		if err := f.after(words); err != nil {
			return nil, image.CommandFailed(words, []byte("  device node is late\n"), err)
		}
	}
	return nil, nil
}

// change does one command: options that have values, flags, and at the end
// what it acts on.
func (f *fakeLVM) change(words []string) error {
	opt, last := map[string]string{}, []string{}
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "--yes", "--snapshot", "--ignoreactivationskip":
			opt[words[i]] = "y"
		case "--name", "--size", "--virtualsize", "--type", "--thinpool", "--setactivationskip", "--addtag", "--deltag", "--activate":
			opt[words[i]] = words[i+1]
			i++
		default:
			if strings.HasPrefix(words[i], "-") {
				return fmt.Errorf("unknown option %s", words[i])
			}
			last = append(last, strings.TrimPrefix(words[i], "vg0/"))
		}
	}
	size := int64(0)
	for _, o := range []string{"--size", "--virtualsize"} {
		if opt[o] != "" {
			n, err := strconv.ParseInt(strings.TrimSuffix(opt[o], "b"), 10, 64)
			if err != nil || n%fakeExtent != 0 {
				return fmt.Errorf("bad size %s", opt[o])
			}
			size = n
		}
	}
	v := f.volumes[last[0]]
	if words[0] != "lvcreate" && words[0] != "lvrename" || opt["--snapshot"] != "" {
		if v == nil {
			return fmt.Errorf("failed to find logical volume %q", last[0])
		}
	}
	switch words[0] {
	case "lvcreate":
		return f.create(opt, v, size)
	case "lvremove":
		delete(f.volumes, last[0])
		return os.Remove(f.node(last[0]))
	case "lvrename":
		old := f.volumes[last[1]]
		if old == nil || f.volumes[last[2]] != nil {
			return fmt.Errorf("cannot rename %q", last[1])
		}
		delete(f.volumes, last[1])
		old["lv_name"] = last[2]
		f.volumes[last[2]] = old
		return os.Rename(f.node(last[1]), f.node(last[2]))
	case "lvextend":
		have, _ := strconv.ParseInt(v["lv_size"], 10, 64)
		v["lv_size"] = strconv.FormatInt(size, 10)
		return f.extend(last[0], have, size, v["pool_lv"] == "")
	case "lvchange":
		switch {
		case opt["--addtag"] != "":
			v["lv_tags"] = opt["--addtag"]
		case opt["--deltag"] != "":
			v["lv_tags"] = ""
		case opt["--activate"] == "y":
			return os.Rename(f.node(last[0])+".inactive", f.node(last[0]))
		}
		return nil
	}
	return fmt.Errorf("unknown command %s", words[0])
}

func (f *fakeLVM) create(opt map[string]string, origin map[string]string, size int64) error {
	name := opt["--name"]
	if f.volumes[name] != nil {
		return fmt.Errorf("logical volume %q exists", name)
	}
	if opt["--snapshot"] == "" {
		f.add(name, size, map[string]string{"pool_lv": opt["--thinpool"]})
		return f.extend(name, 0, size, opt["--thinpool"] == "")
	}
	if (size == 0) != (origin["pool_lv"] != "") {
		return errors.New("an ordinary snapshot has a size, a thin one has none")
	}
	have, _ := strconv.ParseInt(origin["lv_size"], 10, 64)
	f.add(name, max(size, have), map[string]string{"pool_lv": origin["pool_lv"], "origin": origin["lv_name"]})
	data, err := os.ReadFile(f.node(origin["lv_name"]))
	if err != nil {
		return err
	}
	return os.WriteFile(f.node(name), data, 0o600)
}

func (f *fakeLVM) extend(name string, from, to int64, rubbish bool) error {
	file, err := os.OpenFile(f.node(name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if rubbish {
		_, err = file.WriteAt(bytes.Repeat([]byte{0xd5}, int(to-from)), from)
	} else {
		err = file.Truncate(to)
	}
	return errors.Join(err, file.Close())
}

// names lists the volumes but the pool.
func (f *fakeLVM) names() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.volumes)), func(name string) bool { return name == "tp" })
}
