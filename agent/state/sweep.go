package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sweep removes what writers that died have left under names of their own: beginnings of files, of keys too. For the
// directory's owner only.
func (d Dir) sweep() error {
	for _, pattern := range []string{"." + identityFile + "*.*", "." + viewFile + "*.*", "." + attachmentsFile + "*.*", "." + joiningFile + ".*",
		"." + logKeyFile + ".*", ".wireguard*.*", ".key-*"} {
		left, err := filepath.Glob(d.Path(pattern))
		if err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("data directory: remove what a write has left: %w", err)
			}
		}
	}
	return nil
}
