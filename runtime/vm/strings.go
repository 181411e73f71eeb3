package vm

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/runtime/pattern"
)

// maxString bounds the results of string.rep and gsub, in bytes.
const maxString = 256 << 20

// replaceStrings puts bounded versions over the string functions that can run
// long or grow without limit, and a format that prints userdata.
func replaceStrings(L *lua.LState) {
	lib := L.GetGlobal(lua.StringLibName).(*lua.LTable)
	for name, fn := range map[string]func(*lua.LState) (int, error){
		"find":   func(L *lua.LState) (int, error) { return search(L, true) },
		"match":  func(L *lua.LState) (int, error) { return search(L, false) },
		"gmatch": gmatch,
		"gsub":   gsub,
		"rep":    repeat,
		"format": format,
	} {
		lib.RawSetString(name, L.NewFunction(positioned("string."+name, fn)))
	}
	lib.RawSetString("gfind", lib.RawGetString("gmatch"))
	lib.RawSetString("dump", lua.LNil)
}

// positioned raises errors as plain Lua strings with a position, as the
// functions it replaces do.
func positioned(name string, fn func(*lua.LState) (int, error)) lua.LGFunction {
	return func(L *lua.LState) int {
		n, err := fn(L)
		if err != nil {
			L.RaiseError("%s: %s", name, err)
		}
		return n
	}
}

// startOffset turns Lua's init argument into an offset within s.
func startOffset(init, length int) int {
	switch {
	case init < 0:
		init = max(length+init, 0)
	case init > 0:
		init--
	}
	return min(init, length)
}

func search(L *lua.LState, find bool) (int, error) {
	s, pat := L.CheckString(1), L.CheckString(2)
	from := startOffset(L.OptInt(3, 1), len(s))
	if find && (lua.LVAsBool(L.Get(4)) || !strings.ContainsAny(pat, "^$*+?.([%-")) {
		at := strings.Index(s[from:], pat)
		if at < 0 {
			L.Push(lua.LNil)
			return 1, nil
		}
		L.Push(lua.LNumber(from + at + 1))
		L.Push(lua.LNumber(from + at + len(pat)))
		return 2, nil
	}
	p, err := pattern.Compile(pat)
	if err != nil {
		return 0, err
	}
	m, ok, err := p.Find(L.Context(), s, from)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		L.Push(lua.LNil)
		return 1, nil
	case !find:
		return pushCaptures(L, s, m, true), nil
	}
	L.Push(lua.LNumber(m.Start + 1))
	L.Push(lua.LNumber(m.End))
	return 2 + pushCaptures(L, s, m, false), nil
}

// pushCaptures pushes the captures, or where there are none and whole is set,
// the whole match.
func pushCaptures(L *lua.LState, s string, m pattern.Match, whole bool) int {
	if len(m.Captures) == 0 && whole {
		L.Push(lua.LString(s[m.Start:m.End]))
		return 1
	}
	for _, c := range m.Captures {
		L.Push(capture(s, c))
	}
	return len(m.Captures)
}

func capture(s string, c pattern.Capture) lua.LValue {
	if c.Position {
		return lua.LNumber(c.Start + 1)
	}
	return lua.LString(s[c.Start:c.End])
}

func gmatch(L *lua.LState) (int, error) {
	s, pat := L.CheckString(1), L.CheckString(2)
	p, err := pattern.Compile(pat)
	if err != nil {
		return 0, err
	}
	at, ended := 0, false
	L.Push(L.NewFunction(positioned("string.gmatch", func(L *lua.LState) (int, error) {
		if ended || at > len(s) {
			return 0, nil
		}
		m, ok, err := p.Find(L.Context(), s, at)
		if err != nil || !ok {
			ended = true
			return 0, err
		}
		ended = p.Anchored()
		if at = m.End; m.End == m.Start {
			at++
		}
		return pushCaptures(L, s, m, true), nil
	})))
	return 1, nil
}

func gsub(L *lua.LState) (int, error) {
	s, pat := L.CheckString(1), L.CheckString(2)
	L.CheckTypes(3, lua.LTString, lua.LTNumber, lua.LTTable, lua.LTFunction)
	by := L.Get(3)
	limit := L.OptInt(4, len(s)+1)
	p, err := pattern.Compile(pat)
	if err != nil {
		return 0, err
	}
	var out strings.Builder
	copied, count := 0, 0
	for at := 0; at <= len(s) && count < limit; {
		m, ok, err := p.Find(L.Context(), s, at)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		count++
		text, err := replacement(L, s, m, by)
		if err != nil {
			return 0, err
		}
		out.WriteString(s[copied:m.Start])
		out.WriteString(text)
		if out.Len() > maxString {
			return 0, fmt.Errorf("the result exceeds %d bytes", maxString)
		}
		copied = m.End
		if at = m.End; m.End == m.Start {
			at++
		}
		if p.Anchored() {
			break
		}
	}
	out.WriteString(s[copied:])
	L.Push(lua.LString(out.String()))
	L.Push(lua.LNumber(count))
	return 2, nil
}

