package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// options are the options of a server face, in the form of the C++ servers:
// "-name value", or "-name" alone for a switch. A word that begins with "-" and
// a digit is a value. A later value replaces an earlier one.
type options struct {
	list []*option
}

// option is one of them.
type option struct {
	name    string
	value   string // what the value is, for the usage; "" for a switch
	meaning string
	text    string // the value as it stands, printed at start and in the usage
	given   bool
	must    bool
	take    func(word string) error
}

// optionError is a mistake in the options, in the original's words.
type optionError struct{ kind, detail string }

// Error is "OptionError:kind:detail".
func (e *optionError) Error() string {
	if e.detail == "" {
		return "OptionError:" + e.kind
	}
	return "OptionError:" + e.kind + ":" + e.detail
}

func (o *options) add(opt *option) { o.list = append(o.list, opt) }

func (o *options) find(name string) *option {
	for _, opt := range o.list {
		if opt.name == name {
			return opt
		}
	}
	return nil
}

// parse takes the words of a command line. The error is an [*optionError].
func (o *options) parse(words []string) error {
	for i := 0; i < len(words); i++ {
		name, isOption := optionName(words[i])
		if !isOption {
			return &optionError{"redundant argVal", words[i]}
		}
		opt := o.find(name)
		if opt == nil {
			return &optionError{"bad opt", words[i]}
		}
		word := ""
		if opt.value != "" {
			i++
			if i == len(words) {
				return &optionError{"bad value", "no value for -" + name}
			}
			if _, isOption := optionName(words[i]); isOption && words[i] != "-" {
				return &optionError{"bad value", "no value for -" + name}
			}
			word = words[i]
		}
		if err := opt.take(word); err != nil {
			return &optionError{"bad value", word + " for -" + name}
		}
		opt.given = true
		if word != "" {
			opt.text = word
		}
	}
	for _, opt := range o.list {
		if opt.must && !opt.given {
			return &optionError{"opt is necessary", opt.name}
		}
	}
	return nil
}

// optionName gives NAME of the word "-NAME" that is an option.
func optionName(word string) (string, bool) {
	name, ok := strings.CutPrefix(word, "-")
	if !ok || name != "" && '0' <= name[0] && name[0] <= '9' {
		return "", false
	}
	return name, true
}

// text is an option with a word as its value.
func (o *options) text(name, value, def, meaning string) *string {
	v := def
	o.add(&option{name: name, value: value, meaning: meaning, text: def, take: func(word string) error {
		v = word
		return nil
	}})
	return &v
}

// must is a text that has to be given.
func (o *options) must(name, value, meaning string) *string {
	v := o.text(name, value, "", meaning)
	o.find(name).must = true
	return v
}

// flag is a switch.
func (o *options) flag(name, meaning string) *bool {
	v := false
	opt := &option{name: name, meaning: meaning, text: "0"}
	opt.take = func(string) error {
		v, opt.text = true, "1"
		return nil
	}
	o.add(opt)
	return &v
}

// number is an option with a number from 0 to limit.
func (o *options) number(name, value string, def, limit uint64, meaning string) *uint64 {
	v := def
	o.add(&option{
		name: name, value: value, meaning: meaning, text: strconv.FormatUint(def, 10),
		take: func(word string) (err error) {
			v, err = parseNumber(word)
			if err == nil && v > limit {
				err = fmt.Errorf("more than %d", limit)
			}
			return err
		},
	})
	return &v
}

// count is a number that fits an int.
func (o *options) count(name, value string, def uint64, meaning string) *uint64 {
	return o.number(name, value, def, math.MaxInt32, meaning)
}

// seconds is a number of seconds.
func (o *options) seconds(name string, def uint64, meaning string) *uint64 {
	return o.number(name, "SEC", def, math.MaxInt64/uint64(time.Second), meaning)
}

// port is a port number, in plain digits.
func (o *options) port(name string, def uint16, meaning string) *uint16 {
	v := def
	o.add(&option{
		name: name, value: "PORT", meaning: meaning, text: strconv.Itoa(int(def)),
		take: func(word string) error {
			n, err := strconv.ParseUint(word, 10, 16)
			v = uint16(n)
			return err
		},
	})
	return &v
}

const ignoredMeaning = "taken for compatibility, has no effect"

// ignored is an option of the C++ servers that has nothing to act on here. It
// is taken, so that existing unit files run, and the log says so.
func (o *options) ignored(name, value, def string) {
	o.add(&option{
		name: name, value: value, meaning: ignoredMeaning, text: def,
		take: func(string) error { return nil },
	})
}

// parseNumber reads digits, or hexadecimal ones behind 0x, with k m g for
// powers of 1000 or K M G for powers of 1024 at the end.
func parseNumber(word string) (uint64, error) {
	if digits, ok := strings.CutPrefix(word, "0x"); ok {
		return strconv.ParseUint(digits, 16, 64)
	}
	unit := uint64(1)
	if n := len(word); n > 0 {
		if i := strings.IndexByte("kmgKMG", word[n-1]); i >= 0 {
			base := uint64(1000)
			if i >= 3 {
				base = 1024
			}
			for range i%3 + 1 {
				unit *= base
			}
			word = word[:n-1]
		}
	}
	v, err := strconv.ParseUint(word, 10, 64)
	if err == nil && v > math.MaxUint64/unit {
		err = strconv.ErrRange
	}
	return v * unit, err
}

// usage prints all options.
func (o *options) usage(w io.Writer, head string) {
	say(w, "usage: %s\n", head)
	for _, opt := range o.list {
		call := "-" + opt.name
		if opt.value != "" {
			call += " " + opt.value
		}
		def := ""
		switch {
		case opt.must:
			def = " (must)"
		case opt.value != "" && opt.text != "":
			def = " (default " + opt.text + ")"
		}
		say(w, "  %-22s %s%s\n", call, opt.meaning, def)
	}
	say(w, "  %-22s %s\n", "-h", "print this")
}

// values lists all options as the servers log them: "name=value (set|default)".
func (o *options) values() []string {
	lines := make([]string, len(o.list))
	for i, opt := range o.list {
		how := "default"
		if opt.given {
			how = "set"
		}
		lines[i] = fmt.Sprintf("%s=%s (%s)", opt.name, opt.text, how)
	}
	return lines
}
