package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"time"

	"walbsh/walbcore/archive"
	"walbsh/walbcore/block"
	"walbsh/walbcore/compress"
	"walbsh/walbcore/proxy"
	"walbsh/walbcore/server"
	"walbsh/walbcore/storage"
	"walbsh/walbcore/transfer"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wdev"
	"walbsh/walbcore/wdiff"
	"walbsh/walbcore/wire"
)

// delays are the options of repeated transfers, of storages and proxies.
type delays struct{ first, longest *uint64 }

func (d *daemon) addDelays() delays {
	return delays{
		first:   d.opts.seconds("delay", 1, "before a failed transfer is tried again; doubles each time"),
		longest: d.opts.seconds("maxdelay", 300, "longest delay"),
	}
}

func (d delays) warnings() []string {
	if *d.first > *d.longest {
		return []string{fmt.Sprintf("delay %d is more than maxdelay %d, which is raised to it", *d.first, *d.longest)}
	}
	return nil
}

func (d delays) durations() (first, longest time.Duration) {
	return atOnce(*d.first), atOnce(max(*d.first, *d.longest))
}

// atOnce converts seconds. The servers take 0 for their default, so that none
// at all becomes as good as none.
func atOnce(seconds uint64) time.Duration {
	return max(time.Duration(seconds)*time.Second, time.Millisecond)
}

// compression is an option TYPE:LEVEL:CPUS.
func (d *daemon) compression() *compress.Opt {
	v := compress.Opt{Type: compress.Snappy, CPUs: 1}
	d.opts.add(&option{
		name: "sync-cmpr", value: "T:L:C", meaning: "compression of full transfers", text: v.String(),
		take: func(word string) (err error) {
			v, err = compress.ParseOpt(word)
			return err
		},
	})
	return &v
}

func storageDaemon(hostname string) *daemon {
	d := &daemon{kind: "storage", title: "StorageServer"}
	d.addCommon(hostname)
	archiveAddr := d.opts.must("archive", "HOST:PORT", "archive for backups")
	proxyAddrs := d.opts.must("proxy", "HOST:PORT,...", "proxies, the preferred one first")
	workers := d.opts.count("bg", "N", storage.DefaultWorkers, "background transfers at a time")
	maxLog := d.opts.count("wl", "MiB", storage.DefaultMaxWlogMB, "log in one transfer")
	snapshots := d.opts.seconds("snapintvl", 10, "between snapshots that the server takes by itself")
	delays := d.addDelays()
	fullScan := d.opts.number("fst", "BYTES/S", 0, 1<<62, "limit of full scans; 0 is none")
	tsDelta := d.opts.seconds("tsdintvl", 60, "between questions to the archive where it is with the volumes")
	cmpr := d.compression()
	devices := d.opts.text("wdev", "DIR", "", "directory of walb devices; see walbsh wdev")
	onFull := d.opts.text("onfull", "W", "overflow", "overflow or block: what writers do when the log is full")
	volumeIO := d.opts.flag("volume-io", "let every client read and write the volumes over TCP")

	d.check = func() error {
		if *onFull != "overflow" && *onFull != "block" {
			return fmt.Errorf("bad -onfull:%s: expected overflow or block", *onFull)
		}
		return notZero(named{"maxConnections", *d.maxConn}, named{"maxForegroundTasks", *d.fg},
			named{"maxBackgroundTasks", *workers}, named{"maxWlogSendMb", *maxLog}, named{"implicitSnapshotIntervalSec", *snapshots}, named{"tsDeltaGetterIntervalSec", *tsDelta})
	}
	d.warnings = func() []string {
		list := delays.warnings()
		if *devices == "" {
			list = append(list, "no device is known here: start with -wdev DIR, in which walbsh wdev create makes them")
		}
		if *volumeIO {
			list = append(list, "-volume-io: whoever reaches the port can read and write the volumes")
		}
		return list
	}
	d.make = func(l net.Listener, log *slog.Logger) (serving, func() error, error) {
		c := storage.Config{
			BaseDir: *d.base, NodeID: *d.id, Listener: l,
			Workers: int(*workers), MaxWlogMB: *maxLog, SnapshotInterval: time.Duration(*snapshots) * time.Second,
			TsDeltaInterval:  time.Duration(*tsDelta) * time.Second,
			FullScanLBPerSec: block.LB(*fullScan / block.Size), Compress: *cmpr, VolumeIO: *volumeIO,
			MaxConn: int(*d.maxConn), MaxForeground: int(*d.fg), Wire: d.socket(), Version: versionLine(), Log: log,
		}
		c.Delay, c.MaxDelay = delays.durations()
		var err error
		if c.Archive, err = wire.ParseAddr(*archiveAddr); err != nil {
			return nil, nil, err
		}
		for word := range strings.SplitSeq(*proxyAddrs, ",") {
			addr, err := wire.ParseAddr(word)
			if err != nil {
				return nil, nil, err
			}
			c.Proxies = append(c.Proxies, addr)
		}
		dir, release, err := openDevices(*devices, *onFull, log)
		if err != nil {
			return nil, nil, err
		}
		c.Devices = dir
		s, err := storage.New(c)
		if err != nil {
			return nil, nil, errors.Join(err, release())
		}
		return s, release, nil
	}
	return d
}

// openDevices opens the directory of devices of a storage.
func openDevices(path, onFull string, log *slog.Logger) (storage.Devices, func() error, error) {
	if path == "" {
		return noDevices{}, func() error { return nil }, nil
	}
	o := wdev.Options{Logger: log}
	if onFull == "block" {
		o.OnFull = wdev.Block
	}
	dir, err := wdev.OpenDir(path, o)
	if err != nil {
		return nil, nil, err
	}
	return dir, dir.Close, nil
}

