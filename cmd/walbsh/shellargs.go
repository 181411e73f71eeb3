package main

import (
	"errors"
	"flag"
	"os"
	"strings"
)

// shellArgs are the arguments of the faces that run Lua on a group.
type shellArgs struct {
	layout  string // layout file of the group to attach to, "" for an embedded one
	data    string // directory of the embedded group, "" for a temporary one
	bare    bool
	size    int64 // bytes, 0 = not given
	logSize int64 // bytes, 0 = not given

	code       []string // of each -e
	file       string   // script to run
	scriptArgs []string
}

// errHelp asks for the help.
var errHelp = errors.New("help")

// parseShellArgs reads the command line. The error is a [*usageError] or
// errHelp.
func parseShellArgs(e env) (shellArgs, error) {
	var a shellArgs
	flags := newFlags("walbsh")
	flags.StringVar(&a.layout, "c", "", "")
	flags.StringVar(&a.layout, "layout", "", "")
	flags.StringVar(&a.data, "data", "", "")
	flags.BoolVar(&a.bare, "bare", false, "")
	size := sizeFlag(flags, "size", 0)
	logSize := sizeFlag(flags, "log-size", 0)
	flags.Func("e", "", func(code string) error {
		a.code = append(a.code, code)
		return nil
	})
	parse := func(words []string) error {
		err := flags.Parse(words)
		if errors.Is(err, flag.ErrHelp) {
			return errHelp
		}
		if err != nil {
			return usagef("walbsh help", "%v", err)
		}
		return nil
	}
	if err := parse(e.args); err != nil {
		return a, err
	}
	if flags.Arg(0) == "run" {
		if err := parse(flags.Args()[1:]); err != nil {
			return a, err
		}
		if err := a.takeScript(flags.Args()); err != nil {
			return a, err
		}
	} else if flags.NArg() > 0 {
		return a, unknownWord(flags.Arg(0))
	}
	a.size, a.logSize = *size, *logSize
	return a, a.settle(flags, e)
}

// takeScript takes FILE and, behind "--", its arguments. Words that do not look
// like options may do without the "--".
func (a *shellArgs) takeScript(words []string) error {
	if len(words) == 0 {
		return usagef("walbsh help run", "run wants a file")
	}
	a.file, words = words[0], words[1:]
	for i, w := range words {
		if w == "--" {
			a.scriptArgs = append(a.scriptArgs, words[i+1:]...)
			return nil
		}
		if strings.HasPrefix(w, "-") {
			return usagef("options stand before the file, arguments of the script behind --", "%s behind the file", w)
		}
		a.scriptArgs = append(a.scriptArgs, w)
	}
	return nil
}

func unknownWord(word string) error {
	if st, err := os.Stat(word); err == nil && st.Mode().IsRegular() {
		return usagef("walbsh run "+word, "%q is no command", word)
	}
	return usagef("walbsh help", "%q is no command", word)
}

// settle decides on the group: the command line goes before the environment,
// and that before the embedded group.
func (a *shellArgs) settle(flags *flag.FlagSet, e env) error {
	if len(a.code) > 0 && a.file != "" {
		return usagef("", "-e and run exclude each other")
	}
	embedded := ""
	flags.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "data", "bare", "size", "log-size":
			embedded = "--" + f.Name
		}
	})
	if embedded == "" {
		if a.layout == "" {
			a.layout = e.getenv("WALBSH_LAYOUT")
		}
		return nil
	}
	if a.layout != "" {
		return usagef("leave one of them out", "%s is for an embedded group and -c for one that runs elsewhere", embedded)
	}
	return nil
}
