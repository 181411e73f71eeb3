//go:build !race

package daemons

const raceEnabled = false
