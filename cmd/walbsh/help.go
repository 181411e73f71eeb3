package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"walbsh/scripts"
)

const mainHelp = `walbsh operates and serves WalB backup groups.

usage:
  walbsh [options]                      prompt; without a terminal, a script from stdin
  walbsh [options] run FILE [-- ARG...] run a script: walbsh help run
  walbsh [options] -e CODE...           run code
  walbsh serve storage|proxy|archive    run one server: walbsh serve storage -h
  walbsh wdev create|list               walb devices made of files: walbsh wdev -h
  walbsh export VOLUME GID              a snapshot as a block device over NBD: walbsh export -h
  walbsh wdiff show|check|stat|merge|redo|gen
                                        diff files: walbsh wdiff -h
  walbsh wlog show|check|redo|to-wdiff|gen
                                        log files: walbsh wlog -h
  walbsh image hash|cat                 images, with diffs over them: walbsh image -h
  walbsh version
  walbsh help [FACE]

The group is one of:
  -c, --layout FILE   the group of a layout file (also $WALBSH_LAYOUT)
  --data DIR          an embedded group that is kept in DIR, made there if missing
  (neither)           an embedded group that is gone when walbsh ends

An embedded group is s0, p0, a0 and a1 in this process, on 127.0.0.1, with the
volume vol backed up to a0. More options of it:
  --bare              do not back up the volume: no server knows it yet
  --size N            of a new group's volume, as in 64m (the default) or 1g
  --log-size N        of the log of its device (default 16m)

Lua finds the servers by their names (s0 p0 a0 a1, and ax for the last archive),
vol, timeoutS (a minute on an embedded group, else a day), the verbs in walbc,
the volume as a disk in group, and help(), which explains them.

Exit status: 0 done, 1 a script or an operation failed, 2 wrong command line,
3 failed and something could not be brought back, 4 a time limit passed, 70 a
defect of walbsh, 130 interrupted, 143 terminated; os.exit(N) gives N.
`

const wdevHelp = `usage:
  walbsh wdev create DIR NAME --size N [--log-size N] [--pbs 512|4096]
  walbsh wdev list DIR

A device is two files, DIR/NAME/log and DIR/NAME/data. A storage that runs with
-wdev DIR knows it as /dev/walb/NAME:

  walbsh wdev create /srv/wdev disk1 --size 10g --log-size 1g
  walbsh serve storage -wdev /srv/wdev ...

N is a number of bytes, with k m g t for powers of 1024. The log is 16m unless
said otherwise. Every write goes to the log first and stays there until a proxy
has it.
`

const exportHelp = `usage:
  walbsh export [-a HOST:PORT] VOLUME GID [--overlay]
  walbsh export [-a HOST:PORT] --list [VOLUME]
  walbsh export [-a HOST:PORT] --end VOLUME GID [--force]

An archive serves a snapshot that it could restore as a block device over NBD, at
once and without copying it, and walbsh prints where:

  nbdcopy "$(walbsh export vol 8)" vol.img
  nbd-client -unix /srv/a0/nbd.sock /dev/nbd0 -N vol@8

It is read-only. With --overlay it takes writes; they are kept in a file without a
name in the archive's directory, and are gone when the export ends. It ends with
--end or with the archive. --end is refused while somebody uses it, unless --force
is given. While a snapshot is exported, apply is refused beyond it, and so are
reset-vol, clear-vol and resync of its volume; everything else goes on.

-a is the archive, localhost:5000 unless said otherwise. The place is as seen from
its host: a socket that only its owner and root may use, or a port where the archive
runs with -nbd HOST:PORT, which everybody may use who reaches it.
`

// runHelp tells about scripts, with the runbooks that are built in.
func runHelp() string {
	var b strings.Builder
	b.WriteString("usage: walbsh [options] run FILE [-- ARG...]\n\n" +
		"The script stops at its first error. It finds its arguments in the table arg, and\n" +
		"what it requires beside itself and in the current directory.\n\n" +
		"FILE may also be the name of a runbook that is built in:\n")
	for _, name := range scripts.Names() {
		text, _ := scripts.Read(name)
		about, _, _ := strings.Cut(text, "\n")
		fmt.Fprintf(&b, "  %-20s%s\n", name, strings.TrimPrefix(about, "--"))
	}
	return b.String()
}

// help prints about the program or one face.
func help(ctx context.Context, e env, words []string) int {
	if len(words) == 0 {
		return printed(e.stdout, mainHelp)
	}
	switch words[0] {
	case "serve":
		if len(words) > 1 {
			return serve(ctx, e, []string{words[1], "-h"})
		}
		say(e.stdout, "usage:\n")
		for _, kind := range daemonKinds {
			say(e.stdout, "  walbsh serve %s -h\n", kind)
		}
		return statusOK
	case "wdev":
		return printed(e.stdout, wdevHelp)
	case "export":
		return printed(e.stdout, exportHelp)
	case "wdiff":
		return printed(e.stdout, wdiffHelp)
	case "wlog":
		return printed(e.stdout, wlogHelp)
	case "image":
		return printed(e.stdout, imageHelp)
	case "run":
		return printed(e.stdout, runHelp())
	case "version", "help":
		return printed(e.stdout, mainHelp)
	}
	return fail(e.stderr, usagef("walbsh help", "no help about %q", words[0]))
}

func printed(w io.Writer, text string) int {
	if _, err := io.WriteString(w, text); err != nil {
		return statusFailed
	}
	return statusOK
}
