package session

import (
	"context"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"walbsh/tests/daemons"
	"walbsh/walbcore/simnet"
	"walbsh/walbcore/wire"
)

const (
	ctrlA, ctrlC, ctrlD, ctrlE = "\x01", "\x03", "\x04", "\x05"
	up, left, backspace        = "\x1b[A", "\x1b[D", "\x7f"
)

// TestPrompt types the manual's lines at the prompt of an embedded group.
func TestPrompt(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	data := filepath.Join(home, "group")
	s := openPrompt(t, home, "--data", data, "--size", "8m")

	s.enter("walbc.layout()")
	s.expect(`\+->\| a0 \|    \| a1 \|`)
	s.expect(prompt)
	s.enter("walbc.replicate_once(a0, vol, a1, timeoutS)")
	s.line(`1\tgid 1 in [0-9.]+m?s, .* sent in \d+ \w+, 1 snapshot restorable`)
	s.expect(prompt)
	s.enter("isSynchronizing = walbc.is_synchronizing(ax, vol)")
	s.expect(prompt)
	s.enter("isSynchronizing")
	s.line(`false`)
	s.expect(prompt)
	s.enter("walbc.synchronize(a0, vol, a1, timeoutS)")
	s.line(`synchronizing, proxies stood still for [0-9.]+m?s; copy: gid \d+ .*`)
	s.expect(prompt)
	s.keys(up + up + up + "\r") // the question again
	s.expect(prompt)
	s.enter("isSynchronizing, isSynchronizing == True")
	s.line(`true\ttrue`)
	s.expect(prompt)
	s.enter("walbc.layout()")
	s.expect(`\|  \| p0 \|------\+`)
	s.expect(prompt)

	// Line editing: a slip in the middle and one at the begin.
	s.keys("albc.is_synchronizing(s0, vol)" + left + left + left + left + left + left + left + backspace + "a" + ctrlA + "w" + ctrlE + "\r")
	s.line(`true`)
	s.expect(prompt)
	// Completion, of a verb and in its place.
	s.keys("walbc.stop_s\t(a1, vol)\r")
	s.line(`"no longer synchronizing, removed from p0"`)
	s.expect(prompt)
	// A statement of several lines.
	s.keys("for _, ax in ipairs {a0, a1} do\r")
	s.expect(">> ")
	s.keys("print('follows: ' .. tostring(walbc.is_synchronizing(ax, vol)))\r")
	s.expect(">> ")
	s.keys("end\r")
	s.line(`follows: true\r\nfollows: false`)
	s.expect(prompt)

	// What operators get wrong is told in one line with what to do.
	s.enter("walbc.replicate_once(a0)")
	s.line(`error: walbc.replicate_once: argument 2 \(vol\) is missing \(hint: [^\r\n]*\)`)
	s.expect(prompt)
	s.enter(`walbc.replicate_once(a0, "nosuch", a1)`)
	s.line(`error: [^\r\n]*nosuch[^\r\n]*a0 does not know this volume \(hint: [^\r\n]*vol\)`)
	s.expect(prompt)
	s.enter("walbc.replicate_once(s0, vol, a1)")
	s.line(`error: [^\r\n]*argument 1 \(aSrc\) wants an archive server, got the storage s0[^\r\n]*`)
	s.expect(prompt)
	s.keys("half a line" + ctrlC)
	s.expect(prompt)
	s.keys(ctrlD)
	assert.Zero(t, s.leave())

	// The next session has the history and the group.
	s = openPrompt(t, home, "--data", data)
	s.keys(up + up + up + up + "\r") // past the three mistakes
	s.expect(prompt)
	s.enter("walbc.get_restorable_gid(a1, vol)[1]")
	s.line(`1`)
	s.expect(prompt)
	s.enter("exit")
	assert.Zero(t, s.leave())
}

// copyBegun waits until a good part of a copy went through a relay.
func copyBegun(t *testing.T, relay *simnet.Relay) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, relay.Await(ctx, func(records []simnet.Record) bool {
		return slices.ContainsFunc(records, func(r simnet.Record) bool {
			return r.Protocol == wire.ProtoReplSync && r.Bytes[simnet.ToServer] > 256<<10
		})
	}))
}

// slow lets copies take a minute.
var slow = simnet.Rule{Protocol: wire.ProtoReplSync, Rate: 512 << 10}

