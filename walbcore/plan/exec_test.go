package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/walbcore/walberr"
)

// trace notes what was called, in order.
type trace struct {
	mu    sync.Mutex
	calls []string
}

func (t *trace) add(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = append(t.calls, s)
}

func (t *trace) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.calls)
}

// call makes a step function that notes its name and returns err.
func (t *trace) call(name string, err error) func(context.Context) error {
	return func(context.Context) error {
		t.add(name)
		return err
	}
}

// step makes a step of which every function is noted; the one named in fail
// ("pre", "do", "verify", "undo") fails.
func (t *trace) step(name, fail string) Step {
	at := func(part string) func(context.Context) error {
		var err error
		if part == fail {
			err = &walberr.Error{
				Op: part + "-" + name, Server: "p0", Volume: "vol", Code: walberr.BadState,
				Found: "broken " + name, Hint: "mend " + name,
			}
		}
		return t.call(part+" "+name, err)
	}
	return Step{
		Name: name, Server: "p0", Pre: at("pre"), Do: at("do"), Verify: at("verify"),
		Undo: at("undo"), UndoName: "take back " + name,
	}
}

// run runs the plan as an exclusive job of its own owner.
func run(ctx context.Context, t *testing.T, p *Plan) error {
	t.Helper()
	js := NewJobs(Options{})
	defer func() { require.NoError(t, js.Close(context.Background())) }()
	return js.Run(ctx, Spec{Op: p.Op, Volume: p.Volume, Build: func(context.Context) (*Plan, error) { return p, nil }})
}

func failureOf(t *testing.T, err error) *Failure {
	t.Helper()
	f, ok := errors.AsType[*Failure](err)
	require.True(t, ok, "%v", err)
	return f
}

func TestStepsRunInOrder(t *testing.T) {
	var tr trace
	p := New("op", "vol").Then(tr.step("a", "")).Then().Then(tr.step("b", ""))
	require.NoError(t, run(context.Background(), t, p))
	assert.Equal(t, []string{"pre a", "do a", "verify a", "pre b", "do b", "verify b"}, tr.list())
}

func TestFailureCompensatesInReverse(t *testing.T) {
	for _, c := range []struct {
		fail string
		want []string
	}{
		{"pre", []string{"undo b", "undo a"}},
		{"do", []string{"undo c", "undo b", "undo a"}},
		{"verify", []string{"undo c", "undo b", "undo a"}},
	} {
		t.Run(c.fail, func(t *testing.T) {
			var tr trace
			p := New("op", "vol").Then(tr.step("a", "")).Then(tr.step("b", "")).
				Then(tr.step("c", c.fail)).Then(tr.step("d", ""))
			err := run(context.Background(), t, p)
			f := failureOf(t, err)
			assert.Equal(t, "c", f.Step)
			assert.Len(t, f.Undone, len(c.want))
			assert.Empty(t, f.Debts)
			assert.Zero(t, f.Job)
			var undos []string
			for _, s := range tr.list() {
				if s[:4] == "undo" {
					undos = append(undos, s)
				}
			}
			assert.Equal(t, c.want, undos)
			assert.NotContains(t, tr.list(), "do d")
		})
	}
}

func TestFailureNamesEverything(t *testing.T) {
	var tr trace
	p := New("synchronize", "vol").Then(tr.step("a", "undo")).Then(tr.step("b", "")).Then(tr.step("c", "do"))
	err := run(context.Background(), t, p)
	f := failureOf(t, err)
	assert.Equal(t, []string{"take back c", "take back b"}, f.Undone)
	require.Len(t, f.Debts, 1)
	assert.Equal(t, "take back a", f.Debts[0].Step)
	assert.Equal(t, walberr.BadState, walberr.CodeOf(err))
	we, ok := errors.AsType[*walberr.Error](err)
	require.True(t, ok)
	assert.Equal(t, "synchronize", we.Op)
	assert.Equal(t, "p0", we.Server)
	assert.Equal(t, "vol", we.Volume)
	hint := "mend c; brought back: take back c, take back b; NOT brought back (take back a): undo-a: broken a, mend a"
	assert.Equal(t, hint, we.Hint)
	assert.Equal(t, "synchronize at p0 volume vol: step 3 of 3 (c) failed; do-c: broken c (hint: "+hint+")", err.Error())
}

