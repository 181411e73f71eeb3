package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"walbsh/walbcore/walberr"
)

// IsSynchronizing reports whether an archive is in a volume's list of archives
// on every proxy of the layout.
//
// It fails with NotFound when no server knows the volume, with BadState when
// some proxies have the archive and some do not, which a half-done change
// leaves behind, and with the proxies' own failure, naming them, when some do
// not answer.
func (g *Group) IsSynchronizing(ctx context.Context, ax Server, vol string) (bool, error) {
	const op = "is_synchronizing"
	if err := firstError(arg(op, "ax", ax, Archive), volumeArg(op, vol)); err != nil {
		return false, err
	}
	return g.isSynchronizing(ctx, op, ax, vol)
}

func (g *Group) isSynchronizing(ctx context.Context, op string, ax Server, vol string) (bool, error) {
	proxies := g.Layout().Proxies
	if len(proxies) == 0 {
		return false, &walberr.Error{
			Op: op, Volume: vol, Code: walberr.Usage, Found: "the layout has no proxy", Expected: "at least one",
		}
	}
	lists, err := each(ctx, proxies, func(ctx context.Context, px Server) ([]string, error) {
		return g.Client(px).ArchiveInfoList(ctx, vol)
	})
	if err != nil {
		e := &walberr.Error{
			Op: op, Volume: vol, Code: walberr.CodeOf(err), Found: "not every proxy answers", Err: err,
			Hint: "start the missing proxy, or take it out of the layout",
		}
		if we, ok := errors.AsType[*walberr.Error](err); ok {
			e.Server = we.Server
		}
		return false, e
	}
	var with, without []string
	known := false
	for i, names := range lists {
		known = known || len(names) > 0
		if slices.Contains(names, ax.Name) {
			with = append(with, proxies[i].Name)
		} else {
			without = append(without, proxies[i].Name)
		}
	}
	switch {
	case len(without) == 0:
		return true, nil
	case len(with) > 0:
		return false, &walberr.Error{
			Op: op, Volume: vol, Code: walberr.BadState,
			Found: fmt.Sprintf("%s is registered at %s but not at %s",
				ax.Name, strings.Join(with, ", "), strings.Join(without, ", ")),
			Expected: "the same at all proxies",
			Hint:     "synchronize or stop_synchronizing makes it whole",
		}
	case !known:
		return false, g.knownSomewhere(ctx, op, vol, ax)
	}
	return false, nil
}
