// Package embed runs a whole backup group in this process: the storage s0, the
// proxy p0 and the archives a0 and a1. They are the servers that `walbsh serve`
// runs, with the same files, and they talk over TCP on 127.0.0.1; nothing is
// short-circuited.
//
// # Directory of a group
//
//	lock          flock'ed while the group runs
//	group.json    ids, ports and sizes; see below
//	layout.lua    the layout, for a second terminal; see below
//	wdev/         the devices of s0: NAME/log and NAME/data (package wdev)
//	s0/ p0/       base directories of the servers
//	a0/ a1/
//	s0.log ...    what the servers log, one file each
//	wdev.log      what the devices log
//
// group.json, written by the first opening:
//
//	{
//	  "version": 1,
//	  "volume": "vol",          // name of the volume and of its device
//	  "size": 67108864,         // of the volume [bytes]
//	  "log_size": 16777216,     // of the device's log file [bytes]
//	  "ready": true,            // the volume has been backed up once
//	  "ports": {"a0": 23456, "a1": 21098, "p0": 30123, "s0": 27654}
//	}
//
// Ports are kept because the proxy has the addresses of archives on disk. They
// lie below the range from which the system takes ports for outgoing
// connections, so that they are likely to be free when the group is opened
// again. All are bound before any server starts.
//
// layout.lua gives one table:
//
//	return {
//	  volume = "vol",
//	  storages = {
//	    { name = "s0", host = "127.0.0.1", port = 27654, dir = "/path/s0" },
//	  },
//	  proxies = { ... },
//	  archives = { ... },   -- the first one is the primary
//	}
//
// # How it differs from `walbsh serve`
//
// The device makes writers wait when its log is full, the archives make
// discarded blocks zero, the storage takes a snapshot a second and lets clients
// use its volumes (walbsh-volume-io). Everything else has the defaults.
//
// What may come in: the three servers, the device, group for the first full
// backup. No Lua, no terminal.
package embed
