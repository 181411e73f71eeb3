package main

import (
	"context"
	"os"
	"sync"
	"syscall"
)

// interrupts turns signals into ends of work, the harder the more come:
//
//	1st   the work ends; what it changed is brought back
//	2nd   bringing back is cut short
//	3rd   the process ends at once
//
// While a prompt has them, interrupts from the keyboard go to it and count
// for nothing here.
type interrupts struct {
	keyboard chan os.Signal // for the prompt

	mu     sync.Mutex
	level  int
	prompt bool
	steps  []func(cause error)
	done   chan struct{}
	stop   func()
	ended  chan struct{}
}

// catchSignals begins. work ends with the first signal, patience with the
// second; their cause is a [*signalError].
func catchSignals(ctx context.Context, e env, exit func(status int)) (i *interrupts, work, patience context.Context) {
	work, endWork := context.WithCancelCause(ctx)
	patience, endPatience := context.WithCancelCause(context.WithoutCancel(ctx))
	delivered, stop := e.notify(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	i = &interrupts{
		keyboard: make(chan os.Signal, 1),
		steps:    []func(error){endWork, endPatience},
		done:     make(chan struct{}), stop: stop, ended: make(chan struct{}),
	}
	go func() {
		defer close(i.ended)
		for {
			select {
			case sig := <-delivered:
				i.take(sig, exit)
			case <-i.done:
				endWork(context.Canceled)
				endPatience(context.Canceled)
				return
			}
		}
	}()
	return i, work, patience
}

func (i *interrupts) take(sig os.Signal, exit func(status int)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.prompt && sig == os.Interrupt {
		select {
		case i.keyboard <- sig:
		default: // it has one already
		}
		return
	}
	cause := &signalError{sig}
	if i.level == len(i.steps) {
		exit(cause.status())
		return
	}
	i.steps[i.level](cause)
	i.level++
}

// givePrompt sends keyboard interrupts to the prompt from now on.
func (i *interrupts) givePrompt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.prompt = true
}

// closing says that the work has ended and is being tidied up: the next signal
// counts as the second.
func (i *interrupts) closing() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.prompt = false
	i.level = max(i.level, 1)
}

// end catches no more signals.
func (i *interrupts) end() {
	i.stop()
	close(i.done)
	<-i.ended
}
