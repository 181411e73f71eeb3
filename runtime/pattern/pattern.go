// Package pattern matches Lua 5.1 patterns with a bound on the work done.
//
// A Lua pattern backtracks, so a short pattern over a long subject can run
// for hours. Here every step is counted: a search ends with [ErrTooComplex]
// after [MaxSteps] steps and [StepsPerByte] more for each byte of the subject,
// and with the context's cause soon after the context is cancelled.
//
// What may come in: any byte string as pattern and as subject; no character
// set is assumed. A pattern is compiled first, so that a malformed one is
// refused even where the matcher would never reach the fault.
//
// The language is that of the Lua 5.1 reference manual, section 5.4.1, with
// the frontier item %f[set] that the manual leaves out:
//
//	x  .  %a %c %d %l %p %s %u %w %x %z (upper case: complement)  [set]  [^set]
//	item*  item+  item-  item?   %1..%9   %bxy   %f[set]   (captures)   ()   ^  $
package pattern

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

const (
	// MaxSteps bounds the work of one search on a short subject.
	MaxSteps = 4_000_000
	// StepsPerByte is added to the bound for each byte of the subject, so that
	// a linear search always ends.
	StepsPerByte = 64
	// MaxCaptures is the greatest number of captures in a pattern.
	MaxCaptures = 32

	maxDepth  = 2000 // nested attempts: one for each item that can backtrack
	pollSteps = 4096 // steps between two looks at the context
)

// ErrTooComplex says that a search was given up after too many steps or that
// its pattern nests too deeply.
var ErrTooComplex = errors.New("pattern too complex for this subject")

// Capture is one captured part of the subject, in byte offsets from 0.
type Capture struct {
	Start, End int
	Position   bool // written as (): the value is the position, Start
}

// Match is where a pattern matched, in byte offsets from 0.
type Match struct {
	Start, End int
	Captures   []Capture
}

type kind byte

const (
	single   kind = iota // one byte out of a set, with a repeat
	open                 // "("
	closing              // ")"
	position             // "()"
	backref              // "%1"
	balance              // "%bxy"
	frontier             // "%f[set]"
	end                  // "$" as the last item
)

type item struct {
	kind   kind
	set    set  // single, frontier
	repeat byte // single: 0, '*', '+', '-' or '?'
	a, b   byte // balance: the two delimiters
	n      int  // open, position, closing: capture number from 0; backref: the same
}

type set [4]uint64

func (s *set) add(b byte)      { s[b>>6] |= 1 << (b & 63) }
func (s *set) has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }
func (s *set) join(o set) {
	for i := range s {
		s[i] |= o[i]
	}
}

func (s *set) invert() {
	for i := range s {
		s[i] = ^s[i]
	}
}

// Pattern is a compiled pattern. It is read-only and may be shared.
type Pattern struct {
	items    []item
	anchored bool
	captures int
}

// Anchored reports whether the pattern begins with "^".
func (p *Pattern) Anchored() bool { return p.anchored }

// Compile reads a pattern. The error says what is malformed.
func Compile(text string) (*Pattern, error) {
	p := &Pattern{}
	i := 0
	if text != "" && text[0] == '^' {
		p.anchored, i = true, 1
	}
	var opened []int
	for i < len(text) {
		switch c := text[i]; {
		case c == '(':
			if p.captures == MaxCaptures {
				return nil, errors.New("too many captures")
			}
			if i+1 < len(text) && text[i+1] == ')' {
				p.items = append(p.items, item{kind: position, n: p.captures})
				i++
			} else {
				p.items = append(p.items, item{kind: open, n: p.captures})
				opened = append(opened, p.captures)
			}
			p.captures++
			i++
		case c == ')':
			if len(opened) == 0 {
				return nil, errors.New("invalid pattern capture")
			}
			p.items = append(p.items, item{kind: closing, n: opened[len(opened)-1]})
			opened = opened[:len(opened)-1]
			i++
		case c == '$' && i+1 == len(text):
			p.items = append(p.items, item{kind: end})
			i++
		case c == '%' && i+1 < len(text) && text[i+1] == 'b':
			if i+3 >= len(text) {
				return nil, errors.New("unbalanced pattern: %b wants two characters")
			}
			p.items = append(p.items, item{kind: balance, a: text[i+2], b: text[i+3]})
			i += 4
		case c == '%' && i+1 < len(text) && text[i+1] == 'f':
			if i+2 >= len(text) || text[i+2] != '[' {
				return nil, errors.New("missing '[' after '%f' in pattern")
			}
			s, next, err := class(text, i+2)
			if err != nil {
				return nil, err
			}
			p.items = append(p.items, item{kind: frontier, set: s})
			i = next
		case c == '%' && i+1 < len(text) && '0' <= text[i+1] && text[i+1] <= '9':
			n := int(text[i+1]) - '1'
			if n < 0 || n >= p.captures || slices.Contains(opened, n) {
				return nil, fmt.Errorf("invalid capture index %%%c", text[i+1])
			}
			p.items = append(p.items, item{kind: backref, n: n})
			i += 2
		default:
			s, next, err := class(text, i)
			if err != nil {
				return nil, err
			}
			it := item{kind: single, set: s}
			if next < len(text) {
				switch r := text[next]; r {
				case '*', '+', '-', '?':
					it.repeat = r
					next++
				}
			}
			p.items = append(p.items, it)
			i = next
		}
	}
	if len(opened) > 0 {
		return nil, errors.New("unfinished capture")
	}
	return p, nil
}