func TestCauseOfTheSameOperationIsToldOnce(t *testing.T) {
	cause := &walberr.Error{
		Op: "op", Server: "a1", Volume: "vol", Code: walberr.Range, Found: "image of 4m", Expected: "8m", Err: errors.New("deep"),
	}
	err := run(context.Background(), t, New("op", "vol").Then(Step{
		Name: "copy", Do: func(context.Context) error { return cause },
	}))
	require.EqualError(t, err, "op at a1 volume vol: step 1 of 1 (copy) failed: image of 4m; expected 8m; deep")
	assert.Equal(t, walberr.Range, walberr.CodeOf(err))
}

func TestStageRunsAtTheSameTime(t *testing.T) {
	var tr trace
	meet := make(chan struct{})
	both := func(name string, first bool) Step {
		s := tr.step(name, "")
		s.Do = func(ctx context.Context) error {
			if first {
				meet <- struct{}{}
			} else {
				<-meet
			}
			tr.add("do " + name)
			return nil
		}
		return s
	}
	p := New("op", "vol").Then(both("a", true), both("b", false)).Then(tr.step("c", "do"))
	err := run(context.Background(), t, p)
	require.Error(t, err)
	calls := tr.list()
	assert.ElementsMatch(t, []string{"undo a", "undo b"}, calls[len(calls)-2:])
	assert.Equal(t, "undo c", calls[len(calls)-3])
}

func TestStageFailureCancelsTheOthers(t *testing.T) {
	var tr trace
	slow := tr.step("slow", "")
	begun := make(chan struct{})
	slow.Do = func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		tr.add("slow saw the end")
		return context.Cause(ctx)
	}
	bad := tr.step("bad", "do")
	bad.Pre = func(context.Context) error {
		<-begun
		return nil
	}
	err := run(context.Background(), t, New("op", "vol").Then(slow, bad))
	assert.Equal(t, "bad", failureOf(t, err).Step)
	assert.Equal(t, walberr.BadState, walberr.CodeOf(err))
	assert.Contains(t, tr.list(), "slow saw the end")
	assert.Contains(t, tr.list(), "undo slow")
}

func TestLenientStepIsAWarning(t *testing.T) {
	var tr trace
	kick := tr.step("kick", "do")
	kick.Lenient = true
	js := NewJobs(Options{})
	defer func() { require.NoError(t, js.Close(context.Background())) }()
	j, err := js.Start(context.Background(), Spec{Op: "op", Volume: "vol", Build: func(context.Context) (*Plan, error) {
		return New("op", "vol").Then(kick).Then(tr.step("b", "")), nil
	}})
	require.NoError(t, err)
	require.NoError(t, j.Wait(context.Background()))
	assert.Equal(t, Done, j.Info().State)
	require.Len(t, j.Info().Warnings, 1)
	require.ErrorContains(t, j.Info().Warnings[0], "broken kick")
	assert.Contains(t, tr.list(), "do b")
}

func TestFinalStepEndsTheWayBack(t *testing.T) {
	var tr trace
	final := tr.step("b", "")
	final.Final = true
	p := New("op", "vol").Then(tr.step("a", "")).Then(final).Then(tr.step("c", "")).Then(tr.step("d", "do"))
	err := run(context.Background(), t, p)
	assert.Equal(t, []string{"take back d", "take back c"}, failureOf(t, err).Undone)
}

func TestPanicIsAFailureAndStillCompensates(t *testing.T) {
	var tr trace
	bad := tr.step("b", "")
	bad.Do = func(context.Context) error { panic("oops") }
	err := run(context.Background(), t, New("op", "vol").Then(tr.step("a", "")).Then(bad))
	assert.Equal(t, walberr.Internal, walberr.CodeOf(err))
	require.ErrorContains(t, err, "oops")
	assert.Equal(t, []string{"take back b", "take back a"}, failureOf(t, err).Undone)
}

func TestDeadlineCompensatesUnderAFreshContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		hang := Step{
			Name: "hang", Server: "a1",
			Do: func(ctx context.Context) error {
				<-ctx.Done()
				return &walberr.Error{Op: "replicate", Server: "a1", Code: walberr.Unreachable, Err: ctx.Err()}
			},
			Undo: func(ctx context.Context) error {
				d, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.Equal(t, 7*time.Second, time.Until(d))
				return ctx.Err()
			},
		}
		p := New("op", "vol").Then(hang)
		p.UndoTimeout = 7 * time.Second
		js := NewJobs(Options{})
		j, err := js.Start(ctx, Spec{Op: "op", Volume: "vol", Build: func(context.Context) (*Plan, error) { return p, nil }})
		require.NoError(t, err)
		err = j.Wait(context.Background())
		assert.Equal(t, walberr.Timeout, walberr.CodeOf(err))
		assert.Equal(t, []string{"undo hang"}, failureOf(t, err).Undone)
		require.NoError(t, js.Close(context.Background()))
	})
}

func TestEventsAndBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var rates []float64
		observe := func(e Event) {
			got = append(got, fmt.Sprintf("%s %s %d/%d", e.Kind, e.Step, e.Stage, e.Stages))
			if e.Kind == StepBytes {
				rates = append(rates, e.Bytes.Rate)
			}
		}
		copyStep := Step{Name: "copy", Do: func(ctx context.Context) error {
			for i := range 3 {
				Report(ctx, Bytes{Done: int64(i) * 1000, Total: 4000})
				time.Sleep(time.Second)
			}
			Warn(ctx, errors.New("hm"))
			return errors.New("cut")
		}, Undo: func(context.Context) error { return nil }}
		ctx := WithObserver(context.Background(), observe)
		err := run(ctx, t, New("op", "vol").Then(copyStep))
		require.Error(t, err)
		assert.Equal(t, []string{
			"step-begin copy 1/1", "step-bytes copy 1/1", "step-bytes copy 1/1", "step-bytes copy 1/1",
			"warned copy 1/1", "step-end copy 1/1", "undo-begin undo copy 1/1", "undo-end undo copy 1/1", "job-end  0/0",
		}, got)
		assert.Equal(t, []float64{0, 1000, 1000}, rates)
		assert.Equal(t, 2*time.Second, Bytes{Done: 2000, Total: 4000, Rate: 1000}.Left())
		assert.Zero(t, Bytes{Done: 2000, Rate: 1000}.Left())
	})
}

// recorder is a journal that refuses the entry of one step.
type recorder struct {
	mu      sync.Mutex
	entries []Entry
	refuse  string
}

func (r *recorder) Record(_ context.Context, e Entry) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Step == r.refuse && e.Step != "" {
		return errors.New("disk full")
	}
	r.entries = append(r.entries, e)
	return nil
}

func TestJournalIsAskedBeforeEveryAction(t *testing.T) {
	for _, c := range []struct {
		name, refuse, fail, undo string
		want                     []string
	}{
		{"success", "", "", "", []string{"a", "b", "end"}},
		{"failure brought back", "", "do", "", []string{"a", "b", "undo take back b", "undo take back a", "end"}},
		{"failure with a debt", "", "do", "undo", []string{"a", "b", "undo take back b", "undo take back a"}},
		{"refused", "b", "", "", []string{"a", "undo take back a", "end"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tr trace
			r := &recorder{refuse: c.refuse}
			js := NewJobs(Options{Journal: r})
			_ = js.Run(context.Background(), Spec{Op: "op", Volume: "vol", Build: func(context.Context) (*Plan, error) {
				return New("op", "vol").Then(tr.step("a", c.undo)).Then(tr.step("b", c.fail)), nil
			}})
			require.NoError(t, js.Close(context.Background()))
			var got []string
			for _, e := range r.entries {
				assert.Equal(t, "op", e.Op)
				assert.Equal(t, "vol", e.Volume)
				switch {
				case e.End:
					got = append(got, "end")
				case e.Undo:
					got = append(got, "undo "+e.Step)
				default:
					got = append(got, e.Step)
				}
			}
			assert.Equal(t, c.want, got)
			if c.refuse != "" {
				assert.NotContains(t, tr.list(), "do b")
			}
		})
	}
}

func TestPlanString(t *testing.T) {
	p := New("synchronize", "vol").
		Then(Step{Name: "stop p0", UndoName: "start p0 again"}, Step{Name: "stop p1", UndoName: "start p1 again"}).
		Then(Step{Name: "full-bkp", Final: true}).
		Then(Step{Name: "kick s0", Lenient: true})
	assert.Equal(t, `synchronize vol:
  1. stop p0  [on failure: start p0 again]
     stop p1  [on failure: start p1 again]
  2. full-bkp  [no way back from here]
  3. kick s0  [a failure is only a warning]
`, p.String())
}

func TestDryRunActsOnNothing(t *testing.T) {
	var tr trace
	var shown string
	ctx := WithDryRun(context.Background(), func(p *Plan) { shown = p.String() })
	require.NoError(t, run(ctx, t, New("op", "vol").Then(tr.step("a", "do"))))
	assert.Empty(t, tr.list())
	assert.Contains(t, shown, "1. a  [on failure: take back a]")
}
