package meta

import (
	"strconv"
	"time"

	"walbsh/walbcore/walberr"
)

// MaxTimestamp is the largest timestamp whose text form can be read back:
// 9999-12-31T23:59:59.
const MaxTimestamp = 253402300799

const (
	prettyLayout = "2006-01-02T15:04:05"
	stampLayout  = "20060102150405"
)

// FormatTime prints a timestamp as YYYY-MM-DDThh:mm:ss.
func FormatTime(ts uint64) string { return time.Unix(int64(ts), 0).UTC().Format(prettyLayout) }

// PrettyTime prints a timestamp as [FormatTime] does, but 0 as "---".
func PrettyTime(ts uint64) string {
	if ts == 0 {
		return "---"
	}
	return FormatTime(ts)
}

// ParseTime reads what [PrettyTime] prints.
func ParseTime(s string) (uint64, error) {
	if s == "---" {
		return 0, nil
	}
	t, err := time.Parse(prettyLayout, s)
	if err != nil || len(s) != len(prettyLayout) || t.Unix() < 0 {
		return 0, errorf(walberr.Usage, "invalid time string.")
	}
	return uint64(t.Unix()), nil
}

// FormatStamp prints a timestamp as the 14 digits YYYYMMDDhhmmss.
func FormatStamp(ts uint64) string { return time.Unix(int64(ts), 0).UTC().Format(stampLayout) }

// ParseStamp reads the 14 digits YYYYMMDDhhmmss. A day that its month does not
// have, and second 60, carry over into what follows. Times before 1970 are refused.
func ParseStamp(s string) (uint64, error) {
	if len(s) != len(stampLayout) {
		return 0, errorf(walberr.Usage, "invalid time string.")
	}
	if _, err := parseUint(s); err != nil {
		return 0, errorf(walberr.Usage, "invalid time string.")
	}
	fields := [...]struct {
		name       string
		begin, end int
		lo, hi     int
	}{
		{"year", 0, 4, 1900, 9999},
		{"mon", 4, 6, 1, 12},
		{"mday", 6, 8, 1, 31},
		{"hour", 8, 10, 0, 23},
		{"min", 10, 12, 0, 59},
		{"sec", 12, 14, 0, 60},
	}
	var v [len(fields)]int
	for i, f := range fields {
		v[i], _ = strconv.Atoi(s[f.begin:f.end]) // digits only, checked above
		if v[i] < f.lo || v[i] > f.hi {
			return 0, errorf(walberr.Usage, "%s must be between %d and %d.", f.name, f.lo, f.hi)
		}
	}
	t := time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC).Unix()
	if t < 0 || t > MaxTimestamp {
		return 0, errorf(walberr.Range, "invalid time string.")
	}
	return uint64(t), nil
}