// replacement is what gsub puts in the place of one match.
func replacement(L *lua.LState, s string, m pattern.Match, by lua.LValue) (string, error) {
	original := s[m.Start:m.End]
	var value lua.LValue
	switch by := by.(type) {
	case *lua.LTable:
		key := lua.LValue(lua.LString(original))
		if len(m.Captures) > 0 {
			key = capture(s, m.Captures[0])
		}
		value = L.GetTable(by, key)
	case *lua.LFunction:
		L.Push(by)
		n := pushCaptures(L, s, m, true)
		L.Call(n, 1)
		value = L.Get(-1)
		L.Pop(1)
	default:
		return expand(s, m, by.String())
	}
	switch value := value.(type) {
	case lua.LString, lua.LNumber:
		return value.String(), nil
	case *lua.LNilType:
		return original, nil
	case lua.LBool:
		if !bool(value) {
			return original, nil
		}
	}
	return "", fmt.Errorf("invalid replacement value (a %s)", value.Type())
}

// expand fills %0 to %9 into a replacement text.
func expand(s string, m pattern.Match, text string) (string, error) {
	if !strings.Contains(text, "%") {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		switch n := int(text[i]) - '0'; {
		case n == 0, n == 1 && len(m.Captures) == 0:
			b.WriteString(s[m.Start:m.End])
		case 1 <= n && n <= len(m.Captures):
			b.WriteString(capture(s, m.Captures[n-1]).String())
		case 1 <= n && n <= 9:
			return "", fmt.Errorf("invalid capture index %%%d in the replacement", n)
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), nil
}

func repeat(L *lua.LState) (int, error) {
	s, n := L.CheckString(1), max(L.CheckInt(2), 0)
	if n > 0 && len(s) > maxString/n {
		return 0, fmt.Errorf("the result exceeds %d bytes", maxString)
	}
	L.Push(lua.LString(strings.Repeat(s, n)))
	return 1, nil
}

// format is string.format of Lua 5.1 with two additions: %s takes any value
// and prints it as tostring does, and the integer conversions take a userdata
// whose text is a decimal number (a 64-bit one), without loss.
func format(L *lua.LState) (int, error) {
	text := L.CheckString(1)
	var b strings.Builder
	arg := 1
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+1 < len(text) && text[i+1] == '%' {
			b.WriteByte('%')
			i++
			continue
		}
		spec := i
		for i++; i < len(text) && strings.IndexByte("-+ #0123456789.", text[i]) >= 0; i++ {
		}
		if i == len(text) || !validSpec(text[spec+1:i]) {
			return 0, fmt.Errorf("invalid format '%s'", text[spec:min(i+1, len(text))])
		}
		arg++
		s, err := formatOne(L, text[spec:i], text[i], arg)
		if err != nil {
			return 0, err
		}
		b.WriteString(s)
	}
	L.Push(lua.LString(b.String()))
	return 1, nil
}

// validSpec checks flags, width and precision; both numbers have two digits at
// most.
func validSpec(spec string) bool {
	width, precision, _ := strings.Cut(strings.TrimLeft(spec, "-+ #0"), ".")
	return len(width) <= 2 && len(precision) <= 2 &&
		!strings.ContainsAny(width, "-+ #") && !strings.ContainsAny(precision, "-+ #.")
}

// formatOne formats argument number arg by a specification such as "%-5.2"
// and its verb.
func formatOne(L *lua.LState, spec string, verb byte, arg int) (string, error) {
	switch verb {
	case 's':
		return fmt.Sprintf(spec+"s", L.ToStringMeta(L.CheckAny(arg)).String()), nil
	case 'q':
		return quote(L.CheckString(arg)), nil
	case 'c':
		return fmt.Sprintf(unpadded(spec)+"s", string([]byte{byte(L.CheckInt(arg))})), nil
	case 'e', 'E', 'f', 'g', 'G':
		f := float64(L.CheckNumber(arg))
		if math.IsInf(f, 0) || math.IsNaN(f) {
			text := strings.ToLower(strings.TrimPrefix(lua.LNumber(f).String(), "+"))
			return fmt.Sprintf(unpadded(spec)+"s", text), nil
		}
		return fmt.Sprintf(spec+string(verb), f), nil
	case 'd', 'i', 'u':
		n, err := integer(L, arg)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf(spec+"d", n), nil
	case 'x', 'X', 'o':
		n, err := integer(L, arg)
		if err != nil {
			return "", err
		}
		if i, negative := n.(int64); negative {
			n = uint64(i)
		}
		return fmt.Sprintf(spec+string(verb), n), nil
	}
	return "", fmt.Errorf("invalid conversion '%s%c'", spec, verb)
}

// unpadded is spec without precision and without the flag that pads with
// zeros.
func unpadded(spec string) string {
	width := strings.TrimLeft(spec[1:], "-+ #0")
	flags := spec[1 : len(spec)-len(width)]
	width, _, _ = strings.Cut(width, ".")
	return "%" + strings.ReplaceAll(flags, "0", "") + width
}

// integer reads argument number arg: an int64 if it is negative, else a uint64.
func integer(L *lua.LState, arg int) (any, error) {
	if ud, ok := L.Get(arg).(*lua.LUserData); ok {
		if n, err := strconv.ParseUint(L.ToStringMeta(ud).String(), 10, 64); err == nil {
			return n, nil
		}
	}
	f := math.Trunc(float64(L.CheckNumber(arg)))
	switch {
	case -(1<<63) <= f && f < 0:
		return int64(f), nil
	case 0 <= f && f < 1<<64:
		return uint64(f), nil
	}
	return nil, fmt.Errorf("argument %d: %v has no 64-bit integer", arg, f)
}

// quote writes s so that Lua reads it back.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; c {
		case '"', '\\', '\n':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '\r':
			b.WriteString(`\r`)
		case 0:
			b.WriteString(`\000`)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
