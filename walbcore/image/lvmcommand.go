package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"walbsh/walbcore/walberr"
)

// maxReport bounds what is kept of the words that a failed command said, in
// bytes.
const maxReport = 1 << 10

// command runs the program lvm with the given words and gives its standard
// output.
type command func(words ...string) ([]byte, error)

// runLVM is the command on a real host. A command that has begun always runs to
// its end, since one that was killed can leave devices suspended; so it has a
// process group of its own, which an interrupt at a terminal does not reach.
func runLVM(words ...string) ([]byte, error) {
	cmd := exec.Command(lvmProgram(), words...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, commandFailed(words, stderr.Bytes(), err)
	}
	return stdout.Bytes(), nil
}

// lvmProgram finds the program also for a user whose PATH has no sbin.
func lvmProgram() string {
	for _, path := range []string{"lvm", "/usr/sbin/lvm", "/sbin/lvm"} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	return "lvm"
}

// commandFailed is the error of a failed command: the command and what it said.
func commandFailed(words []string, stderr []byte, err error) error {
	said := strings.Join(strings.Fields(string(stderr[:min(len(stderr), maxReport)])), " ")
	if said == "" {
		said = "it said nothing"
	}
	return &walberr.Error{
		Op: "lvm " + strings.Join(words, " "), Code: walberr.Unavailable, Found: said, Err: err,
		Hint: "run the command by hand; it needs root and the package lvm2",
	}
}

// volumeGroup is one line of a report on volume groups.
type volumeGroup struct {
	Name   string `json:"vg_name"`
	Extent int64  `json:"vg_extent_size,string"` // bytes
}

// logicalVolume is one line of a report on logical volumes.
type logicalVolume struct {
	Name     string `json:"lv_name"`
	Attr     string `json:"lv_attr"` // what it is, one letter each; the first is its type
	Pool     string `json:"pool_lv"` // thin pool that it is in, or empty
	Size     int64  `json:"lv_size,string"`
	Origin   string `json:"origin"`            // what it is a snapshot of, or empty
	Tags     string `json:"lv_tags"`           // separated by commas
	Chunk    int64  `json:"chunk_size,string"` // bytes; of thin pools and thick snapshots
	Zero     string `json:"zero"`              // "zero" if new chunks of a thin pool read as zeros
	Discards string `json:"discards"`          // "ignore" if a thin pool never frees a chunk
}

func (v *logicalVolume) isThinPool() bool { return strings.HasPrefix(v.Attr, "t") }

func (v *logicalVolume) tags() []string {
	return slices.DeleteFunc(strings.Split(v.Tags, ","), func(tag string) bool { return tag == "" })
}

// listGroups asks for the volume groups.
func (run command) listGroups() ([]volumeGroup, error) {
	return report[volumeGroup](run, "vg", "vgs", "-o", "vg_name,vg_extent_size")
}

// listVolumes asks for the logical volumes of a group.
func (run command) listVolumes(group string) ([]logicalVolume, error) {
	return report[logicalVolume](run, "lv", "lvs", "-o", "lv_name,lv_attr,pool_lv,lv_size,origin,lv_tags,chunk_size,zero,discards", group)
}

// report runs a command that reports lines of one kind as JSON, sizes in bytes:
//
//	{"report": [{"KIND": [{"FIELD": "VALUE", ...}, ...]}]}
func report[T any](run command, kind string, words ...string) ([]T, error) {
	words = append(words, "--reportformat", "json", "--units", "b", "--nosuffix")
	out, err := run(words...)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Report []map[string]json.RawMessage `json:"report"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, badReport(words, out, err)
	}
	var all []T
	for _, section := range doc.Report {
		lines, ok := section[kind]
		if !ok {
			continue
		}
		var list []T
		if err := json.Unmarshal(lines, &list); err != nil {
			return nil, badReport(words, lines, err)
		}
		all = append(all, list...)
	}
	return all, nil
}

func badReport(words []string, out []byte, err error) error {
	return &walberr.Error{
		Op: "lvm " + strings.Join(words, " "), Code: walberr.Unavailable, Err: err,
		Found: fmt.Sprintf("report %.200q", out), Expected: "a report in JSON, as lvm 2.02.158 and newer give it",
	}
}
