package tunnel

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestMissingDirectory: the socket's directory is not made, at any depth.
func TestMissingDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, missing := range []string{"a", "a/b/c"} {
		s, err := listenControl(filepath.Join(dir, missing, "tunnel.sock"))
		if err == nil {
			s.remove()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("in %s: %v", missing, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := listenControl(filepath.Join(file, "tunnel.sock")); err == nil {
		s.remove()
		t.Error("a file was taken for a directory")
	}
	s, err := listenControl(filepath.Join(dir, "tunnel.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s.remove()
}
