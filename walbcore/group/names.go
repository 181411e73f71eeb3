package group

import (
	"slices"
	"strings"
)

// nearHint suggests what a mistyped name may have meant: the nearest of the
// names that there are, or all of them when none is near.
func nearHint(name string, names []string) string {
	if len(names) == 0 {
		return "there is none"
	}
	best, bestDistance := "", len(name)/2+1
	for _, n := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = n, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	const shown = 10
	if len(names) == 1 {
		return "there is only " + names[0]
	}
	slices.Sort(names)
	if len(names) > shown {
		return "there are " + strings.Join(names[:shown], " ") + " and more"
	}
	return "there are " + strings.Join(names, " ")
}

// distance counts the single-character changes between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
