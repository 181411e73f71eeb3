package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"walbsh/walbcore/block"
	"walbsh/walbcore/embed"
	"walbsh/walbcore/wdev"
)

// devices is the face that makes and lists walb devices.
func devices(ctx context.Context, e env, words []string) int {
	if len(words) == 0 || words[0] == "-h" || words[0] == "--help" {
		return printed(e.stdout, wdevHelp)
	}
	var err error
	switch words[0] {
	case "create":
		err = createDevice(ctx, e, words[1:])
	case "list":
		err = listDevices(e, words[1:])
	default:
		err = usagef("walbsh wdev -h", "no command %q, there are create and list", words[0])
	}
	if errors.Is(err, flag.ErrHelp) {
		return printed(e.stdout, wdevHelp)
	}
	return fail(e.stderr, err)
}

func createDevice(ctx context.Context, e env, words []string) error {
	flags := newFlags("wdev create")
	size := sizeFlag(flags, "size", 0)
	logSize := sizeFlag(flags, "log-size", embed.DefaultLogSize)
	pbs := flags.Uint("pbs", 512, "")
	args, err := parseMixed(flags, words, "walbsh wdev -h")
	if err != nil {
		return err
	}
	switch {
	case len(args) != 2:
		return usagef("walbsh wdev -h", "wdev create wants DIR and NAME")
	case *size == 0:
		return usagef("as in --size 10g", "wdev create wants --size")
	case *size%block.Size != 0:
		return usagef("", "--size %d is no multiple of %d", *size, block.Size)
	}
	dir, err := wdev.OpenDir(args[0], wdev.Options{})
	if err != nil {
		return err
	}
	d, err := dir.Create(ctx, wdev.Spec{Name: args[1], Size: block.FromBytes(*size), LogSize: *logSize, PBS: uint32(*pbs)})
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	say(e.stdout, "%s%s\n", wdev.PathPrefix, d.Name())
	return dir.Close()
}

// listDevices prints a line for each device: path, size, size of the ring,
// physical block size, life of the log.
func listDevices(e env, words []string) error {
	args, err := parseMixed(newFlags("wdev list"), words, "walbsh wdev -h")
	if err != nil {
		return err
	}
	if len(args) != 1 {
		return usagef("walbsh wdev -h", "wdev list wants DIR")
	}
	if _, err := os.Stat(args[0]); err != nil {
		return err // listing makes nothing
	}
	dir, err := wdev.OpenDir(args[0], wdev.Options{})
	if err != nil {
		return err
	}
	names, err := dir.Names()
	if err != nil {
		return err
	}
	var failures []error
	for _, name := range names {
		s, err := dir.Super(name)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", name, err))
			continue
		}
		say(e.stdout, "%s%s\tsize %s\tlog %s\tpbs %d\tuuid %s\n", wdev.PathPrefix, name,
			block.FormatSize(s.Size.Bytes()), block.FormatSize(int64(s.Ring)*int64(s.PBS)), s.PBS, s.UUID)
	}
	return errors.Join(append(failures, dir.Close())...)
}

// newFlags makes a set of flags that prints nothing by itself.
func newFlags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	return flags
}

// sizeFlag is a flag with a size in bytes.
func sizeFlag(flags *flag.FlagSet, name string, def int64) *int64 {
	v := def
	flags.Func(name, "", func(word string) error {
		n, err := block.ParseSize(word)
		if err == nil && n == 0 {
			err = errors.New("size 0")
		}
		v = n
		return err
	})
	return &v
}

// parseMixed parses flags that may stand between and behind the arguments, and
// gives the arguments.
func parseMixed(flags *flag.FlagSet, words []string, hint string) ([]string, error) {
	var args []string
	for {
		if err := flags.Parse(words); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, usagef(hint, "%v", err)
		}
		if flags.NArg() == 0 {
			return args, nil
		}
		args = append(args, flags.Arg(0))
		words = flags.Args()[1:]
	}
}
