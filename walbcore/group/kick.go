package group

import (
	"context"

	"walbsh/walbcore/plan"
)

// Kick makes storages and proxies do now what waits for its time. All are
// kicked, whatever happens at one of them; the error names those that failed.
func (g *Group) Kick(ctx context.Context, servers ...Server) error {
	for _, s := range servers {
		if err := arg("kick", "sL", s, Storage, Proxy); err != nil {
			return err
		}
	}
	_, err := each(ctx, servers, func(ctx context.Context, s Server) (struct{}, error) {
		return struct{}{}, g.Client(s).Kick(ctx, "", "")
	})
	return err
}

// KickStorages is [Group.Kick] for all storages of the layout.
func (g *Group) KickStorages(ctx context.Context) error {
	return g.Kick(ctx, g.Layout().Storages...)
}

// KickProxy makes all proxies send a volume's diffs to an archive now.
func (g *Group) KickProxy(ctx context.Context, vol string, ax Server) error {
	const op = "kick_proxy"
	if err := firstError(volumeArg(op, vol), arg(op, "ax", ax, Archive)); err != nil {
		return err
	}
	_, err := each(ctx, g.Layout().Proxies, func(ctx context.Context, px Server) (struct{}, error) {
		return struct{}{}, g.Client(px).Kick(ctx, vol, ax.Name)
	})
	return err
}

// kickProxies kicks those proxies that run.
func (g *Group) kickProxies(ctx context.Context, facts []proxyFact, vol string, ax Server) error {
	var running []Server
	for _, f := range facts {
		if f.runs() {
			running = append(running, f.server)
		}
	}
	_, err := each(ctx, running, func(ctx context.Context, px Server) (struct{}, error) {
		return struct{}{}, g.Client(px).Kick(ctx, vol, ax.Name)
	})
	return err
}

// kickSteps kick the storages, so that they find the started proxies at once.
// They find them in seconds anyway: a failure is a warning.
func (g *Group) kickSteps() []plan.Step {
	var steps []plan.Step
	for _, sx := range g.Layout().Storages {
		steps = append(steps, plan.Step{
			Name: "kick " + sx.Name, Server: sx.Name, Lenient: true,
			Do: func(ctx context.Context) error { return g.Client(sx).Kick(ctx, "", "") },
		})
	}
	return steps
}