// class reads the single-character class at text[i] and gives the offset
// behind it.
func class(text string, i int) (s set, next int, err error) {
	switch text[i] {
	case '.':
		s.invert()
		return s, i + 1, nil
	case '%':
		if i+1 == len(text) {
			return s, 0, errors.New("malformed pattern (ends with '%')")
		}
		return escaped(text[i+1]), i + 2, nil
	case '[':
		return bracket(text, i)
	}
	s.add(text[i])
	return s, i + 1, nil
}

// bracket reads the [set] that begins at text[i]. A "]" right after the
// opening is a member.
func bracket(text string, i int) (s set, next int, err error) {
	i++
	negated := i < len(text) && text[i] == '^'
	if negated {
		i++
	}
	for first := true; ; first = false {
		switch {
		case i >= len(text):
			return s, 0, errors.New("malformed pattern (missing ']')")
		case text[i] == ']' && !first:
			if negated {
				s.invert()
			}
			return s, i + 1, nil
		case text[i] == '%':
			if i+1 >= len(text) {
				return s, 0, errors.New("malformed pattern (ends with '%')")
			}
			s.join(escaped(text[i+1]))
			i += 2
		case i+2 < len(text) && text[i+1] == '-' && text[i+2] != ']':
			for b := int(text[i]); b <= int(text[i+2]); b++ {
				s.add(byte(b))
			}
			i += 3
		default:
			s.add(text[i])
			i++
		}
	}
}

// escaped is the class of the character behind a "%".
func escaped(c byte) (s set) {
	member := classes(c | 0x20)
	if letter := 'a' <= c|0x20 && c|0x20 <= 'z'; !letter || member == nil {
		s.add(c)
		return s
	}
	for b := range 256 {
		if member(byte(b)) {
			s.add(byte(b))
		}
	}
	if c < 'a' {
		s.invert()
	}
	return s
}

// classes gives the membership test of a class letter in the C locale, nil
// where the letter names no class.
func classes(letter byte) func(byte) bool {
	lower := func(b byte) bool { return 'a' <= b && b <= 'z' }
	upper := func(b byte) bool { return 'A' <= b && b <= 'Z' }
	digit := func(b byte) bool { return '0' <= b && b <= '9' }
	switch letter {
	case 'a':
		return func(b byte) bool { return lower(b) || upper(b) }
	case 'c':
		return func(b byte) bool { return b < 32 || b == 127 }
	case 'd':
		return digit
	case 'l':
		return lower
	case 'p':
		return func(b byte) bool { return 32 < b && b < 127 && !lower(b) && !upper(b) && !digit(b) }
	case 's':
		return func(b byte) bool { return b == ' ' || 9 <= b && b <= 13 }
	case 'u':
		return upper
	case 'w':
		return func(b byte) bool { return lower(b) || upper(b) || digit(b) }
	case 'x':
		return func(b byte) bool { return digit(b) || 'a' <= b|0x20 && b|0x20 <= 'f' && b >= 'A' }
	case 'z':
		return func(b byte) bool { return b == 0 }
	}
	return nil
}

