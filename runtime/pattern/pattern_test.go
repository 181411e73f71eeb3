package pattern

import (
	"context"
	"errors"
	"math/rand"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/yuin/gopher-lua/pm"
)

// find is Find on a fresh pattern, as "start-end captures", "-" for no match.
func find(t *testing.T, text, subject string) string {
	t.Helper()
	p, err := Compile(text)
	require.NoError(t, err, text)
	m, ok, err := p.Find(t.Context(), subject, 0)
	require.NoError(t, err, text)
	if !ok {
		return "-"
	}
	s := subject[m.Start:m.End]
	for _, c := range m.Captures {
		s += "|" + subject[c.Start:c.End]
	}
	return s
}

func TestFind(t *testing.T) {
	for _, c := range []struct{ pattern, subject, want string }{
		{"", "abc", ""},
		{"b", "abc", "b"},
		{"a.c", "xabcx", "abc"},
		{"^b", "abc", "-"},
		{"c$", "abc", "c"},
		{"a$b", "a$b", "a$b"},
		{"a^b", "a^b", "a^b"},
		{"%d+", "ab123c", "123"},
		{"%D+", "12ab3", "ab"},
		{"[a-c]+", "xxabcd", "abc"},
		{"[^a-c]+", "abxyc", "xy"},
		{"[]]", "a]", "]"},
		{"[^]]", "]a", "a"},
		{"[a-]+", "b-a-b", "-a-"},
		{"[%]x]+", "a]x", "]x"},
		{"[%a_][%w_]*", "9 _a9", "_a9"},
		{"a*", "baaa", ""},
		{"a+", "baaa", "aaa"},
		{"a-b", "aaab", "aaab"},
		{"ab?c", "ac abc", "ac"},
		{"(a*)b", "aaab", "aaab|aaa"},
		{"((a)(b))", "ab", "ab|ab|a|b"},
		{"(a)%1", "aba aa", "aa|a"},
		{"%b<>", "a<b<c>d>e", "<b<c>d>"},
		{"%bxx", "xaxb", "xax"},
		{"%b()", "((x)", "(x)"},
		{"%f[%w]%w+", "--abc--", "abc"},
		{"%f[%z]", "abc", ""},
		{"%z", "a\x00b", "\x00"},
		{"%x+", "xyzBEEFg", "BEEF"},
		{"%p", "a,b", ","},
		{"%c", "a\tb", "\t"},
		{"%S+", "  ab ", "ab"},
		{"%%", "5%", "%"},
		{"%.", "a.b", "."},
		{"\xff", "\xfe\xff", "\xff"},
		{"()b", "ab", "b|"},
		{"(.)(.*)(.)", "abcd", "abcd|a|bc|d"},
		{"(a?)(a?)(a)", "aa", "aa|a||a"},
		{"a.-b.-c", "axbxbxc", "axbxbxc"},
	} {
		assert.Equal(t, c.want, find(t, c.pattern, c.subject), "%q in %q", c.pattern, c.subject)
	}
}

func TestMalformed(t *testing.T) {
	for text, want := range map[string]string{
		"[a":                     "missing ']'",
		"[":                      "missing ']'",
		"[]":                     "missing ']'",
		"[^":                     "missing ']'",
		"[a%":                    "ends with '%'",
		"%":                      "ends with '%'",
		"(a":                     "unfinished capture",
		"a)":                     "invalid pattern capture",
		"%1":                     "invalid capture index %1",
		"(%1)":                   "invalid capture index %1",
		"%0":                     "invalid capture index %0",
		"%b":                     "unbalanced pattern",
		"%ba":                    "unbalanced pattern",
		"%fa":                    "missing '['",
		strings.Repeat("()", 33): "too many captures",
	} {
		_, err := Compile(text)
		require.ErrorContains(t, err, want, "%q", text)
	}
}

func TestBounds(t *testing.T) {
	p, err := Compile(strings.Repeat("a*", 50) + "b")
	require.NoError(t, err)
	subject := strings.Repeat("a", 500)
	_, ok, err := p.Find(t.Context(), subject, 0)
	require.ErrorIs(t, err, ErrTooComplex)
	assert.False(t, ok)

	cause := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	_, _, err = p.Find(ctx, subject, 0)
	require.ErrorIs(t, err, cause)

	p, err = Compile(strings.Repeat("a?", 5000))
	require.NoError(t, err)
	_, _, err = p.Find(t.Context(), strings.Repeat("a", 5000), 0)
	require.ErrorIs(t, err, ErrTooComplex)

	// Ordinary work on a long subject stays far below the bound.
	p, err = Compile("%a+%s*=%s*%d+$")
	require.NoError(t, err)
	m, ok, err := p.Find(t.Context(), strings.Repeat("word; ", 1<<16)+"x = 12", 0)
	require.NoError(t, err)
	require.True(t, ok)
	assert.Equal(t, 6<<16, m.Start)
}

// TestAgainstOtherMatcher compares random patterns with the matcher that
// ships with the Lua library, on the items that both define alike.
func TestAgainstOtherMatcher(t *testing.T) {
	seed := rand.Int63()
	r := rand.New(rand.NewSource(seed))
	atoms := []string{"a", "b", ".", "%a", "[ab]", "[^a]", "a*", "b+", "a-", ".-", "b?", "(a)", "(b*)", "(.)", "[a-b]*", "%W"}
	subjects := []string{"a", "b", "c", " "}
	for range 4000 {
		var pat, subject strings.Builder
		if r.Intn(4) == 0 {
			pat.WriteByte('^')
		}
		for range 1 + r.Intn(5) {
			pat.WriteString(atoms[r.Intn(len(atoms))])
		}
		if r.Intn(4) == 0 {
			pat.WriteByte('$')
		}
		for range r.Intn(9) {
			subject.WriteString(subjects[r.Intn(len(subjects))])
		}
		want := "-"
		other, err := pm.Find(pat.String(), []byte(subject.String()), 0, 1)
		require.NoError(t, err)
		if len(other) == 1 {
			m := other[0]
			want = subject.String()[m.Capture(0):m.Capture(1)]
			for i := 2; i < m.CaptureLength(); i += 2 {
				want += "|" + subject.String()[m.Capture(i):m.Capture(i+1)]
			}
		}
		require.Equal(t, want, find(t, pat.String(), subject.String()), "seed %d: %q in %q", seed, pat.String(), subject.String())
	}
}

func FuzzFind(f *testing.F) {
	for _, s := range []string{"%b()", "(a*)%1", "[^%w-z]+$", "%f[%a]", "^(.-)%s*$", "()", "[]", "%"} {
		f.Add(s, "some (text) with aa")
	}
	f.Fuzz(func(t *testing.T, text, subject string) {
		p, err := Compile(text)
		if err != nil {
			return
		}
		m, ok, err := p.Find(t.Context(), subject, 0)
		if err != nil || !ok {
			return
		}
		assert.True(t, 0 <= m.Start && m.Start <= m.End && m.End <= len(subject))
		for _, c := range m.Captures {
			assert.True(t, m.Start <= c.Start && c.Start <= c.End && c.End <= m.End)
		}
	})
}
