package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const storageMoves = `
Clear InitVol SyncReady
SyncReady ClearVol Clear
SyncReady StartStandby Standby
Standby StopStandby SyncReady
SyncReady FullSync Stopped
SyncReady HashSync Stopped
Stopped Reset SyncReady
Stopped StartTarget Target
Target StopTarget Stopped
`

const proxyMoves = `
Clear AddArchiveInfo Stopped
Stopped AddArchiveInfo Stopped
Stopped DeleteArchiveInfo Stopped
Stopped DeleteArchiveInfo Clear
Stopped ClearVol Clear
Stopped Start Started
Started Stop Stopped
Started WaitForEmpty Stopped
Started WlogRecv Started
`

const archiveMoves = `
Clear InitVol SyncReady
SyncReady ClearVol Clear
Stopped ClearVol Clear
SyncReady ResetVol SyncReady
Stopped ResetVol SyncReady
SyncReady FullSync Archived
SyncReady Resync Archived
Archived HashSync Archived
Archived WdiffRecv Archived
Archived ReplSyncAsServer Archived
Archived Stop Stopped
Stopped Start Archived
`

func TestTables(t *testing.T) {
	t.Run("storage", func(t *testing.T) {
		testTable(t, storageMoves, "Clear SyncReady Stopped Target Standby", StorageTable(), NewStorage, ParseStorageState)
	})
	t.Run("proxy", func(t *testing.T) {
		testTable(t, proxyMoves, "Clear Stopped Started", ProxyTable(), NewProxy, ParseProxyState)
	})
	t.Run("archive", func(t *testing.T) {
		testTable(t, archiveMoves, "Clear SyncReady Archived Stopped", ArchiveTable(), NewArchive, ParseArchiveState)
	})
}

func testTable[S State](
	t *testing.T, want, steady string, table []Move[S],
	newMachine func(S, func(from, to S)) *Machine[S], parse func(string) (S, error),
) {
	t.Helper()
	var got strings.Builder
	states := map[S]bool{}
	for _, move := range table {
		fmt.Fprintf(&got, "%s %s %s\n", move.From, move.Via, move.To)
		states[move.From], states[move.Via], states[move.To] = true, true, true
	}
	assert.Equal(t, strings.TrimSpace(want), strings.TrimSpace(got.String()))

	steadyNames := strings.Fields(steady)
	for s := range states {
		again, err := parse(s.String())
		require.NoError(t, err)
		assert.Equal(t, s, again)
		assert.Equal(t, s.Steady(), slices.Contains(steadyNames, s.String()), "%s", s)
	}
	for _, name := range []string{"", "clear", "Clear ", "NoSuchState"} {
		_, err := parse(name)
		assert.EqualError(t, err, "bad state:"+name)
	}

	// What the table has can be done, both ways; what it has not is refused.
	for from := range states {
		for via := range states {
			for to := range states {
				move := Move[S]{From: from, Via: via, To: to}
				if !from.Steady() {
					continue
				}
				m := newMachine(from, nil)
				tx, err := m.Begin("h", from, via, to)
				if !slices.Contains(table, move) {
					assert.EqualError(t, err, fmt.Sprintf("h:StateMachineTransaction:bad state:%s:%s:%s", from, from, via))
					assert.Equal(t, from, m.State())
					continue
				}
				require.NoError(t, err)
				assert.Equal(t, via, m.State())
				tx.Rollback()
				assert.Equal(t, from, m.State())
				tx, err = m.Begin("h", from, via, to)
				require.NoError(t, err)
				tx.Commit()
				tx.Rollback()
				assert.Equal(t, to, m.State())
			}
		}
	}
}

func TestUnknownNumbersPrint(t *testing.T) {
	assert.Equal(t, "state(200)", StorageState(200).String())
	assert.Equal(t, "state(200)", ProxyState(200).String())
	assert.Equal(t, "state(200)", ArchiveState(200).String())
	assert.Equal(t, "StopState(3)", (NotStopping | WaitingForEmpty).String())
}

func TestStopStateWords(t *testing.T) {
	for s, word := range map[StopState]string{
		1: "NotStopping", 2: "WAitingForEmpty", 4: "Stopping", 8: "ForceStopping",
	} {
		assert.Equal(t, word, s.String())
	}
}

func TestArchiveConflicts(t *testing.T) {
	for a, want := range map[Action]string{
		Restore:          "[Restore Resize]",
		ReplSyncAsClient: "[Restore ReplSyncAsClient Apply Merge Resize]",
		Apply:            "[Restore ReplSyncAsClient Apply Merge Resize]",
		Merge:            "[Apply Merge Resize]",
		Resize:           "[Restore ReplSyncAsClient Apply Resize]",
		"unknown":        "[]",
	} {
		assert.Equal(t, want, fmt.Sprint(ArchiveConflicts(a)), a)
	}
	assert.Equal(t, "[Archived HashSync WdiffRecv ReplSyncAsServer]", fmt.Sprint(ArchiveActive()))
}
