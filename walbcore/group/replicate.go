package group

import (
	"context"
	"fmt"
	"time"

	"walbsh/walbcore/meta"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

// ReplicateOnce brings a volume at the archive dst up to the newest snapshot
// of src, and waits for it. A destination that never saw the volume is
// initialized. A copy that runs already is joined; Ctrl-C or the deadline ends
// the wait, not the copy, and the next call joins it. Success is what dst has,
// not what the copy said.
//
// Codes: Usage, NotFound (src does not know the volume, or the gid), BadState
// (src has no backup, dst is stopped or too small), DifferentUUID (dst belongs
// to another full backup), Unreachable, Timeout, Canceled, Conflict (another
// operation runs on the volume), and those of the copy itself.
func (g *Group) ReplicateOnce(ctx context.Context, src Server, vol string, dst Server, opt ReplicateOptions) (Copy, error) {
	c := g.newCopier("replicate_once", src, vol, dst, opt)
	if err := c.checkArgs(); err != nil {
		return Copy{}, err
	}
	warnings, err := g.run(ctx, opt.Timeout, plan.Spec{Op: c.op, Volume: vol, Build: c.build})
	if err != nil {
		return Copy{}, err
	}
	c.out.Warnings = warnings
	return c.out, nil
}

// build makes the plan of a copy.
func (c *copier) build(ctx context.Context) (*plan.Plan, error) {
	if err := c.look(ctx); err != nil {
		return nil, err
	}
	return c.steps(plan.New(c.op, c.vol)), nil
}

// steps appends the steps of a copy to a plan.
func (c *copier) steps(p *plan.Plan) *plan.Plan {
	if c.fresh {
		p.Then(c.initStep())
	}
	return p.Then(c.copyStep())
}

// ReplicateOnceNbk begins what [Group.ReplicateOnce] does and comes back with
// the gid while the copy runs at the archives; [Group.WaitForReplicated] waits
// for it. It fails with Conflict when a copy of the volume runs at src already.
func (g *Group) ReplicateOnceNbk(ctx context.Context, src Server, vol string, dst Server, opt ReplicateOptions) (meta.Gid, error) {
	c := g.newCopier("replicate_once_nbk", src, vol, dst, opt)
	if err := c.checkArgs(); err != nil {
		return 0, err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := c.look(ctx); err != nil {
			return nil, err
		}
		p := plan.New(c.op, vol)
		if c.fresh {
			p.Then(c.initStep())
		}
		return p.Then(c.beginStep()), nil
	}
	if _, err := g.run(ctx, opt.Timeout, plan.Spec{Op: c.op, Volume: vol, Build: build}); err != nil {
		return 0, err
	}
	return c.out.Gid, nil
}

// beginStep begins the copy and does not wait for its end.
func (c *copier) beginStep() plan.Step {
	return plan.Step{
		Name:   fmt.Sprintf("begin to copy %s to %s", c.src.Name, c.dst.Name),
		Server: c.src.Name,
		Do: func(ctx context.Context) error {
			joined, err := c.begin(ctx)
			if err == nil && joined {
				err = c.refuse(c.src, walberr.Conflict, "a copy of the volume runs there already", "",
					fmt.Sprintf("wait_for_replicated(%s, %q, %s, gid) waits for it", c.src.Name, c.vol, c.dst.Name))
			}
			return err
		},
	}
}

// WaitForReplicated waits until the copy of a volume from src to dst has ended,
// and fails unless dst has reached the gid then. It begins nothing. A timeout
// of 0 is [DefaultTimeout].
func (g *Group) WaitForReplicated(ctx context.Context, src Server, vol string, dst Server, gid meta.Gid, timeout time.Duration) error {
	c := g.newCopier("wait_for_replicated", src, vol, dst, ReplicateOptions{})
	if err := c.checkArgs(); err != nil {
		return err
	}
	c.goal = gid
	build := func(ctx context.Context) (*plan.Plan, error) {
		if err := c.lookSource(ctx); err != nil {
			return nil, err
		}
		return plan.New(c.op, vol).Then(plan.Step{
			Name: fmt.Sprintf("wait for the copy from %s to %s", src.Name, dst.Name), Server: dst.Name, Do: c.join,
		}), nil
	}
	_, err := g.run(ctx, timeout, plan.Spec{Op: c.op, Volume: vol, Shared: true, Build: build})
	return err
}

// join waits for the copy that runs, if any, and judges.
func (c *copier) join(ctx context.Context) error {
	if err := c.watch(ctx); err != nil {
		return err
	}
	reached, err := c.reached(ctx)
	if err != nil || reached {
		return err
	}
	return c.ended(ctx, c.count(ctx))
}

// Replicate brings a volume at dst up to the newest snapshot of src, as
// [Group.ReplicateOnce]; with synchronizing it then makes dst a live target, as
// [Group.Synchronize], of which the copy is short now. When dst is synchronizing
// already, one copy is made and no proxy stops. One deadline covers both.
func (g *Group) Replicate(ctx context.Context, src Server, vol string, dst Server, synchronizing bool, opt ReplicateOptions) (SyncResult, error) {
	if !synchronizing {
		c, err := g.ReplicateOnce(ctx, src, vol, dst, opt)
		return SyncResult{Copy: c, Elapsed: c.Elapsed}, err
	}
	return g.synchronize(ctx, "replicate", src, vol, dst, opt, true)
}
