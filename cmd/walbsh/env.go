package main

import (
	"io"
	"os"
	"os/signal"

	"golang.org/x/term"
)

// env is the process as the faces see it, so that tests can make another.
type env struct {
	args   []string // without the program's name
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	keys   *os.File // stdin where it is a terminal, else nil
	screen *os.File // stdout where it is a terminal, else nil
	bars   *os.File // stderr where it is a terminal, else nil

	hostname func() (string, error)
	// notify delivers signals until stop is called.
	notify func(signals ...os.Signal) (delivered <-chan os.Signal, stop func())
	// exit ends the process at once.
	exit func(status int)
}

// systemEnv is the process itself; exit ends it.
func systemEnv(exit func(status int)) env {
	return env{
		args:     os.Args[1:],
		getenv:   os.Getenv,
		stdin:    os.Stdin,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		keys:     terminal(os.Stdin),
		screen:   terminal(os.Stdout),
		bars:     terminal(os.Stderr),
		hostname: os.Hostname,
		notify: func(signals ...os.Signal) (<-chan os.Signal, func()) {
			delivered := make(chan os.Signal, 8)
			signal.Notify(delivered, signals...)
			return delivered, func() { signal.Stop(delivered) }
		},
		exit: exit,
	}
}

// terminal gives f if it is a terminal, else nil.
func terminal(f *os.File) *os.File {
	if term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
