package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"walbsh/walbcore/plan"
)

func moved(job uint64, step string, done, total int64) plan.Event {
	return plan.Event{
		Kind: plan.StepBytes, Job: job, Step: step, Elapsed: time.Second,
		Bytes: plan.Bytes{Done: done, Total: total, Rate: 1.5 * (1 << 30)},
	}
}

func TestBarsComeAndGo(t *testing.T) {
	var out bytes.Buffer
	visible := true
	b := &bars{out: &out, visible: func() bool { return visible }}
	shown := func() string {
		defer out.Reset()
		return out.String()
	}

	b.observe(plan.Event{Kind: plan.StepBegin, Job: 1})
	early := moved(1, "copy a0 to a1", 1<<20, 4<<30)
	early.Elapsed = barAfter / 2
	b.observe(early)
	assert.Empty(t, shown(), "a step that just began")

	b.observe(moved(1, "copy a0 to a1", 1<<30, 4<<30))
	assert.Contains(t, shown(), "copy a0 to a1  1.0/4.0 GiB, 1.5 GiB/s, 2s left")
	b.observe(plan.Event{Kind: plan.StepEnd, Job: 2})
	assert.Empty(t, shown(), "another job")
	b.observe(plan.Event{Kind: plan.StepEnd, Job: 1})
	assert.NotEmpty(t, shown(), "the line is cleared")
	b.clear()
	assert.Empty(t, shown(), "once")

	visible = false
	b.observe(moved(2, "copy a0 to a1", 1<<30, 4<<30))
	assert.Empty(t, shown())
	visible = true
	b.observe(moved(2, "copy a0 to a1", 0, 0))
	assert.Empty(t, shown(), "of unknown length")
	b.observe(moved(2, "copy a0 to a1", 1<<30, 2<<30))
	assert.Contains(t, shown(), "1.0/2.0 GiB")
	b.observe(moved(2, "copy a0 to a1", 2<<30, 2<<30))
	shown()
	b.observe(moved(2, "copy a0 to a1", 2<<30, 3<<30))
	assert.Contains(t, shown(), "2.0/3.0 GiB", "another round")
	b.observe(moved(2, "a step with a name that is far too long", 2<<30, 3<<30))
	assert.Contains(t, shown(), "a step with a name that i…  2.0/3.0")
	b.clear()

	var none *bars
	none.observe(moved(1, "x", 1, 2))
	none.clear()
}

func TestScaled(t *testing.T) {
	for in, want := range map[float64]string{0: "B", 999: "B", 1000: "KiB", 1 << 20: "MiB", 1000 << 20: "GiB", 1 << 62: "EiB"} {
		n, unit := scaled(in)
		assert.Equal(t, want, unit, in)
		assert.Less(t, n, 1000.0)
	}
}