// noDevices is what a storage without -wdev has.
type noDevices struct{}

// Lookup finds nothing.
func (noDevices) Lookup(path string) (wdev.Device, error) {
	return nil, &walberr.Error{Op: "open device", Code: walberr.NotFound, Found: "no device " + path}
}

func proxyDaemon(hostname string) *daemon {
	d := &daemon{kind: "proxy", title: "ProxyServer"}
	d.addCommon(hostname)
	stopped := d.opts.flag("stop", "do not start the volumes")
	workers := d.opts.count("bg", "N", proxy.DefaultSendWorkers, "background transfers at a time")
	maxData := d.opts.count("wd", "MiB", proxy.DefaultMaxSendMiB, "diffs in one transfer")
	maxFiles := d.opts.count("wn", "N", proxy.DefaultMaxSendFiles, "diff files in one transfer")
	delays := d.addDelays()
	retry := d.opts.seconds("rto", uint64(proxy.DefaultRetryTimeout/time.Second), "how long a refused transfer is repeated")

	d.check = func() error {
		return notZero(named{"maxConnections", *d.maxConn}, named{"maxForegroundtasks", *d.fg},
			named{"maxBackgroundtasks", *workers}, named{"maxWdiffSendMb", *maxData}, named{"maxWdiffSendNr", *maxFiles})
	}
	d.warnings = delays.warnings
	d.make = func(l net.Listener, log *slog.Logger) (serving, func() error, error) {
		c := proxy.Config{
			Server: server.Config{
				NodeID: *d.id, Version: versionLine(), MaxConn: int(*d.maxConn), MaxForeground: int(*d.fg),
				Wire: d.socket(), Log: log,
			},
			Base: *d.base, Stopped: *stopped, MaxSendMiB: *maxData, MaxSendFiles: int(*maxFiles),
			SendWorkers: int(*workers), RetryTimeout: atOnce(*retry),
		}
		c.RetryDelay, c.MaxRetryDelay = delays.durations()
		s, err := proxy.New(l, c)
		if err != nil {
			return nil, nil, err
		}
		return s, func() error { return nil }, nil
	}
	return d
}

func archiveDaemon(hostname string) *daemon {
	d := &daemon{kind: "archive", title: "ArchiveServer"}
	d.addCommon(hostname)
	maxFiles := d.opts.count("wn", "N", archive.DefaultMaxFiles, "diff files in one round of a replication")
	discard := wdiff.DiscardIgnore
	d.opts.add(&option{
		name: "discard", value: "W", meaning: "ignore, passdown or zero: what discards do to images", text: discard.String(),
		take: func(word string) (err error) {
			discard, err = wdiff.ParseDiscardMode(word)
			return err
		},
	})
	syncEvery := d.opts.number("fi", "BYTES", uint64(transfer.DefaultSyncInterval), 1<<62, "written bytes between two checkpoints of a full transfer")
	autoResize := d.opts.flag("autoresize", "grow the base image when a larger volume comes")
	cmpr := d.compression()
	store := d.addStore()
	keepOneCold := d.opts.flag("keep-one-cold-snap", "keep one cold snapshot only; none are made")
	maxOpen := d.opts.number("maxopen", "N", 0, math.MaxInt32, "diffs opened together to apply, restore or merge; 0 is 256")
	maxOpenVirt := d.opts.number("maxopen-virt", "N", 0, math.MaxInt32, "diffs that a scan of a snapshot may need; 0 is no limit")
	sleepPct := d.opts.number("apply-sleep-pct", "N", 0, math.MaxInt32, "percentage of the time in which an apply rests, 0 to 99")
	nbdAddr := d.opts.text("nbd", "ADDR", "", "HOST:PORT or unix:PATH of exported snapshots; default nbd.sock in the base directory")
	d.opts.ignored("lock-time-th", "SEC", "10")

	d.check = func() error {
		if err := store.check(); err != nil {
			return err
		}
		if *sleepPct > 99 {
			return fmt.Errorf("pctApplySleep must be within from 0 to 99.:%d", *sleepPct)
		}
		return notZero(named{"maxConnections", *d.maxConn}, named{"maxForegroundTasks", *d.fg},
			named{"maxWdiffSendNr", *maxFiles}, named{"fsyncIntervalSize", *syncEvery})
	}
	d.warnings = func() []string {
		list := store.warnings()
		if *nbdAddr != "" && !strings.HasPrefix(*nbdAddr, "unix:") {
			list = append(list, "-nbd: whoever reaches "+*nbdAddr+" can read the exported snapshots")
		}
		if discard == wdiff.DiscardIgnore {
			list = append(list, "-discard ignore: restored images keep old data in discarded ranges; -discard zero makes them equal to the volume")
		}
		return list
	}
	d.make = func(l net.Listener, log *slog.Logger) (serving, func() error, error) {
		group, pool := store.groupAndPool()
		s, err := archive.New(archive.Config{
			BaseDir: *d.base, NodeID: *d.id, Listener: l, VolumeGroup: group, ThinPool: pool, Discard: discard, MaxFiles: int(*maxFiles),
			SyncInterval: int64(*syncEvery), AutoResize: *autoResize, Compress: *cmpr,
			MaxOpen: int(*maxOpen), MaxOpenVirt: int(*maxOpenVirt), ApplySleepPct: int(*sleepPct), KeepOneCold: *keepOneCold, NBD: *nbdAddr,
			MaxConn: int(*d.maxConn), MaxForeground: int(*d.fg), Wire: d.socket(), Version: versionLine(), Log: log,
		})
		if err != nil {
			return nil, nil, err
		}
		return s, func() error { return nil }, nil
	}
	return d
}
