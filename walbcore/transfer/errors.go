package transfer

import (
	"fmt"

	"walbsh/walbcore/block"
	"walbsh/walbcore/walberr"
	"walbsh/walbcore/wire"
)

// refusal makes a refusal whose text goes to the peer word for word.
func refusal(code walberr.Code, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &wire.Error{Text: text, Err: &walberr.Error{Op: "request", Code: code, Found: text}}
}

// checkSize refuses a volume that has no block, which also keeps a size of 0
// from meaning that records are not checked against it.
func checkSize(where string, size block.LB) error {
	if size == 0 || !size.Valid() {
		return refusal(walberr.Range, "%s:bad sizeLb:%d", where, size)
	}
	return nil
}

// violation is the error about a peer that does not keep to the protocol.
func violation(op, found, expected string) error {
	return walberr.Corrupt(op, found, expected)
}

func errResync(why string) error {
	return &walberr.Error{
		Op: "replicate", Code: walberr.DifferentUUID,
		Found:    "the destination's image is of another lineage than the source's; " + why,
		Expected: "the same lineage, or an empty volume",
		Hint:     "reset the volume at the destination (stop, reset-vol), then replicate again",
	}
}
