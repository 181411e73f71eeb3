package group

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"walbsh/walbcore/client"
	"walbsh/walbcore/fsm"
	"walbsh/walbcore/plan"
	"walbsh/walbcore/walberr"
)

// steady reports whether a state word of a server of that kind is one that
// stays until a command changes it.
func steady(k Kind, word string) bool {
	switch k {
	case Storage:
		s, err := fsm.ParseStorageState(word)
		return err == nil && s.Steady()
	case Proxy:
		s, err := fsm.ParseProxyState(word)
		return err == nil && s.Steady()
	case Archive:
		s, err := fsm.ParseArchiveState(word)
		return err == nil && s.Steady()
	}
	return false
}

// falling are the states in which a volume is on its way to being stopped.
var falling = []string{
	fsm.StorageStopTarget.String(), fsm.StorageStopStandby.String(),
	fsm.ProxyStop.String(), fsm.ProxyWaitForEmpty.String(), fsm.ArchiveStop.String(),
}

// goalOfStop gives the state that a stop leads to from a state, "" when it
// leads nowhere.
func goalOfStop(k Kind, from string, mode client.StopMode) string {
	force := mode == client.StopForce
	switch k {
	case Storage:
		switch s, err := fsm.ParseStorageState(from); {
		case err != nil:
			return ""
		case s == fsm.StorageTarget:
			return fsm.StorageStopped.String()
		case s == fsm.StorageStandby, force && (s == fsm.StorageFullSync || s == fsm.StorageHashSync):
			return fsm.StorageSyncReady.String()
		}
	case Proxy:
		switch s, err := fsm.ParseProxyState(from); {
		case err != nil:
			return ""
		case s == fsm.ProxyStarted, s == fsm.ProxyWlogRecv:
			return fsm.ProxyStopped.String()
		}
	case Archive:
		switch s, err := fsm.ParseArchiveState(from); {
		case err != nil:
			return ""
		case active(s):
			return fsm.ArchiveStopped.String()
		case force && (s == fsm.ArchiveFullSync || s == fsm.ArchiveResync):
			return fsm.ArchiveSyncReady.String()
		}
	}
	return ""
}

// awaitActable waits until the volume's state is one that a command can act on:
// steady, or one that a running transfer makes.
func (g *Group) awaitActable(ctx context.Context, op string, s Server, vol string) (string, error) {
	var word string
	w := wait{op: op, server: s.Name, volume: vol, expected: "a steady state"}
	err := await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		var err error
		word, err = g.Client(s).State(ctx, vol)
		return "state " + word, steady(s.Kind, word) || goalOfStop(s.Kind, word, client.StopForce) != "", err
	})
	return word, err
}

// StopNbk asks a server to stop a volume, and gives the state before. Empty is
// for proxies only. [Group.WaitForStopped] waits for the end.
func (g *Group) StopNbk(ctx context.Context, s Server, vol string, mode client.StopMode) (string, error) {
	const op = "stop_nbk"
	if err := stopArgs(op, s, vol, mode); err != nil {
		return "", err
	}
	before, err := g.Client(s).State(ctx, vol)
	if err != nil {
		return "", err
	}
	return before, g.Client(s).Stop(ctx, vol, mode)
}

func stopArgs(op string, s Server, vol string, mode client.StopMode) error {
	err := firstError(arg(op, "s", s, Storage, Proxy, Archive), volumeArg(op, vol))
	if err != nil {
		return err
	}
	switch mode {
	case client.StopGraceful, client.StopForce:
		return nil
	case client.StopEmpty:
		if s.Kind == Proxy {
			return nil
		}
	}
	return &walberr.Error{
		Op: op, Code: walberr.Usage, Found: fmt.Sprintf("argument mode: %q for %s", mode, s.Kind.article()),
		Expected: "graceful, force, or for a proxy empty",
	}
}

