package wire

import (
	"fmt"

	"walbsh/walbcore/walberr"
)

// MaxVolumeName is the longest volume name in bytes.
const MaxVolumeName = 64

// CheckVolumeName judges a volume name: 1 to 64 of 0-9 a-z A-Z and minus. The
// failure is an [*Error] with the original's words. A name is checked before
// it is used as part of a path.
func CheckVolumeName(name string) error {
	if name == "" || len(name) > MaxVolumeName {
		return badName(fmt.Sprintf("bad s format: size:%s:%d", name, len(name)), name)
	}
	for i := range len(name) {
		c := name[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' {
			continue
		}
		return badName("bad volId format: bad character:"+name+":"+name[i:i+1], name)
	}
	return nil
}

func badName(text, name string) *Error {
	return &Error{
		Text: text,
		Err: &walberr.Error{
			Op: "volume name", Code: walberr.Usage,
			Found:    fmt.Sprintf("%q", name),
			Expected: fmt.Sprintf("1 to %d of 0-9 a-z A-Z -", MaxVolumeName),
		},
	}
}
