package server

import (
	"slices"

	"walbsh/walbcore/walberr"
)

// ExactWords checks that a command got exactly n words and none of them is
// empty: "<name>:bad size:<n>:<got>", "<name>:empty string:<index>".
func ExactWords(name string, words []string, n int) error {
	if len(words) != n {
		return Refusef(walberr.Usage, "%s:bad size:%d:%d", name, n, len(words))
	}
	return NonEmptyWords(name, words)
}

// NonEmptyWords checks that no word is empty: "<name>:empty string:<index>".
func NonEmptyWords(name string, words []string) error {
	if i := slices.Index(words, ""); i >= 0 {
		return Refusef(walberr.Usage, "%s:empty string:%d", name, i)
	}
	return nil
}

// RequireWords checks that there are at least n words and that the first n
// are not empty: "missing required params: <got> <n>", "required parameter is
// empty: <index> <n>".
func RequireWords(words []string, n int) error {
	if len(words) < n {
		return Refusef(walberr.Usage, "missing required params: %d %d", len(words), n)
	}
	if i := slices.Index(words[:n], ""); i >= 0 {
		return Refusef(walberr.Usage, "required parameter is empty: %d %d", i, n)
	}
	return nil
}

// StopMode is the way a volume is stopped.
type StopMode int

// The modes. StopGraceful lets running work end; StopForce breaks it off;
// StopEmpty first sends everything queued (proxy only).
const (
	StopGraceful StopMode = iota
	StopForce
	StopEmpty
)

// ParseStopMode reads the second word of a stop command. Only its first letter
// counts, as in the original; no word, or another letter, is graceful.
func ParseStopMode(words []string) StopMode {
	if len(words) > 1 && words[1] != "" {
		switch words[1][0] {
		case 'f':
			return StopForce
		case 'e':
			return StopEmpty
		}
	}
	return StopGraceful
}
