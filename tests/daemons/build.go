package daemons

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build puts a walbsh for tests into dir, and gives its path, DIR/walbsh: the
// one that $WALBSH names, else one made with the race detector if the test has
// it, and with counters of coverage if $GOCOVERDIR asks for them.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "walbsh")
	if given := os.Getenv("WALBSH"); given != "" {
		given, err := filepath.Abs(given)
		if err != nil {
			return "", err
		}
		return path, os.Symlink(given, path)
	}
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
