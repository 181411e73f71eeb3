package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
)

// measureStart measures from the start of the process to the first line of a
// script, with a whole embedded group and its first full backup in between.
func measureStart(ctx context.Context, o options, out io.Writer) error {
	var samples []float64
	for range o.rounds {
		cmd := exec.CommandContext(ctx, o.walbsh, "-e", `print("ready")`)
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		seconds, err := timed(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err == nil && line != "ready\n" {
				return fmt.Errorf("walbsh said %q", line)
			}
			return err
		})
		if err := errors.Join(err, cmd.Wait()); err != nil {
			return fmt.Errorf("start of %s: %w", o.walbsh, err)
		}
		samples = append(samples, seconds*1000)
	}
	row(out, "start to prompt, embedded group backed up", "500 ms", "%.0f ms", samples)
	return nil
}