// WaitForStopped waits for the end of a stop that began in the state before,
// for at most timeout (0 = [DefaultTimeout]). That the server gave the stop up
// is an error, seen at once.
func (g *Group) WaitForStopped(ctx context.Context, s Server, vol, before string, timeout time.Duration) error {
	const op = "wait_for_stopped"
	if err := stopArgs(op, s, vol, client.StopGraceful); err != nil {
		return err
	}
	goal := goalOfStop(s.Kind, before, client.StopForce)
	if goal == "" {
		goal = fsm.ArchiveStopped.String() // of all three kinds
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return g.awaitStopped(ctx, op, s, vol, before, goal)
}

// Stop stops a volume at a server and waits for it: a storage's Target becomes
// Stopped and its Standby SyncReady, proxies and archives become Stopped. With
// force, running transfers are broken off, a backup or full copy too. A volume
// that is stopped already is left alone.
func (g *Group) Stop(ctx context.Context, s Server, vol string, mode client.StopMode) error {
	const op = "stop"
	if err := stopArgs(op, s, vol, mode); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		p := plan.New(op, vol)
		before, err := g.awaitActable(ctx, op, s, vol)
		if err != nil {
			return nil, err
		}
		goal := goalOfStop(s.Kind, before, mode)
		switch {
		case before == fsm.ArchiveStopped.String():
			return p, nil
		case before == fsm.ArchiveClear.String():
			return nil, g.unknownVolume(ctx, op, s, vol)
		case goal == "":
			return nil, refusal(op, s, vol, walberr.BadState, "state "+before, "a state that can be stopped", stopHint(s, before))
		}
		return p.Then(plan.Step{Name: "stop " + s.Name, Server: s.Name, Do: func(ctx context.Context) error {
			return g.stopVolume(ctx, s, vol, mode, before, goal)
		}}), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

func stopHint(s Server, word string) string {
	if goalOfStop(s.Kind, word, client.StopForce) != "" {
		return "with force it is broken off"
	}
	return "nothing runs there"
}

// stopVolume sends a stop and waits until the volume is in the goal.
func (g *Group) stopVolume(ctx context.Context, s Server, vol string, mode client.StopMode, before, goal string) error {
	if err := g.Client(s).Stop(ctx, vol, mode); err != nil {
		return err
	}
	return g.awaitStopped(ctx, "stop", s, vol, before, goal)
}

// awaitStopped waits for the end of a stop that was accepted.
func (g *Group) awaitStopped(ctx context.Context, op string, s Server, vol, before, goal string) error {
	began := time.Now()
	fell := false
	w := wait{op: op, server: s.Name, volume: vol, expected: "state " + goal}
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		word, err := g.Client(s).State(ctx, vol)
		if err != nil {
			return "", false, err
		}
		fell = fell || slices.Contains(falling, word)
		up := word != goal && (steady(s.Kind, word) || goalOfStop(s.Kind, word, client.StopForce) != "")
		if up && (fell || time.Since(began) > g.stopLimit || g.stopIsOver(ctx, s, vol, began)) {
			return "", false, refusal(op, s, vol, walberr.Unavailable, "the stop was given up, state "+word, "state "+goal,
				"something ran longer than a minute there, or the volume was in state "+before+" no more; call again, or with force")
		}
		if word != goal {
			return "state " + word, false, nil
		}
		over, err := g.stopsNoMore(ctx, s, vol)
		return "state " + word + ", still stopping", over, err
	})
}

// stopsNoMore reports whether a volume that has reached its state is also free
// for the next command, which comes a moment later. Proxies do not tell.
func (g *Group) stopsNoMore(ctx context.Context, s Server, vol string) (bool, error) {
	if s.Kind == Proxy {
		return true, nil
	}
	lines, err := g.Client(s).Status(ctx, vol)
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(lines, func(line string) bool {
		stop, ok := strings.CutPrefix(line, "stopState ")
		return ok && stop != fsm.NotStopping.String()
	}), nil
}

// stopIsOver reports whether a storage or archive says that it stops no more,
// a moment after it was told to.
func (g *Group) stopIsOver(ctx context.Context, s Server, vol string, began time.Time) bool {
	if s.Kind == Proxy || time.Since(began) < g.settle {
		return false
	}
	lines, err := g.Client(s).Status(ctx, vol)
	return err == nil && slices.Contains(lines, "stopState "+fsm.NotStopping.String())
}

