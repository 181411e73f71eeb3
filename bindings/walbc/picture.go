package walbc

import (
	"context"
	"fmt"
	"strings"

	lua "github.com/yuin/gopher-lua"

	"walbsh/bindings/kit"
	"walbsh/walbcore/group"
	"walbsh/walbcore/walberr"
)

// picture draws the live group for a volume, or for the only volume there is.
func (s *Session) picture(ctx context.Context, vol string) (any, error) {
	if vol == "" {
		vols, err := s.Group.Volumes(ctx)
		switch {
		case len(vols) == 1: // whoever does not answer is drawn so
		case err != nil:
			return nil, err
		case len(vols) == 0:
			return nil, &walberr.Error{
				Op: "layout", Code: walberr.NotFound, Found: "no server knows a volume yet",
				Hint: `walbc.init_storage(s0, vol, "/dev/walb/NAME") and walbc.full_backup(s0, vol) make one known`,
			}
		default:
			return nil, &walberr.Error{
				Op: "layout", Code: walberr.Usage, Found: fmt.Sprintf("%d volumes", len(vols)),
				Expected: "the name of one", Hint: "walbc.layout(vol); they are: " + strings.Join(vols, " "),
			}
		}
		vol = vols[0]
	}
	st, err := s.Group.Status(ctx, vol)
	if err != nil {
		return nil, err
	}
	return picture{draw(st)}, nil
}

// Picture is a drawing as scripts see it; it prints as its lines.
type Picture struct {
	Text string
}

// String gives the lines.
func (p Picture) String() string { return p.Text }

// picture is a drawing on its way to a script.
type picture struct{ text string }

// LuaValue makes the record.
func (p picture) LuaValue(L *lua.LState) (lua.LValue, error) {
	return kit.Record(L, Picture{Text: p.text})
}

// draw makes the picture: the storages above the proxies above the archives.
// A proxy's first archive hangs below it, the others on lines that leave it to
// the right; the line at the left edge is the way of backups.
func draw(st group.VolumeStatus) string {
	if len(st.Storages) == 0 || len(st.Proxies) == 0 || len(st.Archives) == 0 {
		return listing(st)
	}
	if len(st.Storages) > 1 || len(st.Proxies) > 1 {
		return listing(st)
	}
	proxy := st.Proxies[0]
	registered := map[string]bool{}
	for _, r := range proxy.Archives {
		registered[r.Name] = true
	}
	var cells []string
	for _, a := range st.Archives {
		cells = append(cells, a.Server.Name)
	}
	width := 2
	for _, name := range append(cells, st.Storages[0].Server.Name, proxy.Server.Name) {
		width = max(width, len(name))
	}
	c := canvas{}
	const left, gap = 3, 4
	boxWidth := width + 4
	column := func(i int) int { return left + i*(boxWidth+gap) }
	middle := func(i int) int { return column(i) + boxWidth/2 - 1 }

	c.box(column(0), 0, boxWidth, st.Storages[0].Server.Name)
	c.arrow(middle(0), 3, 4)
	c.box(column(0), 5, boxWidth, proxy.Server.Name)
	for i := range st.Archives {
		c.box(column(i), 10, boxWidth, cells[i])
		if !registered[cells[i]] {
			continue
		}
		if i == 0 {
			c.arrow(middle(0), 8, 9)
			continue
		}
		// To the right out of the proxy, then down.
		from, to := column(0)+boxWidth, middle(i)
		for x := from; x < to; x++ {
			c.set(x, 6, '-')
		}
		c.set(to, 6, '+')
		c.set(to, 7, '|')
		c.arrow(to, 8, 9)
	}
	// Backups go from the storage around the proxy to the primary archive.
	c.text(0, 1, "+--")
	for y := 2; y < 11; y++ {
		c.set(0, y, '|')
	}
	c.text(0, 11, "+->")
	return c.String() + silent(st)
}

// silent names the servers that do not answer. What such a proxy sends where is
// not known, and so not drawn.
func silent(st group.VolumeStatus) string {
	var b strings.Builder
	note := func(s group.Server, err error) {
		if err != nil {
			fmt.Fprintf(&b, "\n%s does not answer", s.Name)
		}
	}
	for _, s := range st.Storages {
		note(s.Server, s.Err)
	}
	for _, p := range st.Proxies {
		note(p.Server, p.Err)
	}
	for _, a := range st.Archives {
		note(a.Server, a.Err)
	}
	return b.String()
}

// listing says in words what a picture would not hold.
func listing(st group.VolumeStatus) string {
	var b strings.Builder
	state := func(s string, err error) string {
		if err != nil {
			return "does not answer"
		}
		return s
	}
	for _, s := range st.Storages {
		fmt.Fprintf(&b, "storage %s (%s)\n", s.Server.Name, state(s.State, s.Err))
	}
	for _, p := range st.Proxies {
		fmt.Fprintf(&b, "proxy   %s (%s)", p.Server.Name, state(p.State, p.Err))
		for i, r := range p.Archives {
			if i == 0 {
				b.WriteString(" ->")
			}
			b.WriteString(" " + r.Name)
		}
		b.WriteByte('\n')
	}
	for _, a := range st.Archives {
		fmt.Fprintf(&b, "archive %s (%s)\n", a.Server.Name, state(a.State, a.Err))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// canvas is a grid of characters that grows as it is drawn on.
type canvas struct {
	rows [][]byte
}

func (c *canvas) set(x, y int, ch byte) {
	for len(c.rows) <= y {
		c.rows = append(c.rows, nil)
	}
	for len(c.rows[y]) <= x {
		c.rows[y] = append(c.rows[y], ' ')
	}
	c.rows[y][x] = ch
}

func (c *canvas) text(x, y int, s string) {
	for i := range len(s) {
		c.set(x+i, y, s[i])
	}
}

// box draws three lines with a name in the middle one.
func (c *canvas) box(x, y, width int, name string) {
	edge := "+" + strings.Repeat("-", width-2) + "+"
	c.text(x, y, edge)
	c.text(x, y+1, fmt.Sprintf("| %-*s |", width-4, name))
	c.text(x, y+2, edge)
}

// arrow draws a line down that ends in a head.
func (c *canvas) arrow(x, from, to int) {
	for y := from; y < to; y++ {
		c.set(x, y, '|')
	}
	c.set(x, to, 'v')
}

// String gives the lines, without blanks at their ends.
func (c *canvas) String() string {
	lines := make([]string, len(c.rows))
	for i, row := range c.rows {
		lines[i] = strings.TrimRight(string(row), " ")
	}
	return strings.Join(lines, "\n")
}
