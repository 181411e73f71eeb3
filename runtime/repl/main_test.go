package repl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"go.uber.org/goleak"

	"walbsh/runtime/vm"
)

// childHistory, if set in the environment, makes the test binary a shell on
// its terminal, with that history file.
const childHistory = "WALBSH_REPL_TEST_HISTORY"

func TestMain(m *testing.M) {
	if history, ok := os.LookupEnv(childHistory); ok {
		os.Exit(shell(history))
	}
	goleak.VerifyTestMain(m)
}

// shell is a program around the loop, as cmd is.
func shell(history string) int {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	ctx := context.Background()
	var lines *Terminal
	v := vm.New(ctx, vm.Options{Stdout: writerFunc(func(p []byte) (int, error) { return lines.Write(p) })})
	var err error
	lines, err = NewTerminal(TerminalOptions{
		In: os.Stdin, Out: os.Stdout, History: history,
		Complete: Completer(v, func(string) []string { return []string{"extraordinary"} }),
	})
	if err != nil {
		fmt.Println(err)
		return 70
	}
	installProbes(v, lines)
	err = Run(ctx, Options{VM: v, Lines: lines, Prompt: "sh> ", Interrupts: interrupts, Leave: func() { os.Exit(130) }})
	if cerr := lines.Close(); cerr != nil {
		fmt.Println(cerr)
		return 70
	}
	fmt.Println("bye")
	if exit, ok := errors.AsType[*vm.ExitError](err); ok {
		return exit.Status
	}
	return 0
}

// installProbes adds functions that behave as long operations do.
func installProbes(v *vm.VM, lines LineReader) {
	L := v.State()
	v.SetGlobal("block", L.NewFunction(vm.Guard("block", func(L *lua.LState) (int, error) {
		fmt.Fprintln(lines, "blocking")
		<-L.Context().Done()
		return 0, errors.New("gave up at step 3")
	})))
	v.SetGlobal("deaf", L.NewFunction(func(*lua.LState) int {
		fmt.Fprintln(lines, "not listening")
		select {}
	}))
	var wg sync.WaitGroup
	v.SetGlobal("notice", L.NewFunction(func(L *lua.LState) int {
		text, when := L.CheckString(1), filepath.Clean(L.CheckString(2))
		wg.Go(func() {
			for {
				if _, err := os.Stat(when); err == nil {
					break
				}
				runtime.Gosched()
			}
			lines.Notice(text)
		})
		return 0
	}))
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