// Start starts a stopped volume at a server and waits for it: a storage as
// target of its backup, a proxy, or an archive.
func (g *Group) Start(ctx context.Context, s Server, vol string) error {
	const op = "start"
	if err := firstError(arg(op, "s", s, Storage, Proxy, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		word, err := g.awaitActable(ctx, op, s, vol)
		switch {
		case err != nil:
			return nil, err
		case word == fsm.ArchiveClear.String():
			return nil, g.unknownVolume(ctx, op, s, vol)
		case word != fsm.ArchiveStopped.String():
			return nil, refusal(op, s, vol, walberr.BadState, "state "+word, "state Stopped", startHint(s, vol, word))
		}
		return plan.New(op, vol).Then(g.startStep(s, vol)), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

func startHint(s Server, vol, word string) string {
	if goalOfStop(s.Kind, word, client.StopGraceful) != "" {
		return "it runs already"
	}
	if s.Kind == Storage {
		return fmt.Sprintf("full_backup(%s, %q) starts it", s.Name, vol)
	}
	return "it gets there with a full backup or a replication"
}

// startStep starts a stopped volume.
func (g *Group) startStep(s Server, vol string) plan.Step {
	role := client.RoleNone
	if s.Kind == Storage {
		role = client.RoleTarget
	}
	return plan.Step{
		Name: "start " + s.Name, Server: s.Name,
		Do: func(ctx context.Context) error { return g.Client(s).Start(ctx, vol, role) },
		Verify: func(ctx context.Context) error {
			w := wait{op: "start", server: s.Name, volume: vol, expected: "a running state"}
			return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
				word, err := g.Client(s).State(ctx, vol)
				return "state " + word, goalOfStop(s.Kind, word, client.StopGraceful) != "", err
			})
		},
	}
}

// Reset brings a volume back to SyncReady: a stopped storage loses its log, a
// stopped or SyncReady archive all its data of the volume.
func (g *Group) Reset(ctx context.Context, s Server, vol string) error {
	const op = "reset"
	if err := firstError(arg(op, "s", s, Storage, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		word, err := g.Client(s).State(ctx, vol)
		if err == nil && word == fsm.ArchiveClear.String() {
			err = g.unknownVolume(ctx, op, s, vol)
		}
		if err != nil {
			return nil, err
		}
		return plan.New(op, vol).Then(g.resetStep(s, vol)), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

func (g *Group) resetStep(s Server, vol string) plan.Step {
	return plan.Step{
		Name: "reset the volume at " + s.Name, Server: s.Name, Final: true,
		Do: func(ctx context.Context) error { return g.Client(s).ResetVol(ctx, vol) },
		Verify: func(ctx context.Context) error {
			word, err := g.Client(s).State(ctx, vol)
			if want := fsm.ArchiveSyncReady.String(); err == nil && word != want {
				err = refusal("reset-vol", s, vol, walberr.BadState, "state "+word, "state "+want, "")
			}
			return err
		},
	}
}

// Clear makes a server forget a volume, with all that it has of it. A running
// volume is stopped by force first; if the volume cannot be cleared then, it
// is started again. A volume that the server does not know is left alone.
func (g *Group) Clear(ctx context.Context, s Server, vol string) error {
	const op = "clear"
	if err := firstError(arg(op, "s", s, Storage, Proxy, Archive), volumeArg(op, vol)); err != nil {
		return err
	}
	build := func(ctx context.Context) (*plan.Plan, error) {
		p := plan.New(op, vol)
		before, err := g.awaitActable(ctx, op, s, vol)
		if err != nil || before == fsm.ArchiveClear.String() {
			return p, err
		}
		end := before
		if goal := goalOfStop(s.Kind, before, client.StopForce); goal != "" {
			end = goal
			p.Then(g.stopToClearStep(s, vol, before, goal))
		}
		if s.Kind == Storage && end == fsm.StorageStopped.String() {
			p.Then(g.resetStep(s, vol))
		}
		return p.Then(plan.Step{
			Name: "clear the volume at " + s.Name, Server: s.Name, Final: true,
			Do: func(ctx context.Context) error { return g.Client(s).ClearVol(ctx, vol) },
		}), nil
	}
	_, err := g.run(ctx, DefaultTimeout, plan.Spec{Op: op, Volume: vol, Build: build})
	return err
}

// stopToClearStep stops a volume by force; undone, it runs again as before.
func (g *Group) stopToClearStep(s Server, vol, before, goal string) plan.Step {
	return plan.Step{
		Name: "stop " + s.Name, Server: s.Name,
		Do: func(ctx context.Context) error {
			return g.stopVolume(ctx, s, vol, client.StopForce, before, goal)
		},
		UndoName: "start " + s.Name + " again",
		Undo:     func(ctx context.Context) error { return g.undoStop(ctx, s, vol, before) },
	}
}

// undoStop makes a volume run again that was told to stop, whether the stop is
// over, still to come, or given up.
func (g *Group) undoStop(ctx context.Context, s Server, vol, before string) error {
	if s.Kind == Proxy {
		c := g.changeTo(vol, proxyFact{server: s, state: fsm.ProxyStarted}, client.StopForce, nil)
		c.stopSent = time.Now()
		return c.start(ctx)
	}
	began := time.Now()
	w := wait{op: "start", server: s.Name, volume: vol, expected: "state " + before}
	return await(ctx, g.opts.Patience, w, func(ctx context.Context) (string, bool, error) {
		word, err := g.Client(s).State(ctx, vol)
		if err != nil || !steady(s.Kind, word) {
			return "state " + word, false, err
		}
		switch {
		case word == fsm.ArchiveStopped.String():
			err = perform(ctx, g.startStep(s, vol))
		case word == fsm.StorageSyncReady.String() && before == fsm.StorageStandby.String():
			err = g.Client(s).Start(ctx, vol, client.RoleStandby)
		case goalOfStop(s.Kind, word, client.StopGraceful) != "":
			return "state " + word, g.stopIsOver(ctx, s, vol, began), nil
		}
		return "", err == nil, err
	})
}

// perform does a step and verifies it.
func perform(ctx context.Context, s plan.Step) error {
	if err := s.Do(ctx); err != nil {
		return err
	}
	return s.Verify(ctx)
}

// Shutdown ends a server: its process, or the embedded server. It returns when
// the server has accepted that.
func (g *Group) Shutdown(ctx context.Context, s Server, force bool) error {
	if err := arg("shutdown", "s", s, Storage, Proxy, Archive); err != nil {
		return err
	}
	return g.Client(s).Shutdown(ctx, force)
}
