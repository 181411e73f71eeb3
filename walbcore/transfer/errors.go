package transfer

import "walbsh/walbcore/walberr"

func errResync(why string) error {
	return &walberr.Error{
		Op: "replicate", Code: walberr.DifferentUUID,
		Found:    "the destination's image is of another lineage than the source's; " + why,
		Expected: "the same lineage, or an empty volume",
		Hint:     "reset the volume at the destination (stop, reset-vol), then replicate again",
	}
}

func errNotYet(role string) error {
	return &walberr.Error{Op: role, Code: walberr.Internal, Found: "the role is not built yet"}
}
