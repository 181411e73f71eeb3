package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"time"
)

// version is what this program calls itself.
const version = "0.1"

// logVersion is the version of the log format, as the version command tells it.
const logVersion = 2

// build tells from what the program was made, as far as it is known.
type build struct {
	commit string // 40 hexadecimal digits, or ""
	date   string // of the commit, YYYY-MM-DDThh:mm:ss
}

func thisBuild() build {
	b := build{date: time.Unix(0, 0).UTC().Format(buildDate)}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.commit = s.Value
		case "vcs.time":
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				b.date = t.UTC().Format(buildDate)
			}
		}
	}
	return b
}

const buildDate = "2006-01-02T15:04:05"

// versionLine is what servers answer to the version command.
func versionLine() string {
	b := thisBuild()
	line := fmt.Sprintf("version:%s\tbuild_date:%s\tlog_version:%d", version, b.date, logVersion)
	if b.commit != "" {
		line += "\tcommit:" + b.commit
	}
	return line
}

// versionText is what `walbsh version` prints.
func versionText() string {
	text := "walbsh " + version
	if b := thisBuild(); b.commit != "" {
		text += " (commit " + b.commit + ")"
	}
	return text + ", " + runtime.Version() + "\n"
}