// Find searches subject for the first match that begins at or behind the
// offset from (at it, for an anchored pattern). ok is false where there is
// none. The error is [ErrTooComplex] or the cause of a cancelled ctx.
func (p *Pattern) Find(ctx context.Context, subject string, from int) (m Match, ok bool, err error) {
	r := run{ctx: ctx, p: p, s: subject, limit: MaxSteps + StepsPerByte*len(subject)}
	for at := from; at <= len(subject); at++ {
		stop := r.match(at, 0, 0)
		if r.err != nil {
			return Match{}, false, r.err
		}
		if stop >= 0 {
			caps := make([]Capture, p.captures)
			copy(caps, r.caps[:p.captures])
			return Match{Start: at, End: stop, Captures: caps}, true, nil
		}
		if p.anchored {
			break
		}
	}
	return Match{}, false, nil
}

// run is one search. Once err is set every attempt fails.
type run struct {
	ctx   context.Context //nolint:containedctx // a run lives as long as one call of Find
	p     *Pattern
	s     string
	caps  [MaxCaptures]Capture
	steps int
	limit int
	err   error
}

// step counts n steps and reports whether the search may go on.
func (r *run) step(n int) bool {
	if r.err != nil {
		return false
	}
	before := r.steps / pollSteps
	r.steps += n
	if r.steps > r.limit {
		r.err = ErrTooComplex
	} else if r.steps/pollSteps != before && r.ctx.Err() != nil {
		r.err = context.Cause(r.ctx)
	}
	return r.err == nil
}

// match tries the items from pi on at the offset si. It gives the offset
// behind the match, or -1.
func (r *run) match(si, pi, depth int) int {
	if depth > maxDepth {
		r.err = ErrTooComplex
	}
	for ; pi < len(r.p.items); pi++ {
		if !r.step(1) {
			return -1
		}
		it := &r.p.items[pi]
		switch it.kind {
		case open:
			r.caps[it.n] = Capture{Start: si}
		case position:
			r.caps[it.n] = Capture{Start: si, End: si, Position: true}
		case closing:
			// An attempt further on may set this capture anew and fail, and a
			// shorter repeat before it then sets it once more: no undo needed.
			r.caps[it.n].End = si
		case end:
			if si != len(r.s) {
				return -1
			}
		case frontier:
			var before, here byte
			if si > 0 {
				before = r.s[si-1]
			}
			if si < len(r.s) {
				here = r.s[si]
			}
			if it.set.has(before) || !it.set.has(here) {
				return -1
			}
		case backref:
			c := r.caps[it.n]
			word := r.s[c.Start:c.End]
			if !r.step(len(word)) || len(r.s)-si < len(word) || r.s[si:si+len(word)] != word {
				return -1
			}
			si += len(word)
		case balance:
			if si = r.balanced(si, it.a, it.b); si < 0 {
				return -1
			}
		case single:
			switch it.repeat {
			case 0:
				if si >= len(r.s) || !it.set.has(r.s[si]) {
					return -1
				}
				si++
			case '?':
				if si < len(r.s) && it.set.has(r.s[si]) {
					if stop := r.match(si+1, pi+1, depth+1); stop >= 0 || r.err != nil {
						return stop
					}
				}
			case '-':
				return r.shortest(it, si, pi, depth)
			default:
				return r.longest(it, si, pi, depth)
			}
		}
	}
	return si
}

func (r *run) longest(it *item, si, pi, depth int) int {
	n := 0
	for si+n < len(r.s) && it.set.has(r.s[si+n]) {
		n++
	}
	if !r.step(n) {
		return -1
	}
	least := 0
	if it.repeat == '+' {
		least = 1
	}
	for ; n >= least; n-- {
		if stop := r.match(si+n, pi+1, depth+1); stop >= 0 || !r.step(1) {
			return stop
		}
	}
	return -1
}

func (r *run) shortest(it *item, si, pi, depth int) int {
	for {
		if stop := r.match(si, pi+1, depth+1); stop >= 0 || !r.step(1) {
			return stop
		}
		if si >= len(r.s) || !it.set.has(r.s[si]) {
			return -1
		}
		si++
	}
}

// balanced gives the offset behind the balanced a...b that begins at si.
func (r *run) balanced(si int, a, b byte) int {
	if si >= len(r.s) || r.s[si] != a {
		return -1
	}
	nesting := 1
	for i := si + 1; i < len(r.s); i++ {
		if !r.step(1) {
			return -1
		}
		switch r.s[i] {
		case b:
			if nesting--; nesting == 0 {
				return i + 1
			}
		case a:
			nesting++
		}
	}
	return -1
}
