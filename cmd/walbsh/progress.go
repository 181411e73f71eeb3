package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"walbsh/walbcore/plan"
)

// barAfter is how long a step runs before its progress is shown: short ones
// would only flicker.
const barAfter = 300 * time.Millisecond

// bars shows the progress of a step that moves data as one line on a terminal:
// bytes, rate, time left. It may be used from many goroutines. A nil *bars
// shows nothing.
type bars struct {
	out     io.Writer
	visible func() bool // whether the terminal's line is free for a bar

	mu   sync.Mutex
	bar  *progressbar.ProgressBar // nil while nothing is shown
	job  uint64
	step string
}

// observe takes the events of jobs.
func (b *bars) observe(e plan.Event) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Kind != plan.StepBytes {
		if b.bar != nil && e.Job == b.job {
			b.hide()
		}
		return
	}
	total := e.Bytes.Total
	if total <= 0 || e.Bytes.Done >= total {
		b.hide() // another part of the work may follow
		return
	}
	if e.Elapsed < barAfter || !b.visible() {
		return
	}
	text := describeBytes(e.Step, e.Bytes)
	if b.bar == nil || e.Job != b.job || e.Step != b.step {
		b.hide()
		b.job, b.step = e.Job, e.Step
		b.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(b.out), progressbar.OptionSetDescription(text), progressbar.OptionSetWidth(10), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish(),
		)
	}
	if total != b.bar.GetMax64() {
		b.bar.ChangeMax64(total)
	}
	_ = b.bar.Set64(e.Bytes.Done) // a bar that cannot be drawn is no loss
	b.bar.Describe(text)
}

// describeBytes is "copy a0 to a1  365.0/512.0 MiB, 1.5 GiB/s, 3s left", short
// enough for 80 columns with its bar.
func describeBytes(step string, n plan.Bytes) string {
	const maxStep = 26 // characters
	if r := []rune(step); len(r) > maxStep {
		step = string(r[:maxStep-1]) + "…"
	}
	total, unit := scaled(float64(n.Total))
	text := fmt.Sprintf("%s  %.1f/%.1f %s", step, float64(n.Done)/float64(n.Total)*total, total, unit)
	if n.Rate > 0 {
		rate, unit := scaled(n.Rate)
		text += fmt.Sprintf(", %.1f %s/s", rate, unit)
	}
	if left := n.Left().Round(time.Second); left > 0 {
		text += fmt.Sprintf(", %s left", left)
	}
	return text
}

// scaled gives n bytes in a unit that leaves less than four digits.
func scaled(n float64) (float64, string) {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for n >= 1000 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return n, units[i]
}

// clear takes the bar off the terminal, before something else is printed there.
func (b *bars) clear() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hide()
}

// hide is clear with b.mu held.
func (b *bars) hide() {
	if b.bar != nil {
		_ = b.bar.Clear()
		b.bar = nil
	}
}