// TestCtrlCInReplicateOnce: the prompt is back while the copy goes on, the
// group is healthy, and the next call joins the copy.
func TestCtrlCInReplicateOnce(t *testing.T) {
	t.Parallel()
	g, relay := startBehindRelay(t, "a1")
	s := openPrompt(t, t.TempDir(), "-c", g.LayoutFile())
	s.enter("group.fill(0, '32m') gid = walbc.snapshot(s0, vol, {a0})")
	s.expect(prompt)
	relay.SetRules(slow)
	s.enter("walbc.replicate_once(a0, vol, a1, timeoutS)")
	copyBegun(t, relay)
	s.expect(`copy a0 to a1 .* MiB`) // the progress
	s.keys(ctrlC)
	s.expect(`interrupted[^\r\n]*\r\n`)
	s.expect(prompt)

	// The group is healthy: the volume is written, and comes to a0.
	s.enter("walbc.is_synchronizing(a0, vol), walbc.is_synchronizing(a1, vol), walbc.get_state(p0, vol)")
	s.line(`true\tfalse\t"Started"`)
	s.expect(prompt)
	s.enter("group.write(0, 'meanwhile') gid = walbc.snapshot(s0, vol, {a0}) group.compare(a0, gid)")
	s.expect(prompt)
	s.enter("group.compare(a0, gid)")
	s.line(`true`)
	s.expect(prompt)

	// The copy goes on, and the next call joins it.
	s.enter("copied, copy = walbc.replicate_once(a0, vol, a1, timeoutS)")
	s.expect(`copy a0 to a1 .* MiB`)
	relay.SetRules()
	s.expect(prompt)
	s.enter("copied >= gid, copy.joined, group.compare(a1, copied)")
	s.line(`true\ttrue\ttrue`)
	s.expect(prompt)
	s.keys(ctrlD)
	assert.Zero(t, s.leave())
}

// TestCtrlCInSynchronize: the proxies run again, a1 is not registered, and the
// prompt says so.
func TestCtrlCInSynchronize(t *testing.T) {
	t.Parallel()
	g, relay := startBehindRelay(t, "a1")
	s := openPrompt(t, t.TempDir(), "-c", g.LayoutFile())
	s.enter("group.fill(0, '32m') gid = walbc.snapshot(s0, vol, {a0})")
	s.expect(prompt)
	relay.SetRules(slow)
	s.enter("walbc.synchronize(a0, vol, a1, timeoutS)")
	copyBegun(t, relay)
	s.keys(ctrlC)
	s.expect(`interrupted: synchronize at \S+ volume vol: step \d of \d \(copy a0 to a1\)[^\r\n]*\r\n`)
	s.expect(prompt)
	s.enter("walbc.is_synchronizing(a0, vol), walbc.is_synchronizing(a1, vol), walbc.get_state(p0, vol)")
	s.line(`true\tfalse\t"Started"`)
	s.expect(prompt)

	// Once more, with nothing in the way.
	relay.SetRules()
	s.enter("walbc.synchronize(a0, vol, a1, timeoutS).already")
	s.line(`false`)
	s.expect(prompt)
	s.enter("group.write(0, 'behind') gid = walbc.snapshot(s0, vol, {a0, a1})")
	s.expect(prompt)
	s.enter("group.compare(a1, gid)")
	s.line(`true`)
	s.expect(prompt)
	s.keys(ctrlD)
	assert.Zero(t, s.leave())
}

// TestProxyHangsAtCtrlC: what cannot be brought back yet does not hold the
// prompt, which tells later how it ended.
func TestProxyHangsAtCtrlC(t *testing.T) {
	t.Parallel()
	g, s := interruptedWithHungProxy(t)
	require.NoError(t, g.Continue("p0"))
	s.expect(`job \d+ \(synchronize vol\) ended: [^\r\n]*brought back: [^\r\n]*bring p0 back to Started with a0\)\r\n`)
	s.expect(prompt)
	s.enter("walbc.is_synchronizing(a0, vol), walbc.is_synchronizing(a1, vol), walbc.get_state(p0, vol)")
	s.line(`true\tfalse\t"Started"`)
	s.expect(prompt)
	s.keys(ctrlD)
	assert.Zero(t, s.leave())
}

// TestSecondCtrlC: leaving waits for what is being brought back, until the next
// Ctrl-C, which tells what is left to do.
func TestSecondCtrlC(t *testing.T) {
	t.Parallel()
	g, s := interruptedWithHungProxy(t)
	s.keys(ctrlD)
	s.expect(`job \d+ \(synchronize vol\) is bringing back what it changed; Ctrl-C cuts it short\r\n`)
	s.keys(ctrlC)
	s.expect(`job \d+ \(synchronize vol\) ended: [^\r\n]*NOT brought back[^\r\n]*when p0 answers again: ` +
		`del_archive_from_proxy\(p0, "vol", a1\), start\(p0, "vol"\)`)
	assert.Equal(t, 130, s.leave())
	require.NoError(t, g.Continue("p0"))
}

// interruptedWithHungProxy gives a prompt that is back from Ctrl-C in
// synchronize while p0 hangs.
func interruptedWithHungProxy(t *testing.T) (*daemons.Group, *screen) {
	t.Helper()
	g, relay := startBehindRelay(t, "a1")
	s := openPrompt(t, t.TempDir(), "-c", g.LayoutFile())
	s.enter("group.fill(0, '32m') gid = walbc.snapshot(s0, vol, {a0})")
	s.expect(prompt)
	relay.SetRules(slow)
	s.enter("walbc.synchronize(a0, vol, a1, timeoutS)")
	copyBegun(t, relay)
	require.NoError(t, g.Pause("p0"))
	s.keys(ctrlC)
	s.expect(`interrupted: synchronize[^\r\n]*\r\n`)
	s.expect(prompt)
	return g, s
}
