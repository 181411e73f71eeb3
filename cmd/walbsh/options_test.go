package main

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseNumber(t *testing.T) {
	for word, want := range map[string]uint64{
		"0": 0, "42": 42, "0x10": 16, "0xFf": 255, "2k": 2000, "2K": 2048, "3m": 3e6, "3M": 3 << 20, "4g": 4e9, "4G": 4 << 30,
		"18446744073709551615": math.MaxUint64,
	} {
		n, err := parseNumber(word)
		require.NoError(t, err, word)
		assert.Equal(t, want, n, word)
	}
	for _, word := range []string{"", "k", "x", "1t", "-1", "1.5", "0x", "1 ", "18446744073709551616", "18446744073709552K", "0x1k"} {
		_, err := parseNumber(word)
		assert.Error(t, err, word)
	}
}

func TestTheOriginalsCommandLinesAreTaken(t *testing.T) {
	// As the operators' library and its manual start the servers.
	for _, line := range []string{
		"storage -p 10000 -b /d/s0/ -l s0.log -id s0 -fg 2 -bg 1 -maxconn 4 -to 30 -debug " +
			"-archive localhost:10200 -proxy localhost:10100,localhost:10101 -wl 64 -delay 3 -maxdelay 60 -fst 10m -tsdintvl 60 -sync-cmpr lz4:0:2",
		"proxy -p 10100 -b /d/p0/ -l p0.log -id p0 -fg 2 -bg 1 -wd 128 -wn 100 -rto 1800 -stop -ka -kaidle 10 -kaintvl 0x3 -kacnt 4",
		"archive -p 10200 -b /d/a0/ -l - -id a0 -fg 2 -maxconn 0x10 -wn 1000 -discard zero -fi 512M -autoresize " +
			"-keep-one-cold-snap -maxopen 10 -maxopen-virt 10 -apply-sleep-pct 50 -lock-time-th 0.5 -vg vg0 -tp pool",
	} {
		words := strings.Fields(line)
		d := newDaemon(words[0], "host")
		require.NoError(t, d.opts.parse(words[1:]), line)
		for _, o := range d.opts.list {
			assert.NotEqual(t, o.given, strings.HasSuffix(valueLine(d, o.name), "(default)"), o.name)
		}
	}
}

func valueLine(d *daemon, name string) string {
	for _, line := range d.opts.values() {
		if strings.HasPrefix(line, name+"=") {
			return line
		}
	}
	return ""
}

func TestOptionErrors(t *testing.T) {
	for line, want := range map[string]string{
		"storage":                 "OptionError:opt is necessary:archive",
		"storage -archive h:1":    "OptionError:opt is necessary:proxy",
		"proxy -nosuch":           "OptionError:bad opt:-nosuch",
		"proxy -":                 "OptionError:bad opt:-",
		"proxy word":              "OptionError:redundant argVal:word",
		"proxy -5":                "OptionError:redundant argVal:-5",
		"proxy -p":                "OptionError:bad value:no value for -p",
		"proxy -p -b":             "OptionError:bad value:no value for -p",
		"proxy -p 65536":          "OptionError:bad value:65536 for -p",
		"proxy -p 0x10":           "OptionError:bad value:0x10 for -p",
		"proxy -fg x":             "OptionError:bad value:x for -fg",
		"proxy -fg -5":            "OptionError:bad value:-5 for -fg",
		"proxy -maxconn 3g":       "OptionError:bad value:3g for -maxconn",
		"archive -discard some":   "OptionError:bad value:some for -discard",
		"archive -sync-cmpr zip":  "OptionError:bad value:zip for -sync-cmpr",
		"archive -to 99999999999": "OptionError:bad value:99999999999 for -to",
		"archive -allow-exec":     "OptionError:bad opt:-allow-exec",
		"storage -archive h:1 -proxy h:2 -volume-io yes": "OptionError:redundant argVal:yes",
	} {
		words := strings.Fields(line)
		assert.EqualError(t, newDaemon(words[0], "host").opts.parse(words[1:]), want, line)
	}
}

func TestValuesThatCannotBeUsed(t *testing.T) {
	storage := "storage -archive h:1 -proxy h:2 "
	for line, want := range map[string]string{
		storage + "-fg 0":        "maxForegroundTasks:must not be 0.",
		storage + "-bg 0":        "maxBackgroundTasks:must not be 0.",
		storage + "-wl 0":        "maxWlogSendMb:must not be 0.",
		storage + "-snapintvl 0": "implicitSnapshotIntervalSec:must not be 0.",
		storage + "-onfull no":   "bad -onfull:no: expected overflow or block",
		"proxy -fg 0":            "maxForegroundtasks:must not be 0.",
		"proxy -bg 0":            "maxBackgroundtasks:must not be 0.",
		"archive -maxconn 0":     "maxConnections:must not be 0.",
		"archive -fi 0":          "fsyncIntervalSize:must not be 0.",
		"archive -tp pool":       "bad -tp:pool: a thin pool is in a volume group, which -vg names",
		"archive -store tape":    "bad -store:tape: expected files or lvm",
	} {
		words := strings.Fields(line)
		d := newDaemon(words[0], "host")
		require.NoError(t, d.opts.parse(words[1:]), line)
		require.EqualError(t, d.check(), want, line)
	}
	for line, want := range map[string]string{
		"-kaidle 86401": "bad TCP keep-alive idle:86401", "-kaintvl 3601": "bad TCP keep-alive interval:3601", "-kacnt 101": "bad TCP keep-alive count:101",
	} {
		d := newDaemon("proxy", "host")
		require.NoError(t, d.opts.parse(strings.Fields(line)), line)
		require.NoError(t, d.checkCommon(), "without -ka: %s", line)
		require.NoError(t, d.opts.parse([]string{"-ka"}))
		assert.EqualError(t, d.checkCommon(), want, line)
	}
}

func TestWhatImagesAreKeptIn(t *testing.T) {
	for line, want := range map[string][2]string{
		"":                             {"", ""},
		"-store files":                 {"", ""},
		"-store lvm":                   {"vg", ""},
		"-store lvm -tp tp":            {"vg", "tp"},
		"-vg vg0":                      {"vg0", ""},
		"-vg vg0 -tp tp":               {"vg0", "tp"},
		"-store lvm -vg vg0":           {"vg0", ""},
		"-store files -vg vg0 -tp tp0": {"", ""},
	} {
		var d daemon
		o := d.addStore()
		require.NoError(t, d.opts.parse(strings.Fields(line)), line)
		require.NoError(t, o.check(), line)
		group, pool := o.groupAndPool()
		assert.Equal(t, want, [2]string{group, pool}, line)
		assert.Equal(t, line == "-store files -vg vg0 -tp tp0", len(o.warnings()) > 0, line)
	}
}
