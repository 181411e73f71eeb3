package fsm

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The lines of testdata/recorded_refusals.txt were sent by the original's
// servers: the server, a blank, and the first line of the text. Each is provoked
// here at a machine in the same situation.
func TestRecordedRefusals(t *testing.T) {
	data, err := os.ReadFile("testdata/recorded_refusals.txt")
	require.NoError(t, err)
	count := 0
	for line := range strings.Lines(string(data)) {
		count++
		server, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		switch server {
		case "storage":
			provoke(t, NewStorage, ParseStorageState, StorageTable(), text)
		case "proxy":
			provoke(t, NewProxy, ParseProxyState, ProxyTable(), text)
		case "archive":
			provoke(t, NewArchive, ParseArchiveState, ArchiveTable(), text)
		default:
			assert.Fail(t, "unknown server", line)
		}
	}
	assert.Equal(t, 71, count)
}

func provoke[S State](
	t *testing.T,
	newMachine func(S, func(from, to S)) *Machine[S],
	parse func(string) (S, error),
	table []Move[S],
	text string,
) {
	t.Helper()
	state := func(name string) S {
		s, err := parse(name)
		require.NoError(t, err, text)
		return s
	}
	f := strings.Split(text, ":")
	n := len(f)
	var err error
	switch {
	case strings.Contains(text, ":StateMachineTransaction:"):
		m := machineIn(t, newMachine, table, state(f[n-3]))
		via := state(f[n-1])
		_, err = m.Begin(f[0], state(f[n-2]), via, endOf(table, via))
	case strings.Contains(text, ":verifyStopState:"):
		m := newMachine(table[0].From, nil)
		stop, convErr := strconv.Atoi(f[3])
		require.NoError(t, convErr)
		_, ok := m.BeginStop(StopState(stop))
		require.True(t, ok)
		err = m.VerifyStop(f[0], f[2], NotStopping)
	case strings.Contains(text, ":there are running action:"):
		m := newMachine(table[0].From, nil)
		end, startErr := m.StartAction(f[0], Action(f[2]))
		require.NoError(t, startErr)
		defer end()
		_, err = m.StartAction(f[0], Merge, ArchiveConflicts(Merge)...)
	default:
		m := machineIn(t, newMachine, table, state(f[n-1]))
		err = m.VerifyState(strings.Join(f[:n-2], ":"))
	}
	assert.EqualError(t, err, text)
	var refusal *Error
	assert.ErrorAs(t, err, &refusal)
}

// endOf gives a state to which a move through via leads.
func endOf[S State](table []Move[S], via S) S {
	for _, move := range table {
		if move.Via == via {
			return move.To
		}
	}
	return via
}

// machineIn makes a machine in any state, steady or temporary.
func machineIn[S State](t *testing.T, newMachine func(S, func(from, to S)) *Machine[S], table []Move[S], s S) *Machine[S] {
	t.Helper()
	if s.Steady() {
		return newMachine(s, nil)
	}
	for _, move := range table {
		if move.Via == s {
			m := newMachine(move.From, nil)
			_, err := m.Begin("", move.From, move.Via, move.To)
			require.NoError(t, err)
			return m
		}
	}
	require.Fail(t, "no move leads there", s)
	return nil
}
