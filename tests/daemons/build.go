package daemons

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build gives the path of a walbsh for tests: the one that $WALBSH names, else
// one made in dir with the race detector if the test has it, and with counters
// of coverage if $GOCOVERDIR asks for them.
func Build(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv("WALBSH"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(dir, "walbsh")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover", "-coverpkg", "walbsh/...")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, "walbsh/cmd/walbsh")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
}
