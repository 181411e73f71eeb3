package client

import (
	"strings"

	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// refusals maps words of the servers to codes; the first match decides.
var refusals = []struct {
	words string
	code  walberr.Code
}{
	{"findServerHandler:bad protocol:", walberr.Usage},
	{"exceeds max foreground tasks", walberr.Unavailable},
	{"Not enough available disk space", walberr.Unavailable},
	{"verifyStopState:", walberr.Stopped},
	{"already under stopping", walberr.Stopped},
	{"force stopped", walberr.Stopped},
	{"there are running action:", walberr.Conflict},
	{"tryChange:already called", walberr.Conflict},
	{"already used", walberr.Conflict},
	{"already exists", walberr.Conflict},
	{"already restored", walberr.Conflict},
	{"is already used", walberr.Conflict},
	{"is exported", walberr.BadState},
	{"bad state:", walberr.BadState},
	{"not Stopped state", walberr.BadState},
	{"overflow", walberr.BadState},
	{"resync is required but not allowed", walberr.DifferentUUID},
	{"bad gid to restore", walberr.NotFound},
	{"gid not applicable", walberr.NotFound},
	{"no mergeable diff", walberr.NotFound},
	{"change snapshot failed", walberr.NotFound},
	{"can not be materialized", walberr.NotFound},
	{"must exist", walberr.NotFound},
	{"is not permitted because the volume is under applying", walberr.BadState},
	{"tried to shrink", walberr.Range},
	{"size is too large", walberr.Range},
	{"must be within", walberr.Range},
	{"bad input string", walberr.Usage},
	{"not found", walberr.NotFound},
	{"not exist", walberr.NotFound},
	{"could not get latest snapshot", walberr.NotFound},
	{"bad archive name", walberr.NotFound},
	{"open failed", walberr.NotFound},
	{"Connection refused", walberr.Unreachable},
	{"connect:", walberr.Unreachable},
	{"SocketAddr:set:", walberr.Unreachable},
	{"stream:read", walberr.Unreachable},
	{"Resource temporarily unavailable", walberr.Timeout},
	{"timeout", walberr.Timeout},
	{"too small size", walberr.Range},
	{"too large size", walberr.Range},
	{"bad gid range", walberr.Range},
	{"missing required params", walberr.Usage},
	{"required parameter is empty", walberr.Usage},
	{"bad size:", walberr.Usage},
	{"empty string:", walberr.Usage},
	{"bad s format", walberr.Usage},
	{"bad volId format", walberr.Usage},
	{"bad name:", walberr.Usage},
	{"no such ", walberr.Usage},
	{"convertToUint:", walberr.Usage},
	{"is not allowed", walberr.Usage},
	{"::verify:", walberr.Usage},
	{"parse", walberr.Usage},
}

// Classify gives the code that fits the words of a refusal best. Words that
// say nothing known are Unavailable: the server answers but will not do it.
func Classify(text string) walberr.Code {
	switch text {
	case wire.TooOldDiff:
		return walberr.TooOldDiff
	case wire.TooNewDiff:
		return walberr.TooNewDiff
	case wire.DifferentUUID:
		return walberr.DifferentUUID
	case wire.StoppedWord:
		return walberr.Stopped
	case wire.WdiffRecvWord, wire.SyncingWord:
		return walberr.Conflict
	case wire.ArchiveNotFound:
		return walberr.NotFound
	case wire.SmallerLvSize:
		return walberr.BadState
	}
	for _, r := range refusals {
		if strings.Contains(text, r.words) {
			return r.code
		}
	}
	return walberr.Unavailable
}

// hintFor says what to do about a refusal, "" where its words say enough.
func hintFor(text string) string {
	switch {
	case isBadProtocol(text):
		return "this server does not have the command: it is of another kind, or an original"
	case strings.Contains(text, "exceeds max foreground tasks"):
		return "wait until a running task has ended, or start the server with a larger -fg"
	case strings.Contains(text, "verifyStopState:"), strings.Contains(text, "already under stopping"):
		return "a stop is under way: wait until it has ended"
	case strings.HasSuffix(text, " is exported"):
		return "end the export: walbc.unexport_snapshot, or walbsh export --end; walbsh export --list shows all"
	case strings.Contains(text, "there are running action:"), strings.Contains(text, "tryChange:already called"):
		return "something else runs on the volume: wait until it has ended"
	}
	return ""
}

// isBadProtocol reports whether the server does not know the command.
func isBadProtocol(text string) bool {
	return strings.HasPrefix(text, "findServerHandler:bad protocol:")
}
