package fsm

import (
	"fmt"
	"slices"

	"walbsh/walbcore/walberr"
)

func nameOf[S ~uint8](names []string, s S) string {
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

func parseName[S ~uint8](names []string, name string) (S, error) {
	i := slices.Index(names, name)
	if i < 0 {
		return 0, errorf(walberr.Usage, "bad state:%s", name)
	}
	return S(i), nil
}
