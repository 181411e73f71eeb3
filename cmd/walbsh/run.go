package main

import (
	"context"
	"syscall"
)

// run is the program: it picks the face and gives the exit status.
func run(ctx context.Context, e env) int {
	// A reader that goes away is an error of the write, which ends a script in
	// order, and no reason to be killed. Nobody needs the signal itself.
	_, stop := e.notify(syscall.SIGPIPE)
	defer stop()
	face, words := "", e.args
	if len(words) > 0 {
		face, words = words[0], words[1:]
	}
	switch face {
	case "serve":
		return serve(ctx, e, words)
	case "wdev":
		return devices(ctx, e, words)
	case "export":
		return exports(ctx, e, words)
	case "wdiff":
		return diffs(ctx, e, words)
	case "wlog":
		return logs(ctx, e, words)
	case "image":
		return images(ctx, e, words)
	case "version", "-version", "--version":
		return printed(e.stdout, versionText())
	case "help", "-h", "-help", "--help":
		return help(ctx, e, words)
	}
	return shell(ctx, e)
}
